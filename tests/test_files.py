"""Writing beside and renaming: a crash leaves the old or the new, never half of either."""

import json
import signal
import subprocess
import sys
import threading

import pytest
from safetensors import SafetensorError

from videomae import files
from videomae.files import new_file, new_folder, remove_leftovers, sha256_of, write_atomic, write_json


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


KILLED = """
import os, signal, sys
from pathlib import Path
from videomae import files

def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

folder = Path(sys.argv[1], "model")
with files.new_folder(folder) as beside:
    (beside / "file").write_text("old")
{where}
with files.new_folder(folder, replace=True) as beside:
    (beside / "file").write_text("new")
"""
BEHIND_THE_EXCHANGE = "files.shutil.rmtree = die"
BETWEEN_TWO_RENAMES = """
files._exchange = lambda one, two: False  # a system without the call
rename = os.replace
def rename_once(*paths):
    rename(*paths)
    os.replace = die
os.replace = rename_once
"""


def exchanges(folder) -> bool:
    for name in ("one", "two"):
        (folder / name).mkdir()
    return files._exchange(folder / "one", folder / "two")


@pytest.mark.parametrize(
    "where, left", [(BEHIND_THE_EXCHANGE, "new"), (BETWEEN_TWO_RENAMES, "old")], ids=["exchange", "two renames"]
)
def test_a_kill_while_a_folder_is_replaced_leaves_a_whole_one(tmp_path, where, left):
    process = subprocess.run([sys.executable, "-c", KILLED.format(where=where), str(tmp_path)], check=False)
    assert process.returncode == -signal.SIGKILL
    if where == BEHIND_THE_EXCHANGE and sys.platform == "linux":  # at every moment, so also before the next start
        assert (tmp_path / "model" / "file").read_text() == left
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "file").read_text() == left


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("old")
    (tmp_path / "model").symlink_to("elsewhere")
    with new_folder(tmp_path / "model", replace=True) as beside:
        (beside / "file").write_text("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "model"]
    assert (tmp_path / "model" / "file").read_text() == "new" and not (tmp_path / "model").is_symlink()
    assert (tmp_path / "elsewhere" / "file").read_text() == "old"


def test_who_reads_a_folder_that_is_replaced_always_finds_it(tmp_path):
    if not exchanges(tmp_path):
        pytest.skip("this system or file system cannot exchange two names")
    folder, missing, over = tmp_path / "model", [], threading.Event()

    def read():
        while not over.is_set():
            if not folder.exists():
                missing.append(1)

    with new_folder(folder) as beside:
        (beside / "file").write_text("0")
    reader = threading.Thread(target=read)
    reader.start()
    for number in range(50):
        with new_folder(folder, replace=True) as beside:
            (beside / "file").write_text(str(number))
    over.set()
    reader.join()
    assert not missing and (folder / "file").read_text() == "49"


def test_leftovers_are_removed_at_every_depth_and_nothing_else(tmp_path):
    for name in (".recipe.yaml.x1.tmp", "pictures/.step-1.png.ab.tmp", "pictures/step-1.png", ".lock", "notes.tmp"):
        write_atomic(tmp_path / name, "x")
    for name in (".best.ab.tmp", ".checkpoint-3.old", ".best.cd.old/best", "best"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "best" / "file").write_text("new")
    remove_leftovers(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        ".lock", "best", "best/file", "notes.tmp", "pictures", "pictures/step-1.png",
    ]  # fmt: skip


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
