"""Check a model folder: head, shapes, epsilons, pooling, labels, processor, files, and one forward pass.

commands/doctor.py prints these findings; environment.py looks at the installation.
"""

import json
import re
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import videomae
from videomae.configuration_videomae import IMAGENET_MEAN, IMAGENET_STD, OFFICIAL_NORM_EPS, PRESETS, VideoMAEConfig
from videomae.conversion.plan import preset_of
from videomae.conversion.proof import proof_inputs, proof_outputs
from videomae.data.lists.label_names import are_placeholders
from videomae.data.lists.manifests import some_of
from videomae.files import sha256_of
from videomae.model_cards.cards import HEADS, head_of
from videomae.models import WEIGHTS, load_with_report, open_config, weights_sha256
from videomae.remote_code import PROCESSOR_MAPS
from videomae.training.checkpoints import MANIFEST, damage
from videomae.video_processing_videomae import VideoMAEVideoProcessor

SHARD = re.compile(r"model-\d+-of-\d+\.safetensors|pytorch_model-\d+-of-\d+\.bin")


@dataclass(frozen=True)
class Finding:
    """One thing to know: a "problem" makes results wrong or stops work, a "note" may be meant so."""

    level: str
    area: str
    text: str
    fix: str = ""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


class Findings(list):
    """Findings about one thing, such as a folder."""

    def __init__(self, area: str):
        super().__init__()
        self.area = area

    def problem(self, text: str, fix: str = "") -> None:
        self.append(Finding("problem", self.area, text, fix))

    def note(self, text: str, fix: str = "") -> None:
        self.append(Finding("note", self.area, text, fix))


def look_at_model(folder: Path, *, forward: bool = True) -> tuple[dict[str, Any], Findings]:
    """What a model folder holds, and what is wrong with it."""
    facts: dict[str, Any] = {"folder": str(folder)}
    findings = Findings(str(folder))
    if (folder / MANIFEST).is_file() and (reason := damage(folder)):
        findings.problem(f"this checkpoint is damaged: {reason}", "use the one before it")
    try:
        config = open_config(str(folder), "")
    except (ValueError, OSError) as error:
        findings.problem(str(error).strip())
        return facts, findings
    written = json.loads((folder / "config.json").read_text("utf-8"))
    try:
        head = head_of(written)
    except ValueError as error:
        findings.problem(str(error), "save the model again with save_pretrained, or convert the weights again")
        return facts, findings
    facts |= _config_facts(config, written, head)
    facts["files"] = _files(folder, findings)
    if (folder / "conversion.json").is_file():
        record = json.loads((folder / "conversion.json").read_text("utf-8"))
        names = ("name", "source_file", "source_sha256", "largest_relative_difference")
        facts["converted_from"] = {name: record.get(name) for name in names}
    if not check_config(config, head, findings):
        return facts, findings
    _check_processor(folder, config, head, facts, findings)
    _check_labels(config, written, head, findings)
    _check_weights(folder, head, facts, findings, forward=forward)
    return facts, findings


def _config_facts(config: VideoMAEConfig, written: Mapping[str, Any], head: str) -> dict[str, Any]:
    facts = {
        "class": written["architectures"][0],
        "head": head,
        "size": preset_of(config.to_dict()) or "of its own",
        "width": config.hidden_size,
        "layers": config.num_hidden_layers,
        "attention_heads": config.num_attention_heads,
        "patch": list(config.patch_hw),
        "num_frames": config.num_frames,
        "image_size": list(config.image_hw),
        "layer_norm_eps": config.layer_norm_eps,
        "norm_eps": config.norm_eps,
        "use_mean_pooling": config.use_mean_pooling,
    }
    if head in ("classify", "probe", "detect"):
        facts["num_labels"] = config.num_labels
    return facts


def _files(folder: Path, findings: Findings) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of the weight files, as the Hub shows them."""
    paths = [path for path in sorted(folder.iterdir()) if path.name in WEIGHTS or SHARD.fullmatch(path.name)]
    if not any(".safetensors" in path.name for path in paths):
        findings.note(
            "the weights are a pickle (pytorch_model.bin), which is slow to open and is not published",
            "load the model and save_pretrained it again",
        )
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in paths}


# -------------------------------------------------------------------------------------------------- the parts


def check_config(config: VideoMAEConfig, head: str, findings: Findings) -> bool:
    """Whether a model can be built from it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            config.check_buildable()
        except ValueError as error:
            findings.problem(f"no model can be built from config.json: {error}")
            return False
    for warning in caught:
        findings.problem(str(warning.message), "set num_attention_heads in config.json")
    preset = preset_of(config.to_dict())
    if preset and not caught and config.num_attention_heads != PRESETS[preset].heads:
        findings.problem(
            f"{config.num_attention_heads} attention heads, where the released {preset} has {PRESETS[preset].heads}; "
            "the weights load either way and the outputs differ",
            f"set num_attention_heads to {PRESETS[preset].heads}, unless it was trained with another number",
        )
    epsilons = {config.layer_norm_eps, config.norm_eps}
    if epsilons == {1e-12, 1e-5}:
        findings.note(
            "the epsilons are transformers' (1e-12 and 1e-5), right for weights that transformers trained; released "
            "weights were trained with 1e-6, and `videomae convert` of the original file keeps that (outputs differ by "
            "up to 1e-4)"
        )
    elif epsilons != {OFFICIAL_NORM_EPS}:
        findings.note(f"unusual epsilons: layer_norm_eps {config.layer_norm_eps:g}, norm_eps {config.norm_eps:g}")
    pooled = head in ("classify", "features")
    if head == "classify" and not config.use_mean_pooling:
        findings.problem(
            "use_mean_pooling is false in a classifier: its head reads the first patch alone",
            "set it to true, unless the weights were trained so",
        )
    elif not pooled and head != "probe" and config.use_mean_pooling:
        findings.note(
            "use_mean_pooling is true, so the encoder has no final norm; released models of this kind have one",
            "set it to false if the weights hold a final norm",
        )
    return True


def _check_processor(
    folder: Path, config: VideoMAEConfig, head: str, facts: dict[str, Any], findings: Findings
) -> None:
    names = [name for name in PROCESSOR_MAPS if (folder / name).is_file()]
    if not names:
        findings.problem(
            "there is no processor, so how to sample and scale videos has to be guessed",
            "save one into the folder: VideoMAEVideoProcessor(...).save_pretrained(FOLDER)",
        )
        return
    try:
        processor = VideoMAEVideoProcessor.from_pretrained(folder)
    except (ValueError, TypeError, OSError, AttributeError, KeyError, IndexError) as error:  # a file can hold anything
        findings.problem(f"the processor cannot be read: {error}")
        return
    sampling = processor.sampling
    mean, std = list(processor.image_mean), list(processor.image_std)
    facts |= {"mean": mean, "std": std, "sampling": sampling.to_dict()}
    stored = [json.loads((folder / name).read_text("utf-8")).get("sampling") for name in names]
    if not any(stored):
        findings.note(
            f"no sampling policy is saved; files are read by the default ({sampling.strategy}, stride "
            f"{sampling.stride_frames})",
            "for Something-Something: VideoMAEVideoProcessor.from_pretrained(FOLDER, sampling={'strategy': 'uniform', "
            "'clips': 2}).save_pretrained(FOLDER); else save the default the same way",
        )
    if sampling.num_frames != config.num_frames:
        findings.problem(
            f"the processor samples {sampling.num_frames} frames and the model takes {config.num_frames}",
            "save the processor again with sampling={'num_frames': ...}",
        )
    expected = config.pixel_statistics
    if head != "detect" and (mean, std) != expected:
        wrong = head == "pretrain" or config.pixel_mean is not None
        report = findings.problem if wrong else findings.note
        why = "the reconstruction target" if head == "pretrain" else "config.json"
        what = (
            f"{why} assumes {expected[0]}, {expected[1]}" if wrong else "released weights were trained with ImageNet's"
        )
        report(
            f"the processor normalises by {mean}, {std}; {what}",
            f"ImageNet's are image_mean={IMAGENET_MEAN}, image_std={IMAGENET_STD}",
        )
    crop = (processor.crop_size["height"], processor.crop_size["width"])
    if head != "detect" and processor.do_center_crop and crop != config.image_hw:
        findings.problem(
            f"the processor crops {crop[0]}x{crop[1]} and the model takes {config.image_hw[0]}x{config.image_hw[1]}",
            "save the processor again with size and crop_size of the model",
        )


def _check_labels(config: VideoMAEConfig, written: Mapping[str, Any], head: str, findings: Findings) -> None:
    if head not in ("classify", "probe", "detect"):
        return
    names = [str(config.id2label[index]) for index in sorted(config.id2label)]
    fix = "set id2label and label2id in config.json, or convert with --labels"
    if are_placeholders(names):
        findings.note(f"the {len(names)} classes have no names", fix)
        return
    duplicates = sorted(name for name, count in Counter(names).items() if count > 1)
    if duplicates:
        findings.problem(f"{len(duplicates)} class names are duplicates: {some_of(duplicates)}", fix)
    if sorted(config.id2label) != list(range(len(names))):
        findings.problem(f"the classes are not numbered 0 to {len(names) - 1}", fix)
    inverse = written.get("label2id") or {}
    wrong = [name for name, index in inverse.items() if str(config.id2label.get(index)) != name]
    if wrong and not duplicates:
        findings.problem(f"label2id contradicts id2label for {len(wrong)} classes: {some_of(sorted(wrong))}", fix)


def _check_weights(folder: Path, head: str, facts: dict[str, Any], findings: Findings, *, forward: bool) -> None:
    kind = getattr(videomae, HEADS[head].model_class if head != "features" else "VideoMAEModel")
    try:
        model, loading = load_with_report(kind, folder, ignore_mismatched_sizes=True)
    except Exception as error:  # safetensors and torch have error classes of their own
        findings.problem(f"the weights cannot be loaded: {str(error).splitlines()[0]}", "save or convert them again")
        return
    reasons = {
        "missing_keys": "the weights lack {}; they would be random",
        "unexpected_keys": "the weights hold {} that this model has no place for",
    }
    for name, text in reasons.items():
        if keys := sorted(loading[name]):
            findings.problem(text.format(f"{len(keys)} tensors ({some_of(keys)})"), _which_head(keys, head))
    for key, stored, wanted in sorted(loading["mismatched_keys"]):
        findings.problem(f"{key} is {list(stored)} in the weights and {list(wanted)} by config.json")
    bad = [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    if bad:
        findings.problem(f"{len(bad)} tensors hold NaN or infinity: {some_of(bad)}", "use an earlier checkpoint")
    zero = [name for name, tensor in model.named_parameters() if tensor.dim() > 1 and not tensor.any()]
    if zero:
        findings.note(f"{len(zero)} matrices are zero throughout: {some_of(zero)}")
    facts |= {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "weights_sha256": weights_sha256(model),
    }
    if not forward or bad or loading["missing_keys"] or loading["mismatched_keys"]:
        return
    started = time.perf_counter()
    named = "encode" if head == "features" and model.fc_norm is None else head
    try:
        outputs = proof_outputs(model.float(), named)
    except (ValueError, TypeError, RuntimeError) as error:
        findings.problem(f"a forward pass fails: {str(error).splitlines()[0]}")
        return
    facts["forward_seconds"] = round(time.perf_counter() - started, 3)
    facts["forward_clip"] = list(proof_inputs(model.config, head)["pixel_values"].shape)
    for name, values in outputs.items():
        if not torch.isfinite(values).all():
            findings.problem(f"{name} of a forward pass are not finite")


def _which_head(keys: list[str], head: str) -> str:
    """What to do about keys that are missing or too many."""
    if any(key.startswith("classifier") for key in keys) and head == "classify":
        return "the head was never trained: `videomae finetune --model FOLDER`"
    if any("decoder" in key for key in keys) and head != "pretrain":
        return "these are pre-training weights: architectures in config.json should be VideoMAEForPreTraining"
    if any(key.endswith("layernorm.weight") and ".layer." not in key for key in keys):
        return "the final norm of the encoder goes with use_mean_pooling=false"
    return "config.json and the weights are not of one model; convert or save them again together"
