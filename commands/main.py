"""The `videomae` command: one line per sub-command, each imported only when it is called."""

import difflib
import importlib
import itertools
import sys
from collections.abc import Callable

COMMANDS = {
    "demo": ("videomae.commands.demo", "make a synthetic data set, pre-train, fine-tune, test and label a video"),
    "evaluate": ("videomae.commands.evaluation", "multi-view test of a classifier, as the papers do it"),
    "detect": ("videomae.commands.detect", "who does what, when and where in a video"),
    "visualize": ("videomae.commands.visualize", "pictures of what a model rebuilds and where it looks"),
    "app": ("videomae.commands.app", "a page to try a classifier in the browser"),
    "features": ("videomae.commands.features", "features of a folder of videos: by window, by video, or all tokens"),
    "fvd": ("videomae.commands.fvd", "Fréchet video distance between two sets of features"),
    "probe": ("videomae.commands.probe", "linear, attentive and k-NN probes on frozen features"),
    "convert": ("videomae.convert_original_checkpoint", "a released checkpoint to a from_pretrained folder"),
    "export": ("videomae.commands.export", "a classifier as an ONNX file, compared with the model"),
    "publish": ("videomae.commands.publish", "check a model folder and upload it to the Hub"),
    "cards": ("videomae.model_cards.build", "make the model cards from zoo.yaml"),
    "doctor": (
        "videomae.commands.doctor",
        "check the installation, a model folder or a data set, and say what to mend",
    ),
    "check-data": ("videomae.data.check", "look over a data set before training"),
    "prepare": ("videomae.data.prepare", "re-encode a data set once into shards or a folder"),
    "pretrain": ("videomae.train_pretrain", "pre-train VideoMAE or VideoMAE V2"),
    "finetune": ("videomae.train_classification", "fine-tune a classifier"),
    "train-detection": ("videomae.train_detection", "train an action detector"),
}

# Other names that work: what a command was called before.
ALIASES = {"prepare-data": "prepare"}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["usage: videomae COMMAND [options]", "", *lines, "", "`videomae COMMAND --help` explains one."])


def explained(error: Exception, argv: list[str]) -> str:
    """The error's own words; those of the system for a file get the option that named it."""
    if not (isinstance(error, OSError) and error.strerror and error.filename):
        return str(error)
    options = [
        option for option, value in itertools.pairwise(argv) if value == str(error.filename) and option[:2] == "--"
    ]
    return f"{' '.join([*(options if len(options) == 1 else []), str(error.filename)])}: {error.strerror}"


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    name, *rest = argv
    name = ALIASES.get(name, name)
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        print(f"videomae: no command {name!r}{hint}\n\n{usage()}", file=sys.stderr)
        return 2
    return guarded(f"videomae {name}", importlib.import_module(COMMANDS[name][0]).main, rest)


def guarded(name: str, command: Callable[[list[str]], int | None], argv: list[str]) -> int:
    """Run a command; what a user can cause is one line, not a traceback."""
    try:
        return command(argv) or 0
    except (ValueError, TypeError, OSError) as error:
        print(f"{name}: {explained(error, argv)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
