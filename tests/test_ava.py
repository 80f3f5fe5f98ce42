"""AVA's files as people have them, and the mistakes they come with."""

import json
import os
import pickle

import numpy as np
import pytest

from videomae.commands.ava_map import main as map_main
from videomae.data.ava.annotations import AVA_ACTIONS, KeyFrame, read_action_list, read_annotations, read_key_frames
from videomae.data.ava.detections import Detections, read_detections, write_detections
from videomae.data.ava.proposals import check_split, choose_persons, read_proposals
from videomae.metrics.ava_map.average_precision import AVA_EVALUATED
from videomae.metrics.ava_map.columns import for_metric


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


# ---------------------------------------------------------------------------------------------------- action lists


def test_action_lists_of_both_spellings_are_read(tmp_path):
    full = "".join(
        f'label {{\n  name: "{AVA_ACTIONS[number - 1]}"\n  label_id: {number}\n  label_type: {kind}\n}}\n'
        for number, kind in ((12, "PERSON_MOVEMENT"), (17, "OBJECT_MANIPULATION"), (80, "PERSON_INTERACTION"))
    )
    actions = read_action_list(write(tmp_path / "v2.2.pbtxt", full))
    assert actions.names == {12: "stand", 17: "carry/hold (an object)", 80: "watch (a person)"}
    assert actions.categories == {"pose": [12], "object": [17], "person": [80]}

    short = 'item {\n  name: "stand"\n  id: 12\n}\nitem {name: "watch (a person)" id: 80}\n'
    actions = read_action_list(write(tmp_path / "2019.pbtxt", short))
    assert actions.names == {12: "stand", 80: "watch (a person)"}
    assert actions.categories == {"pose": [12], "object": [], "person": [80]}

    own = read_action_list(write(tmp_path / "own.txt", "1: falls\n3: climbs, quickly\n"))
    assert own.names == {1: "falls", 3: "climbs, quickly"} and own.categories == {}


@pytest.mark.parametrize(
    "text, message",
    [
        ('item { name: "stand" }', "an entry without name and id"),
        ('item {name: "a" id: 1} item {name: "b" id: 1}', "lists action 1 twice: 'a' and 'b'"),
        ("just words", "is not an action list"),
        ("", "lists no action"),
    ],
)
def test_a_broken_action_list_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_action_list(write(tmp_path / "actions.pbtxt", text))


def test_the_eighty_actions_and_the_sixty_that_are_evaluated():
    assert len(AVA_ACTIONS) == len(set(AVA_ACTIONS)) == 80
    assert AVA_ACTIONS[13] == "walk" and AVA_ACTIONS[62] == "write" and AVA_ACTIONS[63] == "fight/hit (a person)"
    # Classes with few boxes are not evaluated.
    assert {AVA_ACTIONS[number - 1] for number in range(1, 81) if number not in AVA_EVALUATED} >= {
        "crawl",
        "fishing",
        "chop",
    }


# ----------------------------------------------------------------------------------------------------- annotations


def test_rows_of_one_box_are_one_person_with_several_actions(tmp_path):
    path = write(
        tmp_path / "train.csv",
        "movie,0902,0.1,0.2,0.5,0.9,12,0\nmovie,0902,0.1,0.2,0.5,0.9,79,0\nmovie,0902,0.6,0.2,0.9,0.9,80,1\n"
        "movie,0903\nclip,12.345600,0.1,0.2,0.5,0.9,12.0\nclip,13.5,,,,,\n",
    )
    annotations = read_annotations(path)
    keys = [KeyFrame("movie", 902.0), KeyFrame("movie", 903.0), KeyFrame("clip", 12.3456), KeyFrame("clip", 13.5)]
    assert list(annotations.key_frames) == keys
    first = annotations.key_frames[keys[0]]
    assert first.actions == [(12, 79), (80,)] and first.person_ids == [0, 1]
    assert first.boxes.tolist() == [pytest.approx([0.1, 0.2, 0.5, 0.9]), pytest.approx([0.6, 0.2, 0.9, 0.9])]
    assert [len(annotations.key_frames[key].boxes) for key in keys] == [2, 0, 1, 0]
    assert str(keys[0]) == "movie,0902" and str(keys[2]) == "clip,12.345600"
    assert list(annotations.without([KeyFrame("movie", 902)]).key_frames) == keys[1:]
    assert annotations.video_ids == ["movie", "clip"]


@pytest.mark.parametrize(
    "row, message",
    [
        ("m,0902,10,20,150,220,12,0", "line 2: box 10, 20, 150, 220 seems to be in pixels"),
        ("m,0902,0.5,0.2,0.1,0.9,12,0", "line 2: box .* ends before it starts"),
        ("m,0902,0.5,x,0.1,0.9,12,0", "line 2: box .* is not four numbers"),
        ("m,0902,nan,0.2,0.6,0.9,12,0", "line 2: box .* is not finite"),
        ("m,0902,0.1,0.2,0.5,0.9,81,0", "line 2: action 81 is not in the list of 80 actions"),
        ("m,0902,0.1,0.2,0.5,0.9,sit,0", "line 2: action 'sit' is not a whole number"),
        ("m,noon,0.1,0.2,0.5,0.9,12,0", "line 2: timestamp 'noon' is not a number of seconds"),
        ("m,-3,0.1,0.2,0.5,0.9,12,0", "line 2: timestamp -3 is not a time in a video"),
        ("m,0902,0.1,0.2,0.5", "line 2 has 5 columns"),
    ],
)
def test_a_wrong_row_is_named_with_its_line(tmp_path, row, message):
    path = write(tmp_path / "train.csv", f"m,0902,0.1,0.2,0.5,0.9,12,0\n{row}\n")
    with pytest.raises(ValueError, match=message):
        read_annotations(path, actions=dict(enumerate(AVA_ACTIONS, 1)))


def test_boxes_a_little_outside_are_clipped_and_an_empty_file_is_an_error(tmp_path):
    annotations = read_annotations(
        write(tmp_path / "a.csv", "video_id,timestamp,x1,y1,x2,y2,action_id\nm,1,-0.02,0,1.03,1,3\n")
    )
    assert annotations.key_frames[KeyFrame("m", 1.0)].boxes.tolist() == [[0, 0, 1, 1]]
    with pytest.raises(ValueError, match="has no rows"):
        read_annotations(write(tmp_path / "b.csv", "\n"))


def test_excluded_time_stamps_are_key_frames(tmp_path):
    assert read_key_frames(write(tmp_path / "x.csv", "m,0902\nm,0950\n")) == [KeyFrame("m", 902), KeyFrame("m", 950)]
    with pytest.raises(ValueError, match="line 1 has 3 columns"):
        read_key_frames(write(tmp_path / "y.csv", "m,0902,1\n"))


# ------------------------------------------------------------------------------------------------------- proposals

BOXES = np.array([[0.1, 0.2, 0.5, 0.9, 0.95], [0.6, 0.2, 0.9, 0.8, 0.4]], dtype=np.float32)


def assert_same(proposals):
    assert list(proposals) == [KeyFrame("m", 902), KeyFrame("n", 903)]
    np.testing.assert_allclose(proposals[KeyFrame("m", 902)], BOXES, atol=1e-6)
    np.testing.assert_allclose(proposals[KeyFrame("n", 903)], BOXES[:1], atol=1e-6)


def test_proposals_are_the_same_from_pickle_csv_and_both_kinds_of_json(tmp_path):
    with open(tmp_path / "fair.pkl", "wb") as file:
        pickle.dump({"m,0902": BOXES.astype(np.float64), "n,0903": BOXES[:1].astype(np.float64)}, file, protocol=2)
    assert_same(read_proposals(tmp_path / "fair.pkl"))

    rows = [("m,0902", box) for box in BOXES] + [("n,0903", BOXES[0])]
    text = "".join(f"{key},{','.join(f'{value:.6f}' for value in box[:4])},,{box[4]:.6f}\n" for key, box in rows)
    assert_same(read_proposals(write(tmp_path / "boxes.csv", text)))
    whole = write(tmp_path / "whole.csv", "m,1,0,0,0.5,0.5,,0.25\nm,1,0.5,0,1,1,,0\n")
    assert read_proposals(whole)[KeyFrame("m", 1)][:, 4].tolist() == [0.25, 0.0]

    def result(image, box):
        x1, y1, x2, y2, score = (float(value) for value in box)
        bbox = [x1 * 400, y1 * 200, (x2 - x1) * 400, (y2 - y1) * 200]
        return {"image_id": image, "category_id": 1, "bbox": bbox, "score": score}

    results = [result(10902, BOXES[0]), result(10902, BOXES[1]), result(20903, BOXES[0])]
    images = [
        {"id": 10902, "movie": "m", "timestamp": 902, "width": 400, "height": 200},
        {"id": 20903, "movie": "n", "timestamp": 903, "width": 400, "height": 200},
    ]
    write(tmp_path / "val.json", json.dumps({"images": images, "annotations": []}))
    write(tmp_path / "det.json", json.dumps(results))
    assert_same(read_proposals(tmp_path / "det.json", images=tmp_path / "val.json"))

    for image, name in zip(images, ("m/0902.jpg", "n/0903.jpg")):
        del image["movie"], image["timestamp"]
        image["file_name"] = name
    other = {"image_id": 10902, "category_id": 7, "bbox": [0, 0, 9, 9], "score": 1.0}
    coco = {"images": images, "annotations": [*results, other], "categories": [{"id": 1, "name": "person"}]}
    assert_same(read_proposals(write(tmp_path / "coco.json", json.dumps(coco))))


def test_annotations_serve_as_proposals_that_are_certain(tmp_path):
    path = write(
        tmp_path / "val.csv", "m,0902,0.1,0.2,0.5,0.9,12,0\nm,0902,0.1,0.2,0.5,0.9,80,0\nm,0902,0.6,0.2,0.9,0.9,1,3\n"
    )
    boxes = read_proposals(path)[KeyFrame("m", 902)]
    np.testing.assert_allclose(boxes, [[0.1, 0.2, 0.5, 0.9, 1], [0.6, 0.2, 0.9, 0.9, 1]], atol=1e-6)


class Mischief:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.system, (f"echo gotcha > {self.place}",)


class Overlaid:
    """Pickled as an array of objects whose addresses are bytes of the file (null here, which does no harm)."""

    def __reduce__(self):
        return np.ndarray, ((1, 5), np.dtype(object), bytes(40))


class Disguised:
    """Pickled as an array that is told to fill itself with objects."""

    def __reduce__(self):
        return np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), (1, (1,), np.dtype(object), False, [1])


@pytest.mark.parametrize("content", [Overlaid(), Disguised()])
def test_a_pickle_cannot_make_objects_of_the_bytes_of_a_file(tmp_path, content):
    with open(tmp_path / "bad.pkl", "wb") as file:
        pickle.dump({"m,0902": content}, file)
    with pytest.raises(ValueError, match="not a pickle of proposals that is safe to open"):
        read_proposals(tmp_path / "bad.pkl")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("type_of", ["f4", ">f8", "i8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_pickles_of_every_protocol_type_and_order_hold_the_same_boxes(tmp_path, protocol, type_of, order):
    boxes = np.array([[0, 0, 1, 1, 1], [0, 1, 1, 1, 0]], dtype=type_of, order=order)
    with open(tmp_path / "boxes.pkl", "wb") as file:
        pickle.dump({"m,0902": boxes, "n,0903": list(boxes)}, file, protocol=protocol)
    assert [found.tolist() for found in read_proposals(tmp_path / "boxes.pkl").values()] == [boxes.tolist()] * 2


def test_a_pickle_with_anything_but_arrays_is_refused_and_runs_nothing(tmp_path):
    with open(tmp_path / "bad.pkl", "wb") as file:
        pickle.dump({"m,0902": Mischief(tmp_path / "done")}, file)
    with pytest.raises(
        ValueError, match=r"not a pickle of proposals that is safe to open \(it asks for (posix|nt)\.system\)"
    ):
        read_proposals(tmp_path / "bad.pkl")
    assert not (tmp_path / "done").exists()
    with pytest.raises(ValueError, match="not a pickle of proposals"):
        read_proposals(write(tmp_path / "text.pkl", "hello"))


def test_proposal_files_say_what_is_wrong_with_them(tmp_path):
    def pickled(content):
        with open(tmp_path / "p.pkl", "wb") as file:
            pickle.dump(content, file)
        return tmp_path / "p.pkl"

    with pytest.raises(ValueError, match="holds a list; expected a dict"):
        read_proposals(pickled([1]))
    with pytest.raises(ValueError, match=r"entry 'm,0902' has shape \(2, 3\)"):
        read_proposals(pickled({"m,0902": np.zeros((2, 3))}))
    with pytest.raises(ValueError, match=r"entry 'm,0902' row 0: box .* seems to be in pixels"):
        read_proposals(pickled({"m,0902": np.array([[10.0, 10, 200, 300, 0.9]])}))
    assert read_proposals(pickled({"m,0902": np.zeros((0,))}))[KeyFrame("m", 902)].shape == (0, 5)
    with pytest.raises(ValueError, match="whose images are described elsewhere"):
        read_proposals(write(tmp_path / "d.json", "[]"))
    with pytest.raises(ValueError, match=r"give a \.pkl, \.csv or \.json file"):
        read_proposals(tmp_path / "boxes.txt")
    images = {"images": [{"id": 1, "movie": "m", "timestamp": 902, "width": 400, "height": 200}]}
    write(tmp_path / "i.json", json.dumps(images))
    for result, message in (
        ({"image_id": 2, "bbox": [0, 0, 1, 1]}, "is of image 2, which .* does not describe"),
        ({"image_id": 1, "bbox": [0.1, 0.1, 0.5, 0.5]}, "seems normalised; COCO boxes are pixels"),
        ({"image_id": 1, "bbox": [10, 10, -5, 20]}, "result 0: box .* ends before it starts"),
    ):
        write(tmp_path / "d.json", json.dumps([result]))
        with pytest.raises(ValueError, match=message):
            read_proposals(tmp_path / "d.json", images=tmp_path / "i.json")


def test_the_proposals_of_the_other_split_are_recognised():
    wanted = [KeyFrame("m", 902), KeyFrame("m", 903)]
    assert check_split({wanted[0]: BOXES}, wanted, path="p.pkl", of="val.csv") == 0.5
    with pytest.raises(ValueError, match=r"p\.pkl has no box for any of the 2 key frames of val\.csv: .* other split"):
        check_split({KeyFrame("other", 902): BOXES}, wanted, path="p.pkl", of="val.csv")
    with pytest.raises(ValueError, match="its time stamps differ"):
        check_split({KeyFrame("m", 2): BOXES}, wanted, path="p.pkl", of="val.csv")


def test_a_person_of_a_score_beyond_one_is_refused(tmp_path):
    path = write(tmp_path / "percent.csv", "m,0902,0.1,0.2,0.5,0.9,,0.5\nm,0902,0.6,0.2,0.9,0.8,,93.5\n")
    with pytest.raises(ValueError, match=r"key frame m,0902 has a person of score 93\.5; scores are between 0 and 1"):
        read_proposals(path)


def test_each_family_chooses_its_persons():
    assert choose_persons(BOXES, 0.8).tolist() == BOXES[:1].tolist()
    assert len(choose_persons(BOXES, 0.99)) == 0
    assert choose_persons(BOXES, 0.99, else_best=True).tolist() == BOXES[:1].tolist()
    equal = np.repeat(BOXES[:1], 2, 0)  # all equally good ones, as in mmaction2
    assert choose_persons(equal, 0.99, else_best=True).tolist() == equal.tolist()
    assert len(choose_persons(BOXES[:0], 0.99, else_best=True)) == 0


# --------------------------------------------------------------------------------------------------------- results


def test_result_files_make_the_round_trip_and_the_command_scores_them(tmp_path, capsys):
    annotations = write(tmp_path / "val.csv", "m,0902,0.1,0.2,0.5,0.9,12,0\nm,0903,0.1,0.2,0.5,0.9,80,0\nm,0904\n")
    detections = Detections(
        key_frames=[KeyFrame("m", 902), KeyFrame("m", 903), KeyFrame("m", 905)],
        frame=np.array([0, 1, 2]),
        box=np.array([[0.1, 0.2, 0.5, 0.9]] * 3),
        label=np.array([12, 80, 12]),
        score=np.array([0.5, 0.25, 0.75]),
    )
    path = write_detections(tmp_path / "results.csv", detections)
    assert path.read_text().splitlines()[0] == "m,0902,0.1,0.2,0.5,0.9,12,0.5"
    again = read_detections(path)
    assert again.key_frames == detections.key_frames
    for name in ("frame", "box", "label", "score"):
        np.testing.assert_array_equal(getattr(again, name), getattr(detections, name))
    truth, found, numbers = for_metric(read_annotations(annotations), again)
    assert truth.label.tolist() == [12, 80] and found.frame.tolist() == [0, 1, 3] and numbers[KeyFrame("m", 905)] == 3

    options = ["--annotations", str(annotations), "--detections", str(path)]
    assert map_main([*options, "--output", str(tmp_path / "map.json")]) == 0
    # "stand": the false alarm at 905 has the higher score, so precision at its one hit is 1/2.
    assert "mAP@0.5: 75.00" in capsys.readouterr().out
    write(tmp_path / "excluded.csv", "m,0905\n")
    map_main([*options, "--excluded", str(tmp_path / "excluded.csv")])
    assert "mAP@0.5: 100.00" in capsys.readouterr().out
    write(tmp_path / "only.csv", "m,0902\n")
    map_main([*options, "--key_frames", str(tmp_path / "only.csv")])
    printed = capsys.readouterr().out
    assert "mAP@0.5: 100.00" in printed and "1 key frames (0 of the annotated ones without any result)" in printed
    assert json.loads((tmp_path / "map.json").read_text())["per_category"]["pose"] == 0.5


def test_result_files_with_a_header_and_without_rows_are_read(tmp_path):
    rows = "m,0902,0.1,0.2,0.3,0.4,12,0.5\nm,902.0,0.1,0.2,0.3,0.4,13,1\n"
    plain = read_detections(write(tmp_path / "a.csv", rows))
    headed = read_detections(write(tmp_path / "b.csv", "video_id,timestamp,x1,y1,x2,y2,action_id,score\n\n" + rows))
    for detections in (plain, headed):
        assert detections.key_frames == [KeyFrame("m", 902)] and detections.frame.tolist() == [0, 0]
        assert detections.label.tolist() == [12, 13] and detections.score.tolist() == [0.5, 1.0]
    nothing = Detections([], np.zeros(0, int), np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    assert len(read_detections(write_detections(tmp_path / "none.csv", nothing)).frame) == 0


def test_a_wrong_result_row_is_named(tmp_path):
    with pytest.raises(ValueError, match="line 1: box 10, 20, 30, 40 seems to be in pixels"):
        read_detections(write(tmp_path / "r.csv", "m,0902,10,20,30,40,12,0.5\n"))
    with pytest.raises(ValueError, match="line 1 has 7 columns"):
        read_detections(write(tmp_path / "r.csv", "m,0902,0.1,0.2,0.3,0.4,12\n"))
    with pytest.raises(ValueError, match="line 1: action 'sit' is not a whole number"):
        read_detections(write(tmp_path / "r.csv", "m,0902,0.1,0.2,0.3,0.4,sit,0.5\n"))
