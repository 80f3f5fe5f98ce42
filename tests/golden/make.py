"""Remake the golden files: tiny checkpoints of every release, and what the official code computes from them.

    python tests/golden/make.py OFFICIAL_TREES            # compare with the committed files, rewrite PROVENANCE.json
    python tests/golden/make.py OFFICIAL_TREES --write    # replace the committed files

OFFICIAL_TREES is a folder with clones of the four public repositories; official.py says how to make it and which
missing packages have stand-ins. Weights are drawn by their official name, so that families share them; the seeds are
below. The published files carry more than weights (an argparse.Namespace, an optimizer state, an epoch), and so do these.

Two files are not made here and keep their bytes: `processor.safetensors`, frames and what transformers' video processor
makes of them, which needs torchvision, and `videomae_v2_hub.config.json`, the configuration of the V2 repositories on
the Hub with the tiny sizes.
"""

import argparse
import hashlib
import json
import re
import sys
import tempfile
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

GOLDEN = Path(__file__).parent
PROVENANCE = GOLDEN / "PROVENANCE.json"
sys.path.insert(0, str(GOLDEN.parent))

from golden.official import OfficialTrees, versions  # noqa: E402

SEEDS = {"weights": 11, "pixel_values": 12, "bool_masked_pos": 13, "decode_masked_pos": 14}
TOLERANCE = 1e-6  # of outputs, relative to the largest: another build of torch sums in another order
CLASSES, FRAMES = 7, 16
SIZES = dict(embed_dim=48, depth=3, num_heads=3, mlp_ratio=4, qkv_bias=True)
NORM = partial(nn.LayerNorm, eps=1e-6)
CLASSIFIER = dict(SIZES, img_size=32, patch_size=8, num_classes=CLASSES, norm_layer=NORM)
PRETRAINING = dict(
    img_size=32,
    patch_size=8,
    **{f"encoder_{name}": SIZES[name] for name in ("embed_dim", "depth", "num_heads")},
    decoder_num_classes=3 * 2 * 8 * 8,
    decoder_embed_dim=36,
    decoder_depth=2,
    decoder_num_heads=2,
    mlp_ratio=4,
    qkv_bias=True,
    norm_layer=NORM,
)
FRAME = (64, 96)  # of the detectors, whose table of positions is for 64 x 64
BOXES = (
    torch.tensor([[4.0, 6.0, 50.0, 60.0], [30.0, 0.0, 95.0, 63.0]]),
    torch.tensor([[10.0, 10.0, 40.0, 33.0]]),
)
KEPT = {
    "processor.safetensors": "frames and what transformers' video processor makes of them; needs torchvision, not remade",
    "videomae_v2_hub.config.json": "written by hand: the configuration of OpenGVLab/VideoMAEv2-Base on the Hub, with the tiny sizes",
}
# What MMAction2 calls parts of V1 and V2.
MMACTION2_NAMES = (
    (r"patch_embed\.projection", "patch_embed.proj"),
    (r"mlp\.layers\.0\.0", "mlp.fc1"),
    (r"mlp\.layers\.1", "mlp.fc2"),
    (r"fc_cls", "head"),
)


# ------------------------------------------------------------------------------------------------ weights and inputs


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """The values of one parameter: matrices keep the scale of what they multiply, vectors are 0.1 around their start."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) % 2**31 + SEEDS["weights"])
    values = torch.randn(shape, generator=generator)
    if len(shape) > 1:
        return values * values[0].numel() ** -0.5
    is_norm_weight = re.search(r"norm\d?\.weight$", name)
    return 1 + 0.1 * values if is_norm_weight else 0.1 * values


def filled(model: nn.Module) -> nn.Module:
    """The model with weights drawn by name, ready to be asked."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for pattern, official in MMACTION2_NAMES:
                name = re.sub(pattern, official, name)
            parameter.copy_(weight(name, tuple(parameter.shape)))
    return model.eval()


def pixels(height: int, width: int) -> Tensor:
    """Two clips as the official code takes them, (B, C, T, H, W), of values that float16 has."""
    generator = torch.Generator().manual_seed(SEEDS["pixel_values"])
    return torch.randn(2, 3, FRAMES, height, width, generator=generator).half().float()


def tube_masks(hidden: int = 12, cells: int = 16, slots: int = 8) -> Tensor:
    """True where hidden from the encoder: 12 of 16 cells, the same in all slots of a clip."""
    generator = torch.Generator().manual_seed(SEEDS["bool_masked_pos"])
    masks = torch.zeros(2, cells, dtype=torch.bool)
    for mask in masks:
        mask[torch.randperm(cells, generator=generator)[:hidden]] = True
    return masks.repeat(1, slots)


def running_cell_masks(official_generator: type) -> Tensor:
    """True where left out of the decoder, from V2's own class."""
    np.random.seed(SEEDS["decode_masked_pos"])
    draw = official_generator((8, 4, 4), 0.5)
    return torch.stack([torch.from_numpy(draw()).flatten().bool() for _ in range(2)])


# ---------------------------------------------------------------------------------------------- the official outputs


class _Stop(Exception):
    pass


class LoopWatcher:
    """Stands in for the loss scaler of an official training loop, which it stops with the loop's variables in hand."""

    def __call__(self, loss: Tensor, *_, **__):
        self.seen = {**sys._getframe(1).f_locals}
        raise _Stop


class Unmoved:
    """An optimizer that the loop only clears before it is stopped."""

    param_groups = ()

    def zero_grad(self) -> None:
        pass


def loop_variables(engine: Any, model: nn.Module, batch: tuple[Tensor, ...], **options: Any) -> dict[str, Tensor]:
    """`outputs`, `labels` and `loss` of the first step of an official `train_one_epoch`, on the CPU in float32."""
    watcher = LoopWatcher()
    try:
        engine.train_one_epoch(
            model, [batch], Unmoved(), torch.device("cpu"), 0, watcher, patch_size=8, start_steps=0, **options
        )
    except _Stop:
        return watcher.seen
    raise RuntimeError(f"{engine.__file__} never came to its loss scaler")


def v1_pretraining(trees: OfficialTrees) -> tuple[nn.Module, dict[str, Tensor]]:
    models, engine = trees.load("VideoMAE", "modeling_pretrain", "engine_for_pretraining")
    model = filled(models.PretrainVisionTransformer(**PRETRAINING))
    clips, masks = pixels(32, 32), tube_masks()
    seen = loop_variables(engine, model, (clips, masks))
    raw = loop_variables(engine, model, (clips, masks), normlize_target=False)
    return model, {
        "input.pixel_values": clips,
        "input.bool_masked_pos": masks,
        "expected.logits": seen["outputs"],
        "expected.labels": seen["labels"],
        "expected.loss": seen["loss"],
        "expected.loss_raw_pixels": raw["loss"],
    }


def v2_pretraining(trees: OfficialTrees) -> tuple[nn.Module, dict[str, Tensor]]:
    models, engine = trees.load("VideoMAEv2", "models.modeling_pretrain", "engine_for_pretraining")
    masking = trees.load_file("VideoMAEv2", "dataset/masking_generator.py")
    model = filled(models.PretrainVisionTransformer(**PRETRAINING))
    clips, masks = pixels(32, 32), tube_masks()
    left_out = running_cell_masks(masking.RunningCellMaskingGenerator)
    seen = loop_variables(engine, model, (clips, masks, left_out))
    return model, {
        "input.pixel_values": clips,
        "input.bool_masked_pos": masks,
        "input.decode_masked_pos": left_out,
        "expected.logits": seen["outputs"],
        "expected.labels": seen["labels"],
        "expected.loss": seen["loss"],
        "expected.loss_positions": seen["cal_loss_mask"],
    }


def classifier(trees: OfficialTrees, tree: str, module: str) -> tuple[nn.Module, dict[str, Tensor]]:
    (models,) = trees.load(tree, module)
    model, clips = filled(models.VisionTransformer(**CLASSIFIER)), pixels(32, 32)
    return model, {
        "input.pixel_values": clips,
        "expected.logits": model(clips),
        "expected.pooled_features": model.forward_features(clips),
    }


def action_detector(trees: OfficialTrees) -> tuple[nn.Module, dict[str, Tensor]]:
    models, structures = trees.load(
        "VideoMAE-Action-Detection", "modeling_finetune", "alphaction.structures.bounding_box"
    )
    model = filled(models.VisionTransformer(**SIZES, img_size=64, patch_size=16, num_classes=80, norm_layer=NORM))
    clips = pixels(*FRAME)
    boxes = [structures.BoxList(box.clone(), FRAME[::-1]) for box in BOXES]
    proposals = [box.extend(model.test_ext) for box in boxes]
    return model, {
        "input.pixel_values": clips,
        **{f"input.boxes_{i}": box for i, box in enumerate(BOXES)},
        **{f"expected.extended_boxes_{i}": box.bbox for i, box in enumerate(proposals)},
        "expected.roi_features": model.forward_features(clips, proposals),
        "expected.logits": model(clips, boxes),
    }


def mmaction2_backbone(trees: OfficialTrees, **options: Any) -> nn.Module:
    models = trees.load_file("mmaction2", "mmaction/models/backbones/vit_mae.py")
    sizes = {("embed_dims" if name == "embed_dim" else name): value for name, value in SIZES.items()}
    return filled(models.VisionTransformer(**sizes, **options))


def mmaction2_classifier(trees: OfficialTrees) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    backbone = mmaction2_backbone(trees, img_size=32, patch_size=8)
    head = filled(nn.ModuleDict({"fc_cls": nn.Linear(48, CLASSES)}))  # TimeSformerHead is this and a dropout of 0
    clips = pixels(32, 32)
    pooled = backbone(clips)
    state = _prefixed(backbone, "backbone.") | _prefixed(head, "cls_head.")
    outputs = {"expected.logits": head["fc_cls"](pooled), "expected.pooled_features": pooled}
    return state, {"input.pixel_values": clips, **outputs}


def mmaction2_detector(trees: OfficialTrees) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    backbone = mmaction2_backbone(trees, img_size=64, patch_size=16, use_mean_pooling=False, return_feat_map=True)
    heads = "mmaction/models/roi_heads"
    extractor = trees.load_file("mmaction2", f"{heads}/roi_extractors/single_straight3d.py").SingleRoIExtractor3D(
        output_size=8, with_temporal_pool=True
    )
    boxes = trees.load_file("mmaction2", f"{heads}/bbox_heads/bbox_head.py")
    head = filled(boxes.BBoxHeadAVA(background_class=True, in_channels=48, num_classes=81, dropout_ratio=0.5))
    clips = pixels(*FRAME)
    rois = torch.cat([torch.cat([torch.full((len(box), 1), float(i)), box], dim=1) for i, box in enumerate(BOXES)])
    features, _ = extractor(backbone(clips), rois)
    state = _prefixed(backbone, "backbone.") | _prefixed(head, "roi_head.bbox_head.")
    return state, {
        "input.pixel_values": clips,
        **{f"input.boxes_{i}": box for i, box in enumerate(BOXES)},
        "expected.roi_features": head.spatial_pool(head.temporal_pool(features)).flatten(1),
        "expected.logits": head(features),
    }


def _prefixed(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Parameters only: MMAction2's table of positions is a buffer, which its published files have and ours leave out."""
    return {prefix + name: parameter for name, parameter in module.named_parameters()}


# ----------------------------------------------------------------------------------------------------------- files


EXTRAS = {
    "epoch": 3,
    "args": argparse.Namespace(lr=0.001, opt="adamw", model="tiny"),
    "optimizer": {"state": {}, "param_groups": []},
}
MM_EXTRAS = {"epoch": 3, "meta": {"epoch": 3}}


@torch.no_grad()
def make(trees: OfficialTrees, folder: Path) -> None:
    """Write all the files that are made from the trees."""
    v1 = classifier(trees, "VideoMAE", "modeling_finetune")
    v2 = classifier(trees, "VideoMAEv2", "models.modeling_finetune")
    features = {name: tensor for name, tensor in v2[1].items() if name != "expected.logits"}
    without_head = {f"model.{name}": tensor for name, tensor in v2[0].state_dict().items() if "head" not in name}
    for stem, (model, tensors), wrapper, extras in (
        ("videomae_pretrain", v1_pretraining(trees), "model", EXTRAS),
        ("videomae_finetune", v1, "module", EXTRAS),
        ("videomae_v2_pretrain", v2_pretraining(trees), "model", EXTRAS),
        ("videomae_v2_finetune", v2, "module", EXTRAS),
        ("videomae_v2_hub", (without_head, features), None, {}),
        ("action_detection", action_detector(trees), "model", EXTRAS),
        ("mmaction2_recognition", mmaction2_classifier(trees), "state_dict", MM_EXTRAS),
        ("mmaction2_detection", mmaction2_detector(trees), "state_dict", MM_EXTRAS),
    ):
        state = dict(model.state_dict() if isinstance(model, nn.Module) else model)
        state = {name: tensor.detach().clone() for name, tensor in state.items()}
        if wrapper is None:
            save_file(state, folder / f"{stem}.safetensors")
        else:
            torch.save({wrapper: state, **extras}, folder / f"{stem}.pth")
        tensors["input.pixel_values"] = tensors["input.pixel_values"].transpose(1, 2).half()  # frames first
        ready = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        save_file(ready, folder / f"{stem}.golden.safetensors")


def tensors_of(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        return load_file(file)
    content = torch.load(file, weights_only=False)  # our own file
    return next(content[key] for key in ("model", "module", "state_dict") if key in content)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def compared(made: Path, committed: Path) -> dict[str, Any]:
    """Two files of one name: whether weights and inputs are the same to the bit, and how far outputs are apart."""
    ours, theirs = tensors_of(committed), tensors_of(made)
    if list(ours) != list(theirs):
        raise ValueError(f"{committed.name}: other tensors or another order: {sorted(set(ours) ^ set(theirs))}")
    exact = [name for name in ours if not name.startswith("expected.")]
    outputs = [name for name in ours if name.startswith("expected.")]
    difference = max(
        (
            float((ours[name].double() - theirs[name].double()).abs().max() / theirs[name].double().abs().max())
            for name in outputs
        ),
        default=0.0,
    )
    return {
        "remade_to_the_same_bytes": sha256(made) == sha256(committed),
        "weights_and_inputs_equal": all(torch.equal(ours[name], theirs[name]) for name in exact),
        "largest_difference_of_outputs": difference,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("trees", help="a folder with clones of the four public repositories")
    parser.add_argument("--write", action="store_true", help="replace the committed files")
    args = parser.parse_args(argv)
    trees = OfficialTrees(args.trees)
    commits = trees.commits()
    torch.set_num_threads(1)
    failed, results = False, {}
    with tempfile.TemporaryDirectory() as temporary:
        make(trees, Path(temporary))
        for made in sorted(Path(temporary).iterdir()):
            committed = GOLDEN / made.name
            if args.write:
                committed.write_bytes(made.read_bytes())
            results[made.name] = result = compared(made, committed)
            bad = not result["weights_and_inputs_equal"] or result["largest_difference_of_outputs"] > TOLERANCE
            failed |= bad
            print(f"{'DIFFERS' if bad else 'ok':8}{made.name:40}", ", ".join(f"{k} {v}" for k, v in result.items()))
    if failed:
        print("PROVENANCE.json is left as it was; --write replaces the files")
        return 1
    files = {name: {"sha256": sha256(GOLDEN / name), **result} for name, result in results.items()}
    files |= {name: {"sha256": sha256(GOLDEN / name), "kept": reason} for name, reason in KEPT.items()}
    record = {
        "made_by": "tests/golden/make.py",
        "repositories": commits,
        "versions": versions(),
        "seeds": SEEDS,
        "tolerance_of_outputs": TOLERANCE,
        "files": dict(sorted(files.items())),
    }
    PROVENANCE.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
