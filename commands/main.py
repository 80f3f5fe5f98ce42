"""The `videomae` command: one line per sub-command, each imported only when it is called."""

import difflib
import importlib
import sys

import videomae
from videomae.command_line import DONE, USAGE, guarded

COMMANDS = {
    "demo": ("videomae.commands.demo", "make a synthetic data set, pre-train, fine-tune, test and label a video"),
    "evaluate": ("videomae.commands.evaluation", "multi-view test of a classifier, as the papers do it"),
    "scores": ("videomae.commands.scores", "what the scores of a test are worth: AUC, thresholds, calibration"),
    "label": ("videomae.commands.label", "labels of videos, whole and over time: tables, subtitles, stretches"),
    "detect": ("videomae.commands.detect", "who does what, when and where in a video"),
    "visualize": ("videomae.commands.visualize", "pictures of what a model rebuilds and where it looks"),
    "app": ("videomae.commands.app", "a page to try a classifier in the browser"),
    "features": ("videomae.commands.features", "features of a folder of videos: by window, by video, or all tokens"),
    "fvd": ("videomae.commands.fvd", "Fréchet video distance between two sets of features"),
    "probe": ("videomae.commands.probe", "linear, attentive and k-NN probes on frozen features"),
    "convert": ("videomae.commands.convert", "a released checkpoint to a from_pretrained folder"),
    "export": ("videomae.commands.export", "a classifier, a detector or features as an ONNX file"),
    "publish": ("videomae.commands.publish", "check a model folder and upload it to the Hub"),
    "cards": ("videomae.commands.cards", "make the model cards from zoo.yaml"),
    "doctor": (
        "videomae.commands.doctor",
        "check the installation, a model folder or a data set, and say what to fix",
    ),
    "check-data": ("videomae.commands.check_data", "look over a data set before training"),
    "check-labels": ("videomae.commands.check_labels", "find doubtful labels, duplicates and leaks of a data set"),
    "merge-labels": ("videomae.commands.merge_labels", "merge the classes of several labelled sets into one list"),
    "make-data": ("videomae.commands.make_data", "write a synthetic set whose classes are motions"),
    "make-ava": ("videomae.commands.make_ava", "write a synthetic set in AVA's format"),
    "ava-map": ("videomae.commands.ava_map", "frame mAP of a result file, as AVA measures it"),
    "prepare": ("videomae.commands.prepare", "re-encode a data set once into shards or a folder"),
    "pretrain": ("videomae.commands.pretrain", "pre-train VideoMAE or VideoMAE V2"),
    "finetune": ("videomae.commands.finetune", "fine-tune a classifier"),
    "train-detection": ("videomae.commands.train_detection", "train an action detector"),
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    last = "`videomae COMMAND --help` explains one, `videomae --version` says which version this is."
    return "\n".join(["usage: videomae COMMAND [--OPTION VALUE ...]", "", *lines, "", last])


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return DONE
    if argv[0] in ("-V", "--version"):
        print(f"videomae {videomae.__version__}")
        return DONE
    name, *rest = argv
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        print(f"videomae: no command {name!r}{hint}\n`videomae --help` lists them", file=sys.stderr)
        return USAGE
    return guarded(f"videomae {name}", importlib.import_module(COMMANDS[name][0]).main, rest)


if __name__ == "__main__":
    sys.exit(main())
