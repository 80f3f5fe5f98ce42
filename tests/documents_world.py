"""Folders in which the documents' snippets run: what a snippet names is there, tiny; and what is changed about a command.

PLACES says how each name is made, SPECIAL where a document means something else by it. A document gets the names that
stand in its snippets and no others. SHORT is all that is changed about a command, NOT_RUN what is left at parsing.
"""

import csv
import glob
import json
import re
import shutil
import tempfile
from functools import lru_cache, partial
from pathlib import Path

import torch
from documents import blocks
from published_folders import published_tiny, save_tiny
from support import GOLDEN, TINY
from video_files import write_video

import videomae
from videomae import VideoMAEConfig
from videomae.commands.main import main
from videomae.data.ava.synthetic import SyntheticAva, make_synthetic_ava
from videomae.data.synthetic import MOTIONS, SyntheticSet, make_synthetic_set
from videomae.model_cards.cards import HEADS

CLASSES = tuple(sorted(MOTIONS[:4]))  # numbered as sub-folders and lists of names are


# -------------------------------------------------------------------------------------------------------------- models


def model(path, head="classify", labels=CLASSES):
    """A model folder of random weights, with its processor."""
    fields = {"pretrain": {"use_mean_pooling": False}, "features": {"pooled_features": True}, "classify": {}}[head]
    if head == "classify":
        fields = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    torch.manual_seed(0)
    config = VideoMAEConfig(**TINY, layer_norm_eps=1e-6, norm_eps=1e-6, initializer_range=0.2, **fields)
    getattr(videomae, HEADS[head].model_class)(config).save_pretrained(path)
    side = TINY["image_size"]
    videomae.VideoMAEVideoProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    ).save_pretrained(path)


def action_detector(path):
    shape = dict(hidden_size=48, num_hidden_layers=1, num_attention_heads=3, intermediate_size=48, image_size=32)
    config = VideoMAEConfig.preset("small", head="detect", num_labels=5, num_frames=4, detection_short_side=32, **shape)
    videomae.VideoMAEForActionDetection(config).save_pretrained(path)


def person_detector(path):
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

    config = YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[32, 48],
        num_detection_tokens=4, id2label={0: "person", 1: "dog"},
    )  # fmt: skip
    YolosForObjectDetection(config).save_pretrained(path)
    YolosImageProcessor(size={"height": 32, "width": 48}).save_pretrained(path)


def v2_repository(path):
    """As OpenGVLab's repositories on the Hub are laid out; under its own name the real size would be asked for."""
    path = path.parents[1] / "tiny-v2-repository"
    path.mkdir(parents=True)
    shutil.copy(GOLDEN / "videomae_v2_hub.safetensors", path / "model.safetensors")
    shutil.copy(GOLDEN / "videomae_v2_hub.config.json", path / "config.json")


def official_small_file(path):
    """A file with the size and names of V2's distilled small classifier, of random weights."""
    with tempfile.TemporaryDirectory() as folder:
        config = VideoMAEConfig.preset("small", head="classify", num_labels=710)
        videomae.VideoMAEForVideoClassification(config).save_pretrained(folder)
        assert main(["convert", folder, str(path), "--to", "original"]) == 0


def golden_file(path):
    shutil.copy(GOLDEN / "videomae_finetune.pth", path)


# -------------------------------------------------------------------------------------------------------------- videos


@lru_cache
def synthetic():
    folder = tempfile.TemporaryDirectory(prefix="videomae-documents-")
    spec = SyntheticSet(
        clips=16, validation_clips=8, test_clips=8, motions=CLASSES, num_frames=20, height=40, width=48, distractors=0
    )
    return folder, make_synthetic_set(Path(folder.name) / "set", spec)


def rows_of(split):
    with open(synthetic()[1] / f"{split}.csv", newline="") as table:
        return [(synthetic()[1] / row["path"], row["label"]) for row in csv.DictReader(table)]


def video_set(path):
    """train.csv, val.csv and test.csv with videos whose names occur once in the world."""
    (path / "videos").mkdir(parents=True)
    for split in ("train", "validation", "test"):
        name = "val" if split == "validation" else split
        lines = ["path,label"]
        for number, (video, label) in enumerate(rows_of(split)):
            shutil.copy(video, path / "videos" / f"{path.name}-{name}-{number}.mp4")
            lines.append(f"videos/{path.name}-{name}-{number}.mp4,{label}")
        (path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    (path / "validation.csv").write_text((path / "val.csv").read_text())
    (path / "labels.txt").write_text("".join(f"{name}\n" for name in CLASSES))


def video_list(path, split="train", unlabelled=False):
    """A list beside its videos; unlabelled ones in V2's columns, with paths below another root."""
    if unlabelled:
        path.write_text("".join(f"{number}.mp4 0 -1 -1\n" for number in range(8)))
        for root in ("videos", "data"):
            (path.parent / root).mkdir(exist_ok=True)
            for number, (video, _) in zip(range(8), rows_of("train")):
                shutil.copy(video, path.parent / root / f"{number}.mp4")
        return
    path.write_text("path,label\n" + "".join(f"{video},{label}\n" for video, label in rows_of(split)))


def patient_list(path):
    rows = "".join(f"{video},{label},p{n // 2}\n" for n, (video, label) in enumerate(rows_of("train")))
    path.write_text(f"path,label,patient\n{rows}")


def class_folders(path, split="train"):
    for video, label in rows_of(split):
        (path / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(video, path / label / video.name)


def flat_folder(path):
    """Of videos at the size that a model like Kinetics' is fed."""
    path.mkdir(parents=True)
    for name, frames in (("video", 70), ("b", 48), ("c", 66), ("d", 80)):
        write_video(path / f"{name}.mp4", frames, width=64, height=48)


def lines(path, count):
    path.write_text("".join(f"class {number}\n" for number in range(count)))


# ------------------------------------------------------------------------------------------------------------ detection


def ava(path, what):
    """One file of a small set in AVA's formats."""
    ready = ava_set()[1]
    person_images = {}
    if what in ("boxes", "images"):
        with open(ready / "val_persons.csv", newline="") as table:
            rows = list(csv.reader(table))
        keys = sorted({(row[0], row[1]) for row in rows})
        person_images = {key: number for number, key in enumerate(keys)}
    if what == "boxes":
        boxes = []
        for row in rows:
            x1, y1, x2, y2 = (float(value) * side for value, side in zip(row[2:6], (96, 64, 96, 64)))
            box = [x1, y1, x2 - x1, y2 - y1]
            boxes.append(
                {"image_id": person_images[row[0], row[1]], "bbox": box, "score": float(row[-1]), "category_id": 1}
            )
        path.write_text(json.dumps(boxes))
    elif what == "images":
        images = [
            {"id": number, "movie": movie, "timestamp": int(float(second)), "width": 96, "height": 64}
            for (movie, second), number in person_images.items()
        ]
        path.write_text(json.dumps({"images": images}))
    elif what == "excluded":
        path.write_text("")
    elif what == "detections":
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(ready / "val.csv", newline="") as table:
            path.write_text("".join(",".join([*row[:7], "0.9"]) + "\n" for row in csv.reader(table)))
    elif what == "movies":
        shutil.copytree(ready / "movies", path)
    else:
        shutil.copy(ready / what, path)


@lru_cache
def ava_set():
    folder = tempfile.TemporaryDirectory(prefix="videomae-documents-ava-")
    spec = SyntheticAva(movies=3, validation_movies=2, seconds=4)
    return folder, make_synthetic_ava(Path(folder.name) / "set", spec)


# --------------------------------------------------------------------------------------------------------------- places

PLACES = {
    "MCG-NJU/videomae-base-finetuned-kinetics": model,
    "MCG-NJU/videomae-base": partial(model, head="pretrain"),
    "OpenGVLab/VideoMAEv2-Base": v2_repository,
    "PekingU/rtdetr_r18vd": person_detector,
    "videomae-base": partial(model, head="pretrain"),
    "videomae-base-finetuned-kinetics": model,
    "videomaev2-giant-k710": model,
    "FOLDER": model,
    "PRETRAINED": partial(model, head="pretrain"),
    "STUDENT": partial(model, head="pretrain"),
    "TEACHER": model,
    "vit_s_k710_dl_from_giant.pth": official_small_file,
    "checkpoint.pth": golden_file,
    "label_map_k710.txt": partial(lines, count=710),
    "video.mp4": partial(write_video, num_frames=300, width=64, height=48),
    "VIDEO.mp4": partial(write_video, num_frames=70, width=96, height=64),
    "long.mp4": partial(write_video, num_frames=160, width=64, height=48),
    "motion": video_set,
    "k400": video_set,
    "k600": video_set,
    "k700": video_set,
    "k710": video_set,
    "/data/k400": video_set,
    "/data/k600": video_set,
    "/data/k700": video_set,
    "hybrid.csv": partial(video_list, unlabelled=True),
    "train.csv": video_list,
    "test.csv": partial(video_list, split="test"),
    "patients.csv": patient_list,
    "VAL": partial(video_list, split="validation"),
    "LIST": partial(video_list, split="test"),
    "TRAIN": video_list,
    "TEST": partial(video_list, split="test"),
    "videos": class_folders,
    "test_videos": partial(class_folders, split="test"),
    "VIDEOS": class_folders,
    "THUMOS14_VIDEOS": flat_folder,
    "GENERATED": flat_folder,
    "REAL": flat_folder,
    "runs/door/best": model,
    "runs/motion/final": model,
    "runs/motion/test/results.json": lambda path: path.write_text('{"protocol": "8x2x1", "metrics": {"top1": 0.5}}'),
    "probes/ssv2/probe": lambda path: save_tiny(path, "probe"),
    "OUTPUT": lambda path: main(["features", str(path.parent / "FOLDER"), str(path.parent / "VIDEOS"), str(path)]),
    "persons.json": lambda path: path.write_text(json.dumps({"1": [[16, 24, 56, 60]], "2": [[16, 24, 56, 60]]})),
    "ava/movies": partial(ava, what="movies"),
    "ava_train_v2.2.csv": partial(ava, what="train.csv"),
    "ava_val_v2.2.csv": partial(ava, what="val.csv"),
    "ava_train_excluded_timestamps_v2.2.csv": partial(ava, what="excluded"),
    "ava_val_excluded_timestamps_v2.2.csv": partial(ava, what="excluded"),
    "ava_action_list_v2.2.pbtxt": partial(ava, what="actions.pbtxt"),
    "ava_action_list_v2.2_for_activitynet_2019.pbtxt": partial(ava, what="actions.pbtxt"),
    "ava_val_det_person_bbox.json": partial(ava, what="boxes"),
    "ava_val_v2.2.json": partial(ava, what="images"),
    "detections.csv": partial(ava, what="detections"),
    "metrics": lambda path: path.symlink_to(Path(__file__).parents[1] / "metrics"),
    "examples": lambda path: path.symlink_to(Path(__file__).parents[1] / "examples"),
}
SPECIAL = {
    "docs/detection.md": {"FOLDER": action_detector},
    "docs/features.md": {"VIDEOS": flat_folder},
    "docs/publishing.md": {
        "FOLDER": lambda path: published_tiny(path.with_name("source"), "classify", "me/mine").lay_out(path)
    },
}
# What the commands of a document make themselves; for its Python blocks alone it is laid out.
MADE = {
    "docs/quickstart.md": {"runs/door/best"},
    "docs/pretraining.md": {"motion"},
    "docs/tutorial_finetune.md": {"motion", "runs/motion/final", "runs/motion/test/results.json"},
    "docs/finetuning.md": {"k710"},
    "docs/migration.md": {"videomae-base"},
    "docs/features.md": {"OUTPUT"},
    "docs/frozen.md": {"probes/ssv2/probe"},
}


def lay_out(folder: Path, document: str, *, results: bool = True) -> None:
    """Make what the snippets of a document name in `folder`; without `results`, all but what its commands make."""
    text = "\n".join(block.text for block in blocks(document) if block.language in ("bash", "python"))
    places = {**PLACES, **SPECIAL.get(document, {})}
    for name, make in places.items():
        named = re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w-])(?!\.\w)", text)
        if named and (results or name not in MADE.get(document, ())):
            path = folder / name.removeprefix("/")
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                make(path)
    model(folder / "tiny-pretrained", head="pretrain")


# Names that a Python block takes from the text around it.
CACHE_HERE = """
import datasets
datasets.config.HF_DATASETS_CACHE = "cache"
"""
PRELUDE = {
    "docs/data.md": CACHE_HERE,
    "docs/finetuning.md": CACHE_HERE,
    "docs/detection.md": """
import torch
import videomae
shape = dict(hidden_size=48, num_hidden_layers=1, num_attention_heads=3, intermediate_size=48, image_size=32)
pixel_values = torch.zeros(1, 16, 3, 256, 128)
""",
    "docs/evaluation.md": """
from videomae import VideoMAEConfig, VideoMAEForVideoClassification
from documents_world import CLASSES
shape = dict(image_size=224, patch_size=56, hidden_size=48, num_attention_heads=3, num_hidden_layers=1)
model = VideoMAEForVideoClassification(VideoMAEConfig(**shape, num_labels=len(CLASSES), id2label=dict(enumerate(CLASSES))))
probabilities, labels, videos = [[0.6, 0.4], [0.1, 0.9]], [0, 1], ["a", "b"]
""",
    "docs/video_input.md": """
from transformers import pipeline
from videomae import VideoMAEForVideoClassification
model = VideoMAEForVideoClassification.from_pretrained("FOLDER")
""",
}


# --------------------------------------------------------------------------------------------------------------- changes


def _replaced(words, **options):
    """Words with some options set to other values; None takes the option out."""
    words = list(words)
    for name, value in options.items():
        if f"--{name}" in words:
            place = words.index(f"--{name}")
            words[place : place + 2] = [] if value is None else [f"--{name}", value]
    return words


TINY_CLIPS = ["--image_size", "32", "--num_frames", "16", "--num_workers", "0", "--warmup_epochs", "0"]
TINY_STEPS = ["--epochs", "1", "--clips_per_step", "4", "--clips_per_device", "2"]


TINY_PROBE = ["--epochs", "1", "--clips_per_step", "4", "--views", "2x1", "--learning_rates", "1e-3"]
TINY_PROBE += ["--weight_decays", "0.1", "--num_workers", "0", "--val_share", "0.25"]


def _pretrain(words):
    if "--recipe" not in words:  # a resume, with the run's own recipe and options
        return words
    if "tiny" in words:
        return [*words, "--epochs", "1", "--warmup_epochs", "0", "--picture_every", "1", "--num_workers", "0"]
    words = [word.replace("/data", "data") for word in words]
    return [*words, "--model", "tiny-pretrained", "--config", *TINY_CLIPS, *TINY_STEPS, "--max_steps", "1"]


def _finetune(words):
    if words[0] == "...":
        words = [
            "--recipe",
            "small-data",
            "--model",
            "STUDENT",
            "--data",
            "train.csv",
            "--output",
            "runs/more",
            *words[1:],
        ]
    words = _replaced(words, val_share="0.25")
    return [*words, *TINY_CLIPS, *TINY_STEPS, "--probe_epochs", "0", "--num_labels", "none"]


def _train_detection(words):
    small = ["--num_labels", "5", "--num_frames", "4", "--image_size", "32", "--num_workers", "0"]
    small += ["--epochs", "1", "--warmup_epochs", "0", "--clips_per_step", "2", "--clips_per_device", "2"]
    shape = ["patch_size=16", "hidden_size=48", "num_hidden_layers=2", "num_attention_heads=3", "intermediate_size=96"]
    if "tiny" in words:
        return [*words, *small, "--config", *shape]
    sizes = ["--crop_size", "32", "--short_side", "32", "32", "--test_short_side", "32"]
    return [*words, *small, *sizes, "--model", "small", "--config", *shape]


def _convert(words):
    if words[0] == "OpenGVLab/VideoMAEv2-Base":
        return ["tiny-v2-repository", *words[1:]]
    if words[0] != "checkpoint.pth":
        return words
    return [*_replaced(words, name=None, labels=None), "--num_attention_heads", "3", "--overwrite"]


SHORT = {
    "pretrain": _pretrain,
    "finetune": _finetune,
    "train-detection": _train_detection,
    "probe": lambda words: [*words, *TINY_PROBE] if "--protocol" in words else words,
    "fvd": lambda words: [*words, "--min_clips", "2"],  # the world has four videos
    "convert": _convert,  # the release's file is not here: a tiny one, which no entry of the zoo describes
    "merge-labels": lambda words: [
        word.replace("/data", "data") for word in _replaced(words, expect=str(len(CLASSES)))
    ],
    "make-ava": lambda words: _replaced(words, movies="3"),
    "ava-map": lambda words: [
        next(iter(glob.glob(word.replace("test-N", "test-*"))), word) if "test-N" in word else word for word in words
    ],
}
# Full matches of a command line, each with why it is only parsed.
NOT_RUN = {
    r"videomae publish \S+ \S+ --license \S+": "goes to the Hub; tests/test_publish.py uploads to a local stand-in",
    r"videomae app.*": "serves until it is stopped; tests/browser does that",
    r"videomae demo.*": "is tested by itself, tests/test_demo.py",
    r"python( -m)? benchmarks.*": "measures for minutes",
    r"sbatch .*": "needs Slurm; the script's command is that of the trainer",
}
# Check-ups that end with 1 where they find something to say about the world above.
MAY_FIND = {"doctor", "check-data", "check-labels"}
