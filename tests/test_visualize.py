"""`videomae visualize`: every kind of model and picture, and what is said of leaks and of mistakes."""

import json

import pytest
import torch
from PIL import Image
from support import TINY
from video_files import write_video

from videomae import (
    VideoMAEConfig,
    VideoMAEForActionDetection,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
    VideoMAEModel,
    VideoMAEVideoProcessor,
)
from videomae.commands.main import main
from videomae.models import open_processor
from videomae.pictures.clip import read_clip
from videomae.pictures.views import open_encoder, rebuilt_clip
from videomae.video_io import probe


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "video.mp4", num_frames=80, width=96, height=64, fps=20)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pretrained")
    VideoMAEForPreTraining(VideoMAEConfig(**TINY)).save_pretrained(folder)
    VideoMAEVideoProcessor(size=32, crop_size=32).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("classifier")
    VideoMAEForVideoClassification(VideoMAEConfig(**TINY, num_labels=4)).save_pretrained(folder)
    return str(folder)


def record_of(folder):
    return json.loads((folder / "visualization.json").read_text())


def test_a_pretrained_model_gives_a_leak_free_picture_film_and_record(pretrained, video, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["visualize", pretrained, str(video)]) == 0
    said = capsys.readouterr().out
    assert "tube mask: 112 of 128 tokens are hidden." in said and "No leak" in said and "LEAK" not in said
    folder = tmp_path / "video-pictures"
    assert said.splitlines()[-1].startswith("video-pictures/ has reconstruction.png, reconstruction.gif, recon")
    record = record_of(folder)["reconstruction"]
    assert record["hidden"] == record["rebuilt"] == 112 and list(record["statistics"]) == ["nearby"]
    with Image.open(folder / "reconstruction.png") as picture:
        assert picture.width > 8 * 112
    with Image.open(folder / "reconstruction.gif") as film:
        assert film.n_frames == 16
    info = probe(folder / "reconstruction.mp4")
    assert info.num_frames == 16 and info.duration_seconds == pytest.approx(16 * 63 / 15 / 20, abs=0.05)


def test_the_true_statistics_are_named_a_leak_wherever_they_are_used(pretrained, video, tmp_path, capsys):
    options = ["--statistics", "patch", "visible", "none", "--formats", "png", "--output", str(tmp_path)]
    assert main(["visualize", pretrained, str(video), *options]) == 0
    said = capsys.readouterr().out
    assert said.count("LEAK: each hidden patch got its own true brightness and contrast back") == 1
    found = record_of(tmp_path)["reconstruction"]["statistics"]
    assert sorted(found) == ["none", "patch", "visible"] and found["patch"]["note"].startswith("LEAK")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reconstruction.png", "visualization.json"]


def test_a_model_of_plain_pixels_gives_one_picture_without_a_leak(video, tmp_path, capsys):
    VideoMAEForPreTraining(VideoMAEConfig(**TINY, norm_pix_loss=False)).save_pretrained(tmp_path / "model")
    options = ["--statistics", "patch", "visible", "--formats", "png", "--output", str(tmp_path / "out")]
    assert main(["visualize", str(tmp_path / "model"), str(video), *options]) == 0
    assert "nothing true was put back" in capsys.readouterr().out
    assert len(record_of(tmp_path / "out")["reconstruction"]["statistics"]) == 1


@pytest.mark.parametrize(
    "options, hidden, rebuilt",
    [
        (["--mask", "random", "--mask_ratio", "0.5"], 64, 64),
        (["--mask", "frame", "--mask_ratio", "0.5"], 64, 64),
        (["--mask", "running_cell"], 64, 64),
        (["--mask_ratio", "0.75", "--decoder_mask", "running_cell"], 96, 48),
        (["--mask_ratio", "0.75", "--decoder_mask", "frame", "--decoder_mask_ratio", "0.25"], 96, 72),
    ],
)
def test_every_mask_of_encoder_and_decoder_can_be_drawn(pretrained, video, tmp_path, options, hidden, rebuilt):
    assert main(["visualize", pretrained, str(video), *options, "--formats", "png", "--output", str(tmp_path)]) == 0
    record = record_of(tmp_path)["reconstruction"]
    assert (record["hidden"], record["rebuilt"]) == (hidden, rebuilt)


def test_a_classifier_shows_attention_of_the_layers_and_heads_asked_for(classifier, video, tmp_path, capsys):
    options = ["--layer", "0", "-1", "--head", "mean", "2", "--query", "7", "3", "0", "--output", str(tmp_path)]
    assert main(["visualize", classifier, str(video), *options, "--formats", "png", "gif"]) == 0
    assert "Attention of the framed token" in capsys.readouterr().out
    record = record_of(tmp_path)["attention"]
    assert record["grid"] == [8, 4, 4] and record["query"] == [7, 3, 0]
    assert [(entry["layer"], entry["head"]) for entry in record["maps"]] == [(0, "mean"), (0, 2), (2, "mean"), (2, 2)]


def test_attention_of_a_detector_and_of_whole_frames_that_patches_do_not_tile(video, tmp_path):
    config = VideoMAEConfig.preset(
        "small", head="detect", **{**TINY, "hidden_size": 48, "num_labels": 3, "detection_short_side": 44}
    )
    VideoMAEForActionDetection(config).save_pretrained(tmp_path / "model")
    VideoMAEVideoProcessor(size={"shortest_edge": 44}, do_center_crop=False).save_pretrained(tmp_path / "model")
    assert main(["visualize", str(tmp_path / "model"), str(video), "--output", str(tmp_path / "out")]) == 0
    assert record_of(tmp_path / "out")["attention"]["grid"] == [8, 5, 8]  # 44 x 66 pixels, patches of 8


def test_a_clip_starts_and_strides_as_asked_and_holds_the_last_frame(pretrained, video):
    config = VideoMAEConfig.from_pretrained(pretrained)
    processor = open_processor(pretrained, config)
    clip = read_clip(video, processor, config, start_seconds=3.0, stride_frames=2)
    assert clip.seconds[:3] == pytest.approx((3.0, 3.1, 3.2)) and clip.seconds[-1] == pytest.approx(3.95)
    whole = read_clip(video, processor, config)
    start = read_clip(video, processor, config, start_seconds=whole.seconds[0])
    assert torch.equal(
        whole.pixel_values[:4], start.pixel_values[:4]
    )  # the official stride stretches a little later on


def test_equal_seeds_give_equal_masks_and_others_do_not(pretrained, video):
    model = VideoMAEForPreTraining.from_pretrained(pretrained)
    clip = read_clip(video, open_processor(pretrained, model.config), model.config)
    first, same, other = (rebuilt_clip(model, clip, seed=seed).hidden for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_the_encoder_of_any_model_is_opened_without_a_word_about_its_head(classifier, pretrained, capsys):
    assert isinstance(open_encoder(classifier), VideoMAEModel) and isinstance(open_encoder(pretrained), VideoMAEModel)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "options, message",
    [
        (["--mask_ratio", "1"], "mask tube of ratio 1 hides every token, so the encoder sees nothing"),
        (["--mask_ratio", "0"], "mask tube of ratio 0 hides no token, so nothing is rebuilt"),
        (["--mask_ratio", "1.5"], r"mask ratio must be in \[0, 1\], got 1.5"),
        (["--mask", "running_cell", "--mask_ratio", "0.9"], "running_cell_mask has ratio 0.5"),
        (["--decoder_mask", "random", "--decoder_mask_ratio", "1"], "leaves out every hidden token"),
        (["--start_seconds", "9"], "start_seconds must be in the video, 0 to 4.00, not 9"),
        (["--show", "attention", "--layer", "3"], "layer must be in 0 to 2"),
        (["--show", "attention", "--query", "8", "0", "0"], "query must be a slot, row and column below 8, 4, 4"),
        (["--columns", "0"], "--columns must be at least 1, not 0"),
        (["--height", "3"], "--height must be at least 32, not 3"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(pretrained, video, tmp_path, capsys, options, message):
    code = 2 if "must be at least" in message else 1
    assert main(["visualize", pretrained, str(video), *options, "--output", str(tmp_path / "out")]) == code
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    with pytest.raises(ValueError, match=message):
        raise ValueError(said)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_shown_is_refused(classifier, video, tmp_path, capsys):
    assert main(["visualize", classifier, str(video), "--show", "reconstruction"]) == 1
    assert "is VideoMAEForVideoClassification, and a VideoMAEForPreTraining is needed" in capsys.readouterr().err
    config = VideoMAEConfig(**TINY)
    VideoMAEModel(config).save_pretrained(tmp_path / "bare")
    path = tmp_path / "bare" / "config.json"
    path.write_text(path.read_text().replace('"VideoMAEModel"', '"VideoMAEForPreTraining"'))
    assert main(["visualize", str(tmp_path / "bare"), str(video)]) == 1
    assert "so it can rebuild nothing" in capsys.readouterr().err
    assert main(["visualize", classifier, str(tmp_path / "no.mp4")]) == 2
    assert "no.mp4" in capsys.readouterr().err
