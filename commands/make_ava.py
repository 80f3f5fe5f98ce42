"""Make a small synthetic set in AVA's format: `videomae make-ava FOLDER`."""

from dataclasses import asdict, dataclass

from videomae.command_line import argument, option, read_options
from videomae.data.ava.synthetic import SyntheticAva, make_synthetic_ava


@dataclass(frozen=True, kw_only=True)
class Options:
    folder: str = argument("where to write the set; a folder that holds the same set is kept")
    movies: int = option(SyntheticAva.movies, "options", "movies to train on")
    validation_movies: int = option(SyntheticAva.validation_movies, "options", "movies to test on")
    seconds: int = option(SyntheticAva.seconds, "options", "length of a movie; each second but the ends is a key frame")
    height: int = option(SyntheticAva.height, "options", "of a frame, in pixels")
    width: int = option(SyntheticAva.width, "options", "of a frame, in pixels")
    fps: int = option(SyntheticAva.fps, "options", "frames a second")
    seed: int = option(SyntheticAva.seed, "options", "of everything that is drawn")


def main(argv: list[str] | None = None) -> int:
    options = asdict(read_options(Options, argv, command="make-ava", about=__doc__))
    folder = make_synthetic_ava(options.pop("folder"), SyntheticAva(**options))
    print(f"wrote {folder}: movies/, train.csv, val.csv, val_persons.csv, actions.pbtxt")
    return 0
