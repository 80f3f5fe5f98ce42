"""Writing beside and renaming: a crash leaves the old or the new, never half of either."""

import json

import pytest
from safetensors import SafetensorError

from videomae import files
from videomae.files import new_file, new_folder, sha256_of, write_atomic, write_json


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = write_atomic(tmp_path / "deep" / "file.txt", "old")
    with pytest.raises(TypeError):
        write_atomic(path, 3.5)
    assert path.read_text() == "old" and [file.name for file in path.parent.iterdir()] == ["file.txt"]
    assert write_atomic(path, b"new").read_bytes() == b"new"


def test_json_refuses_what_other_readers_would_not_take(tmp_path):
    path = write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert path.read_text() == '{\n  "a": "é",\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": float("nan")})
    assert json.loads(path.read_text()) == {"a": "é", "b": 1}


def test_a_folder_appears_only_when_it_is_complete(tmp_path):
    with pytest.raises(RuntimeError), new_folder(tmp_path / "model") as beside:
        (beside / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "model") as beside:
        (beside / "inner").mkdir()
        (beside / "inner" / "file").write_text("x")
    assert (tmp_path / "model" / "inner" / "file").read_text() == "x"


def test_an_existing_folder_is_kept_unless_it_is_to_be_replaced(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "precious").write_text("old")
    with pytest.raises(FileExistsError, match="exists and is not empty"), new_folder(folder):
        pass
    with pytest.raises(RuntimeError), new_folder(folder, replace=True) as beside:
        (beside / "file").write_text("new")
        raise RuntimeError
    assert (folder / "precious").read_text() == "old"
    with new_folder(folder, replace=True) as beside:
        (beside / "file").write_text("new")
    assert [file.name for file in folder.iterdir()] == ["file"]
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_the_hash_is_that_of_the_content(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_an_error_of_the_disk_names_the_file_that_was_to_be_written(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"weights'$"), new_file(tmp_path / "weights"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(OSError, match=r"weights'$"), new_file(tmp_path / "weights") as beside:
        try:
            full(beside)
        finally:  # as torch.save, whose writer complains on top
            raise RuntimeError("unexpected pos 4928 vs 4816")
    with pytest.raises(SafetensorError), new_file(tmp_path / "weights"):
        raise SafetensorError("header too large")
    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*/a\.json'$"):
            write_json(tmp_path / "a.json", {})
        with (
            pytest.raises(OSError, match=r"No space left on device: '.*/folder'$"),
            new_folder(tmp_path / "folder") as beside,
        ):
            write_json(beside / "a.json", {})
    assert list(tmp_path.iterdir()) == []
