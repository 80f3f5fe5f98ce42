"""The installation checked: packages, memory, devices, codecs.

torch.utils.collect_env has few of these facts (the versions of Python and torch, the names of GPUs), and starts a dozen
programs to collect others.
"""

import importlib
import importlib.metadata
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # accelerate brings it, as transformers brings packaging
import torch
from packaging.requirements import Requirement

from videomae.data.encoding import encode_video
from videomae.inspection.model_folder import Findings
from videomae.video_io import read_frames

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

GIB = 2**30


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
        versions: dict[str, str | None] = {"videomae": importlib.metadata.version("videomae")}
    except importlib.metadata.PackageNotFoundError:
        findings.problem("videomae is not installed, only imported from a folder", "pip install -e . in the checkout")
        return {}
    for requirement in map(Requirement, needed):
        if requirement.marker and "extra" in str(requirement.marker):
            continue
        versions[requirement.name] = version = _version(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            have = "missing" if version is None else f"{version}, too old or too new"
            findings.problem(
                f"{requirement.name} is {have}; {requirement} is needed", f"pip install -U '{requirement}'"
            )
    for name in OPTIONAL:
        if (version := _version(name)) is not None:
            versions[name] = version
    if "torchvision" in versions:  # transformers imports it where it is there
        try:
            importlib.import_module("torchvision")
        except Exception as error:  # a build for another torch fails in many ways
            findings.problem(
                f"torchvision {versions['torchvision']} does not fit torch {versions['torch']}: {str(error).splitlines()[0]}",
                "pip uninstall torchvision (nothing here needs it), or install the one made for this torch",
            )
    return versions


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
    """The memory that a container may use, where it has a limit."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(path).read_text())
        except (OSError, ValueError):  # "max"
            continue
    return None


def _devices(findings: Findings) -> list[dict[str, Any]]:
    """The accelerators, each tried with a product of matrices."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        if os.path.exists("/dev/nvidia0") or shutil.which("nvidia-smi"):
            build = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is a build for the CPU"
            findings.problem(
                f"there is an NVIDIA GPU, and torch {torch.__version__} does not see it ({build})",
                "install a torch for CUDA that fits the driver (nvidia-smi shows its version), from pytorch.org",
            )
        return []
    kind = accelerator.type
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

    decodable = {name: any(decoder in av.codecs_available for decoder in CODECS[name]) for name in CODECS}
    if lacking := [name for name, there in decodable.items() if not there]:
        report = findings.problem if "H.264" in lacking else findings.note
        report(f"this PyAV has no decoder for {', '.join(lacking)}", "pip install -U av (its wheels carry FFmpeg)")
    try:
        frames = [np.full((32, 48, 3), 8 * i, np.uint8) for i in range(8)]
        greys = read_frames(encode_video(frames, 25), [0, 7]).float().mean((1, 2, 3))
        if not (greys - torch.tensor([0.0, 56.0])).abs().max() < 8:
            findings.problem(
                f"a video of greys 0 and 56 reads as {greys.tolist()}", "pip install -U --force-reinstall av"
            )
    except Exception as error:  # whatever stops it, videos cannot be read
        findings.problem(f"writing and reading a small video fails: {error}", "pip install -U --force-reinstall av")
    return decodable
