"""Check a model folder and upload it to the Hub: `videomae publish FOLDER OWNER/NAME`."""

import argparse
from pathlib import Path

from videomae.publishing.publication import (
    MISSING,
)
from videomae.publishing.upload import publish


def main(argv: list[str] | None = None) -> int:
    from transformers.utils import logging

    args = parse(argv)
    logging.disable_progress_bar()  # of loading: what is checked is said in lines
    url = publish(
        args.folder,
        args.name,
        license=args.license,
        labels=args.labels,
        allow_missing=args.allow_missing,
        results=args.results,
        private=args.private,
        update=args.update,
        message=args.message,
        check=not args.no_check,
        dry_run=args.dry_run,
    )
    if url:
        print(f"published: {url}")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="videomae publish", description="Check a model folder and upload it to the Hub."
    )
    parser.add_argument("folder", type=Path, help="what save_pretrained, a training run or `videomae convert` wrote")
    parser.add_argument("name", metavar="OWNER/NAME", help="the repository on the Hub")
    parser.add_argument("--license", metavar="NAME", help="terms of the weights, if the folder's card has none")
    parser.add_argument("--labels", metavar="FILE", help="names of the classes, if config.json has none")
    parser.add_argument(
        "--allow_missing",
        nargs="+",
        choices=MISSING,
        default=(),
        metavar="WHAT",
        help=f"go on without: {', '.join(MISSING)}",
    )
    parser.add_argument(
        "--results", nargs="+", type=Path, default=(), metavar="FILE", help="of `videomae evaluate`, for the card"
    )
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument(
        "--update", action="store_true", help="the repository has files already: replace the model in it"
    )
    parser.add_argument("--message", default="Publish the model", help="of the commit (%(default)s)")
    parser.add_argument("--no_check", action="store_true", help="do not load the folder in fresh processes first")
    parser.add_argument("--dry_run", action="store_true", help="show the files and the card, upload nothing")
    return parser.parse_args(argv)
