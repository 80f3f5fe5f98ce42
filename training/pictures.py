"""Pictures of what a pre-trained model rebuilds: the clip, what the encoder saw of it, and the whole put together.

A model trained with `norm_pix_loss` predicts patches without their brightness and contrast. Putting back the true ones
(`statistics="patch"`, as the official run_videomae_vis.py does) shows something of the hidden patches that the model did
not say; `statistics="visible"` puts back the averages of the patches that were visible in the clip, and leaks nothing.
"""

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from videomae.modeling_videomae import VideoMAEForPreTraining, patchify

STATISTICS = ("patch", "visible")
HIDDEN = 0.5  # the grey of what the encoder did not see


# T frames  C channels  H W pixels | t h w patch grid, N = t*h*w tokens | u frames in a tubelet, p pixels along a patch
@torch.no_grad()
def reconstruction(
    model: VideoMAEForPreTraining,
    pixel_values: Tensor,
    bool_masked_pos: Tensor,
    *,
    statistics: str = "patch",
    interpolate_pos_encoding: bool = False,
) -> dict[str, Tensor]:
    """One clip (T, C, H, W) with its mask (N,): "input", "seen" and "rebuilt" as (T, H, W, C) floats of [0, 1].

    Every hidden position is decoded, also for V2. The model is left in the mode it came in.
    """
    if statistics not in STATISTICS:
        raise ValueError(f"statistics must be one of {', '.join(STATISTICS)}, not {statistics!r}")
    config, training = model.config, model.training
    model.eval()
    try:
        batch, mask = pixel_values[None], bool_masked_pos[None]
        logits = model(batch, mask, interpolate_pos_encoding=interpolate_pos_encoding).logits[0].float()
    finally:
        model.train(training)
    mean, std = (torch.tensor(values, device=batch.device)[:, None, None] for values in config.pixel_statistics)
    patches = patchify(batch * std + mean, config.tubelet_size, config.patch_hw)  # (1, t, h, w, C, u, p, p)
    shape = patches.shape[1:]
    pixels = patches[0].flatten(0, 2).flatten(2)  # (N, C, u*p*p)
    predicted = logits.unflatten(-1, (-1, config.num_channels)).transpose(1, 2)  # (hidden, C, u*p*p)
    if config.norm_pix_loss:
        spread, centre = torch.std_mean(pixels, dim=-1, keepdim=True)
        if statistics == "patch":
            spread, centre = spread[bool_masked_pos], centre[bool_masked_pos]
        else:
            spread, centre = spread[~bool_masked_pos].mean(0), centre[~bool_masked_pos].mean(0)
        predicted = predicted * spread + centre
    rebuilt, seen = pixels.clone(), pixels.clone()
    rebuilt[bool_masked_pos] = predicted
    seen[bool_masked_pos] = HIDDEN
    views = {"input": pixels, "seen": seen, "rebuilt": rebuilt}
    return {name: _as_video(view.view(shape)).clamp(0, 1) for name, view in views.items()}


def picture(rows: Sequence[tuple[str, Tensor]], *, columns: int = 8, height: int = 112) -> Image.Image:
    """Rows of frames, each with its title: (title, (T, H, W, C) of [0, 1]). `columns` frames are spread over a clip."""
    title_width, gap = 64, 2
    tiles = []
    for title, video in rows:
        chosen = video.cpu()[torch.linspace(0, len(video) - 1, min(columns, len(video))).round().long()]
        frames = [Image.fromarray(_as_bytes(frame)) for frame in chosen]
        width = round(frames[0].width * height / frames[0].height)
        tiles.append((title, [frame.resize((width, height), Image.Resampling.BICUBIC) for frame in frames]))
    width = title_width + max(sum(frame.width + gap for frame in frames) for _, frames in tiles)
    canvas = Image.new("RGB", (width, len(tiles) * (height + gap)), "white")
    draw = ImageDraw.Draw(canvas)
    for row, (title, frames) in enumerate(tiles):
        top = row * (height + gap)
        draw.text((4, top + height // 2 - 6), title, fill="black")
        for column, frame in enumerate(frames):
            canvas.paste(frame, (title_width + column * (frame.width + gap), top))
    return canvas


def _as_video(patches: Tensor) -> Tensor:
    """(t, h, w, C, u, p, p) -> (t*u, h*p, w*p, C), the inverse of `patchify` for one clip."""
    t, h, w, channels, u, high, wide = patches.shape
    return patches.permute(0, 4, 1, 5, 2, 6, 3).reshape(t * u, h * high, w * wide, channels)


def _as_bytes(frame: Tensor):
    if frame.shape[-1] not in (1, 3):  # other modalities: the first channel, grey
        frame = frame[..., :1]
    return (frame * 255).round().to(torch.uint8).expand(*frame.shape[:2], 3).numpy()
