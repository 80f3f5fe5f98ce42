"""Make transformers' Auto classes, `pipeline("video-classification")` and a new `pipeline("video-action-detection")` use
this package for VideoMAE.

Nothing changes in transformers until `register_auto_classes()` is called, and then only for `model_type: videomae`.
"""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
)
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import is_torchvision_available

from .configuration_videomae import VideoMAEConfig
from .image_processing_videomae import VideoMAEImageProcessor
from .modeling_videomae import VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel
from .modeling_videomae_detection import VideoMAEForActionDetection
from .pipeline_videomae import VideoClassificationPipeline
from .pipeline_videomae_detection import VideoActionDetectionPipeline
from .video_processing_videomae import VideoMAEVideoProcessor


def register_auto_classes() -> None:
    """From now on `Auto*.from_pretrained` and `pipeline(...)` give our classes for VideoMAE; may be called again."""
    AutoConfig.register("videomae", VideoMAEConfig, exist_ok=True)
    for auto, model in (
        (AutoModel, VideoMAEModel),
        (AutoModelForPreTraining, VideoMAEForPreTraining),
        (AutoModelForVideoClassification, VideoMAEForVideoClassification),
    ):
        auto.register(VideoMAEConfig, model, exist_ok=True)
    both = {"pil": VideoMAEImageProcessor, "torchvision": VideoMAEImageProcessor}
    AutoImageProcessor.register(VideoMAEConfig, image_processor_classes=both, exist_ok=True)
    if is_torchvision_available():  # without it AutoVideoProcessor is a placeholder that raises
        AutoVideoProcessor.register(VideoMAEConfig, VideoMAEVideoProcessor, exist_ok=True)
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
