"""Make the synthetic motion set: `videomae make-data FOLDER`."""

from dataclasses import asdict, dataclass

from videomae.command_line import argument, option, read_options
from videomae.data.synthetic import SyntheticSet, make_synthetic_set


@dataclass(frozen=True, kw_only=True)
class Options:
    folder: str = argument("where to write the set; a folder that holds the same set is kept")
    clips: int = option(SyntheticSet.clips, "options", "videos to train on")
    validation_clips: int = option(SyntheticSet.validation_clips, "options", "videos to validate on")
    test_clips: int = option(SyntheticSet.test_clips, "options", "videos to test on")
    num_frames: int = option(SyntheticSet.num_frames, "options", "frames of a video")
    height: int = option(SyntheticSet.height, "options", "of a frame, in pixels")
    width: int = option(SyntheticSet.width, "options", "of a frame, in pixels")
    fps: int = option(SyntheticSet.fps, "options", "frames a second")
    seed: int = option(SyntheticSet.seed, "options", "of everything that is drawn")


def main(argv: list[str] | None = None) -> int:
    options = asdict(read_options(Options, argv, command="make-data", about=__doc__))
    folder = make_synthetic_set(options.pop("folder"), SyntheticSet(**options))
    print(f"wrote {folder}: {', '.join(f'{path.name}' for path in sorted(folder.glob('*.csv')))}, labels.txt")
    return 0
