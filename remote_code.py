"""How a model folder carries its own code, so that `trust_remote_code=True` loads our classes without this package.

The modules that travel are the flat ones at the root; they import each other relatively, and beyond that what comes with
transformers. Nothing is registered globally: the maps are written into the folder's JSON files.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videomae.files import write_atomic, write_json

ROOT = Path(__file__).parent
CONFIG_CLASS = "configuration_videomae.VideoMAEConfig"
# By architecture: where the auto classes of transformers find what they promise.
MODEL_MAPS = {
    "VideoMAEForPreTraining": {
        "AutoModel": "modeling_videomae.VideoMAEModel",
        "AutoModelForPreTraining": "modeling_videomae.VideoMAEForPreTraining",
    },
    "VideoMAEForVideoClassification": {
        "AutoModel": "modeling_videomae.VideoMAEModel",
        "AutoModelForVideoClassification": "modeling_videomae.VideoMAEForVideoClassification",
    },
    "VideoMAEModel": {"AutoModel": "modeling_videomae.VideoMAEModel"},
    "ReducedVideoMAEForVideoClassification": {
        "AutoConfig": "token_reduction_videomae.ReducedVideoMAEConfig",
        "AutoModel": "modeling_videomae.VideoMAEModel",
        "AutoModelForVideoClassification": "token_reduction_videomae.ReducedVideoMAEForVideoClassification",
    },
    "VideoMAEForAttentiveProbe": {
        "AutoConfig": "attentive_probe_videomae.AttentiveProbeConfig",
        "AutoModel": "modeling_videomae.VideoMAEModel",
        "AutoModelForVideoClassification": "attentive_probe_videomae.VideoMAEForAttentiveProbe",
    },
    # transformers has no auto class for action detection
    "VideoMAEForActionDetection": {"AutoModel": "modeling_videomae_detection.VideoMAEForActionDetection"},
}
PROCESSOR_MAPS = {
    "preprocessor_config.json": {"AutoImageProcessor": "image_processing_videomae.VideoMAEImageProcessor"},
    "video_preprocessor_config.json": {"AutoVideoProcessor": "video_processing_videomae.VideoMAEVideoProcessor"},
}


def auto_map(file_name: str, content: Mapping[str, Any]) -> dict[str, str]:
    """What the JSON file of that name and content must say for its classes to be found."""
    if file_name in PROCESSOR_MAPS:
        return PROCESSOR_MAPS[file_name]
    (architecture,) = content["architectures"]
    return {"AutoConfig": CONFIG_CLASS, **MODEL_MAPS[architecture]}


def code_files(references: Mapping[str, str]) -> dict[str, Path]:
    """The modules that an auto map names and everything that they import from beside them."""
    from transformers.dynamic_module_utils import get_relative_import_files

    files = {}
    for reference in references.values():
        module = ROOT / f"{reference.split('.')[0]}.py"
        for path in (module, *map(Path, get_relative_import_files(module))):
            files[path.name] = path
    return files


def add_code(folder: str | os.PathLike) -> None:
    """Put the code of its classes into a model folder and say so in its JSON files."""
    folder = Path(folder)
    for name in ("config.json", *PROCESSOR_MAPS):
        path = folder / name
        if not path.is_file():
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        references = auto_map(name, content)
        for file_name, source in code_files(references).items():
            write_atomic(folder / file_name, source.read_bytes())
        write_json(path, {**content, "auto_map": references})
