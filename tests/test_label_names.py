"""Class names of data and checkpoint."""

import pytest

from videomae.data.lists.label_names import class_columns, find_names, names_of, normalised, side_by_side


def test_spelling_that_annotation_files_disagree_about_does_not_count():
    assert normalised('"Air_Drumming" ') == normalised("air drumming") == normalised("air-drumming")


def test_placeholders_are_no_names():
    assert names_of({0: "LABEL_0", 1: "LABEL_1"}) is None
    assert names_of({1: "b", 0: "a"}) == ["a", "b"]


def test_equal_names_need_no_columns():
    assert class_columns(["A", "b_c"], ["a", "b c"], 2) is None


def test_another_order_stops_and_shows_both_sides():
    with pytest.raises(ValueError, match="match them by_name") as caught:
        class_columns(["run", "walk"], ["walk", "run"], 2)
    assert "    0  run   walk" in str(caught.value)


def test_another_order_is_remapped_when_told():
    assert class_columns(["run", "walk"], ["walk", "run"], 2, "by_name") == [1, 0]


def test_classes_of_a_larger_checkpoint_are_picked_by_name():
    assert class_columns(["run", "walk"], ["sit", "walk", "run"], 3, "by_name") == [2, 1]


def test_a_class_that_the_checkpoint_lacks_is_named_with_its_nearest():
    with pytest.raises(ValueError, match=r"1 of 2 classes(.|\n)*'walks' \(nearest: 'walk'\)"):
        find_names(["run", "walks"], ["walk", "run"])


def test_by_index_trusts_the_numbers():
    assert class_columns(["x", "y"], ["walk", "run"], 2, "by_index") is None
    assert class_columns(["x", "y"], ["walk", "run", "sit"], 3, "by_index") == [0, 1]


def test_more_classes_than_outputs_stop_under_any_rule():
    for match in ("check", "by_index"):
        with pytest.raises(ValueError, match="3 classes and the checkpoint 2 outputs"):
            class_columns(["a", "b", "c"], ["a", "b"], 2, match)


def test_data_without_names_goes_by_number_and_not_by_name():
    assert class_columns(None, ["a", "b"], 2) is None
    with pytest.raises(ValueError, match="the data set has no class names"):
        class_columns(None, ["a", "b"], 2, "by_name")


def test_a_long_table_is_cut():
    table = side_by_side([f"a{i}" for i in range(40)], [f"b{i}" for i in range(40)], most=3)
    assert table.endswith("and 37 more") and len(table.splitlines()) == 5
