"""VideoMAE and VideoMAE V2 for transformers.

Names load on first use, so `import videomae` costs neither torch nor transformers, and changes nothing in either.
"""

import importlib

__version__ = "0.1.0"

_MODULE_OF = {
    "VideoMAEConfig": "configuration_videomae",
    "VideoMAEModel": "modeling_videomae",
    "VideoMAEPreTrainedModel": "modeling_videomae",
    "VideoMAEForPreTraining": "modeling_videomae",
    "VideoMAEForVideoClassification": "modeling_videomae",
    "VideoMAEForActionDetection": "modeling_videomae_detection",
    "ReducedVideoMAEConfig": "token_reduction_videomae",
    "ReducedVideoMAEForVideoClassification": "token_reduction_videomae",
    "VideoMAEImageProcessor": "image_processing_videomae",
    "VideoMAEFeatureExtractor": "image_processing_videomae",
    "VideoMAEVideoProcessor": "video_processing_videomae",
    "VideoClassificationPipeline": "pipeline_videomae",
    "VideoActionDetectionPipeline": "pipeline_videomae_detection",
    "register_auto_classes": "auto_videomae",
}

__all__ = [*_MODULE_OF, "__version__"]


def __getattr__(name):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'videomae' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"videomae.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *_MODULE_OF])
