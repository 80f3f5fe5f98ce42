"""Released VideoMAE weights to a `from_pretrained` folder, and back, with the proof beside them.

    videomae convert checkpoint.pth FOLDER --name videomae-base-finetuned-kinetics --labels kinetics400
    videomae convert FOLDER checkpoint.pth --to original

The layout of a file is recognised by its keys, one table says where each tensor goes, and shapes give the architecture.
What shapes cannot tell (heads, epsilon, pooling, pixel statistics) comes from zoo.yaml or a preset, never from a guess.
Afterwards the written folder is loaded as a user would and compared with conversion/reference.py run on the source.

The steps are in conversion/: weight_files.py opens, layouts.py holds the table, plan.py settles the architecture,
label_files.py reads class names, proof.py compares.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

from videomae.command_line import guarded, read_options
from videomae.conversion.layouts import listed, official_state
from videomae.conversion.options import ABOUT, ConvertOptions
from videomae.conversion.plan import Plan, model_class, plan, preset_of
from videomae.conversion.proof import prove
from videomae.files import new_file, new_folder, sha256_of, write_atomic, write_json
from videomae.modeling_videomae import VideoMAEPreTrainedModel
from videomae.remote_code import add_code

SPARE_BYTES = 200_000_000  # left free on the disk after writing


def build(planned: Plan) -> VideoMAEPreTrainedModel:
    """The model with every parameter filled from the source, in float32, and nothing left over on either side."""
    with torch.device("meta"):
        model = model_class(planned.layout)(planned.config)
    wanted = model.state_dict()
    missing, spare = sorted(wanted.keys() - planned.state.keys()), sorted(planned.state.keys() - wanted.keys())
    misfits = [
        f"{name} {tuple(planned.state[name].shape)} where {tuple(wanted[name].shape)} fits"
        for name in sorted(wanted.keys() & planned.state.keys())
        if planned.state[name].shape != wanted[name].shape
    ]
    for names, what in ((missing, "are missing"), (spare, "have no place"), (misfits, "have the wrong shape")):
        if names:
            raise ValueError(
                f"{planned.source.path} was recognised as {planned.layout.title}, but {len(names)} of its parameters "
                f"{what}: {listed(names)}"
            )
    model.load_state_dict(_float_weights(planned), strict=True, assign=True)
    return model.eval()


def _float_weights(planned: Plan) -> dict[str, Tensor]:
    """The weights in float32, which is what the releases compute in, each looked at once."""
    total = sum(tensor.numel() * tensor.element_size() for tensor in planned.state.values())
    weights, bad = {}, []
    # disable=None hides the bar where nobody sees it, as in a log file.
    with tqdm(total=total, unit="B", unit_scale=True, desc="reading", disable=None, leave=False) as bar:
        for name, tensor in planned.state.items():
            if not tensor.is_floating_point():
                raise ValueError(f"{planned.source.path}: {name} is {tensor.dtype}, not a floating-point weight")
            if not torch.isfinite(tensor).all():
                bad.append(name)
            weights[name] = tensor.float()  # the tensor itself where it is float32 already
            bar.update(tensor.numel() * tensor.element_size())
    if bad:
        raise ValueError(f"{planned.source.path} has weights that are not finite in {listed(bad)}; it is damaged")
    return weights


def convert(
    checkpoint: str | Path,
    *,
    name: str | None = None,
    image_size: int | None = None,
    num_frames: int | None = None,
    num_attention_heads: int | None = None,
    decoder_num_attention_heads: int | None = None,
    labels: str | Path | Sequence[str] | Mapping[int, str] | None = None,
) -> VideoMAEPreTrainedModel:
    """The model of a released checkpoint (a file, a folder or a Hub name), ready for `save_pretrained`.

    `name` is an entry of zoo.yaml or its Hub name. The head counts are needed for sizes that were never released.
    """
    return build(
        plan(
            checkpoint,
            name=name,
            image_size=image_size,
            num_frames=num_frames,
            num_attention_heads=num_attention_heads,
            decoder_num_attention_heads=decoder_num_attention_heads,
            labels=labels,
        )
    )


def convert_to_folder(
    planned: Plan, folder: str | Path, *, verify: bool = True, overwrite: bool = False
) -> dict[str, Any]:
    """Write model, processor, conversion.json and the card, all or nothing; returns the content of conversion.json."""
    folder = Path(folder)
    check_output(folder, overwrite=overwrite)
    weights = sum(tensor.numel() * 4 for tensor in planned.state.values())
    parent = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(parent).free
    if free < weights + SPARE_BYTES:
        raise OSError(f"{parent} has {free / 1e9:.2f} GB free, the model needs {weights / 1e9:.2f} GB and a margin")
    with new_folder(folder, replace=overwrite) as beside:
        model = build(planned)
        model.save_pretrained(beside, max_shard_size="100GB")
        record = describe(planned, model)
        del model
        planned.state.clear()  # the source is opened again for the proof; one mapping of it is enough
        planned.source.tensors.clear()
        save_processors(planned, beside)
        if verify:
            record |= prove(planned, beside)
        write_json(beside / "conversion.json", record)
        save_card(planned, beside, record)
    return record


def check_output(folder: Path, *, overwrite: bool) -> None:
    """Refuse what is in the way before any work is done."""
    if folder.is_file():
        raise FileExistsError(f"{folder} is a file; name a folder for the model")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(f"{folder} exists and is not empty; choose another folder or add --overwrite")
    if not (folder / "config.json").is_file():  # a mistyped path must not replace somebody's files
        raise FileExistsError(f"{folder} is not a model folder (no config.json), so it is not overwritten")


def describe(planned: Plan, model: torch.nn.Module) -> dict[str, Any]:
    """What conversion.json says of the source and of what became of it."""
    config, source = planned.config, planned.source
    record = {
        "source_file": source.file.name,
        "source_bytes": source.file.stat().st_size,
        "source_sha256": sha256_of(source.file),
        "weights_under": source.wrapper,
        "family": planned.entry.release if planned.entry else planned.layout.release,
        "layout": planned.layout.title,
        "name": planned.entry.name if planned.entry else None,
        "architecture": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_attention_heads": config.num_attention_heads,
        "layer_norm_eps": config.layer_norm_eps,
        "norm_eps": config.norm_eps,
        "notes": planned.notes,
        "largest_difference": None,  # prove() fills it in
        "versions": {package: version(package) for package in ("videomae", "torch", "transformers")},
    }
    if planned.layout.head == "pretrain":
        record["decoder_num_attention_heads"] = config.decoder_num_attention_heads
    return record


def processor_settings(planned: Plan) -> dict[str, Any]:
    """How this checkpoint was shown its pixels and frames: fields of a VideoMAEVideoProcessor."""
    config, found, head = planned.config, planned.entry, planned.layout.head
    mean, std = config.pixel_statistics
    views = found.results[0].views if found is not None and found.results else None
    if head == "detect":  # whole frames, which the model pads or trims to patches
        spatial: dict[str, Any] = {"size": {"shortest_edge": config.detection_short_side}, "do_center_crop": False}
        views = (config.num_frames, 1, 1)
    else:
        height, width = config.image_hw
        spatial = {"size": {"shortest_edge": min(height, width)}, "crop_size": {"height": height, "width": width}}
    sampling = dict(found.sampling) if found is not None and found.sampling else {}
    if views is not None:
        sampling |= {"clips": views[1], "crops": views[2]}
    return {
        **spatial,
        # The tests of the releases resize with OpenCV, which does not filter; pre-training and the Hub's extractors do.
        "antialias": head in ("pretrain", "features"),
        "image_mean": mean,
        "image_std": std,
        "sampling": sampling | {"num_frames": config.num_frames},
    }


def save_processors(planned: Plan, folder: Path) -> None:
    """The processor for frames and files, in the files of both names that transformers' pipelines look for."""
    from videomae.image_processing_videomae import SETTINGS, VideoMAEImageProcessor
    from videomae.video_processing_videomae import VideoMAEVideoProcessor

    settings, beside = processor_settings(planned), planned.source.file.parent
    if planned.source.config is not None and (beside / "video_preprocessor_config.json").is_file():
        VideoMAEVideoProcessor.from_pretrained(beside).save_pretrained(folder)
        return
    if planned.source.config is not None and (beside / "preprocessor_config.json").is_file():
        saved = VideoMAEImageProcessor.from_pretrained(beside)  # what a folder says of itself goes before our defaults
        settings |= {name: getattr(saved, name) for name in SETTINGS}
    VideoMAEVideoProcessor(**settings).save_pretrained(folder)


def save_card(planned: Plan, folder: Path, record: Mapping[str, Any]) -> None:
    """The card of a checkpoint that the zoo knows; of others there is nothing to say.

    A model that transformers has no class for brings its code, which that card tells to trust.
    """
    if planned.layout.head in ("detect", "features"):
        add_code(folder)
    if planned.entry is not None:
        from videomae.model_cards.build import zoo_card

        write_atomic(folder / "README.md", zoo_card(planned.entry, conversion=record))


def convert_to_original(folder: str | Path, output: str | Path, *, overwrite: bool = False) -> int:
    """Write an official-layout `.pth` that the V1 and V2 code loads; returns the number of tensors."""
    output = Path(output)
    if output.is_dir():
        raise ValueError(f"{output} is a folder; --to original writes one file, such as {output / 'checkpoint.pth'}")
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists; choose another name or add --overwrite")
    state = official_state(folder)
    with new_file(output) as beside, open(beside, "wb") as file:  # a full disk is then an OSError, not torch's own
        torch.save({"model": state}, file)
    return len(state)


def summary(planned: Plan) -> str:
    config, source = planned.config, planned.source
    under = f"under {source.wrapper!r}" if source.wrapper else "at the top of the file"
    size = preset_of(config.to_dict()) or "no released size"
    lines = [
        f"{source.file}: {planned.layout.title}; {len(source.tensors)} tensors {under}",
        f"{model_class(planned.layout).__name__}, {size}: width {config.hidden_size}, {config.num_hidden_layers} layers, "
        f"{config.num_attention_heads} heads, patch {config.patch_size}, {config.num_frames} frames of {config.image_size}",
    ]
    if planned.entry:
        lines.insert(1, f"released as {planned.entry.name}, licence of the weights {planned.entry.license}")
    return "\n".join(lines + [f"note: {note}" for note in planned.notes])


def main(argv: list[str] | None = None) -> int:
    return run(read_options(ConvertOptions, argv, command="convert", about=ABOUT))


def run(options: ConvertOptions) -> int:
    output = Path(options.output)
    if options.to == "original":
        if options.dry_run:
            print(f"{output}: {len(official_state(options.checkpoint))} tensors under 'model', official names")
            return 0
        count = convert_to_original(options.checkpoint, output, overwrite=options.overwrite)
        print(f"wrote {output}: {count} tensors under 'model', official names")
        return 0
    planned = plan(
        options.checkpoint,
        name=options.name,
        image_size=options.image_size,
        num_frames=options.num_frames,
        num_attention_heads=options.num_attention_heads,
        decoder_num_attention_heads=options.decoder_num_attention_heads,
        labels=options.labels,
        max_gigabytes=options.max_gigabytes,
    )
    check_output(output, overwrite=options.overwrite)
    print(summary(planned))
    if not sys.stderr.isatty():  # transformers' bars would fill a log file
        transformers_logging.disable_progress_bar()
    if options.dry_run:
        build(planned)
        card = ", README.md" if planned.entry else ""
        print(f"would write {output}: config.json, model.safetensors, the processor's files, conversion.json{card}")
        return 0
    record = convert_to_folder(planned, output, verify=not options.no_verify, overwrite=options.overwrite)
    if options.no_verify:
        print("proof: skipped (--no_verify)")
    else:
        difference = record["largest_relative_difference"]
        print(
            f"proof: {', '.join(record['compared'])} agree with the source within {difference:.1e} of the largest value"
        )
    print(f"wrote {output}: {', '.join(sorted(path.name for path in output.iterdir()))}")
    if options.push_to_hub:
        from videomae.publishing.upload import publish

        print(f"published: {publish(output, options.push_to_hub)}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded("videomae convert", main, sys.argv[1:]))
