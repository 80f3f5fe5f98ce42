"""Which weights a run's final test is of, and the warning where they were chosen on the test."""

import pytest

from videomae.data.lists.layouts import open_manifest
from videomae.evaluation.final_test import chosen_on_the_test, weights_to_test
from videomae.training.recipes import FINETUNING


def test_published_recipes_test_the_last_epoch_and_data_of_ones_own_the_best():
    rules = {name: recipe.test_weights for name, recipe in FINETUNING.items()}
    assert rules.pop("small-data") == "best" and set(rules.values()) == {"final"}
    for rule, early_stopping, has_best, expected in (
        ("final", False, True, "final"),
        ("final", True, True, "best"),  # where it stops is chance
        ("best", False, True, "best"),
        ("best", True, False, "final"),  # nothing was validated
    ):
        assert weights_to_test(rule, early_stopping=early_stopping, has_best=has_best) == expected
    with pytest.raises(ValueError, match="test_weights must be final or best, not 'last'"):
        weights_to_test("last", early_stopping=False, has_best=True)


def test_a_figure_of_weights_that_were_chosen_on_the_test_is_said_to_flatter(tmp_path):
    def manifest(name, clips):
        for clip in clips:
            (tmp_path / clip).touch()
        (tmp_path / name).write_text("".join(f"{clip} {index % 2}\n" for index, clip in enumerate(clips)))
        return open_manifest(tmp_path / name)

    validation = manifest("val.csv", ["a.mp4", "b.mp4", "c.mp4"])
    same = manifest("test.csv", ["c.mp4", "b.mp4", "d.mp4"])
    warning = chosen_on_the_test("best", validation, same)
    assert warning.startswith("2 of the 3 test videos are validation videos, on which the best weights were chosen")
    assert "--test_weights final" in warning
    assert chosen_on_the_test("final", validation, same) is None
    assert chosen_on_the_test("best", None, same) is None
    assert chosen_on_the_test("best", validation, manifest("other.csv", ["d.mp4", "e.mp4"])) is None
