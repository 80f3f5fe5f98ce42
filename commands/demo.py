"""Make a synthetic data set, pre-train, fine-tune, test and label a video: `videomae demo`."""

import argparse
from pathlib import Path

from videomae.app.demo import INTERRUPTED, demo


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(
        prog="videomae demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parse.add_argument("--output", default="demo_output", help="folder for data, runs and results [demo_output]")
    parse.add_argument("--quick", action="store_true", help="a few epochs on few clips")
    return parse


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        demo(Path(arguments.output), "quick" if arguments.quick else "full")
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.")
        return INTERRUPTED
    return 0
