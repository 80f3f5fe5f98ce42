"""Publish a model folder on the Hub, whole or not at all.

    videomae publish FOLDER OWNER/NAME --dry_run       show what would be uploaded, and the card
    videomae publish FOLDER OWNER/NAME --license mit   check and upload

Before anything is uploaded, the folder is loaded in clean processes, where this package does not exist. All files go up
in one commit: large ones first, and what has arrived once is not sent again when the same command is repeated after an
interruption.
"""

import contextlib
import fnmatch
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

import videomae
from videomae.configuration_videomae import VideoMAEConfig
from videomae.conversion.proof import proof_inputs
from videomae.conversion.reference import fixed_frames
from videomae.model_cards.cards import HEADS
from videomae.models import weights_sha256
from videomae.publishing import clean_room
from videomae.publishing.clean_room import RECORD
from videomae.publishing.publication import IMAGE_PROCESSOR, Publication, as_json, prepare, read_config, read_json

# Relative to a quantity's largest number. Our own code must agree but for the order of additions; transformers' class
# fixes two epsilons at 1e-5 where released weights have 1e-6, and its processor resizes with other roundings (and with
# an antialias that a saved `antialias: false` cannot turn off).
TOLERANCE = 1e-4
STOCK_PIXELS_TOLERANCE = 0.03
ABOUT = "outputs for the inputs of proof_inputs(config, head, version=2) in conversion/proof.py of the videomae package"
# What a publication replaces when it updates a repository; anything else that is there stays.
OURS = ("*.safetensors", "*.safetensors.index.json", "*.py", ".eval_results/*.yaml")


def publish(
    folder: str | os.PathLike,
    name: str,
    *,
    license: str | None = None,
    labels: str | Path | None = None,
    allow_missing: Collection[str] = (),
    results: Collection[Path] = (),
    private: bool = False,
    update: bool = False,
    message: str = "Publish the model",
    check: bool = True,
    dry_run: bool = False,
) -> str | None:
    """Check and upload a model folder; returns the URL of the commit, None for a dry run."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"{name!r} cannot be a repository on the Hub: {error}") from None
    if name.count("/") != 1:
        raise ValueError(f"{name!r} names no owner; write OWNER/{name}, with your user name or an organisation")
    read_config(Path(folder))  # before the Hub is asked anything
    with hub_errors(name):
        target = None if dry_run else look_up(name, update=update)
    publication = prepare(
        Path(folder), name, license=license, labels=labels, allow_missing=allow_missing, results=results
    )
    publication.files[RECORD] = as_json(recorded_output(publication, results))
    if check:
        for line in check_in_clean_process(publication):
            print(f"checked: {line}")
    for note in publication.notes:
        print(f"note: {note}")
    print(listing(publication))
    if target is None:
        print(f"\n{publication.card}\nnothing was uploaded (--dry_run)")
        return None
    with hub_errors(name):
        return upload(publication, target, private=private, message=message)


def listing(publication: Publication) -> str:
    sizes = publication.sizes()
    lines = [f"{publication.name}: {len(sizes)} files, {_bytes(sum(sizes.values()))}"]
    lines += [f"  {_bytes(size):>9}  {path}" for path, size in sizes.items()]
    if publication.left_out:
        first = publication.left_out[:6]
        more = f" and {len(publication.left_out) - len(first)} more" if len(publication.left_out) > len(first) else ""
        lines.append(f"not uploaded: {', '.join(first)}{more}")
    return "\n".join(lines)


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


# -- the check --


def example_inputs(config: VideoMAEConfig, head: str) -> dict[str, Any]:
    """What clean_room.py reads: inputs of the model, with both masks of V2, and frames for its processor."""
    height, width = config.image_hw
    frames = fixed_frames(config.num_frames, height * 5 // 4, width * 3 // 2)
    return {"model": proof_inputs(config, head, version=2), "frames": frames}


def recorded_output(publication: Publication, results: Collection[Path] = ()) -> dict[str, Any]:
    """The model's outputs for the example inputs, computed here with our classes.

    A record of the same inputs that already lies in the folder is kept and must agree: otherwise the weights are not
    those that were recorded. `results` must have been measured on these weights, too.
    """
    head = publication.head
    model = getattr(videomae, HEADS[head].model_class).from_pretrained(publication.folder, dtype=torch.float32)
    for path in results:
        measured_on = json.loads(path.read_text(encoding="utf-8")).get("weights_sha256")
        if measured_on and measured_on != weights_sha256(model):
            raise ValueError(f"--results {path} was measured on other weights than those in {publication.folder}")
    torch.manual_seed(0)
    example = example_inputs(model.config, head)
    outputs = clean_room.answers(model, example["model"])
    if model.config.num_channels == 3:  # the fixed frames are pictures; infrared and the like have no stock processor
        settings = json.loads(publication.text(IMAGE_PROCESSOR))
        processor = cast(videomae.VideoMAEImageProcessor, videomae.VideoMAEImageProcessor.from_dict(settings))
        pixels = processor(list(example["frames"].numpy()), return_tensors="pt").pixel_values
        outputs["pixel_values"] = clean_room.recorded(pixels)
    for quantity, values in outputs.items():
        if not all(map(math.isfinite, values)):
            raise ValueError(
                f"{publication.folder}: the model's {quantity} of a plain clip is not finite; its weights are broken"
            )
    earlier = read_json(publication.folder / RECORD)
    if earlier and earlier.get("about") == ABOUT:
        worst = clean_room.differences(outputs, earlier["outputs"])
        if wrong := {quantity: value for quantity, value in worst.items() if value > TOLERANCE}:
            raise ValueError(
                f"{publication.folder / RECORD} was recorded with other weights: {_difference_text(wrong)}; delete it if the "
                "weights were changed on purpose"
            )
        return earlier
    return {"about": ABOUT, "head": head, "outputs": outputs}


def check_in_clean_process(publication: Publication) -> list[str]:
    """Load what will be published in clean processes, with and without the code that it carries."""
    lines = []
    for with_code in (True, False):
        report = run_clean(publication, with_code=with_code)
        what = (
            f"{report['class']} ({'code of the repository' if with_code else 'transformers'}) and {report['processor']}"
        )
        kind = HEADS[publication.head]
        if not with_code and publication.head not in clean_room.STOCK:
            what += ", without this model's head"
        if with_code or kind.in_stock:
            lost = {key: report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[key]}
            if report["class"] != kind.model_class or lost:
                raise ValueError(f"{publication.folder} loads as {what}, with {lost or 'another class than it should'}")
        limits = {"pixel_values": TOLERANCE if with_code else STOCK_PIXELS_TOLERANCE}
        wrong = {
            quantity: value
            for quantity, value in report["differences"].items()
            if not value <= limits.get(quantity, TOLERANCE)
        }
        if wrong:
            raise ValueError(f"{publication.folder} gives other answers as {what}: {_difference_text(wrong)}")
        lines.append(f"{what}, {_difference_text(report['differences'])}")
    return lines


def run_clean(publication: Publication, *, with_code: bool) -> dict[str, Any]:
    """The report of clean_room.py on the laid-out publication, in a process that cannot import this package."""
    with tempfile.TemporaryDirectory(prefix="videomae_publish_") as scratch:
        folder = Path(scratch) / publication.name.rsplit("/", 1)[-1]
        folder.mkdir()
        publication.lay_out(folder)
        # The empty module keeps this package out, as on a machine that never had it.
        code = "import runpy, sys; sys.modules['videomae'] = None; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
        config = VideoMAEConfig.from_dict(json.loads(publication.text("config.json")))
        torch.save(example_inputs(config, publication.head), Path(scratch) / "inputs.pt")
        command = [sys.executable, "-c", code, clean_room.__file__, str(folder), str(Path(scratch) / "inputs.pt")]
        result = subprocess.run(
            command + ["--trust_remote_code"] * with_code,
            cwd=scratch,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(Path(scratch) / "modules")},
            capture_output=True,
            text=True,
        )
    if result.returncode:
        last = result.stderr.strip().splitlines()[-1:] or ["no message"]
        way = "with trust_remote_code=True" if with_code else "with transformers' own classes"
        raise ValueError(f"{publication.folder} cannot be loaded {way} by a process without this package: {last[0]}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def _difference_text(differences: Mapping[str, float]) -> str:
    return (
        ", ".join(f"{quantity} differs by {value:.1e}" for quantity, value in sorted(differences.items()))
        or "no outputs"
    )


# -- the upload --


@dataclass(frozen=True)
class Target:
    """A repository as the Hub has it now."""

    user: str  # whom the token belongs to
    exists: bool
    files: frozenset[str] = frozenset()
    head: str | None = None  # its last commit


def look_up(name: str, *, update: bool) -> Target:
    """Ask the Hub who we are and what is there; errors for what would stop the upload after all checks."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError

    api = HfApi(library_name="videomae")
    try:
        user = api.whoami()["name"]
    except (LocalTokenNotFoundError, HfHubHTTPError) as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code not in (401, 403):
            raise
        raise ValueError(
            "the Hub does not know you: run `hf auth login`, or set HF_TOKEN to a token with write access"
        ) from error
    try:
        info = api.model_info(name)
    except RepositoryNotFoundError:
        return Target(user, exists=False)
    files = frozenset(file.rfilename for file in info.siblings or ()) - {".gitattributes"}
    if files and not update:
        raise ValueError(
            f"{name} exists already and holds {len(files)} files; choose another name, or --update to replace the model in it"
        )
    return Target(user, exists=True, files=files, head=info.sha)


def upload(publication: Publication, target: Target, *, private: bool, message: str) -> str:
    """Create the repository if it is not there and put everything into it in one commit; returns the commit's URL."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(library_name="videomae")
    if not target.exists:
        print(f"creating {publication.name} as {target.user}")
        api.create_repo(publication.name, private=private or None, exist_ok=True)
    operations = [
        CommitOperationAdd(path, str(content) if isinstance(content, Path) else content)
        for path, content in sorted(publication.files.items())
    ]
    stale = sorted(target.files - publication.files.keys())
    operations += [
        CommitOperationDelete(path) for path in stale if any(fnmatch.fnmatch(path, pattern) for pattern in OURS)
    ]
    # create_commit, not upload_folder: the latter may split a large folder into several commits.
    commit = api.create_commit(
        publication.name, operations, commit_message=message, parent_commit=target.head if target.files else None
    )
    return commit.commit_url


@contextlib.contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turn errors on the way to the Hub into one line that says what went wrong and what to do."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of whichever client huggingface_hub uses
        OfflineModeIsEnabled,
    )

    try:
        yield
    except OfflineModeIsEnabled as error:
        raise OSError("the Hub is switched off by HF_HUB_OFFLINE; unset it to publish") from error
    except HfHubHTTPError as error:
        if error.response.status_code == 403:
            raise OSError(
                f"your token may not write to {name}: check the owner's name and that the token has write access ({error})"
            ) from error
        raise OSError(f"the Hub refused: {error}") from error
    except (HTTPError, ConnectionError, RuntimeError) as error:  # huggingface_hub makes a cut file a RuntimeError
        raise OSError(
            f"the connection to the Hub broke ({error}); nothing is visible there yet. Run the same command again: what "
            "has arrived is not sent a second time"
        ) from error
