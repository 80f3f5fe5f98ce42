"""Merge the classes of several labelled sets into one training list, as Kinetics-710 was made.

    videomae merge-labels MERGED --expect 710 \\
        --set k400 train=k400/train.csv test=k400/val.csv data_root=/data/k400 \\
        --set k600 train=k600/train.csv test=k600/val.csv data_root=/data/k600

A --set is NAME train=LIST [test=LIST ...] [data_root=FOLDER] [class_names=FILE]. The rules of merging stand in
data/lists/merge.py.
"""

from dataclasses import dataclass

from videomae.command_line import REQUIRED, argument, check_path, option, read_options

SET_KINDS = {"train": "path", "test": "path", "data_root": "folder", "class_names": "file"}


@dataclass(frozen=True, kw_only=True)
class Options:
    output: str = argument("folder to write")
    set: tuple[tuple[str, ...], ...] = option(REQUIRED, "options", "a labelled set; once for each", metavar="SET")
    aliases: str | None = option(
        None, "options", "CSV `name,other name` a line: classes that are one under two names", kind="file"
    )
    hash: bool = option(False, "options", "also compare contents (reads files of equal size)")
    expect: int | None = option(None, "options", "stop unless this many classes come out (710 for Kinetics)")

    def __post_init__(self):
        for name, *pairs in self.set:
            for key, _, value in (pair.partition("=") for pair in pairs):
                if key in SET_KINDS:
                    check_path(f"--set {name} {key}", value, SET_KINDS[key])


def main(argv: list[str] | None = None) -> int:
    options = read_options(Options, argv, command="merge-labels", about=__doc__)
    from videomae.data.lists.merge import merge, parse_set, read_aliases, write_merged

    aliases = read_aliases(options.aliases) if options.aliases else {}
    merged = merge([parse_set(words) for words in options.set], aliases=aliases, by_content=options.hash)
    if options.expect:
        merged.check_count(options.expect)
    write_merged(merged, options.output)
    report = merged.report
    print(f"{report['videos']} videos of {report['classes']} classes in {options.output}/train.csv")
    for name, count in report["sets"].items():
        print(
            f"  {name}: {count['kept']} of {count['videos']} kept, {count['leaks']} in a test list, "
            f"{count['duplicates']} duplicates"
        )
    return 0
