"""A few training steps from every kind of source that open_manifest takes."""

import csv
import json
import shutil

import datasets
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from support import TINY

from videomae import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification
from videomae.data.collators import ClassificationCollator, PretrainCollator
from videomae.data.lists.layouts import open_manifest
from videomae.data.mixing import Mixing
from videomae.data.prepare import Recoding, prepare
from videomae.data.sampler import EpochSampler
from videomae.data.synthetic import SyntheticSet, make_synthetic_set
from videomae.data.transforms import PretrainTransform, TrainTransform
from videomae.data.video_dataset import VideoDataset, make_loader
from videomae.sampling_videomae import ClipSampling
from videomae.video_io import read_frames

SAMPLING = ClipSampling(num_frames=4, stride_frames=2)
CONFIG = {**TINY, "num_frames": 4}


pytestmark = pytest.mark.filterwarnings("ignore:training flips clips")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    spec = SyntheticSet(
        clips=8, validation_clips=0, test_clips=0, num_frames=10, height=32, width=48,
        motions=("moves right", "moves left"),
    )  # fmt: skip
    return make_synthetic_set(tmp_path_factory.mktemp("data") / "synthetic", spec)


def v1_list(original, folder):
    manifest = open_manifest(original / "train.csv")
    (folder / "list.txt").write_text("".join(f"{manifest.path(i)} {manifest.label(i)}\n" for i in range(8)))
    return open_manifest(folder / "list.txt", root=original)


def v2_list(original, folder):
    manifest = open_manifest(original / "train.csv")
    lines = [f"{manifest.source(i)} 0 -1 {manifest.label(i)}\n" for i in range(6)]
    for i in (6, 7):
        _write_frames(manifest.source(i), folder / f"frames/{i}", "img_{:05}.jpg")
        lines.append(f"{folder}/frames/{i} 1 10 {manifest.label(i)}\n")
    (folder / "list.txt").write_text("".join(lines))
    return open_manifest(folder / "list.txt")


def _write_frames(video, folder, pattern):
    folder.mkdir(parents=True)
    for number, frame in enumerate(read_frames(video, range(10)), 1):
        Image.fromarray(frame.numpy()).save(folder / pattern.format(number))


def table(original, folder):
    return open_manifest(original / "train.csv")


def jsonl(original, folder):
    with open(original / "train.csv", newline="") as file:
        (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in csv.DictReader(file)))
    return open_manifest(folder / "t.jsonl", root=original)


def _by_class(original, folder, place):
    with open(original / "train.csv", newline="") as file:
        for i, row in enumerate(csv.DictReader(file)):
            place(original / row["path"], row["label"], i)


def class_folders(original, folder):
    def place(video, label, i):
        (folder / "set" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(video, folder / "set" / label / f"{i}.mp4")

    _by_class(original, folder, place)
    return open_manifest(folder / "set")


def frame_folders(original, folder):
    _by_class(original, folder, lambda video, label, i: _write_frames(video, folder / f"set/{label}/{i}", "{}.png"))
    return open_manifest(folder / "set")


def kinetics(original, folder):
    rows = ["label,youtube_id,time_start,time_end,split"]

    def place(video, label, i):
        shutil.copy(video, folder / f"id{i}_000000_000010.mp4")
        rows.append(f"{label},id{i},0,10,train")

    _by_class(original, folder, place)
    (folder / "train.csv").write_text("\n".join(rows))
    return open_manifest(folder / "train.csv", split="train")


def something(original, folder):
    entries = []

    def place(video, label, i):
        shutil.copy(video, folder / f"{i}.mp4")
        entries.append({"id": str(i), "template": label.replace("moves", "[moves]")})

    _by_class(original, folder, place)
    (folder / "train.json").write_text(json.dumps(entries))
    return open_manifest(folder / "train.json")


def shards(original, folder):
    recoding = Recoding(short_side=32, preset="ultrafast")
    prepare(
        open_manifest(original / "train.csv"), folder / "out", recoding=recoding, videos_per_shard=5, progress=False
    )
    return open_manifest(folder / "out")


def datasets_table(original, folder):
    manifest = open_manifest(original / "train.csv")
    rows = {"video": [manifest.source(i) for i in range(8)], "label": manifest.labels.tolist()}
    return open_manifest(datasets.Dataset.from_dict(rows).cast_column("video", datasets.Video()))


def tsv(original, folder):
    with open(original / "train.csv", newline="") as file, open(folder / "t.tsv", "w", newline="") as out:
        csv.writer(out, delimiter="\t").writerows(csv.reader(file))
    return open_manifest(folder / "t.tsv", root=original)


def parquet(original, folder):
    with open(original / "train.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "t.parquet")
    return open_manifest(folder / "t.parquet", root=original)


def ucf101(original, folder):
    """Split files of paths below a folder per class, numbered from 1 in classInd.txt."""
    (folder / "splits").mkdir()
    numbers = {"moves right": ("MovesRight", 1), "moves left": ("MovesLeft", 2)}
    (folder / "splits/classInd.txt").write_text("".join(f"{n} {name}\n" for name, n in numbers.values()))
    lines = []

    def place(video, label, i):
        name, number = numbers[label]
        (folder / "videos" / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(video, folder / "videos" / name / f"v_{i}.mp4")
        lines.append(f"{name}/v_{i}.mp4 {number}\n")

    _by_class(original, folder, place)
    (folder / "splits/trainlist01.txt").write_text("".join(lines))
    return open_manifest(folder / "splits", root=folder / "videos", split="train1")


def hmdb51(original, folder):
    """A split file per class, 1 for training, and a folder of videos per class."""
    (folder / "splits").mkdir()

    def place(video, label, i):
        name = label.replace(" ", "_")
        (folder / "videos" / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(video, folder / "videos" / name / f"{i}.mp4")
        with open(folder / f"splits/{name}_test_split1.txt", "a") as file:
            file.write(f"{i}.mp4 1 \n")

    _by_class(original, folder, place)
    return open_manifest(folder / "splits", root=folder / "videos", split="train1")


SOURCES = [
    v1_list, v2_list, table, tsv, jsonl, parquet, class_folders, frame_folders, kinetics, something, ucf101, hmdb51,
    shards, datasets_table,
]  # fmt: skip


def steps(model, batches):
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for batch in batches:
        batch.pop("sources")
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert len(losses) == 2 and torch.isfinite(torch.tensor(losses)).all()


@pytest.mark.parametrize("source", SOURCES)
def test_both_trainings_take_steps_from_this_source(original, tmp_path, source):
    manifest = source(original, tmp_path)
    assert len(manifest) == 8 and sorted(manifest.labels.tolist()) == [0] * 4 + [1] * 4
    torch.manual_seed(0)
    pretraining = VideoDataset(
        manifest, mode="pretrain", sampling=SAMPLING, transform=PretrainTransform(32), num_samples=2
    )
    model = VideoMAEForPreTraining(VideoMAEConfig(**CONFIG))
    collate = PretrainCollator(model.config.grid, decoder_mask="running_cell")
    steps(model, make_loader(pretraining, EpochSampler(8), 4, collate))
    training = VideoDataset(manifest, mode="train", sampling=SAMPLING, transform=TrainTransform(32), num_samples=2)
    model = VideoMAEForVideoClassification(VideoMAEConfig(**CONFIG, num_labels=2))
    steps(model, make_loader(training, EpochSampler(8), 4, ClassificationCollator(Mixing(2))))
