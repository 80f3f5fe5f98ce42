"""Stretches against labelled ones: by hand, and against ActivityNet's scorer restated step by step."""

import math

import numpy as np
import pytest

from videomae.evaluation.stretch_scores import Truth, ending, match_truth, read_truth, stretch_report, stretch_scores
from videomae.metrics.temporal_detection import (
    TIOUS,
    LabelledStretch,
    average_precisions,
    spans,
    temporal_ious,
    time_shares,
)


def stretches(*rows):
    return [LabelledStretch(*row) for row in rows]


def test_overlap_over_union_of_seconds():
    others = stretches(("a", 2, 6), ("a", 0, 4), ("b", 4, 8), ("a", 1, 3))
    assert temporal_ious(LabelledStretch("a", 0, 4), others).tolist() == [2 / 6, 1.0, 0.0, 0.5]


def test_average_precision_by_hand():
    truth = {"one": stretches(("a", 0, 10), ("a", 20, 30)), "two": stretches(("a", 0, 10))}
    found = {
        "one": stretches(("a", 0, 10, 0.9), ("a", 0, 9, 0.8), ("a", 24, 30, 0.6)),
        "two": stretches(
            ("a", 50, 60, 0.7),
        ),
        "three": [],
    }
    # In order: right; a second one of the same (wrong); wrong; overlaps 6 of 10. Precisions 1, 1/2, 1/3, 2/4.
    low, high = average_precisions(truth, found, (0.5, 0.7))
    assert low == pytest.approx((1 + 2 / 4) / 3) and high == pytest.approx(1 / 3)


def test_precision_is_that_of_the_best_point_from_there_on():
    truth = {"v": stretches(("a", 0, 1), ("a", 2, 3))}
    found = {"v": stretches(("a", 8, 9, 0.9), ("a", 0, 1, 0.8), ("a", 2, 3, 0.7))}
    # Precision 0, 1/2, 2/3: the first right one counts as 2/3, too.
    assert average_precisions(truth, found, (0.5,)).tolist() == pytest.approx([2 / 3])


def test_a_taken_stretch_leaves_the_next_best_to_a_later_one():
    truth = {"v": stretches(("a", 0, 10), ("a", 4, 14))}
    found = {"v": stretches(("a", 0, 10, 0.9), ("a", 1, 11, 0.8))}
    # The second overlaps the first more (9/11) than the other (7/13 = 0.54), which is free.
    assert average_precisions(truth, found, (0.5, 0.6)).tolist() == pytest.approx([1.0, 0.5])


def test_nothing_found_or_nothing_labelled_is_zero():
    assert average_precisions({"v": stretches(("a", 0, 1))}, {}).tolist() == [0.0] * 5
    assert average_precisions({"v": []}, {"v": stretches(("a", 0, 1, 0.5))}).tolist() == [0.0] * 5


def activitynet(truth, found, thresholds):
    """The steps of eval_detection.py for one class, restated: rows of (video, start, end) and (video, start, end, score)."""
    ranks = sorted(found, key=lambda row: row[3], reverse=True)
    results = []
    for threshold in thresholds:
        locked, hits = set(), []
        for video, start, end, _ in ranks:
            candidates = []
            for place, (other, first, last) in enumerate(truth):
                if other == video:
                    shared = max(0.0, min(end, last) - max(start, first))
                    candidates.append((shared / ((last - first) + (end - start) - shared), place))
            hit = 0
            for overlap, place in sorted(candidates, reverse=True):
                if overlap < threshold:
                    break
                if place not in locked:
                    locked.add(place)
                    hit = 1
                    break
            hits.append(hit)
        precision, recall, right = [0.0], [0.0], 0
        for count, hit in enumerate(hits, 1):
            right += hit
            precision.append(right / count)
            recall.append(right / len(truth))
        precision.append(0.0)
        recall.append(1.0)
        for place in range(len(precision) - 2, -1, -1):
            precision[place] = max(precision[place], precision[place + 1])
        steps = range(1, len(recall))
        results.append(sum((recall[i] - recall[i - 1]) * precision[i] for i in steps if recall[i] != recall[i - 1]))
    return results


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_is_that_of_activitynets_scorer_restated(seed):
    rng = np.random.default_rng(seed)
    truth_rows, found_rows = [], []
    for video in "abcd":
        for _ in range(rng.integers(0, 6)):
            start = rng.uniform(0, 50)
            truth_rows.append((video, start, start + rng.uniform(1, 12)))
        for _, first, last in [row for row in truth_rows if row[0] == video] * 2:
            start = first + rng.normal(0, 2)
            found_rows.append((video, start, max(last + rng.normal(0, 2), start + 0.1), rng.uniform()))
        start = rng.uniform(0, 50)
        found_rows.append((video, start, start + 3, rng.uniform()))
    if not truth_rows:
        truth_rows.append(("a", 1.0, 2.0))
    truth, found = {}, {}
    for video, start, end in truth_rows:
        truth.setdefault(video, []).append(LabelledStretch("x", start, end))
    for video, start, end, score in found_rows:
        found.setdefault(video, []).append(LabelledStretch("x", start, end, score))
    np.testing.assert_allclose(average_precisions(truth, found), activitynet(truth_rows, found_rows, TIOUS), atol=1e-12)


def test_spans_cover_the_time_and_nothing_changes_inside_one():
    one, other, third = stretches(("a", 0, 4), ("b", 2, 6), ("c", 8, 9))
    assert list(spans([third, one], [other])) == [
        (0, 2, (one,), ()),
        (2, 4, (one,), (other,)),
        (4, 6, (), (other,)),
        (6, 8, (), ()),
        (8, 9, (third,), ()),
    ]


def test_shares_of_time_by_hand():
    truth = stretches(("a", 2, 6), ("b", 8, 10))
    found = stretches(("a", 1, 4, 0.9), ("b", 3, 5, 0.5), ("a", 8, 12, 0.7))
    # Right: 0-1 nothing, 2-4 a, 6-8 nothing, 12-20 nothing. 4-5 says b, 5-6 nothing, 8-10 a for b.
    assert time_shares(truth, found, 20.0) == (1 + 2 + 2 + 8, 20.0, 2.0, 6.0)
    assert time_shares([], [], 5.0) == (5.0, 5.0, 0.0, 0.0)
    assert time_shares(stretches(("a", -1, 30)), stretches(("a", 0, 10, 1)), 20.0) == (10.0, 20.0, 10.0, 20.0)


def test_shares_of_time_agree_with_a_count_of_frames():
    rng, names = np.random.default_rng(0), "abc"
    for _ in range(10):
        sets = []
        for _ in range(2):
            starts = rng.integers(0, 90, 6).tolist()
            sets.append([LabelledStretch(names[s % 3], s, s + 1 + s % 9, float(rng.uniform())) for s in starts])
        truth, found = sets
        right = 0
        for frame in range(100):
            labels = {s.label for s in truth if s.start_seconds <= frame < s.end_seconds}
            there = [s for s in found if s.start_seconds <= frame < s.end_seconds]
            answer = max(there, key=lambda s: s.score).label if there else None
            right += answer in labels if labels else answer is None
        assert time_shares(truth, found, 100.0).right == right


# ------------------------------------------------------------------------------------------------- the labelled ones


def test_a_table_of_stretches_has_times_as_numbers_or_clocks_and_videos_without_any(tmp_path):
    table = tmp_path / "truth.csv"
    table.write_text(
        "video,label,start_seconds,end_seconds\na.mp4,run,1.5,2\na.mp4,jump,1:02,0:01:03.5\nb.mp4,,,\nc.mp4,run,,9\nc.mp4,jump,9,\n"
    )
    truth = read_truth(table)
    assert truth.stretches == {
        "a.mp4": stretches(("run", 1.5, 2), ("jump", 62, 63.5)),
        "b.mp4": [],
        "c.mp4": stretches(("run", 0, 9), ("jump", 9, math.inf)),
    }
    assert ending(truth.stretches["c.mp4"], 12.0) == stretches(("run", 0, 9), ("jump", 9, 12))


def test_activitynets_json_is_read(tmp_path):
    file = tmp_path / "truth.json"
    file.write_text(
        '{"version": "1", "database": {"v1": {"subset": "training", "annotations": [{"segment": [0.5, 2], "label": "run"}]}, '
        '"v2": {"annotations": []}}}'
    )
    truth = read_truth(file)
    assert truth.stretches == {"v1": stretches(("run", 0.5, 2)), "v2": []} and truth.subsets == {"v1": "training"}


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "path,label,begins\na.mp4,run,1\n",
            "line 2: no column start_seconds among 'path', 'label', 'begins'",
        ),
        (
            "path,label,start_seconds,end_seconds\na.mp4,run,2,2\n",
            "line 2: end_seconds 2 must be after start_seconds 2",
        ),
        ("path,label,start_seconds,end_seconds\na.mp4,,1,2\n", "line 2: a stretch without a label"),
        (
            "path,label,start_seconds,end_seconds\na.mp4,run,soon,2\n",
            "start_seconds='soon' is no time; give seconds such as 83.5, or h:mm:ss",
        ),
        (
            "path,label,start_seconds,end_seconds,split\na.mp4,run,1,2,train\na.mp4,run,3,4,test\n",
            "line 3: a.mp4 is in train and in test; a video is in one",
        ),
        (
            "path,label,start_seconds,end_seconds\na.mp4,run,-1,2\n",
            "start_seconds='-1' is no time; give seconds such as 83.5, or h:mm:ss",
        ),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused_with_its_line(text, message, tmp_path):
    (tmp_path / "truth.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_truth(tmp_path / "truth.csv")


@pytest.mark.parametrize(
    "text, message",
    [
        ("[1, 2", "is not JSON: "),
        ("[1, 2]", "is not JSON of ActivityNet's kind"),
        (
            '{"database": {"v": {"annotations": [{"segment": [1], "label": "x"}]}}}',
            r"v, annotation 1: \[1\] is no start and end in seconds",
        ),
        (
            '{"database": {"v": {"annotations": [7]}}}',
            "v, annotation 1: needs a segment of two times and a label, not 7",
        ),
        ('{"database": {"v": {"annotations": [{"segment": [1, 2]}]}}}', "v, annotation 1: a stretch without a label"),
    ],
)
def test_json_that_is_no_annotation_is_refused(text, message, tmp_path):
    (tmp_path / "truth.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_truth(tmp_path / "truth.json")


def test_videos_are_matched_by_path_by_name_or_by_the_last_part():
    videos = [("more/a.mp4", "more/a"), ("b.mkv", "b"), ("c.d.mp4", "c.d")]
    truth = {"/else/where/b.mkv": stretches(("x", 0, 1)), "a": [], "c.d": [], "missing": []}
    matched, unknown = match_truth(Truth("truth.csv", truth, {"a": "training", "missing": "test"}), videos, ["x"])
    assert matched.subsets == {"more/a": "training"}
    assert matched.stretches == {"b": stretches(("x", 0, 1)), "more/a": [], "c.d": []} and unknown == ["missing"]


def test_truth_of_other_videos_or_labels_is_refused():
    videos = [("a/x.mp4", "a/x"), ("b/x.mp4", "b/x")]
    with pytest.raises(ValueError, match=r"x.mp4 may be 'a/x', 'b/x'; write paths as they are below the data"):
        match_truth(Truth("truth.csv", {"x.mp4": []}), videos)
    with pytest.raises(ValueError, match="has none of the videos, but 'y"):
        match_truth(Truth("truth.csv", {"y.mp4": []}), videos)
    with pytest.raises(
        ValueError, match=r"labels that the model does not know: 'fly'; .*The model knows 'run', 'jump'"
    ):
        match_truth(Truth("truth.csv", {"a/x.mp4": stretches(("fly", 0, 1))}), videos, ["run", "jump"])


def test_scores_of_a_set_by_hand_with_a_video_that_could_not_be_read():
    truth = {"one": stretches(("a", 0, 10)), "two": stretches(("a", 0, 10), ("b", 10, 20)), "quiet": []}
    found = {"one": stretches(("a", 0, 10, 0.9), ("c", 12, 14, 0.8)), "other": stretches(("b", 0, 5, 1.0))}
    scores = stretch_scores(truth, found, {"one": 20.0, "quiet": 30.0, "other": 9.0}, (0.5,))
    assert scores["classes"] == {
        "a": {"stretches": 2, "found": 1, "ap": {"0.5": 0.5}},
        "b": {"stretches": 1, "found": 0, "ap": {"0.5": 0.0}},
    }
    assert (scores["map"], scores["mean_map"]) == ({"0.5": 0.25}, 0.25)
    assert scores["frame_accuracy"] == pytest.approx((18 + 30) / 50) and scores["frame_accuracy_labelled"] == 1.0
    assert (scores["videos"], scores["not_read"], scores["found_of_other_labels"]) == (3, 1, 1)
    report = "\n".join(stretch_report(scores))
    assert (
        "mAP by tIoU, 2 labels in 3 videos: 0.5: 25.0; mean 25.0" in report
        and "videos that could not be read: 1" in report
    )
