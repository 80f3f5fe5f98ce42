"""What a step costs by counting: tokens, parameters, FLOPs, and bytes kept for the backward pass. No timing.

How FLOPs are counted: two for each multiply-add of the matrix products that the result needs, and nothing else. Those are
the patch projection of the visible tokens, the linear maps of every block, the two products of attention, the decoder on
visible and decoded tokens (its last block only makes the decoded ones), the heads. Norms, activations, softmax and
recomputation count nothing, and who does more than is needed gets no credit for it. A backward pass has twice the products
of the forward one, but pixels need no gradient. Utilisation (MFU) is these FLOPs over seconds times the device's peak.

How bytes are counted: what autograd keeps of a forward pass in float32 with sdpa, which tests/test_counts.py compares with
what it really keeps. bf16 autocast keeps half of it on a CPU, and a copy of the weights.
"""

# N tokens of a clip | V visible to the encoder | R decoded ("rebuilt") | D, E widths of encoder and decoder | P values
# of a patch

import math
from dataclasses import dataclass

import torch

from videomae import (
    VideoMAEConfig,
    VideoMAEForActionDetection,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
)
from videomae.masking_videomae import make_mask

HEADS = {
    "pretrain": VideoMAEForPreTraining,
    "classify": VideoMAEForVideoClassification,
    "detect": VideoMAEForActionDetection,
}
FLOAT = 4  # bytes of a float32
# Of one parameter in training: weight, gradient, and AdamW's two moments, all float32, under autocast too.
TRAINING_BYTES_PER_PARAMETER = 4 * FLOAT


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Tokens of one clip: those in the encoder, and those that the decoder rebuilds."""

    visible: int
    decoded: int = 0


def tokens_of(
    config: VideoMAEConfig, head: str, *, dual: bool = False, mask_ratio: float = 0.9, decoder_mask_ratio: float = 0.5
) -> Tokens:
    """Of a clip of the configured size. `dual` is V2's second mask."""
    total = math.prod(config.grid)
    if head != "pretrain":
        return Tokens(visible=total)
    generator = torch.Generator().manual_seed(0)
    hidden = int(make_mask("tube", config.grid, mask_ratio, generator).sum())
    left_out = int(make_mask("running_cell", config.grid, decoder_mask_ratio, generator).sum()) if dual else None
    return Tokens(visible=total - hidden, decoded=hidden if left_out is None else total - left_out)


def patch_values(config: VideoMAEConfig) -> int:
    return config.num_channels * config.tubelet_size * math.prod(config.patch_hw)


def num_parameters(config: VideoMAEConfig, head: str) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in HEADS[head](config).parameters())


# --------------------------------------------------------------------------------------------------------- FLOPs


def block_flops(tokens: int, width: int, mlp: int, queries: int | None = None) -> int:
    """Forward FLOPs of one block that makes `queries` tokens (all by default) from `tokens`."""
    queries = tokens if queries is None else queries
    keys_and_values = 2 * tokens * width * width
    query_and_output = 2 * queries * width * width
    attention = 2 * queries * tokens * width
    return 2 * (keys_and_values + query_and_output + attention + 2 * queries * width * mlp)


def forward_flops(config: VideoMAEConfig, head: str, tokens: Tokens) -> int:
    """Of one clip. A detector's boxes cost next to nothing and are left out."""
    width, visible, decoded = config.hidden_size, tokens.visible, tokens.decoded
    flops = projection_flops(config, tokens)
    flops += config.num_hidden_layers * block_flops(visible, width, config.intermediate_size)
    if head == "pretrain":
        narrow, mlp, layers = (
            config.decoder_hidden_size,
            config.decoder_intermediate_size,
            config.decoder_num_hidden_layers,
        )
        flops += 2 * visible * width * narrow
        flops += (layers - 1) * block_flops(visible + decoded, narrow, mlp)
        flops += block_flops(visible + decoded, narrow, mlp, queries=decoded)
        flops += 2 * decoded * narrow * patch_values(config)
    elif head == "classify":
        flops += 2 * width * config.num_labels
    return flops


def projection_flops(config: VideoMAEConfig, tokens: Tokens) -> int:
    return 2 * tokens.visible * patch_values(config) * config.hidden_size


def step_flops(config: VideoMAEConfig, head: str, tokens: Tokens) -> int:
    """Forward and backward of one clip."""
    return 3 * forward_flops(config, head, tokens) - projection_flops(config, tokens)


# --------------------------------------------------------------------------------------------------------- bytes


def block_bytes(tokens: int, width: int, mlp: int, heads: int, queries: int | None = None) -> int:
    """What one block keeps of a clip: inputs and outputs of both norms, q, k, v, the context, the MLP's two layers."""
    queries = tokens if queries is None else queries
    made = 2 * tokens * width + 2 * tokens * width  # the norm's input and output, keys and values
    made += 4 * queries * width + 2 * queries * mlp  # queries, context, input and output of the second norm; the MLP
    if queries != tokens:
        made += queries * width  # the norm's output once more: its last rows are no contiguous matrix
    return FLOAT * (made + 2 * tokens + 2 * queries + queries * heads)  # and statistics of norms and softmax


def kept_bytes(config: VideoMAEConfig, head: str, tokens: Tokens) -> int:
    """What the forward pass of one clip keeps in float32 for the backward pass."""
    width, visible, decoded = config.hidden_size, tokens.visible, tokens.decoded
    kept = FLOAT * visible * patch_values(config)
    kept += config.num_hidden_layers * block_bytes(visible, width, config.intermediate_size, config.num_attention_heads)
    if head == "pretrain":
        narrow, values = config.decoder_hidden_size, patch_values(config)
        options = (narrow, config.decoder_intermediate_size, config.decoder_num_attention_heads)
        kept += FLOAT * 2 * visible * width  # the encoder's norm
        kept += (config.decoder_num_hidden_layers - 1) * block_bytes(visible + decoded, *options)
        kept += block_bytes(visible + decoded, *options, queries=decoded)
        kept += FLOAT * 2 * decoded * narrow  # the decoder's norm
        single = visible + decoded == math.prod(config.grid)
        kept += (
            FLOAT * (2 if single else 1) * decoded * values
        )  # logits and targets; with dual masking their difference
    elif head == "detect":
        kept += FLOAT * visible * width  # the norm's input
    return kept


def checkpointed_bytes(config: VideoMAEConfig, head: str, tokens: Tokens) -> int:
    """The same with gradient checkpointing: each block's input, and all of the largest block while it is made again."""
    width, visible, decoded = config.hidden_size, tokens.visible, tokens.decoded
    inputs = config.num_hidden_layers * visible * width
    largest = block_bytes(visible, width, config.intermediate_size, config.num_attention_heads)
    if head == "pretrain":
        narrow = config.decoder_hidden_size
        inputs += config.decoder_num_hidden_layers * (visible + decoded) * narrow
        inputs += 2 * decoded * patch_values(config)
        largest = max(
            largest,
            block_bytes(
                visible + decoded, narrow, config.decoder_intermediate_size, config.decoder_num_attention_heads
            ),
        )
    return FLOAT * (inputs + visible * patch_values(config)) + largest


# ------------------------------------------------------------------------------------------------------- ceiling


def matmul_flops_per_second(
    dtype: torch.dtype, *, device: str = "cpu", size: int | None = None, repeats: int = 5
) -> float:
    """The measured ceiling: the best of a few square matrix products, large enough to leave every cache."""
    from .timing import clock

    size = size or (8192 if device == "cuda" else 2048)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    now, seconds = clock(device), []
    for _ in range(repeats + 1):
        began = now()
        left @ right
        seconds.append(now() - began)
    return 2 * size**3 / min(seconds[1:])


# Dense bf16 peaks from NVIDIA's data sheets, in TFLOP/s; another device needs --peak_tflops.
PEAK_TFLOPS = {
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "A10G": 70,
    "L4": 121,
    "V100": 125,
}


def device_peak(device: str, tflops: float | None = None) -> float | None:
    """FLOP/s that the data sheet promises for bf16, or what the user says; None for others."""
    if tflops:
        return tflops * 1e12
    if not device.startswith("cuda"):
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for key, peak in PEAK_TFLOPS.items() if key in name), None)
