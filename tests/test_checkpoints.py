"""Checkpoints: bit-exact round trips, damage recognised, the last good one never lost."""

import errno
import json
import re

import pytest
import torch
from support import TINY

from videomae import VideoMAEConfig, VideoMAEForPreTraining
from videomae.files import remove_leftovers, write_json
from videomae.masking_videomae import tube_mask
from videomae.training import checkpoints
from videomae.training.checkpoints import (
    CheckpointError,
    damage,
    latest_checkpoint,
    load_checkpoint,
    optimizer_tensors,
    prune,
    save_checkpoint,
    write_manifest,
)
from videomae.training.optimisation import Ema, build_optimizer, set_rates
from videomae.training.recipes import PretrainRecipe


class Run:
    """A tiny model with its optimizer and average, stepped on noise that depends on the step alone."""

    def __init__(self, seed=0, **config):
        torch.manual_seed(seed)
        self.model = VideoMAEForPreTraining(VideoMAEConfig(**{**TINY, **config}))
        self.optimizer = build_optimizer(self.model, PretrainRecipe())
        self.ema = Ema(self.model, 0.9)
        self.step = 0

    def train(self, steps):
        for _ in range(steps):
            generator = torch.Generator().manual_seed(self.step)
            pixels = torch.randn(2, 16, 3, 32, 32, generator=generator)
            mask = torch.stack([tube_mask((8, 4, 4), 0.75, generator) for _ in range(2)])
            set_rates(self.optimizer, lr=1e-3, weight_decay=0.05)
            self.model(pixels, mask).loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.ema.update(self.model)
            self.step += 1
        return self

    def save(self, folder, **more):
        parts = {"model": self.model, "optimizer": self.optimizer, "ema": self.ema}
        return save_checkpoint(folder, state={"step": self.step}, **parts, **more)

    def load(self, folder):
        state = load_checkpoint(folder, model=self.model, optimizer=self.optimizer, ema=self.ema)
        self.step = state["step"]
        return self

    def tensors(self):
        moments = sorted(optimizer_tensors(self.model, self.optimizer).items())
        return [*self.model.state_dict().values(), *dict(moments).values(), *self.ema.state.values()]


def test_a_resumed_run_continues_bit_for_bit(tmp_path):
    whole = Run().train(6)
    Run().train(2).save(tmp_path)
    Run(seed=1).load(tmp_path / "checkpoint-2").train(2).save(tmp_path)
    resumed = Run(seed=2).load(tmp_path / "checkpoint-4").train(2)
    assert all(torch.equal(a, b) for a, b in zip(whole.tensors(), resumed.tensors(), strict=True))


def test_a_checkpoint_is_a_model_folder_and_so_is_its_average(tmp_path):
    run = Run().train(1)
    folder = run.save(tmp_path, write_more=lambda folder: (folder / "README.md").write_text("a card"))
    for path, expected in ((folder, run.model.state_dict()), (folder / "ema", run.ema.state)):
        loaded = VideoMAEForPreTraining.from_pretrained(path).state_dict()
        assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    (folder / "README.md").write_text("an edited card")
    assert damage(folder) is None


@pytest.mark.parametrize(
    "harm, reason",
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "it has no manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json is not readable"),
        (lambda folder: _truncate(folder / "training/optimizer.safetensors"), "optimizer.safetensors has .* bytes of"),
        (lambda folder: _flip_a_bit(folder / "model.safetensors"), "model.safetensors has other content"),
        (lambda folder: _manifest(folder, []), "manifest.json is not readable"),
        (lambda folder: _manifest(folder, {"config.json": 3}), "manifest.json is not readable"),
        (lambda folder: (folder / "manifest.json").write_text("[" * 100_000), "manifest.json is not readable"),
        (lambda folder: _manifest(folder, {"../x": {"bytes": 1, "sha256": ""}}), "names '../x', outside the folder"),
        (lambda folder: _state(folder, {}), "state.json .* does not hold the state of a run"),
        (lambda folder: _state(folder, [1]), "state.json .* does not hold the state of a run"),
        (lambda folder: _state(folder, {"step": -3}), "state.json .* is of step -3, which is not the folder's"),
        (lambda folder: _state(folder, {"step": "2"}), "is of step '2', which is not the folder's"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, harm, reason):
    run = Run().train(1)
    run.save(tmp_path)
    run.train(1).save(tmp_path)
    harm(tmp_path / "checkpoint-2")
    said = []
    assert latest_checkpoint(tmp_path, said.append) == tmp_path / "checkpoint-1"
    assert len(said) == 1 and re.search(reason, said[0])


def test_a_full_disk_leaves_the_last_checkpoint_and_no_debris(tmp_path, monkeypatch):
    run = Run().train(1)
    run.save(tmp_path)

    def full(tensors, path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(checkpoints, "save_tensors", full)
    with pytest.raises(OSError, match="No space left"):
        run.train(1).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-1"


def test_pruning_keeps_the_last_and_every_nth(tmp_path):
    for step in (10, 20, 30, 40, 50):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-best").mkdir()  # not ours to count
    prune(tmp_path, keep_last=2, keep_every=20)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-20", "checkpoint-40", "checkpoint-50", "checkpoint-best",
    ]  # fmt: skip
    (tmp_path / ".checkpoint-60.abc.tmp").mkdir()
    remove_leftovers(tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_resuming_with_another_model_says_which_fields_differ(tmp_path):
    folder = Run().train(1).save(tmp_path)
    with pytest.raises(CheckpointError, match=r"num_hidden_layers: checkpoint 3, now 2"):
        Run(num_hidden_layers=2).load(folder)


def test_the_state_is_json_and_safetensors_only(tmp_path):
    folder = Run().train(1).save(tmp_path)
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors"}
    assert json.loads((folder / "training/state.json").read_text())["step"] == 1


def _manifest(folder, files):
    write_json(folder / "manifest.json", {"format": 1, "files": files})


def _state(folder, state):
    """Another state, with a manifest that vouches for it."""
    write_json(folder / "training/state.json", state)
    (folder / "manifest.json").unlink()
    write_manifest(folder)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def _flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
