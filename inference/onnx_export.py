"""A model as an ONNX file: `videomae export FOLDER OUTPUT`, compared with the model before it is kept.

Three kinds of graph: a classifier's scores of clips, a detector's scores of the boxes of one clip, and feature vectors
of clips. OUTPUT is a folder: model.onnx (beyond 1.8 GB its weights are a file beside it), export.json (inputs, classes,
pixels, sampling, result of the comparison), config.json, and for graphs of whole clips the processor's files, so that
VideoMAEVideoProcessor.from_pretrained(OUTPUT) makes the input. Nothing is written if ONNX Runtime gives other answers than
the model; where it is not installed, export.json has no comparison.

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

from videomae.configuration_videomae import VideoMAEConfig
from videomae.evaluation.multi_view import load_classifier
from videomae.files import new_folder, write_json
from videomae.inference.fidelity import VECTORS, Agreement, agreement, example_clips, example_detections
from videomae.modeling_videomae import VideoMAEForVideoClassification, VideoMAEModel
from videomae.modeling_videomae_detection import VideoMAEForActionDetection
from videomae.models import open_config, open_model, open_processor
from videomae.roi_align_videomae import scaled_size
from videomae.sampling_videomae import key_frame_offsets
from videomae.training.runs import versions
from videomae.video_io import probe

MODEL, RECORD = "model.onnx", "export.json"
FORMAT = 1
# A protocol buffer ends at 2 GB; weights beyond this are kept in a file of their own.
LARGEST_FILE_BYTES = 1_800_000_000
# How far scores may move: float32 sums in another order, int8 rounds.
TOLERANCE = {False: 1e-4, True: 0.1}
WIDESCREEN = (1080, 1920)  # height and width of most videos; only their ratio matters here
INSTALL = "pip install 'videomae[onnx]'"

Feed = tuple[torch.Tensor, ...]  # the inputs of one run of a graph, in the order of its names


class Graph(torch.nn.Module):
    """What becomes the ONNX graph of a classifier: clips (B, T, C, H, W) in, logits (B, K) out.

    `inputs` names the arguments of `forward`, `output` what it returns, `of` what a row of it is.
    """

    inputs: tuple[str, ...] = ("pixel_values",)
    output = "logits"
    of = "clips"

    def __init__(self, model: torch.nn.Module, config: VideoMAEConfig):
        super().__init__()
        self.model, self.config = model.float().eval(), config
        self.architecture = type(model).__name__
        self.problem_type: str | None = config.problem_type  # how `agreement` compares two outputs

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values).logits

    def shape(self) -> tuple[int, ...]:
        """(T, C, H, W) of a clip."""
        return (self.config.num_frames, self.config.num_channels, *self.config.image_hw)

    def traced(self, batch_size: int | None) -> tuple[Feed, dict[str, Any] | None]:
        """Inputs to trace the graph with, and which of their sizes stay free."""
        # Two clips: a graph traced with one would fix B = 1.
        clips = torch.zeros(batch_size or 2, *self.shape())
        return (clips,), None if batch_size else {"pixel_values": {0: torch.export.Dim("batch")}}

    def feeds(self, folder: str, videos: Sequence[str] | None, *, count: int, batch_size: int | None) -> list[Feed]:
        """Inputs to compare on: clips of the videos or drawn ones, the first one repeated to fill a fixed batch."""
        clips = example_clips(folder, videos, count=count)
        missing = -len(clips) % (batch_size or 1)
        clips = torch.cat([clips, clips[:1].expand(missing, *clips.shape[1:])])
        return [(part,) for part in clips.split(batch_size or 1)]

    def describe(self, batch_size: int | None) -> dict[str, Any]:
        """What of export.json depends on the kind of graph."""
        config = self.config
        return {
            "output": {"name": self.output, "dtype": "float32", "shape": [batch_size or "batch", config.num_labels]},
            "labels": [config.id2label[index] for index in range(config.num_labels)],
            "problem_type": config.problem_type or "single_label_classification",
        }


class FeatureGraph(Graph):
    """Clips in, one vector (B, D) each out: what `videomae features` writes for that model."""

    output = "features"
    of = VECTORS

    def __init__(self, model: VideoMAEModel, norm: torch.nn.Module | None, config: VideoMAEConfig):
        super().__init__(model, config)
        self.problem_type = VECTORS
        self.norm = None if norm is None else norm.float()

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        vectors = self.model(pixel_values=pixel_values).last_hidden_state.mean(1)
        return vectors if self.norm is None else self.norm(vectors)

    def describe(self, batch_size: int | None) -> dict[str, Any]:
        shape = [batch_size or "batch", self.config.hidden_size]
        pooling = "mean of tokens" if self.norm is None else "fc_norm(mean of tokens)"
        return {"output": {"name": self.output, "dtype": "float32", "shape": shape}, "pooling": pooling}


class DetectionGraph(Graph):
    """One clip of frames of a fixed size and any number of its boxes (n, 4) in, logits (n, K) out."""

    inputs = ("pixel_values", "boxes")
    of = "boxes"

    def __init__(self, model: VideoMAEForActionDetection, frame_size: tuple[int, int]):
        super().__init__(model, model.config)
        self.problem_type = "multi_label_classification"
        self.frame_size = frame_size

    def forward(self, pixel_values: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]  # one more input
        return self.model(pixel_values=pixel_values, boxes=[boxes]).logits

    def shape(self) -> tuple[int, ...]:
        return (self.config.num_frames, self.config.num_channels, *self.frame_size)

    def traced(self, batch_size: int | None) -> tuple[Feed, dict[str, Any] | None]:
        height, width = self.frame_size
        boxes = torch.tensor([[0.0, 0.0, width, height]]).expand(3, 4).clone()
        return (torch.zeros(1, *self.shape()), boxes), {"pixel_values": None, "boxes": {0: torch.export.Dim("boxes")}}

    def feeds(self, folder: str, videos: Sequence[str] | None, *, count: int, batch_size: int | None) -> list[Feed]:
        return list(example_detections(self.config, self.frame_size, videos, count=count))

    def describe(self, batch_size: int | None) -> dict[str, Any]:
        config, family = self.config, self.config.detection_family
        mean, std = config.pixel_statistics
        return super().describe(batch_size) | {
            "boxes": {"name": "boxes", "dtype": "float32", "shape": ["boxes", 4], "unit": "x1, y1, x2, y2 in pixels"},
            "output": {"name": "logits", "dtype": "float32", "shape": ["boxes", config.num_labels]},
            "problem_type": self.problem_type,
            "scores": "sigmoid" + (", times the score of the person" if family == "videomae" else ""),
            "pixels": {"short_side": config.detection_short_side, "rescale_factor": 1 / 255}
            | {"image_mean": list(mean), "image_std": list(std)},
            "sampling": {
                "frame_rate": config.detection_frame_rate,
                "offsets": key_frame_offsets(config.num_frames, config.detection_stride_frames, family=family),
            },
        }


def open_graph(
    folder: str, *, features: bool, frame_size: tuple[int, int] | None, videos: Sequence[str] | None
) -> Graph:
    """The graph that belongs to the kind of model in a folder; `features` takes the encoder of any kind."""
    config = open_config(folder, "model")
    kind = (config.architectures or ["VideoMAEForVideoClassification"])[0]
    detector = kind.endswith("ForActionDetection") and not features
    if frame_size is not None and not detector:
        raise ValueError(
            f"frame_size={frame_size} is for the scores of a detector; this graph takes frames of "
            f"{' x '.join(map(str, config.image_hw))}, the model's own size: leave frame_size out"
        )
    if detector:
        return DetectionGraph(open_model(VideoMAEForActionDetection, folder), frame_size or usual_size(config, videos))
    if features or kind == "VideoMAEModel":
        if kind.endswith("ForVideoClassification"):
            classifier = open_model(VideoMAEForVideoClassification, folder)
            return FeatureGraph(classifier.videomae, classifier.fc_norm, config)
        encoder = open_model(VideoMAEModel, folder)
        return FeatureGraph(encoder, encoder.fc_norm, config)
    if kind.endswith("ForPreTraining"):
        raise ValueError(
            f"{folder} is {kind}, which has no scores to export; export its features with --features, or fine-tune it first"
        )
    model = load_classifier(folder)
    return Graph(model, model.config)


def usual_size(config: VideoMAEConfig, videos: Sequence[str] | None) -> tuple[int, int]:
    """Height and width of the frames as the detection pipeline scales them: of the first video, or of 16:9."""
    size = WIDESCREEN
    if videos:
        info = probe(videos[0])
        size = (info.height, info.width)
    return scaled_size(*size, config.detection_short_side, rounded=config.detection_family == "mmaction2")


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


def write_onnx(graph: Graph, path: Path, *, opset: int | None = None, batch_size: int | None = None) -> int:
    """Write the float32 graph; returns the opset. Without `batch_size` the number of clips is free."""
    need("onnx", "onnxscript")
    threshold = getattr(graph.config, "still_threshold", None)
    if threshold is not None and not isinstance(graph, FeatureGraph):  # the features are the plain encoder's
        raise ValueError(
            f"still_threshold={threshold} keeps another number of patches of every clip, which no ONNX graph can "
            "hold; export with still_threshold=None (merge_per_layer can stay)"
        )
    example, free = graph.traced(batch_size)
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph.eval(),
            example,
            input_names=list(graph.inputs),
            output_names=[graph.output],
            dynamic_shapes=free,
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
        assert program is not None  # dynamo=True returns one
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # stack traces with the paths of this machine, as large as a small model
        program.save(path, external_data=is_large(graph))
    return program.model.opset_imports[""]


def is_large(graph: Graph) -> bool:
    return sum(tensor.nbytes for tensor in graph.state_dict().values()) > LARGEST_FILE_BYTES


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


def onnx_answers(path: Path, feeds: Sequence[Feed]) -> torch.Tensor:
    """The outputs of all feeds, one below the other, computed by ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    parts = [session.run(None, {name: part.numpy() for name, part in zip(names, feed)})[0] for feed in feeds]
    return torch.cat([torch.from_numpy(part) for part in parts])


@torch.inference_mode()
def torch_answers(graph: Graph, feeds: Sequence[Feed]) -> torch.Tensor:
    """The same, computed by the model."""
    return torch.cat([graph(*feed) for feed in feeds])


def export(
    folder: str | os.PathLike,
    output: str | os.PathLike,
    *,
    features: bool = False,
    frame_size: tuple[int, int] | None = None,
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
    if frame_size is not None and min(frame_size) < 1:
        raise ValueError(f"frame_size must be a height and a width of at least 1 pixel, not {frame_size}")
    need("onnx", "onnxscript", *(["onnxruntime"] if int8 else []))
    folder = os.fspath(folder)
    graph = open_graph(folder, features=features, frame_size=frame_size, videos=videos)
    if batch_size is not None and isinstance(graph, DetectionGraph):
        raise ValueError(f"batch_size={batch_size}: a detector's graph takes one clip and its boxes; leave it out")
    limit = TOLERANCE[int8] if max_score_difference is None else max_score_difference
    with new_folder(output, replace=overwrite) as beside:
        if int8:
            with tempfile.TemporaryDirectory(dir=beside) as scratch:
                opset = write_onnx(graph, Path(scratch, MODEL), opset=opset, batch_size=batch_size)
                quantize_onnx(Path(scratch, MODEL), beside / MODEL, large=is_large(graph))
        else:
            opset = write_onnx(graph, beside / MODEL, opset=opset, batch_size=batch_size)
        compared = None
        if find_spec("onnxruntime") is not None:
            feeds = graph.feeds(folder, videos, count=16 if int8 else 4, batch_size=batch_size)
            expected, got = torch_answers(graph, feeds), onnx_answers(beside / MODEL, feeds)
            compared = agreement(expected, got, graph.problem_type, of=graph.of)
            compared.require(min_agreement, limit, f"the exported model{' (int8)' if int8 else ''}", WAY_OUT[int8])
        record = describe(graph, opset=opset, batch_size=batch_size, int8=int8)
        graph.config.save_pretrained(beside)
        if not isinstance(graph, DetectionGraph):  # detectors read key frames by their configuration alone
            record |= save_processor(folder, graph.config, beside)
        record["proof"] = (
            None if compared is None else {"on": "videos" if videos else "drawn clips", **asdict(compared)}
        )
        write_json(beside / RECORD, record)
    return record


WAY_OUT = {
    False: "nothing was written; try another --opset, or allow a larger difference with --max_score_difference",
    True: "nothing was written; leave --int8 out, or lower --min_agreement or raise --max_score_difference if that is enough",
}


def describe(graph: Graph, *, opset: int, batch_size: int | None, int8: bool) -> dict[str, Any]:
    """What a program without this package has to know to use the file; `save_processor` adds what it reads of a video."""
    clips = 1 if isinstance(graph, DetectionGraph) else batch_size or "batch"
    return {
        "format": FORMAT,
        "architecture": graph.architecture,
        "input": {"name": "pixel_values", "dtype": "float32", "shape": [clips, *graph.shape()]},
        **graph.describe(batch_size),
        "opset": opset,
        "int8": int8,
        "versions": versions(),
    }


def save_processor(folder: str, config: VideoMAEConfig, output: Path) -> dict[str, Any]:
    """Save the model's processor; returns its pixel settings and its sampling policy."""
    processor = open_processor(folder, config)
    processor.save_pretrained(output)
    settings = processor.to_dict()
    names = ("size", "crop_size", "do_center_crop", "rescale_factor", "image_mean", "image_std")
    return {"pixels": {name: settings[name] for name in names}, "sampling": settings["sampling"]}


def report_lines(record: dict[str, Any]) -> Iterator[str]:
    """What was written and how it compares, for a terminal."""
    shape = " x ".join(map(str, record["input"]["shape"]))
    boxes = ", boxes n x 4" if "boxes" in record else ""
    last = f"{record['output']['shape'][-1]} {'classes' if 'labels' in record else 'features'}"
    yield f"{MODEL}: pixel_values {shape}{boxes} -> {last}, opset {record['opset']}"
    if record["proof"] is None:
        yield f"not compared with the model, since onnxruntime is not installed ({INSTALL})"
        return
    found = Agreement(**{name: value for name, value in record["proof"].items() if name != "on"})
    yield f"compared with the model on {record['proof']['on']}: {found}"
    if record["int8"] and record["proof"]["on"] != "videos":
        yield "drawn clips say little about int8: compare on your own with --videos"
