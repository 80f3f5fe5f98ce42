"""Check a model folder and upload it to the Hub: `videomae publish FOLDER OWNER/NAME`."""

from dataclasses import dataclass
from pathlib import Path

from videomae.choices import ALLOWED_MISSING
from videomae.command_line import argument, option, read_options


@dataclass(frozen=True, kw_only=True)
class Options:
    folder: str = argument("what save_pretrained, a training run or `videomae convert` wrote", kind="folder")
    name: str = argument("the repository on the Hub", metavar="OWNER/NAME")
    license: str | None = option(
        None, "the card", "terms of the weights, if the folder's card has none", metavar="NAME"
    )
    labels: str | None = option(
        None,
        "the card",
        "names of the classes, if config.json has none: a known set (kinetics400, ...) or a file",
        metavar="FILE",
    )
    results: tuple[str, ...] = option((), "the card", "of `videomae evaluate`, for the card", kind="file")
    allow_missing: tuple[str, ...] = option(
        (), "the card", f"continue without: {', '.join(ALLOWED_MISSING)}", choices=ALLOWED_MISSING, metavar="WHAT"
    )
    private: bool = option(False, "the upload", "make the repository private")
    update: bool = option(False, "the upload", "the repository has files already: replace the model in it")
    message: str = option("Publish the model", "the upload", "of the commit")
    no_check: bool = option(False, "the upload", "do not load the folder in fresh processes first")
    dry_run: bool = option(False, "the upload", "show the files and the card, upload nothing")


def main(argv: list[str] | None = None) -> int:
    options = read_options(Options, argv, command="publish", about=__doc__)
    from transformers.utils import logging

    from videomae.publishing.upload import publish

    logging.disable_progress_bar()  # of loading: what is checked is reported in lines
    url = publish(
        Path(options.folder),
        options.name,
        license=options.license,
        labels=options.labels,
        allow_missing=options.allow_missing,
        results=tuple(map(Path, options.results)),
        private=options.private,
        update=options.update,
        message=options.message,
        check=not options.no_check,
        dry_run=options.dry_run,
    )
    if url:
        print(f"published: {url}")
    return 0
