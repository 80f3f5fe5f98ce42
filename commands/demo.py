"""Make a synthetic data set, pre-train, fine-tune, test and label a video: `videomae demo`.

After Ctrl-C, or anything else that ends it, the same command continues with the step that it was at.
"""

from dataclasses import dataclass
from pathlib import Path

from videomae.command_line import DONE, STOPPED, option, read_options


@dataclass(frozen=True, kw_only=True)
class Options:
    output: str = option("demo_output", "options", "folder for data, runs and results", metavar="FOLDER")
    quick: bool = option(False, "options", "a few epochs on few clips")
    seed: int = option(0, "options", "of everything that is drawn: videos, first weights, order, masks")


def main(argv: list[str] | None = None) -> int:
    options = read_options(Options, argv, command="demo", about=__doc__)
    from videomae.app.demo import demo

    try:
        demo(Path(options.output), "quick" if options.quick else "full", seed=options.seed)
    except KeyboardInterrupt:
        print("\nStopped. The same command continues from here.")
        return STOPPED
    return DONE
