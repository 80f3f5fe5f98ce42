"""Make the synthetic motion set: `videomae make-data FOLDER`."""

import argparse

from videomae.data.synthetic import SyntheticSet, make_synthetic_set


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="videomae make-data", description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="where to write the set; a folder that holds the same set is kept")
    defaults = SyntheticSet()
    for name in ("clips", "validation_clips", "test_clips", "num_frames", "height", "width", "fps", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name), help="default %(default)s")
    arguments = vars(parser.parse_args(argv))
    folder = make_synthetic_set(arguments.pop("folder"), SyntheticSet(**arguments))
    print(f"wrote {folder}: {', '.join(f'{path.name}' for path in sorted(folder.glob('*.csv')))}, labels.txt")
    return 0
