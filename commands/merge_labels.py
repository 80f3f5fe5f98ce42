"""Merge the classes of several labelled sets: `videomae merge-labels`."""

import argparse
import csv
from collections import defaultdict
from collections.abc import Sequence

from videomae.data.lists.layouts import open_manifest
from videomae.data.lists.merge import LabelledSet, merge, write_merged


def read_set(words: Sequence[str]) -> LabelledSet:
    """`NAME train=LIST [test=LIST ...] [root=FOLDER] [names=FILE]` as given on the command line."""
    from videomae.data.lists.label_files import read_names

    name, *pairs = words
    given: dict[str, list[str]] = defaultdict(list)
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or key not in ("train", "test", "root", "names"):
            raise ValueError(f"--set {name}: {pair!r} must be train=LIST, test=LIST, root=FOLDER or names=FILE")
        given[key].append(value)
    if len(given["train"]) != 1 or len(given["root"]) > 1 or len(given["names"]) > 1:
        raise ValueError(f"--set {name} needs one train=LIST, and at most one root= and names=")
    root = given["root"][0] if given["root"] else None
    names = read_names(given["names"][0]) if given["names"] else None
    train = open_manifest(given["train"][0], root=root, class_names=names)
    train.check_labels(classes=False)
    tests = tuple(open_manifest(test, root=root, class_names=train.class_names) for test in given["test"])
    return LabelledSet(name, train, tests)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="videomae merge-labels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("output", help="folder to write")
    parser.add_argument("--set", action="append", nargs="+", required=True, metavar="WORD", help="NAME train=LIST ...")
    parser.add_argument("--aliases", help="CSV `name,other name` a line: classes that are one under two names")
    parser.add_argument("--hash", action="store_true", help="also compare contents (reads files of equal size)")
    parser.add_argument("--expect", type=int, help="stop unless this many classes come out (710 for Kinetics)")
    arguments = parser.parse_args(argv)
    aliases = {}
    if arguments.aliases:
        with open(arguments.aliases, encoding="utf-8-sig", newline="") as file:
            aliases = {row[0]: row[1] for row in csv.reader(file) if row}
    merged = merge([read_set(words) for words in arguments.set], aliases=aliases, by_content=arguments.hash)
    if arguments.expect and len(merged.class_names) != arguments.expect:
        similar = "".join(f"\n  {one!r} and {other!r}" for one, other in merged.report["similar_names"][:20])
        raise ValueError(
            f"{len(merged.class_names)} classes come out, not {arguments.expect}; names that may be one class go into "
            f"--aliases. Nearly equal names:{similar or ' none'}"
        )
    write_merged(merged, arguments.output)
    report = merged.report
    print(f"{report['videos']} videos of {report['classes']} classes in {arguments.output}/train.csv")
    for name, count in report["sets"].items():
        print(
            f"  {name}: {count['kept']} of {count['videos']} kept, {count['leaks']} in a test list, {count['duplicates']} doubles"
        )
    return 0
