"""What a model folder rebuilds of a clip, and where it looks, as pictures."""

from collections.abc import Sequence

import torch

from videomae.masking_videomae import make_mask
from videomae.modeling_videomae import VideoMAEForPreTraining, VideoMAEModel
from videomae.models import open_model
from videomae.pictures.attention import MEAN, attention_maps, legend, overlay
from videomae.pictures.clip import Clip
from videomae.pictures.drawing import Row
from videomae.pictures.reconstruction import Reconstruction, reconstruct

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
