"""Loads a model folder as somebody would who has torch and transformers and nothing of ours, and checks its answers.

    python clean_room.py FOLDER [--trust_remote_code]

It prints one JSON line: the class that was loaded and, for each recorded quantity that this class has, the largest
difference from `example_output.json` in FOLDER, relative to the quantity's size. `videomae publish` runs it in a process
where `videomae` cannot be imported; the file itself must stay free of this package.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoImageProcessor

RECORD = "example_output.json"
GOLDEN_RATIO = 0.6180339887498949
# Stock's class by the head of the folder; with the repository's code AutoModel and friends find theirs.
STOCK = {
    "pretrain": "VideoMAEForPreTraining",
    "classify": "VideoMAEForVideoClassification",
    "features": "VideoMAEModel",
}
WITH_CODE = {
    "pretrain": "AutoModelForPreTraining",
    "classify": "AutoModelForVideoClassification",
    "features": "AutoModel",
    "detect": "AutoModel",
}
KEPT = 64  # numbers of a long output that the record keeps


def spread(count: int) -> torch.Tensor:
    """`count` numbers in [0, 1), evenly spread and without pattern: the same on every machine, without a generator."""
    return torch.arange(count, dtype=torch.float64).mul(GOLDEN_RATIO).frac().float()


def example_inputs(head: str, config) -> dict:
    """The fixed input: one clip of the configured size, and a tube mask or two boxes where the head wants them."""
    height, width = pair(config.image_size)
    patch_height, patch_width = pair(config.patch_size)
    shape = (1, config.num_frames, config.num_channels, height, width)
    inputs = {"pixel_values": spread(torch.Size(shape).numel()).view(shape) * 4 - 2}
    if head == "pretrain":
        cells = (height // patch_height) * (width // patch_width)
        hidden = spread(cells).argsort() < max(1, int(0.75 * cells))
        inputs["bool_masked_pos"] = hidden.repeat(config.num_frames // config.tubelet_size)[None]
    if head == "detect":
        box = torch.tensor([0.1, 0.2, 0.7, 0.9]) * torch.tensor([width, height, width, height])
        inputs["boxes"] = [torch.stack([box, torch.tensor([0.0, 0.0, float(width), float(height)])])]
    return inputs


def example_frames(config) -> list:
    """One clip of uint8 frames, wider than high and larger than the model's input, for the processor.

    Slopes without detail, in whole numbers: every way of resizing gives nearly the same, on every machine.
    """
    height, width = pair(config.image_size)
    sizes = (config.num_frames, height * 5 // 4, width * 3 // 2, 3)
    t, y, x, channel = (
        torch.arange(size).view([-1 if axis == place else 1 for axis in range(4)]) for place, size in enumerate(sizes)
    )
    return list((255 - ((2 * x + y + 8 * t + 85 * channel) % 510 - 255).abs()).to(torch.uint8).numpy())


def answers(head: str, model, *, dual_mask: bool) -> dict[str, list[float]]:
    """What a model makes of the fixed input, by quantity; those that its class does not have are left out."""
    model.eval()
    inputs = example_inputs(head, model.config)
    found = {}
    with torch.inference_mode():
        outputs = model(**inputs)
        for name in ("loss", "logits", "pooler_output", "last_hidden_state"):
            if getattr(outputs, name, None) is not None:
                found[name] = kept(outputs[name])
        if dual_mask:
            decoded = spread(inputs["bool_masked_pos"].numel()).lt(0.5)[None]
            found["dual_mask_loss"] = kept(model(**inputs, bool_decoded_pos=decoded).loss)
    return found


def kept(tensor: torch.Tensor) -> list[float]:
    """Numbers of a tensor that the record keeps: all of a short one, evenly spaced ones of a long one."""
    flat = tensor.detach().float().flatten()
    chosen = torch.linspace(0, len(flat) - 1, min(KEPT, len(flat))).long() if len(flat) > 1024 else slice(None)
    return flat[chosen].tolist()


def differences(found: dict[str, list[float]], recorded: dict[str, list[float]]) -> dict[str, float]:
    """Largest difference of each quantity that both have, relative to the recorded one's largest number."""
    result = {}
    for name in found.keys() & recorded.keys():
        ours, theirs = torch.tensor(found[name]), torch.tensor(recorded[name])
        if ours.shape != theirs.shape:
            raise ValueError(f"{name}: {len(ours)} numbers, but {len(theirs)} are recorded")
        result[name] = ((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-6)).item()
    return result


def pair(size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trust_remote_code", action="store_true", help="load with the code in the folder")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()

    record = json.loads((args.folder / RECORD).read_text())
    head = record["head"]
    class_name = WITH_CODE[head] if args.trust_remote_code else STOCK.get(head, "AutoModel")
    options = {"trust_remote_code": True} if args.trust_remote_code else {}
    model, loading = getattr(transformers, class_name).from_pretrained(
        args.folder, output_loading_info=True, dtype=torch.float32, **options
    )
    keys = {name: sorted(loading[name]) for name in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    report = {"class": type(model).__name__, "module": type(model).__module__, **keys}

    with_code = args.trust_remote_code
    report["differences"] = (
        differences(
            answers(head, model, dual_mask=with_code and "dual_mask_loss" in record["outputs"]), record["outputs"]
        )
        if with_code or head in STOCK
        else {}
    )
    processor = AutoImageProcessor.from_pretrained(args.folder, **options)
    report["processor"] = type(processor).__name__
    if "pixel_values" in record["outputs"]:
        pixels = processor(example_frames(model.config), return_tensors="pt").pixel_values
        report["differences"] |= differences({"pixel_values": kept(pixels)}, record["outputs"])
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
