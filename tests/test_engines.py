"""Engines: the traps are errors, the ready configs parse, and FSDP2 (on a CPU mesh) trains and saves as one process does."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import yaml
from accelerate import Accelerator
from support import TINY, in_two_processes, sharded
from torch.distributed.fsdp import fully_shard

from videomae import (
    VideoMAEConfig,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
)
from videomae.data.collators import ClassificationCollator
from videomae.evaluation import validation
from videomae.masking_videomae import tube_mask
from videomae.training import engines
from videomae.training.batches import StepPlan
from videomae.training.checkpoints import damage
from videomae.training.loop import training_step
from videomae.training.optimisation import Ema, build_optimizer
from videomae.training.options import RunOptions
from videomae.training.recipes import PretrainRecipe

CONFIGS = sorted((Path(__file__).parents[1] / "examples" / "accelerate").glob("*.yaml"))


def test_a_run_that_asks_for_fsdp_and_does_not_get_it_stops(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="the launch asks for FSDP and the run would continue with NO"):
        engines.check_engine(Accelerator(cpu=True))


def test_a_run_that_asks_for_deepspeed_is_told_what_there_is(monkeypatch):
    accelerator = Accelerator(cpu=True)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match=r"DeepSpeed is not supported; shard with FSDP2 \(examples/accelerate/fsdp2"):
        engines.check_engine(accelerator)


def test_processes_agree_on_flags_and_nobody_waits_where_nobody_asks(monkeypatch):
    accelerator = Accelerator(cpu=True)
    assert engines.agreed(accelerator, True, False) == (True, False)
    assert engines.agreed(accelerator, True, False, asking=False) == (False, False)

    class OfThree:
        num_processes, device = 3, torch.device("cpu")

        def reduce(self, flags, reduction):
            return flags + torch.tensor([0.0, 1.0])  # another process has set the second

    assert engines.agreed(OfThree(), False, False) == (False, True)


def test_a_launch_whose_processes_are_each_alone_stops(monkeypatch):
    accelerator = Accelerator(cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ValueError, match="started 2 processes, and each of them is one of 1; on CPUs start with `torchrun"
    ):
        engines.check_engine(accelerator)


def test_fp16_without_an_accelerator_is_refused():
    if torch.cuda.is_available():
        pytest.skip("this machine has an accelerator")
    with pytest.raises(ValueError, match="fp16 needs an accelerator"):
        engines.start_accelerator(RunOptions(mixed_precision="fp16"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_training_on_a_cpu_keeps_large_blocks_mapped():
    """Page faults of a tensor of 64 MiB, before and after: 16,384 pages, or few where these are as large."""
    code = """
import resource, torch
from videomae.training.engines import keep_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def fewest():  # what lies free may be too small for one of them by a few bytes
    return min(faults() for _ in range(8))
print(fewest(), keep_memory(), fewest())
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert int(out[2]) < 20 <= int(out[0])


def test_every_block_of_encoder_and_decoder_is_sharded_by_itself():
    model = VideoMAEForPreTraining(VideoMAEConfig(**TINY))
    assert engines.blocks_to_shard(model) == [*model.videomae.encoder.layer, *model.decoder.decoder_layers]


def test_running_out_of_memory_says_what_to_lower():
    recipe = PretrainRecipe(clips_per_step=16)
    plan = StepPlan.of(recipe, num_clips=100, clips_per_device=8)
    with (
        pytest.raises(ValueError, match=r"out of memory with 8 clips.*--clips_per_device 4 .*--gradient_checkpointing"),
        engines.explained_out_of_memory(recipe, plan),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="something else"), engines.explained_out_of_memory(recipe, plan):
        raise RuntimeError("something else")


def test_the_loss_scale_of_fp16_is_capped():
    class Scaled:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)

    Scaled.scaler.scale(torch.zeros(()))  # makes the scale
    engines.cap_loss_scale(Scaled, 2.0**16)
    assert Scaled.scaler.get_scale() == 2.0**16


def test_the_loss_scale_of_fp16_goes_on_from_a_checkpoint(tmp_path):
    def started(scale: float):
        model = VideoMAEForPreTraining(VideoMAEConfig(**TINY))
        accelerator = Accelerator(cpu=True)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        accelerator.scaler.scale(torch.zeros(()))  # makes the scale
        return accelerator, {"model": model, "optimizer": build_optimizer(model, PretrainRecipe())}

    accelerator, parts = started(2.0**7)
    engines.save(accelerator, tmp_path, state={"step": 1}, **parts)
    accelerator, parts = started(2.0**16)
    engines.load(accelerator, tmp_path / "checkpoint-1", **parts)
    assert accelerator.scaler.get_scale() == 2.0**7


def classifier_and_videos():
    """Three videos for two processes, and the one of the second process cannot be read."""
    torch.manual_seed(0)
    model = VideoMAEForVideoClassification(VideoMAEConfig(**TINY, num_labels=2))
    pixels = [torch.randn(1, 16, 3, 32, 32), None, torch.randn(1, 16, 3, 32, 32)]
    return model, [{"pixel_values": one, "label": 1, "keys": [0], "path": "video"} for one in pixels]


def validated(accelerator, model, videos) -> dict[str, float]:
    options = dict(problem="single_label_classification", clips_per_device=1)
    return validation.validate(accelerator, model, videos, ClassificationCollator(), **options)


def validate_sharded(output):
    model, videos = classifier_and_videos()
    accelerator = Accelerator(cpu=True)
    metrics = validated(accelerator, sharded(model), videos)
    if accelerator.is_main_process:
        Path(output).write_text(json.dumps(metrics))


@pytest.mark.slow
def test_a_sharded_classifier_is_validated_where_a_process_has_no_readable_video(tmp_path):
    """Every call gathers the weights of both processes, so a call less in one of them would be an error."""
    in_two_processes(validate_sharded, tmp_path, str(tmp_path / "metrics.json"))
    alone = validated(Accelerator(cpu=True), *classifier_and_videos())
    assert json.loads((tmp_path / "metrics.json").read_text()) == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_ready_config_is_one_that_accelerate_reads(path):
    from accelerate.commands.config.config_args import ClusterConfig

    config = ClusterConfig.from_yaml_file(str(path))
    assert config.compute_environment.value == "LOCAL_MACHINE"
    fields = yaml.safe_load(path.read_text())
    if "fsdp_config" in fields:
        assert fields["fsdp_config"]["fsdp_version"] == 2
    assert config.distributed_type.value != "DEEPSPEED"


@pytest.mark.slow
def test_fsdp2_on_two_processes_trains_saves_and_resumes_as_one_process_does(tmp_path):
    """The step, the checkpoint and the resume are the trainers' own.

    Accelerate sets FSDP up on accelerators only, so the blocks are sharded here by torch's `fully_shard`.
    """
    alone = train_and_save(Accelerator(cpu=True), tmp_path / "alone", sharded=False)
    in_two_processes(train_sharded, tmp_path, str(tmp_path))
    losses = torch.load(tmp_path / "losses.pt", weights_only=True)
    torch.testing.assert_close(losses, alone, rtol=0, atol=1e-5)

    for step in (2, 4):
        assert damage(tmp_path / "sharded" / f"checkpoint-{step}") is None
    one, two = (
        VideoMAEForPreTraining.from_pretrained(tmp_path / kind / "checkpoint-4").state_dict()
        for kind in ("alone", "sharded")
    )
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-5)
    # One process resumes from what two wrote, moments and average included.
    accelerator = Accelerator(cpu=True)
    model, optimizer, ema = parts(accelerator)
    state = engines.load(accelerator, tmp_path / "sharded" / "checkpoint-4", model=model, optimizer=optimizer, ema=ema)
    assert state["step"] == 4 and len(optimizer.state) == len(list(model.parameters()))


def train_sharded(folder):
    accelerator = Accelerator(cpu=True)
    engines.check_engine(accelerator)
    losses = train_and_save(accelerator, Path(folder) / "sharded", sharded=True)
    if accelerator.is_main_process:
        torch.save(losses, Path(folder) / "losses.pt")


def parts(accelerator, *, mesh=None, seed=0):
    """A tiny model, its optimizer and its average; with a mesh, sharded over its processes block by block."""
    torch.manual_seed(seed)
    model = VideoMAEForPreTraining(VideoMAEConfig(**TINY))
    if mesh is not None:
        for module in (*engines.blocks_to_shard(model), model):
            fully_shard(module, mesh=mesh)
    return model, accelerator.prepare(build_optimizer(model, PretrainRecipe())), Ema(model, 0.9)


def train_and_save(accelerator, folder, *, sharded):
    """Four steps on four clips in two micro-batches, with a checkpoint and a resume into fresh parts after two."""
    rank, world = accelerator.process_index, accelerator.num_processes
    mesh = dist.init_device_mesh("cpu", (world,)) if sharded else None
    model, optimizer, ema = parts(accelerator, mesh=mesh)
    losses = []
    for step in range(4):
        generator = torch.Generator().manual_seed(step)
        pixels = torch.randn(4, 16, 3, 32, 32, generator=generator)
        masks = torch.stack([tube_mask((8, 4, 4), 0.75, generator) for _ in range(4)])
        batches = [
            {"pixel_values": some, "bool_masked_pos": hidden, "num_visible": 32}
            for some, hidden in zip(pixels[rank::world].chunk(2), masks[rank::world].chunk(2))
        ]
        loss, norm, bad = training_step(
            accelerator, model, optimizer, batches, lr=1e-3, weight_decay=0.05, clip_grad_norm=0.5
        )
        assert norm > 0 and not bad
        ema.update(model)
        losses.append(accelerator.reduce(loss, reduction="mean"))
        if step in (1, 3):
            engines.save(accelerator, folder, state={"step": step + 1}, model=model, optimizer=optimizer, ema=ema)
        if step == 1:
            model, optimizer, ema = parts(accelerator, mesh=mesh, seed=1)
            engines.load(accelerator, folder / "checkpoint-2", model=model, optimizer=optimizer, ema=ema)
    return torch.stack(losses)
