"""Features with labelled stretches, read as OpenTAD and ActionFormer read them: their loaders' steps restated, not run.

Restated are THUMOS14Dataset and ActivityNetDataset of happyharrycn/actionformer_release (libs/datasets, 61ea7eb) and
ThumosPaddingDataset of sming256/OpenTAD (opentad/datasets, 3dd7b03). Their training was not run.
"""

import json
import os

import numpy as np
import pytest
import torch
from support import TINY
from video_files import write_video

from videomae import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEVideoProcessor
from videomae.commands.main import main

TRUTH = """path,label,start_seconds,end_seconds,split
a.mp4,run,1,2.5,training
a.mp4,jump,3,4,training
more/b.mp4,jump,0.5,1.5,Validation
c.mp4,,,,training
d.mp4,,,,validation
e.mp4,run,2,,test
elsewhere.mp4,run,1,2,training
"""
LENGTHS = {"a.mp4": 150, "more/b.mp4": 90, "c.mp4": 70, "d.mp4": 70, "e.mp4": 90}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    VideoMAEForVideoClassification(VideoMAEConfig(**TINY)).save_pretrained(folder)
    VideoMAEVideoProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    (folder / "more").mkdir()
    for name, length in LENGTHS.items():
        write_video(folder / name, length, width=64, height=48)
    return folder


def run(folder, videos, output, truth, *options):
    path = output.parent / "truth.csv"
    path.write_text(truth)
    words = ["features", folder, videos, output, "--device", "cpu", "--truth", path, *options]
    return main(list(map(str, words)))


def actionformer(output, split, *, feat_stride, num_frames, num_classes, kind):
    """{video: (features (C, T), segments in rows, labels)}, with default_fps null and file_ext .npy."""
    database = json.loads((output / "annotations.json").read_text())["database"]
    label_dict = {}
    for value in database.values():
        for act in value["annotations"]:
            label_dict[act["label"]] = act["label_id"]
    assert len(label_dict) == num_classes
    found = {}
    for key, value in database.items():
        if value["subset"].lower() not in split:
            continue
        file = os.path.join(output / "features", key + ".npy")
        if kind == "thumos" and not os.path.exists(file):
            continue
        fps, _ = value["fps"], value["duration"]
        acts = value["annotations"]
        features = np.ascontiguousarray(np.load(file).astype(np.float32).transpose())
        if not acts:
            found[key] = (features, None, None)
            continue
        segments = np.asarray([act["segment"] for act in acts], np.float32)
        labels = np.asarray([label_dict[act["label"]] for act in acts], np.int64)
        found[key] = (features, (segments * fps - 0.5 * num_frames) / feat_stride, labels)
    return found


def opentad(output, subset_name, *, feature_stride, offset_frames):
    """{video: (features (T, C), segments in rows, labels)} of a training set; videos without stretches are passed over."""
    database = json.loads((output / "annotations.json").read_text())["database"]
    class_map = [line.rstrip("\n") for line in (output / "classes.txt").read_text().splitlines(keepends=True)]
    found = {}
    for name, info in database.items():
        if info["subset"] not in subset_name:
            continue
        segments, labels = [], []
        for anno in info["annotations"]:
            if anno["label"] == "Ambiguous":
                continue
            start, end = (int(at / info["duration"] * info["frame"]) for at in anno["segment"])
            segments.append([start, end])
            labels.append(class_map.index(anno["label"]))
        if segments:
            features = np.load(os.path.join(output / "features", f"{name}.npy")).astype(np.float32)
            rows = (np.array(segments, np.float32) - int(offset_frames)) / int(feature_stride)
            found[name] = (features, rows, labels)
    return found


def middles(output, name):
    windows = json.loads((output / "index" / f"{name}.json").read_text())["windows"]
    return (np.array(windows["start_seconds"]) + np.array(windows["end_seconds"])) / 2


@pytest.mark.parametrize("kind", ["thumos", "anet"])
def test_actionformer_finds_every_stretch_at_the_rows_of_its_time(folder, videos, tmp_path, kind, capsys):
    output = tmp_path / "out"
    assert run(folder, videos, output, TRUTH, "--window", 16, "--stride", 4) == 0
    printed = capsys.readouterr().out
    assert "4 videos, 2 labels (classes.txt)" in printed
    assert "feat_stride 4, num_frames 16, input_dim 48, num_classes 2, file_ext .npy" in printed
    assert "left out, without stretches in training: 1, the first is c" in printed
    assert "of the labelled videos not here: 1, the first is elsewhere.mp4" in printed
    options = dict(feat_stride=4, num_frames=16, num_classes=2, kind=kind)
    training = actionformer(output, ["training"], **options)
    validation = actionformer(output, ["validation"], **options)
    assert set(training) == {"a"} and set(validation) == {"more/b", "d"} and validation["d"][1] is None
    (_, to_the_end, _) = actionformer(output, ["test"], **options)["e"]
    np.testing.assert_allclose(to_the_end, [[(2 * 30 - 8) / 4, (90 - 8) / 4]])
    features, segments, labels = training["a"]
    np.testing.assert_array_equal(features, np.load(output / "features/a.npy").T)
    assert labels.tolist() == [1, 0] and (output / "classes.txt").read_text() == "jump\nrun\n"
    # A row lies where its window's middle is, to half a frame: the last frame of a window lasts until the next begins.
    rows = np.interp([1, 2.5, 3, 4], middles(output, "a")[:-1], np.arange(features.shape[1] - 1))
    np.testing.assert_allclose(segments.ravel(), rows, atol=0.5 / 4)


def test_opentad_finds_the_same_rows(folder, videos, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(folder, videos, output, TRUTH, "--window", 16, "--stride", 4) == 0
    assert "feature_stride 4, offset_frames 8, class_map classes.txt" in capsys.readouterr().out
    theirs = actionformer(output, ["training"], feat_stride=4, num_frames=16, num_classes=2, kind="anet")["a"]
    training = opentad(output, "training", feature_stride=4, offset_frames=8)
    assert set(training) == {"a"} and set(opentad(output, "validation", feature_stride=4, offset_frames=8)) == {
        "more/b"
    }
    features, segments, labels = training["a"]
    np.testing.assert_array_equal(features, theirs[0].T)
    np.testing.assert_allclose(segments, theirs[1], atol=1 / 4)  # it rounds down to frames
    assert labels == theirs[2].tolist()


def test_windows_in_seconds_are_counted_in_parts_of_a_stride_whatever_the_rate_of_a_video(
    folder, videos, tmp_path, capsys
):
    output = tmp_path / "out"
    assert run(folder, videos, output, TRUTH, "--window", "0.8s", "--stride", "0.25s") == 0
    assert "feat_stride 100, num_frames 320" in capsys.readouterr().out
    (_, segments, _) = actionformer(
        output, ["training"], feat_stride=100, num_frames=320, num_classes=2, kind="anet"
    )["a"]  # fmt: skip
    np.testing.assert_allclose(segments.ravel(), (np.array([1, 2.5, 3, 4]) - 0.4) / 0.25, rtol=1e-5)
    (_, rows, _) = opentad(output, "training", feature_stride=100, offset_frames=160)["a"]
    np.testing.assert_allclose(rows, segments, atol=0.02)


def test_the_annotations_of_features_that_are_there_need_no_model(folder, videos, tmp_path, monkeypatch):
    output = tmp_path / "out"
    assert run(folder, videos, output, TRUTH) == 0
    first = (output / "annotations.json").read_text()
    monkeypatch.setattr("videomae.features.extract._encode", None)
    assert run(folder, videos, output, TRUTH) == 0 and (output / "annotations.json").read_text() == first
    assert run(folder, videos, output, TRUTH.replace("jump", "leap")) == 0
    assert (output / "classes.txt").read_text() == "leap\nrun\n"


@pytest.mark.parametrize(
    "truth, options, message",
    [
        (TRUTH, ("--level", "video"), "needs a row for each sliding window in .npy files"),
        (TRUTH, ("--clips", "3"), "leave out --level, --clips and --save_as"),
        (TRUTH, ("--save_as", "safetensors"), "needs a row for each sliding window in .npy files"),
        (TRUTH, ("--window", "2s", "--stride", "8"), "in one unit, not 2 seconds and 8 frames"),
        ("path,label,start_seconds,end_seconds\nz.mp4,run,1,2\n", (), "has none of the videos, but 'z.mp4'"),
        ("path,label,start_seconds,end_seconds\na.mp4,,,\n", (), "has no stretches in the videos of"),
    ],
)
def test_what_a_localiser_could_not_read_is_refused(truth, options, message, folder, videos, tmp_path, capsys):
    assert run(folder, videos, tmp_path / "out", truth, *options) == 1
    assert message in capsys.readouterr().err
    if options:
        assert not (tmp_path / "out").exists()
