"""`videomae detect` as a user runs it: the folder it leaves, the drawn video, and its complaints."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont
from video_files import write_video

from videomae import VideoMAEConfig, VideoMAEForActionDetection, pipeline_videomae_detection
from videomae.commands.main import main
from videomae.data.ava.detections import read_detections
from videomae.inference.actions import persons_of
from videomae.pictures.overlay import COLOURS, _nearest_result, draw_persons
from videomae.training.detectors import name_outputs
from videomae.video_io import probe, read_frames

GREY = np.full((96, 128, 3), 110, np.uint8)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Four grey seconds, so that all that shows is drawn."""
    return write_video(
        tmp_path_factory.mktemp("videos") / "film.mp4", 48, fps=12, width=128, height=96, frames=[GREY] * 48
    )


def detector(num_labels=3, names=("stands", "walks", "waves")):
    torch.manual_seed(0)
    shape = dict(hidden_size=48, num_hidden_layers=1, num_attention_heads=3, intermediate_size=48, image_size=32)
    config = VideoMAEConfig.preset(
        "small", head="detect", num_labels=num_labels, num_frames=4, detection_short_side=32, **shape
    )
    if names:
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}
    return VideoMAEForActionDetection(config)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    detector().save_pretrained(folder)
    return folder


def test_a_folder_with_json_csv_and_the_drawn_video_is_written(video, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "boxes.json").write_text(json.dumps({"1": [[16, 24, 56, 88]], "2": [[16, 24, 56, 88]], "3": []}))
    code = main(["detect", str(video), "--model", str(model), "--boxes", "boxes.json", "--action_score", "0"])
    assert code == 0
    assert "3 key frames, 2 persons, 6 actions: film-actions/" in capsys.readouterr().out
    folder = tmp_path / "film-actions"
    record = json.loads((folder / "actions.json").read_text())
    assert record["video"] == "film.mp4" and [entry["seconds"] for entry in record["key_frames"]] == [1, 2, 3]
    rows = read_detections(folder / "actions.csv")
    assert len(rows.frame) == 6 and set(rows.label.tolist()) == {1, 2, 3}
    np.testing.assert_allclose(rows.box[0], [16 / 128, 24 / 96, 56 / 128, 88 / 96], atol=1e-4)
    assert [str(key) for key in rows.key_frames] == ["film,0001", "film,0002"]

    info = probe(folder / "overlay.mp4")
    assert (info.num_frames, info.width, info.height) == (48, 128, 96) and info.duration_seconds == pytest.approx(
        4, abs=0.1
    )
    before, during, after = read_frames(folder / "overlay.mp4", [2, 18, 42]).float().numpy()
    edge = during[24:88, 16].mean(0)  # the left edge of the box has its colour
    assert np.abs(edge - np.array(COLOURS[0])).max() < 60
    assert np.abs(before - GREY).max() < 12 and np.abs(after - GREY).max() < 12  # nothing near these times


def test_a_detector_without_label2id_and_boxes_with_and_without_scores_are_taken(video, tmp_path):
    model = detector()
    model.save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps(config | {"label2id": None}))
    rows = {"1": [[16, 24, 56, 60], [60, 24, 90, 60, 0.5]], "2": [], "3": [[16, 24, 56, 60, 0.9]]}
    (tmp_path / "mixed.json").write_text(json.dumps(rows))
    words = ["--boxes", str(tmp_path / "mixed.json"), "--action_score", "0", "--output", str(tmp_path / "out")]
    assert main(["detect", str(video), "--model", str(tmp_path / "model"), *words, "--no_overlay"]) == 0
    persons = [entry["persons"] for entry in json.loads((tmp_path / "out/actions.json").read_text())["key_frames"]]
    assert [[person["score"] for person in frame] for frame in persons] == [[1.0, 0.5], [], [pytest.approx(0.9)]]
    assert set(read_detections(tmp_path / "out/actions.csv").label.tolist()) == {1, 2, 3}


def test_two_actions_of_one_name_are_named_before_the_video_is_read(video, tmp_path, monkeypatch, capsys):
    detector(names=("stands", "walks", "walks")).save_pretrained(tmp_path / "model")
    monkeypatch.setattr(pipeline_videomae_detection, "iter_windows", None)
    words = [
        "detect",
        str(video),
        "--model",
        str(tmp_path / "model"),
        "--whole_frame",
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(words) == 1
    assert "outputs 1 and 2 of the model are both called 'walks'" in capsys.readouterr().err


def test_what_it_writes_can_be_given_back_as_boxes(video, model, tmp_path):
    once = ["detect", str(video), "--model", str(model), "--no_overlay", "--action_score", "0"]
    assert main([*once, "--whole_frame", "--every_seconds", "2", "--output", str(tmp_path / "a")]) == 0
    assert main([*once, "--boxes", str(tmp_path / "a" / "actions.json"), "--output", str(tmp_path / "b")]) == 0
    first, second = (json.loads((tmp_path / name / "actions.json").read_text())["key_frames"] for name in "ab")
    assert first == second and not (tmp_path / "a" / "overlay.mp4").exists()
    assert main([*once, "--boxes", str(tmp_path / "a" / "actions.csv"), "--output", str(tmp_path / "c")]) == 0


def test_persons_come_from_proposals_of_a_whole_data_set(tmp_path):
    boxes = np.array([[0.1, 0.2, 0.5, 0.9, 0.9]])
    with open(tmp_path / "p.pkl", "wb") as file:
        pickle.dump({"film,0001": boxes, "other,0001": boxes}, file)
    persons = persons_of(str(tmp_path / "p.pkl"), "film")
    assert list(persons) == [1.0] and persons[1.0][0] == pytest.approx(boxes[0].tolist())
    with pytest.raises(ValueError, match=r"has no boxes of 'third'; it has 2 videos \(film, other"):
        persons_of(str(tmp_path / "p.pkl"), "third")
    coco = {
        "images": [{"id": 1, "movie": "film", "timestamp": 2, "width": 100, "height": 50}],
        "annotations": [{"image_id": 1, "bbox": [10, 10, 20, 20]}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    assert persons_of(str(tmp_path / "coco.json"), "film")[2.0][0] == pytest.approx([0.1, 0.2, 0.3, 0.6, 1.0])


def test_outputs_get_names_from_a_list_or_are_taken_for_avas(tmp_path):
    (tmp_path / "names.txt").write_text("1: falls\n3: climbs\n")
    own = detector(names=None)
    assert name_outputs(own, str(tmp_path / "names.txt")) is None
    assert own.config.id2label == {0: "falls", 1: "action 2", 2: "climbs"}
    eighty = detector(80, names=None)
    assert "taken for the actions of AVA" in name_outputs(eighty, None) and eighty.config.id2label[11] == "stand"
    assert "has no action names" in name_outputs(detector(names=None), None)
    named = detector()
    assert name_outputs(named, None) is None and named.config.id2label[0] == "stands"
    with pytest.raises(ValueError, match="goes up to action 3, but the model has 2 outputs"):
        name_outputs(detector(2, names=None), str(tmp_path / "names.txt"))


def test_the_nearest_key_frame_is_shown_within_reach():
    results = [{"seconds": seconds} for seconds in (1.0, 2.0, 5.0)]
    nearest = _nearest_result(results, 0.6)
    next(nearest)
    shown = [nearest.send(seconds) for seconds in (0.0, 0.5, 1.4, 1.6, 2.5, 3.0, 4.5, 5.0, 7.0)]
    assert [entry and entry["seconds"] for entry in shown] == [None, 1.0, 1.0, 2.0, 2.0, None, 5.0, 5.0, None]
    empty = _nearest_result([], 1.0)
    next(empty)
    assert empty.send(0.0) is None


def test_plates_stay_inside_and_apart():
    actions = [{"label": "talks to (e.g., self, a person, a group)", "score": 0.9}, {"label": "sits", "score": 0.5}]
    boxes = [(2, 2, 40, 60), (4, 4, 44, 62), (250, 100, 318, 178)]
    persons = [
        {"box": dict(zip(("xmin", "ymin", "xmax", "ymax"), box)), "score": 1.0, "actions": actions} for box in boxes
    ]
    picture = Image.new("RGB", (320, 180), (110, 110, 110))
    drawn = np.asarray(draw_persons(picture, persons, ImageFont.load_default(size=10))).astype(int)
    areas = [int((np.abs(drawn - np.array(colour)).max(-1) < 8).sum()) for colour in COLOURS[:3]]
    assert min(areas) > 0.7 * max(areas)  # no plate covers much of another


@pytest.mark.parametrize(
    "more, message",
    [
        (["--boxes", "nowhere.json"], "nowhere.json"),
        (["--boxes", "late.json"], "boxes has a key frame at 99 s, outside the video, which lasts 4 s"),
        (["--boxes", "short.json"], "boxes at 3 s have 3 values a row; give x1, y1, x2, y2[, score]"),
        (["--boxes", "swapped.json"], "ends before it starts; boxes are x1, y1, x2, y2, not x, y, width, height"),
        (["--whole_frame", "--output", "late.json/out"], "--output late.json/out: "),
        (["--whole_frame", "--every_seconds", "-1"], "--every_seconds must be above 0, not -1"),
    ],
)
def test_mistakes_are_one_line_before_any_frame_is_read_and_leave_no_folder(
    video, model, tmp_path, monkeypatch, capsys, more, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline_videomae_detection, "iter_windows", None)
    for name, second in (("short", [1, 2, 3]), ("swapped", [30, 40, 10, 10])):
        (tmp_path / f"{name}.json").write_text(json.dumps({"1": [[16, 24, 56, 60]], "3": [second]}))
    (tmp_path / "late.json").write_text('{"99": [[1, 2, 30, 40]]}')
    assert main(["detect", str(video), "--model", str(model), *more]) in (1, 2)
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "film-actions").exists()


def test_a_file_that_is_no_video_is_named(model, tmp_path, capsys):
    (tmp_path / "notes.mp4").write_text("no video")
    assert main(["detect", str(tmp_path / "notes.mp4"), "--model", str(model), "--whole_frame"]) == 1
    assert "notes.mp4" in capsys.readouterr().err
