import csv
import dataclasses
import io
import json

import av
import numpy as np
import pytest

from videomae.commands.make_data import main
from videomae.data.encoding import encode_video
from videomae.data.synthetic import DIRECTIONS, MOTIONS, SyntheticSet, make_synthetic_set, render_clip

SMALL = SyntheticSet(clips=16, validation_clips=8, test_clips=0, num_frames=20, height=32, width=40)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_set_is_balanced_playable_and_lists_its_labels(tmp_path):
    folder = make_synthetic_set(tmp_path / "set", SMALL)
    train = rows(folder / "train.csv")
    assert [len(rows(folder / f"{split}.csv")) for split in ("train", "validation")] == [16, 8]
    assert not (folder / "test.csv").exists()
    assert {motion: sum(row["label"] == motion for row in train) for motion in MOTIONS} == dict.fromkeys(MOTIONS, 2)
    assert (folder / "labels.txt").read_text().split("\n")[:-1] == list(MOTIONS)
    with av.open(str(folder / train[3]["path"])) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert stream.codec_context.name == "h264" and stream.average_rate == 16
    assert np.shape(frames) == (20, 32, 40, 3)
    original = render_clip(train[3]["label"], SMALL, (0, 0, 3))
    assert np.abs(np.stack(frames).astype(int) - original).mean() < 8  # 4:2:0 colour and quantisation


def test_equal_records_give_equal_bytes_and_other_seeds_other_clips(tmp_path):
    first, second = (make_synthetic_set(tmp_path / name, SMALL) for name in ("a", "b"))
    for path in sorted(first.rglob("*.*")):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()
    other = make_synthetic_set(tmp_path / "c", SyntheticSet(**{**vars(SMALL), "seed": 1}))
    assert (first / "videos/train/00000.mp4").read_bytes() != (other / "videos/train/00000.mp4").read_bytes()
    assert (first / "videos/train/00000.mp4").read_bytes() != (first / "videos/validation/00000.mp4").read_bytes()


def test_an_existing_set_is_kept_and_another_one_refused(tmp_path):
    folder = make_synthetic_set(tmp_path / "set", SMALL)
    written = (folder / "train.csv").stat().st_mtime_ns
    make_synthetic_set(folder, SMALL)
    assert (folder / "train.csv").stat().st_mtime_ns == written
    with pytest.raises(FileExistsError, match="holds another synthetic set"):
        make_synthetic_set(folder, SyntheticSet(**{**vars(SMALL), "clips": 17}))


def centres(frames: np.ndarray) -> np.ndarray:
    """The actor's centre in each frame, as angles (T, 2) on a plane whose edges meet."""
    frames = frames.astype(float)
    colour = np.median(frames, axis=(1, 2), keepdims=True)
    weight = (np.abs(frames - colour).min(-1) > 45).astype(float)
    H, W = weight.shape[1:]
    y = np.angle((weight.sum(2) * np.exp(2j * np.pi * np.arange(H) / H)).sum(1))
    x = np.angle((weight.sum(1) * np.exp(2j * np.pi * np.arange(W) / W)).sum(1))
    return np.stack([x, y], 1)


@pytest.mark.parametrize("motion", list(DIRECTIONS))
def test_the_actor_moves_where_its_class_says(motion):
    spec = SyntheticSet(distractors=0)
    for seed in range(6):
        path = np.unwrap(centres(render_clip(motion, spec, seed)), axis=0)
        step = (path[-1] - path[0]) / (2 * np.pi)
        dx, dy = DIRECTIONS[motion]
        assert step[0] * dx + step[1] * dy > 0.35 and abs(step[0] * dy) + abs(step[1] * dx) < 0.1


@pytest.mark.parametrize("motion, sense", [("circles clockwise", 1), ("circles counter-clockwise", -1)])
def test_the_actor_circles_in_the_sense_of_its_class(motion, sense):
    spec = SyntheticSet(distractors=0)
    for seed in range(6):
        path = np.unwrap(centres(render_clip(motion, spec, seed)), axis=0) * [spec.width, spec.height]
        velocity = np.diff(path, axis=0)
        turning = velocity[:-1, 0] * velocity[1:, 1] - velocity[:-1, 1] * velocity[1:, 0]
        assert np.sign(np.median(turning)) == sense  # rows count downwards, so clockwise is positive


def test_under_a_still_camera_only_the_shapes_change_pixels():
    options = dict(num_frames=8, height=64, width=64, distractors=0)
    still, moving = (
        render_clip("moves right", SyntheticSet(**options, still_camera=camera), seed=3) for camera in (True, False)
    )
    unchanged = (still == still[0]).all(axis=(0, 3))
    assert 0.3 < unchanged.mean() < 0.95  # the rest is where the actor was
    assert (moving == moving[0]).all(axis=(0, 3)).mean() < 0.1


def test_in_a_centred_set_the_shape_is_near_the_centre_at_the_middle_frame_whatever_its_class():
    spec = SyntheticSet(num_frames=16, height=32, width=40, distractors=0, centred=True)
    for number, motion in enumerate(MOTIONS):
        frames = render_clip(motion, spec, number).astype(float)
        bright = (frames[8].min(-1) - np.median(frames[8], axis=(0, 1)).min() > 45).astype(float)
        rows, columns = bright.nonzero()
        assert abs(rows.mean() / 32 - 0.5) < 0.2 and abs(columns.mean() / 40 - 0.5) < 0.2, motion
    for motion, (dx, dy) in DIRECTIONS.items():
        path = np.unwrap(centres(render_clip(motion, spec, 3)), axis=0)
        step = (path[-1] - path[0]) / (2 * np.pi)
        assert step[0] * dx + step[1] * dy > 0.3 and abs(step[0] * dy) + abs(step[1] * dx) < 0.15


def test_a_set_that_was_made_before_a_field_existed_is_kept(tmp_path):
    spec = SyntheticSet(
        clips=2, validation_clips=0, test_clips=0, motions=MOTIONS[:2], num_frames=4, height=16, width=16
    )
    folder = make_synthetic_set(tmp_path / "set", spec)
    record = json.loads((folder / "dataset.json").read_text())
    del record["still_camera"]
    (folder / "dataset.json").write_text(json.dumps(record))
    assert make_synthetic_set(folder, spec) == folder
    with pytest.raises(FileExistsError, match="another synthetic set"):
        make_synthetic_set(folder, dataclasses.replace(spec, still_camera=True))


def test_no_single_frame_tells_the_class():
    spec = SyntheticSet(height=48, width=64, num_frames=8)
    labels = np.arange(640) % len(MOTIONS)
    clips = np.stack([render_clip(MOTIONS[label], spec, seed) for seed, label in enumerate(labels)])
    for moment in (0, 4, 7):
        frames = clips[:, moment].reshape(640, 12, 4, 16, 4, 3).mean((2, 4)).reshape(640, -1)
        train, test = frames[:480], frames[480:]
        mean, std = train.mean(0), train.std(0)
        train, test = (train - mean) / std, (test - mean) / std
        targets = np.eye(len(MOTIONS))[labels[:480]]
        weights = np.linalg.solve(train.T @ train + 300 * np.eye(train.shape[1]), train.T @ targets)
        accuracy = ((test @ weights).argmax(1) == labels[480:]).mean()
        assert accuracy < 0.125 + 3 * np.sqrt(0.125 * 0.875 / 160)  # chance is one in eight


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"motions": ("moves right", "jumps")}, "no motion 'jumps'"),
        ({"motions": ("moves right",)}, "at least 2 different motions"),
        ({"clips": 3}, "leave some of the 8 classes empty"),
        ({"num_frames": 1}, "num_frames must be at least 2"),
    ],
)
def test_impossible_sets_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SyntheticSet(**fields)


def test_the_command_writes_a_set(tmp_path, capsys):
    options = {"clips": 8, "validation_clips": 0, "test_clips": 0, "num_frames": 4, "height": 32, "width": 32}
    assert main([str(tmp_path / "set"), *(f"--{name}={value}" for name, value in options.items())]) == 0
    assert "train.csv" in capsys.readouterr().out
    assert json.loads((tmp_path / "set" / "dataset.json").read_text())["clips"] == 8


def test_encoding_repeats_the_last_row_of_odd_frames_and_refuses_a_change_of_size():
    frames = np.random.default_rng(0).integers(0, 256, (3, 17, 23, 3), dtype=np.uint8)
    with av.open(io.BytesIO(encode_video(frames, 30))) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (24, 18)
    with pytest.raises(ValueError, match="all frames of a video must have one size"):
        encode_video([frames[0], frames[1][:10]], 30)
    with pytest.raises(ValueError, match="at least one frame"):
        encode_video([], 30)
