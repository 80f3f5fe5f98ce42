"""What `videomae doctor [FOLDER|LIST ...]` checks beside the installation: which targets are models, and the data.

Without arguments only the installation is checked. A folder with a model, a run folder (its newest checkpoint) or a Hub
name is checked and run once; anything else is data, for which `videomae check-data` has more options. With both, the
data's class names are compared with the model's.

Exit codes: 0 nothing is wrong; 1 problems were found; 2 what was named cannot be opened at all.
"""

from pathlib import Path
from typing import Any

from videomae.data.check import check
from videomae.data.lists.layouts import open_manifest, open_videos
from videomae.data.lists.manifests import Manifest
from videomae.inspection.model_folder import Findings
from videomae.models import WEIGHTS, check_name, open_config
from videomae.sampling_videomae import ClipSampling
from videomae.training.checkpoints import checkpoints

WEIGHT_FILES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")


# --------------------------------------------------------------------------------------------------------- data


def look_at_data(
    target: str, *, root: str | None, model: str | None, probe: int | None
) -> tuple[dict[str, Any], Findings]:
    """`check-data` on a list or folder; against a model's class names where one was looked at too."""
    findings = Findings(target)
    config = open_config(model, "", weights=False) if model else None
    classifier = config is not None and (config.architectures or [""])[0].endswith("ForVideoClassification")
    manifest = open_data(target, root)
    report = check(
        manifest,
        id2label=config.id2label if classifier else None,
        num_labels=config.num_labels if classifier else None,
        probe=probe,
        sampling=ClipSampling(num_frames=config.num_frames) if config else None,
        speed_samples=5,  # a first idea; check-data takes more
        progress=False,
    )
    for text in report["problems"]:
        findings.problem(text)
    for text in report["notes"]:
        findings.note(text)
    return report, findings


def open_data(target: str, root: str | None) -> Manifest:
    """Data as trainers read it; a folder that is no training set still is a folder of videos."""
    try:
        return open_manifest(target, root=root)
    except ValueError:
        return open_videos(target, root=root)


# --------------------------------------------------------------------------------------------------- the targets


def is_model(path: Path) -> bool:
    return path.is_dir() and any((path / name).is_file() for name in ("config.json", *WEIGHTS))


def model_folder(target: str) -> tuple[Path | None, str]:
    """The model folder that a target means, or None for data; and a remark on the choice."""
    path = Path(target)
    if is_model(path):
        return path, ""
    if path.is_dir():
        if saved := [folder for folder in checkpoints(path) if is_model(folder)]:
            return saved[-1], f"{target} is a run; looking at its newest checkpoint, {saved[-1].name}"
        return None, ""
    if path.is_file():
        if path.suffix.lower() in WEIGHT_FILES:
            raise ValueError(
                f"{target} is a weight file; `videomae convert {target} FOLDER` makes a model folder of it"
            )
        return None, ""
    if path.suffix or path.is_absolute() or target.count("/") != 1:
        raise FileNotFoundError(f"{target}: there is no such file or folder")
    check_name(target, "")
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(target, allow_patterns=["*.json", "*.safetensors", "*.bin"])
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise OSError(f"{target}: there is no such folder, and the Hub did not give it ({reason})") from None
    return Path(folder), f"{target} was fetched from the Hub"
