"""The one check-up: `videomae doctor [FOLDER|LIST ...]` looks at the installation, at model folders and at data.

Without arguments the installation alone. A folder with a model, a run folder (its newest checkpoint) or a Hub name is
looked over and run once; anything else is data, for which `videomae check-data` has more options. With both, the data's
class names are compared with the model's.

Exit codes: 0 nothing is wrong; 1 problems were found; 2 what was named cannot be opened at all.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # accelerate brings it, as transformers brings packaging
import torch
from packaging.requirements import Requirement

from videomae.commands.doctor_weights import Findings, look_at_model
from videomae.commands.features import open_videos
from videomae.data.check import check
from videomae.data.check import render as render_data
from videomae.data.encoding import encode_video
from videomae.data.manifests import Manifest, open_manifest
from videomae.files import write_json
from videomae.model_source import WEIGHTS, check_name, open_config
from videomae.sampling_videomae import ClipSampling
from videomae.training.checkpoints import checkpoints
from videomae.video_io import read_frames

SOUND, PROBLEMS, FAILED = 0, 1, 2
# What people bring, and what FFmpeg calls the decoders that serve each.
CODECS = {
    "H.264": ("h264",),
    "HEVC": ("hevc",),
    "VP9": ("vp9", "libvpx-vp9"),
    "AV1": ("libdav1d", "libaom-av1", "av1"),
    "MPEG-4": ("mpeg4",),
    "Motion JPEG": ("mjpeg",),
}
OPTIONAL = ("torchvision", "matplotlib", "gradio", "peft")
WEIGHT_FILES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
GIB = 2**30


# -------------------------------------------------------------------------------------------------- environment


def look_at_environment() -> tuple[dict[str, Any], Findings]:
    findings = Findings("environment")
    facts = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": _packages(findings),
        **_machine(findings),
        "devices": _devices(findings),
        "codecs": _codecs(findings),
    }
    return facts, findings


def _packages(findings: Findings) -> dict[str, str | None]:
    """The versions of what is needed, and of the optional packages that are there."""
    try:
        needed = importlib.metadata.requires("videomae") or []
        found = {"videomae": importlib.metadata.version("videomae")}
    except importlib.metadata.PackageNotFoundError:
        findings.problem("videomae is not installed, only imported from a folder", "pip install -e . in the checkout")
        return {}
    for requirement in map(Requirement, needed):
        if requirement.marker and "extra" in str(requirement.marker):
            continue
        found[requirement.name] = version = _version(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            have = "missing" if version is None else f"{version}, too old or too new"
            findings.problem(
                f"{requirement.name} is {have}; {requirement} is needed", f"pip install -U '{requirement}'"
            )
    for name in OPTIONAL:
        if (version := _version(name)) is not None:
            found[name] = version
    if "torchvision" in found:  # transformers imports it where it is there
        try:
            importlib.import_module("torchvision")
        except Exception as error:  # a build for another torch fails in many ways
            findings.problem(
                f"torchvision {found['torchvision']} does not fit torch {found['torch']}: {str(error).splitlines()[0]}",
                "pip uninstall torchvision (nothing here needs it), or install the one made for this torch",
            )
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _machine(findings: Findings) -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = psutil.virtual_memory()
    limit = _container_limit()
    total = min(memory.total, limit) if limit else memory.total
    facts: dict[str, Any] = {
        "cores": cores,
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(total / GIB, 1),
        "memory_free_gib": round(min(memory.available, total) / GIB, 1),
        "disk_free_gib": round(shutil.disk_usage(".").free / GIB, 1),
    }
    if facts["torch_threads"] > cores:
        findings.note(
            f"torch uses {facts['torch_threads']} threads on {cores} cores and will be slower for it",
            f"export OMP_NUM_THREADS={cores}",
        )
    if facts["memory_free_gib"] < 2:
        findings.note(
            f"{facts['memory_free_gib']} GiB of memory are free", "end other programs, or use smaller batches"
        )
    if facts["disk_free_gib"] < 2:
        findings.note(f"{facts['disk_free_gib']} GiB are free on this disk; a run writes several checkpoints")
    if os.path.isdir("/dev/shm"):
        facts["shared_memory_gib"] = round(shutil.disk_usage("/dev/shm").total / GIB, 2)
        if facts["shared_memory_gib"] < 1:
            findings.note(
                f"/dev/shm has {facts['shared_memory_gib']} GiB; workers hand batches over through it",
                "start the container with --shm-size 8g, or use --num_workers 0",
            )
    if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
        findings.note("HF_HUB_OFFLINE is set: names on the Hub are found only where they were fetched before")
    return facts


def _container_limit() -> int | None:
    """The memory that a container may use, where it says so."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(path).read_text())
        except (OSError, ValueError):  # "max"
            continue
    return None


def _devices(findings: Findings) -> list[dict[str, Any]]:
    """The accelerators, each tried with a product of matrices."""
    if not torch.accelerator.is_available():
        if os.path.exists("/dev/nvidia0") or shutil.which("nvidia-smi"):
            build = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is a build for the CPU"
            findings.problem(
                f"there is an NVIDIA GPU, and torch {torch.__version__} does not see it ({build})",
                "install a torch for CUDA that fits the driver (nvidia-smi shows its version), from pytorch.org",
            )
        return []
    kind = torch.accelerator.current_accelerator().type
    devices = []
    for index in range(torch.accelerator.device_count()):
        device = torch.device(kind, index)
        about: dict[str, Any] = {"device": str(device)}
        if kind == "cuda":
            properties = torch.cuda.get_device_properties(device)
            about |= {
                "name": properties.name,
                "memory_gib": round(properties.total_memory / GIB, 1),
                "bf16": properties.major >= 8,
            }
            if properties.major < 8:
                findings.note(f"{properties.name} has no fast bfloat16", "train with fp16 there")
        try:
            square = torch.ones(64, 64, device=device)
            assert (square @ square).sum().item() == 64**3
        except (RuntimeError, AssertionError) as error:
            findings.problem(f"{device} does not compute: {str(error).splitlines()[0]}", "check driver and torch build")
        devices.append(about)
    return devices


def _codecs(findings: Findings) -> dict[str, bool]:
    """Which kinds of video can be decoded; a small one is written and read back."""
    import av

    known = {name: any(decoder in av.codecs_available for decoder in CODECS[name]) for name in CODECS}
    if lacking := [name for name, there in known.items() if not there]:
        report = findings.problem if "H.264" in lacking else findings.note
        report(f"this PyAV has no decoder for {', '.join(lacking)}", "pip install -U av (its wheels carry FFmpeg)")
    try:
        frames = [np.full((32, 48, 3), 8 * i, np.uint8) for i in range(8)]
        shown = read_frames(encode_video(frames, 25), [0, 7]).float().mean((1, 2, 3))
        if not (shown - torch.tensor([0.0, 56.0])).abs().max() < 8:
            findings.problem(
                f"a video of greys 0 and 56 reads as {shown.tolist()}", "pip install -U --force-reinstall av"
            )
    except Exception as error:  # whatever stops it, videos cannot be read
        findings.problem(f"writing and reading a small video fails: {error}", "pip install -U --force-reinstall av")
    return known


# --------------------------------------------------------------------------------------------------------- data


def look_at_data(
    target: str, *, root: str | None, model: str | None, probe: int | None
) -> tuple[dict[str, Any], Findings]:
    """`check-data` on a list or folder; against a model's class names where one was looked at too."""
    findings = Findings(target)
    config = open_config(model, "", weights=False) if model else None
    classifier = config is not None and (config.architectures or [""])[0].endswith("ForVideoClassification")
    manifest = open_data(target, root)
    report = check(
        manifest,
        id2label=config.id2label if classifier else None,
        num_labels=config.num_labels if classifier else None,
        probe=probe,
        sampling=ClipSampling(num_frames=config.num_frames) if config else None,
        speed_samples=5,  # a first idea; check-data takes more
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
    """The model folder that a target means, or None for data; and what to say of the choice."""
    path = Path(target)
    if is_model(path):
        return path, ""
    if path.is_dir():
        if saved := [folder for folder in checkpoints(path) if is_model(folder)]:
            return saved[-1], f"{target} is a run; looking at its newest checkpoint, {saved[-1].name}"
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


# -------------------------------------------------------------------------------------------------- command line


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(
        prog="videomae doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parse.add_argument("targets", nargs="*", metavar="FOLDER|LIST", help="model folders, Hub names, data [none]")
    parse.add_argument("--root", help="where relative paths of a list start")
    parse.add_argument("--probe", default="50", help="how many videos to open in part, or all [50]")
    parse.add_argument("--no_forward", action="store_true", help="do not run the models")
    parse.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="print the report as JSON, or write it to FILE as well"
    )
    return parse


def main(argv: list[str] | None = None) -> int:
    parse = parser()
    arguments = parse.parse_args(argv)
    if arguments.probe != "all" and not arguments.probe.isdigit():
        parse.error(f"--probe takes a number or all, not {arguments.probe!r}")
    if arguments.json not in (None, "-") and (os.path.isdir(arguments.json) or not arguments.json.endswith(".json")):
        # `doctor --json FOLDER` means the folder, and must not write over a list.
        arguments.targets, arguments.json = [arguments.json, *arguments.targets], "-"
    try:
        report = examine(
            arguments.targets,
            root=arguments.root,
            probe=None if arguments.probe == "all" else int(arguments.probe),
            forward=not arguments.no_forward,
        )
    except (ValueError, TypeError, OSError) as error:
        print(f"videomae doctor: {error}", file=sys.stderr)
        return FAILED
    if arguments.json == "-":
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print("\n".join(render(report)))
        if arguments.json:
            write_json(arguments.json, report)
    return PROBLEMS if report["problems"] else SOUND


def examine(
    targets: list[str], *, root: str | None = None, probe: int | None = 50, forward: bool = True
) -> dict[str, Any]:
    """The whole report, as JSON can hold it."""
    chosen = [model_folder(target) for target in targets]  # what cannot be opened is said before any work
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
            facts, findings = look_at_data(target, root=root, model=sound[0] if sound else None, probe=probe)
            report["data"].append(facts)
            found += findings
    report["findings"] = [finding.to_dict() for finding in found]
    report["problems"] = sum(finding.level == "problem" for finding in found)
    return report


def render(report: dict[str, Any]) -> Iterator[str]:
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
            yield f"  to mend it: {finding['fix']}"
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


if __name__ == "__main__":
    from videomae.commands.main import main as command

    sys.exit(command(["doctor", *sys.argv[1:]]))
