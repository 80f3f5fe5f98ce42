"""From whatever there is (a preset, a pre-trained folder, a classifier, a detector) to a detector, and its test on AVA.

train_detection.py is the loop around these; `videomae.metrics.ava_map` is the measure.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader

from videomae.configuration_videomae import DETECTION_FAMILIES, PRESETS, VideoMAEConfig
from videomae.data.ava.annotations import AVA_ACTIONS, ActionList, read_action_list
from videomae.data.ava.dataset import AvaDataset, collate_with_items, movie_batches
from videomae.data.ava.detections import Detections, write_detections
from videomae.data.lists.label_names import are_placeholders
from videomae.metrics.ava_map.average_precision import LEAST_SCORE, ava_map
from videomae.metrics.ava_map.columns import for_metric
from videomae.modeling_videomae_detection import VideoMAEForActionDetection, action_scores
from videomae.models import load_with_report, open_config
from videomae.training import engines
from videomae.training.batches import leave_ctrl_c_to_the_loop
from videomae.training.classifiers import name_classes
from videomae.training.recipes import DetectionRecipe

# What a detector has and its start may not, and the other way round.
NEW_PARTS = ("videomae.layernorm.", "classifier.")
LEFT_PARTS = ("decoder.", "encoder_to_decoder.", "mask_token", "fc_norm.", "videomae.fc_norm.", "classifier.")


def config_fields(recipe: DetectionRecipe) -> dict[str, Any]:
    """The config fields that a recipe decides: its family's, and its own numbers."""
    return {
        "detection_family": recipe.family,
        **DETECTION_FAMILIES[recipe.family],
        "num_labels": recipe.num_labels,
        "num_frames": recipe.num_frames,
        "drop_path_rate": recipe.drop_path_rate,
        "head_dropout_prob": recipe.head_dropout_prob,
        "init_scale": recipe.init_scale,
        "use_mean_pooling": False,
        "pooled_features": False,
        "detection_stride_frames": recipe.stride_frames,
        "detection_short_side": recipe.test_short_side,
        **recipe.config,
    }


def build_detector(
    recipe: DetectionRecipe, actions: ActionList | None, say: Callable[[str], None] = print
) -> VideoMAEForActionDetection:
    """The detector that a recipe trains: fresh, or from the folder that `recipe.model` names.

    A detector keeps its head and its own family; from a pre-trained model or a classifier the encoder is taken
    and the head (from a classifier the final norm too) starts from new weights, as in the published runs.
    """
    fields = config_fields(recipe)
    if recipe.model in PRESETS:
        config = VideoMAEConfig.preset(
            recipe.model, head="detect", version=recipe.version, image_size=recipe.image_size, **fields
        )
        name_actions(config, actions)
        torch.manual_seed(recipe.seed)
        say(f"starting {recipe.model} from fresh weights; published runs start from {recipe.start or 'trained ones'}")
        return VideoMAEForActionDetection(config)

    before = open_config(recipe.model)
    goes_on = "VideoMAEForActionDetection" in (before.architectures or [])
    if goes_on:
        if before.detection_family != recipe.family:
            raise ValueError(
                f"{recipe.model} is a detector of family {before.detection_family!r}, the recipe of {recipe.family!r}; "
                f"choose a recipe of its family, or set --family {before.detection_family}"
            )
        fields = {"drop_path_rate": recipe.drop_path_rate, "head_dropout_prob": recipe.head_dropout_prob} | {
            "num_labels": recipe.num_labels,
            **recipe.config,
        }
    config = VideoMAEConfig.from_pretrained(recipe.model, **fields)
    keeps_head = goes_on and before.num_labels == recipe.num_labels
    if actions is not None or not keeps_head:
        name_actions(config, actions)
    torch.manual_seed(recipe.seed)
    model, info = load_with_report(
        VideoMAEForActionDetection, recipe.model, config=config, dtype=torch.float32, ignore_mismatched_sizes=True
    )
    wrong = [name for name in info["missing_keys"] if not name.startswith(NEW_PARTS)]
    wrong += [name for name in info["unexpected_keys"] if not name.startswith(LEFT_PARTS)]
    wrong += [entry[0] for entry in info["mismatched_keys"] if not entry[0].startswith("classifier.")]
    if wrong:
        raise ValueError(
            f"{recipe.model} does not fit the detector of the recipe: {len(wrong)} tensors are missing, left over or of "
            f"another size, the first is {sorted(wrong)[0]}; check the config fields that were overridden"
        )
    if keeps_head:
        say(f"the head of {recipe.model} keeps its {config.num_labels} actions")
        return model
    fresh_norm = any(name.startswith("videomae.layernorm.") for name in info["missing_keys"])
    say(
        f"{recipe.model} gives the encoder; the head{' and the final norm start' if fresh_norm else ' starts'} from new weights "
        f"with {config.num_labels} actions"
    )
    for parameter in model.classifier.parameters():  # a classifier of as many classes would have filled it
        vars(parameter).pop("_is_hf_initialized", None)
    model._init_weights(model.classifier)
    return model


def name_actions(config: VideoMAEConfig, actions: ActionList | None) -> None:
    """Column k - 1 gets the name of action k; columns without a name keep a placeholder."""
    if actions is None:
        name_classes(config, None)
        return
    if max(actions.names) > config.num_labels:
        raise ValueError(
            f"the action list goes up to number {max(actions.names)}, the model has {config.num_labels} outputs; set "
            f"--num_labels {max(actions.names)}"
        )
    names = [actions.names.get(column + 1, f"LABEL_{column}") for column in range(config.num_labels)]
    config.id2label = dict(enumerate(names))
    config.label2id = {name: column for column, name in enumerate(names)}


# ------------------------------------------------------------------------------------------------------------- test


class _Batches:
    """A batch sampler for the test: batches of one movie each, shared out over processes; `most` is any one's most."""

    def __init__(self, dataset: AvaDataset, size: int, rank: int, world: int):
        batches = list(movie_batches(dataset, size))
        self.batches, self.most = batches[rank::world], math.ceil(len(batches) / world)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


@torch.no_grad()
def detect_all(
    accelerator: Accelerator,
    model: torch.nn.Module,
    dataset: AvaDataset,
    *,
    clips_per_device: int = 1,
    num_workers: int = 0,
    progress: Callable[[int], None] = lambda count: None,
) -> Detections | None:
    """Scores of every action for every person of the test's key frames; None in all processes but the main one.

    Leaves the model in the mode it was in. Scores do not depend on batches, workers or processes.
    """
    order = _Batches(dataset, clips_per_device, accelerator.process_index, accelerator.num_processes)
    loader = DataLoader(
        dataset,
        batch_sampler=order,
        collate_fn=collate_with_items,
        num_workers=num_workers,
        worker_init_fn=leave_ctrl_c_to_the_loop,
    )
    training = model.training
    model.eval()
    frame, box, score = [], [], []
    for batch, items in loader:
        with accelerator.autocast():
            logits = model(
                batch["pixel_values"].to(accelerator.device), batch["boxes"], frame_sizes=batch["frame_sizes"]
            ).logits
        persons = torch.cat([item["person_scores"] for item in items])
        scores = action_scores(logits, persons, dataset.config.detection_family).cpu()
        scores = scores.split([len(item["boxes"]) for item in items])
        for item, its_scores in zip(items, scores):
            frame += [item["index"]] * len(its_scores)
            box.append(item["person_boxes"].numpy())
            score.append(its_scores.numpy())
        progress(len(items))
    for _ in range(order.most - len(order) if engines.is_sharded(accelerator) else 0):
        with accelerator.autocast():
            model(engines.idle_clip(accelerator, model), [torch.zeros(0, 4)])
    model.train(training)
    num_labels = dataset.config.num_labels
    share = [(np.array(frame, dtype=np.int64), _stacked(box, 4), _stacked(score, num_labels))]
    if accelerator.num_processes > 1:
        share = gather_object(share)
        if not accelerator.is_main_process:
            return None
    frame, box, score = (np.concatenate(column) for column in zip(*share))
    order = np.argsort(frame, kind="stable")  # the order of the key frames, however they were shared out
    frame, box, score = frame[order], box[order], score[order]
    return Detections(
        key_frames=dataset.key_frames,
        frame=frame.repeat(num_labels),
        box=box.repeat(num_labels, 0),
        label=np.tile(np.arange(1, num_labels + 1), len(frame)),
        score=score.reshape(-1).astype(np.float64),
    )


def _stacked(rows: Sequence[np.ndarray], width: int) -> np.ndarray:
    return np.concatenate(rows) if rows else np.zeros((0, width), dtype=np.float32)


def score_detections(
    dataset: AvaDataset, detections: Detections, classes: ActionList | None, **options: Any
) -> dict[str, Any]:
    """AVA frame mAP over the data set's key frames. `classes` are those that count (default: all annotated ones).

    `options` go to `ava_map`: `protocol`, for one.
    """
    truth, found, numbers = for_metric(dataset.annotations, detections)
    listed = [numbers.setdefault(key, len(numbers)) for key in (*dataset.key_frames, *dataset.skipped)]
    result = ava_map(
        truth,
        found,
        classes=classes.names if classes else range(1, dataset.config.num_labels + 1),
        categories=classes.categories if classes else None,
        key_frames=listed,
        **options,
    )
    return {"boxes": "annotated" if dataset.proposals is None else "detected", **result}


def write_results(path: str | os.PathLike, detections: Detections, protocol: str) -> Path:
    """A result file as the protocol's release writes it; `videomae ava-map` on it gives the figure of the test."""
    mmaction2 = {"digits": 4, "above": LEAST_SCORE}  # bbox2result and results2csv
    return write_detections(path, detections, **(mmaction2 if protocol == "mmaction2" else {}))


def name_outputs(model: VideoMAEForActionDetection, path: str | None) -> str | None:
    """Give the model's outputs names where it has none; a sentence to say if the names are an assumption."""
    config, note = model.config, None
    if path:
        names = read_action_list(path).names
        if max(names) > config.num_labels:
            raise ValueError(f"{path} goes up to action {max(names)}, but the model has {config.num_labels} outputs")
        named = {column: names.get(column + 1, f"action {column + 1}") for column in range(config.num_labels)}
    elif are_placeholders(config.id2label.values()):
        if config.num_labels != len(AVA_ACTIONS):
            return "the model has no action names; --actions FILE gives them"
        named = dict(enumerate(AVA_ACTIONS))
        note = "the model has no action names and 80 outputs: they are taken for the actions of AVA"
    else:
        return None
    config.id2label, config.label2id = named, {name: column for column, name in named.items()}
    return note
