"""`videomae label`: on a model that tells bright from dark, so that every answer is known."""

import csv
import functools
import http.server
import json
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from support import TINY
from video_files import write_video

from videomae import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEVideoProcessor
from videomae.commands.main import main
from videomae.data.encoding import encode_video
from videomae.data.lists.layouts import open_manifest
from videomae.inference import labels

FPS = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A classifier whose head was made from its answers to a bright and a dark clip: bright 1.00, dark 1.00."""
    torch.manual_seed(0)
    config = VideoMAEConfig(**TINY, id2label={0: "bright", 1: "dark"}, label2id={"bright": 0, "dark": 1})
    model = VideoMAEForVideoClassification(config).eval()
    processor = VideoMAEVideoProcessor(
        size={"shortest_edge": 32}, crop_size=32, sampling={"stride_frames": 1, "clips": 2, "crops": 3}
    )
    seen = []
    hook = model.classifier.register_forward_pre_hook(lambda module, given: seen.append(given[0][0]))
    with torch.no_grad():
        for shade in (220, 30):
            clip = np.full((16, 32, 32, 3), shade, np.uint8)
            model(**processor(list(clip), return_tensors="pt"))
        bright, dark = seen
        hook.remove()
        weight = (bright - dark) * 8 / (bright - dark).square().sum()
        model.classifier.weight.copy_(torch.stack([weight, -weight]))
        model.classifier.bias.copy_(torch.tensor([-1.0, 1.0]) * (weight @ (bright + dark) / 2))
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def shades(*spans):
    """A video of grey frames: (count, shade) one after the other."""
    return encode_video((np.full((32, 48, 3), shade, np.uint8) for count, shade in spans for _ in range(count)), FPS)


@pytest.fixture
def videos(tmp_path):
    """Three seconds dark, three bright, three dark; and one that is dark all the time."""
    (tmp_path / "videos" / "more").mkdir(parents=True)
    (tmp_path / "videos" / "flash.mp4").write_bytes(shades((90, 30), (90, 220), (90, 30)))
    (tmp_path / "videos" / "more" / "night.mp4").write_bytes(shades((60, 30)))
    return tmp_path / "videos"


def run(folder, data, output, *options):
    words = ["label", data, "--model", folder, "--output", output, "--device", "cpu", *options]
    return main(list(map(str, words)))


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def record_of(output, name):
    return json.loads((output / "videos" / f"{name}.json").read_text("utf-8"))


@pytest.fixture
def no_model(monkeypatch):
    """From here on a video that is run through the model is an error of the test."""

    def refuse(pipe, source, *_, **__):
        raise AssertionError(f"{source} was run again")

    return lambda: monkeypatch.setattr(labels, "score_video", refuse)


# ------------------------------------------------------------------------------------------------------ what is written


def test_a_folder_gives_tables_subtitles_and_pictures(folder, videos, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(folder, videos, out) == 0
    assert "2 videos labelled, 0 not read" in capsys.readouterr().out
    assert [(row["path"], row["label"]) for row in rows_of(out / "labels.csv")] == [
        ("flash.mp4", "bright"),  # the model's clip is the middle one
        ("more/night.mp4", "dark"),
    ]
    best = [row for row in rows_of(out / "windows.csv") if row["path"] == "flash.mp4" and row["rank"] == "1"]
    assert [row["label"] for row in best if float(row["end_seconds"]) < 2.9] == ["dark"] * 9
    assert {row["label"] for row in best if 3.1 < float(row["start_seconds"]) < 5.4} == {"bright"}
    assert sorted(path.name for path in (out / "videos").rglob("*.*")) == [
        *(f"flash.{suffix}" for suffix in ("json", "png", "srt", "vtt")),
        *(f"night.{suffix}" for suffix in ("json", "png", "srt", "vtt")),
    ]
    subtitles = (out / "videos/flash.srt").read_text().split("\n\n")
    assert [block.splitlines()[2].split()[0] for block in subtitles] == ["dark", "bright", "dark"]
    assert not (out / "stretches.csv").exists() and "stretches" not in record_of(out, "flash")


def test_the_scores_are_those_of_the_pipeline(folder, videos, tmp_path):
    assert run(folder, videos / "flash.mp4", tmp_path / "out", "--stride", 20, "--all_views") == 0
    pipe = labels.open_pipeline(str(folder), device="cpu")
    windows = list(pipe.windows(str(videos / "flash.mp4"), hop_frames=20, progress=False))
    record = record_of(tmp_path / "out", "flash")
    assert len(record["windows"]) == len(windows) == 14
    for ours, theirs in zip(record["windows"], windows):
        assert (ours["first_frame"], ours["last_frame"]) == (theirs["first_frame"], theirs["last_frame"])
        assert ours["start_seconds"] == pytest.approx(theirs["start_seconds"], abs=1e-6)
        assert [guess["label"] for guess in ours["scores"]] == [guess["label"] for guess in theirs["scores"]]
        assert ours["scores"][0]["score"] == pytest.approx(theirs["scores"][0]["score"], abs=1e-6)
    whole = pipe(str(videos / "flash.mp4"), views="test")
    assert record["labels"][0]["label"] == whole[0]["label"]
    assert record["labels"][0]["score"] == pytest.approx(whole[0]["score"], abs=1e-6)
    assert (record["seconds"], record["fps"]) == (pytest.approx(9.0, abs=1e-3), 30.0)


def test_stretches_lie_where_the_video_is_bright_and_are_scored_against_labelled_ones(folder, videos, tmp_path, capsys):
    truth = tmp_path / "truth.csv"
    truth.write_text(
        "path,label,start_seconds,end_seconds\nflash.mp4,bright,3,6\nmore/night.mp4,,,\nelse.mp4,bright,1,2\n"
    )
    options = ("--truth", truth, "--background", "dark", "--smooth_seconds", 0)
    assert run(folder, videos, tmp_path / "out", *options) == 0
    (row,) = rows_of(tmp_path / "out" / "stretches.csv")
    assert (row["path"], row["label"]) == ("flash.mp4", "bright") and float(row["score"]) > 0.9
    assert (float(row["start_seconds"]), float(row["end_seconds"])) == pytest.approx((3.0, 6.0), abs=0.3)
    (blocks,) = (tmp_path / "out/videos/flash.vtt").read_text().split("\n\n")[1:]
    assert blocks.splitlines()[1].startswith("bright")
    found = json.loads((tmp_path / "out/stretches.json").read_text())
    assert set(found) == {"version", "external_data", "results"} and found["results"]["more/night"] == []
    (answer,) = found["results"]["flash"]
    assert answer["label"] == "bright" and answer["segment"] == [float(row["start_seconds"]), float(row["end_seconds"])]
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert scores["map"] == {"0.3": 1.0, "0.4": 1.0, "0.5": 1.0, "0.6": 1.0, "0.7": 1.0}
    assert scores["frame_accuracy"] > 0.95 and scores["videos"] == 2
    printed = capsys.readouterr().out
    assert "mAP by tIoU, 1 labels in 2 videos: 0.3: 100.0" in printed
    assert "videos of --truth that are not here, and not scored: 1, the first is else.mp4" in printed


def test_other_thresholds_and_formats_need_no_model_and_leave_nothing_of_the_earlier_ones(
    folder, videos, tmp_path, no_model
):
    out, truth = tmp_path / "out", tmp_path / "truth.json"
    truth.write_text('{"database": {"flash": {"annotations": [{"segment": [3, 6], "label": "bright"}]}}}')
    assert run(folder, videos, out, "--truth", truth, "--smooth_seconds", 0) == 0
    assert (out / "scores.json").is_file()
    found = rows_of(out / "stretches.csv")
    no_model()
    assert run(folder, videos, out, "--stretches", "--enter_score", 1.0, "--formats", "csv", "vtt") == 0
    assert len(rows_of(out / "stretches.csv")) < len(found) and not (out / "scores.json").exists()
    assert {path.suffix for path in (out / "videos").rglob("*.*")} == {".json", ".vtt"}
    assert run(folder, videos, out, "--formats", "png") == 0
    assert not list(out.glob("*.csv")) and {path.suffix for path in (out / "videos").rglob("*.*")} == {".json", ".png"}


def test_whole_files_alone(folder, videos, tmp_path):
    out = tmp_path / "out"
    assert run(folder, videos, out, "--no_windows", "--top_k", 1) == 0
    assert sorted(path.name for path in out.rglob("*.*")) == [
        *("flash.json", "flash.safetensors", "labels.csv", "labels.json", "night.json", "night.safetensors")
    ]
    record = record_of(out, "more/night")
    assert record["windows"] == [] and [guess["label"] for guess in record["labels"]] == ["dark"]
    assert record["seconds"] == pytest.approx(2.0, abs=0.01)


def test_the_table_of_labels_is_a_list_that_training_reads(folder, videos, tmp_path):
    run(folder, videos, tmp_path / "out", "--no_windows")
    manifest = open_manifest(tmp_path / "out/labels.csv", root=videos)
    assert [manifest.path(k) for k in (0, 1)] == ["flash.mp4", "more/night.mp4"]
    assert manifest.class_names == ("bright", "dark") and manifest.labels.tolist() == [0, 1]


@pytest.mark.parametrize("stride, frames", [("20", 20), ("0.5s", 15), ("0.001s", 1), (None, None)])
def test_a_stride_is_in_frames_or_in_seconds_of_the_video(stride, frames):
    assert labels.hop_of(stride, 30.0) == frames


def test_printed_json_is_the_summary(folder, videos, tmp_path, capsys):
    assert run(folder, videos, tmp_path / "out", "--json", "--no_windows") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out/labels.json").read_text())
    assert [video["labels"][0]["label"] for video in printed["videos"]] == ["bright", "dark"]


# --------------------------------------------------------------------------------------- broken, interrupted, changed


def test_a_broken_video_is_named_and_the_others_are_labelled(folder, videos, tmp_path, capsys):
    (videos / "empty.mp4").write_bytes(b"")
    (videos / "text.mp4").write_text("no video")
    write_video(videos / "stills.avi", 20)
    assert run(folder, videos, tmp_path / "out") == 1
    printed = capsys.readouterr().out
    assert "3 videos labelled, 2 not read" in printed and "not read: empty.mp4" in printed and "text.mp4" in printed
    assert len(rows_of(tmp_path / "out/labels.csv")) == 3
    summary = json.loads((tmp_path / "out/labels.json").read_text())
    assert [video["path"] for video in summary["broken"]] == ["empty.mp4", "text.mp4"]


def test_a_folder_of_images_is_named_with_the_commands_that_read_it(folder, tmp_path, capsys):
    (tmp_path / "videos" / "still").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (32, 32)).save(tmp_path / "videos" / "still" / f"img_{number}.jpg")
    assert run(folder, tmp_path / "videos", tmp_path / "out") == 1
    assert "is a folder of images, which say nothing of time" in capsys.readouterr().out


def test_a_cut_off_video_is_read_as_far_as_it_goes_where_that_is_asked(folder, tmp_path, capsys):
    whole = write_video(tmp_path / "whole.mkv", 200)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[:-5000])
    assert run(folder, cut, tmp_path / "out") == 1 and "is cut off" in capsys.readouterr().out
    assert run(folder, cut, tmp_path / "out", "--errors", "truncate") == 1
    assert "errors: 'strict', now 'truncate'" in capsys.readouterr().err
    assert run(folder, cut, tmp_path / "out", "--errors", "truncate", "--overwrite") == 0
    assert "cut off or damaged, read as far as it goes: cut.mkv" in capsys.readouterr().out
    record = record_of(tmp_path / "out", "cut")
    assert record["truncated"] and 0 < record["seconds"] < 200 / 30


def test_the_same_command_continues_after_an_interruption(folder, videos, tmp_path, monkeypatch, capsys):
    out, ran, score = tmp_path / "out", [], labels.score_video

    def interrupted(pipe, source, *arguments, **options):
        if ran:
            raise KeyboardInterrupt
        ran.append(source)
        return score(pipe, source, *arguments, **options)

    monkeypatch.setattr(labels, "score_video", interrupted)
    assert run(folder, videos, out) == 130
    assert not (out / "labels.csv").exists() and (out / "videos/flash.json").is_file()

    def counted(pipe, source, *arguments, **options):
        ran.append(source)
        return score(pipe, source, *arguments, **options)

    monkeypatch.setattr(labels, "score_video", counted)
    assert run(folder, videos, out) == 0
    assert [str(path)[-9:] for path in ran] == ["flash.mp4", "night.mp4"]
    assert run(folder, videos, tmp_path / "fresh") == 0
    for path in sorted((tmp_path / "fresh").rglob("*.*")):
        if path.name not in ("labels.json",):
            assert (out / path.relative_to(tmp_path / "fresh")).read_bytes() == path.read_bytes(), path
    capsys.readouterr()


def test_a_video_that_changed_is_run_again_and_one_that_broke_is_forgotten(folder, videos, tmp_path):
    out = tmp_path / "out"
    assert run(folder, videos, out) == 0
    (videos / "more/night.mp4").write_bytes(shades((60, 220)))
    (videos / "flash.mp4").write_text("no video")
    assert run(folder, videos, out) == 1
    assert [(row["path"], row["label"]) for row in rows_of(out / "labels.csv")] == [("more/night.mp4", "bright")]
    assert not list(out.rglob("flash.*"))


def test_damaged_scores_are_made_again(folder, videos, tmp_path):
    out = tmp_path / "out"
    run(folder, videos, out)
    stored = out / "scores/flash.safetensors"
    good = stored.read_bytes()
    stored.write_bytes(good[:100])
    assert run(folder, videos, out) == 0 and stored.read_bytes() == good


def test_other_settings_do_not_mix_with_what_is_there(folder, videos, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(folder, videos, out, "--no_windows") == 0
    assert run(folder, videos, out) == 1
    said = capsys.readouterr().err
    assert "holds other labels (windows: False, now True); give another --output, or --overwrite" in said
    assert run(folder, videos, out, "--overwrite") == 0 and (out / "windows.csv").is_file()
    (out / "labels.json").write_text("{")
    assert run(folder, videos, out) == 1 and "labels.json is damaged" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    assert run(folder, videos, tmp_path / "full") == 1
    assert "is not empty and holds no labels" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ addresses


def test_an_address_is_fetched_once_for_all_passes_and_not_again(folder, videos, tmp_path, no_model):
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(videos)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/flash.mp4?token=1"
        assert run(folder, url, tmp_path / "out") == 0
        assert asked == ["/flash.mp4?token=1"]
        assert run(folder, url.replace("flash", "none"), tmp_path / "other") == 1
        no_model()
        assert run(folder, url, tmp_path / "out", "--stretches") == 0
    finally:
        server.shutdown()
        server.server_close()
    assert (tmp_path / "out/videos/flash.srt").is_file()
    assert "answers 404" in json.loads((tmp_path / "other/labels.json").read_text())["broken"][0]["error"]


# -------------------------------------------------------------------------------------------------- what cannot be meant


@pytest.mark.parametrize(
    "options, message",
    [
        (("--no_windows", "--stretches"), "--stretches and --truth need windows; leave --no_windows out"),
        (("--stride", "0"), "frames such as 32, or seconds such as 0.5s, not '0'"),
        (("--stride", "0.0s"), "frames such as 32, or seconds such as 0.5s, not '0.0s'"),
        (("--formats", "pdf"), "--formats must be one of csv, srt, vtt, png, not 'pdf'"),
        (("--truth", "nowhere.csv"), "--truth nowhere.csv: no such file"),
        (("--enter_score", "2"), "--enter_score must be at most 1, not 2"),
    ],
)
def test_a_command_line_that_cannot_be_meant_is_refused_before_anything_is_read(
    options, message, folder, videos, capsys
):
    assert run(folder, videos, "out", *options) == 2
    assert message in capsys.readouterr().err


def test_the_files_of_a_list_of_stretches_are_labelled_whole_and_once_each(folder, videos, tmp_path):
    (videos / "list.csv").write_text(
        "path,label,start_seconds,end_seconds\nflash.mp4,bright,3,6\nflash.mp4,dark,6,9\nmore/night.mp4,dark,0,1\n"
    )
    assert run(folder, videos / "list.csv", tmp_path / "out", "--truth", videos / "list.csv") == 0
    assert [row["path"] for row in rows_of(tmp_path / "out/labels.csv")] == ["flash.mp4", "more/night.mp4"]
    assert record_of(tmp_path / "out", "flash")["seconds"] == pytest.approx(9.0, abs=0.01)


def test_results_inside_the_folder_of_videos_are_refused(folder, videos, monkeypatch, capsys):
    assert run(folder, videos, videos / "more" / "out") == 2
    assert "where videos are searched for; give a folder outside of it" in capsys.readouterr().err
    monkeypatch.chdir(videos)
    assert (
        main(["label", ".", "--model", str(folder)]) == 2 and "videos-labels lies inside ." in capsys.readouterr().err
    )


def test_an_address_that_is_no_video_on_the_web_is_refused(folder, tmp_path, capsys):
    assert run(folder, "rtmp://127.0.0.1/camera", tmp_path / "out") == 1
    assert "rtmp" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_keep_score_above_the_enter_score_and_an_unknown_background_are_refused(folder, videos, tmp_path, capsys):
    assert run(folder, videos, tmp_path / "out", "--stretches", "--keep_score", 0.9) == 1
    assert "keep_score is 0.9 and enter_score 0.5" in capsys.readouterr().err
    assert run(folder, videos, tmp_path / "out", "--stretches", "--background", "grey") == 1
    assert "background names 'grey', which is no label of the model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_models_that_give_no_labels_are_refused(tmp_path, videos, capsys):
    torch.manual_seed(0)
    VideoMAEForPreTraining(VideoMAEConfig(**TINY)).save_pretrained(tmp_path / "pretrained")
    assert run(tmp_path / "pretrained", videos, tmp_path / "out") == 1
    assert "not a classifier; fine-tune it first" in capsys.readouterr().err
    values = VideoMAEForVideoClassification(VideoMAEConfig(**TINY, num_labels=1, problem_type="regression"))
    values.save_pretrained(tmp_path / "values")
    assert run(tmp_path / "values", videos, tmp_path / "out") == 1
    assert "gives values, not labels" in capsys.readouterr().err
    names = {"id2label": {0: "run", 1: "run"}, "label2id": {"run": 0}}
    VideoMAEForVideoClassification(VideoMAEConfig(**TINY, **names)).save_pretrained(tmp_path / "twice")
    assert run(tmp_path / "twice", videos, tmp_path / "out") == 1
    assert "two outputs of the model are called 'run'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_scores_that_are_not_finite_are_no_labels(folder, videos, tmp_path, capsys):
    model = VideoMAEForVideoClassification.from_pretrained(folder)
    torch.nn.init.constant_(model.classifier.bias, float("nan"))
    model.save_pretrained(tmp_path / "nan")
    VideoMAEVideoProcessor.from_pretrained(folder).save_pretrained(tmp_path / "nan")
    assert run(tmp_path / "nan", videos / "flash.mp4", tmp_path / "out") == 1
    assert "are not finite; check the weights with `videomae doctor`" in capsys.readouterr().out
