"""Folders in which the documents' snippets run: what a snippet names is there, tiny, of random weights and synthetic videos.

PLACES says how each name is made, SPECIAL where a document means something else by it. A document gets the names that
stand in its snippets and no others.
"""

import csv
import json
import re
import shutil
import tempfile
from functools import lru_cache, partial
from pathlib import Path

import torch
from documents import blocks
from published_folders import save_tiny
from support import TINY
from video_files import write_video

import videomae
from videomae import VideoMAEConfig
from videomae.commands.main import main
from videomae.data.ava.synthetic import SyntheticAva, make_synthetic_ava
from videomae.data.synthetic import MOTIONS, SyntheticSet, make_synthetic_set
from videomae.model_cards.cards import HEADS

# Clips of the released size in 128 tokens, so that a guide's commands run unchanged.
RELEASED = dict(image_size=224, patch_size=56)
CLASSES = tuple(sorted(MOTIONS[:4]))  # numbered as sub-folders and lists of names are


# -------------------------------------------------------------------------------------------------------------- models


def model(path, head="classify", labels=CLASSES, **shape):
    """A model folder of random weights, with its processor."""
    fields = {"pretrain": {"use_mean_pooling": False}, "features": {"pooled_features": True}, "classify": {}}[head]
    if head == "classify":
        fields = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    torch.manual_seed(0)
    shape = {**TINY, **shape}
    config = VideoMAEConfig(**shape, layer_norm_eps=1e-6, norm_eps=1e-6, initializer_range=0.2, **fields)
    getattr(videomae, HEADS[head].model_class)(config).save_pretrained(path)
    side = shape["image_size"]
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


def official_small_file(path):
    """A file with the size and names of V2's distilled small classifier, of random weights."""
    with tempfile.TemporaryDirectory() as folder:
        config = VideoMAEConfig.preset("small", head="classify", num_labels=710)
        videomae.VideoMAEForVideoClassification(config).save_pretrained(folder)
        assert main(["convert", folder, str(path), "--to", "original"]) == 0


# -------------------------------------------------------------------------------------------------------------- videos


@lru_cache
def synthetic():
    folder = tempfile.TemporaryDirectory(prefix="videomae-documents-")
    spec = SyntheticSet(
        clips=24, validation_clips=8, test_clips=8, motions=CLASSES, num_frames=20, height=40, width=48, distractors=0
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


def video_list(path, split="train"):
    path.write_text("path,label\n" + "".join(f"{video},{label}\n" for video, label in rows_of(split)))


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
    elif what == "movies":
        shutil.copytree(ready / "movies", path)
    else:
        shutil.copy(ready / what, path)


@lru_cache
def ava_set():
    folder = tempfile.TemporaryDirectory(prefix="videomae-documents-ava-")
    spec = SyntheticAva(movies=3, validation_movies=2, seconds=4)
    return folder, make_synthetic_ava(Path(folder.name) / "set", spec)


def features_of(path):
    """What `videomae features FOLDER VIDEOS OUTPUT` writes."""
    for name, make in (("FOLDER", model), ("VIDEOS", flat_folder)):
        if not (path.parent / name).exists():
            make(path.parent / name)
    assert main(["features", str(path.parent / "FOLDER"), str(path.parent / "VIDEOS"), str(path)]) == 0


def stretches_of_videos(path):
    """The first half second of each file of VIDEOS, labelled."""
    rows = [f"{video.name},walk,0,0.5\n" for video in sorted((path.parent / "VIDEOS").iterdir())]
    path.write_text("path,label,start_seconds,end_seconds\n" + "".join(rows))


# --------------------------------------------------------------------------------------------------------------- places

PLACES = {
    "MCG-NJU/videomae-base-finetuned-kinetics": model,
    "MCG-NJU/videomae-base": partial(model, head="pretrain", **RELEASED),
    "PekingU/rtdetr_r18vd": person_detector,
    "videomae-base-finetuned-kinetics": partial(model, **RELEASED),
    "FOLDER": model,
    "PRETRAINED": partial(model, head="pretrain"),
    "vit_s_k710_dl_from_giant.pth": official_small_file,
    "label_map_k710.txt": partial(lines, count=710),
    "video.mp4": partial(write_video, num_frames=300, width=64, height=48),
    "VIDEO.mp4": partial(write_video, num_frames=70, width=96, height=64),
    "long.mp4": partial(write_video, num_frames=160, width=64, height=48),
    "motion": video_set,
    "test.csv": partial(video_list, split="test"),
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
    "OUTPUT": lambda path: features_of(path),
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
    "metrics": lambda path: path.symlink_to(Path(__file__).parents[1] / "metrics"),
}
SPECIAL = {
    "docs/detection.md": {"FOLDER": action_detector},
    "docs/features.md": {"VIDEOS": flat_folder, "stretches.csv": stretches_of_videos},
}
# What the commands of a guide make themselves; for its Python blocks alone it is laid out.
MADE = {"runs/door/best", "runs/motion/final", "runs/motion/test/results.json", "OUTPUT"}


def lay_out(folder: Path, document: str, *, commands: bool = False) -> None:
    """Make what the Python blocks of a document name in `folder`; with `commands`, what its commands read as well."""
    languages = ("bash", "python") if commands else ("python",)
    text = "\n".join(block.text for block in blocks(document) if block.language in languages)
    made = MADE | ({"motion"} if document == "docs/tutorial_finetune.md" else set())
    for name, make in {**PLACES, **SPECIAL.get(document, {})}.items():
        named = re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w-])(?!\.\w)", text)
        if named and not (commands and name in made):
            path = folder / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                make(path)


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
