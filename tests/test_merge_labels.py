"""Merging data sets by class name, and carrying a merged head to one of them."""

import json

import pytest
import torch
from support import TINY

from videomae import VideoMAEConfig, VideoMAEForVideoClassification
from videomae.commands.merge_labels import main
from videomae.data.lists.layouts import open_manifest
from videomae.data.lists.merge import LabelledSet, merge, similar_names, video_id
from videomae.training.classifiers import build_classifier


def write_list(folder, name, rows):
    folder.mkdir(parents=True, exist_ok=True)
    for path, _ in rows:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_bytes(path.encode())
    (folder / name).write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in rows))
    return folder / name


@pytest.fixture
def sets(tmp_path):
    a = write_list(
        tmp_path / "a", "train.csv", [("v/AAAAAAAAAAA_000001_000011.mp4", "air drumming"), ("v/x.mp4", "zumba")]
    )
    a_test = write_list(tmp_path / "a", "test.csv", [("t/TTTTTTTTTTT_000001_000011.mp4", "zumba")])
    b = write_list(
        tmp_path / "b",
        "train.csv",
        [
            ("AAAAAAAAAAA_000005_000015.mp4", "Air_Drumming"),  # the video of set a, cut elsewhere
            ("TTTTTTTTTTT_000007_000017.mp4", "zumba"),  # the test video of set a
            ("new.mp4", "welding"),
            ("other.mp4", "zumba"),
        ],
    )
    return [
        LabelledSet("a", open_manifest(a), (open_manifest(a_test, class_names=open_manifest(a).class_names),)),
        LabelledSet("b", open_manifest(b)),
    ]


def test_classes_merge_by_name_and_keep_the_spelling_of_the_first(sets):
    merged = merge(sets)
    assert merged.class_names == ["air drumming", "welding", "zumba"]
    names = sets[1].train.class_names
    assert [merged.class_names[number] for number in merged.maps["b"]] == [
        "air drumming" if name == "Air_Drumming" else name for name in names
    ]


def test_doubles_and_test_videos_are_dropped_by_id(sets):
    merged = merge(sets)
    assert [file.rsplit("/", 1)[1] for file, _ in merged.rows] == [
        "AAAAAAAAAAA_000001_000011.mp4", "x.mp4", "new.mp4", "other.mp4"
    ]  # fmt: skip
    assert merged.report["sets"]["b"] == {"videos": 4, "kept": 2, "leaks": 1, "duplicates": 1}


def test_files_of_equal_content_are_doubles_when_contents_are_compared(sets, tmp_path):
    (tmp_path / "b/other.mp4").write_bytes((tmp_path / "a/v/x.mp4").read_bytes())
    (tmp_path / "b/new.mp4").write_bytes((tmp_path / "a/t/TTTTTTTTTTT_000001_000011.mp4").read_bytes())
    assert merge(sets).report["sets"]["b"]["kept"] == 2
    assert merge(sets, by_content=True).report["sets"]["b"] == {"videos": 4, "kept": 0, "leaks": 2, "duplicates": 2}


def test_aliases_join_names_that_differ(tmp_path):
    one = write_list(tmp_path / "one", "train.csv", [("a.mp4", "riding mule"), ("b.mp4", "zumba")])
    two = write_list(tmp_path / "two", "train.csv", [("c.mp4", "mule riding"), ("d.mp4", "welding")])
    sets = [LabelledSet("one", open_manifest(one)), LabelledSet("two", open_manifest(two))]
    assert len(merge(sets).class_names) == 4
    merged = merge(sets, aliases={"Mule Riding": "riding mule"})
    assert merged.class_names == ["riding mule", "welding", "zumba"]
    with pytest.raises(ValueError, match="set two has two classes that would become one, 'welding'"):
        merge(sets, aliases={"mule riding": "welding"})


def test_the_id_of_a_kinetics_clip_is_that_of_its_video():
    assert video_id("k/0wR5jVB-WPk_000417_000427.mp4") == "0wR5jVB-WPk"
    assert video_id("my_video.mp4") == "my_video"


def test_nearly_equal_names_are_pointed_out():
    assert similar_names(["passing ball (in game)", "passing ball (not in game)", "zumba"]) == [
        ["passing ball (in game)", "passing ball (not in game)"]
    ]


def test_the_command_writes_a_list_that_trains_and_maps_that_carry_the_head(sets, tmp_path, capsys):
    words = ["--set", "a", f"train={tmp_path}/a/train.csv", f"test={tmp_path}/a/test.csv"]
    words += ["--set", "b", f"train={tmp_path}/b/train.csv"]
    with pytest.raises(ValueError, match="3 classes come out, not 710"):
        main([str(tmp_path / "merged"), *words, "--expect", "710"])
    assert main([str(tmp_path / "merged"), *words]) == 0
    assert "a: 2 of 2 kept, 0 in a test list" in capsys.readouterr().out
    manifest = open_manifest(tmp_path / "merged/train.csv")
    assert manifest.class_names == ("air drumming", "welding", "zumba") and len(manifest) == 4

    # Post-pre-train on the merged set, then carry the head to set b, by name and by its map.
    merged = VideoMAEForVideoClassification(
        VideoMAEConfig(**TINY, num_labels=3, id2label=dict(enumerate(manifest.class_names)))
    )
    merged.save_pretrained(tmp_path / "model")
    names = open_manifest(tmp_path / "b/train.csv").class_names
    numbers = json.loads((tmp_path / "merged/label_map_b.json").read_text())
    for rule in ("labels", str(tmp_path / "merged/label_map_b.json")):
        model = build_classifier(
            str(tmp_path / "model"), num_labels=3, class_names=names, init_head_from=rule, say=lambda text: None
        )
        assert torch.equal(model.classifier.weight, merged.classifier.weight[numbers])
