"""Small things that many tests need: the golden files, a tiny configuration, and a command that is killed again and again."""

import faulthandler
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch.distributed.fsdp import fully_shard

from videomae.training import engines
from videomae.training.runs import read_log

GOLDEN = Path(__file__).parent / "golden"

# The architecture of every checkpoint in tests/golden but the detectors'.
TINY = dict(
    image_size=32,
    patch_size=8,
    num_frames=16,
    tubelet_size=2,
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=3,
    intermediate_size=192,
    decoder_hidden_size=36,
    decoder_num_hidden_layers=2,
    decoder_num_attention_heads=2,
    decoder_intermediate_size=144,
)

# Smaller still, for trainings of a few seconds.
SMALLEST = dict(
    image_size=32,
    num_frames=8,
    patch_size=8,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    decoder_hidden_size=16,
    decoder_num_hidden_layers=1,
    decoder_num_attention_heads=2,
    decoder_intermediate_size=32,
)
MEASURED = ("clips_per_second", "data_wait", "memory_gib")  # fields of a log that differ from run to run


def golden(name: str) -> dict:
    """Inputs and expected outputs of `tests/golden/NAME.golden.safetensors`, pixels as float32."""
    tensors = load_file(GOLDEN / f"{name}.golden.safetensors")
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def killed_and_finished(program: list[str], run: Path, *, kills: int) -> None:
    """Start a training, end it by kill -9 shortly after a sign of work in its folder, `kills` times; then let it finish."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    moments, killed = random.Random(0), 0

    def checkpoints():  # changes when one is begun or finished
        return sorted(path.name for path in run.glob("*checkpoint-*")) if run.exists() else []

    while killed < kills:
        process = subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # From the first sign of this start's work, a random moment in the next step or two.
        before = checkpoints()
        while process.poll() is None and checkpoints() == before:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.3))
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        killed += 1
    subprocess.run(program, check=True, env=environment, timeout=300)
    assert killed >= kills, f"only {killed} kills before the run was over"


def history(run: Path) -> list[dict]:
    """The log of a run without what is measured."""
    return [
        {name: value for name, value in line.items() if name not in MEASURED} for line in read_log(run / "log.jsonl")
    ]


def tensors(folder: Path) -> dict:
    """Every tensor of a checkpoint: weights, their average where there is one, optimizer state."""
    names = ("model.safetensors", "ema/model.safetensors", "training/optimizer.safetensors")
    files = {name: load_file(folder / name) for name in names if (folder / name).exists()}
    assert {names[0], names[2]} <= files.keys(), f"{folder} is not a whole checkpoint"
    return {f"{name}:{key}": value for name, content in files.items() for key, value in content.items()}


def assert_same_run(one: Path, two: Path, step: int, also: Sequence[str] = (), *, logs: bool = True) -> None:
    """Equal logs, equal checkpoints of that step, and equal files of weights `also`."""
    assert not logs or history(one) == history(two)
    assert_equal_tensors(tensors(one / f"checkpoint-{step}"), tensors(two / f"checkpoint-{step}"))
    for name in also:
        assert_equal_tensors(load_file(one / name), load_file(two / name))


def assert_equal_tensors(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    assert not (different := [name for name in left if not torch.equal(left[name], right[name])]), different


def in_two_processes(run: Callable[..., None], folder: Path, *arguments: Any) -> None:
    """Call `run(*arguments)` in two processes that gloo joins; an exchange that one of them misses is an error in a minute."""
    mp.spawn(_joined, args=(str(folder), run, arguments), nprocs=2)


def _joined(rank: int, folder: str, run: Callable[..., None], arguments: tuple) -> None:
    faulthandler.enable()
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    limit = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=limit)
    try:
        run(*arguments)
        dist.barrier()  # neither closes its sockets while the other still reads
    finally:
        dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # the threads of a torch backend can abort a process that is done while its interpreter goes down


def sharded(model: torch.nn.Module) -> torch.nn.Module:
    """The model with its blocks sharded over the processes, as FSDP2 does it, and validation and tests told so.

    Accelerate sets FSDP up on accelerators only. For processes that `in_two_processes` started.
    """
    mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),))
    for module in (*engines.blocks_to_shard(model), model):
        fully_shard(module, mesh=mesh)
    engines.is_sharded = lambda accelerator: True
    return model
