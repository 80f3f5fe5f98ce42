"""Small things that many tests need: the golden files and a tiny configuration."""

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
