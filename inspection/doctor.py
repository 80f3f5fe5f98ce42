"""What `videomae doctor [FOLDER|LIST ...]` checks beside the installation: which targets are models, and the data.

Without arguments only the installation is checked. A folder with a model, a run folder (its best or last model) or a Hub
name is checked and run once; anything else is data, for which `videomae check-data` has more options. With both, the
data's class names are compared with the model's.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from videomae.data.check import check
from videomae.data.check import render as render_data
from videomae.data.lists.layouts import open_manifest, open_videos
from videomae.data.lists.manifests import Manifest
from videomae.inspection.environment import look_at_environment
from videomae.inspection.model_folder import Findings, look_at_model
from videomae.models import WEIGHTS, check_name, open_config
from videomae.sampling_videomae import ClipSampling
from videomae.training.checkpoints import model_of_run

WEIGHT_FILES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")


# ------------------------------------------------------------------------------------------------------ the whole


def examine(
    targets: Sequence[str],
    *,
    root: str | None = None,
    probe: int | None = 50,
    forward: bool = True,
    errors: str = "strict",
) -> dict[str, Any]:
    """The whole report, as JSON can hold it."""
    chosen = [model_folder(target) for target in targets]  # what cannot be opened is an error before any work
    environment, findings = look_at_environment()
    report: dict[str, Any] = {"environment": environment, "models": [], "data": []}
    found = list(findings)
    for folder, remark in chosen:
        if folder is None:
            continue
        facts, findings = look_at_model(folder, forward=forward)
        report["models"].append(facts | ({"remark": remark} if remark else {}))
        found += findings
    sound = [facts["folder"] for facts in report["models"] if "class" in facts]
    for target, (folder, _) in zip(targets, chosen):
        if folder is None:
            model = sound[0] if sound else None
            facts, findings = look_at_data(target, root=root, model=model, probe=probe, errors=errors)
            report["data"].append(facts)
            found += findings
    report["findings"] = [finding.to_dict() for finding in found]
    report["problems"] = sum(finding.level == "problem" for finding in found)
    return report


# --------------------------------------------------------------------------------------------------------- data


def look_at_data(
    target: str, *, root: str | None, model: str | None, probe: int | None, errors: str
) -> tuple[dict[str, Any], Findings]:
    """`check-data` on a list or folder; against a model's class names where one was looked at too."""
    findings = Findings(target)
    config = open_config(model, "", weights=False) if model else None
    classifier = None
    if config is not None and (config.architectures or [""])[0].endswith("ForVideoClassification"):
        classifier = config
    manifest = open_data(target, root)
    report = check(
        manifest,
        id2label=classifier.id2label if classifier else None,
        num_labels=classifier.num_labels if classifier else None,
        probe=probe,
        sampling=ClipSampling(num_frames=config.num_frames) if config else None,
        speed_samples=5,  # a first idea; check-data takes more
        errors=errors,
        progress=False,
    )
    for text in report["problems"]:
        findings.problem(text)
    for text in report["notes"]:
        findings.note(text)
    return report, findings


def open_data(target: str, root: str | None) -> Manifest:
    """Data as trainers read it; a folder that is no training set still is a folder of videos."""
    try:
        return open_manifest(target, root=root)
    except ValueError:
        return open_videos(target, root=root)


# --------------------------------------------------------------------------------------------------- the targets


def is_model(path: Path) -> bool:
    return path.is_dir() and any((path / name).is_file() for name in ("config.json", *WEIGHTS))


def model_folder(target: str) -> tuple[Path | None, str]:
    """The model folder that a target means, or None for data; and a remark on the choice."""
    path = Path(target)
    if is_model(path):
        return path, ""
    if path.is_dir():
        if saved := model_of_run(path):
            return saved, f"{target} is a run; looking at its model {saved.name}"
        return None, ""
    if path.is_file():
        if path.suffix.lower() in WEIGHT_FILES:
            raise ValueError(
                f"{target} is a weight file; `videomae convert {target} FOLDER` makes a model folder of it"
            )
        return None, ""
    if path.suffix or path.is_absolute() or target.count("/") != 1:
        raise FileNotFoundError(f"{target}: there is no such file or folder")
    check_name(target, "")
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(target, allow_patterns=["*.json", "*.safetensors", "*.bin"])
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise OSError(f"{target}: there is no such folder, and the Hub did not give it ({reason})") from None
    return Path(folder), f"{target} was fetched from the Hub"


# ------------------------------------------------------------------------------------------------------ for people


def report_lines(report: dict[str, Any]) -> Iterator[str]:
    """The report for people."""
    facts = report["environment"]
    yield "environment"
    yield f"  python {facts['python']}, {facts['system']}"
    yield "  " + ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    yield (
        f"  {facts['cores']} cores, {facts['torch_threads']} threads of torch, {facts['memory_free_gib']} of "
        f"{facts['memory_gib']} GiB memory free, {facts['disk_free_gib']} GiB disk free"
    )
    for device in facts["devices"]:
        yield "  " + ", ".join(f"{name} {value}" if name != "device" else value for name, value in device.items())
    if not facts["devices"]:
        yield "  no accelerator: models run on the CPU"
    yield f"  reads {', '.join(name for name, there in facts['codecs'].items() if there)}"
    for model in report["models"]:
        yield from _render_model(model)
    for data in report["data"]:
        yield from [f"data {data['origin']}", *("  " + line for line in _data_lines(data))]
    yield ""
    for finding in report["findings"]:
        mark = "PROBLEM" if finding["level"] == "problem" else "note"
        yield f"{mark} ({finding['area']}): {finding['text']}"
        if finding["fix"]:
            yield f"  to fix it: {finding['fix']}"
    count = report["problems"]
    yield "nothing is wrong" if not count else "1 problem" if count == 1 else f"{count} problems"


def _data_lines(data: dict[str, Any]) -> list[str]:
    """The report of check-data without its problems and notes, which stand with the others."""
    return render_data({**data, "problems": [], "notes": []}, 50.0).splitlines()[:-1]


def _render_model(model: dict[str, Any]) -> Iterator[str]:
    yield f"model {model['folder']}"
    if "remark" in model:
        yield f"  {model['remark']}"
    if "class" not in model:
        return
    yield (
        f"  {model['class']} ({model['head']}), size {model['size']}: width {model['width']}, {model['layers']} layers, "
        f"{model['attention_heads']} heads, patch {model['patch'][0]}, {model['num_frames']} frames of "
        f"{model['image_size'][0]}x{model['image_size'][1]}"
        + (f", {model['num_labels']} classes" if "num_labels" in model else "")
    )
    yield (
        f"  epsilon {model['layer_norm_eps']:g} and {model['norm_eps']:g}, "
        f"{'mean pooling' if model['use_mean_pooling'] else 'final norm on the tokens'}"
    )
    if "sampling" in model:
        sampling = model["sampling"]
        yield (
            f"  pixels by {model['mean']}, {model['std']}; {sampling['strategy']} clips of {sampling['num_frames']} frames "
            f"at stride {sampling['stride_frames']}, test {sampling['clips']}x{sampling['crops']}"
        )
    if "parameters" in model:
        ran = f"; one forward pass {model['forward_seconds']} s" if "forward_seconds" in model else ""
        yield f"  {model['parameters']:,} parameters, {model['dtype']}, hash {model['weights_sha256'][:16]}{ran}"
    if source := model.get("converted_from"):
        difference = source["largest_relative_difference"]
        proof = "without a proof" if difference is None else f"outputs agreed within {difference:.1e}"
        yield f"  converted from {source['source_file']}, {proof}"
    for name, file in model.get("files", {}).items():
        yield f"  {name}: {file['bytes']:,} bytes, sha256 {file['sha256'][:16]}"
