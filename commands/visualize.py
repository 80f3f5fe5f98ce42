"""Pictures of what a model rebuilds of a video and where it looks: `videomae visualize FOLDER video.mp4`.

    videomae visualize FOLDER video.mp4                              # by the kind of model: reconstruction or attention
    videomae visualize FOLDER video.mp4 --statistics nearby patch    # beside the leak-free picture the official one
    videomae visualize FOLDER video.mp4 --show attention --layer 0 -1 --head 0 1 2

Writes PNG, GIF and MP4 of each, and visualization.json, which says what was done. The clip is the one that the model's
saved policy takes for a file.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from videomae.choices import MASKS, MEAN, PICTURE_FORMATS, PICTURES, STATISTICS
from videomae.command_line import argument, errors_option, option, read_options


def head_of(word: str) -> int | str:
    """A head by its number, or the mean of all."""
    if word != MEAN and not word.lstrip("-").isdigit():
        raise ValueError(f"a head is a number or {MEAN}, not {word!r}")
    return word if word == MEAN else int(word)


@dataclass(frozen=True, kw_only=True)
class Options:
    model: str = argument("a model: a folder or a name on the Hub", kind="model")
    video: str = argument("the video file", kind="file")
    output: str | None = option(
        None, "pictures", "folder for the pictures [VIDEO-pictures in this folder]", metavar="FOLDER"
    )
    show: tuple[str, ...] = option(
        (),
        "pictures",
        "what to draw [reconstruction for a pre-training model, attention for any other]",
        choices=PICTURES,
        metavar="WHAT",
    )
    formats: tuple[str, ...] = option(
        PICTURE_FORMATS, "pictures", "files to write", choices=PICTURE_FORMATS, metavar="FORMAT"
    )
    columns: int = option(8, "pictures", "frames in a row of the PNG", least=1)
    height: int = option(224, "pictures", "height of a frame in GIF and MP4; PNG: half of it", least=32)
    device: str | None = option(None, "pictures", "such as cpu or cuda [what there is]", metavar="DEVICE")

    start_seconds: float | None = option(None, "the clip", "where it starts [where the model's saved policy says]")
    stride_frames: int | None = option(None, "the clip", "frames from one of its frames to the next [the policy's]")

    errors: str = errors_option("the clip")

    mask: str = option("tube", "reconstruction", "what is hidden from the encoder", choices=MASKS)
    mask_ratio: float | None = option(None, "reconstruction", "share that is hidden [0.9; of running_cell 0.5]")
    decoder_mask: str | None = option(
        None, "reconstruction", "what the decoder leaves out, as V2 trains [nothing]", choices=MASKS
    )
    decoder_mask_ratio: float = option(0.5, "reconstruction", "share that it leaves out")
    seed: int = option(0, "reconstruction", "of the masks")
    statistics: tuple[str, ...] = option(
        ("nearby",),
        "reconstruction",
        "brightness and contrast of rebuilt patches, for models with norm_pix_loss: guessed from visible patches around "
        "them (nearby) or from all visible ones (visible), the true ones as the official code does, which leaks the "
        "answer (patch), or left out of the picture (none); several give several pictures",
        choices=STATISTICS,
        metavar="NAME",
    )

    layer: tuple[int, ...] = option((-1,), "attention", "counted from 0, or from the end", metavar="N")
    head: tuple[str, ...] = option((MEAN,), "attention", "counted from 0, or mean of all", convert=head_of, metavar="N")
    query: tuple[int, int, int] | None = option(
        None,
        "attention",
        "the token whose attention is drawn [the mean of what all tokens look at]",
        metavar=("SLOT", "ROW", "COLUMN"),
    )


def main(argv: list[str] | None = None) -> int:
    options = asdict(read_options(Options, argv, command="visualize", about=__doc__))
    from transformers.utils import logging as transformers_logging

    from videomae.pictures.views import visualize

    transformers_logging.disable_progress_bar()
    model, video = options.pop("model"), options.pop("video")
    folder = Path(options.pop("output") or f"{Path(video).stem}-pictures")
    written, notes = visualize(model, video, folder, **options)
    print("\n".join(notes))
    print(f"{folder}/ has {', '.join(written)}")
    return 0
