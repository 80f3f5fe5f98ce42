"""Reconstruction pictures: what they show, and that the leak-free one does not leak."""

import pytest
import torch
from support import TINY

from videomae import VideoMAEConfig, VideoMAEForPreTraining
from videomae.masking_videomae import tube_mask
from videomae.training.pictures import picture, reconstruction


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VideoMAEForPreTraining(VideoMAEConfig(**TINY)).train()


def clip_and_mask():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(16, 3, 32, 32, generator=generator) - 0.5, tube_mask((8, 4, 4), 0.75, generator)


def test_visible_patches_are_the_input_and_hidden_ones_grey_or_rebuilt(model):
    clip, mask = clip_and_mask()
    views = reconstruction(model, clip, mask)
    mean, std = (torch.tensor(values) for values in model.config.pixel_statistics)
    torch.testing.assert_close(views["input"], clip.permute(0, 2, 3, 1) * std + mean)
    hidden = mask.view(8, 4, 4).repeat_interleave(2, 0).repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert (views["seen"][hidden] == 0.5).all()
    assert torch.equal(views["seen"][~hidden], views["input"][~hidden])
    assert torch.equal(views["rebuilt"][~hidden], views["input"][~hidden])
    assert model.training


def test_a_perfect_prediction_gives_the_input_back(model, monkeypatch):
    clip, mask = clip_and_mask()
    perfect = model.targets(clip[None], mask.nonzero()[None, :, 0])
    monkeypatch.setattr(model, "_decode", lambda *anything: perfect)
    views = reconstruction(model, clip, mask)
    torch.testing.assert_close(views["rebuilt"], views["input"], rtol=0, atol=1e-5)


def test_the_leak_free_picture_does_not_depend_on_hidden_pixels(model):
    clip, mask = clip_and_mask()
    hidden = mask.view(8, 4, 4).repeat_interleave(2, 0).repeat_interleave(8, 1).repeat_interleave(8, 2)
    other = torch.where(hidden[:, None], clip + 0.1, clip)
    same = [reconstruction(model, pixels, mask, statistics="visible")["rebuilt"] for pixels in (clip, other)]
    assert torch.equal(*same)
    leaking = [reconstruction(model, pixels, mask)["rebuilt"] for pixels in (clip, other)]
    assert not torch.equal(*leaking)
    with pytest.raises(ValueError, match="statistics must be one of patch, visible, not 'true'"):
        reconstruction(model, clip, mask, statistics="true")


def test_the_picture_has_one_row_of_frames_for_each_title(model):
    views = reconstruction(model, *clip_and_mask())
    image = picture(list(views.items()), columns=4, height=32)
    assert image.size == (64 + 4 * 34, 3 * 34)
