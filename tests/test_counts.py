"""A guard against slowness that needs no clock: calls, waits, graph breaks, decoded frames and copied bytes are counted.

The numbers in `CALLS` are what a step does today under one version of torch, whose operators they are. More is an error:
look what came in, and raise the number only for a reason. Less is welcome: lower it. Counting itself (FLOPs, bytes kept) is benchmarks/common/cost.py, checked here against torch.
"""

from collections import Counter

import pytest
import torch
from accelerate import Accelerator
from support import TINY
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from video_files import write_video

from benchmarks.common import cost
from videomae import (
    VideoMAEConfig,
    VideoMAEForActionDetection,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
)
from videomae.data.lists.layouts import open_manifest
from videomae.data.transforms import PretrainTransform
from videomae.data.video_dataset import VideoDataset
from videomae.evaluation.multi_view import Views, views_dataset
from videomae.masking_videomae import batch_masks
from videomae.sampling_videomae import ClipSampling
from videomae.training.loop import training_step
from videomae.training.objective import Objective
from videomae.training.optimisation import build_optimizer
from videomae.training.recipes import FinetuneRecipe, PretrainRecipe
from videomae.video_io import VideoReader

BATCH, LABELS = 2, 5
KINDS = ("pretrain", "pretrain-dual", "classify", "detect")
# Of one forward and backward pass of the tiny model (3 blocks, and 2 in the decoder), with the counts given; by torch's
# major and minor version, since another one may take other operators for the same work.
CALLS = {"2.13": {"pretrain": 247, "pretrain-dual": 257, "classify": 130, "detect": 359}}
# What makes the CPU wait for a device, or leaves the size of a result to the data.
WAITS = {"_local_scalar_dense", "item", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "_unique2"}
COPIES = {"clone", "_to_copy", "copy_", "contiguous", "cat", "stack", "index", "index_select", "gather"}


def model_and_inputs(kind: str, *, device: str = "cpu", attention: str = "sdpa") -> tuple[torch.nn.Module, dict]:
    torch.manual_seed(0)
    head = kind.removesuffix("-dual")
    fields = {"use_mean_pooling": head == "classify", "num_labels": LABELS, "attn_implementation": attention}
    config = VideoMAEConfig(**TINY, **fields)
    classes = {
        "pretrain": VideoMAEForPreTraining,
        "classify": VideoMAEForVideoClassification,
        "detect": VideoMAEForActionDetection,
    }
    inputs = {"pixel_values": torch.randn(BATCH, config.num_frames, 3, 32, 32)}
    if head == "pretrain":
        inputs["bool_masked_pos"], inputs["num_visible"] = batch_masks("tube", config.grid, 0.75, BATCH)
    if kind == "pretrain-dual":
        left_out, inputs["num_decoded"] = batch_masks("running_cell", config.grid, 0.5, BATCH)
        inputs["bool_decoded_pos"] = ~left_out
    if head == "classify":
        inputs["labels"] = torch.full((BATCH, LABELS), 1 / LABELS)
    if head == "detect":
        inputs |= {"boxes": [torch.tensor([[2.0, 2.0, 20.0, 30.0]])] * BATCH, "labels": torch.zeros(BATCH, LABELS)}
    inputs = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
    if "boxes" in inputs:
        inputs["boxes"] = [boxes.to(device) for boxes in inputs["boxes"]]
    return classes[head](config).to(device).train(), inputs


class Calls(TorchDispatchMode):
    """Counts what reaches aten, by name, and the bytes that operators of `COPIES` write, by tensor."""

    def __init__(self):
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.copied: list[tuple[str, int]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        self.counts[name] += 1
        if name in COPIES and isinstance(result, torch.Tensor):
            self.copied.append((name, result.nbytes))
        return result


def one_pass(model: torch.nn.Module, inputs: dict) -> None:
    model(**inputs).loss.backward()
    model.zero_grad()


def counted(kind: str) -> Calls:
    """The calls of a pass after the first, which fills the caches of constants."""
    model, inputs = model_and_inputs(kind)
    one_pass(model, inputs)
    with Calls() as calls:
        one_pass(model, inputs)
    return calls


# ---------------------------------------------------------------------------------------------------- calls and waits


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_makes_no_more_calls_than_it_did(kind):
    version = ".".join(torch.__version__.split(".")[:2])
    if version not in CALLS:
        pytest.skip(f"no numbers for torch {version}; those for {', '.join(CALLS)} are in CALLS")
    calls = counted(kind)
    views = {
        "view",
        "_unsafe_view",
        "unsqueeze",
        "expand",
        "transpose",
        "t",
        "slice",
        "select",
        "detach",
        "alias",
        "permute",
    }
    work = {name: count for name, count in calls.counts.items() if name not in views}
    assert sum(work.values()) <= CALLS[version][kind], f"{sum(work.values())} calls: {sorted(work.items())}"


@pytest.mark.parametrize("kind", ["pretrain", "pretrain-dual", "classify"])
def test_nothing_in_a_pass_waits_for_the_device_or_leaves_a_size_to_the_data(kind):
    assert not WAITS & counted(kind).counts.keys()


def test_without_counts_a_mask_is_read_once_and_not_more():
    model, inputs = model_and_inputs("pretrain")
    del inputs["num_visible"]
    one_pass(model, inputs)
    with Calls() as calls:
        one_pass(model, inputs)
    # `tolist` of the smallest and the largest count, for the visible and for the decoded tokens
    assert calls.counts["_local_scalar_dense"] <= 4


@pytest.mark.parametrize("kind", ["pretrain", "pretrain-dual", "classify"])
def test_a_trainers_step_waits_only_where_the_optimizer_has_no_fused_kernel(kind):
    model, inputs = model_and_inputs(kind)
    step = trainers_step(model, inputs, kind, cpu=True)
    step()
    with Calls() as calls:
        step()
    assert not WAITS & calls.counts.keys()
    assert calls.counts["_fused_adamw_"] == len(build_optimizer(model, recipe_of(kind)).param_groups)


def recipe_of(kind: str) -> PretrainRecipe | FinetuneRecipe:
    return FinetuneRecipe() if kind == "classify" else PretrainRecipe()


def trainers_step(model: torch.nn.Module, inputs: dict, kind: str, *, cpu: bool):
    """The step of the training script of this kind, as a function without arguments."""
    accelerator = Accelerator(cpu=cpu)
    model, optimizer = accelerator.prepare(model, build_optimizer(model, recipe_of(kind)))
    rates = {"lr": 1e-3, "weight_decay": 0.05}
    if kind != "classify":
        return lambda: training_step(accelerator, model, optimizer, [inputs], **rates)
    objective = Objective(problem="single_label_classification", num_labels=LABELS, label_smoothing=0.1)
    return lambda: training_step(accelerator, model, optimizer, [inputs], objective, **rates)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["pretrain", "pretrain-dual", "classify"])
def test_a_trainers_step_never_waits_for_the_gpu(kind):
    model, inputs = model_and_inputs(kind, device="cuda")
    step = trainers_step(model, inputs, kind, cpu=False)
    step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_one_graph_without_breaks(kind):
    model, inputs = model_and_inputs(kind)
    torch._dynamo.reset()
    explained = torch._dynamo.explain(model)(**inputs)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0), explained.break_reasons


# ------------------------------------------------------------------------------------------------------ bytes and FLOPs


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_patches_that_are_needed_are_copied(kind):
    """All of them once into the order of the weights; only some, once when chosen and once into the order needed."""
    model, inputs = model_and_inputs(kind)
    pixels, tokens = inputs["pixel_values"].nbytes, model_tokens(kind)
    patch = 4 * BATCH * cost.patch_values(model.config)
    with torch.no_grad(), Calls() as calls:
        model(**inputs)
    expected = [tokens.visible * patch]
    if tokens.decoded:
        expected = 2 * [tokens.visible * patch, tokens.decoded * patch]
    large = [size for _, size in calls.copied if size >= pixels // 8]
    assert sorted(large) == sorted(size for size in expected if size >= pixels // 8)


def model_tokens(kind: str) -> cost.Tokens:
    config = VideoMAEConfig(**TINY)
    head = kind.removesuffix("-dual")
    return cost.tokens_of(config, head, dual=kind == "pretrain-dual", mask_ratio=0.75)


@pytest.mark.parametrize("kind", ["pretrain", "pretrain-dual", "classify"])
def test_flops_of_a_step_are_those_that_torch_counts(kind):
    """Written-out attention, since torch's count of sdpa differs by backend."""
    model, inputs = model_and_inputs(kind, attention="eager")
    with FlopCounterMode(display=False) as counter:
        loss = model(**inputs).loss
    forward = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    head, tokens = kind.removesuffix("-dual"), model_tokens(kind)
    assert forward == BATCH * cost.forward_flops(model.config, head, tokens)
    assert forward + counter.get_total_flops() == BATCH * cost.step_flops(model.config, head, tokens)


@pytest.mark.parametrize(
    "preset, published", [("small", 57), ("base", 180), ("large", 597), ("huge", 1192), ("giant", 2544)]
)
def test_flops_of_a_classifiers_forward_are_the_published_ones(preset, published):
    """The papers count multiply-adds in G (VideoMAE, table 6; VideoMAE V2: 38160 for 15 views), which are two FLOPs each."""
    config = VideoMAEConfig.preset(preset, head="classify", version=2, num_labels=400)
    flops = cost.forward_flops(config, "classify", cost.tokens_of(config, "classify"))
    assert flops / 2e9 == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_kept_for_the_backward_pass_are_the_counted_ones(kind):
    model, inputs = model_and_inputs(kind)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}  # the tensors too, or a freed address would be used again

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**inputs)
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert total == pytest.approx(
        BATCH * cost.kept_bytes(model.config, kind.removesuffix("-dual"), model_tokens(kind)), rel=0.02
    )


# ------------------------------------------------------------------------------------------------------ decoded frames


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """The packet numbers of all pictures that leave the decoder, in order."""
    numbers: list[int] = []
    run = VideoReader._run

    def counting(self, *args, **kwargs):
        for number, frame in run(self, *args, **kwargs):
            numbers.append(number)
            yield number, frame

    monkeypatch.setattr(VideoReader, "_run", counting)
    return numbers


@pytest.fixture
def manifest(tmp_path):
    write_video(tmp_path / "video.mp4", 60, gop=12)
    (tmp_path / "list.txt").write_text("video.mp4 0\n")
    return open_manifest(tmp_path / "list.txt")


def test_copies_of_a_sample_share_one_decode(decoded, manifest):
    sampling = ClipSampling(num_frames=8, stride_frames=2)
    dataset = VideoDataset(
        manifest, mode="pretrain", sampling=sampling, transform=PretrainTransform(size=32), num_samples=4
    )
    item = dataset[0]
    assert len(item["pixel_values"]) == 4
    # 8 frames at stride 2 span 15, behind at most 11 of their group of pictures; no picture is decoded twice
    assert len(decoded) == len(set(decoded)) <= 15 + 11 + 3


def test_all_views_of_a_test_share_one_decode(decoded, manifest):
    sampling = ClipSampling(num_frames=8, stride_frames=2, clips=5, crops=3)
    item = views_dataset(manifest, Views(sampling=sampling, size=32))[0]
    assert len(item["pixel_values"]) == 15
    assert len(decoded) == len(set(decoded)) <= 60
