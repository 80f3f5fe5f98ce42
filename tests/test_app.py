"""The page: what it answers without gradio; what it looks like in a browser is tests/browser's work."""

import builtins
import inspect
import io
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import yaml
from support import TINY
from video_files import write_video

from videomae import (
    VideoMAEConfig,
    VideoMAEForActionDetection,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
    VideoMAEVideoProcessor,
)
from videomae.app.about import About, about, introduction
from videomae.app.answers import Actions, Attention, Labels, Rebuilding, make_examples
from videomae.app.page import build_page, video_input
from videomae.commands.main import main
from videomae.pictures.plot import line_plot, ticks
from videomae.token_reduction_videomae import ReducedVideoMAEConfig, ReducedVideoMAEForVideoClassification
from videomae.video_io import VideoReadError, probe

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    VideoMAEForVideoClassification(VideoMAEConfig(**TINY, num_labels=4)).save_pretrained(folder)
    VideoMAEVideoProcessor(size=32, crop_size=32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    VideoMAEForPreTraining(VideoMAEConfig(**TINY)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detector")
    config = VideoMAEConfig.preset("small", head="detect", **{**TINY, "num_labels": 3, "detection_short_side": 32})
    VideoMAEForActionDetection(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return str(write_video(tmp_path_factory.mktemp("video") / "video.mp4", num_frames=80, width=64, height=48))


def frames_of(film):
    with av.open(io.BytesIO(film)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_video_is_answered_with_its_best_labels(folder, video):
    labels = Labels(str(folder), CPU)
    one, averaged = labels.whole(video, top_k=3), labels.whole(video, all_views=True, top_k=3)
    assert len(one) == len(averaged) == 3 and one != averaged
    assert list(one.values()) == sorted(one.values(), reverse=True)


def test_a_video_that_is_cut_off_is_answered_where_the_page_was_told_to(folder, pretrained, detector, tmp_path):
    content = write_video(tmp_path / "whole.mkv", 80, width=64, height=48, options={"bf": "0"}).read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(VideoReadError, match=r"cut\.mkv is cut off or damaged"):
        Labels(str(folder), CPU).whole(str(cut))
    labels = Labels(str(folder), CPU, errors="truncate")
    assert labels.whole(str(cut)) and labels.over_time(str(cut))
    attention = Attention(labels.model.videomae, labels.processor, errors="truncate")
    assert attention(str(cut), layer=0).notes
    rebuilt = Rebuilding(pretrained, CPU, errors="truncate")(str(cut), mask="tube", mask_ratio=0.5, statistics="none")
    assert "tokens are hidden" in rebuilt.notes[0]
    assert Actions(detector, CPU, errors="truncate")(str(cut), tmp_path / "overlay.mp4", action_score=0.0)


def test_a_folder_that_merges_tokens_is_answered_by_the_class_that_merges(folder, tmp_path):
    config = ReducedVideoMAEConfig.from_pretrained(folder)
    config.merge_per_layer = 1
    ReducedVideoMAEForVideoClassification.from_pretrained(folder, config=config).save_pretrained(tmp_path)
    assert type(Labels(str(tmp_path), CPU).model) is ReducedVideoMAEForVideoClassification


def test_labels_over_time_are_those_of_the_pipelines_windows(folder, video):
    labels, shares = Labels(str(folder), CPU), []
    rows = labels.over_time(video, top_k=2, progress=shares.append)
    windows = list(labels.pipe.windows(video, top_k=4, progress=False))
    assert len(windows) == 2 and len(rows) == 4 and shares[-1] == 1.0
    peaks = {}
    for window in windows:
        for guess in window["scores"]:
            peaks[guess["label"]] = max(guess["score"], peaks.get(guess["label"], 0))
    assert [row["label"] for row in rows[:2]] == sorted(peaks, key=peaks.get, reverse=True)[:2]
    first = {guess["label"]: guess["score"] for guess in windows[0]["scores"]}
    assert rows[0]["score"] == first[rows[0]["label"]]
    assert rows[0]["seconds"] == pytest.approx((windows[0]["start_seconds"] + windows[0]["end_seconds"]) / 2, abs=1e-3)


def test_a_video_of_one_window_gives_a_line_and_not_a_point(folder, tmp_path):
    short = write_video(tmp_path / "short.mp4", num_frames=20, width=64, height=48)
    rows = Labels(str(folder), CPU).over_time(str(short), top_k=1)
    assert [row["seconds"] for row in rows] == pytest.approx([0, 20 / 30], abs=1e-2)


def test_a_reconstruction_follows_the_slider_and_names_its_leak(pretrained, video):
    rebuild = Rebuilding(pretrained, CPU)
    little, much = (
        rebuild(video, mask="tube", mask_ratio=ratio, statistics=statistics)
        for ratio, statistics in ((0.25, "nearby"), (0.75, "patch"))
    )
    assert little.notes[0] == "32 of 128 tokens are hidden." and much.notes[0] == "96 of 128 tokens are hidden."
    assert little.notes[1].startswith("No leak") and much.notes[1].startswith("LEAK")
    assert len(frames_of(little.film)) == 16 and not np.array_equal(frames_of(little.film)[0], frames_of(much.film)[0])
    assert little.picture.width > 8 * 96


def test_attention_follows_layer_and_head(folder, video):
    labels = Labels(str(folder), CPU)
    attention = Attention(labels.model.videomae, labels.processor)
    films = [attention(video, layer=layer, head=head).film for layer, head in ((0, "mean"), (2, "mean"), (2, 1))]
    assert len(set(films)) == 3 and len(frames_of(films[0])) == 16


def test_actions_are_listed_and_drawn_into_the_video(detector, video, tmp_path):
    actions = Actions(detector, CPU)
    rows = actions(video, tmp_path / "overlay.mp4", action_score=0.0, top_k=2, every_seconds=1.0)
    assert [row[0] for row in rows] == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0] and all(row[1] == 1 for row in rows)
    assert probe(tmp_path / "overlay.mp4").num_frames == 80
    assert "no action names" in actions.note
    (tmp_path / "names.txt").write_text("1: stand\n2: walk\n3: wave\n")
    named = Actions(detector, CPU, names=str(tmp_path / "names.txt"))
    assert named.note is None
    rows = named(video, tmp_path / "named.mp4", action_score=0.0, top_k=3, every_seconds=2.0)
    assert {row[2] for row in rows} == {"stand", "walk", "wave"}


def test_examples_are_playable_and_change_their_motion(tmp_path):
    paths = make_examples(tmp_path)
    assert len(paths) == 3
    for path in paths:
        info = probe(path)
        assert info.duration_seconds == pytest.approx(9) and info.codec == "h264"


def test_the_plot_has_a_line_a_label_from_zero_and_escapes_names():
    rows = [
        {"seconds": at, "label": label, "score": score}
        for at in (1.0, 2.0, 3.0)
        for label, score in (("<b>run</b>", 0.9), ("walk", 0.3))
    ]
    shown = line_plot(rows)
    assert shown.count("<polyline") == 2 and "&lt;b&gt;run" in shown and "<b>" not in shown
    assert 'points="0.00,10.00 50.00,10.00 100.00,10.00"' in shown and ">0<" in shown  # 0.9 of an axis from 0 to 1
    assert line_plot([]) == "" and line_plot(rows[:1]).count("<polyline") == 1


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0, 1, [0, 0.5, 1]),
        (0, 0.19, [0, 0.05, 0.1, 0.15, 0.2]),
        (3, 61, [0, 20, 40, 60, 80]),
        (-2.2, 1, [-3, -2, -1, 0, 1]),
        (5, 5, [4, 6]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low, high, expected):
    assert ticks(low, high, 4) == pytest.approx(expected)


def test_without_gradio_the_way_out_is_named(folder, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "gradio":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(OSError, match=r"pip install 'videomae\[demo\]'"):
        build_page(str(folder))


def test_a_space_holds_all_that_its_page_needs(folder, pretrained, tmp_path, capsys):
    space = tmp_path / "space"
    assert main(["app", str(folder), "--pretrained", pretrained, "--write_space", str(space)]) == 0
    assert "hf upload" in capsys.readouterr().out
    _, head, body = (space / "README.md").read_text().split("---\n", 2)
    facts = yaml.safe_load(head)
    assert facts["sdk"] == "gradio" and facts["app_file"] == "app.py" and "models" not in facts
    assert "reconstructions" in body and "actions" not in body
    needed = (space / "requirements.txt").read_text().split("\n")
    assert any(line.startswith("torch>=") for line in needed) and not any("gradio" in line for line in needed)
    assert (space / "model/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert (space / "pretrained/config.json").is_file() and not (space / "videomae/tests").exists()
    # Its app.py runs the package beside it, with the arguments that it was made for.
    code = (
        "import runpy, sys; sys.path.insert(0, '.')\n"
        "import videomae, videomae.commands.main as command\n"
        "command.main = lambda arguments: print(videomae.__file__, *arguments)\n"
        "runpy.run_path('app.py')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=space, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        str(space / "videomae/__init__.py"), "app", "model", "--pretrained", "pretrained", "--host", "0.0.0.0",
    ]  # fmt: skip


def test_a_space_of_named_models_only_names_them(tmp_path):
    (tmp_path / "mine.txt").write_text("1: stand\n")
    options = ["--action_detector", "owner/detector", "--actions", str(tmp_path / "mine.txt")]
    assert main(["app", "owner/name", *options, "--write_space", str(tmp_path / "space")]) == 0
    facts = yaml.safe_load((tmp_path / "space/README.md").read_text().split("---\n")[1])
    assert facts["models"] == ["owner/name", "owner/detector"]
    called = "['app', 'owner/name', '--action_detector', 'owner/detector', '--actions', 'actions.txt', '--host'"
    assert called in (tmp_path / "space/app.py").read_text()
    assert (tmp_path / "space/actions.txt").read_text() == "1: stand\n"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "the page needs a model: a classifier, --pretrained or --action_detector"),
        (["nowhere"], "MODEL nowhere: there is no such folder"),
        (["MODEL", "--pretrained", "MODEL"], "and a VideoMAEForPreTraining is needed"),
        (["MODEL", "--action_detector", "MODEL"], "and a VideoMAEForActionDetection is needed"),
        (["MODEL", "--person_detector", "owner/name"], "--person_detector is for --action_detector, which is missing"),
        (["MODEL", "--examples", "no.mp4"], "--examples no.mp4: no such file"),
    ],
)
def test_a_mistake_is_one_line(folder, capsys, arguments, message):
    pytest.importorskip("gradio")
    assert main(["app", *(str(folder) if word == "MODEL" else word for word in arguments)]) in (1, 2)
    said = capsys.readouterr().err
    assert message in said and len(said.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--write_space", "SPACE"], "a Space needs a model"),
        (["a/b/c", "--write_space", "SPACE"], "MODEL a/b/c: there is no such folder, and names on the Hub are"),
        (["PRETRAINED", "--write_space", "SPACE"], "and a VideoMAEForVideoClassification is needed"),
        (["MODEL", "--write_space", "MODEL"], "exists and is not empty"),
    ],
)
def test_a_space_that_cannot_be_is_refused(folder, pretrained, tmp_path, capsys, arguments, message):
    names = {"MODEL": str(folder), "PRETRAINED": pretrained, "SPACE": str(tmp_path / "space")}
    assert main(["app", *(names.get(word, word) for word in arguments)]) in (1, 2)
    assert message in capsys.readouterr().err and not (tmp_path / "space").exists()


# ------------------------------------------------------------------------------------------------- what it says of models


def card_of(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(text)
    return str(folder)


def test_a_model_is_named_by_its_run_its_card_or_its_folder(tmp_path):
    card = "---\nlicense: cc-by-nc-4.0\n---\n\n# best: VideoMAE ViT-S, fine-tuned\n"
    assert (
        about(card_of(tmp_path / "plain", card.replace("best:", "doors:"))).name == "doors: VideoMAE ViT-S, fine-tuned"
    )
    (tmp_path / "door").mkdir()
    (tmp_path / "door/run.json").write_text("[]")
    assert about(card_of(tmp_path / "door/best", card)).name == "door/best: VideoMAE ViT-S, fine-tuned"
    (tmp_path / "bare").mkdir()
    assert about(str(tmp_path / "bare")) == About("bare", None)
    assert about("MCG-NJU/videomae-base") == About("MCG-NJU/videomae-base", "cc-by-nc-4.0")
    assert about(card_of(tmp_path / "torn", "---\nlicense: [\n---\n")).name == "torn"


def test_the_licence_of_a_model_is_said_and_what_it_forbids():
    assert About("a_b", "cc-by-nc-4.0").line() == r"**a\_b**, licence cc-by-nc-4.0, which forbids commercial use"
    assert About("a", "mit").line() == "**a**, licence mit"
    assert "no licence is given" in About("a", None).line()


def test_examples_are_videos_beside_the_card_that_it_names(tmp_path):
    sources = "[{src: a.mp4}, {src: ../b.mp4}, {src: 'https://example.org/c.mp4'}, {src: README.md}, {src: d.mp4}, 3]"
    model = card_of(tmp_path / "model", f"---\nlicense: mit\nwidget: {sources}\n---\n\n# A model\n")
    for name in ("model/a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"")
    assert about(model).examples == (str(tmp_path / "model/a.mp4"),)


def test_the_page_says_in_two_sentences_what_it_shows_and_lists_its_models():
    said = introduction({"model": About("one", "mit"), "pretrained": About("two", None)})
    first, _, *lines = said.splitlines()
    assert first.count(". ") == 1 and first.endswith(".")
    assert "labels and their course over time, what is rebuilt" in first and "where the encoder looks" in first
    assert "who does what" not in first
    assert lines[0] == "- Labels: **one**, licence mit" and lines[1].startswith("- Reconstruction: **two**; no licence")


def test_a_recording_is_passed_on_as_the_browser_wrote_it(tmp_path):
    gradio = pytest.importorskip("gradio")
    video = video_input(gradio)
    assert video.get_block_name() == "video" and not video.include_audio
    assert video.sources == ["upload", "webcam"] and not video.webcam_options.mirror
    assert video.preprocess(None) is None and type(video)(**video.constructor_args).preprocess(None) is None
    assert not (Path(inspect.getfile(build_page)).with_suffix(".pyi")).exists(), "gradio wrote a stub"
    assert video.preprocess(gradio.FileData(path=str(tmp_path / "clip.webm"))) == str(tmp_path / "clip.webm")
