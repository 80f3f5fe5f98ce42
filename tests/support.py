"""Small things that many tests need: the golden files, a tiny configuration, and a command that is killed again and again."""

import os
import random
import subprocess
import time
from pathlib import Path

from safetensors.torch import load_file

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
