"""Loads a model folder as somebody with torch and transformers but without this package does, and checks its outputs.

    python clean_room.py FOLDER INPUTS [--trust_remote_code]

INPUTS is the file that upload.py writes: inputs of the model, and frames for its processor. The program prints one JSON
line: the class that was loaded and, for each recorded quantity that this class has, the largest difference from
`example_output.json` in FOLDER, relative to the quantity's size. `videomae publish` runs it in a process where `videomae`
cannot be imported, so this file must not import it either.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoImageProcessor

RECORD = "example_output.json"
# Stock's class by the head of the folder; with the repository's code AutoModel and friends find theirs.
STOCK = {
    "pretrain": "VideoMAEForPreTraining",
    "classify": "VideoMAEForVideoClassification",
    "features": "VideoMAEModel",
}
WITH_CODE = {
    "pretrain": "AutoModelForPreTraining",
    "classify": "AutoModelForVideoClassification",
    "probe": "AutoModelForVideoClassification",
    "features": "AutoModel",
    "detect": "AutoModel",
}
LONG, SAMPLES = 1024, 64  # of an output of more numbers than LONG the record holds SAMPLES


def answers(model, inputs: Mapping[str, Any]) -> dict[str, list[float]]:
    """The model's outputs by quantity; those that its class does not have are left out.

    A mask of the decoder among the inputs (V2) adds the loss with it; the other outputs are those without it.
    """
    model.eval()
    single = {name: value for name, value in inputs.items() if name != "bool_decoded_pos"}
    values = {}
    with torch.inference_mode():
        outputs = model(**single)
        for name in ("loss", "logits", "pooler_output", "last_hidden_state"):
            if getattr(outputs, name, None) is not None:
                values[name] = recorded(outputs[name])
        if len(single) < len(inputs):
            values["dual_mask_loss"] = recorded(model(**inputs).loss)
    return values


def recorded(tensor: torch.Tensor) -> list[float]:
    """The numbers of a tensor that the record holds: all of a short one, evenly spaced ones of a long one."""
    flat = tensor.detach().float().flatten()
    if len(flat) > LONG:
        flat = flat[torch.linspace(0, len(flat) - 1, SAMPLES).long()]
    return flat.tolist()


def differences(computed: Mapping[str, list[float]], expected: Mapping[str, list[float]]) -> dict[str, float]:
    """Largest difference of each quantity that both have, relative to the expected one's largest number."""
    result = {}
    for name in computed.keys() & expected.keys():
        ours, theirs = torch.tensor(computed[name]), torch.tensor(expected[name])
        if ours.shape != theirs.shape:
            raise ValueError(f"{name}: {len(ours)} numbers, but {len(theirs)} are recorded")
        result[name] = ((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-6)).item()
    return result


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("inputs", type=Path, help="what torch.save wrote of {'model': inputs, 'frames': (T, H, W, 3)}")
    parser.add_argument("--trust_remote_code", action="store_true", help="load with the code in the folder")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()

    record = json.loads((args.folder / RECORD).read_text())
    head, expected = record["head"], record["outputs"]
    example = torch.load(args.inputs, weights_only=True)
    class_name = WITH_CODE[head] if args.trust_remote_code else STOCK.get(head, "AutoModel")
    options = {"trust_remote_code": True} if args.trust_remote_code else {}
    model, loading = getattr(transformers, class_name).from_pretrained(
        args.folder, output_loading_info=True, dtype=torch.float32, **options
    )
    keys = {name: sorted(loading[name]) for name in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    report = {"class": type(model).__name__, "module": type(model).__module__, **keys}

    inputs = example["model"]
    if not args.trust_remote_code:
        inputs.pop("bool_decoded_pos", None)  # transformers' class has one mask
    computed = answers(model, inputs) if args.trust_remote_code or head in STOCK else {}
    processor = AutoImageProcessor.from_pretrained(args.folder, **options)
    report["processor"] = type(processor).__name__
    if "pixel_values" in expected:
        computed["pixel_values"] = recorded(
            processor(list(example["frames"].numpy()), return_tensors="pt").pixel_values
        )
    report["differences"] = differences(computed, expected)
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
