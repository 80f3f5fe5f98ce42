"""Pictures of what a model rebuilds of a video and where it looks: `videomae visualize FOLDER video.mp4`.

    videomae visualize FOLDER video.mp4                              # by the kind of model: reconstruction or attention
    videomae visualize FOLDER video.mp4 --statistics nearby patch    # beside the leak-free picture the official one
    videomae visualize FOLDER video.mp4 --show attention --layer 0 -1 --head 0 1 2

Writes PNG, GIF and MP4 of each, and visualization.json, which says what was done. The clip is the one that the model's
saved policy takes for a file. Making and drawing the pictures is the work of the package `pictures`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from videomae.configuration_videomae import VideoMAEConfig
from videomae.files import check_output, write_atomic, write_json
from videomae.masking_videomae import MASKS, make_mask
from videomae.model_source import open_config, open_device, open_processor
from videomae.modeling_videomae import VideoMAEForPreTraining, VideoMAEModel
from videomae.pictures.attention import MEAN, attention_maps, legend, overlay
from videomae.pictures.clip import Clip, read_clip
from videomae.pictures.drawing import Row, film, gif_bytes, grid_picture, mp4_bytes, png_bytes
from videomae.pictures.reconstruction import STATISTICS, Reconstruction, reconstruct
from videomae.training.classifiers import quiet_loading

SHOWS = ("reconstruction", "attention")
FORMATS = ("png", "gif", "mp4")
TITLES = {
    "nearby": "rebuilt",
    "visible": "rebuilt,\nmean statistics",
    "patch": "rebuilt with true\nstatistics (LEAK)",
    "none": "rebuilt,\nnormalised",
}


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


def open_pretrained(model: str) -> VideoMAEForPreTraining:
    """A pre-trained model with its decoder; a folder without one would show what random weights say."""
    with quiet_loading():
        made, report = VideoMAEForPreTraining.from_pretrained(model, dtype=torch.float32, output_loading_info=True)
    if report["missing_keys"]:
        names = sorted(report["missing_keys"])
        raise ValueError(
            f"{model} has no weights for {len(names)} tensors ({names[0]}, ...), so it can rebuild nothing; give a "
            "model that was saved with its decoder"
        )
    return made.eval()


def rebuilt_clip(
    model: VideoMAEForPreTraining,
    clip: Clip,
    *,
    mask: str = "tube",
    mask_ratio: float = 0.9,
    decoder_mask: str | None = None,
    decoder_mask_ratio: float = 0.5,
    seed: int = 0,
) -> Reconstruction:
    """Hide and rebuild a clip by masks of the given kinds; equal seeds give equal masks."""
    config, device = model.config, model.device
    T, _, H, W = clip.pixel_values.shape
    grid = (T // config.tubelet_size, H // config.patch_hw[0], W // config.patch_hw[1])
    generator = torch.Generator().manual_seed(seed)
    hidden = make_mask(mask, grid, mask_ratio, generator)
    if hidden.all() or not hidden.any():
        what = "every token, so the encoder sees nothing" if hidden.all() else "no token, so nothing is rebuilt"
        raise ValueError(f"mask {mask} of ratio {mask_ratio:g} hides {what}; choose another mask_ratio")
    decoded = None
    if decoder_mask:
        decoded = ~make_mask(decoder_mask, grid, decoder_mask_ratio, generator)
        if not (decoded & hidden).any():
            raise ValueError(
                f"decoder mask {decoder_mask} of ratio {decoder_mask_ratio:g} leaves out every hidden token, so nothing "
                "is rebuilt; lower decoder_mask_ratio"
            )
    return reconstruct(
        model,
        clip.pixel_values.to(device),
        hidden.to(device),
        bool_decoded_pos=None if decoded is None else decoded.to(device),
        interpolate_pos_encoding=grid != config.grid,
    )


def reconstruction_views(made: Reconstruction, statistics: Sequence[str]) -> tuple[list[Row], list[str]]:
    """Input, what was seen, and the rebuilt clip by each way of putting statistics back; with what is to be said."""
    rows: list[Row] = [("input", made.input()), ("seen", made.seen())]
    notes = []
    for name in statistics:
        if made.normalised and name == "none":
            rows.append(("input,\nnormalised", made.input(name)))
        rows.append((TITLES[name] if made.normalised else "rebuilt", made.output(name)))
        notes.append(f"{made.note(name)} Mean difference of rebuilt pixels: {made.error(name):.3f} of 1.")
    return rows, notes


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


def open_encoder(model: str) -> VideoMAEModel:
    """The encoder of any VideoMAE model; the final norm, which some keep and some do not, has no part in attention."""
    with quiet_loading():  # that a head or a decoder is left out is the point here
        made, report = VideoMAEModel.from_pretrained(model, dtype=torch.float32, output_loading_info=True)
    missing = sorted(name for name in report["missing_keys"] if "norm." not in name or ".layer." in name)
    if missing:
        raise ValueError(
            f"{model} has no weights for {len(missing)} tensors of the encoder ({missing[0]}, ...); the folder is "
            "not complete"
        )
    return made.eval()


def attention_views(
    encoder: VideoMAEModel,
    clip: Clip,
    *,
    layers: Sequence[int] = (-1,),
    heads: Sequence[int | str] = (MEAN,),
    query: tuple[int, int, int] | None = None,
) -> tuple[list[Row], list[str], list[tuple[int, int | str, torch.Tensor]]]:
    """The input and an overlay for each layer and head, what is to be said, and the maps (layer, head, (t, h, w))."""
    maps = attention_maps(
        encoder, clip.pixel_values.to(encoder.device, encoder.dtype), layers=layers, heads=heads, query=query
    )
    frames = clip.frames()
    rows: list[Row] = [("input", frames)]
    whose = "of the framed token" if query else "that each place receives from all tokens"
    notes = [f"Attention {whose}, as a multiple of even attention; each row has its own colours."]
    for (layer, head), values in maps.items():
        name = "mean of heads" if head == MEAN else f"head {head}"
        rows.append((f"layer {layer},\n{name}", overlay(frames, values, query)))
        notes.append(f"Layer {layer}, {name}: {legend(values)}.")
    return rows, notes, [(layer, head, values) for (layer, head), values in maps.items()]


if __name__ == "__main__":
    from videomae.commands.main import guarded

    sys.exit(guarded("videomae visualize", main, sys.argv[1:]))
