"""Check the installation, a model folder or a data set, and say what to fix: `videomae doctor [FOLDER|LIST ...]`.

Ends with 0 if nothing is wrong and with 1 if something is.
"""

import json
from dataclasses import dataclass

from videomae.command_line import DONE, FAILED, argument, errors_option, option, read_options


@dataclass(frozen=True, kw_only=True)
class Options:
    targets: tuple[str, ...] = argument(
        "model folders, Hub names, data [the installation alone]", default=(), metavar="FOLDER|LIST", kind="weights"
    )
    data_root: str | None = option(None, "options", "where relative paths of a list start", kind="folder")
    videos_to_open: int | None = option(50, "options", "how many videos to open in part, or all", none="all", least=0)
    errors: str = errors_option("options")
    no_forward: bool = option(False, "options", "do not run the models")
    output: str | None = option(None, "options", "also write the whole report there, as JSON", metavar="FILE")
    json: bool = option(False, "options", "print the whole report as JSON instead of the text")


def main(argv: list[str] | None = None) -> int:
    options = read_options(Options, argv, command="doctor", about=__doc__)
    from videomae.files import write_json
    from videomae.inspection.doctor import examine, report_lines

    report = examine(
        options.targets,
        root=options.data_root,
        probe=options.videos_to_open,
        forward=not options.no_forward,
        errors=options.errors,
    )
    if options.json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print("\n".join(report_lines(report)))
    if options.output:
        write_json(options.output, report)
    return FAILED if report["problems"] else DONE
