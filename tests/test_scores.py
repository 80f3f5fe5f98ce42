"""`videomae scores`: tables in the forms that people have, the report, the temperature in the pipeline and card."""

import csv
import json
import re

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from support import TINY
from video_files import write_video

from videomae import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEVideoProcessor
from videomae.commands.scores import main
from videomae.evaluation.multi_view import write_parquet
from videomae.evaluation.score_tables import read_scores
from videomae.evaluation.scores import report, report_lines
from videomae.metrics.classification import probabilities_of, tempered
from videomae.model_cards.run_cards import RECORD, render_plain_card, write_run_card
from videomae.models import weights_sha256
from videomae.pipeline_videomae import VideoClassificationPipeline
from videomae.training.recipes import FINETUNING

NAMES = ["run", "walk", "sit"]


def answers(videos=90, classes=3, *, seed=0, sharpness=6.0):
    """Labels, and scores that are right more often than not and far too sure."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=videos)
    logits = generator.normal(size=(videos, classes))
    logits[np.arange(videos), labels] += 1.0
    return labels, probabilities_of(sharpness * logits, single=True)


def predictions(folder, labels, scores, *, dataset="mine", **facts):
    """predictions.parquet and results.json as `videomae evaluate` leaves them."""
    rows = [
        {"index": i, "error": None, "scores": row.tolist(), "path": f"{i}.mp4", "label": int(label)}
        for i, (label, row) in enumerate(zip(labels, scores))
    ]
    rows.append({"index": len(rows), "error": "cut off", "path": "broken.mp4", "label": 0})
    write_parquet(folder / "predictions.parquet", rows)
    about = {"class_names": NAMES, "dataset": dataset, "identity": {"problem": "single_label_classification"}, **facts}
    (folder / "results.json").write_text(json.dumps(about))
    return folder / "predictions.parquet"


# ------------------------------------------------------------------------------------------------------------- tables


def test_what_evaluate_writes_is_read_with_its_names_and_without_broken_videos(tmp_path):
    labels, scores = answers()
    predictions(tmp_path, labels, scores)
    table = read_scores(tmp_path)
    assert (len(table), table.unread, table.single, table.class_names, table.name) == (90, 1, True, NAMES, "mine")
    assert np.allclose(table.scores, scores) and (table.targets.argmax(axis=1) == labels).all()


@pytest.mark.parametrize("form", ["csv", "csv list", "json", "jsonl", "parquet"])
def test_one_table_in_any_form_is_the_same(tmp_path, form):
    labels, scores = answers(20)
    file = tmp_path / f"table.{form.split()[0]}"
    rows = [{"path": f"{i}.mp4", "label": NAMES[label]} for i, label in enumerate(labels)]
    for row, own in zip(rows, scores):
        columns = {f"score_{name}": value for name, value in zip(NAMES, own.tolist())}
        text = "|".join(map(str, own.tolist()))
        row |= columns if form == "csv" else {"scores": text if form == "csv list" else own.tolist()}
    if file.suffix == ".csv":
        with open(file, "w", newline="") as opened:
            writer = csv.DictWriter(opened, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif form == "json":
        file.write_text(json.dumps(rows))
    elif form == "jsonl":
        file.write_text("\n".join(map(json.dumps, rows)))
    else:
        write_parquet(file, rows)
    table = read_scores(file, class_names=None if form == "csv" else NAMES)
    assert table.class_names == NAMES and np.allclose(table.scores, scores)
    assert (table.targets.argmax(axis=1) == labels).all()


def test_one_score_a_video_is_that_of_class_one(tmp_path):
    (tmp_path / "t.csv").write_text("path,label,score\na.mp4,0,0.2\nb.mp4,1,0.9\n")
    table = read_scores(tmp_path / "t.csv")
    assert table.scored().binary and np.allclose(table.scores, [[0.8, 0.2], [0.1, 0.9]])
    (tmp_path / "l.csv").write_text("path,label,score\na.mp4,0,-1.5\nb.mp4,1,2\n")
    table = read_scores(tmp_path / "l.csv", logits=True)
    assert np.allclose(table.scores[:, 1], torch.sigmoid(torch.tensor([-1.5, 2.0], dtype=torch.float64)))


def test_several_labels_a_video_are_seen_by_their_form(tmp_path):
    (tmp_path / "t.csv").write_text("path,label,score_a,score_b,score_c\nx.mp4,a|c,0.9,0.2,0.8\ny.mp4,b,0.1,0.7,0.3\n")
    table = read_scores(tmp_path / "t.csv")
    assert not table.single and table.targets.tolist() == [[True, False, True], [False, True, False]]
    rows = [{"path": "x", "label": [1.0, 0.0, 1.0], "scores": [0.9, 0.2, 0.8], "error": None}]
    write_parquet(tmp_path / "m.parquet", rows)  # as evaluate writes them
    assert read_scores(tmp_path / "m.parquet").targets.tolist() == [[True, False, True]]


@pytest.mark.parametrize(
    "text, message",
    [
        ("path,label\na.mp4,0", "has no scores among its columns"),
        ("path,score_a,score_b\na.mp4,0.5,0.5", "has no column of labels"),
        ("path,label,score_a,score_b\na.mp4,a,0.9,0.8", "sum to 1.7, not to 1; with several labels a video"),
        ("path,label,score_a,score_b\na.mp4,a,3.0,-2.0", "lie outside 0 to 1; probabilities are needed, or give --logits"),
        ("path,label,score_a,score_b\na.mp4,c,0.9,0.1", "row 1: label 'c' is none of the 2 classes, 'a', 'b'"),
        ("path,label,score_a,score_b\na.mp4,a,0.9,no", "row 1: the scores are no numbers"),
        ("path,label,score_a,score_b\na.mp4,a,nan,0.1", "1 videos have a score that is not finite, the first is a.mp4"),
        ("path,label,scores\na.mp4,x,0.9|0.1\nb.mp4,x,0.9|0.1", "2 scores a video and 1 names among the labels"),
        ("path,label,error,score\na.mp4,0,cut off,", "none of its 1 videos could be read"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_judged_says_why(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text + "\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        read_scores(tmp_path / "t.csv")


# ------------------------------------------------------------------------------------------------------------- report


def test_the_report_holds_every_part_and_intervals_around_the_figures(tmp_path):
    labels, scores = answers()
    groups = {f"{i}.mp4": f"p{i % 12:02d}" for i in range(90)}
    table = read_scores(predictions(tmp_path, labels, scores))
    result = report(table, groups=groups, group_column="patient", resamples=100)
    top1 = result["headline"]["top1"]
    assert top1["value"] == pytest.approx((scores.argmax(axis=1) == labels).mean())
    assert top1["low"] < top1["value"] < top1["high"]
    assert result["levels"]["chance_top1"] == pytest.approx(1 / 3)
    assert [row["class"] for row in result["per_class"]] == NAMES and sum(map(sum, result["confusion"])) == 90
    own = [i for i in range(90) if groups[f"{i}.mp4"] == "p03"]
    row = result["groups"]["rows"][3]
    assert (row["group"], row["videos"]) == ("p03", len(own))
    assert row["top1"] == pytest.approx((scores[own].argmax(axis=1) == labels[own]).mean())
    assert result["bootstrap"] == {"resamples": 100, "by": "patient", "seed": 0, "groups": 12}
    json.dumps(result, allow_nan=False)
    text = "\n".join(report_lines(result))
    assert "95 % intervals by patient" in text and "p03" in text and "1 videos could not be read" in text


def test_a_temperature_judged_where_it_was_fitted_is_said_and_elsewhere_is_not(tmp_path):
    for name, seed in (("val", 1), ("test", 2)):
        (tmp_path / name).mkdir()
        predictions(tmp_path / name, *answers(400, seed=seed), dataset=name)
    val, test = read_scores(tmp_path / "val"), read_scores(tmp_path / "test")
    same, honest = report(test, resamples=0), report(test, fit_on=val, resamples=0)
    assert any("fitted and judged on the same table" in note for note in same["notes"])
    assert not any("same table" in note for note in honest["notes"])
    found = honest["temperature"]
    assert (found["fitted_on"], found["fitted_videos"], found["same_table"]) == ("val", 400, False)
    assert found["value"] > 2 and found["after"]["ece"] < found["before"]["ece"] / 2
    assert same["temperature"]["after"]["nll"] <= found["after"]["nll"] <= found["before"]["nll"]


def test_groups_that_leave_videos_out_are_an_error(tmp_path):
    table = read_scores(predictions(tmp_path, *answers(5)))
    with pytest.raises(ValueError, match="4 of 5 videos have no camera"):
        report(table, groups={"0.mp4": "a"}, group_column="camera")


def test_the_command_writes_its_files_and_prints_either_form(tmp_path, capsys):
    predictions(tmp_path, *answers())
    (tmp_path / "groups.csv").write_text("path,camera\n" + "".join(f"{i}.mp4,c{i % 2}\n" for i in range(90)))
    words = [str(tmp_path), "--groups", str(tmp_path / "groups.csv"), "--resamples", "20"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "top1" in printed and "camera" in printed and "note: the intervals come from 2 groups only" in printed
    written = json.loads((tmp_path / "scores.json").read_text())
    assert main([*words, "--json", "--output", str(tmp_path / "other")]) == 0
    assert json.loads(capsys.readouterr().out) == written
    with Image.open(tmp_path / "other/scores.png") as picture:
        assert picture.width > 600 and len(picture.getcolors(100000)) > 5


@pytest.mark.parametrize("classes", [2, 40, 120])
def test_a_picture_is_made_of_any_number_of_classes(tmp_path, classes):
    labels, scores = answers(200, classes)
    (tmp_path / "t.jsonl").write_text(
        "\n".join(json.dumps({"path": str(i), "label": int(one), "scores": own.tolist()})
                  for i, (one, own) in enumerate(zip(labels, scores)))
    )  # fmt: skip
    assert main([str(tmp_path / "t.jsonl"), "--resamples", "2"]) == 0
    with Image.open(tmp_path / "scores.png") as picture:
        assert picture.width < 2000 and picture.height < 2000


# -------------------------------------------------------------------------------------------------------- temperature


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    config = VideoMAEConfig(**TINY, id2label=dict(enumerate(NAMES)), label2id={n: i for i, n in enumerate(NAMES)})
    model = VideoMAEForVideoClassification(config)
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(tmp_path / "model")
    VideoMAEVideoProcessor(size={"shortest_edge": 32}, crop_size=32, sampling={"clips": 2}).save_pretrained(
        tmp_path / "model"
    )
    return tmp_path / "model"


def test_the_temperature_goes_into_the_config_the_pipeline_and_the_card(folder, tmp_path, capsys):
    model = VideoMAEForVideoClassification.from_pretrained(folder)
    recipe = {"task": "classify", "recipe": dict(vars(FINETUNING["tiny"])), "clips_per_step": 4, "steps": 1}
    card = write_run_card(folder, **recipe, data={"name": "x", "clips": 4})
    assert "Scores are not calibrated probabilities" in card.read_text() and (folder / RECORD).is_file()
    predictions(tmp_path, *answers(), weights_sha256=weights_sha256(model))
    assert main([str(tmp_path), "--resamples", "0", "--temperature_into", str(folder)]) == 0
    value = json.loads((tmp_path / "scores.json").read_text())["temperature"]["value"]
    assert f"temperature {value:.4f} written into {folder}/config.json and its card" in capsys.readouterr().out
    text = card.read_text()
    assert f"({value:.4f}".rstrip("0") in text and "calibrated on 90 videos of mine" in text
    assert "not calibrated" not in text
    assert "calibrated on 90 videos of mine" in render_plain_card(folder, name="plain", license=None)

    video = write_video(tmp_path / "video.mp4", 100, width=48, height=32)
    after = VideoMAEForVideoClassification.from_pretrained(folder)
    assert after.config.temperature == pytest.approx(value, abs=1e-4)
    one, two = (VideoClassificationPipeline(model=m, video_processor=VideoMAEVideoProcessor.from_pretrained(folder))
                for m in (model, after))  # fmt: skip
    for options in ({}, {"views": "test"}):
        before = {row["label"]: row["score"] for row in one(str(video), **options)}
        expected = tempered(np.array([before[name] for name in NAMES]), after.config.temperature, single=True)
        answer = two(str(video), **options)
        assert [row["label"] for row in answer] == sorted(NAMES, key=lambda name: -before[name])
        assert {row["label"]: row["score"] for row in answer} == pytest.approx(dict(zip(NAMES, expected)), abs=1e-5)
    plain = {"function_to_apply": "none"}
    assert one(str(video), **plain) == two(str(video), **plain)
    windows = [next(pipe.windows(str(video), top_k=3, progress=False))["scores"] for pipe in (one, two)]
    assert windows[0] != windows[1] and [w["label"] for w in windows[0]] == [w["label"] for w in windows[1]]


def test_several_labels_are_tempered_each_alone(folder):
    model = VideoMAEForVideoClassification.from_pretrained(folder)
    model.config.problem_type, model.config.temperature = "multi_label_classification", 2.0
    pipe = VideoClassificationPipeline(model=model, video_processor=VideoMAEVideoProcessor.from_pretrained(folder))
    logits = torch.tensor([3.0, -1.0, 0.0])
    assert torch.allclose(pipe._calibrated(logits.sigmoid(), None), (logits / 2).sigmoid())


def test_transformers_own_classes_load_and_save_a_model_with_a_temperature(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "temperature": 1.5, "calibrated_on": "5 videos"}))
    ours = VideoMAEForVideoClassification.from_pretrained(folder)
    assert (ours.config.temperature, ours.config.calibrated_on) == (1.5, "5 videos")
    ours.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again/config.json").read_text())["temperature"] == 1.5
    stock = transformers.VideoMAEForVideoClassification.from_pretrained(folder)
    stock.save_pretrained(tmp_path / "stock")
    pixels = torch.rand(1, 16, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(stock(pixels).logits, ours(pixels).logits, atol=1e-4)  # logits are not divided
    with pytest.raises(ValueError, match="temperature must be positive, got -1"):
        VideoMAEForVideoClassification(VideoMAEConfig(**TINY, temperature=-1.0))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"architectures": ["VideoMAEForPreTraining"]}, "not a classifier; only scores of classes have one"),
        ({"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}, "has 2 classes and"),
    ],
)
def test_a_model_that_cannot_be_that_of_the_scores_is_refused(folder, tmp_path, change, message):
    predictions(tmp_path, *answers())
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        main([str(tmp_path), "--resamples", "0", "--temperature_into", str(folder)])
    assert "temperature" not in json.loads((folder / "config.json").read_text())


def test_scores_of_other_weights_or_without_mistakes_give_no_temperature(folder, tmp_path):
    predictions(tmp_path, *answers(), weights_sha256="0" * 64)
    words = [str(tmp_path), "--resamples", "0", "--temperature_into", str(folder)]
    with pytest.raises(ValueError, match="comes from other weights than those in"):
        main(words)
    labels = np.arange(30) % 3
    predictions(tmp_path, labels, np.where(np.eye(3)[labels] > 0, 0.98, 0.01))
    with pytest.raises(ValueError, match="fit it on videos that the model was not trained on"):
        main(words)
