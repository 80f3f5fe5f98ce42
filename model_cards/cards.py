"""What every model card here shares: metadata, architecture, rendering, and the checks.

`build.py` fills the templates for the released checkpoints, `run_cards.py` for one's own runs; `publishing/upload.py`
reads cards back. The sentences live in the .jinja files, what they say about data sets and papers in facts.py, terms in
licences.py, evaluations in results.py.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results

from videomae.model_cards.results import Result, metric_id, text

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Head:
    """What a model of one kind is called, in code and on the Hub."""

    model_class: str
    auto_class: str  # what loads it with the code of its repository
    pipeline_tag: str  # the Hub has none for action detection
    in_stock: bool  # transformers has a class of that name which loads the same folder
    title: str


HEADS = {
    "pretrain": Head("VideoMAEForPreTraining", "AutoModelForPreTraining", "feature-extraction", True, "pre-trained"),
    "classify": Head(
        "VideoMAEForVideoClassification", "AutoModelForVideoClassification", "video-classification", True, "fine-tuned"
    ),
    "probe": Head(
        "VideoMAEForAttentiveProbe", "AutoModelForVideoClassification", "video-classification", False, "attentive probe"
    ),
    "features": Head("VideoMAEModel", "AutoModel", "feature-extraction", False, "features pre-trained"),
    "detect": Head("VideoMAEForActionDetection", "AutoModel", "video-classification", False, "action detector"),
}


TASK_NAMES = {"classify": "Video Classification", "probe": "Video Classification", "detect": "Action Detection"}

# Words that say that a section was not written.
UNWRITTEN = re.compile(r"\bto[- ]do\b|\bTODO\b|more information needed|\bTBD\b|\bFIXME\b|lorem ipsum", re.IGNORECASE)


def metadata(
    *,
    name: str,
    head: str,
    license: str | None,
    tags: Iterable[str] = (),
    datasets: Iterable[str] = (),
    base_model: str | None = None,
    results: Iterable[Result] = (),
) -> ModelCardData:
    """The YAML block of a card. `base_model` must be a Hub name; a local folder has no place in it."""
    results = list(results)
    kind = HEADS[head]
    scores = [
        EvalResult(
            task_type=kind.pipeline_tag,
            task_name=TASK_NAMES.get(head, "Video Features"),
            dataset_type=result.hub_dataset,
            dataset_name=result.dataset_title,
            dataset_split=result.split,
            metric_type=metric_id(result.metric),
            metric_name=f"{result.metric} ({result.protocol})" + ("" if result.measured else ", published"),
            metric_value=result.value,
            source_name="published" if result.source else None,
            source_url=result.source or None,
        )
        for result in results
    ]
    return ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag=kind.pipeline_tag,
        tags=list(dict.fromkeys(["videomae", "video", *tags])),
        datasets=list(dict.fromkeys(datasets)) or None,
        metrics=list(dict.fromkeys(metric_id(result.metric) for result in results)) or None,
        base_model=base_model,
        model_name=name.rsplit("/", 1)[-1] if scores else None,
        eval_results=scores or None,
    )


@functools.cache
def _templates() -> jinja2.Environment:
    # A field that a template asks for and nobody gave is an error, not an empty place in a published card.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["text"] = text
    return environment


def render(template: str, *, card_data: ModelCardData, **fields: Any) -> str:
    """Fill a template of this folder and check the result; fields that a user wrote are escaped by `text`."""
    try:
        content = _templates().get_template(template).render(card_data=card_data, **fields)
    except jinja2.UndefinedError as error:
        raise ValueError(f"the card {template} needs a field that was not given: {error}") from None
    content = re.sub(r"\n{3,}", "\n\n", content).strip() + "\n"
    check_card(content)
    return content


def check_card(content: str, *, where: str = "the card") -> ModelCardData:
    """Raise for a card that the Hub would refuse or that was not finished; returns its metadata."""
    if not content.startswith("---"):
        raise ValueError(f"{where} has no metadata: it must begin with a YAML block between two lines of ---")
    try:
        card = ModelCard(content)
        data = card.data.to_dict()
        if index := data.get("model-index"):
            model_index_to_eval_results(index)
    except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"the metadata of {where} cannot be read: {error}") from None
    if found := UNWRITTEN.search(card.text):
        raise ValueError(f"{where} has an unwritten place ({found.group()!r}); write it or take the section out")
    return cast(ModelCardData, card.data)


def python_snippets(content: str) -> list[str]:
    """The Python code blocks of a card, in order."""
    return re.findall(r"^```python\n(.*?)^```", content, flags=re.MULTILINE | re.DOTALL)


def licence_of(content: str) -> str | None:
    """The licence that a card names, `license_name` standing in for "other"; None where there is none."""
    data = check_card(content)
    licence = data.get("license")
    return data.get("license_name") or licence if licence == "other" else licence


def architecture(config: Any, *, head: str, parameters: int) -> list[tuple[str, str]]:
    """Rows of the architecture table, from a VideoMAEConfig."""
    height, width = config.image_hw
    patch = "×".join(str(side) for side in config.patch_hw)
    t, h, w = config.grid
    rows = [
        ("parameters", f"{parameters / 1e6:,.1f} M" if parameters < 1e9 else f"{parameters / 1e9:,.2f} B"),
        ("input", f"{config.num_frames} frames of {height}×{width}, {config.num_channels} channels"),
        ("tokens", f"{t}×{h}×{w} = {config.num_patches}, each {config.tubelet_size} frames × {patch} pixels"),
        (
            "encoder",
            f"{config.num_hidden_layers} blocks, width {config.hidden_size}, {config.num_attention_heads} heads, "
            f"MLP {config.intermediate_size}",
        ),
    ]
    if head == "pretrain":
        rows.append(
            (
                "decoder",
                f"{config.decoder_num_hidden_layers} blocks, width {config.decoder_hidden_size}, "
                f"{config.decoder_num_attention_heads} heads",
            )
        )
    if head == "detect":
        side = config.roi_output_size
        rows.append(
            ("box head", f"mean over time, RoIAlign {side}×{side} ({'' if config.roi_aligned else 'not '}aligned), max")
        )
    if head == "probe":
        levels = f", on the tokens of encoder blocks {list(config.probe_levels)}" if config.probe_levels else ""
        rows.append(("attentive head", f"{config.probe_blocks} blocks of {config.probe_heads} heads{levels}"))
    if head in ("classify", "probe", "detect"):
        rows.append(("classes", str(config.num_labels)))
    epsilons = sorted({config.layer_norm_eps, config.norm_eps})
    rows.append(("norm epsilon", " and ".join(f"{epsilon:g}" for epsilon in epsilons)))
    return rows


def head_of(config: Mapping[str, Any]) -> str:
    """Which of HEADS a `config.json` describes, by its architecture."""
    classes = config.get("architectures") or []
    for head, kind in HEADS.items():
        if kind.model_class in classes and (head != "features" or config.get("pooled_features")):
            return head
    if "VideoMAEModel" in classes:
        return "features"
    raise ValueError(
        f"config.json names the architectures {classes}; expected one of "
        f"{', '.join(kind.model_class for kind in HEADS.values())}"
    )


def describe_sampling(sampling: Mapping[str, Any] | None) -> str:
    """A processor's sampling policy in words, "" without one; the policy's fields are those of ClipSampling."""
    if not sampling:
        return ""
    frames, stride = sampling["num_frames"], sampling["stride_frames"]
    words = {
        "dense": f"{frames} frames, one in {stride}, from one window of the video",
        "uniform": f"{frames} frames, one from each of {frames} equal parts of the video",
        "spread": f"{frames} frames spread evenly over the whole video",
        "all": "every frame of the video",
    }[sampling["strategy"]]
    if (segments := sampling.get("segments", 1)) > 1:
        words = f"{segments} windows of {frames} frames, one in {stride}, one window from each equal part of the video"
    views = sampling["clips"] * sampling["crops"]
    return words + (f"; tested with {sampling['clips']} × {sampling['crops']} views" if views > 1 else "")


def clip_from_frames(sampling: Mapping[str, Any] | None, num_frames: int) -> str:
    """A line of Python that picks `clip` out of `frames` as the policy does, for readers without the package.

    The window of a dense clip lies in the middle of the video; short videos repeat their last frame.
    """
    if sampling and sampling["strategy"] == "dense":
        stride = sampling["stride_frames"]
        return (
            f"start = max(0, (len(frames) - {num_frames * stride}) // 2)  # one window, every {_ordinal(stride)} frame\n"
            f"clip = [frames[min(start + {stride} * i, len(frames) - 1)] for i in range({num_frames})]"
        )
    middle = (
        f"(2 * i + 1) // {2 * num_frames}" if sampling and sampling["strategy"] == "uniform" else f"i // {num_frames}"
    )
    return f"clip = [frames[len(frames) * {middle}] for i in range({num_frames})]  # spread over the whole video"


def _ordinal(number: int) -> str:
    return {1: "single", 2: "second", 3: "third"}.get(number, f"{number}th")
