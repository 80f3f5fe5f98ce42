"""Features: against the published script restated, frame by frame, interrupted and resumed, and over processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support import TINY
from torch.nn import functional as F
from video_files import numbered_frame, write_video

from videomae import video_io
from videomae.commands.main import main
from videomae.configuration_videomae import VideoMAEConfig
from videomae.conversion import reference as reference
from videomae.conversion.layouts import official_state
from videomae.data.lists.layouts import open_manifest, open_videos
from videomae.data.prepare import prepare
from videomae.features import extract as features
from videomae.features.clips import FeatureEncoder, Length, Pixels
from videomae.features.extract import entries_of, read_ahead
from videomae.features.files import RowFile, read_array
from videomae.modeling_videomae import VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel
from videomae.modeling_videomae_detection import VideoMAEForActionDetection
from videomae.video_io import read_frames
from videomae.video_processing_videomae import VideoMAEVideoProcessor


def save(model, folder):
    model.save_pretrained(folder)
    VideoMAEVideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def tiny(kind=VideoMAEForVideoClassification, **fields):
    torch.manual_seed(0)
    return kind(VideoMAEConfig(**{**TINY, "norm_eps": 1e-6, "layer_norm_eps": 1e-6, **fields})).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tiny(num_labels=3), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Four videos of which one is in a folder of its own."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "more").mkdir()
    for name, length in (("a.mp4", 150), ("b.mkv", 70), ("c.mp4", 40), ("more/a.mp4", 90)):
        write_video(folder / name, length, width=64, height=48)
    return folder


def run(folder, data, output, *options):
    return main(["features", str(folder), str(data), str(output), "--device", "cpu", *map(str, options)])


def manifest_of(output):
    return json.loads((output / "manifest.json").read_text("utf-8"))


def index_of(output, name):
    return json.loads((output / "index" / f"{name}.json").read_text("utf-8"))["windows"]


def files_of(output):
    return {str(path.relative_to(output)): path.read_bytes() for path in sorted(output.rglob("features/**/*.*"))}


def decoded(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


# ------------------------------------------------------------------------------------------ the published script


@pytest.mark.parametrize("dataset, stride", [("thumos14", 4), ("fineaction", 16)])
def test_reference_mode_equals_the_published_script_restated(folder, videos, tmp_path, dataset, stride):
    """Every window from one full decode, one by one, through the official forward restated; nothing of ours is used."""
    assert run(folder, videos / "a.mp4", tmp_path / "out", "--reference", dataset) == 0
    frames, tensors, expected = np.stack(decoded(videos / "a.mp4")), official_state(folder), []
    for start in range(0, len(frames) - 15, stride):
        clip = torch.from_numpy(frames[start : start + 16]).permute(3, 0, 1, 2).float() / 255
        clip = F.interpolate(clip, size=(32, 32), mode="bilinear", align_corners=False)
        outputs = reference.classify(tensors, clip.transpose(0, 1)[None], heads=3, eps=1e-6)
        expected.append(outputs["pooled_features"][0].numpy())
    ours = np.load(tmp_path / "out/features/a.npy")
    assert ours.dtype == np.float32 and ours.shape == (len(range(0, 135, stride)), 48)
    np.testing.assert_allclose(ours, np.stack(expected), atol=2e-5)
    assert index_of(tmp_path / "out", "a")["first_frame"] == list(range(0, 135, stride))


def test_reference_mode_differs_from_the_default_in_pixels_and_says_so(folder, videos, tmp_path):
    run(folder, videos / "a.mp4", tmp_path / "reference", "--reference", "thumos14")
    run(folder, videos / "a.mp4", tmp_path / "ours", "--window", 16, "--stride", 4, "--partial", "drop")
    one, other = (np.load(tmp_path / name / "features/a.npy") for name in ("reference", "ours"))
    assert one.shape == other.shape and np.abs(one - other).max() > 1e-2
    identity = manifest_of(tmp_path / "reference")["identity"]
    assert identity["reference"] == "thumos14" and identity["pixels"]["do_normalize"] is False


def test_reference_mode_reports_a_video_shorter_than_a_window(folder, tmp_path, capsys):
    write_video(tmp_path / "short.mp4", 15)
    write_video(tmp_path / "long.mp4", 16)
    assert run(folder, tmp_path, tmp_path / "out", "--reference", "thumos14") == 1
    assert "short.mp4: it has 15 frames, fewer than the 16 of a window" in capsys.readouterr().out
    assert np.load(tmp_path / "out/features/long.npy").shape == (1, 48)


def test_reference_mode_takes_no_options_that_it_fixes_and_needs_the_norm(folder, videos, tmp_path, capsys):
    assert run(folder, videos, tmp_path / "out", "--reference", "thumos14", "--stride", 8, "--dtype", "bfloat16") == 1
    assert "leave out --stride, --dtype" in capsys.readouterr().err
    pretrained = save(tiny(VideoMAEForPreTraining, use_mean_pooling=False), tmp_path / "pretrained")
    assert run(pretrained, videos, tmp_path / "out", "--reference", "thumos14") == 1
    assert "has no fc_norm" in capsys.readouterr().err and not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------------------------- windows and clips


def test_windows_of_a_five_minute_video_decode_each_frame_once(folder, tmp_path, monkeypatch):
    picture = numbered_frame(0, 64, 48)
    frames = [np.roll(picture, 4 * (i % 16), axis=1) for i in range(16)]
    path = write_video(tmp_path / "long.mp4", 7500, width=64, height=48, fps=25, gop=250,
                       options={"preset": "ultrafast"}, frames=[frames[i % 16] for i in range(7500)])  # fmt: skip
    seen, converted = [], []

    class Counted:
        """The container, counting what comes out of its decoder."""

        def __init__(self, container):
            self.container = container

        def __getattr__(self, name):
            return getattr(self.container, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.container.close()

        def decode(self, stream):
            for frame in self.container.decode(stream):
                seen.append(frame.pts)
                yield frame

    opened, decoding, frame = video_io.open_container, video_io.VideoReader._run, Pixels.frame

    def counted_open(*arguments):
        container, stream = opened(*arguments)
        return Counted(container), stream

    def counted_run(*arguments):
        for number, picture in decoding(*arguments):
            seen.append(number)
            yield number, picture

    monkeypatch.setattr(video_io, "open_container", counted_open)
    monkeypatch.setattr(video_io.VideoReader, "_run", counted_run)
    monkeypatch.setattr(Pixels, "frame", lambda self, picture: converted.append(1) or frame(self, picture))
    assert run(folder, path, tmp_path / "out", "--batch_size", 16) == 0
    assert len(seen) == len(set(seen)) == 7500
    assert len(converted) == 7500 // 4  # every fourth frame is in a window, half of them in two
    windows = index_of(tmp_path / "out", "long")
    assert windows["first_frame"] == list(range(0, 7500 - 32, 32)) and windows["last_frame"][-1] == 7499
    assert windows["end_seconds"][-1] == pytest.approx(300.0)
    record = manifest_of(tmp_path / "out")["videos"][0]
    assert (record["shape"], record["frames"], record["fps"]) == ([234, 48], 7500, 25.0)


def by_hand(folder, path, indices):
    """The classifier's own fc_norm(mean) of the frames at `indices`, through the public processor and model."""
    model = VideoMAEForVideoClassification.from_pretrained(folder).eval()
    pixels = VideoMAEVideoProcessor.from_pretrained(folder)(read_frames(path, indices), return_tensors="pt")
    with torch.no_grad():
        tokens = model.videomae(**pixels).last_hidden_state[0]
        return model.fc_norm(tokens.mean(0)).numpy(), tokens.numpy()


def test_a_window_is_what_processor_and_model_make_of_its_frames(folder, videos, tmp_path):
    assert run(folder, videos / "a.mp4", tmp_path / "out", "--window", 40, "--stride", 55) == 0
    ours, windows = np.load(tmp_path / "out/features/a.npy"), index_of(tmp_path / "out", "a")
    assert windows["first_frame"] == [0, 55, 110] and windows["last_frame"] == [37, 92, 147]
    offsets = [int(i * 40 / 16) for i in range(16)]
    for row, start in zip(ours, windows["first_frame"]):
        np.testing.assert_allclose(row, by_hand(folder, videos / "a.mp4", [start + i for i in offsets])[0], atol=1e-5)
    assert windows["start_seconds"] == pytest.approx([0, 55 / 30, 110 / 30], abs=1e-3)


def test_an_end_that_fills_no_window_repeats_its_last_frame_or_is_dropped(folder, videos, tmp_path):
    run(folder, videos / "c.mp4", tmp_path / "kept", "--window", 32, "--stride", 32)
    run(folder, videos / "c.mp4", tmp_path / "dropped", "--window", 32, "--stride", 32, "--partial", "drop")
    kept, dropped = (np.load(tmp_path / name / "features/c.npy") for name in ("kept", "dropped"))
    assert kept.shape == (2, 48) and dropped.shape == (1, 48)
    indices = [min(32 + 2 * i, 38) for i in range(16)]
    np.testing.assert_allclose(kept[1], by_hand(folder, videos / "c.mp4", indices)[0], atol=1e-5)


def test_windows_by_seconds_keep_to_the_clock(folder, tmp_path):
    write_video(tmp_path / "a.mp4", 300, width=64, height=48, fps=30)
    assert run(folder, tmp_path / "a.mp4", tmp_path / "out", "--window", "1s", "--stride", "0.55s") == 0
    windows = index_of(tmp_path / "out", "a")
    assert windows["first_frame"][:8] == [round(16.5 * k) for k in range(8)]
    np.testing.assert_allclose(windows["start_seconds"], 0.55 * np.arange(len(windows["start_seconds"])), atol=0.02)


def test_lengths_are_frames_or_seconds():
    assert Length.parse("64") == Length(64) and Length.parse("2.5s") == Length(2.5, "seconds")
    for text in ("2.5", "0", "-4", "s", "fast", "nan"):
        with pytest.raises(ValueError, match="a length is a number of frames such as 64"):
            Length.parse(text)


def test_a_window_of_too_few_frames_is_an_error_of_the_option_or_the_video(folder, tmp_path, capsys):
    write_video(tmp_path / "a.mp4", 60)
    assert run(folder, tmp_path / "a.mp4", tmp_path / "out", "--window", 10) == 1
    assert "shorter than the 16 frames" in capsys.readouterr().err
    assert run(folder, tmp_path / "a.mp4", tmp_path / "out", "--window", "0.3s") == 1
    assert "--window 0.3 seconds is 9 frames, fewer than the 16" in capsys.readouterr().out


def test_one_vector_a_video_is_the_clip_of_the_processor_or_the_mean_over_clips_or_windows(folder, videos, tmp_path):
    path = videos / "a.mp4"
    run(folder, path, tmp_path / "one", "--level", "video")
    pixels = VideoMAEVideoProcessor.from_pretrained(folder)(str(path), return_tensors="pt")
    vectors, _ = FeatureEncoder(str(folder))(pixels["pixel_values"])
    np.testing.assert_allclose(np.load(tmp_path / "one/features/a.npy"), vectors[0], atol=1e-5)
    for name, options in (("clips", ("--clips", 3)), ("windows", ("--stride", 40))):
        run(folder, path, tmp_path / name, "--level", "video", *options)
        run(folder, path, tmp_path / f"{name}-rows", *options)
        mean = np.load(tmp_path / f"{name}-rows/features/a.npy").mean(0)
        np.testing.assert_allclose(np.load(tmp_path / name / "features/a.npy"), mean, atol=1e-6)


def test_tokens_are_in_time_height_width_order_and_their_mean_is_the_vector(folder, videos, tmp_path):
    for level, save_as in (("token", "safetensors"), ("window", "npy")):
        run(folder, videos / "c.mp4", tmp_path / level, "--level", level, "--clips", 2, "--save_as", save_as)
    tokens = load_file(tmp_path / "token/features/c.safetensors")["features"]
    assert tokens.shape == (2, 128, 48) and manifest_of(tmp_path / "token")["identity"]["token_grid"] == [8, 4, 4]
    norm = VideoMAEForVideoClassification.from_pretrained(folder).fc_norm
    with torch.no_grad():
        vectors = norm(tokens.mean(1)).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "window/features/c.npy"), vectors, atol=1e-5)
    np.testing.assert_allclose(
        tokens[1], by_hand(folder, videos / "c.mp4", [min(4 * i, 36) for i in range(16)])[1], atol=1e-5
    )


@pytest.mark.parametrize("kind", ["pretrain", "detect", "features", "squash", "stock"])
def test_the_vector_is_what_the_models_own_head_sees(kind, videos, tmp_path):
    classes = {
        "pretrain": (VideoMAEForPreTraining, {"use_mean_pooling": False}),
        "detect": (VideoMAEForActionDetection, {"use_mean_pooling": False, "num_labels": 2}),
        "features": (VideoMAEModel, {"pooled_features": True}),
    }
    kind_of, fields = classes.get(kind, (VideoMAEForVideoClassification, {}))
    model = tiny(kind_of, **fields)
    save(model, tmp_path / "model")
    if kind == "stock":
        from transformers import VideoMAEForVideoClassification as Stock

        Stock.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "stock")
        for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
            shutil.copy(tmp_path / "model" / name, tmp_path / "stock" / name)
        model, source = Stock.from_pretrained(tmp_path / "stock").eval(), tmp_path / "stock"
    else:
        source = tmp_path / "model"
    options = ["--squash"] if kind == "squash" else []
    assert run(source, videos / "c.mp4", tmp_path / "out", "--clips", 1, *options) == 0
    processor = VideoMAEVideoProcessor.from_pretrained(source)
    clip = read_frames(videos / "c.mp4", [min(4 * i, 36) for i in range(16)])
    if kind == "squash":
        squashed = {"size": {"height": 32, "width": 32}, "do_center_crop": False}
        pixels = processor(clip, return_tensors="pt", **squashed)
    else:
        pixels = processor(clip, return_tensors="pt")
    with torch.no_grad():
        encoded = (model if kind == "features" else model.videomae)(**pixels)
        if kind == "features":
            expected = encoded.pooler_output
        else:
            expected = encoded.last_hidden_state.mean(1)
            expected = model.fc_norm(expected) if getattr(model, "fc_norm", None) is not None else expected
    np.testing.assert_allclose(np.load(tmp_path / "out/features/c.npy"), expected, atol=2e-5)


# ------------------------------------------------------------------------------------------------- what is read


def test_folders_lists_frame_folders_shards_and_single_files_are_read(folder, videos, tmp_path):
    frames = tmp_path / "data" / "frames"
    frames.mkdir(parents=True)
    from PIL import Image

    for number, picture in enumerate(decoded(videos / "c.mp4"), start=1):
        Image.fromarray(picture).save(frames / f"img_{number:05}.png")
    shutil.copy(videos / "c.mp4", tmp_path / "data" / "c.mp4")
    (tmp_path / "data" / "list.txt").write_text("c.mp4 0\nframes 1 40 0\n".replace("c.mp4 0", "c.mp4 0 -1 0"))
    assert run(folder, tmp_path / "data", tmp_path / "out", "--window", 32, "--fps", 30) == 0
    np.testing.assert_allclose(
        np.load(tmp_path / "out/features/frames.npy"), np.load(tmp_path / "out/features/c.npy"), atol=1e-5
    )
    assert index_of(tmp_path / "out", "frames")["end_seconds"] == pytest.approx(
        index_of(tmp_path / "out", "c")["end_seconds"], abs=1e-3
    )
    prepare(open_videos(str(videos)), tmp_path / "shards", progress=False)
    assert run(folder, tmp_path / "shards", tmp_path / "from_shards") == 0
    assert len(manifest_of(tmp_path / "from_shards")["videos"]) == 4


def test_every_video_is_named_once_and_alike_names_are_kept_apart(tmp_path):
    for name in ("a.mp4", "a.avi", "deep/a.mp4", "dot.ted.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    names = [entry.name for entry in entries_of(open_videos(str(tmp_path)))]
    assert sorted(names) == ["a.avi", "a.mp4", "deep/a", "dot.ted"]
    (tmp_path / "list.txt").write_text(f"a.mp4 0\n{tmp_path}/deep/a.mp4 1\na.mp4 0\n")
    assert [entry.name for entry in entries_of(open_manifest(tmp_path / "list.txt"))] == [
        "a",
        f"{tmp_path}/deep/a".lstrip("/"),
    ]
    (tmp_path / "stretches.txt").write_text("deep 1 8 0\ndeep 9 8 0\n")
    stretches = open_manifest(tmp_path / "stretches.txt")
    assert [entry.name for entry in entries_of(stretches)] == ["deep.1-8", "deep.9-16"]


def test_folders_and_the_videos_beside_them_are_all_taken(videos):
    assert [entry.name for entry in entries_of(open_videos(str(videos)))] == ["a", "b", "c", "more/a"]


def test_a_video_that_cannot_be_read_is_reported_and_done_once_it_is_mended(folder, videos, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(videos, data)
    whole = (data / "a.mp4").read_bytes()
    (data / "a.mp4").write_bytes(whole[: len(whole) // 2])
    (data / "list.txt").write_text("a.mp4 0\nb.mkv 0\ngone.mp4 0\n")
    assert run(folder, data / "list.txt", tmp_path / "out") == 1
    printed = capsys.readouterr().out
    assert "1 videos, 2 rows of 48" in printed and "not read: a.mp4" in printed and "not read: gone.mp4" in printed
    assert [video["path"] for video in manifest_of(tmp_path / "out")["broken"]] == ["a.mp4", "gone.mp4"]
    assert set(files_of(tmp_path / "out")) == {"features/b.npy"}
    (data / "a.mp4").write_bytes(whole)
    shutil.copy(data / "c.mp4", data / "gone.mp4")
    before = (tmp_path / "out/features/b.npy").stat().st_mtime_ns
    assert run(folder, data / "list.txt", tmp_path / "out") == 0
    assert (tmp_path / "out/features/b.npy").stat().st_mtime_ns == before
    assert [video["path"] for video in manifest_of(tmp_path / "out")["videos"]] == ["a.mp4", "b.mkv", "gone.mp4"]


def test_damage_in_the_middle_of_a_video_leaves_no_half_features(folder, videos, tmp_path, monkeypatch):
    walk = video_io.iter_frames

    def failing(source, *arguments):
        for index, *rest in walk(source, *arguments):
            if index == 120:
                raise video_io.VideoReadError(f"{source} cannot be decoded at frame 120")
            yield (index, *rest)

    monkeypatch.setattr("videomae.features.clips.iter_frames", failing)
    assert run(folder, videos / "a.mp4", tmp_path / "out", "--batch_size", 1) == 1
    assert not list((tmp_path / "out/features").iterdir()) and not (tmp_path / "out/index").exists()


# ---------------------------------------------------------------------------------------- resuming, and refusing


def test_a_video_that_is_cut_off_is_named_or_read_as_far_as_it_goes(folder, videos, tmp_path, capsys):
    whole = (videos / "b.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    assert run(folder, tmp_path / "cut.mkv", tmp_path / "strict") == 1
    for kind in ((), ("--clips", "1")):
        output = tmp_path / f"out{len(kind)}"
        assert run(folder, tmp_path / "cut.mkv", output, "--errors", "truncate", *kind) == 0
        assert manifest_of(output)["identity"]["errors"] == "truncate" and not manifest_of(output)["broken"]
        assert manifest_of(output)["truncated"] == ["cut.mkv"]
        assert run(folder, tmp_path / "cut.mkv", output, "--errors", "truncate", *kind) == 0  # done before
        assert manifest_of(output)["truncated"] == ["cut.mkv"]
        assert "cut off or damaged, read as far as it goes: cut.mkv" in capsys.readouterr().out


def test_what_a_kill_left_neither_blocks_an_extraction_nor_stays(folder, videos, tmp_path, capsys):
    for name in (".manifest.json.ab.tmp", "index/.a.json.cd.tmp", "features/.a.npy.ef.tmp"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
        if "/" in name:
            assert run(folder, videos / "c.mp4", tmp_path) == 0
        else:
            assert run(folder, videos / "c.mp4", tmp_path) == 0 and index_of(tmp_path, "c")
        assert not list(tmp_path.rglob("*.tmp"))
    (tmp_path / "index" / "c.json").write_text("[1]")
    assert run(folder, videos / "c.mp4", tmp_path) == 0 and index_of(tmp_path, "c")
    (tmp_path / "manifest.json").write_text("[1]")
    assert run(folder, videos / "c.mp4", tmp_path) == 1
    assert "manifest.json is damaged; give another OUTPUT, or --overwrite" in capsys.readouterr().err


def test_an_extraction_that_was_broken_off_goes_on_and_ends_the_same(folder, videos, tmp_path, monkeypatch):
    assert run(folder, videos, tmp_path / "whole") == 0
    encode, calls = features._encode, []

    def stop_at_the_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(*arguments)

    monkeypatch.setattr(features, "_encode", stop_at_the_third)
    assert run(folder, videos, tmp_path / "out") == 130
    done = files_of(tmp_path / "out")
    assert 0 < len(done) < 4 and not manifest_of(tmp_path / "out")["complete"]
    assert run(folder, videos, tmp_path / "out") == 0
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    assert len(calls) < 8 and manifest_of(tmp_path / "out")["complete"]
    assert manifest_of(tmp_path / "out")["videos"] == manifest_of(tmp_path / "whole")["videos"]


def test_other_options_or_weights_are_refused_with_what_differs(folder, videos, tmp_path, capsys):
    assert run(folder, videos / "c.mp4", tmp_path / "out") == 0
    assert run(folder, videos / "c.mp4", tmp_path / "out", "--stride", 8, "--save_as", "safetensors") == 1
    printed = capsys.readouterr().err
    assert "clips.stride: '32 frames', now '8 frames'" in printed and "save_as: 'npy', now 'safetensors'" in printed
    other = tiny(num_labels=3)
    with torch.no_grad():
        other.fc_norm.bias.add_(1)
    assert run(save(other, tmp_path / "other"), videos / "c.mp4", tmp_path / "out") == 1
    assert "weights_sha256" in capsys.readouterr().err
    assert run(tmp_path / "other", videos / "c.mp4", tmp_path / "out", "--overwrite") == 0
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.jpg").write_bytes(b"")
    assert run(folder, videos / "c.mp4", tmp_path / "photos") == 1
    assert "is not empty and holds no features" in capsys.readouterr().err


def test_a_video_that_has_changed_is_done_again(folder, videos, tmp_path):
    shutil.copy(videos / "c.mp4", tmp_path / "a.mp4")
    run(folder, tmp_path / "a.mp4", tmp_path / "out")
    write_video(tmp_path / "a.mp4", 200)
    run(folder, tmp_path / "a.mp4", tmp_path / "out")
    assert manifest_of(tmp_path / "out")["videos"][0]["frames"] == 200


def test_threads_that_read_ahead_change_nothing(folder, videos, tmp_path):
    for name, workers in (("none", 0), ("three", 3)):
        assert run(folder, videos, tmp_path / name, "--num_workers", workers, "--batch_size", 2) == 0
    assert files_of(tmp_path / "none") == files_of(tmp_path / "three")


def test_an_error_in_a_reading_thread_comes_out_and_ends_the_others():
    def read(unit):
        if unit == 3:
            raise RuntimeError("three")
        yield unit

    with pytest.raises(RuntimeError, match="three"):
        list(read_ahead(range(10_000), read, 2))
    assert sorted(read_ahead([1, 2], read, 4)) == [1, 2]


@pytest.mark.parametrize("options, text", [
    (("--clips", 2, "--stride", 8), "choose one"),
    (("--batch_size", 0), "--batch_size must be at least 1"),
    (("--fps", -1), "--fps must be above 0"),
    (("--window", "long"), "a length is a number of frames"),
    (("--device", "tpu9"), "is not a device of this machine"),
])  # fmt: skip
def test_options_that_mean_nothing_are_refused(folder, videos, tmp_path, capsys, options, text):
    assert run(folder, videos, tmp_path / "out", *options) == (2 if "must be" in text else 1)
    assert text in capsys.readouterr().err


def test_an_encoder_with_missing_weights_is_refused(tmp_path, videos, capsys):
    from safetensors.torch import save_file

    model = save(tiny(num_labels=3), tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    del tensors["fc_norm.weight"]
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    assert run(model, videos, tmp_path / "out") == 1
    assert "of VideoMAEForVideoClassification, such as fc_norm.weight; `videomae doctor`" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("save_as", ["npy", "safetensors"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_written_one_by_one_are_the_array_for_other_readers(tmp_path, save_as, dtype):
    rows = np.random.default_rng(0).normal(size=(1201, 3, 5)).astype(dtype)
    file = RowFile(tmp_path / f"a.{save_as}", dtype, metadata={"path": "ä.mp4"})
    for row in rows:
        file.add(row)
    file.close()
    if save_as == "npy":
        found = np.load(tmp_path / "a.npy")
    else:
        found = load_file(tmp_path / "a.safetensors")["features"].numpy()
        with safe_open(tmp_path / "a.safetensors", "np") as opened:
            assert opened.metadata() == {"path": "ä.mp4"}
    assert found.dtype == dtype and (found == rows).all() and (read_array(tmp_path / f"a.{save_as}") == rows).all()
    single = RowFile(tmp_path / f"b.{save_as}", dtype, single=True)
    single.add(rows[0])
    single.close()
    assert read_array(tmp_path / f"b.{save_as}").shape == (3, 5)
    half = RowFile(tmp_path / f"c.{save_as}", dtype)
    half.add(rows[0])
    if dtype == "float16":
        with pytest.raises(ValueError, match="does not fit into float16; use --save_dtype float32"):
            half.add(np.full((3, 5), 1e6))
    half.abort()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a.{save_as}", f"b.{save_as}"]


@pytest.mark.parametrize("save_as", ["npy", "safetensors"])
def test_a_large_file_is_written_without_holding_it_in_memory(tmp_path, save_as):
    """128 MB in rows of 1 MB, in a process whose data segment may grow by 64 MB only."""
    code = f"""
import pathlib, resource
import numpy as np
from videomae.features.files import RowFile
file = RowFile(pathlib.Path("a.{save_as}"), "float32")
row = np.ones((1024, 256), np.float32)
file.add(row)
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 2**26, used + 2**26))
for _ in range(127):
    file.add(row)
file.close()
"""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("needs Linux to limit memory")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_array(tmp_path / f"a.{save_as}").shape == (128, 1024, 256)


# --------------------------------------------------------------------------------------------- several processes


COMMAND = "import sys; from videomae.commands.features import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.slow
def test_two_processes_and_one_write_identical_features(folder, videos, tmp_path):
    (tmp_path / "extract.py").write_text(COMMAND)
    data = tmp_path / "data"
    shutil.copytree(videos, data)
    (data / "broken.mp4").write_bytes(b"no video")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for processes in (1, 2):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        launch += [
            str(tmp_path / "extract.py"),
            str(folder),
            str(data),
            str(tmp_path / str(processes)),
            "--device",
            "cpu",
        ]
        subprocess.run(launch, capture_output=True, timeout=180, env=environment, check=False)
    one, two = (manifest_of(tmp_path / str(number)) for number in (1, 2))
    assert (one["processes"], two["processes"]) == (1, 2) and two["complete"]
    assert len(two["videos"]) == 4 and one["videos"] == two["videos"]
    assert [video["path"] for video in two["broken"]] == ["broken.mp4"]
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")


@pytest.mark.slow
def test_a_killed_extraction_goes_on_to_identical_files(folder, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_video(data / "0.mp4", 400, width=64, height=48)
    for number in range(1, 12):
        shutil.copy(data / "0.mp4", data / f"{number}.mp4")
    options = [str(folder), str(data), "--device", "cpu", "--stride", "4", "--level", "token"]
    launch = [sys.executable, "-c", COMMAND, *options[:2]]
    process = subprocess.Popen([*launch, str(tmp_path / "killed"), *options[2:]], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("killed/index/*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not manifest_of(tmp_path / "killed")["complete"]
    for name in ("killed", "whole"):
        subprocess.run([*launch, str(tmp_path / name), *options[2:]], check=True, capture_output=True, timeout=300)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    assert not list(tmp_path.rglob(".*.tmp"))
