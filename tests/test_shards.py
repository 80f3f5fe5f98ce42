"""Shards whose index or size is out of the ordinary. Writing them is tested in test_prepare.py."""

import json
import os

import pytest

from videomae.data.lists.layouts import open_manifest
from videomae.data.lists.shards import write_shard
from videomae.data.sources import TarMember, read_member
from videomae.video_io import VideoReadError


@pytest.fixture
def folder(tmp_path):
    videos = [({"index": number, "path": f"{number}.mp4", "label": 0}, bytes([number]) * 5000) for number in range(3)]
    records = write_shard(tmp_path / "shard-00000.tar", videos)
    (tmp_path / "shard-00000.json").write_text(json.dumps({"videos": records, "broken": []}))
    (tmp_path / "shards.json").write_text(json.dumps({"format": 1, "class_names": None, "shards": ["shard-00000"]}))
    return tmp_path


def test_a_member_comes_whole_however_little_one_read_gives(folder, monkeypatch):
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda handle, size, offset: pread(handle, min(size, 999), offset))
    manifest = open_manifest(folder)
    assert [read_member(manifest.source(number)) for number in range(3)] == [bytes([n]) * 5000 for n in range(3)]


def test_a_member_that_its_shard_cannot_hold_takes_no_memory(folder):
    with pytest.raises(VideoReadError, match=r"a\.mp4: .*shard-00000\.tar ends inside it; the shard is cut off"):
        read_member(TarMember(str(folder / "shard-00000.tar"), 512, 1 << 50, "a.mp4"))


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("shards.json", lambda index: [], "is damaged"),
        ("shards.json", lambda index: {"format": 1}, "is damaged"),
        ("shards.json", lambda index: {**index, "shards": [7]}, "is damaged"),
        ("shard-00000.json", lambda part: {}, "is damaged"),
        ("shard-00000.json", lambda part: {"videos": [{"path": "a"}]}, "is damaged"),
        ("shard-00000.json", lambda part: {"videos": [{**part["videos"][0], "size": 1 << 40}]}, "is cut off: [0-9]+ bytes"),
        ("shard-00000.json", lambda part: {"videos": [{**part["videos"][0], "offset": -9}]}, "at -9; run prepare again"),
        ("shard-00000.json", lambda part: {"videos": [{**part["videos"][0], "size": "many"}]}, "is damaged"),
        ("shard-00000.json", lambda part: {"videos": [{**part["videos"][0], "offset": 1.5}]}, "is damaged"),
        ("shard-00000.json", lambda part: {"videos": []}, "lists no videos; run prepare again"),
        ("shard-00000.json", lambda part: {"videos": [{**part["videos"][0], "label": {"a": 1}}]}, "the label is no name"),
    ],
)  # fmt: skip
def test_an_index_that_was_damaged_is_refused_in_one_sentence(folder, name, change, message):
    path = folder / name
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=message):
        open_manifest(folder)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs devices")
def test_a_list_without_an_end_is_refused(tmp_path):
    (tmp_path / "list.csv").symlink_to("/dev/zero")
    with pytest.raises(
        ValueError, match=r"list\.csv is a device or a pipe, which may have no end; give a list in a file"
    ):
        open_manifest(tmp_path / "list.csv")
