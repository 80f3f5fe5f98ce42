"""Make a small synthetic set in AVA's format: `videomae make-ava FOLDER`."""

import argparse
from dataclasses import asdict

from videomae.data.ava.synthetic import SyntheticAva, make_synthetic_ava


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="videomae make-ava", description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="where to write the set; a folder that holds the same set is kept")
    defaults = SyntheticAva()
    for name in asdict(defaults):
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name), help="default %(default)s")
    arguments = vars(parser.parse_args(argv))
    folder = make_synthetic_ava(arguments.pop("folder"), SyntheticAva(**arguments))
    print(f"wrote {folder}: movies/, train.csv, val.csv, val_persons.csv, actions.pbtxt")
    return 0
