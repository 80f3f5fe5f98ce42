"""Class names from every kind of file that people have; all lists here are made up."""

import json

import pytest

from videomae.data.lists import label_files
from videomae.data.lists.label_files import class_names, read_names

NAMES = ["juggling pans", "riding a mop", "waving at a cat"]


@pytest.mark.parametrize(
    "file, text",
    [
        ("plain.txt", "juggling pans\nriding a mop\nwaving at a cat\n\n"),
        ("from_zero.txt", "1 riding a mop\n0 juggling pans\n2 waving at a cat\n"),
        ("from_one.txt", "1 juggling pans\r\n2 riding a mop\r\n3 waving at a cat\r\n"),
        ("number_last.txt", "juggling pans 0\nwaving at a cat 2\nriding a mop 1"),
        ("id2label.json", json.dumps({"0": NAMES[0], "2": NAMES[2], "1": NAMES[1]})),
        ("label2id.json", json.dumps({NAMES[0]: "0", NAMES[1]: "1", NAMES[2]: "2"})),
        ("list.json", json.dumps(NAMES)),
        ("config.json", json.dumps({"model_type": "videomae", "id2label": dict(enumerate(NAMES))})),
        ("coco.json", json.dumps({"categories": [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)]})),
        ("columns.csv", "id,name\n0,juggling pans\n1,riding a mop\n2,waving at a cat\n"),
        ("bare.csv", "juggling pans,0\nriding a mop,1\nwaving at a cat,2\n"),
        ("annotations.csv", "label,youtube_id,time_start\nwaving at a cat,c,1\njuggling pans,a,2\nriding a mop,b,3\njuggling pans,d,4\n"),
        ("annotations.json", json.dumps({"v1": {"label": NAMES[2]}, "v2": {"label": NAMES[0]}, "v3": {"label": NAMES[1]}})),
        ("list.pbtxt", "".join(f'label {{\n  name: "{name}"\n  label_id: {i + 1}\n  label_type: POSE\n}}\n' for i, name in enumerate(NAMES))),
        ("item.pbtxt", "".join(f"item {{ name: '{name}' id: {i + 1} }}\n" for i, name in enumerate(NAMES))),
        ("marked.txt", "\ufeffjuggling pans\nriding a mop\nwaving at a cat"),
    ],
)  # fmt: skip
def test_every_kind_of_file_gives_the_names_in_class_order(tmp_path, file, text):
    (tmp_path / file).write_text(text, encoding="utf-8")
    assert read_names(tmp_path / file) == NAMES
    assert class_names(str(tmp_path / file), 3) == NAMES


def test_quotes_inside_a_pbtxt_name_are_kept(tmp_path):
    (tmp_path / "a.pbtxt").write_text(r'item { name: "say \"hi\" (to a cat)" id: 1 }')
    assert read_names(tmp_path / "a.pbtxt") == ['say "hi" (to a cat)']


def test_names_that_are_numbers_with_words_stay_whole_lines(tmp_path):
    (tmp_path / "a.txt").write_text("juggling 3 balls\njuggling\n")
    assert read_names(tmp_path / "a.txt") == ["juggling 3 balls", "juggling"]
    (tmp_path / "b.txt").write_text("trick 1\ntrick 2\ntrick 3\n")
    assert read_names(tmp_path / "b.txt") == ["trick 1", "trick 2", "trick 3"]


def test_a_list_or_a_mapping_is_taken_as_it_is():
    assert class_names(NAMES, 3) == class_names(dict(enumerate(NAMES)), 3) == NAMES


def test_the_wrong_number_of_names_names_both_numbers_and_what_would_fit():
    with pytest.raises(
        ValueError, match="has 3 class names, but the head has 174 classes; 174 classes is something-so"
    ):
        class_names(NAMES, 174)


@pytest.mark.parametrize(
    "file, text, error",
    [
        ("gap.json", '{"0": "a", "2": "b"}', "number 1 is missing"),
        ("gap.pbtxt", 'item { name: "a" id: 1 } item { name: "b" id: 3 }', "number 2 is missing"),
        ("no_id.pbtxt", 'item { name: "a" }', "entry without name and id"),
        ("broken.json", "{", "is not JSON"),
        ("other.json", '{"a": [1]}', "holds no class names that can be recognised"),
        ("other.csv", "a,b,c\n1,2,3\n", "no column called name"),
        ("empty.txt", "\n", "holds no class names"),
        ("twice.txt", "a\na\n", "'a' more than once"),
        ("binary.txt", b"\xff\xfe\x00\x80", "is not a text file"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, file, text, error):
    (tmp_path / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=error):
        class_names(tmp_path / file, 2)


def test_a_missing_file_lists_the_known_sets():
    with pytest.raises(FileNotFoundError, match=r"no label file nowhere.txt; give .* or one of kinetics400"):
        class_names("nowhere.txt", 3)


def test_a_set_without_a_public_list_says_which_file_of_the_data_set_to_give():
    with pytest.raises(ValueError, match=r"give --labels the file ava_action_list_v2.2.pbtxt"):
        class_names("ava", 80)


def test_a_known_set_of_another_size_is_refused_before_anything_is_fetched():
    with pytest.raises(ValueError, match="Kinetics-400 has 400 classes, but the head has 710"):
        class_names("kinetics400", 710)


def test_a_public_list_is_fetched_from_the_hub_and_its_absence_is_one_line(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def download(repo, file, repo_type):
        asked.append((repo, file, repo_type))
        (tmp_path / file).write_text(json.dumps({str(i): f"made up {i}" for i in range(400)}))
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert class_names("kinetics400", 400)[399] == "made up 399"
    assert asked == [(label_files.HUB_LISTS, "kinetics400-id2label.json", "dataset")]

    def fail(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(OSError, match=r"cannot fetch kinetics400-id2label.json .* give --labels a local file of 400"):
        class_names("kinetics400", 400)
