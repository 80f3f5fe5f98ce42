"""What a model folder rebuilds of a clip, and where it looks, as pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from videomae.choices import MEAN, PICTURE_FORMATS, PICTURES
from videomae.files import check_output, write_atomic, write_json
from videomae.masking_videomae import make_mask
from videomae.modeling_videomae import VideoMAEForPreTraining, VideoMAEModel
from videomae.models import open_config, open_device, open_model, open_processor
from videomae.pictures.attention import attention_maps, legend, overlay
from videomae.pictures.clip import Clip, read_clip
from videomae.pictures.drawing import Row, film, gif_bytes, grid_picture, mp4_bytes, png_bytes
from videomae.pictures.reconstruction import Reconstruction, reconstruct

RECORD = "visualization.json"
TITLES = {
    "nearby": "rebuilt",
    "visible": "rebuilt,\nmean statistics",
    "patch": "rebuilt with true\nstatistics (LEAK)",
    "none": "rebuilt,\nnormalised",
}


def open_pretrained(model: str) -> VideoMAEForPreTraining:
    """A pre-trained model with its decoder; a folder without one is an error."""
    way_out = "its decoder is not whole, so it can rebuild nothing; give a model that was saved with its decoder"
    return open_model(VideoMAEForPreTraining, model, way_out=way_out)


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
    """Input, what was seen, and the rebuilt clip by each way of putting statistics back; and the notes."""
    rows: list[Row] = [("input", made.input()), ("seen", made.seen())]
    notes = []
    for name in statistics:
        if made.normalised and name == "none":
            rows.append(("input,\nnormalised", made.input(name)))
        rows.append((TITLES[name] if made.normalised else "rebuilt", made.output(name)))
        notes.append(f"{made.note(name)} Mean difference of rebuilt pixels: {made.error(name):.3f} of 1.")
    return rows, notes


def open_encoder(model: str) -> VideoMAEModel:
    """The encoder of any VideoMAE model; the final norm, which some keep and some do not, has no part in attention."""
    return open_model(VideoMAEModel, model, may_lack=r"(layernorm|fc_norm)\..*")


def attention_views(
    encoder: VideoMAEModel,
    clip: Clip,
    *,
    layers: Sequence[int] = (-1,),
    heads: Sequence[int | str] = (MEAN,),
    query: tuple[int, int, int] | None = None,
) -> tuple[list[Row], list[str], list[tuple[int, int | str, torch.Tensor]]]:
    """The input and an overlay for each layer and head, the notes, and the maps (layer, head, (t, h, w))."""
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


# ------------------------------------------------------------------------------------------------------- to files


class Drawn(NamedTuple):
    """Rows of frames with their titles, the notes below them, and the facts for the record."""

    rows: list[Row]
    notes: list[str]
    facts: dict[str, Any]


def draw_reconstruction(
    model: VideoMAEForPreTraining,
    clip: Clip,
    *,
    mask: str,
    mask_ratio: float | None,
    decoder_mask: str | None,
    decoder_mask_ratio: float,
    seed: int,
    statistics: Sequence[str],
) -> Drawn:
    """What the model rebuilds; without a ratio 0.9 of the tokens are hidden, of running cells half."""
    ratio = mask_ratio if mask_ratio is not None else 0.5 if mask == "running_cell" else 0.9
    masks: dict[str, Any] = {
        "mask": mask,
        "mask_ratio": ratio,
        "decoder_mask": decoder_mask,
        "decoder_mask_ratio": decoder_mask_ratio,
        "seed": seed,
    }
    made = rebuilt_clip(model, clip, **masks)
    statistics = list(dict.fromkeys(statistics)) if made.normalised else statistics[:1]
    rows, notes = reconstruction_views(made, statistics)
    hidden, tokens, rebuilt = int(made.hidden.sum()), len(made.hidden), int(made.rebuilt.sum())
    facts = {
        **masks,
        "decoder_mask_ratio": decoder_mask_ratio if decoder_mask else None,
        "tokens": tokens,
        "hidden": hidden,
        "rebuilt": rebuilt,
        "norm_pix_loss": made.normalised,
        "statistics": {name: {"note": made.note(name), "mean_absolute_error": made.error(name)} for name in statistics},
    }
    head = f"{mask} mask: {hidden} of {tokens} tokens are hidden"
    if decoder_mask:
        head += f", {rebuilt} of them are rebuilt ({decoder_mask} decoder mask; the others are dark)"
    return Drawn(rows, [f"{head}.", *notes], facts)


def draw_attention(
    encoder: VideoMAEModel,
    clip: Clip,
    *,
    layers: Sequence[int],
    heads: Sequence[int | str],
    query: tuple[int, int, int] | None,
) -> Drawn:
    rows, notes, maps = attention_views(encoder, clip, layers=layers, heads=heads, query=query)
    facts = {
        "grid": list(maps[0][2].shape),
        "query": None if query is None else list(query),
        "maps": [
            {"layer": layer, "head": head, "least": float(values.min()), "greatest": float(values.max())}
            for layer, head, values in maps
        ],
    }
    return Drawn(rows, notes, facts)


def write_pictures(
    folder: Path,
    name: str,
    drawn: Drawn,
    clip: Clip,
    *,
    formats: Sequence[str] = PICTURE_FORMATS,
    columns: int = 8,
    height: int = 224,
) -> list[str]:
    """The same rows in every format that is asked for; returns the names of the files."""
    written = []
    if "png" in formats:
        picture = grid_picture(
            drawn.rows, notes=drawn.notes, seconds=clip.seconds, columns=columns, height=max(height // 2, 32)
        )
        write_atomic(folder / f"{name}.png", png_bytes(picture))
        written.append(f"{name}.png")
    moving = {"gif": gif_bytes, "mp4": mp4_bytes}
    if moving.keys() & set(formats):
        frames = film(drawn.rows, notes=drawn.notes, height=height)
        for suffix in moving:
            if suffix in formats:
                write_atomic(folder / f"{name}.{suffix}", moving[suffix](frames, clip.frame_seconds))
                written.append(f"{name}.{suffix}")
    return written


def visualize(
    model: str,
    video: str,
    folder: Path,
    *,
    show: Sequence[str] = (),
    device: str | None = None,
    start_seconds: float | None = None,
    stride_frames: int | None = None,
    layer: Sequence[int] = (-1,),
    head: Sequence[int | str] = (MEAN,),
    query: tuple[int, int, int] | None = None,
    formats: Sequence[str] = PICTURE_FORMATS,
    columns: int = 8,
    height: int = 224,
    errors: str = "strict",
    **masks: Any,
) -> tuple[list[str], list[str]]:
    """Draw what a model folder makes of a video file into `folder`; returns the names of the files, and the notes.

    show: reconstruction, attention, or both; by default what suits the kind of model. masks: as `draw_reconstruction`
    has them. A mistake in one picture leaves nothing behind.
    """
    check_output(folder)
    where = open_device(device)
    config = open_config(model, "MODEL")
    pretrained = (config.architectures or [""])[0].endswith("ForPreTraining")
    show = show or (PICTURES[:1] if pretrained else PICTURES[1:])
    if "reconstruction" in show:
        open_config(model, "MODEL", kind="ForPreTraining")
    processor = open_processor(model, config)
    clip = read_clip(video, processor, config, start_seconds=start_seconds, stride_frames=stride_frames, errors=errors)
    drawn: dict[str, Drawn] = {}
    if "reconstruction" in show:
        drawn["reconstruction"] = draw_reconstruction(open_pretrained(model).to(where), clip, **masks)
    if "attention" in show:
        encoder = open_encoder(model).to(where)
        drawn["attention"] = draw_attention(encoder, clip, layers=layer, heads=head, query=query)
    written: list[str] = []
    for name, pictures in drawn.items():
        written += write_pictures(folder, name, pictures, clip, formats=formats, columns=columns, height=height)
    record = {"model": model, "video": Path(video).name, "seconds": list(clip.seconds)}
    record |= {name: pictures.facts for name, pictures in drawn.items()}
    write_json(folder / RECORD, record)
    return [*written, RECORD], [note for pictures in drawn.values() for note in pictures.notes]
