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
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from videomae.attentive_probe_videomae import AttentiveProbeConfig, VideoMAEForAttentiveProbe
from videomae.data.collators import ClassificationCollator
from videomae.data.lists.groups import divided
from videomae.data.lists.manifests import Manifest
from videomae.data.randaugment import RandAugment
from videomae.data.transforms import RandomErasing, TrainTransform
from videomae.data.video_dataset import VideoDataset
from videomae.evaluation.attentive_heads import AttentiveHeads, HeadsConfig, heads_loss
from videomae.evaluation.frozen_encoder import FrozenEncoder, open_encoder
from videomae.evaluation.frozen_scores import VideoScores, score_videos
from videomae.evaluation.multi_view import Views, manifest_sha256
from videomae.evaluation.probes import vector_probes
from videomae.evaluation.token_cache import TokenCache, VideoCollator, video_tokens
from videomae.files import new_folder
from videomae.sampling_videomae import ClipSampling
from videomae.training import engines
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
    tokens_gib: float = 0.0
    quiet: bool = False


# --------------------------------------------------------------------------------------------------------------- data


def split_training(
    train: Manifest, share: float, groups: Sequence[Hashable] | None, seed: int
) -> tuple[Manifest, Manifest | None]:
    """What the heads learn from, and the held-out videos, on which one of them is chosen; none for a share of 0."""
    if not share:
        return train, None
    try:
        return divided(train, groups, [1 - share, share], 1, seed=seed)
    except ValueError as error:
        raise ValueError(f"{error}; raise --val_share (now {share:g}), or give 0: then no head is saved") from None


def test_views(recipe: ProbeRecipe, encoder: FrozenEncoder) -> Views:
    sampling = ClipSampling(
        num_frames=recipe.num_frames,
        stride_frames=recipe.stride_frames,
        segments=recipe.segments,
        clips=1,
        crops=recipe.test_crops,
    )
    return Views(sampling=sampling, size=encoder.size, mean=tuple(encoder.mean), std=tuple(encoder.std))


vars(test_views)["__test__"] = False  # a name that pytest would otherwise collect where it is imported


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


@dataclass(frozen=True)
class Trained:
    """Heads after their training, and what they were trained with."""

    session: Session[ProbeRecipe, FrozenOptions]
    encoder: FrozenEncoder
    views: Views
    heads: AttentiveHeads
    loop: Loop


WriteCard = Callable[[Path, Trained, dict[str, Any], Manifest], Any]  # (folder, ..., the chosen head's row, test list)


def run_protocol(
    start: str,
    train: Manifest,
    test: Manifest,
    recipe: ProbeRecipe,
    options: FrozenOptions,
    *,
    like: str | None = None,
    val_share: float = 0.1,
    groups: Sequence[Hashable] | None = None,
    probes: tuple[str, ...] = ("attentive",),
    write_card: WriteCard | None = None,
    **vectors: Any,
) -> tuple[dict[str, Any] | None, int]:
    """Train the heads, score them, save one: (the report on the main process, the exit code).

    val_share: of the training videos of each class, held out to choose a head, with `groups` in one piece. probes: "knn"
    and "linear" beside "attentive"; `vectors` are the options of `vector_probes`.
    """
    train.check_labels()
    num_classes = train.num_labels
    assert num_classes is not None  # there are labels
    test.check_labels(num_labels=num_classes, classes=False)
    encoder = open_encoder(start, like=like, num_frames=recipe.num_frames, levels=recipe.levels, seed=recipe.seed)
    fixed = options.tokens_gib > 0
    session = Session(dataclasses.replace(recipe, model=start, image_size=encoder.size, fixed_views=fixed), options)
    if engines.is_sharded(session.accelerator):
        raise ValueError("the heads of a probe are not sharded; start it without FSDP")
    learn, held = split_training(train, val_share, groups, recipe.seed)
    with explained_broken_videos():
        trained = train_heads(session, encoder.to(session.device), learn, num_classes)
        if not trained.loop.ended:
            return None, session.end(trained.loop.exit_code)
        of_vectors = set(probes) - {"attentive"} or vectors.get("shots")
        lists = {"test": test, "held-out": held, "train": learn if of_vectors else None}
        scores = score_lists(trained, {name: each for name, each in lists.items() if each is not None})
    if not session.accelerator.is_main_process:
        return None, session.end()
    sizes = {"train_videos": len(learn), "held_out_videos": len(held) if held else 0}
    result = probes_of(scores, trained.heads, probes, num_classes, seed=recipe.seed, **vectors)
    report = report_of(trained, scores, val_share) | sizes | {"probes": result}
    chosen = result["attentive"].get("chosen")
    if chosen and encoder.is_videomae:
        folder = trained.loop.run.folder / SAVED
        with new_folder(folder, replace=True) as beside:
            save_probe(beside, trained, chosen["head"], train.class_names)
            if write_card:
                write_card(beside, trained, chosen, test)
        report["saved"] = str(folder)
    return report, session.end()


def train_heads(
    session: Session[ProbeRecipe, FrozenOptions], encoder: FrozenEncoder, learn: Manifest, num_classes: int
) -> Trained:
    """The loop of all heads, run to its end or to an interruption."""
    recipe, options, views = session.recipe, session.options, test_views(session.recipe, encoder)
    torch.manual_seed(recipe.seed)
    heads = AttentiveHeads(
        HeadsConfig(
            width=encoder.width,
            num_classes=num_classes,
            probe_blocks=recipe.probe_blocks,
            probe_heads=recipe.probe_heads,
            learning_rates=recipe.learning_rates,
            weight_decays=recipe.weight_decays,
            encoder_sha256=encoder.sha256,  # a checkpoint of heads of another encoder is refused by it
        )
    )
    dataset: Any = training_set(learn, recipe, views, options)
    cache = None
    if options.tokens_gib > 0:
        folder, processes = Path(options.output, "tokens"), session.accelerator.num_processes
        dataset = cache = TokenCache(dataset, folder, limit_bytes=options.tokens_gib * 2**30, share=processes)

    def loss(model: torch.nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
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
    return Trained(session, encoder, views, heads.eval(), loop)


def score_lists(trained: Trained, lists: dict[str, Manifest]) -> dict[str, VideoScores]:
    """Scores of each list, on the main process; of "train" the mean tokens of the centre crop alone."""
    session, views, scores = trained.session, trained.views, {}
    centre = dataclasses.replace(views, sampling=dataclasses.replace(views.sampling, crops=1))
    for name, manifest in lists.items():
        found = score_videos(
            session.accelerator,
            trained.encoder,
            None if name == "train" else trained.heads,
            manifest,
            centre if name == "train" else views,
            trained.loop.run.folder / f"scores-{name}-{manifest_sha256(manifest)[:12]}-{trained.loop.done}",
            num_workers=session.workers,
            errors=session.options.errors,
            quiet=session.options.quiet,
            what=name,
        )
        if found is not None:
            scores[name] = found
    for name, found in scores.items():
        check_broken(found, len(lists[name]), session.options.max_broken)
    return scores


def check_broken(scores: VideoScores, videos: int, max_broken: float) -> None:
    if len(scores.broken) > max_broken * videos:
        first = scores.broken[0]
        raise ValueError(
            f"{len(scores.broken)} of {videos} videos could not be read, the first is {first['path']} ({first['error']}); "
            f"repair them, or accept a larger share with --max_broken (now {max_broken:g})"
        )


# ------------------------------------------------------------------------------------------------------------- report


def report_of(trained: Trained, scores: dict[str, VideoScores], val_share: float) -> dict[str, Any]:
    """What a reader must know of the figures."""
    recipe = trained.session.recipe
    return {
        "protocol": PROTOCOL,
        "recipe": recipe.name,
        "views": trained.views.protocol,
        "image_size": trained.encoder.size,
        "epochs": recipe.epochs,
        "steps": trained.loop.done,
        "notes": [*trained.encoder.notes, *notes_of(recipe, val_share)],
        "test_videos": len(scores["test"].labels),
        "broken": [video for each in scores.values() for video in each.broken],
    }


def notes_of(recipe: ProbeRecipe, val_share: float) -> list[str]:
    """What is not as in the protocol, in sentences."""
    notes = []
    if val_share:
        notes.append(f"{100 * val_share:g} % of the training videos were held out to choose the saved head")
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
    if "train" in scores:
        learnt = [scores[name] for name in ("train", "held-out") if name in scores]
        train = torch.cat([torch.from_numpy(each.vectors) for each in learnt])
        labels = torch.cat([torch.from_numpy(each.labels) for each in learnt])
        test = torch.from_numpy(scores["test"].vectors), torch.from_numpy(scores["test"].labels)
        result |= vector_probes(train, labels, *test, num_classes, probes, **vectors)
    return result


def heads_report(scores: dict[str, VideoScores], heads: AttentiveHeads, num_classes: int) -> dict[str, Any]:
    """Each head's accuracies, the best on the test list, and the one chosen on the held-out videos."""
    rows = []
    for number, (lr, decay) in enumerate(heads.config.rates):
        row = {"head": number, "lr": lr, "weight_decay": decay, **scores["test"].accuracy(number, num_classes)}
        if "held-out" in scores:
            row["held_out_top1"] = scores["held-out"].accuracy(number, num_classes)["top1"]
        rows.append(row)
    report = {"best_on_test": max(rows, key=lambda row: row["top1"]), "heads": rows}
    if "held-out" in scores:
        report["chosen"] = max(rows, key=lambda row: row["held_out_top1"])
    return report


# --------------------------------------------------------------------------------------------------------------- save


def save_probe(folder: Path, trained: Trained, number: int, class_names: tuple[str, ...] | None) -> None:
    """The encoder with head `number` as a model folder: weights, and the processor with the segments."""
    views = trained.views
    probe_model(trained.encoder, trained.heads, number, class_names).save_pretrained(folder)
    processor = VideoMAEVideoProcessor(
        size={"shortest_edge": views.size},
        crop_size={"height": views.size, "width": views.size},
        image_mean=list(views.mean),
        image_std=list(views.std),
        sampling=views.sampling,
    )
    processor.save_pretrained(folder)


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
    """The table for a terminal: one line a probe, one column a model, then notes on the figures."""
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
