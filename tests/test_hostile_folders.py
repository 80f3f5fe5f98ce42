"""Untrusted model folders, given to every command that takes one: a single line, nothing run, nothing allocated."""

import json
import resource

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import TINY
from video_files import write_video

from videomae import VideoMAEConfig, VideoMAEForVideoClassification
from videomae.commands.main import main

COMMANDS = {
    "check-data": ("LIST", "--model", "FOLDER"),
    "convert": ("FOLDER", "OUTPUT"),
    "detect": ("VIDEO", "--model", "FOLDER", "--whole_frame", "--output", "OUTPUT"),
    "doctor": ("FOLDER", "--no_forward"),
    "evaluate": ("FOLDER", "LIST", "--device", "cpu", "--output", "OUTPUT"),
    "export": ("FOLDER", "OUTPUT"),
    "features": ("FOLDER", "VIDEO", "OUTPUT", "--device", "cpu"),
    "finetune": (
        "--recipe",
        "tiny",
        "--num_labels",
        "none",
        "--model",
        "FOLDER",
        "--data",
        "LIST",
        "--output",
        "OUTPUT",
    ),
    "pretrain": ("--recipe", "tiny", "--model", "FOLDER", "--data", "LIST", "--output", "OUTPUT"),
    "probe": ("FOLDER", "LIST", "LIST", "--device", "cpu"),
    "publish": ("FOLDER", "owner/name", "--dry_run"),
    "visualize": ("FOLDER", "VIDEO", "--output", "OUTPUT", "--device", "cpu"),
}
CONFIGS = {  # fields of config.json, or the whole of it
    "labels": {"num_labels": 2**31},
    "layers": {"num_hidden_layers": 10**7},
    "frames": {"num_frames": 2**30},
    "patch": {"patch_size": 0},
    "types": {"hidden_size": "wide"},
    "names": {"id2label": {"0": 1, "1": [2]}},
    "dtype": {"dtype": "float7"},
    "kernel": {"_attn_implementation": "owner/kernel"},
    "list": "[1]",
    "deep": "[" * 100_000,
}


class Harm:
    def __reduce__(self):
        return open, ("harm.txt", "w")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    for name in "abc":
        write_video(folder / f"{name}.mp4", 40, width=48, height=32)
    (folder / "list.txt").write_text("a.mp4 0\nb.mp4 1\nc.mp4 2\n")
    VideoMAEForVideoClassification(VideoMAEConfig(**TINY, num_labels=3)).save_pretrained(folder / "model")
    return folder


def weights_of(kind, folder):
    """Put weights of that kind in place of the good ones."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    file.unlink()
    if kind == "shape":
        save_file({**tensors, "classifier.weight": torch.zeros(9, 9)}, file, {"format": "pt"})
    elif kind == "half":
        file.write_bytes(b"\x10" * 2000)
    elif kind == "code":
        torch.save({"weight": Harm()}, folder / "pytorch_model.bin")
    else:
        index = {"metadata": {}, "weight_map": {"classifier.weight": "../../../etc/passwd"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("kind", [*CONFIGS, "shape", "half", "code", "outside"])
def test_a_hostile_model_folder_is_one_line_in_every_command(kind, world, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (world / "model").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    if kind in CONFIGS:
        change = CONFIGS[kind]
        whole = (
            change if isinstance(change, str) else json.dumps(json.loads((folder / "config.json").read_text()) | change)
        )
        (folder / "config.json").write_text(whole)
    else:
        weights_of(kind, folder)
    words = {"FOLDER": str(folder), "LIST": str(world / "list.txt"), "VIDEO": str(world / "a.mp4")}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number, (command, arguments) in enumerate(COMMANDS.items()):
        words["OUTPUT"] = str(tmp_path / f"output-{number}")
        capfd.readouterr()
        code = main([command, *(words.get(word, word) for word in arguments)])
        printed = capfd.readouterr()
        if command == "check-data" and kind not in CONFIGS:
            assert code == 0  # it looks at no weights
        elif command == "doctor":
            assert (code == 1 and "PROBLEM" in printed.out + printed.err) or len(printed.err.splitlines()) == 1
        else:
            assert code == 1, (command, printed)
            assert len(printed.err.splitlines()) == 1, (command, printed.err)
            assert str(folder) in printed.err or command in ("convert", "publish"), (command, printed.err)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500e3  # kilobytes
    assert not (tmp_path / "harm.txt").exists()
