"""AVA mAP against a slow evaluation written from its description, and against answers worked out by hand."""

import json
import random

import numpy as np
import pytest
from official_ava import mmaction2_map, public_map

from videomae.commands.ava_map import main as map_main
from videomae.metrics.ava_map.average_precision import AVA_EVALUATED, LabelledBoxes, ava_map, average_precision


def slow_ava_map(truth, detections, classes, iou_threshold=0.5, excluded=()):
    """truth: rows (frame, box, label); detections: rows (frame, box, label, score). Loops over everything."""

    def overlap(a, b):
        width = min(a[2], b[2]) - max(a[0], b[0])
        height = min(a[3], b[3]) - max(a[1], b[1])
        if width <= 0 or height <= 0:
            return 0.0
        shared = width * height
        return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)

    precisions = {}
    for label in classes:
        boxes = {}
        for frame, box, its_label in truth:
            if its_label == label and frame not in excluded:
                boxes.setdefault(frame, []).append(box)
        number = sum(map(len, boxes.values()))
        if number == 0:
            continue
        ranked = [row for row in detections if row[2] == label and row[0] not in excluded]
        ranked = [row for row in ranked if row[1][0] < row[1][2] and row[1][1] < row[1][3]]
        ranked = sorted(ranked, key=lambda row: row[3], reverse=True)  # stable: ties stay in the order of the rows
        taken, outcome = set(), []
        for frame, box, _, _ in ranked:
            overlaps = [overlap(box, other) for other in boxes.get(frame, [])]
            best = overlaps.index(max(overlaps)) if overlaps else None
            right = best is not None and overlaps[best] >= iou_threshold and (frame, best) not in taken
            if right:
                taken.add((frame, best))
            outcome.append(right)
        recall, precision = [0.0], [0.0]
        for rank in range(1, len(outcome) + 1):
            recall.append(sum(outcome[:rank]) / number)
            precision.append(sum(outcome[:rank]) / rank)
        recall.append(1.0)
        precision.append(0.0)
        for index in range(len(precision) - 2, -1, -1):
            precision[index] = max(precision[index], precision[index + 1])
        precisions[label] = sum(
            (recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)) if recall[i] != recall[i - 1]
        )
    return sum(precisions.values()) / len(precisions), precisions


def as_table(rows) -> LabelledBoxes:
    columns = list(zip(*rows)) if rows else [(), (), ()]
    return LabelledBoxes.of(*columns)


def random_case(seed: int):
    """Few boxes on a coarse grid and few scores, so that ties, duplicates and exact hits of the threshold abound."""
    rng = random.Random(seed)

    def box():
        x, y = rng.randrange(6) / 10, rng.randrange(6) / 10
        return (x, y, x + rng.randrange(1, 5) / 10, y + rng.randrange(1, 5) / 10)

    truth = [(rng.randrange(8), box(), rng.randrange(1, 7)) for _ in range(40)]
    detections = []
    for frame, its_box, label in truth:
        for _ in range(rng.randrange(4)):
            moved = tuple(value + rng.choice([0, 0, 0.1, -0.05]) for value in its_box)
            detections.append((frame, moved, label, rng.randrange(5) / 4))
    detections += [(rng.randrange(10), box(), rng.randrange(1, 9), rng.randrange(5) / 4) for _ in range(40)]
    detections.append((0, (0.5, 0.5, 0.5, 0.9), 1, 1.0))  # without area
    rng.shuffle(detections)
    return truth, detections


@pytest.mark.parametrize("seed", range(25))
def test_random_sets_with_ties_duplicates_and_missing_classes_equal_the_slow_evaluation(seed):
    truth, detections = random_case(seed)
    classes = [1, 2, 3, 4, 5, 6, 7, 8]  # 7 and 8 are never annotated
    expected, per_class = slow_ava_map(truth, detections, classes)
    result = ava_map(as_table(truth), as_table(detections), classes=classes)
    assert result["mAP"] == pytest.approx(expected, abs=1e-12)
    assert {label: value for label, value in result["per_class"].items() if value is not None} == pytest.approx(
        per_class
    )
    assert set(result["classes_without_truth"]) >= {7, 8}
    flat = [row for row in detections if row[1][0] >= row[1][2] or row[1][1] >= row[1][3]]
    assert result["num_detections_without_area"] == len(flat) > 0


@pytest.mark.parametrize("seed", range(5))
def test_frames_outside_the_list_of_key_frames_count_for_nothing(seed):
    truth, detections = random_case(seed)
    expected, _ = slow_ava_map(truth, detections, range(1, 9), excluded={2, 5})
    key_frames = [frame for frame in range(10) if frame not in (2, 5)]
    result = ava_map(as_table(truth), as_table(detections), classes=range(1, 9), key_frames=key_frames)
    assert result["mAP"] == pytest.approx(expected, abs=1e-12)
    assert result["num_key_frames"] == 8
    assert result["num_detections_elsewhere"] == sum(row[0] in (2, 5) for row in detections)


BOX, FAR = (0.0, 0.0, 0.4, 0.4), (0.6, 0.6, 0.9, 0.9)


@pytest.mark.parametrize(
    "detections, expected",
    [
        ([(0, BOX, 1, 0.9), (0, FAR, 1, 0.8)], 1.0),
        ([(0, BOX, 1, 0.9)], 0.5),  # one of two found
        ([(0, BOX, 1, 0.9), (0, BOX, 1, 0.8), (0, FAR, 1, 0.7)], (1 + 2 / 3) / 2),  # the second is a duplicate
        ([(1, BOX, 1, 0.9), (0, BOX, 1, 0.8), (0, FAR, 1, 0.7)], 2 / 3),  # right place, wrong frame
        ([(0, BOX, 3, 0.9)], 0.0),  # right place, wrong action
        ([], 0.0),
    ],
)
def test_two_annotated_boxes_give_the_precision_worked_out_by_hand(detections, expected):
    truth = as_table([(0, BOX, 1), (0, FAR, 1)])
    detections = as_table(detections) if detections else LabelledBoxes.of([], [], [], [])
    assert ava_map(truth, detections, classes=[1, 3])["mAP"] == pytest.approx(expected)


def test_average_precision_uses_the_best_precision_at_any_higher_recall():
    # Precision after each: 0, 1/2, 2/3, 1/2, 3/5. The first hit may use 2/3.
    assert average_precision(np.array([False, True, True, False, True]), 3) == pytest.approx(
        (2 / 3 + 2 / 3 + 3 / 5) / 3
    )


def test_an_overlap_of_exactly_one_half_counts():
    truth = as_table([(0, (0.0, 0.0, 1.0, 1.0), 1)])
    half = as_table([(0, (0.0, 0.0, 1.0, 0.5), 1, 0.9)])
    assert ava_map(truth, half, classes=[1])["mAP"] == 1.0
    assert ava_map(truth, half, classes=[1], iou_threshold=0.51)["mAP"] == 0.0


def test_a_detection_goes_to_the_box_it_overlaps_most_even_when_that_is_taken():
    truth = as_table([(0, (0.0, 0.0, 1.0, 1.0), 1), (0, (0.0, 0.2, 1.0, 1.2), 1)])
    detections = as_table([(0, (0.0, 0.0, 1.0, 1.0), 1, 0.9), (0, (0.0, 0.05, 1.0, 1.05), 1, 0.8)])
    assert ava_map(truth, detections, classes=[1])["mAP"] == 0.5


def test_means_are_given_for_poses_objects_and_persons():
    truth = as_table([(0, BOX, 12), (0, BOX, 80), (0, FAR, 14)])
    result = ava_map(truth, as_table([(0, BOX, 12, 0.9), (0, BOX, 80, 0.2)]))
    assert result["per_category"] == {"pose": 0.5, "object": None, "person": 1.0}
    assert result["mAP"] == pytest.approx(2 / 3)
    assert len(AVA_EVALUATED) == 60 == len(set(AVA_EVALUATED))


def test_only_the_best_scored_boxes_of_a_frame_may_count():
    truth = as_table([(0, BOX, 1), (0, FAR, 1)])
    detections = as_table([(0, FAR, 1, 0.1), (0, BOX, 1, 0.5), (1, BOX, 1, 0.01)])
    assert ava_map(truth, detections, classes=[1], most_per_frame=1)["mAP"] == 0.5


def test_nothing_annotated_is_an_error_and_not_a_nan():
    nothing = LabelledBoxes.of([], [], [])
    with pytest.raises(ValueError, match="no annotated box of the evaluated classes"):
        ava_map(nothing, as_table([(0, BOX, 1, 0.9)]), classes=[1])
    with pytest.raises(ValueError, match="box of box 1 is not finite"):
        LabelledBoxes.of([0, 0], [BOX, (0, 0, float("nan"), 1)], [1, 1])
    with pytest.raises(ValueError, match="2 frames but 1 values of label"):
        LabelledBoxes.of([0, 0], [BOX, BOX], [1])
    with pytest.raises(ValueError, match="classes is empty"):
        ava_map(as_table([(0, BOX, 1)]), as_table([(0, BOX, 1, 0.9)]), classes=[])


def test_evaluate_loads_the_metric_by_path_and_pairs_key_frames():
    import evaluate
    from support import GOLDEN

    metric = evaluate.load(str(GOLDEN.parents[1] / "metrics" / "ava_map"))
    metric.add_batch(
        predictions=[
            {"boxes": [list(BOX), list(FAR)], "labels": [1, 1], "scores": [0.9, 0.8]},
            {"boxes": [list(BOX)], "labels": [1], "scores": [0.95]},
        ],
        references=[{"boxes": [list(BOX), list(FAR)], "labels": [1, 1]}, {"boxes": [], "labels": []}],
    )
    result = metric.compute()
    assert result["mAP"] == pytest.approx(2 / 3)  # the false alarm in the frame without annotations costs precision
    assert result["num_key_frames"] == 2


def write_case(folder, seed, digits):
    """Random annotations, results and excluded key frames as files, with what the two evaluations treat differently."""
    rng = random.Random(seed)

    def box():
        x, y = rng.random() * 0.6, rng.random() * 0.6
        return [x, y, x + 0.05 + rng.random() * 0.35, y + 0.05 + rng.random() * 0.35]

    truth, found = [], []
    for video in "ab":
        for second in range(7):
            for _ in range(rng.randrange(3)):
                its_box = box()
                truth += [(video, second, its_box, label) for label in sorted(rng.sample([1, 2, 3, 4, 5], 2))]
    for video, second, its_box, label in truth:
        for _ in range(rng.randrange(3) if label != 5 else 0):  # nobody finds class 5
            moved = sorted(min(max(its_box[k] + rng.gauss(0, 0.03), 0), 1) for k in (0, 2))
            found.append((video, second, [moved[0], its_box[1], moved[1], its_box[3]], label, rng.random()))
    for _ in range(60):  # anywhere, in frames without annotations too, and of a class that is never annotated
        label = rng.choice([1, 2, 3, 6])
        found.append((rng.choice("ab"), rng.randrange(9), box(), label, rng.random() ** 4))
    for _ in range(3):
        x1, y1, _, y2 = box()
        found.append((rng.choice("ab"), rng.randrange(7), [x1, y1, x1, y2], 1, rng.random()))  # without area
    rng.shuffle(found)

    def row(video, second, its_box, label, last):
        return f"{video},{second:04d},{','.join(f'{value:.4f}' for value in its_box)},{label},{last}\n"

    paths = [folder / name for name in ("annotations.csv", "results.csv", "excluded.csv", "classes.txt")]
    paths[0].write_text("".join(row(*entry, 0) for entry in truth))
    scored = [(entry, f"{score:.{digits}f}") for *entry, score in found if round(score, digits) >= 0.002]
    paths[1].write_text("".join(row(*entry, score) for entry, score in scored))
    paths[2].write_text("a,0001\nb,0004\n")
    paths[3].write_text("".join(f"{number}: class {number}\n" for number in range(1, 7)))
    return paths


def from_files(folder, paths, protocol):
    annotations, results, excluded, classes = map(str, paths)
    words = ["--annotations", annotations, "--detections", results, "--excluded", excluded, "--classes", classes]
    map_main([*words, "--protocol", protocol, "--output", str(folder / "map.json")])
    return json.loads((folder / "map.json").read_text())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("digits", [2, 4])  # two: nearly all scores have an equal
def test_files_get_the_figure_that_mmaction2_gives_them(tmp_path, seed, digits):
    paths = write_case(tmp_path, seed, digits)
    expected, per_class = mmaction2_map(*paths[:2], range(1, 7), paths[2])
    result = from_files(tmp_path, paths, "mmaction2")
    assert result["mAP"] == pytest.approx(expected, abs=1e-12) and result["protocol"] == "mmaction2"
    assert {int(label): value for label, value in result["per_class"].items() if int(label) in per_class} == (
        pytest.approx(per_class, abs=1e-12)
    )
    assert 5 in result["classes_without_detections"] and result["per_class"]["5"] == 0


@pytest.mark.parametrize("seed", range(8))
def test_files_get_the_figure_that_the_public_evaluation_gives_them(tmp_path, seed):
    paths = write_case(tmp_path, seed, 6)
    expected, _ = public_map(*paths[:2], range(1, 7), paths[2])
    ours = from_files(tmp_path, paths, "ava")
    assert ours["mAP"] == pytest.approx(expected, abs=1e-12) and ours["protocol"] == "ava"
    assert ours["mAP"] != pytest.approx(from_files(tmp_path, paths, "mmaction2")["mAP"], abs=1e-3)


def test_each_of_mmaction2s_rules_moves_the_figure_as_it_should():
    truth = as_table([(0, BOX, 1), (0, FAR, 1)])

    def both(rows, *, truth=truth, **more):
        results = (
            ava_map(truth, as_table(rows), classes=[1, 3], protocol=name, **more) for name in ("ava", "mmaction2")
        )
        return [result["mAP"] for result in results]

    found = [(0, BOX, 1, 0.9), (0, FAR, 1, 0.8)]
    assert both(found) == [1, 1]
    assert both([(1, BOX, 1, 0.95), *found]) == [pytest.approx(2 / 3), 1]  # a false alarm where nobody is annotated
    line = (0.1, 0.1, 0.1, 0.5)
    assert both([(0, line, 1, 0.95), *found]) == [1, pytest.approx(2 / 3)]  # a false alarm without area
    assert both([(0, BOX, 1, 0.0019), (0, FAR, 1, 0.9)]) == [1, 0.5]  # a score that is cut
    close = [(0, FAR, 1, 0.80003), (0, (0.4, 0, 0.5, 0.4), 1, 0.80001), (0, BOX, 1, 0.9)]
    assert both(close)[0] == 1 and both(close)[1] in (1, pytest.approx(5 / 6))  # equal to four digits: either order
    more = as_table([(0, BOX, 1), (2, BOX, 1)])
    assert both([(0, BOX, 1, 0.9)], truth=more, key_frames=[0]) == [1, 0.5]  # excluded, but to be recalled
    more = as_table([(0, BOX, 1), (0, BOX, 3)])
    assert both([(0, BOX, 1, 0.9)], truth=more) == [0.5, 1]  # nothing was found of class 3
    with pytest.raises(ValueError, match="no detection of an annotated class lies in a key frame that counts"):
        ava_map(truth, as_table([(5, BOX, 1, 0.9)]), classes=[1], protocol="mmaction2")
    with pytest.raises(ValueError, match="protocol must be one of ava, mmaction2, not 'coco'"):
        ava_map(truth, as_table(found), protocol="coco")
