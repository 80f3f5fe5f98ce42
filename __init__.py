"""VideoMAE and VideoMAE V2 for transformers.

Names load on first use, so `import videomae` costs neither torch nor transformers, and changes nothing in either.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; `_MODULE_OF` says the same to the interpreter
    from videomae.attentive_probe_videomae import AttentiveProbeConfig, VideoMAEForAttentiveProbe
    from videomae.auto_videomae import register_auto_classes
    from videomae.configuration_videomae import VideoMAEConfig
    from videomae.image_processing_videomae import VideoMAEFeatureExtractor, VideoMAEImageProcessor
    from videomae.modeling_videomae import (
        VideoMAEForPreTraining,
        VideoMAEForVideoClassification,
        VideoMAEModel,
        VideoMAEPreTrainedModel,
    )
    from videomae.modeling_videomae_detection import VideoMAEForActionDetection
    from videomae.pipeline_videomae import VideoClassificationPipeline
    from videomae.pipeline_videomae_detection import VideoActionDetectionPipeline
    from videomae.token_reduction_videomae import ReducedVideoMAEConfig, ReducedVideoMAEForVideoClassification
    from videomae.video_processing_videomae import VideoMAEVideoProcessor

__version__ = "0.1.0"

_MODULE_OF = {
    "VideoMAEConfig": "configuration_videomae",
    "VideoMAEModel": "modeling_videomae",
    "VideoMAEPreTrainedModel": "modeling_videomae",
    "VideoMAEForPreTraining": "modeling_videomae",
    "VideoMAEForVideoClassification": "modeling_videomae",
    "VideoMAEForActionDetection": "modeling_videomae_detection",
    "AttentiveProbeConfig": "attentive_probe_videomae",
    "VideoMAEForAttentiveProbe": "attentive_probe_videomae",
    "ReducedVideoMAEConfig": "token_reduction_videomae",
    "ReducedVideoMAEForVideoClassification": "token_reduction_videomae",
    "VideoMAEImageProcessor": "image_processing_videomae",
    "VideoMAEFeatureExtractor": "image_processing_videomae",
    "VideoMAEVideoProcessor": "video_processing_videomae",
    "VideoClassificationPipeline": "pipeline_videomae",
    "VideoActionDetectionPipeline": "pipeline_videomae_detection",
    "register_auto_classes": "auto_videomae",
}

__all__ = [
    "AttentiveProbeConfig",
    "ReducedVideoMAEConfig",
    "ReducedVideoMAEForVideoClassification",
    "VideoActionDetectionPipeline",
    "VideoClassificationPipeline",
    "VideoMAEConfig",
    "VideoMAEFeatureExtractor",
    "VideoMAEForActionDetection",
    "VideoMAEForAttentiveProbe",
    "VideoMAEForPreTraining",
    "VideoMAEForVideoClassification",
    "VideoMAEImageProcessor",
    "VideoMAEModel",
    "VideoMAEPreTrainedModel",
    "VideoMAEVideoProcessor",
    "__version__",
    "register_auto_classes",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'videomae' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"videomae.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
