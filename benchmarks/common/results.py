"""Result files of the benchmarks, and the tables that docs/performance.md shows of them.

`benchmarks/results/DEVICE-DATE.json` holds one run of a suite: the machine, the versions, and for each benchmark its
command, how it ended and its rows (`timing.Row`). A benchmark that is run again on the same day takes the place of
its earlier entry. The tables are generated; tests/test_benchmarks.py compares them with the newest files.
"""

import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import torch

from videomae.files import write_atomic, write_json

from .timing import cores, cpu_name, has_bf16, larger_is_better, version_of

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
PACKAGES = ("torch", "transformers", "accelerate", "av", "numpy", "pillow")
QUIET = 0.1  # share of the cores that others may use before a benchmark without being mentioned
PEERS = ("decord", "torchcodec", "timm", "torchvision", "opencv-python-headless", "onnxruntime", "torchao")


# --------------------------------------------------------------------------------------------------------- files


def machine(device: str) -> dict[str, Any]:
    """What a reader has to know of the machine and the software to compare figures."""
    facts = {
        "device": torch.cuda.get_device_name() if device == "gpu" else cpu_name(),
        "kind": device,
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "bf16_in_hardware": has_bf16(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in PACKAGES},
        "peers": {name: version for name in PEERS if (version := version_of(name))},
        "peers_not_installed": [name for name in PEERS if version_of(name) is None],
    }
    if device == "gpu":
        properties = torch.cuda.get_device_properties(0)
        facts |= {"device_memory_gib": round(properties.total_memory / 2**30), "cuda": torch.version.cuda}
    return facts


def commit() -> str:
    """The commit that was measured, marked where files of the package differ from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
        return git("rev-parse", "--short=10", "HEAD") + (" and changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def results_path(facts: Mapping[str, Any], day: date | None = None) -> Path:
    name = facts["device"] if facts["kind"] == "gpu" else f"{facts['device']} {facts['cores']} cores"
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return RESULTS / f"{slug}-{day or date.today()}.json"


class ResultsFile:
    """One run of a suite; every entry is on the disk as soon as it is there."""

    def __init__(self, facts: Mapping[str, Any], command: str, path: Path | None = None):
        self.path = path or results_path(facts)
        earlier = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        self.content = {
            "date": str(date.today()),
            "machine": dict(facts),
            "command": command,
            "benchmarks": earlier.get("benchmarks", []),
        }

    def has(self, command: str) -> bool:
        return any(entry["command"] == command and entry["status"] == "done" for entry in self.content["benchmarks"])

    def put(self, entry: Mapping[str, Any]) -> None:
        entries = self.content["benchmarks"]
        place = next((i for i, old in enumerate(entries) if old["command"] == entry["command"]), len(entries))
        entries[place : place + 1] = [dict(entry)]
        write_json(self.path, self.content)


def newest_results(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """The newest file of each device, CPUs first."""
    newest: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stem[-len("2026-01-01") :]):
        content = json.loads(path.read_text(encoding="utf-8"))
        newest[path.stem[: -len("-2026-01-01")]] = content | {"file": f"benchmarks/results/{path.name}"}
    return sorted(newest.values(), key=lambda content: (content["machine"]["kind"], content["machine"]["device"]))


# -------------------------------------------------------------------------------------------------------- tables


def number(value: float | None) -> str:
    """Three figures, without exponents."""
    if value is None:
        return ""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.001 or value == 0 else f"{value:.1e}"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def promise(row: Mapping[str, Any]) -> str:
    parts = []
    if row["promised"] is not None:
        parts.append(f"{number(row['promised'])}x")
    if row["limit"] is not None:
        parts.append(f"{'≥' if larger_is_better(row['unit']) else '≤'} {number(row['limit'])} {row['unit']}")
    if not parts:
        return ""
    return ", ".join(parts) + (": met" if row["met"] else ": **not met**")


def line(row: Mapping[str, Any]) -> list[str]:
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}x"
    theirs = "" if row["theirs"] is None else f"{number(row['theirs'])} {row['unit']}"
    work = row["work"] + (f" ({row['note']})" if row["note"] else "")
    return [work, f"{number(row['ours'])} {row['unit']}", row["peer"], theirs, ratio, promise(row)]


def render(content: Mapping[str, Any]) -> str:
    """One results file as Markdown: what was promised first, then everything by benchmark."""
    facts = content["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in (facts["versions"] | facts["peers"]).items())
    memory = f", {facts['device_memory_gib']} GiB" if "device_memory_gib" in facts else ""
    parts = [
        f"### {facts['device']}{memory}, {facts['cores']} cores, {content['date']}",
        f"`{content['command']}`; {versions}; not installed: {', '.join(facts['peers_not_installed']) or 'none'}; "
        f"bf16 products {'in hardware' if facts['bf16_in_hardware'] else 'emulated'}. "
        f"A ratio above 1 means that ours is better. All figures: [{Path(content['file']).name}]"
        f"(../{content['file']}).",
    ]
    head = ["Work", "Figure", "Peer", "Peer's figure", "Ratio", "Promised"]
    promised = [
        [*line(row), f"`{entry['benchmark']}`"]
        for entry in content["benchmarks"]
        for row in entry["rows"]
        if row["met"] is not None
    ]
    if promised:
        parts += ["What was promised:", table([*head, "Benchmark"], promised)]
    for entry in content["benchmarks"]:
        others = [line(row)[:-1] for row in entry["rows"] if row["met"] is None]
        ended = "" if entry["status"] == "done" else f" **{entry['status']}**."
        if others or ended:
            threads = f"{entry['threads']} thread{'s' * (entry['threads'] != 1)}"
            share = entry["other_work"]
            busy = f", beside other work ({share:.0%} of the cores)" if share > QUIET else ""
            parts.append(
                f"`{entry['command']}`, {threads}, {entry['seconds']:.0f} s, commit {entry['commit']}{busy}.{ended}"
            )
        if others:
            parts.append(table(head[:-1], others))
    return "\n\n".join(parts)


def tables(folder: Path = RESULTS) -> str:
    found = newest_results(folder)
    if not found:
        return "There is no results file yet; `make bench` writes one and fills this place."
    return "\n\n".join(map(render, found))


def with_block(page: str, name: str, text: str) -> str:
    """The page with what stands between its two comments called `name` replaced."""
    begin, end = f"<!-- begin {name}: generated, see benchmarks/__main__.py -->", f"<!-- end {name} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the page has no block {begin} ... {end}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def with_blocks(page: str) -> str:
    """The page with every generated block written again."""
    from benchmarks.training_cost import measured_rates, preset_table, recipe_table  # it reads this module's tables

    blocks = {
        "presets": preset_table(),
        "recipes": recipe_table(measured_rates(newest_results())),
        "results": tables(),
    }
    for name, text in blocks.items():
        page = with_block(page, name, text)
    return page


def update_page(page: Path = PAGE) -> None:
    write_atomic(page, with_blocks(page.read_text(encoding="utf-8")))
