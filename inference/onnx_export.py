"""A classifier as an ONNX file: `videomae export FOLDER OUTPUT`, with proof that it answers as the model does.

OUTPUT is a folder: model.onnx (beyond 1.8 GB its weights are a file beside it), export.json (input, classes, pixels,
sampling, result of the proof), and config.json and processor files as in FOLDER, so that
VideoMAEVideoProcessor.from_pretrained(OUTPUT) makes the input. Nothing is written if ONNX Runtime gives other answers than
the model; where it is not installed, export.json has no proof.

    import onnxruntime
    pixel_values = VideoMAEVideoProcessor.from_pretrained("OUTPUT")("video.mp4", return_tensors="np")["pixel_values"]
    (logits,) = onnxruntime.InferenceSession("OUTPUT/model.onnx").run(["logits"], {"pixel_values": pixel_values})
"""

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from videomae.files import new_folder, write_json
from videomae.inference.fidelity import Agreement, agreement, example_clips, logits_of
from videomae.modeling_videomae import VideoMAEForVideoClassification
from videomae.models import open_classifier, open_processor
from videomae.training.runs import versions
from videomae.video_processing_videomae import VideoMAEVideoProcessor

MODEL, RECORD = "model.onnx", "export.json"
FORMAT = 1
# A protocol buffer ends at 2 GB; weights beyond this are kept in a file of their own.
LARGEST_FILE_BYTES = 1_800_000_000
# How far scores may move: float32 sums in another order, int8 rounds.
TOLERANCE = {False: 1e-4, True: 0.1}
INSTALL = "pip install 'videomae[onnx]'"


class LogitsOnly(torch.nn.Module):
    """What becomes the graph: one tensor in, one tensor out."""

    def __init__(self, model: VideoMAEForVideoClassification):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values).logits


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """torch and ONNX Runtime warn about their internals while they export; the answers are compared afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def need(*packages: str) -> None:
    """Raise where a package is missing; they come with the extra `onnx`."""
    if missing := [name for name in packages if find_spec(name) is None]:
        raise ValueError(f"this needs {' and '.join(missing)}; {INSTALL}")


def write_onnx(
    model: VideoMAEForVideoClassification, path: Path, *, opset: int | None = None, batch_size: int | None = None
) -> int:
    """Write the float32 graph with inputs (B, T, C, H, W); returns the opset. Without `batch_size` B is free."""
    need("onnx", "onnxscript")
    config = model.config
    if getattr(config, "still_threshold", None) is not None:
        raise ValueError(
            f"still_threshold={config.still_threshold} keeps another number of patches of every clip, which no ONNX graph can "
            "hold; export with still_threshold=None (merge_per_layer can stay)"
        )
    model = model.float().eval()
    # Two clips: a graph traced with one would hold B = 1 for good.
    clips = torch.zeros(batch_size or 2, config.num_frames, config.num_channels, *config.image_hw, device=model.device)
    free = None if batch_size else {"pixel_values": {0: torch.export.Dim("batch")}}
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            LogitsOnly(model),
            (clips,),
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_shapes=free,
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
        assert program is not None  # dynamo=True returns one
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # stack traces with the paths of this machine, as large as a small model
        program.save(path, external_data=is_large(model))
    return program.model.opset_imports[""]


def is_large(model: torch.nn.Module) -> bool:
    return sum(tensor.nbytes for tensor in model.state_dict().values()) > LARGEST_FILE_BYTES


def quantize_onnx(path: Path, output: Path, *, large: bool = False) -> None:
    """int8 weights, one scale per output channel, and activations that ONNX Runtime rounds at every call."""
    need("onnx", "onnxruntime")
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    graph = onnx.load(path, load_external_data=False)
    # Shapes that the exporter noted between its own rewrites; some no longer hold, and ONNX Runtime infers its own.
    del graph.graph.value_info[:]
    onnx.save(graph, path)
    with quiet():
        quantize_dynamic(
            path, output, per_channel=True, op_types_to_quantize=["MatMul", "Gemm"], use_external_data_format=large
        )


def onnx_logits(path: Path, clips: torch.Tensor, batch_size: int | None = None) -> torch.Tensor:
    """The logits (B, K) of the clips, computed by ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    parts = [session.run(["logits"], {"pixel_values": part.numpy()})[0] for part in clips.split(batch_size or 1)]
    return torch.cat([torch.from_numpy(part) for part in parts])


def export(
    folder: str | os.PathLike,
    output: str | os.PathLike,
    *,
    int8: bool = False,
    videos: Sequence[str] | None = None,
    opset: int | None = None,
    batch_size: int | None = None,
    min_agreement: float = 0.98,
    max_score_difference: float | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write OUTPUT and return what its export.json says; raises, and leaves no trace, where the answers differ."""
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}; None leaves it free")
    need("onnx", "onnxscript", *(["onnxruntime"] if int8 else []))
    model = open_classifier(os.fspath(folder)).eval()
    config = model.config
    limit = TOLERANCE[int8] if max_score_difference is None else max_score_difference
    with new_folder(output, replace=overwrite) as beside:
        if int8:
            with tempfile.TemporaryDirectory(dir=beside) as scratch:
                opset = write_onnx(model, Path(scratch, MODEL), opset=opset, batch_size=batch_size)
                quantize_onnx(Path(scratch, MODEL), beside / MODEL, large=is_large(model))
        else:
            opset = write_onnx(model, beside / MODEL, opset=opset, batch_size=batch_size)
        processor = open_processor(folder, config)
        config.save_pretrained(beside)
        processor.save_pretrained(beside)
        compared = None
        if find_spec("onnxruntime") is not None:
            clips = proof_clips(folder, videos, count=16 if int8 else 4, multiple_of=batch_size or 1)
            compared = agreement(
                logits_of(model, clips), onnx_logits(beside / MODEL, clips, batch_size), config.problem_type
            )
            compared.require(min_agreement, limit, f"the exported model{' (int8)' if int8 else ''}", WAY_OUT[int8])
        record = describe(model, processor, opset=opset, batch_size=batch_size, int8=int8)
        record["proof"] = (
            None if compared is None else {"on": "videos" if videos else "drawn clips", **asdict(compared)}
        )
        write_json(beside / RECORD, record)
    return record


WAY_OUT = {
    False: "nothing was written; try another --opset, or allow a larger difference with --max_score_difference",
    True: "nothing was written; leave --int8 out, or lower --min_agreement or raise --max_score_difference if that is enough",
}


def proof_clips(
    folder: str | os.PathLike, videos: Sequence[str] | None, *, count: int, multiple_of: int
) -> torch.Tensor:
    """Clips of the videos, or drawn ones, repeated until they fill whole batches of a fixed size."""
    clips = example_clips(folder, videos, count=count)
    missing = -len(clips) % multiple_of
    return torch.cat([clips, clips[:1].expand(missing, *clips.shape[1:])])


def describe(
    model: VideoMAEForVideoClassification,
    processor: VideoMAEVideoProcessor,
    *,
    opset: int,
    batch_size: int | None,
    int8: bool,
) -> dict[str, Any]:
    """What a program without this package has to know to use the file."""
    config = model.config
    shape = [config.num_frames, config.num_channels, *config.image_hw]
    settings = processor.to_dict()
    return {
        "format": FORMAT,
        "architecture": type(model).__name__,
        "input": {"name": "pixel_values", "dtype": "float32", "shape": [batch_size or "batch", *shape]},
        "output": {"name": "logits", "dtype": "float32", "shape": [batch_size or "batch", config.num_labels]},
        "labels": [config.id2label[index] for index in range(config.num_labels)],
        "problem_type": config.problem_type or "single_label_classification",
        "pixels": {
            name: settings[name]
            for name in ("size", "crop_size", "do_center_crop", "rescale_factor", "image_mean", "image_std")
        },
        "sampling": settings["sampling"],
        "opset": opset,
        "int8": int8,
        "versions": versions(),
    }


def report_lines(record: dict[str, Any]) -> Iterator[str]:
    """What was written and how it compares, for a terminal."""
    shape = " x ".join(map(str, record["input"]["shape"]))
    yield f"{MODEL}: pixel_values {shape} -> {record['output']['shape'][-1]} classes, opset {record['opset']}"
    if record["proof"] is None:
        yield f"not compared with the model, since onnxruntime is not installed ({INSTALL})"
        return
    found = Agreement(**{name: value for name, value in record["proof"].items() if name != "on"})
    yield f"compared with the model on {record['proof']['on']}: {found}"
    if record["int8"] and record["proof"]["on"] != "videos":
        yield "drawn clips say little about int8: compare on your own with --videos"
