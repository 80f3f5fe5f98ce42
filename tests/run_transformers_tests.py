"""transformers' own tests of VideoMAE, on its classes and on ours, side by side.

    python tests/run_transformers_tests.py CHECKOUT          # a checkout of huggingface/transformers, at the installed version
    python tests/run_transformers_tests.py CHECKOUT --only test_modeling_videomae.py

The files run twice in processes of their own; the second time the names of transformers' VideoMAE classes stand for ours, put
there by this file as a pytest plugin. Prints counts, and each test that passes on stock and does not on ours. What the
tests need beside (parameterized, torchvision for the video processor, the Hub for a few) is the caller's to provide; a test
that fails on stock says nothing of ours.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

FILES = (
    "tests/models/videomae/test_modeling_videomae.py",
    "tests/models/videomae/test_image_processing_videomae.py",
    "tests/models/videomae/test_video_processing_videomae.py",
    "tests/pipelines/test_pipelines_video_classification.py",
)
CLASSES = (
    "VideoMAEConfig",
    "VideoMAEModel",
    "VideoMAEForPreTraining",
    "VideoMAEForVideoClassification",
    "VideoMAEImageProcessor",
    "VideoMAEFeatureExtractor",
    "VideoMAEVideoProcessor",
)
SWITCH = "VIDEOMAE_TESTED"  # "stock" or "ours", for the plugin


def pytest_configure() -> None:
    """As a pytest plugin: put our classes under transformers' names, before a test file imports them."""
    if os.environ.get(SWITCH) != "ours":
        return
    from transformers import pipeline  # noqa: F401  loads what would otherwise replace the module `transformers` later

    import videomae

    videomae.register_auto_classes()
    for name in CLASSES:
        setattr(sys.modules["transformers"], name, getattr(videomae, name))
    # We have one image processor where transformers has two, and it is registered for both.
    sys.modules["transformers"].models.videomae.VideoMAEImageProcessorPil = videomae.VideoMAEImageProcessor


def checkout_version(checkout: Path) -> str:
    source = (checkout / "src/transformers/__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"', source, re.MULTILINE)[1]


def outcomes(report: str | os.PathLike) -> dict[str, str]:
    """Test -> passed, failed or skipped, from pytest's JUnit file; of a test's subtests the worst counts."""
    worst = ("passed", "skipped", "failed")
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').rsplit('.', 1)[-1]}::{case.get('name', '').split(' [')[0].split(' (')[0]}"
        tags = {child.tag for child in case}
        outcome = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
        found[name] = max(found.get(name, "passed"), outcome, key=worst.index)
    return found


def run(checkout: Path, file: str, tested: str, options: list[str]) -> dict[str, str]:
    """One test file in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            file,
            "-q",
            "-p",
            Path(__file__).stem,
            f"--junitxml={report}",
            *options,
        ]
        path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            command,
            cwd=checkout,
            env=os.environ | {SWITCH: tested, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        if done.returncode not in (0, 1):  # it broke off, at an import or by an interrupt, and counts would mislead
            raise RuntimeError(f"{file} did not run on {tested}:\n{(done.stdout + done.stderr)[-3000:]}")
        return outcomes(report)


def table(results: Mapping[str, tuple[Mapping[str, str], Mapping[str, str]]]) -> str:
    """Markdown: counts by file, then what passes on stock and does not on ours."""
    lines = ["| file | stock: passed / failed / skipped | ours |", "|---|---|---|"]
    for file, pair in results.items():
        counts = [Counter(outcome.values()) for outcome in pair]
        cells = [" / ".join(str(count[kind]) for kind in ("passed", "failed", "skipped")) for count in counts]
        lines.append(f"| {Path(file).name} | {' | '.join(cells)} |")
    rows = [
        f"| {name} | {stock.get(name, 'not run')} | {ours.get(name, 'not run')} |"
        for stock, ours in results.values()
        for name in {**stock, **ours}
        if stock.get(name) != ours.get(name)
    ]
    return "\n".join([*lines, "", "| differs | stock | ours |", "|---|---|---|", *(rows or ["| nothing | | |"])])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder of a transformers checkout")
    parser.add_argument("--only", help="one of the files, by its name")
    args, options = parser.parse_known_args(argv)
    files = [file for file in FILES if args.only in (None, Path(file).name)]
    absent = [file for file in files if not (args.checkout / file).is_file()]
    if absent or not files:
        parser.error(f"{args.checkout} has no {absent[0]}" if absent else f"no file {args.only}; there are {FILES}")
    print(f"tests of transformers {checkout_version(args.checkout)}, installed {version('transformers')}\n")
    results = {file: tuple(run(args.checkout, file, tested, options) for tested in ("stock", "ours")) for file in files}
    print(table(results))
    worse = any(
        stock[name] == "passed" and ours.get(name) == "failed" for stock, ours in results.values() for name in stock
    )
    return int(worse)


if __name__ == "__main__":
    sys.exit(main())
