"""Make transformers' Auto classes, `pipeline("video-classification")` and a new `pipeline("video-action-detection")` use
this package for VideoMAE.

Nothing changes in transformers until `register_auto_classes()` is called, and then only for `model_type: videomae`.
"""

import functools
from typing import Any, cast

from transformers import (
    IMAGE_PROCESSOR_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
)
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils.import_utils import DummyObject, is_torchvision_available

from .configuration_videomae import VideoMAEConfig
from .image_processing_videomae import VideoMAEImageProcessor
from .modeling_videomae import VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel
from .modeling_videomae_detection import VideoMAEForActionDetection
from .pipeline_videomae import VideoClassificationPipeline
from .pipeline_videomae_detection import VideoActionDetectionPipeline
from .token_reduction_videomae import ReducedVideoMAEConfig, ReducedVideoMAEForVideoClassification
from .video_processing_videomae import VideoMAEVideoProcessor


def register_auto_classes() -> None:
    """From now on `Auto*.from_pretrained` and `pipeline(...)` give our classes for VideoMAE; may be called again."""
    AutoConfig.register("videomae", _ByArchitecture, exist_ok=True)
    for auto, model in (
        (AutoModel, VideoMAEModel),
        (AutoModelForPreTraining, VideoMAEForPreTraining),
        (AutoModelForVideoClassification, VideoMAEForVideoClassification),
    ):
        auto.register(VideoMAEConfig, model, exist_ok=True)
    # Not AutoModel.register: it refuses an encoder whose own configuration is the plain one.
    cast(Any, MODEL_MAPPING).register(ReducedVideoMAEConfig, VideoMAEModel, exist_ok=True)  # annotated for tokenizers
    AutoModelForVideoClassification.register(
        ReducedVideoMAEConfig, ReducedVideoMAEForVideoClassification, exist_ok=True
    )
    both = {"pil": VideoMAEImageProcessor, "torchvision": VideoMAEImageProcessor}
    # Not AutoImageProcessor.register: it first looks up what it replaces, and that advises to install torchvision.
    for config in (VideoMAEConfig, ReducedVideoMAEConfig):
        cast(Any, IMAGE_PROCESSOR_MAPPING).register(config, both, exist_ok=True)
        AutoVideoProcessor.register(config, VideoMAEVideoProcessor, exist_ok=True)
    if not is_torchvision_available():
        _let_placeholders_find_video_processors()
    # Put in place by hand: PIPELINE_REGISTRY.register_pipeline would make every pipeline saved later write
    # `custom_pipelines` into its config, which transformers refuses to load without trusting remote code. The class
    # runs models of other types as the one of transformers does.
    PIPELINE_REGISTRY.supported_tasks["video-classification"]["impl"] = VideoClassificationPipeline
    PIPELINE_REGISTRY.supported_tasks["video-action-detection"] = {
        "impl": VideoActionDetectionPipeline,
        "pt": (VideoMAEForActionDetection,),
        "default": {},
        "type": "video",
    }


class _ByArchitecture(VideoMAEConfig):
    """What `AutoConfig` opens for `model_type: videomae`: a folder that asks for fewer tokens gets the configuration that
    leads to the class that merges or leaves them out. There are no instances of this class itself."""

    def __new__(cls, *arguments, **fields):
        return VideoMAEConfig(*arguments, **fields)

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        reduced = ReducedVideoMAEForVideoClassification.__name__ in (config_dict.get("architectures") or [])
        return (ReducedVideoMAEConfig if reduced else VideoMAEConfig).from_dict(config_dict, **kwargs)


@functools.cache  # once is enough
def _let_placeholders_find_video_processors() -> None:
    """Pass what is asked of a placeholder for AutoVideoProcessor on to the class itself.

    Without torchvision `transformers.AutoVideoProcessor` is a placeholder that raises at any use, and user code may hold it
    since before this call. The class needs no torchvision: it finds ours, and for every other model it raises
    transformers' error of that model. Placeholders of other names still raise.
    """
    raising = DummyObject.__getattribute__

    def passing_on(cls, key):
        if type.__getattribute__(cls, "__name__") == "AutoVideoProcessor" and key in ("from_pretrained", "register"):
            return getattr(AutoVideoProcessor, key)
        return raising(cls, key)

    DummyObject.__getattribute__ = passing_on
