"""Measures of scores: known answers, and the definitions written out by pairs and thresholds."""

import numpy as np
import pytest

from videomae.metrics.classification import (
    TEMPERATURES,
    Curve,
    Reliability,
    Scored,
    average_precision,
    best_threshold,
    fit_temperature,
    intervals,
    probabilities_of,
    resampled_weights,
    roc_auc,
    tempered,
)

NONE = np.array([False, False])


def tied(seed, count=40):
    """Scores of which many are equal, and targets that they say something about."""
    generator = np.random.default_rng(seed)
    targets = generator.random(count) < 0.4
    return np.round(0.3 * targets + 0.7 * generator.random(count), 1), targets


def softmaxed(seed, videos, classes, sharpness=2.0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=videos)
    logits = generator.normal(size=(videos, classes))
    logits[np.arange(videos), labels] += 1.0
    return probabilities_of(sharpness * logits, single=True), np.eye(classes, dtype=bool)[labels]


# ------------------------------------------------------------------------------------------------------ by threshold


def test_auc_and_average_precision_have_the_known_answers():
    # The example of scikit-learn's pages on both measures.
    curve = Curve(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    assert roc_auc(curve) == pytest.approx(0.75)
    assert average_precision(curve) == pytest.approx(5 / 6)


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_the_share_of_pairs_in_the_right_order_and_equal_scores_count_half(seed):
    scores, targets = tied(seed)
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[targets] for n in scores[~targets]]
    assert roc_auc(Curve(scores, targets)) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_weighs_the_precision_at_each_threshold_by_the_recall_that_it_adds(seed):
    scores, targets = tied(seed)
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        said = scores >= threshold
        total += ((said & targets).sum() / targets.sum() - recall) * (said & targets).sum() / said.sum()
        recall = (said & targets).sum() / targets.sum()
    assert average_precision(Curve(scores, targets)) == pytest.approx(total)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_threshold_is_the_one_of_all_with_the_highest_f1(seed):
    scores, targets = tied(seed)
    f1 = {t: 2 * ((scores >= t) & targets).sum() / ((scores >= t).sum() + targets.sum()) for t in set(scores)}
    best = best_threshold(Curve(scores, targets))
    assert best["f1"] == pytest.approx(max(f1.values())) and f1[best["threshold"]] == pytest.approx(best["f1"])
    assert best["threshold"] == max(t for t, value in f1.items() if value == pytest.approx(best["f1"]))


def test_a_class_without_positives_or_without_negatives_has_no_value():
    scores = np.array([0.2, 0.7])
    assert roc_auc(Curve(scores, NONE)) is None and roc_auc(Curve(scores, ~NONE)) is None
    assert average_precision(Curve(scores, NONE)) is None and best_threshold(Curve(scores, NONE)) is None
    assert average_precision(Curve(scores, ~NONE)) == 1.0


@pytest.mark.parametrize("measure", [roc_auc, average_precision])
def test_weights_are_repetitions(measure):
    scores, targets = tied(7)
    times = np.random.default_rng(1).integers(0, 4, len(scores))
    repeated = Curve(np.repeat(scores, times), np.repeat(targets, times))
    assert measure(Curve(scores, targets), times.astype(float)) == pytest.approx(measure(repeated))


# ------------------------------------------------------------------------------------------------------- calibration


def test_reliability_and_calibration_error_have_the_known_answer():
    curve = Reliability(np.array([0.1, 0.5, 0.95, 0.91, 1.0]), np.array([0, 1, 1, 0, 1], bool), 10)
    rows = curve.table()
    assert [row["count"] for row in rows] == [1, 0, 0, 0, 1, 0, 0, 0, 0, 3]  # 0.1 and 0.5 close their bins
    assert rows[9]["accuracy"] == pytest.approx(2 / 3) and rows[9]["confidence"] == pytest.approx(2.86 / 3)
    assert rows[1]["accuracy"] is None
    assert curve.calibration_error() == pytest.approx((0.1 + 0.5 + abs(2.86 - 2)) / 5)


def test_calibrated_scores_have_hardly_an_error_and_a_temperature_of_one():
    generator = np.random.default_rng(0)
    scores = probabilities_of(2 * generator.normal(size=(20000, 4)), single=True)
    labels = (scores.cumsum(axis=1) < generator.random((20000, 1))).sum(axis=1).clip(max=3)
    targets = np.eye(4, dtype=bool)[labels]
    assert Scored(scores, targets, True).headline()["ece"] < 0.01
    assert fit_temperature(scores, targets, single=True) == pytest.approx(1.0, abs=0.03)
    # Logits that were multiplied by three need a temperature of three times what it was.
    too_sure = tempered(scores, 1 / 3, single=True)
    once = fit_temperature(scores, targets, single=True)
    assert fit_temperature(too_sure, targets, single=True) == pytest.approx(3 * once, rel=1e-4)


@pytest.mark.parametrize("single", [True, False])
def test_the_temperature_is_the_best_of_a_fine_grid(single):
    scores, targets = softmaxed(3, 200, 5, sharpness=4.0)
    found = fit_temperature(scores, targets, single=single)
    grid = np.geomspace(0.05, 20, 2001)
    losses = [Scored(tempered(scores, t, single=single), targets, single).losses.mean() for t in grid]
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=5e-3)


def test_a_temperature_changes_no_answer_and_one_changes_nothing():
    scores, _ = softmaxed(0, 50, 6)
    assert np.allclose(tempered(scores, 1.0, single=True), scores)
    assert np.allclose(tempered(tempered(scores, 2.0, single=True), 0.5, single=True), scores)
    for single in (True, False):
        assert (tempered(scores, 3.0, single=single).argsort(axis=1) == scores.argsort(axis=1)).all()


def test_perfect_answers_stop_at_the_bound():
    targets = np.eye(3, dtype=bool)[[0, 1, 2, 0]]
    assert fit_temperature(np.where(targets, 0.8, 0.1), targets, single=True) == TEMPERATURES[0]
    assert fit_temperature(np.where(targets, 0.1, 0.45), targets, single=True) == TEMPERATURES[1]


# ---------------------------------------------------------------------------------------------------------- headline


def test_the_headline_of_a_table_by_hand():
    scores = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.5, 0.4, 0.1], [0.1, 0.2, 0.7]])
    targets = np.eye(3, dtype=bool)[[0, 1, 1, 2]]
    figures = Scored(scores, targets, True).headline()
    assert figures["top1"] == 0.75 and "top5" not in figures
    assert figures["mean_class_accuracy"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert figures["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert figures["macro_precision"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert figures["macro_auc"] == pytest.approx(1.0) and figures["macro_average_precision"] == pytest.approx(1.0)
    assert figures["nll"] == pytest.approx(-np.log([0.6, 0.5, 0.4, 0.7]).mean())
    levels = Scored(scores, targets, True).levels()
    assert levels["chance_top1"] == pytest.approx(1 / 3) and levels["majority_top1"] == 0.5


def test_two_classes_are_judged_by_the_second():
    scores = np.array([[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]])
    figures = Scored(scores, np.eye(2, dtype=bool)[[0, 0, 1, 1]], True).headline()
    assert figures["auc"] == pytest.approx(0.75) and figures["average_precision"] == pytest.approx(5 / 6)
    assert figures["precision"] == 1.0 and figures["recall"] == 0.5 and figures["f1"] == pytest.approx(2 / 3)


def test_several_labels_are_judged_by_class_and_by_pair():
    scores = np.array([[0.9, 0.2], [0.6, 0.8], [0.3, 0.7]])
    targets = np.array([[True, False], [False, True], [True, True]])
    scored = Scored(scores, targets, False)
    figures = scored.headline()
    assert figures["micro_f1"] == pytest.approx(2 * 3 / (4 + 4)) and figures["exact_match"] == pytest.approx(1 / 3)
    assert figures["macro_auc"] == pytest.approx((0.5 + 1.0) / 2)
    assert len(scored.reliability.hits) == 6 and "top1" not in figures


def test_a_constant_score_is_no_better_than_chance():
    scored = Scored(np.full((9, 3), 1 / 3), np.eye(3, dtype=bool)[[0] * 3 + [1] * 3 + [2] * 3], True)
    figures = scored.headline()
    assert figures["top1"] == pytest.approx(1 / 3) and figures["macro_auc"] == 0.5


# --------------------------------------------------------------------------------------------------------- bootstrap


def test_the_interval_of_an_accuracy_is_that_of_the_binomial():
    generator = np.random.default_rng(0)
    right = generator.random(400) < 0.7
    scores = np.where(right[:, None], [0.9, 0.1], [0.1, 0.9])
    low, high = intervals(Scored(scores, np.eye(2, dtype=bool)[np.zeros(400, int)], True), resamples=2000)["top1"]
    spread = 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / 400)
    assert (low, high) == pytest.approx((right.mean() - spread, right.mean() + spread), abs=0.006)


def test_groups_are_drawn_whole_and_widen_the_interval():
    groups = np.repeat(np.arange(20), 20)
    right = np.repeat(np.arange(20) < 14, 20)  # whole groups are right or wrong
    scored = Scored(np.where(right[:, None], [0.9, 0.1], [0.1, 0.9]), np.eye(2, dtype=bool)[np.zeros(400, int)], True)
    for weights in resampled_weights(400, groups, 5, np.random.default_rng(0)):
        assert all(len(set(weights[groups == group])) == 1 for group in range(20)) and weights.sum() == 400
    alone, together = (intervals(scored, groups=codes)["top1"] for codes in (None, groups))
    assert together[1] - together[0] > 3 * (alone[1] - alone[0])


def test_equal_seeds_give_equal_intervals():
    scored = Scored(*softmaxed(0, 60, 4), True)
    assert intervals(scored, resamples=50, seed=3) == intervals(scored, resamples=50, seed=3)
    assert intervals(scored, resamples=0) == {}
