"""8-bit inference: the blocks' linear layers with int8 weights and activations, behind a gate that compares answers.

    model = VideoMAEForVideoClassification.from_pretrained("FOLDER")
    print(quantize_int8(model, example_clips("FOLDER", videos)))     # in place; restored, with an error, if answers differ

Weights are rounded once, one scale per output channel; activations at every call, one scale per token. Patch projection,
norms, attention and the classifier stay as they are. torch.ao's dynamic quantisation is not used: it is deprecated, and
its one scale per tensor rounds activations about three times as coarsely.
"""

import torch
from torch import nn
from transformers import PreTrainedModel

from videomae.inference.fidelity import Agreement, agreement, logits_of
from videomae.modeling_videomae import VideoMAELayer

# R rows (tokens of all clips)  I, O width of inputs and outputs

LARGEST = 127  # symmetric: -128 is not used


def rounded(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(R, I) -> int8 (R, I) and float scales (R, 1), so that their product is nearest to the values, row by row."""
    values = values.float()
    scales = values.abs().amax(dim=1, keepdim=True).div_(LARGEST).clamp_(min=torch.finfo(torch.float32).tiny)
    return (values / scales).round_().to(torch.int8), scales


class Int8Linear(nn.Module):
    """A linear layer for inference whose product is one of int8 matrices, summed in int32."""

    weight: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight, scales = rounded(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scales", scales[:, 0])
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., I) -> (..., O), in the inputs' type, or autocast's where that is on."""
        kind = inputs.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype
        values, scales = rounded(inputs.reshape(-1, self.in_features))
        products = torch._int_mm(values, self.weight.t())  # pyright: ignore[reportPrivateImportUsage]  # it has no public name
        outputs = products.float().mul_(scales).mul_(self.scales)
        if self.bias is not None:
            outputs.add_(self.bias)
        return outputs.to(dtype).view(*inputs.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def block_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers inside the blocks of the encoder, by name: nearly all of the multiplications."""
    blocks = [name for name, module in model.named_modules() if isinstance(module, VideoMAELayer)]
    return {
        f"{block}.{name}": module
        for block in blocks
        for name, module in model.get_submodule(block).named_modules()
        if isinstance(module, nn.Linear)
    }


def quantize_int8(
    model: PreTrainedModel,
    clips: torch.Tensor,
    *,
    min_agreement: float = 0.98,
    max_score_difference: float = 0.1,
    batch_size: int = 4,
) -> Agreement:
    """Convert a classifier to int8 in place; returns how well its answers on `clips` (B, T, C, H, W) agree with before.

    Where fewer than `min_agreement` of the clips get the same class, or a score moves by more than
    `max_score_difference`, the model is restored and a ValueError gives the numbers. The comparison is the more reliable,
    the more clips there are and the more similar they are to those of the application.
    """
    linears = block_linears(model)
    if not linears:
        raise ValueError(
            "the model has no linear layers in blocks that could become int8; was it quantised before? Load it again"
        )
    model.eval()
    before = logits_of(model, clips, batch_size)
    for name, linear in linears.items():
        model.set_submodule(name, Int8Linear(linear))
    try:
        compared = agreement(before, logits_of(model, clips, batch_size), model.config.problem_type)
        compared.require(min_agreement, max_score_difference, "int8", "the model is unchanged; bf16 loses far less")
    except BaseException:
        for name, linear in linears.items():
            model.set_submodule(name, linear)
        raise
    return compared


__all__ = ["Int8Linear", "quantize_int8"]
