"""From whatever there is (a preset, a pre-trained folder, another classifier) to a classifier ready to be fine-tuned.

Each change is printed as one sentence: a final norm dropped, a head reinitialised or carried over. Nothing
else may be missing or left over when weights are loaded.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from videomae.configuration_videomae import PRESETS, VideoMAEConfig
from videomae.data.lists.label_names import class_columns, names_of, normalised, side_by_side
from videomae.modeling_videomae import VideoMAEForVideoClassification
from videomae.models import load_with_report, open_config
from videomae.training.kinetics_maps import LABEL_MAPS

HEADS = ("auto", "labels", "fresh")


def build_classifier(
    start: str,
    *,
    num_labels: int,
    class_names: Sequence[str] | None = None,
    problem_type: str = "single_label_classification",
    init_head_from: str = "auto",
    version: int = 1,
    config_fields: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> VideoMAEForVideoClassification:
    """A classifier of `num_labels` classes that starts from `start`: a preset's name (fresh weights), or a model folder.

    From a pre-trained model the encoder's final norm is dropped and the head reads the mean of all tokens through a new
    `fc_norm`, as the official fine-tuning does. From a classifier `fc_norm` is kept, and the head is kept where it stands
    if its classes are the data's ("auto"), is put together row by row by class name ("labels") or by a label map (the path
    of a JSON list, the start's class for each class of the data, or one of the release's in kinetics_maps.py), or starts
    from new weights ("fresh").
    """
    if init_head_from not in HEADS and not init_head_from.endswith(".json"):
        raise ValueError(
            f"init_head_from must be {', '.join(HEADS)} or a label map (.json of class numbers), not {init_head_from!r}"
        )
    fields = {
        "num_labels": num_labels,
        "problem_type": problem_type,
        "use_mean_pooling": True,
        "pooled_features": False,
        "temperature": 1.0,  # of the start's scores, which the training changes
        "calibrated_on": None,
        **(config_fields or {}),
    }
    if start in PRESETS:
        config = VideoMAEConfig.preset(start, head="classify", version=version, **fields)
        name_classes(config, class_names)
        say(f"starting {start} from fresh weights")
        return VideoMAEForVideoClassification(config)

    before = open_config(start)
    model_names, known = names_of(before.id2label), (before.architectures or [""])[0]
    classifier = known.endswith("ForVideoClassification")
    config = VideoMAEConfig.from_pretrained(start, **fields)
    name_classes(config, class_names)
    model, info = load_with_report(
        VideoMAEForVideoClassification, start, config=config, dtype=torch.float32, ignore_mismatched_sizes=True
    )
    check_loaded(start, info, classifier=classifier)
    if not classifier:
        if init_head_from.endswith(".json"):
            raise ValueError(
                f"init_head_from {init_head_from} takes over the head of a classifier, and {start} is "
                f"{known or 'an encoder'}; start from the classifier that the map was made for, or choose "
                "--init_head_from auto, which makes a new head"
            )
        say(
            f"{start} is {known or 'an encoder'}: its final norm is dropped, and the new head reads the mean of all "
            "tokens through a new fc_norm"
        )
        assert model.fc_norm is not None  # use_mean_pooling is True
        reinitialise(model, model.fc_norm, model.classifier)
        return model
    if not before.use_mean_pooling:
        say(f"{start} classified its first token; the new head reads the mean of all tokens")
    carry_head(
        model, start, before=before, class_names=class_names, model_names=model_names, rule=init_head_from, say=say
    )
    return model


def check_loaded(start: str, info: Mapping[str, Any], *, classifier: bool) -> None:
    """Only the head and the norms at the encoder's end may differ between a start and the classifier made of it."""
    new = ("fc_norm.", "classifier.")
    left = ("videomae.layernorm.", "layernorm.", "videomae.fc_norm.", "fc_norm.", "classifier.")
    left += ("decoder.", "encoder_to_decoder.", "mask_token", "head.")
    missing = [name for name in info["missing_keys"] if not name.startswith(new)]
    unexpected = [name for name in info["unexpected_keys"] if not name.startswith(left)]
    mismatched = [entry[0] for entry in info["mismatched_keys"] if not entry[0].startswith("classifier.")]
    for what, names in (("lacks", missing), ("has no place for", unexpected), ("has other sizes of", mismatched)):
        if names:
            raise ValueError(
                f"{start} does not fit the model to be fine-tuned: it {what} {len(names)} tensors, the first is "
                f"{sorted(names)[0]}; check the config fields that were overridden, or convert the checkpoint again"
            )


def carry_head(
    model: VideoMAEForVideoClassification,
    start: str,
    *,
    before: VideoMAEConfig,
    class_names: Sequence[str] | None,
    model_names: Sequence[str] | None,
    rule: str,
    say: Callable[[str], None],
) -> None:
    """Decide what becomes of the head of a classifier that is fine-tuned further.

    As in the released fine-tuning only `classifier` may start from new weights; `fc_norm` is kept.
    """
    size = model.config.num_labels
    if rule == "fresh":
        say(f"the head starts from new weights with {size} classes")
        reinitialise(model, model.classifier)
    elif rule != "auto":
        if rule == "labels":
            columns = class_columns(class_names, model_names, before.num_labels, "by_name") or list(range(size))
        else:
            columns = label_map(rule)
            if len(columns) != size or not all(0 <= column < before.num_labels for column in columns):
                raise ValueError(
                    f"{rule} must list, for each of the {size} classes of the data, one of the {before.num_labels} of {start}; "
                    f"it lists {len(columns)} classes from {min(columns)} to {max(columns)}"
                )
            taken = [model_names[column] for column in columns] if model_names else None
            if class_names and taken and list(map(normalised, class_names)) != list(map(normalised, taken)):
                raise ValueError(
                    f"{rule} puts the classes of {start} in another order than the data has, or under other names; bring "
                    f"the data's class names to its order, or choose --init_head_from labels\n{side_by_side(class_names, taken)}"
                )
        weight, bias = read_head(start, before)
        head = linear_head(model)
        with torch.no_grad():
            head.weight.copy_(weight[columns])
            head.bias.copy_(bias[columns])
        say(f"the head takes over {size} of the {before.num_labels} classes of {start}")
    elif size != before.num_labels:
        release = f"label_{before.num_labels}to{size}.json"
        if release in LABEL_MAPS:
            raise ValueError(
                f"{start} has {before.num_labels} classes and the data {size}: a new head would lose what it knows, where the "
                f"release cuts the old one; choose --init_head_from {release} (the release's list), labels (rows by class "
                "name), or fresh if the data is not Kinetics"
            )
        say(
            f"{start} has {before.num_labels} classes and the data {size}: the head starts from new weights (--init_head_from labels"
        )
        say("  would carry over the rows of equal names)")
        reinitialise(model, model.classifier)
    elif class_names and model_names and list(map(normalised, class_names)) != list(map(normalised, model_names)):
        raise ValueError(
            f"{start} has as many classes as the data, under other names or in another order; choose --init_head_from "
            f"labels (rows by name) or fresh\n{side_by_side(class_names, model_names)}"
        )
    else:
        say(f"the head of {start} keeps its {size} classes")


def read_head(start: str, config: VideoMAEConfig) -> tuple[torch.Tensor, torch.Tensor]:
    head = linear_head(VideoMAEForVideoClassification.from_pretrained(start, config=config, dtype=torch.float32))
    return head.weight.detach().clone(), head.bias.detach().clone()


def linear_head(model: VideoMAEForVideoClassification) -> nn.Linear:
    """The head of a classifier that has classes; of one without any it is no layer at all."""
    assert isinstance(model.classifier, nn.Linear)
    return model.classifier


def label_map(rule: str) -> list[int]:
    """The start's class for each class of the data: from a file, or by the name of one of the release's."""
    if Path(rule).is_file():
        columns = json.loads(Path(rule).read_text("utf-8"))
        if not isinstance(columns, list) or not columns or not all(type(column) is int for column in columns):
            raise ValueError(f"{rule} is not a label map; it must be a JSON list of class numbers")
        return columns
    if rule in LABEL_MAPS:
        return list(LABEL_MAPS[rule])
    raise ValueError(f"there is not a label map {rule}; give the path of one, or a name of {', '.join(LABEL_MAPS)}")


def reinitialise(model: VideoMAEForVideoClassification, *modules: nn.Module) -> None:
    """New weights for some modules, as for fresh models."""
    for module in modules:
        # from_pretrained marks what it filled, and transformers' guarded initialisers leave that alone
        for parameter in module.parameters():
            vars(parameter).pop("_is_hf_initialized", None)
        model._init_weights(module)


def name_classes(config: VideoMAEConfig, class_names: Sequence[str] | None) -> None:
    """Write the data's class names into the config, or placeholders, so that no other data's names stay behind."""
    if class_names is not None and len(class_names) != config.num_labels:
        raise ValueError(f"{len(class_names)} class names for a head of {config.num_labels} outputs")
    names = list(class_names) if class_names is not None else [f"LABEL_{i}" for i in range(config.num_labels)]
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}


def freeze(model: VideoMAEForVideoClassification, what: str) -> int:
    """Stop gradients into "none", the whole "encoder", or the patch embedding and the first N blocks ("3").

    Returns how many parameters are left to train. Frozen blocks keep their dropout: freezing changes what is learnt,
    not what is computed.
    """
    encoder = model.videomae
    if what == "none":
        frozen: list[nn.Module] = []
    elif what == "encoder":
        frozen = [encoder]
    elif what.isdigit() and int(what) <= len(encoder.encoder.layer):
        frozen = [encoder.embeddings, *encoder.encoder.layer[: int(what)]]
    else:
        raise ValueError(
            f"freeze must be none, encoder, or a number of blocks up to {len(encoder.encoder.layer)}, not {what!r}"
        )
    for module in frozen:
        module.requires_grad_(False)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def class_weights(labels: Sequence[int], num_labels: int, rule: str) -> torch.Tensor | None:
    """Loss weights by class: None, or for "balanced" inversely to its clips, with a mean of 1 over the clips."""
    if rule == "none":
        return None
    if rule != "balanced":
        raise ValueError(f"class_weights must be none or balanced, not {rule!r}")
    counts = torch.bincount(torch.as_tensor(labels), minlength=num_labels).float()
    present = counts > 0
    weights = torch.zeros(num_labels)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights
