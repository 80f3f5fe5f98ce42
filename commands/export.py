"""A classifier as an ONNX file: `videomae export FOLDER OUTPUT`."""

import argparse
from collections.abc import Iterator
from typing import Any

from transformers.utils import logging as transformers_logging

from videomae.files import check_output
from videomae.inference.fidelity import Agreement
from videomae.inference.onnx_export import INSTALL, MODEL, export


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(prog="videomae export", description=__doc__.splitlines()[0])
    parse.add_argument("model", help="folder or Hub name of a classifier")
    parse.add_argument("output", help="folder to write")
    parse.add_argument("--int8", action="store_true", help="8-bit weights and products, if the answers stay")
    parse.add_argument("--videos", nargs="+", help="videos to compare answers on [clips drawn from nothing]")
    parse.add_argument("--batch_size", type=int, help="a fixed number of clips [any]")
    parse.add_argument("--opset", type=int, help="version of ONNX's operators [torch's choice]")
    parse.add_argument("--min_agreement", type=float, default=0.98, help="share of clips with the same answer [0.98]")
    parse.add_argument("--max_score_difference", type=float, help="how far a score may move [1e-4, with --int8 0.1]")
    parse.add_argument("--overwrite", action="store_true", help="replace the folder if it is there")
    return parse


def main(argv: list[str] | None = None) -> int:
    arguments = vars(parser().parse_args(argv))
    transformers_logging.disable_progress_bar()
    check_output(arguments["output"], "output")
    record = export(arguments.pop("model"), arguments.pop("output"), **arguments)
    print("\n".join(report(record)))
    return 0


def report(record: dict[str, Any]) -> Iterator[str]:
    shape = " x ".join(map(str, record["input"]["shape"]))
    yield f"{MODEL}: pixel_values {shape} -> {record['output']['shape'][-1]} classes, opset {record['opset']}"
    if record["proof"] is None:
        yield f"not compared with the model, since onnxruntime is not installed ({INSTALL})"
        return
    found = Agreement(**{name: value for name, value in record["proof"].items() if name != "on"})
    yield f"compared with the model on {record['proof']['on']}: {found}"
    if record["int8"] and record["proof"]["on"] != "videos":
        yield "drawn clips say little about int8: compare on your own with --videos"
