"""Accuracy over views and videos, and its `evaluate` module."""

from pathlib import Path

import numpy as np
import pytest

from videomae import metrics
from videomae.metrics.video_accuracy import scores

METRIC = Path(scores.__file__).parent


def test_the_true_class_ranks_behind_all_that_score_higher():
    ranks = scores.label_ranks([[0.1, 0.5, 0.4], [0.1, 0.5, 0.4], [0.1, 0.5, 0.4]], [0, 1, 2])
    assert ranks.tolist() == [2, 0, 1]


def test_constant_scores_hit_only_the_first_class():
    assert scores.label_ranks(np.ones((4, 4)), [0, 1, 2, 3]).tolist() == [0, 1, 2, 3]


def test_a_score_that_is_not_finite_is_an_error_with_its_row():
    with pytest.raises(ValueError, match="1 of 2 rows hold a score that is not finite, the first is 1"):
        scores.label_ranks([[0.0, 1.0], [np.nan, 1.0]], [0, 1])


def test_a_label_without_a_score_is_an_error():
    with pytest.raises(ValueError, match=r"label 3 is outside 0\.\.1"):
        scores.label_ranks([[0.0, 1.0]], [3])


def test_views_are_averaged_before_the_video_is_judged():
    result = scores.video_accuracy([[0.6, 0.4], [0.1, 0.9], [0.3, 0.7]], [1, 1, 0], ["a", "a", "b"])
    assert result["video_top1"] == 0.5 and result["view_top1"] == pytest.approx(1 / 3)
    assert (result["num_videos"], result["num_views"]) == (2, 3)
    assert "video_top5" not in result  # of two classes


def test_a_view_that_arrives_twice_counts_once():
    rows, labels = [[0.9, 0.1], [0.4, 0.6], [0.9, 0.1]], [1, 1, 1]
    once = scores.video_accuracy(rows[:2], labels[:2], ["a", "a"], ["0", "1"])
    assert scores.video_accuracy(rows, labels, ["a", "a", "a"], ["0", "1", "0"]) == once


def test_two_labels_for_one_video_are_an_error():
    with pytest.raises(ValueError, match="video 'a' has two labels, 0 and 1"):
        scores.video_accuracy([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [0, 1, 1], ["a", "a", "b"])


def test_top5_equals_a_sort():
    generator = np.random.default_rng(0)
    table, labels = generator.normal(size=(200, 12)), generator.integers(0, 12, 200)
    expected = np.mean([label in np.argsort(-row)[:5] for row, label in zip(table, labels)])
    assert scores.video_accuracy(table, labels, list(range(200)))["video_top5"] == pytest.approx(expected)


def test_the_class_table_has_no_number_for_a_class_without_videos():
    rows = scores.per_class_table([0, 1, 1, 1], [0, 0, 0, 1], ["a", "b", "c"])
    assert rows[0] == {
        "index": 0,
        "class": "a",
        "videos": 3,
        "accuracy": pytest.approx(1 / 3),
        "precision": 1.0,
        "most_taken_for": "b",
    }
    assert rows[2]["accuracy"] is None and rows[2]["precision"] is None and rows[2]["videos"] == 0


def test_confusion_pairs_come_most_frequent_first_and_without_the_right_answers():
    pairs = scores.confusion_pairs([1, 1, 0, 1, 2], [0, 0, 0, 2, 2], ["a", "b", "c"])
    assert [(pair["true"], pair["predicted"], pair["videos"]) for pair in pairs] == [("a", "b", 2), ("c", "b", 1)]
    assert pairs[1]["share_of_class"] == 0.5


def test_average_precision_of_a_known_ranking():
    # Positives at ranks 1 and 3: (1/1 + 2/3) / 2.
    value, by_class = scores.mean_average_precision([[0.9, 0], [0.8, 0], [0.7, 0]], [[1, 0], [0, 0], [1, 0]])
    assert value == pytest.approx((1 + 2 / 3) / 2)
    assert by_class[1] is None


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    return str(tmp_path / "cache")


def test_evaluate_loads_the_metric_by_path_and_offline(cache):
    import evaluate

    metric = evaluate.load(str(METRIC), cache_dir=cache, keep_in_memory=True)
    given = {"predictions": [[0.6, 0.4], [0.1, 0.9], [0.3, 0.7]], "references": [1, 1, 0], "video_ids": ["a", "a", "b"]}
    assert metric.compute(**given) == scores.video_accuracy(*given.values())


def test_the_views_configuration_takes_batches_and_drops_duplicates(cache):
    import evaluate

    metric = evaluate.load(str(METRIC), "views", cache_dir=cache, keep_in_memory=True)
    for views in ([0, 1], [1, 0]):  # the second batch repeats a padded one
        metric.add_batch(
            predictions=[[0.9, 0.1], [0.4, 0.6]] if views == [0, 1] else [[0.4, 0.6], [0.9, 0.1]],
            references=[1, 1],
            video_ids=["a", "a"],
            view_ids=[str(view) for view in views],
        )
    assert metric.compute()["num_views"] == 2


def test_without_video_ids_each_row_is_a_video_as_in_compute_metrics_of_a_trainer(cache):
    import evaluate
    from transformers import EvalPrediction

    metric = evaluate.load(metrics.path("video_accuracy"), cache_dir=cache, keep_in_memory=True)

    def compute_metrics(prediction: EvalPrediction):
        return metric.compute(predictions=scores.softmax(prediction.predictions), references=prediction.label_ids)

    logits = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]], dtype=np.float32)
    found = compute_metrics(EvalPrediction(predictions=logits, label_ids=np.array([0, 1, 1])))
    assert found == {"video_top1": 2 / 3, "view_top1": 2 / 3, "num_videos": 3, "num_views": 3}


def test_an_unknown_measure_is_named():
    with pytest.raises(ValueError, match=r"there is no measure 'accuracy'; the modules .* are video_accuracy, ava_map"):
        metrics.path("accuracy")
