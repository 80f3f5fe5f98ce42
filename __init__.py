"""VideoMAE and VideoMAE V2 for transformers.

Names load on first use, so `import videomae` costs neither torch nor transformers, and changes nothing in either. It looks
whether their versions are among those that it was made for, since others end in an import error far from here.
"""

import importlib
import importlib.metadata
import re
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

# As in pyproject.toml: at least the first, below the second. torch's next major version is not known.
_NEEDED = {"torch": ((2, 10), None), "transformers": ((5, 23), (6,)), "av": ((18, 0), (19,))}


def _check_versions() -> None:
    """Refuse installed packages of other versions in one line; what is missing says so itself where it is imported."""
    wrong, wanted = [], []
    for package, (least, below) in _NEEDED.items():
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
        if numbers < least or (below and numbers >= below):
            bounds = f">={'.'.join(map(str, least))}" + (f",<{'.'.join(map(str, below))}" if below else "")
            wrong.append(f"{package} {version} is installed and {package}{bounds} is needed")
            wanted.append(f"'{package}{bounds}'")
    if wrong:
        raise ImportError(f"videomae: {'; '.join(wrong)}: pip install -U {' '.join(wanted)}")


_check_versions()

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
