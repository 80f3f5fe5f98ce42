"""Splits that keep groups together: no leak, every class in every part, and the same answer each time."""

import re

import numpy as np
import pytest

from videomae.data.lists.groups import groups_of, parse_fold, parts_of, read_groups
from videomae.data.lists.layouts import open_manifest


def patients(seed, videos=300, people=40, classes=5):
    generator = np.random.default_rng(seed)
    groups = generator.integers(people, size=videos)
    return generator.choice(classes, size=videos, p=[0.4, 0.3, 0.15, 0.1, 0.05]), [f"p{group}" for group in groups]


@pytest.mark.parametrize("seed", range(4))
def test_no_group_is_in_two_parts_and_every_part_has_every_class(seed):
    labels, groups = patients(seed)
    parts = parts_of(labels, groups, [0.2] * 5, seed=seed)
    for group in set(groups):
        assert len({part for part, own in zip(parts, groups) if own == group}) == 1
    for label in range(5):
        shares = np.bincount(parts[labels == label], minlength=5) / (labels == label).sum()
        assert shares.min() > 0.05 and shares.max() < 0.4, (label, shares)
    assert np.abs(np.bincount(parts) / len(parts) - 0.2).max() < 0.03


def test_without_groups_each_class_is_divided_evenly():
    labels = np.repeat([0, 1, 2], [50, 23, 7])
    parts = parts_of(labels, None, [0.25] * 4)
    for label in range(3):
        counts = np.bincount(parts[labels == label], minlength=4)
        assert counts.max() - counts.min() <= 1
    assert np.bincount(parts).max() - np.bincount(parts).min() <= 1


def test_unequal_shares_are_filled_as_asked():
    labels, groups = patients(1)
    parts = parts_of(labels, groups, [0.8, 0.2])
    assert (parts == 1).mean() == pytest.approx(0.2, abs=0.02)


def test_several_labels_a_video_are_spread_too():
    generator = np.random.default_rng(0)
    labels = (generator.random((200, 4)) < [0.5, 0.3, 0.2, 0.1]).astype(float)
    parts = parts_of(labels, [str(i // 4) for i in range(200)], [1 / 3] * 3)
    held = np.stack([labels[parts == part].sum(axis=0) for part in range(3)])
    assert (held.max(axis=0) - held.min(axis=0) <= 4).all()


def test_the_parts_depend_on_nothing_but_the_arguments():
    labels, groups = patients(0)
    first = parts_of(labels, groups, [0.2] * 5, seed=1)
    assert (first == parts_of(labels, groups, [0.2] * 5, seed=1)).all()
    assert (first != parts_of(labels, groups, [0.2] * 5, seed=2)).any()
    assert (parts_of(labels, [f"x{g}" for g in groups], [0.2] * 5, seed=1) == first).all()  # names say nothing


def test_too_few_groups_are_an_error():
    with pytest.raises(ValueError, match="2 groups cannot fill 5 parts"):
        parts_of([0, 1, 0], ["a", "b", "a"], [0.2] * 5)


@pytest.mark.parametrize("text", ["0/5", "6/5", "1/1", "2", "a/b", "2/5/7", ""])
def test_a_fold_is_a_part_of_parts(text):
    assert parse_fold("2/5") == (2, 5)
    with pytest.raises(ValueError, match=re.escape("PART/PARTS, such as 2/5")):
        parse_fold(text)


# ------------------------------------------------------------------------------------------------------------- tables


def table(folder, *rows, name="groups.csv"):
    (folder / name).write_text("\n".join(rows) + "\n")
    return folder / name


def test_groups_come_from_the_column_that_is_named_or_known(tmp_path):
    file = table(tmp_path, "path,label,Patient,camera", "a.mp4,0,p1,c1", "b.mp4,1,p2,c1")
    assert read_groups(file) == ("Patient", {"a.mp4": "p1", "b.mp4": "p2"})
    assert read_groups(file, "camera") == ("camera", {"a.mp4": "c1", "b.mp4": "c1"})
    manifest = open_manifest(file)
    assert groups_of(manifest, file) == ["p1", "p2"]


@pytest.mark.parametrize(
    "rows, message",
    [
        (["a.mp4 0", "b.mp4 1"], "has no header line that names its columns"),
        (["path,label", "a.mp4,0"], "no column for groups called 'group'"),
        (["path,label,group", "a.mp4,0,"], "line 2: group is empty"),
        (["path,label,group", "a.mp4,0,x", "a.mp4,0,y"], "line 3: a.mp4 is in two groups, x and y"),
    ],
)
def test_a_table_without_groups_says_what_is_missing(tmp_path, rows, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_groups(table(tmp_path, *rows))


def test_a_video_without_a_group_is_named(tmp_path):
    manifest = open_manifest(table(tmp_path, "path,label", "a.mp4,0", "b.mp4,1", name="list.csv"))
    file = table(tmp_path, "path,group", "b.mp4,x")
    with pytest.raises(ValueError, match=r"has no group for 1 of 2 videos of .*: 'a.mp4'; paths must be written as in"):
        groups_of(manifest, file)
