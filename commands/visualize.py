"""Pictures of what a model rebuilds of a video and where it looks: `videomae visualize FOLDER video.mp4`.

    videomae visualize FOLDER video.mp4                              # by the kind of model: reconstruction or attention
    videomae visualize FOLDER video.mp4 --statistics nearby patch    # beside the leak-free picture the official one
    videomae visualize FOLDER video.mp4 --show attention --layer 0 -1 --head 0 1 2

Writes PNG, GIF and MP4 of each, and visualization.json, which says what was done. The clip is the one that the model's
saved policy takes for a file. Making and drawing the pictures is the work of the package `pictures`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from videomae.configuration_videomae import VideoMAEConfig
from videomae.files import check_output, write_atomic, write_json
from videomae.masking_videomae import MASKS
from videomae.models import open_config, open_device, open_processor
from videomae.pictures.attention import MEAN
from videomae.pictures.clip import Clip, read_clip
from videomae.pictures.drawing import Row, film, gif_bytes, grid_picture, mp4_bytes, png_bytes
from videomae.pictures.reconstruction import STATISTICS
from videomae.pictures.views import attention_views, open_encoder, open_pretrained, rebuilt_clip, reconstruction_views

SHOWS = ("reconstruction", "attention")
FORMATS = ("png", "gif", "mp4")


def head_name(text: str) -> int | str:
    return text if text == MEAN else int(text)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="videomae visualize", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("model", help="a model: a folder or a name on the Hub")
    made.add_argument("video", help="the video file")
    made.add_argument("--output", help="folder for the pictures [VIDEO-pictures in this folder]")
    made.add_argument(
        "--show",
        nargs="+",
        choices=SHOWS,
        help="what to draw [reconstruction for a pre-training model, attention for any other]",
    )
    made.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS, help="files to write [png gif mp4]")
    made.add_argument("--device", help="such as cpu or cuda [what there is]")

    clip = made.add_argument_group("the clip")
    clip.add_argument("--start_seconds", type=float, help="where it starts [where the model's saved policy says]")
    clip.add_argument("--stride_frames", type=int, help="frames from one of its frames to the next [the policy's]")

    hiding = made.add_argument_group("reconstruction")
    hiding.add_argument("--mask", choices=MASKS, default="tube", help="what is hidden from the encoder [tube]")
    hiding.add_argument("--mask_ratio", type=float, help="share that is hidden [0.9; of running_cell 0.5]")
    hiding.add_argument("--decoder_mask", choices=MASKS, help="what the decoder leaves out, as V2 trains [nothing]")
    hiding.add_argument("--decoder_mask_ratio", type=float, default=0.5, help="share that it leaves out [0.5]")
    hiding.add_argument("--seed", type=int, default=0, help="of the masks [0]")
    hiding.add_argument(
        "--statistics",
        nargs="+",
        choices=STATISTICS,
        default=["nearby"],
        help="brightness and contrast of rebuilt patches, for models with norm_pix_loss: guessed from visible patches "
        "around them (nearby) or from all visible ones (visible), the true ones as the official code does, which "
        "leaks the answer (patch), or left out of the picture (none); several give several pictures [nearby]",
    )

    looking = made.add_argument_group("attention")
    looking.add_argument("--layer", nargs="+", type=int, default=[-1], help="counted from 0, or from the end [-1]")
    looking.add_argument(
        "--head", nargs="+", type=head_name, default=[MEAN], help="counted from 0, or mean of all [mean]"
    )
    looking.add_argument(
        "--query",
        nargs=3,
        type=int,
        metavar=("SLOT", "ROW", "COLUMN"),
        help="the token whose attention is drawn [the mean of what all tokens look at]",
    )

    looks = made.add_argument_group("the pictures")
    looks.add_argument("--columns", type=int, default=8, help="frames in a row of the PNG [8]")
    looks.add_argument(
        "--height", type=int, default=224, help="height of a frame in GIF and MP4; PNG: half of it [224]"
    )
    return made


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    folder = Path(args.output or f"{Path(args.video).stem}-pictures")
    check_output(folder)
    for name, least in (("columns", 1), ("height", 32)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name} must be at least {least}, not {getattr(args, name)}")
    device = open_device(args.device)
    config = open_config(args.model, "model")
    kind = (config.architectures or [""])[0]
    shows = args.show or [SHOWS[0] if kind.endswith("ForPreTraining") else SHOWS[1]]
    if SHOWS[0] in shows:
        open_config(args.model, "model", kind="ForPreTraining")
    transformers_logging.disable_progress_bar()
    clip = read_clip(
        args.video,
        open_processor(args.model, config),
        config,
        start_seconds=args.start_seconds,
        stride_frames=args.stride_frames,
    )
    record: dict[str, Any] = {"model": args.model, "video": Path(args.video).name, "seconds": list(clip.seconds)}
    drawn: dict[str, list] = {}  # rows and notes
    for show, draw in zip(SHOWS, (reconstruction_rows, attention_rows)):
        if show in shows:
            *drawn[show], record[show] = draw(args, config, clip, device)
    written: list[str] = []  # only now: a mistake in one of them leaves nothing behind
    for show, (rows, notes) in drawn.items():
        written += write_pictures(folder, show, rows, notes, clip, args)
        print("\n".join(notes))
    write_json(folder / "visualization.json", record)
    print(f"{folder}/ has {', '.join([*written, 'visualization.json'])}")
    return 0


def write_pictures(
    folder: Path, name: str, rows: Sequence[Row], notes: Sequence[str], clip: Clip, args: argparse.Namespace
) -> list[str]:
    """The same rows in every format that was asked for; returns the names of the files."""
    written = []
    if "png" in args.formats:
        picture = grid_picture(
            rows, notes=notes, seconds=clip.seconds, columns=args.columns, height=max(args.height // 2, 32)
        )
        write_atomic(folder / f"{name}.png", png_bytes(picture))
        written.append(f"{name}.png")
    moving = {"gif": gif_bytes, "mp4": mp4_bytes}
    if moving.keys() & set(args.formats):
        frames = film(rows, notes=notes, height=args.height)
        for suffix in moving:
            if suffix in args.formats:
                write_atomic(folder / f"{name}.{suffix}", moving[suffix](frames, clip.frame_seconds))
                written.append(f"{name}.{suffix}")
    return written


# ------------------------------------------------------------------------------------------------------ reconstruction


def reconstruction_rows(
    args: argparse.Namespace, config: VideoMAEConfig, clip: Clip, device: torch.device
) -> tuple[list[Row], list[str], dict[str, Any]]:
    """Rows of frames with their titles, the notes below them, and the facts for the record."""
    model = open_pretrained(args.model).to(device)
    ratio = args.mask_ratio if args.mask_ratio is not None else 0.5 if args.mask == "running_cell" else 0.9
    made = rebuilt_clip(
        model,
        clip,
        mask=args.mask,
        mask_ratio=ratio,
        decoder_mask=args.decoder_mask,
        decoder_mask_ratio=args.decoder_mask_ratio,
        seed=args.seed,
    )
    statistics = list(dict.fromkeys(args.statistics)) if made.normalised else args.statistics[:1]
    rows, notes = reconstruction_views(made, statistics)
    hidden, tokens = int(made.hidden.sum()), len(made.hidden)
    facts = {
        "mask": args.mask,
        "mask_ratio": ratio,
        "decoder_mask": args.decoder_mask,
        "decoder_mask_ratio": args.decoder_mask_ratio if args.decoder_mask else None,
        "seed": args.seed,
        "tokens": tokens,
        "hidden": hidden,
        "rebuilt": int(made.rebuilt.sum()),
        "norm_pix_loss": made.normalised,
        "statistics": {name: {"note": made.note(name), "mean_absolute_error": made.error(name)} for name in statistics},
    }
    head = f"{args.mask} mask: {hidden} of {tokens} tokens are hidden"
    if args.decoder_mask:
        head += f", {facts['rebuilt']} of them are rebuilt ({args.decoder_mask} decoder mask; the others are dark)"
    return rows, [f"{head}.", *notes], facts


# ----------------------------------------------------------------------------------------------------------- attention


def attention_rows(
    args: argparse.Namespace, config: VideoMAEConfig, clip: Clip, device: torch.device
) -> tuple[list[Row], list[str], dict[str, Any]]:
    """Rows of frames with their titles, the notes below them, and the facts for the record."""
    encoder = open_encoder(args.model).to(device)
    query = None if args.query is None else tuple(args.query)
    rows, notes, maps = attention_views(encoder, clip, layers=args.layer, heads=args.head, query=query)
    facts = {
        "grid": list(maps[0][2].shape),
        "query": args.query,
        "maps": [
            {"layer": layer, "head": head, "least": float(values.min()), "greatest": float(values.max())}
            for layer, head, values in maps
        ],
    }
    return rows, notes, facts
