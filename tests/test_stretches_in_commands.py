"""Labelled stretches through the commands: the same results as of the same frames cut by hand into files."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support import SMALLEST
from video_files import numbers_in, write_video

from benchmarks.stretches import write_packets
from videomae import VideoMAEConfig, VideoMAEForVideoClassification, train_classification
from videomae.commands.main import main
from videomae.data.check import check, render
from videomae.data.encoding import Recoding
from videomae.data.lists.layouts import open_manifest
from videomae.data.prepare import hash_of, prepare
from videomae.data.sources import open_clip
from videomae.evaluation.final_test import chosen_on_the_test
from videomae.training.distillation import read_teacher_scores
from videomae.video_processing_videomae import VideoMAEVideoProcessor

TIMES = [(0, 1), (1, 3), (2, 4), (3, 4)]  # from key frame to key frame, so that packets can be copied
LABELS = ["run", "walk", "walk", "walk"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """long.mp4 of 4 s with a key frame each second, stretches of it in long.csv, and the same cut by hand in hand.csv."""
    folder = tmp_path_factory.mktemp("videos")
    options = {"bf": "2", "x264-params": "scenecut=0:open-gop=0"}
    write_video(folder / "long.mp4", 120, gop=30, options=options)
    rows, hand = [], []
    for number, ((start, end), label) in enumerate(zip(TIMES, LABELS)):
        write_packets(folder / f"{number}.mp4", folder / "long.mp4", first=start, end=end)
        rows.append(f"long.mp4,{label},{start},{end}\n")
        hand.append(f"{number}.mp4,{label}\n")
    (folder / "long.csv").write_text("path,label,start_seconds,end_seconds\n" + "".join(rows))
    (folder / "hand.csv").write_text("path,label\n" + "".join(hand))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = VideoMAEConfig(**SMALLEST, num_labels=2, id2label={0: "run", 1: "walk"})
    VideoMAEForVideoClassification(config).save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    VideoMAEVideoProcessor(**size, num_frames=8, stride_frames=2, clips=2, crops=1).save_pretrained(folder)
    return folder


def names(manifest):
    return [manifest.path(index) for index in range(len(manifest))]


def test_a_test_gives_the_scores_of_files_cut_by_hand_by_path_and_stretch(folder, model, tmp_path):
    tables = []
    for name in ("long", "hand"):
        words = [
            "evaluate",
            str(model),
            str(folder / f"{name}.csv"),
            "--output",
            str(tmp_path / name),
            "--device",
            "cpu",
        ]
        assert main(words) == 0
        tables.append(pq.read_table(tmp_path / name / "predictions.parquet").to_pylist())
    assert [row["scores"] for row in tables[0]] == [row["scores"] for row in tables[1]]
    assert [(row["path"], row["start_seconds"], row["end_seconds"]) for row in tables[0]] == [
        (f"long.mp4#t={start},{end}", start, end) for start, end in TIMES
    ]
    assert "start_seconds" not in tables[1][0]
    teacher = read_teacher_scores(str(tmp_path / "long/predictions.parquet"), open_manifest(folder / "long.csv"), 2)
    assert torch.allclose(teacher.exp(), torch.tensor([row["scores"] for row in tables[0]]))


def test_scores_take_the_groups_of_files_or_of_stretches(folder, model, tmp_path, capsys):
    assert main(["evaluate", str(model), str(folder / "long.csv"), "--output", str(tmp_path), "--device", "cpu"]) == 0
    (tmp_path / "files.csv").write_text("path,group\nlong.mp4,x\n")
    half = "".join(f"long.mp4,{start},{end},{'xy'[start > 1]}\n" for start, end in TIMES)
    (tmp_path / "stretches.csv").write_text("path,start_seconds,end_seconds,group\n" + half)
    for table, expected in (("files", {"x": 4}), ("stretches", {"x": 2, "y": 2})):
        assert main(["scores", str(tmp_path), "--groups", str(tmp_path / f"{table}.csv"), "--resamples", "0"]) == 0
        rows = json.loads((tmp_path / "scores.json").read_text())["groups"]["rows"]
        assert {row["group"]: row["videos"] for row in rows} == expected


@pytest.mark.parametrize("options", [("--window", "16", "--stride", "8"), ("--level", "video", "--clips", "2")])
def test_features_are_those_of_files_cut_by_hand(folder, model, tmp_path, options):
    for name in ("long", "hand"):
        words = ["features", str(model), str(folder / f"{name}.csv"), str(tmp_path / name), "--device", "cpu"]
        assert main([*words, *options]) == 0
    for number, (start, end) in enumerate(TIMES):
        own, cut = (
            np.load(tmp_path / name)
            for name in (f"long/features/long.{start}-{end}.npy", f"hand/features/{number}.npy")
        )
        assert np.array_equal(own, cut)
        record, other = (
            json.loads((tmp_path / name).read_text())
            for name in (f"long/index/long.{start}-{end}.json", f"hand/index/{number}.json")
        )
        assert (record["path"], record["start_seconds"], record["end_seconds"]) == (
            f"long.mp4#t={start},{end}",
            start,
            end,
        )
        assert record["windows"]["first_frame"] == other["windows"]["first_frame"]
        assert record["windows"]["start_seconds"] == pytest.approx(other["windows"]["start_seconds"], abs=1e-4)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "long/features").iterdir()}
    assert (
        main(["features", str(model), str(folder / "long.csv"), str(tmp_path / "long"), "--device", "cpu", *options])
        == 0
    )
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "long/features").iterdir()}


@pytest.mark.parametrize("kind", ["shards", "folder"])
def test_prepare_makes_a_video_of_each_stretch(folder, tmp_path, kind):
    recoding = Recoding(short_side=64, preset="ultrafast")
    report = prepare(
        open_manifest(folder / "long.csv"), tmp_path / "out", recoding=recoding, format=kind, progress=False
    )
    assert report["videos"] == 4 and report["frames"] == 30 * 6
    manifest = open_manifest(tmp_path / "out" if kind == "shards" else tmp_path / "out/manifest.jsonl")
    expected = {
        f"long.mp4#t={start},{end}" if kind == "shards" else f"videos/long.{start}-{end}.mp4": (start, end, label)
        for (start, end), label in zip(TIMES, LABELS)
    }
    assert set(names(manifest)) == set(expected) and manifest.stretches is None
    for index, name in enumerate(names(manifest)):
        start, end, label = expected[name]
        with open_clip(manifest.source(index)) as clip:
            assert numbers_in(clip.read(range(clip.num_frames))) == list(range(30 * start, 30 * end))
        assert manifest.class_names[manifest.label(index)] == label


def test_a_long_file_is_hashed_once_for_all_its_stretches(folder, monkeypatch):
    from videomae.data import prepare as preparing

    hashed = []
    monkeypatch.setattr(preparing, "_hashes", {})
    monkeypatch.setattr(preparing, "sha256_of", lambda path: hashed.append(path) or "digest")
    manifest = open_manifest(folder / "long.csv")
    assert len({hash_of(manifest.source(index)) for index in range(4)}) == 4 and len(hashed) == 1


def test_a_check_of_the_data_names_overlaps_with_the_test_set_and_what_is_beyond_a_file(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "set")
    (copy / "test.csv").write_text(
        "path,label,start_seconds,end_seconds\nlong.mp4,run,0.9,1.1\nlong.mp4,walk,3.5,4\n0.mp4,run,0,1\n"
    )
    (copy / "train.csv").write_text(
        "path,label,start_seconds,end_seconds\nlong.mp4,run,0,1\nlong.mp4,walk,1,2\n0.mp4,walk,9,10\n"
    )
    train, test = open_manifest(copy / "train.csv"), open_manifest(copy / "test.csv")
    report = check(train, test=test, speed_samples=0, progress=False)
    assert report["stretches"] == {
        "stretches": 3, "files": 2, "shortest_seconds": 1.0, "longest_seconds": 1.0, "total_seconds": 3.0
    }  # fmt: skip
    assert "3 stretches of 2 files: 1.0 to 1.0 s, 0.00 h in all" in render(report, 50.0)
    assert report["leaks"] == [["long.mp4#t=0,1", "long.mp4#t=0.9,1.1"]]
    problems = "\n".join(report["problems"])
    assert (
        "1 of 3 test videos are in the training set too: long.mp4#t=0,1 is long.mp4#t=0.9,1.1, at least in part"
        in problems
    )
    assert any(
        note.startswith("2 of 3 test stretches are of files of which the training set has other")
        for note in report["notes"]
    )
    assert [row["path"] for row in report["broken"]] == ["0.mp4#t=9,10"]
    assert "train.csv, line 4: start_seconds=9 lies beyond the end of" in report["broken"][0]["error"]


def test_a_final_test_knows_the_stretches_that_the_weights_were_chosen_on(folder):
    validation, other = open_manifest(folder / "long.csv"), open_manifest(folder / "hand.csv")
    assert chosen_on_the_test("best", validation, validation.subset([1, 2])).startswith("2 of the 2 test videos are")
    assert chosen_on_the_test("best", validation.subset([0]), validation.subset([1, 2])) is None
    assert chosen_on_the_test("best", validation, other) is None


def test_check_labels_reads_stretches_by_their_names(folder, model, tmp_path):
    assert (
        main(["evaluate", str(model), str(folder / "long.csv"), "--output", str(tmp_path / "t"), "--device", "cpu"])
        == 0
    )
    words = [
        "check-labels",
        str(tmp_path / "t"),
        "--data",
        str(folder / "long.csv"),
        "--output",
        str(tmp_path / "labels"),
    ]
    assert main(words) in (0, 1)
    assert (tmp_path / "labels/labels.csv").read_text().count("long.mp4#t=") == 4


def test_a_training_on_stretches_with_background_ends_with_a_test(folder, tmp_path):
    """One run of the command on half of a file and its background, with a held-out share of whole files."""
    data = shutil.copytree(folder, tmp_path / "set")
    for name in ("second", "third", "fourth"):
        shutil.copy(data / "long.mp4", data / f"{name}.mp4")
    rows = "".join(f"{name}.mp4,run,0,1\n{name}.mp4,walk,2,3\n" for name in ("long", "second", "third", "fourth"))
    (data / "train.csv").write_text("path,label,start_seconds,end_seconds\n" + rows)
    fields = {
        "image_size": 32,
        "num_frames": 8,
        "stride_frames": 2,
        "epochs": 1,
        "warmup_epochs": 0,
        "clips_per_step": 3,
    }
    words = [word for name, value in fields.items() for word in (f"--{name}", str(value))]
    start = tmp_path / "start"
    VideoMAEForVideoClassification(VideoMAEConfig(**SMALLEST)).save_pretrained(start)
    words += [
        "--recipe",
        "tiny",
        "--model",
        str(start),
        "--data",
        str(data / "train.csv"),
        "--output",
        str(tmp_path / "run"),
    ]
    words += ["--background", "idle", "--val_share", "0.25", "--flip", "0", "--num_workers", "0"]
    assert train_classification.main([*words, "--test_data", str(data / "train.csv")]) == 0
    results = json.loads((tmp_path / "run/test/results.json").read_text())
    assert results["videos"] == 12 and results["class_names"] == ["idle", "run", "walk"]
    table = pq.read_table(tmp_path / "run/test/predictions.parquet").to_pylist()
    assert "third.mp4#t=1,2" in [row["path"] for row in table if row["label"] == 0]
