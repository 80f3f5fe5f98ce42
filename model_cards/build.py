"""Cards of the released checkpoints, made from zoo.yaml: `videomae cards` writes cards/NAME.md, one an entry.

videomae cards            write what changed
videomae cards --check    write nothing; fail if a committed card is not what zoo.yaml says today
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from videomae.configuration_videomae import VideoMAEConfig
from videomae.data.lists.label_sets import LABEL_SETS
from videomae.model_cards.cards import (
    HEADS,
    HERE,
    architecture,
    clip_from_frames,
    metadata,
    render,
)
from videomae.model_cards.facts import DATA_SETS, PAPERS
from videomae.model_cards.licences import is_non_commercial, licence_of_release
from videomae.model_cards.results import Result, notes_of, recorded_results
from videomae.model_cards.zoo import Checkpoint, entry, load_zoo, releases
from videomae.training.recipes import DETECTION, FINETUNING, PRETRAINING, Recipe, find_recipe

CARDS = HERE / "cards"
# A stage of training by the head that it ends with: its title, where its recipe stands, the command that runs it.
STAGES = {
    "pretrain": ("Pre-training", PRETRAINING, "videomae pretrain --recipe {recipe} --data VIDEOS --output RUN"),
    "features": ("Pre-training", PRETRAINING, "videomae pretrain --recipe {recipe} --data VIDEOS --output RUN"),
    "classify": (
        "Fine-tuning",
        FINETUNING,
        "videomae finetune --recipe {recipe} --model {start} --data VIDEOS --output RUN",
    ),
    "detect": (
        "Detection",
        DETECTION,
        "videomae train-detection --recipe {recipe} --model {start} --movies MOVIES --annotations CSV --output RUN",
    ),
}
# Fields of a recipe that a card shows, and how it calls them; a field that a recipe does not use is left out.
RECIPE_ROWS = {
    "epochs": "epochs",
    "warmup_epochs": "warm-up epochs",
    "clips_per_step": "clips per step, all devices",
    "num_samples": "augmented copies of a clip",
    "base_lr": "learning rate, for {lr_batch} clips a step",
    "peak_lr": "learning rate, scaled",
    "min_lr": "final learning rate, for {lr_batch} clips a step",
    "betas": "AdamW betas",
    "weight_decay": "weight decay",
    "layer_decay": "layer-wise decay of the rate",
    "drop_path_rate": "drop path",
    "head_dropout_prob": "dropout before the head",
    "clip_grad_norm": "gradient clipping",
    "mask": "mask",
    "mask_ratio": "share hidden",
    "decoder_mask": "decoder mask",
    "rand_augment": "RandAugment",
    "mixup": "mixup",
    "cutmix": "cutmix",
    "label_smoothing": "label smoothing",
    "erase": "random erasing",
    "max_boxes": "boxes of a clip, at most",
}
PROTOCOL_NOTE = (
    "A protocol reads frames × clips × crops: so many clips are taken from each video and so many crops from each clip, "
    "and the scores of all these views are averaged. One view alone scores lower."
)
DETECTION_NOTE = (
    "The metric is the frame mAP at IoU 0.5 over 60 classes of the AVA 2.2 validation set, one clip and the whole frame "
    "around each key frame, on boxes that a person detector found."
)


def outdated(folder: Path) -> Iterator[tuple[str, str | None]]:
    """Files of `folder` that differ from what zoo.yaml gives: (name, content), None for a card without an entry."""
    wanted = {f"{name}.md": zoo_card(checkpoint) for name, checkpoint in load_zoo().items()}
    for name, content in wanted.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != content:
            yield name, content
    for path in sorted(folder.glob("*.md")):
        if path.name not in wanted:
            yield path.name, None


def zoo_card(
    checkpoint: Checkpoint,
    *,
    name: str | None = None,
    conversion: Mapping[str, Any] | None = None,
    evaluations: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The card of a released checkpoint.

    `name` is what its snippets load: the entry's own name (the folder that the converter makes) unless it is being
    published under another. `conversion` is the content of the folder's conversion.json;
    `evaluations` are what `videomae evaluate` has measured on it.
    """
    config = config_of(checkpoint)
    published, results = results_of(checkpoint), recorded_results(evaluations)
    licence, licence_text = licence_of_release(checkpoint)
    data_sets = [
        key for key in (checkpoint.finetuning, checkpoint.post_pretraining, _pretraining_data(checkpoint)) if key
    ]
    labels = LABEL_SETS[checkpoint.labels] if checkpoint.labels else None
    pretraining = checkpoint.pretraining
    stages = procedure(checkpoint)
    return render(
        "zoo_card.md.jinja",
        card_data=metadata(
            name=name or checkpoint.name,
            head=checkpoint.head,
            license=licence,
            tags=_tags(checkpoint),
            datasets=[DATA_SETS[key].hub_id for key in data_sets],
            base_model=_base_on_hub(checkpoint),
            results=in_metadata(published, results),
        ),
        title=f"{(name or checkpoint.name).rsplit('/', 1)[-1]}: {title_of(checkpoint)}",
        name=name or checkpoint.name,
        entry_name=checkpoint.name,
        head=checkpoint.head,
        config=config,
        num_labels=config.num_labels,
        license=licence,
        licence_text=licence_text,
        non_commercial=is_non_commercial(licence),
        summary=summary_of(checkpoint),
        note=checkpoint.note,
        released=checkpoint.released,
        weights=checkpoint.weights,
        source=checkpoint.source,
        has_recipe=all(stage["recipe"] for stage in stages),
        sixteen_heads=checkpoint.preset == "small" and bool(checkpoint.hub),
        hub=checkpoint.hub,
        hub_loads=checkpoint.release == "videomae",
        file=_file_of(checkpoint),
        labels=(checkpoint.labels if labels and labels.hub_file else "LABELS.txt") if labels else None,
        architecture=architecture(config, head=checkpoint.head, parameters=parameters_of(checkpoint)),
        training_data=list(training_data(checkpoint)),
        preprocessing=list(preprocessing(checkpoint)),
        procedure=stages,
        published=published,
        results=results,
        result_notes=notes_of(evaluations),
        protocol_note=DETECTION_NOTE if checkpoint.head == "detect" else PROTOCOL_NOTE,
        measured=list(measured(conversion)),
        biases=list(dict.fromkeys(DATA_SETS[key].bias for key in data_sets if DATA_SETS[key].bias)),
        papers=[PAPERS[key] for key in _papers(checkpoint)],
        stock_clip=clip_from_frames(_sampling(checkpoint), config.num_frames),
        mask_ratio=pretraining.mask_ratio if pretraining else 0.9,
        dual_mask=bool(pretraining and pretraining.decoder_mask),
    )


# -- what it is --


def title_of(checkpoint: Checkpoint) -> str:
    data = checkpoint.finetuning or _pretraining_data(checkpoint)
    on = f" {'for' if checkpoint.head == 'detect' else 'on'} {DATA_SETS[data].title}" if data else ""
    family = releases()[checkpoint.release]
    version = "VideoMAE V2" if checkpoint.version == 2 else "VideoMAE"
    kind = "distilled" if checkpoint.teacher else HEADS[checkpoint.head].title
    origin = f" ({family.title})" if checkpoint.release == "mmaction2" else ""
    return f"{version} {checkpoint.preset}, {kind}{on}{origin}"


def summary_of(checkpoint: Checkpoint) -> str:
    """What it is in a few sentences: sizes, data, who made it, where it was described."""
    family = releases()[checkpoint.release]
    what = {
        "pretrain": "A video encoder and decoder, trained to rebuild the hidden part of a clip; no labels were used.",
        "classify": f"A video classifier with {checkpoint.num_labels} classes.",
        "features": "A video encoder that turns a clip into one feature vector; no labels were used.",
        "detect": f"An action detector: for each person's box in a clip, {checkpoint.num_labels} action scores.",
    }[checkpoint.head]
    path = []
    if checkpoint.pretraining:
        epochs = f" for {checkpoint.pretraining.epochs} epochs" if checkpoint.pretraining.epochs else ""
        path.append(f"pre-trained on {DATA_SETS[checkpoint.pretraining.data].title}{epochs}")
    if checkpoint.post_pretraining:
        path.append(f"fine-tuned on {DATA_SETS[checkpoint.post_pretraining].title}")
    if checkpoint.teacher:
        path.append(f"distilled from {title_of(entry(checkpoint.teacher))}")
    elif checkpoint.finetuning:
        path.append(f"{'then ' if path else ''}fine-tuned on {DATA_SETS[checkpoint.finetuning].title}")
    how = f"It was {', '.join(path)}. " if path else ""
    return (
        f"{what} {how}The method is described in [arXiv {checkpoint.paper}](https://arxiv.org/abs/{checkpoint.paper}), the "
        f"weights belong to the release [{family.title}]({checkpoint.source}). This card was written from what the paper and the release state, for the folder "
        f"that the `videomae` package makes of the released file."
    )


def config_of(checkpoint: Checkpoint) -> VideoMAEConfig:
    labels = {"num_labels": checkpoint.num_labels} if checkpoint.labels else {}
    family = {"detection_family": "mmaction2"} if _is_mmaction_detector(checkpoint) else {}
    return VideoMAEConfig.preset(
        checkpoint.preset, head=checkpoint.head, version=checkpoint.version, **labels, **family
    )


def parameters_of(checkpoint: Checkpoint) -> int:
    return _count(checkpoint.preset, checkpoint.head, checkpoint.version, checkpoint.num_labels)


@functools.cache
def _count(preset: str, head: str, version: int, num_labels: int) -> int:
    import torch

    import videomae

    labels = {"num_labels": num_labels} if num_labels else {}
    config = VideoMAEConfig.preset(preset, head=head, version=version, **labels)
    with torch.device("meta"):
        model = getattr(videomae, HEADS[head].model_class)(config)
    return sum(parameter.numel() for parameter in model.parameters())


def results_of(checkpoint: Checkpoint) -> list[Result]:
    metrics = {"top1": "top-1 accuracy", "top5": "top-5 accuracy", "map": "frame mAP at IoU 0.5"}
    found = []
    for row in checkpoint.results:
        for field, metric in metrics.items():
            if (value := getattr(row, field)) is not None:
                if field == "map" and checkpoint.head != "detect":
                    metric = "mAP of temporal action detection"
                url = checkpoint.source
                found.append(
                    Result(
                        dataset=row.data, metric=metric, value=value, protocol=row.protocol, measured=False, source=url
                    )
                )
    return found


def in_metadata(published: list[Result], measured: list[Result]) -> list[Result]:
    """What `model-index` lists. It has one source for a data set, so a measurement takes the published figure's place."""
    seen = {result.hub_dataset for result in measured}
    return [*measured, *(result for result in published if result.hub_dataset not in seen)]


# -- what it was made of --


def training_data(checkpoint: Checkpoint) -> Iterator[str]:
    steps = (
        ("Pre-training, without labels", _pretraining_data(checkpoint)),
        ("Supervised training in between", checkpoint.post_pretraining),
        ("Distillation" if checkpoint.teacher else "Fine-tuning", checkpoint.finetuning),
    )
    for step, key in steps:
        if key:
            data = DATA_SETS[key]
            yield f"{step}: [{data.title}]({data.url}), {data.about}."
    if checkpoint.teacher and not checkpoint.pretraining:
        yield "What the student was pre-trained on before the distillation is UnlabeledHybrid and Kinetics-710, by the paper."


def preprocessing(checkpoint: Checkpoint) -> Iterator[str]:
    sampling = _sampling(checkpoint)
    kind = "keyframe" if checkpoint.head == "detect" else sampling["strategy"]
    frames = {
        "dense": "{num_frames} frames, one in {stride_frames}, from one window at a random place",
        "uniform": "{num_frames} frames, one from each of {num_frames} equal parts of the video",
        "keyframe": "{num_frames} frames, one in {stride_frames}, around the key frame",
    }[kind].format(**sampling)
    yield f"A clip is {frames}."
    if checkpoint.head in ("pretrain", "features"):
        yield (
            "Pre-training: a crop at one of four scales and 13 places, resized to 224×224; no mirroring. Pixels are scaled "
            "to 0 … 1 and normalised with ImageNet's mean and deviation."
        )
        if checkpoint.version == 2:
            yield "Each decoded clip gave four crops, and clips of Something-Something V2 took every second frame."
        else:
            yield "Each pixel patch is normalised by its own mean and deviation before the loss."
    elif checkpoint.head == "classify":
        mirror = "no mirroring" if checkpoint.finetuning == "something-something-v2" else "mirroring"
        yield (
            f"Fine-tuning: RandAugment, a random crop resized to 224×224, {mirror}, random erasing, mixup and cutmix. Test: "
            "short side to 224, three crops along the long side. Pixels are scaled to 0 … 1 and normalised with ImageNet's "
            "mean and deviation."
        )
    elif _is_mmaction_detector(checkpoint):
        yield (
            "Training: short side between 256 and 320, a 256×256 crop, mirroring. Test: short side 256, the whole frame, of "
            "which rows and columns that fill no patch are dropped. Pixels are normalised with ImageNet's mean and deviation."
        )
    else:
        yield (
            "Training: short side 256, a 224×224 crop, mirroring, jitter of hue, saturation and value. Test: short side 256, "
            "the whole frame, padded to a multiple of 16. Pixels are normalised with the mean (122.77, 115.95, 102.98) and "
            "deviation 57.375 of the 0 … 255 range, which are not ImageNet's."
        )


def procedure(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """The stages of the training, first to last, each with the recipe that states the release's numbers if one does."""
    stages = []
    stage: Checkpoint | None = checkpoint
    while stage:
        stages.insert(0, _stage(stage))
        stage = entry(stage.base_model) if stage.base_model else None
    return stages


def _stage(checkpoint: Checkpoint) -> dict[str, Any]:
    title, recipes, command = STAGES[checkpoint.head]
    if checkpoint.recipe:
        recipe = find_recipe(checkpoint.recipe, recipes)
        return {
            "title": title,
            "recipe": recipe.name,
            "source": recipe.source,
            "rows": _recipe_rows(recipe),
            "notes": [f"Paper and script differ in {note}." for note in recipe.differs],
            "command": command.format(recipe=recipe.name, start=checkpoint.base_model),
        }
    if checkpoint.release == "mmaction2":
        text = f"No training of its own: the weights of `{checkpoint.base_model}`, ported."
        return {"title": "Port to MMAction2", "recipe": None, "text": text}
    if checkpoint.teacher:
        text = f"From `{checkpoint.teacher}`; neither the settings nor the code were released."
        return {"title": "Distillation", "recipe": None, "text": text}
    return {"title": title, "recipe": None, "text": "The release has no script for this result."}


def _recipe_rows(recipe: Recipe) -> list[tuple[str, str]]:
    rows = []
    for field, label in RECIPE_ROWS.items():
        value = getattr(recipe, field, None)
        if value not in (None, 0, 0.0, ()) and not (field == "num_samples" and value == 1):
            rows.append((label.format(lr_batch=recipe.lr_batch), _number(value)))
    return rows


# -- what is known about it --


def measured(conversion: Mapping[str, Any] | None) -> Iterator[str]:
    """What was measured here: on tiny networks always, on the released file once it has been converted."""
    if conversion is None:
        yield (
            "A tiny network of this family with random weights, made with the authors' code, converts to outputs within 1e-4 "
            "of theirs (a test of the `videomae` package). The released file itself is checked when it is converted: the "
            "command computes a clip a second time by an independent path and writes the largest difference to "
            "`conversion.json`."
        )
    else:
        yield from conversion_facts(conversion)


def conversion_facts(conversion: Mapping[str, Any]) -> Iterator[str]:
    """What the record of a conversion proves, in words."""
    yield f"The weights were converted from `{conversion['source_file']}`, SHA-256 `{conversion['source_sha256']}`."
    if conversion["largest_difference"] is None:
        yield "That conversion was not compared with an independent computation."
    else:
        yield (
            f"On a fixed clip, {' and '.join(conversion['compared'])} differ from an independent computation of the same file "
            f"by at most {conversion['largest_relative_difference']:.1e} of the largest value (`conversion.json`)."
        )


# -- small things --


def _pretraining_data(checkpoint: Checkpoint) -> str | None:
    return checkpoint.pretraining.data if checkpoint.pretraining else None


def _sampling(checkpoint: Checkpoint) -> dict[str, Any]:
    """How a clip is taken; a pre-training has only its stride."""
    if checkpoint.sampling:
        return {"stride_frames": 1, **checkpoint.sampling}
    assert checkpoint.pretraining is not None  # every other model has a sampling policy
    return {"strategy": "dense", "num_frames": 16, "stride_frames": checkpoint.pretraining.stride_frames}


def _is_mmaction_detector(checkpoint: Checkpoint) -> bool:
    return checkpoint.release == "mmaction2" and checkpoint.head == "detect"


def _tags(checkpoint: Checkpoint) -> list[str]:
    tags = ["masked-autoencoder", "action-detection" if checkpoint.head == "detect" else "action-recognition"]
    return [*tags, "videomae-v2"] if checkpoint.version == 2 else tags


def _papers(checkpoint: Checkpoint) -> list[str]:
    papers = [checkpoint.paper]
    return [*papers, "mmaction2"] if checkpoint.release == "mmaction2" else papers


def _base_on_hub(checkpoint: Checkpoint) -> str | None:
    """The Hub name of the weights that this one started from."""
    return entry(checkpoint.base_model).hub if checkpoint.base_model else None


def _file_of(checkpoint: Checkpoint) -> str:
    if checkpoint.release == "videomae_v2_hub" and checkpoint.hub:
        return checkpoint.hub.rsplit("/", 1)[-1]
    return checkpoint.file or "checkpoint.pth"


def _number(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(_number(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
