"""The frozen protocol of V-JEPA 2: `videomae probe MODEL TRAIN TEST --protocol vjepa2`.

A grid of attentive heads learns from the tokens of a frozen encoder, all at once, from files; then every head is scored
on the test list and on a held-out part of the training list. The protocol's figure is the best head on the test list; the
head that is saved is the best on the held-out part. docs/frozen.md explains, and says where this differs from the public
code.

    RUN/recipe.yaml, run.json, log.jsonl, checkpoint-N/, final/    as of any training; final/ has all heads
    RUN/scores-…/     rows of the videos that are scored
    RUN/tokens/       the token cache, where one is asked for
    RUN/probe/        the chosen head on its encoder, a model folder
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from videomae.attentive_probe_videomae import AttentiveProbeConfig, VideoMAEForAttentiveProbe
from videomae.data.collators import ClassificationCollator
from videomae.data.lists.manifests import Manifest
from videomae.data.randaugment import RandAugment
from videomae.data.transforms import RandomErasing, TrainTransform
from videomae.data.video_dataset import VideoDataset
from videomae.evaluation.attentive_heads import AttentiveHeads, HeadsConfig, heads_loss
from videomae.evaluation.frozen_encoder import FrozenEncoder, open_encoder
from videomae.evaluation.frozen_scores import VideoScores, score_videos
from videomae.evaluation.multi_view import Views, manifest_sha256
from videomae.evaluation.probes import held_out_share, vector_probes
from videomae.evaluation.token_cache import TokenCache, VideoCollator, video_tokens
from videomae.files import new_folder
from videomae.sampling_videomae import ClipSampling
from videomae.training.loop import Loop, Parts
from videomae.training.options import RunOptions
from videomae.training.probe_recipes import ProbeRecipe
from videomae.training.session import Session, explained_broken_videos
from videomae.video_processing_videomae import VideoMAEVideoProcessor

PROTOCOL = "vjepa2"
SAVED = "probe"


@dataclass(frozen=True, kw_only=True)
class FrozenOptions(RunOptions):
    """Where a probe runs, and what is asked of it beside the heads."""

    errors: str = "strict"
    cache_gib: float = 0.0
    quiet: bool = False


# --------------------------------------------------------------------------------------------------------------- data


def split_training(train: Manifest, every: int, seed: int) -> tuple[Manifest, Manifest | None]:
    """What the heads learn from, and every `every`-th video of each class, on which one of them is chosen (0: none)."""
    if not every:
        return train, None
    held = held_out_share(train.labels, every=every, seed=seed)
    if not held.any():
        raise ValueError(
            f"no class of {train.origin} has {every} videos, so none can be held out; lower --hold_out, or give 0 to "
            "choose and save no head"
        )
    return tuple(train.subset(part.nonzero().flatten().tolist()) for part in (~held, held))


def test_views(recipe: ProbeRecipe, encoder: FrozenEncoder) -> Views:
    sampling = ClipSampling(
        num_frames=recipe.num_frames,
        stride_frames=recipe.stride_frames,
        segments=recipe.segments,
        clips=1,
        crops=recipe.test_crops,
    )
    return Views(sampling=sampling, size=encoder.size, mean=tuple(encoder.mean), std=tuple(encoder.std))


test_views.__test__ = False  # a name that pytest would otherwise collect where it is imported


def training_set(manifest: Manifest, recipe: ProbeRecipe, views: Views, options: FrozenOptions) -> VideoDataset:
    """Augmented segments, each by itself."""
    transform = TrainTransform(
        size=views.size,
        auto_augment=RandAugment.parse(recipe.rand_augment) if recipe.rand_augment else None,
        area=recipe.crop_area,
        aspect=recipe.crop_aspect,
        flip=recipe.flip,
        erasing=RandomErasing(recipe.erase) if recipe.erase else None,
        mean=views.mean,
        std=views.std,
    )
    return VideoDataset(
        manifest,
        mode="train",
        sampling=views.sampling,
        transform=transform,
        as_bytes=True,
        seed=recipe.seed,
        max_broken=options.max_broken,
        errors=options.errors,
    )


# ---------------------------------------------------------------------------------------------------------------- run


def run_protocol(
    start: str,
    train: Manifest,
    test: Manifest,
    recipe: ProbeRecipe,
    options: FrozenOptions,
    *,
    like: str | None = None,
    hold_out: int = 10,
    probes: tuple[str, ...] = ("attentive",),
    write_card: Callable[..., Any] | None = None,
    **vectors: Any,
) -> tuple[dict[str, Any] | None, int]:
    """Train the heads, score them, save one: (the report on the main process, the exit code).

    hold_out: every so many-th training video of a class is held out to choose a head. probes: "knn", "linear" and "few_shot"
    beside "attentive"; `vectors` are their options (evaluation/probes.py). write_card(folder, ...): the saved head's card.
    """
    train.check_labels()
    test.check_labels(num_labels=train.num_labels, classes=False)
    encoder = open_encoder(start, like=like, num_frames=recipe.num_frames, levels=recipe.levels, seed=recipe.seed)
    fixed = options.cache_gib > 0
    recipe = dataclasses.replace(recipe, model=start, image_size=encoder.size, fixed_views=fixed)
    session = Session(recipe, options)
    encoder.to(session.device)
    views = test_views(recipe, encoder)
    learn, held = split_training(train, hold_out, recipe.seed)
    with explained_broken_videos():
        loop, heads = train_heads(session, encoder, learn, train.num_labels, views)
        if not loop.ended:
            return None, session.end(loop.exit_code)
        lists = {"test": test, "held-out": held} | ({"train": learn} if set(probes) - {"attentive"} else {})
        scores = score_lists(session, encoder, heads, {name: each for name, each in lists.items() if each}, views, loop)
    if not session.accelerator.is_main_process:
        return None, session.end()
    report = {
        "protocol": PROTOCOL,
        "recipe": recipe.name,
        "views": views.protocol,
        "image_size": encoder.size,
        "epochs": recipe.epochs,
        "steps": loop.done,
        "notes": [*encoder.notes, *notes_of(recipe, hold_out)],
        "train_videos": len(learn),
        "held_out_videos": len(held) if held else 0,
        "test_videos": len(scores["test"].labels),
        "broken": [video for each in scores.values() for video in each.broken],
        "probes": probes_of(scores, heads, probes, train.num_labels, seed=recipe.seed, **vectors),
    }
    chosen = report["probes"]["attentive"].get("chosen")
    if chosen and encoder.is_videomae:
        folder = loop.run.folder / SAVED
        save_probe(folder, encoder, heads, chosen["head"], recipe, views, train, write_card, loop, chosen, test)
        report["saved"] = str(folder)
    return report, session.end()


def train_heads(
    session: Session, encoder: FrozenEncoder, learn: Manifest, num_classes: int, views: Views
) -> tuple[Loop, AttentiveHeads]:
    """The loop of all heads, run to its end or to an interruption."""
    recipe, options = session.recipe, session.options
    torch.manual_seed(recipe.seed)
    heads = AttentiveHeads(
        HeadsConfig(
            width=encoder.width,
            num_classes=num_classes,
            probe_blocks=recipe.probe_blocks,
            probe_heads=recipe.probe_heads,
            learning_rates=recipe.learning_rates,
            weight_decays=recipe.weight_decays,
            encoder_sha256=encoder.sha256,
        )
    )
    dataset, cache = training_set(learn, recipe, views, options), None
    if options.cache_gib > 0:
        folder, processes = Path(options.output, "tokens"), session.accelerator.num_processes
        dataset = cache = TokenCache(dataset, folder, limit_bytes=options.cache_gib * 2**30, share=processes)

    def loss(model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        with torch.no_grad(), session.accelerator.autocast():
            tokens = video_tokens(encoder.tokens, batch, cache)
        return heads_loss(model(tokens), batch["labels"])

    parts = Parts(
        model=heads,
        dataset=dataset,
        collate=VideoCollator(ClassificationCollator(mean=views.mean, std=views.std, as_bytes=True)),
        facts={"clips": len(learn), "manifest_sha256": learn.sha256(labels=True), "classes": num_classes},
        summary={
            "heads": f"{len(heads.heads)} (the loss is their sum)",
            "views": f"{views.protocol} of {encoder.size} pixels",
            "videos": f"{len(learn)} to learn from",
        },
        write_files=lambda folder, steps: None,
        loss=loss,
    )
    with Loop(session, session.plan(len(learn)), parts) as loop:
        for _ in loop:
            pass
    return loop, heads.eval()


def score_lists(
    session: Session,
    encoder: FrozenEncoder,
    heads: AttentiveHeads,
    lists: dict[str, Manifest],
    views: Views,
    loop: Loop,
) -> dict[str, VideoScores]:
    """Scores of each list; of "train" the mean tokens of the centre crop alone."""
    scores = {}
    for name, manifest in lists.items():
        one = dataclasses.replace(views, sampling=dataclasses.replace(views.sampling, crops=1))
        identity = hashlib.sha256(manifest_sha256(manifest).encode()).hexdigest()[:12]
        found = score_videos(
            session.accelerator,
            encoder,
            None if name == "train" else heads,
            manifest,
            one if name == "train" else views,
            loop.run.folder / f"scores-{name}-{identity}-{loop.done}",
            num_workers=session.workers,
            errors=session.options.errors,
            quiet=session.options.quiet,
            what=name,
        )
        if found is not None:
            check_broken(found, len(manifest), session.options.max_broken)
            scores[name] = found
    return scores


def check_broken(scores: VideoScores, videos: int, max_broken: float) -> None:
    if len(scores.broken) > max_broken * videos:
        first = scores.broken[0]
        raise ValueError(
            f"{len(scores.broken)} of {videos} videos could not be read, the first is {first['path']} ({first['error']}); "
            f"repair them, or accept a larger share with --max_broken (now {max_broken:g})"
        )


# ------------------------------------------------------------------------------------------------------------- report


def notes_of(recipe: ProbeRecipe, hold_out: int) -> list[str]:
    """What is not as in the protocol, in sentences."""
    notes = []
    if hold_out:
        notes.append(f"1 of {hold_out} training videos of a class was held out to choose the saved head")
    if recipe.fixed_views:
        notes.append("training views were the same in every epoch (token cache)")
    return notes


def probes_of(
    scores: dict[str, VideoScores],
    heads: AttentiveHeads,
    probes: tuple[str, ...],
    num_classes: int,
    **vectors: Any,
) -> dict[str, Any]:
    """Every probe's accuracy on the test list."""
    result: dict[str, Any] = {"attentive": heads_report(scores, heads, num_classes)}
    if others := tuple(name for name in probes if name != "attentive"):
        learnt = [scores[name] for name in ("train", "held-out") if name in scores]
        train = torch.cat([torch.from_numpy(each.vectors) for each in learnt])
        labels = torch.cat([torch.from_numpy(each.labels) for each in learnt])
        test = torch.from_numpy(scores["test"].vectors), torch.from_numpy(scores["test"].labels)
        result |= vector_probes(train, labels, *test, num_classes, others, **vectors)
    return result


def heads_report(scores: dict[str, VideoScores], heads: AttentiveHeads, num_classes: int) -> dict[str, Any]:
    """Each head's accuracies, the best on the test list, and the one chosen on the held-out videos."""
    rows = []
    for number, (lr, decay) in enumerate(heads.config.rates):
        row = {"head": number, "lr": lr, "weight_decay": decay, **scores["test"].accuracy(number)}
        if num_classes <= 5:
            row.pop("top5")
        if "held-out" in scores:
            row["held_out_top1"] = scores["held-out"].accuracy(number)["top1"]
        rows.append(row)
    report = {"best_on_test": max(rows, key=lambda row: row["top1"]), "heads": rows}
    if "held-out" in scores:
        report["chosen"] = max(rows, key=lambda row: row["held_out_top1"])
    return report


# --------------------------------------------------------------------------------------------------------------- save


def save_probe(
    folder: Path,
    encoder: FrozenEncoder,
    heads: AttentiveHeads,
    number: int,
    recipe: ProbeRecipe,
    views: Views,
    train: Manifest,
    write_card: Callable[..., Any] | None,
    loop: Loop,
    chosen: dict[str, Any],
    test: Manifest,
) -> None:
    """The encoder with head `number` as a model folder: weights, processor, card."""
    model = probe_model(encoder, heads, number, train.class_names)
    processor = VideoMAEVideoProcessor(
        size={"shortest_edge": views.size},
        crop_size={"height": views.size, "width": views.size},
        image_mean=list(views.mean),
        image_std=list(views.std),
        sampling=views.sampling,
    )
    with new_folder(folder, replace=True) as beside:
        model.save_pretrained(beside)
        processor.save_pretrained(beside)
        if write_card:
            write_card(beside, recipe=recipe, loop=loop, chosen=chosen, test=test, views=views)


def probe_model(
    encoder: FrozenEncoder, heads: AttentiveHeads, number: int, class_names: tuple[str, ...] | None
) -> VideoMAEForAttentiveProbe:
    fields = {
        **encoder.model.config.to_dict(),
        "num_labels": heads.config.num_classes,
        "probe_blocks": heads.config.probe_blocks,
        "probe_heads": heads.config.probe_heads,
        "probe_levels": list(encoder.blocks),
        "pooled_features": False,
        "problem_type": "single_label_classification",
    }
    for name in ("architectures", "id2label", "label2id", "auto_map"):
        fields.pop(name, None)
    config = AttentiveProbeConfig.from_dict(fields)
    if class_names:
        config.id2label = dict(enumerate(class_names))
        config.label2id = {name: index for index, name in enumerate(class_names)}
    model = VideoMAEForAttentiveProbe(config).eval()
    model.head.load_state_dict(heads.heads[number].state_dict())
    own = {name: value for name, value in encoder.model.state_dict().items() if not name.startswith("fc_norm.")}
    model.videomae.load_state_dict(own)
    return model


# ------------------------------------------------------------------------------------------------------------- the table

NAMES = {"best_on_test": "attentive, best head on test", "chosen": "attentive, chosen head"}


def report_lines(reports: dict[str, dict[str, Any]], num_classes: int) -> Iterator[str]:
    """The table for a terminal: one line a probe, one column a model, then what must be said of the figures."""
    first = next(iter(reports.values()))
    yield (
        f"frozen, V-JEPA 2's protocol ({first['recipe']}): {first['views']} views, {first['epochs']} epochs; "
        f"{first['train_videos']} videos to learn from, {first['held_out_videos']} held out, {first['test_videos']} to test on, "
        f"{num_classes} classes; top-1 in percent"
    )
    columns = {name: columns_of(report["probes"]) for name, report in reports.items()}
    width = max(8, *(len(Path(name).name) for name in reports))
    yield f"{'':<30}" + "".join(f"  {Path(name).name:>{width}}" for name in reports)
    for row, shown in next(iter(columns.values())).items():
        values = "".join(f"  {100 * column[row]['top1']:{width}.2f}" for column in columns.values())
        if "deviation" in shown:
            values += f"  ± {100 * shown['deviation']:.2f} over {shown['draws']} draws"
        elif "lr" in shown:
            values += f"  lr {shown['lr']:g}, weight decay {shown['weight_decay']:g}"
        yield f"{row:<30}{values}"
    yield "The protocol's figure is the first line: its head is chosen on the test list."
    if first["held_out_videos"]:
        yield "The head of the second line is chosen on held-out training videos; it is the one that is saved."
    for name, report in reports.items():
        for note in report["notes"]:
            yield f"note, {Path(name).name}: {note}"
        for entry in report["broken"]:
            yield f"not read: {entry['path']}: {entry['error']}"
        if "saved" in report:
            yield f"saved: {report['saved']}"


def columns_of(probes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The lines of one model's column, the attentive ones first."""
    heads = {NAMES[kind]: probes["attentive"][kind] for kind in NAMES if kind in probes["attentive"]}
    return heads | {kind: shown for kind, shown in probes.items() if kind != "attentive"}
