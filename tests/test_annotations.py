"""Labelled stretches in the files that people have: ActivityNet's JSON, a COCO-like JSON, THUMOS' text; and background."""

import json
import re

import numpy as np
import pytest

from videomae.data.lists.groups import split_fold
from videomae.data.lists.intervals import first_conflict, gaps
from videomae.data.lists.layouts import open_manifest

ACTIVITYNET = {
    "version": "VERSION 1.3",
    "taxonomy": [],
    "database": {
        "aaaaaaaaaaa": {
            "duration": 60.0,
            "subset": "training",
            "annotations": [{"label": "Surfing", "segment": [0.5, 12.25]}, {"label": "Archery", "segment": [20, 30]}],
        },
        "bbbbbbbbbbb": {
            "duration": 9,
            "subset": "validation",
            "annotations": [{"label": "Archery", "segment": [1, 2]}],
        },
        "ccccccccccc": {"duration": 50, "subset": "training", "annotations": []},
    },
}
COCO = {
    "videos": [{"id": 1, "file_name": "a.mp4", "duration": 30}, {"id": 2, "file_name": "b.mp4"}],
    "categories": [{"id": 5, "name": "walk"}, {"id": 2, "name": "run"}],
    "annotations": [
        {"id": 1, "video_id": 1, "category_id": 5, "start_seconds": "0:01", "end_seconds": 2},
        {"id": 2, "video_id": 2, "category_id": 2, "segment": [3, 4]},
    ],
}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def touch(folder, *names):
    for name in names:
        write(folder / name, "")


def entries(manifest):
    return [(manifest.path(i), manifest.class_names[manifest.label(i)]) for i in range(len(manifest))]


# ---------------------------------------------------------------------------------------------------------- ActivityNet


def test_activitynets_stretches_are_found_by_the_names_of_their_videos(tmp_path):
    touch(tmp_path, "v/v_aaaaaaaaaaa.mp4", "v/bbbbbbbbbbb.mkv")
    path = write(tmp_path / "anet.json", ACTIVITYNET)
    train = open_manifest(path, split="training")
    names = [("v/v_aaaaaaaaaaa.mp4#t=0.5,12.25", "Surfing"), ("v/v_aaaaaaaaaaa.mp4#t=20,30", "Archery")]
    assert entries(train) == names and train.class_names == ("Archery", "Surfing")
    assert entries(open_manifest(path, split="validation")) == [("v/bbbbbbbbbbb.mkv#t=1,2", "Archery")]
    assert open_manifest(path, split="validation").class_names == (
        "Archery",
        "Surfing",
    )  # one numbering for all subsets


def test_activitynets_background_reaches_to_the_end_of_each_video(tmp_path):
    touch(tmp_path, "aaaaaaaaaaa.mp4", "ccccccccccc.mp4")
    manifest = open_manifest(write(tmp_path / "anet.json", ACTIVITYNET), split="training", background="nothing")
    times = ["12.25,20", "30,60"]  # not the first half second, which is too short
    assert entries(manifest)[2:] == [
        *((f"aaaaaaaaaaa.mp4#t={one}", "nothing") for one in times),
        ("ccccccccccc.mp4#t=0,50", "nothing"),
    ]
    assert manifest.class_names == ("Archery", "Surfing", "nothing")


def test_what_is_wrong_with_a_json_is_said_with_its_place(tmp_path):
    touch(tmp_path, "aaaaaaaaaaa.mp4")
    path = write(tmp_path / "anet.json", ACTIVITYNET)
    for options, message in (
        ({}, "anet.json has the subsets 'training', 'validation', and split is None; choose one of them"),
        ({"split": "validation"}, "anet.json: 1 of 1 videos are not below"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            open_manifest(path, **options)
    video = ACTIVITYNET["database"]["aaaaaaaaaaa"]
    for segment, message in (
        ([12, 3], "anet.json: aaaaaaaaaaa: the end 3 is not after the start 12; exchange or correct them"),
        ([12], "anet.json: aaaaaaaaaaa: [12] is no start and end in seconds; give both as numbers or h:mm:ss"),
    ):
        database = {"aaaaaaaaaaa": video | {"annotations": [{"label": "Surfing", "segment": segment}]}}
        with pytest.raises(ValueError, match=re.escape(message)):
            open_manifest(write(path, {"database": database}))
    with pytest.raises(
        ValueError, match=re.escape("is no known list: it holds 'videos'. Known are ActivityNet's `database`")
    ):
        open_manifest(write(tmp_path / "x.json", {"videos": []}))


# ----------------------------------------------------------------------------------------------------------------- COCO


def test_a_coco_like_file_numbers_its_classes_by_their_ids(tmp_path):
    manifest = open_manifest(write(tmp_path / "coco.json", COCO))
    assert entries(manifest) == [("a.mp4#t=1,2", "walk"), ("b.mp4#t=3,4", "run")]
    assert manifest.class_names == ("run", "walk") and manifest.source(0).source == str(tmp_path / "a.mp4")
    background = open_manifest(write(tmp_path / "coco.json", COCO), background="other")
    found = [("a.mp4#t=0,1", "other"), ("a.mp4#t=2,30", "other"), ("b.mp4#t=0,3", "other")]
    assert entries(background)[2:] == found  # how long b.mp4 is, the file does not say


def test_an_annotation_of_no_video_is_refused_with_its_number(tmp_path):
    broken = COCO | {
        "annotations": [*COCO["annotations"], {"id": 77, "video_id": 9, "category_id": 5, "segment": [0, 1]}]
    }
    with pytest.raises(
        ValueError, match=r"coco\.json: annotation 77 names no known video_id and category_id: .*'video_id': 9"
    ):
        open_manifest(write(tmp_path / "coco.json", broken))


# --------------------------------------------------------------------------------------------------------------- THUMOS


@pytest.fixture
def thumos(tmp_path):
    folder = tmp_path / "annotation"
    write(folder / "CliffDiving_val.txt", "video_validation_0000001  5.0 9.5\n")
    write(folder / "Diving_val.txt", "video_validation_0000001  5.0 9.5\nvideo_validation_0000002 1 2\n\n")
    write(folder / "Ambiguous_val.txt", "video_validation_0000002 50 60\n")
    write(folder / "Diving_test.txt", "video_test_0000004 1 2\n")
    touch(tmp_path / "videos", "video_validation_0000001.mp4", "video_validation_0000002.mp4")
    return folder


def test_thumos_text_files_are_read_by_split(thumos, tmp_path):
    options = {"root": tmp_path / "videos", "split": "val"}
    with pytest.raises(
        ValueError, match=r"'video_validation_0000001\.mp4' from 5 to 9\.5 s as 'Diving' overlaps the stretch from"
    ):
        open_manifest(thumos, **options)
    manifest = open_manifest(thumos, label_kind="multi", **options)
    assert manifest.class_names == ("CliffDiving", "Diving")
    assert manifest.labels.tolist() == [[1, 1], [0, 1]]  # one stretch with both labels
    assert manifest.path(0) == "video_validation_0000001.mp4#t=5,9.5"
    write(thumos / "detclasslist.txt", "22 Diving\n21 CliffDiving\n30 HighJump\n")
    assert open_manifest(thumos, label_kind="multi", **options).class_names == ("CliffDiving", "Diving", "HighJump")


def test_a_thumos_folder_says_which_splits_it_has_and_which_line_is_wrong(thumos, tmp_path):
    with pytest.raises(ValueError, match="has text files of test and val, not of None; give split"):
        open_manifest(thumos, root=tmp_path / "videos")
    write(thumos / "Diving_val.txt", "video_validation_0000002 1 2\nvideo_validation_0000002 one 2\n")
    with pytest.raises(
        ValueError, match=r"Diving_val\.txt, line 2: expected `video start end`, not 'video_validation_0000002 one 2'"
    ):
        open_manifest(thumos, root=tmp_path / "videos", split="val")
    with pytest.raises(ValueError, match=r"1 of 1 videos are not below .*: 'video_test_0000004'; fetch them"):
        open_manifest(thumos, root=tmp_path / "videos", split="test")


# ----------------------------------------------------------------------------------------------------------- background


@pytest.mark.parametrize(
    "stretches, length, expected",
    [
        ([(2.0, 4.0), (10.0, 12.0)], None, [(0.0, 2.0), (4.0, 10.0)]),
        ([(10.0, 12.0), (2.0, 4.0)], 20.0, [(0.0, 2.0), (4.0, 10.0), (12.0, 20.0)]),
        ([(0.5, 6.0), (1.0, 3.0), (6.5, 9.0)], 9.5, []),  # gaps of half a second are none, and one lies inside another
        ([(1.0, float("inf"))], 99.0, [(0.0, 1.0)]),
        ([], 5.0, [(0.0, 5.0)]),
        ([], None, []),
    ],
)
def test_gaps_are_what_no_stretch_covers(stretches, length, expected):
    assert gaps(stretches, length) == expected


def test_the_background_of_a_table_knows_the_stretches_of_the_other_split(tmp_path):
    rows = "a.mp4,run,train,5,10,60\na.mp4,walk,test,20,30,60\na.mp4,walk,train,40,50,60\nb.mp4,run,train,,,\n"
    path = write(tmp_path / "t.csv", "path,label,split,start_seconds,end_seconds,duration_seconds\n" + rows)
    manifest = open_manifest(path, split="train", background="idle")
    found = [f"a.mp4#t={times}" for times in ("0,5", "10,20", "30,40", "50,60")]
    assert entries(manifest)[3:] == [(name, "idle") for name in found]
    assert manifest.class_names == ("idle", "run", "walk")
    with pytest.raises(ValueError, match="background 'idle' is a class, and label_kind='value' has none"):
        open_manifest(path, background="idle", label_kind="value")


# ------------------------------------------------------------------------------------------------------------- overlaps


@pytest.mark.parametrize("seed", range(20))
def test_a_conflict_is_found_where_comparing_all_pairs_finds_one(seed):
    draw = np.random.default_rng(seed)
    count = int(draw.integers(2, 14))
    videos, labels, starts = (
        draw.integers(0, 3, count),
        draw.integers(0, 3, count),
        draw.integers(0, 40, count).astype(float),
    )
    ends = starts + draw.integers(1, 8, count)

    def conflict(i, j, overlaps):
        same = starts[i] == starts[j] and ends[i] == ends[j]
        shared = starts[i] < ends[j] and starts[j] < ends[i]
        return videos[i] == videos[j] and labels[i] != labels[j] and (same or (overlaps and shared))

    for overlaps in (True, False):
        pairs = {(i, j) for i in range(count) for j in range(i + 1, count) if conflict(i, j, overlaps)}
        found = first_conflict(videos, starts, ends, labels, overlaps=overlaps)
        assert found in pairs if pairs else found is None


# --------------------------------------------------------------------------------------------------------------- splits


def test_without_groups_the_stretches_of_a_file_stay_in_one_part(tmp_path):
    rows = "".join(f"{n % 10}.mp4,{'ab'[n // 10 % 2]},{10 * (n // 10)},{10 * (n // 10) + 5}\n" for n in range(60))
    manifest = open_manifest(write(tmp_path / "t.csv", "path,label,start_seconds,end_seconds\n" + rows))
    rest, part = split_fold(manifest, (1, 5))
    files = [{one.file(index) for index in range(len(one))} for one in (rest, part)]
    assert not files[0] & files[1] and len(part) == 12
