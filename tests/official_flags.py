"""The arguments of the official programs, by the section of docs/migration.md in which a user of the program looks."""

import json

from support import GOLDEN

_PRETRAINING = "Pre-training: `run_mae_pretraining.py`"
_FINETUNING = "Fine-tuning and testing: `run_class_finetuning.py`"
# Besides the table of shared flags.
_SECTIONS = {
    "VideoMAE/run_mae_pretraining.py": _PRETRAINING,
    "VideoMAEv2/run_mae_pretraining.py": _PRETRAINING,
    "VideoMAE/run_class_finetuning.py": _FINETUNING,
    "VideoMAEv2/run_class_finetuning.py": _FINETUNING,
    "VideoMAE-Action-Detection/run_class_finetuning.py": (
        "Action detection: `run_class_finetuning.py` of VideoMAE-Action-Detection"
    ),
    "VideoMAE/run_videomae_vis.py": "Visualisation: `run_videomae_vis.py`",
    "VideoMAEv2/extract_tad_feature.py": "Features: `extract_tad_feature.py`",
    "mmaction2/tools/train.py": "MMAction2",
    "mmaction2/tools/test.py": "MMAction2",
    "mmaction2/demo/demo_spatiotemporal_det.py": "MMAction2",
}
_PROGRAMS = json.loads((GOLDEN / "official_flags.json").read_text("utf-8"))["programs"]  # golden/official_tables.py

FLAGS = {tuple(name.split("/", 1)): (_SECTIONS[name], " ".join(flags)) for name, flags in _PROGRAMS.items()}
