"""The command line of convert_original_checkpoint.py."""

from videomae.command_line import read_options
from videomae.conversion.options import ABOUT, ConvertOptions


def main(argv: list[str] | None = None) -> int:
    options = read_options(ConvertOptions, argv, command="convert", about=ABOUT)
    from videomae.convert_original_checkpoint import run

    return run(options)
