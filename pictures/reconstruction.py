"""What a pre-trained model rebuilds of a clip: the clip, what the encoder saw of it, and the whole put together.

A model trained with `norm_pix_loss` predicts patches without their brightness and contrast, and a picture needs some.
Putting back the true ones (`statistics="patch"`, as the official run_videomae_vis.py does) shows something of the
hidden patches that the model did not predict: the picture looks better than the model is. The other ways leak nothing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from videomae.modeling_videomae import VideoMAEForPreTraining, patchify

# How brightness and contrast are put back, and the note that goes with each way.
STATISTICS = {
    "nearby": "No leak: brightness and contrast of hidden patches are guessed from the visible patches around them.",
    "visible": "No leak: all hidden patches got the mean brightness and contrast of the visible ones.",
    "patch": "LEAK: each hidden patch got its own true brightness and contrast back, which the model did not predict.",
    "none": "No leak: patches are shown without brightness and contrast, as the model predicts them.",
}
PIXELS = "The model predicts pixels as they are; nothing true was put back into hidden patches."
HIDDEN = 0.5  # the grey of what the encoder did not see
LEFT_OUT = 0.15  # and of what the decoder did not rebuild
SPREAD = 6.0  # deviations of a normalised patch that black to white spans


@dataclass(frozen=True)
class Reconstruction:
    """A clip in patches, and what the model predicts for the hidden ones.

    pixels: (N, C, P) of [0, 1]. hidden, rebuilt: (N,) bool; rebuilt ones are hidden and were decoded.
    predicted: (rebuilt, C, P), normalised per patch where `normalised`. shape: (t, h, w, C, u, p, p).
    """

    pixels: Tensor
    hidden: Tensor
    rebuilt: Tensor
    predicted: Tensor
    normalised: bool
    shape: tuple[int, ...]

    def video(self, patches: Tensor) -> Tensor:
        """(N, C, P) -> (T, H, W, C), within [0, 1]."""
        return _as_video(patches.view(self.shape)).clamp(0, 1)

    def input(self, statistics: str = "patch") -> Tensor:
        """The clip itself, of "none" in normalised patches."""
        return self.video(_shades(_normalised(self.pixels)) if self._bare(statistics) else self.pixels)

    def seen(self) -> Tensor:
        """What the encoder saw; the rest is grey."""
        return self.video(self.pixels.masked_fill(self.hidden[:, None, None], HIDDEN))

    def output(self, statistics: str = "patch") -> Tensor:
        """Visible patches as they are and the rebuilt ones; what was hidden and not decoded is dark."""
        patches = _shades(_normalised(self.pixels)) if self._bare(statistics) else self.pixels.clone()
        patches[self.hidden] = LEFT_OUT
        patches[self.rebuilt] = self._rebuilt_pixels(statistics)
        return self.video(patches)

    def error(self, statistics: str = "patch") -> float:
        """Mean absolute difference of rebuilt patches and the true ones, in units of what is shown (0 to 1)."""
        truth = _shades(_normalised(self.pixels)) if self._bare(statistics) else self.pixels
        return float((self._rebuilt_pixels(statistics).clamp(0, 1) - truth[self.rebuilt].clamp(0, 1)).abs().mean())

    def note(self, statistics: str = "patch") -> str:
        """Whether anything of the hidden patches was put into the picture."""
        return STATISTICS[_checked(statistics)] if self.normalised else PIXELS

    def _bare(self, statistics: str) -> bool:
        return self.normalised and _checked(statistics) == "none"

    def _rebuilt_pixels(self, statistics: str) -> Tensor:
        if not self.normalised:
            return self.predicted
        if _checked(statistics) == "none":
            return _shades(self.predicted)
        spread, centre = torch.std_mean(self.pixels, dim=-1, keepdim=True)
        if statistics == "patch":
            spread, centre = spread[self.rebuilt], centre[self.rebuilt]
        else:
            spread, centre = spread[~self.hidden], centre[~self.hidden]
            if statistics == "visible":
                spread, centre = spread.mean(0), centre.mean(0)
            else:
                near = self._nearness()
                spread, centre = (torch.einsum("kv,vco->kco", near, values) for values in (spread, centre))
        return self.predicted * spread + centre

    def _nearness(self) -> Tensor:
        """(rebuilt, visible) weights that sum to one: distance to the power of -4, counted in patches and slots.

        The power is above the number of dimensions; else the many far patches would outweigh the few near ones.
        """
        places = torch.cartesian_prod(*(torch.arange(size, device=self.pixels.device) for size in self.shape[:3]))
        distance = torch.cdist(places[self.rebuilt].float(), places[~self.hidden].float())
        weight = distance.clamp_min(1.0) ** -4  # a hidden place is never a visible one
        return weight / weight.sum(1, keepdim=True)


# T frames  C channels  H W pixels | t h w patch grid, N = t*h*w tokens | u frames in a tubelet, p pixels along a patch
@torch.no_grad()
def reconstruct(
    model: VideoMAEForPreTraining,
    pixel_values: Tensor,
    bool_masked_pos: Tensor,
    *,
    bool_decoded_pos: Tensor | None = None,
    interpolate_pos_encoding: bool = False,
) -> Reconstruction:
    """Hide and rebuild one clip (T, C, H, W) by its mask (N,), True = hidden.

    `bool_decoded_pos` (N,) is V2's decoder mask, True = decoded; by default all hidden positions are, also for V2.
    The model is left in the mode it came in.
    """
    config, training = model.config, model.training
    decoded = bool_masked_pos if bool_decoded_pos is None else bool_decoded_pos
    model.eval()
    try:
        logits = model(
            pixel_values[None],
            bool_masked_pos[None],
            None if bool_decoded_pos is None else bool_decoded_pos[None],
            interpolate_pos_encoding=interpolate_pos_encoding,
        ).logits[0]
    finally:
        model.train(training)
    mean, std = (torch.tensor(values, device=pixel_values.device)[:, None, None] for values in config.pixel_statistics)
    patches = patchify((pixel_values.float() * std + mean)[None], config.tubelet_size, config.patch_hw)[0]
    predicted = logits.float()[bool_masked_pos[decoded]]  # of the decoded ones, those that were hidden
    return Reconstruction(
        pixels=patches.flatten(0, 2).flatten(2),
        hidden=bool_masked_pos,
        rebuilt=bool_masked_pos & decoded,
        predicted=predicted.unflatten(-1, (-1, config.num_channels)).transpose(1, 2),
        normalised=config.norm_pix_loss,
        shape=tuple(patches.shape),
    )


def _checked(statistics: str) -> str:
    if statistics not in STATISTICS:
        raise ValueError(f"statistics must be one of {', '.join(STATISTICS)}, not {statistics!r}")
    return statistics


def _normalised(pixels: Tensor) -> Tensor:
    """Each patch without its mean and deviation, per channel: what a model with norm_pix_loss is to predict."""
    spread, centre = torch.std_mean(pixels, dim=-1, keepdim=True)
    return (pixels - centre) / (spread + 1e-6)


def _shades(normalised: Tensor) -> Tensor:
    return 0.5 + normalised / SPREAD


def _as_video(patches: Tensor) -> Tensor:
    """(t, h, w, C, u, p, p) -> (t*u, h*p, w*p, C), the inverse of `patchify` for one clip."""
    t, h, w, channels, u, high, wide = patches.shape
    return patches.permute(0, 4, 1, 5, 2, 6, 3).reshape(t * u, h * high, w * wide, channels)
