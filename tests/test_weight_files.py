"""Untrusted files: opened without running anything, or refused in terms that help."""

import argparse
import io
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from videomae.conversion.weight_files import open_checkpoint

WEIGHTS = {"blocks.0.norm1.weight": torch.ones(3), "blocks.0.norm1.bias": torch.zeros(3)}


class Attack:
    """Unpickling it would create a file."""

    def __init__(self, path, function=None):
        self.path, self.function = path, function or open

    def __reduce__(self):
        return self.function, (str(self.path), "w") if self.function is open else (f"touch {self.path}",)


@pytest.mark.parametrize("wrapper", ["model", "module", "state_dict"])
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_are_found_under_every_key_that_the_releases_use(tmp_path, wrapper, zipped):
    file = tmp_path / "a.pth"
    torch.save({wrapper: WEIGHTS, "epoch": 3}, file, _use_new_zipfile_serialization=zipped)
    source = open_checkpoint(file)
    assert source.wrapper == wrapper and source.rest == {"epoch": 3}
    assert torch.equal(source.tensors["blocks.0.norm1.weight"], torch.ones(3))


def test_bare_weights_and_safetensors_have_no_wrapper(tmp_path):
    torch.save(WEIGHTS, tmp_path / "a.pth")
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        source = open_checkpoint(tmp_path / name)
        assert source.wrapper is None and source.tensors.keys() == WEIGHTS.keys()


def test_options_and_numpy_scalars_of_real_files_are_allowed(tmp_path):
    extras = {"args": argparse.Namespace(lr=1e-3, opt="adamw"), "best": np.float64(0.8), "n": np.int64(7)}
    extras |= {"f": np.float32(1.5), "flag": np.bool_(True), "kind": np.dtype("float32")}
    torch.save({"model": WEIGHTS, **extras}, tmp_path / "a.pth")
    rest = open_checkpoint(tmp_path / "a.pth").rest
    assert rest["args"].opt == "adamw" and rest["best"] == 0.8 and rest["n"] == 7 and rest["flag"]


def test_the_older_spelling_of_a_numpy_scalar_is_allowed_too(tmp_path):
    torch.save({"model": WEIGHTS, "best": np.float64(0.8)}, tmp_path / "new.pth")
    with zipfile.ZipFile(tmp_path / "new.pth") as new, zipfile.ZipFile(tmp_path / "old.pth", "w") as old:
        spelled = 0
        for name in new.namelist():
            content = new.read(name)
            spelled += content.count(b"numpy._core.multiarray")
            old.writestr(name, content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert spelled == 1
    assert open_checkpoint(tmp_path / "old.pth").rest["best"] == 0.8


def _whole_module(path):
    torch.save(torch.nn.Linear(2, 2), path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_by_the_name_of_its_function_and_does_not_run(tmp_path, zipped):
    import os

    for index, function in enumerate((open, os.system)):
        proof = tmp_path / "it_ran"
        file = tmp_path / f"{index}.pth"
        torch.save({"model": WEIGHTS, "args": Attack(proof, function)}, file, _use_new_zipfile_serialization=zipped)
        named = {open: r"(_io|io)\.open", os.system: r"(posix|nt)\.system"}[function]
        with pytest.raises(ValueError, match=rf"needs .*{named} to be unpickled, which could run code and is refused"):
            open_checkpoint(file)
        assert not proof.exists()


def test_code_among_the_weights_or_in_a_bare_pickle_does_not_run_either(tmp_path):
    proof = tmp_path / "it_ran"
    torch.save({"model": {"blocks.0.norm1.weight": Attack(proof)}}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Attack(proof)))
    for name in ("a.pth", "b.pth"):
        with pytest.raises(ValueError):
            open_checkpoint(tmp_path / name)
    assert not proof.exists()


def test_a_whole_module_is_refused_with_the_names_of_its_classes_and_the_way_out(tmp_path):
    _whole_module(tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"torch\.nn\.modules\.linear\.Linear.*keep the weights alone"):
        open_checkpoint(tmp_path / "a.pth")


def test_a_namespace_cannot_smuggle_code_in(tmp_path):
    proof = tmp_path / "it_ran"
    torch.save({"model": WEIGHTS, "args": argparse.Namespace(hook=Attack(proof))}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="could run code"):
        open_checkpoint(tmp_path / "a.pth")
    assert not proof.exists()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty; download it again"),
        (b"<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning", "is a web page, not weights"),
        (b"\n  <HTML><body>404</body></HTML>", "is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
        (b"PK\x03\x04" + bytes(2000), "breaks off after 2,004 bytes"),
        (b"\x80\x02}q\x00.", "is not a checkpoint that torch can read"),
        (b"just some text", "is not a checkpoint that torch can read"),
    ],
)
def test_what_is_no_checkpoint_says_what_it_is(tmp_path, content, message):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_half_a_download_is_an_error_at_any_length(tmp_path, kind, share):
    weights = {f"blocks.{i}.norm1.weight": torch.randn(100) for i in range(5)}
    if kind == "safetensors":
        file = tmp_path / "a.safetensors"
        save_file(weights, file)
    else:
        file = tmp_path / "a.pth"
        torch.save({"model": weights}, file, _use_new_zipfile_serialization=kind == "zip")
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(ValueError, match=r"incomplete|damaged|not a whole"):
        open_checkpoint(file)


def test_a_checkpoint_of_the_old_tar_kind_is_refused_without_advice_to_run_it(tmp_path):
    (tmp_path / "storages").write_bytes(b"0")
    with tarfile.open(tmp_path / "old.pth", "w") as tar:
        tar.add(tmp_path / "storages", "storages")
    with pytest.raises(
        ValueError, match=r"old\.pth is a tar file: .*opening it would run code, and it is refused"
    ) as caught:
        open_checkpoint(tmp_path / "old.pth")
    assert "weights_only" not in str(caught.value)


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10_000_000))
    with pytest.raises(ValueError, match=r"is a compressed archive, which torch\.save never writes"):
        open_checkpoint(tmp_path / "a.pth")


def test_a_list_of_tensors_and_a_file_without_tensors_show_what_they_hold(tmp_path):
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    torch.save({"epoch": 1, "lr": 0.1}, tmp_path / "log.pth")
    with pytest.raises(ValueError, match="holds a list, not weights by name"):
        open_checkpoint(tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"holds no weights .* its keys are epoch, lr"):
        open_checkpoint(tmp_path / "log.pth")


def test_an_expanded_tensor_that_declares_more_than_the_file_holds_is_refused(tmp_path):
    buffer = io.BytesIO()
    torch.save({"model": {"blocks.0.norm1.weight": torch.zeros(1).expand(10**11)}}, buffer)
    (tmp_path / "a.pth").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=r"declares 400 GB of weights in 0.00 GB"):
        open_checkpoint(tmp_path / "a.pth")


def test_a_file_over_the_size_limit_is_refused_before_it_is_read(tmp_path):
    torch.save({"model": WEIGHTS}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"more than the limit of 1e-06; .* --max_gigabytes"):
        open_checkpoint(tmp_path / "a.pth", max_gigabytes=1e-6)


def test_folders_without_weights_say_what_they_have(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has neither model.safetensors nor pytorch_model.bin"):
        open_checkpoint(tmp_path)
    torch.save({"model": WEIGHTS}, tmp_path / "vit_g.pth")
    with pytest.raises(FileNotFoundError, match=r"it holds vit_g.pth: name one of them"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="in several shards"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"model_type": "videomae", "num_labels": 2147483648}', "num_labels=2147483648, and it must be in"),
        ('{"model_type": "videomae", "num_hidden_layers": 10000000}', "num_hidden_layers=10000000, and it must be in"),
        ("[1]", "holds a list, not a configuration"),
        ("[" * 100_000, "is nested too deep for a configuration"),
    ],
)
def test_a_config_with_endless_numbers_is_refused_before_anything_is_built(tmp_path, content, message):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        open_checkpoint(tmp_path)


def test_a_config_that_is_no_json_is_named(tmp_path):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("<html>")
    with pytest.raises(ValueError, match=r"config.json is not JSON"):
        open_checkpoint(tmp_path)
