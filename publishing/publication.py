"""What a published repository holds: a model folder read and checked, and the files made of it.

Nothing here connects to the Hub; upload.py shows, checks and uploads what `prepare` returns.
"""

import json
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import videomae
from videomae.data.lists.label_files import class_names
from videomae.data.lists.label_names import are_placeholders
from videomae.files import today
from videomae.model_cards import build, cards, run_cards
from videomae.model_cards.results import Result, eval_results_files, recorded_results
from videomae.model_cards.zoo import entry
from videomae.models import check_content
from videomae.publishing.clean_room import RECORD
from videomae.remote_code import PROCESSOR_MAPS, auto_map, code_files
from videomae.training.checkpoints import model_of_run

IMAGE_PROCESSOR = "preprocessor_config.json"
# Records of how the weights were made; they are published beside them.
CONVERSION = "conversion.json"
PROOFS = (CONVERSION, run_cards.RECORD)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass
class Publication:
    """Everything that goes into the repository, by path: bytes, or the file on disk that holds them."""

    name: str
    head: str
    folder: Path
    license: str | None
    files: dict[str, bytes | Path] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def card(self) -> str:
        return self.text("README.md")

    def text(self, path: str) -> str:
        """What a file of the publication says."""
        content = self.files[path]
        return (content.read_bytes() if isinstance(content, Path) else content).decode()

    def sizes(self) -> dict[str, int]:
        return {
            path: content.stat().st_size if isinstance(content, Path) else len(content)
            for path, content in sorted(self.files.items())
        }

    def lay_out(self, folder: Path) -> None:
        """Put the files into an empty folder; weights become links, since they are large and only read."""
        for path, content in self.files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                try:
                    target.symlink_to(content.resolve())
                except OSError:  # a file system or a user without links
                    shutil.copyfile(content, target)
            else:
                target.write_bytes(content)


def prepare(
    folder: Path,
    name: str,
    *,
    license: str | None = None,
    labels: str | Path | None = None,
    allow_missing: Collection[str] = (),
    results: Collection[Path] = (),
) -> Publication:
    """Check a model folder and collect what will be published of it, all but the recorded output.

    `labels` names the classes: a file, or a list that the Hub has. `results` are files that `videomae evaluate` wrote
    about this model; their numbers go into the card.
    """
    config = read_config(folder)
    head = cards.head_of(config)
    publication = Publication(name, head, folder, license)
    publication.files |= {path.name: path for path in weight_files(folder)}
    if labels:
        config = with_labels(config, head, labels)
    if "labels" not in allow_missing:
        check_labels(config, head)
    for file_name, content in {"config.json": config, **processor_settings(publication, config)}.items():
        references = auto_map(file_name, content)
        publication.files[file_name] = as_json({**content, "auto_map": references})
        publication.files |= code_files(references)
    for proof in PROOFS:
        if (folder / proof).is_file():
            publication.files[proof] = folder / proof

    measured = [read_results(path) for path in results]
    content, card_results = card_of(publication, license, measured)
    publication.license = cards.licence_of(content)
    if publication.license is None and "license" not in allow_missing:
        raise ValueError(
            f"{folder} names no licence; say under which terms others may use the weights (--license apache-2.0, "
            "--license cc-by-nc-4.0, ...), or give --allow_missing license: then others may not use them"
        )
    if license and publication.license != license:
        raise ValueError(
            f"--license {license} contradicts the card, which says {publication.license}: weights that were "
            "trained from those of others keep their terms. Leave the option out, or correct the card"
        )
    publication.files["README.md"] = content.encode()
    for picture in sorted(folder.glob("*.png")):
        if picture.name in content:
            publication.files[picture.name] = picture
    publication.files |= {path: text.encode() for path, text in eval_results_files(card_results, date=today()).items()}
    publication.left_out = sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and not _is_in(path, publication)
    )
    return publication


def _is_in(path: Path, publication: Publication) -> bool:
    relative = path.relative_to(publication.folder).as_posix()
    return relative in publication.files or relative == RECORD


# -- config and weights --


def read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give the folder that save_pretrained or a training run wrote")
    path = folder / "config.json"
    if not path.is_file():
        saved = model_of_run(folder)
        hint = f"did you mean {saved}?" if saved else "the run may have stopped before it saved"
        raise ValueError(f"{folder} has no config.json; {hint}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); the folder was not written to its end") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}, not a configuration; save the model again")
    if config.get("model_type") != "videomae":
        raise ValueError(f"{path} is of model_type {config.get('model_type')!r}, not 'videomae'")
    check_content(config, str(folder))
    return config


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model, complete and readable; shards with their index."""
    from safetensors import SafetensorError, safe_open

    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    for name in names:
        path = folder / name
        if not path.is_file():
            raise ValueError(_no_weights(folder, name))
        try:
            with safe_open(path, framework="pt") as tensors:
                if not list(tensors.keys()):
                    raise ValueError(f"{path} holds no tensors")
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{path} cannot be read ({error}); it was not written to its end, save the model again"
            ) from None
    return [folder / name for name in names] + ([index] if index.is_file() else [])


def _no_weights(folder: Path, name: str) -> str:
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        return (
            f"{folder} has no {name}, only {', '.join(pickles)}; pickles can run code when they are opened and are not "
            "published: load the model and save_pretrained it again, or run `videomae convert`"
        )
    return f"{folder} has no {name}; the folder is not complete"


def check_labels(config: Mapping[str, Any], head: str) -> None:
    """Refuse a classifier whose classes have no names: others could not read its answers."""
    if head not in ("classify", "probe", "detect"):
        return
    labels = config.get("id2label") or {}
    texts = [str(label) for label in labels.values()]
    if are_placeholders(texts):
        raise ValueError(
            f"the classes of the model have no names (id2label holds {', '.join(texts[:3]) or 'nothing'}); set model.config.id2label and label2id and save it again, convert with --labels, or --allow_missing labels"
        )


def with_labels(config: Mapping[str, Any], head: str, labels: str | Path) -> dict[str, Any]:
    """The config with names for its classes, from any list that `videomae convert --labels` reads."""
    if head not in ("classify", "probe", "detect"):
        raise ValueError(f"--labels {labels}: a model of this kind ({head}) has no classes")
    count = videomae.VideoMAEConfig.from_dict(dict(config)).num_labels
    names = class_names(labels, count)
    return {
        **config,
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }


# -- processors --


def processor_settings(publication: Publication, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Both processor files, for old and new loaders, by name.

    What the folder lacks is made from what it has, and from the architecture where it has neither.
    """
    folder = publication.folder
    if any((folder / name).is_file() for name in PROCESSOR_MAPS):
        processor = videomae.VideoMAEVideoProcessor.from_pretrained(folder)
    else:
        size = config.get("image_size", 224)
        height, width = size if isinstance(size, list) else (size, size)
        processor = videomae.VideoMAEVideoProcessor(
            size={"shortest_edge": min(height, width)}, crop_size={"height": height, "width": width}
        )
        publication.notes.append(
            "the folder has no processor, so one was made: short side and crop of the model's size, ImageNet's mean and "
            "deviation, dense clips; save the right one with the model if the training differed"
        )
    with tempfile.TemporaryDirectory() as scratch:
        processor.save_pretrained(scratch)
        return {name: json.loads((Path(scratch) / name).read_text(encoding="utf-8")) for name in PROCESSOR_MAPS}


# -- the card --


def card_of(
    publication: Publication, license: str | None, measured: Sequence[Mapping[str, Any]]
) -> tuple[str, list[Result]]:
    """The card under the published name, and its results.

    A run's or a conversion's card is made again from its record; a card that somebody wrote or changed is kept as it
    is, but for the licence if it had none; a folder without any gets a plain one that claims nothing.
    """
    folder, name = publication.folder, publication.name
    readme = folder / "README.md"
    existing = readme.read_text(encoding="utf-8") if readme.is_file() else None
    if recorded := recorded_card(folder, name, license, measured):
        if existing is None or existing == recorded.untouched:
            return recorded.content, recorded.results
        publication.notes.append("README.md was changed by hand and is published as it is")
    if existing is not None and measured:
        raise ValueError(f"{readme} was written by hand, so --results cannot be put into it; write them there yourself")
    if existing is not None:
        try:
            data = cards.check_card(existing, where=str(readme))
        except ValueError as error:
            raise ValueError(f"{error}. Without the file, a plain card is written") from None
        if publication.head in ("detect", "probe", "features") and "trust_remote_code" not in existing:
            raise ValueError(
                f"{readme} does not say that this model needs trust_remote_code=True or the videomae package; without them "
                "transformers loads another class without a warning. Add it to the first lines"
            )
        return set_licence(existing, license) if license and not data.get("license") else existing, []
    publication.notes.append("the folder has no record of a training, so the card holds only what the files show")
    conversion = read_json(folder / CONVERSION)
    facts = list(build.conversion_facts(conversion)) if conversion else []
    content = run_cards.render_plain_card(folder, name=name, license=license, facts=facts, measured=measured)
    return content, recorded_results(measured)


@dataclass(frozen=True)
class RecordedCard:
    content: str  # under the published name
    results: list[Result]
    untouched: str  # as it was first written, to see whether somebody has changed it since


def recorded_card(
    folder: Path, name: str, license: str | None, measured: Sequence[Mapping[str, Any]]
) -> RecordedCard | None:
    """The card of a folder that a run or a conversion has left its record in."""
    if run := read_json(folder / run_cards.RECORD):
        return RecordedCard(
            run_cards.render_run_card(folder, run, name=name, license=license, measured=measured),
            recorded_results([*run["results"], *measured]),
            run_cards.render_run_card(folder, run, name=run["folder"]),
        )
    conversion = read_json(folder / CONVERSION)
    if conversion and conversion["name"]:
        checkpoint = entry(conversion["name"])
        return RecordedCard(
            build.zoo_card(checkpoint, name=name, conversion=conversion, evaluations=measured),
            [*build.results_of(checkpoint), *recorded_results(measured)],
            build.zoo_card(checkpoint, conversion=conversion),
        )
    return None


def read_results(path: Path) -> dict[str, Any]:
    """What `videomae evaluate` wrote, or an error that names the file."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        recorded_results([results])
    except OSError:
        raise ValueError(
            f"--results {path}: no such file; give the results.json that `videomae evaluate` wrote"
        ) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"--results {path} is not a results.json of `videomae evaluate`: {error}") from None
    return results


def set_licence(content: str, license: str) -> str:
    from huggingface_hub import ModelCard

    card = ModelCard(content)
    card.data["license"] = license
    return str(card)


def read_json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
