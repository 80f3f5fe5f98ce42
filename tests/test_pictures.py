"""Pictures: what a reconstruction shows, that the leak-free ones do not leak, attention maps, and how they are drawn."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from support import TINY

from videomae import VideoMAEConfig, VideoMAEForPreTraining
from videomae.masking_videomae import running_cell_mask, tube_mask
from videomae.pictures.attention import attention_maps, legend, overlay
from videomae.pictures.drawing import film, gif_bytes, grid_picture, mp4_bytes
from videomae.pictures.reconstruction import HIDDEN, LEFT_OUT, reconstruct
from videomae.video_io import probe

GRID = (8, 4, 4)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VideoMAEForPreTraining(VideoMAEConfig(**TINY)).train()


def clip_and_mask():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(16, 3, 32, 32, generator=generator) - 0.5, tube_mask(GRID, 0.75, generator)


def in_pixels(mask):
    return mask.view(GRID).repeat_interleave(2, 0).repeat_interleave(8, 1).repeat_interleave(8, 2)


def test_visible_patches_are_the_input_and_hidden_ones_grey_or_rebuilt(model):
    clip, mask = clip_and_mask()
    made = reconstruct(model, clip, mask)
    mean, std = (torch.tensor(values) for values in model.config.pixel_statistics)
    torch.testing.assert_close(made.input(), clip.permute(0, 2, 3, 1) * std + mean)
    hidden = in_pixels(mask)
    assert (made.seen()[hidden] == HIDDEN).all()
    for shown in (made.seen(), made.output("patch"), made.output("nearby"), made.output("visible")):
        assert torch.equal(shown[~hidden], made.input()[~hidden])
    assert model.training


@pytest.mark.parametrize("statistics", ["patch", "none"])
def test_a_perfect_prediction_gives_the_input_back(model, monkeypatch, statistics):
    clip, mask = clip_and_mask()
    perfect = model.targets(clip[None], mask.nonzero()[None, :, 0])
    monkeypatch.setattr(model, "decode", lambda *anything: perfect)
    made = reconstruct(model, clip, mask)
    torch.testing.assert_close(made.output(statistics), made.input(statistics), rtol=0, atol=1e-5)
    assert made.error(statistics) < 1e-5


@pytest.mark.parametrize("statistics", ["nearby", "visible", "none"])
def test_a_leak_free_picture_does_not_depend_on_hidden_pixels(model, statistics):
    clip, mask = clip_and_mask()
    other = torch.where(in_pixels(mask)[:, None], clip * 0.5 + 0.1, clip)
    same, changed = (reconstruct(model, pixels, mask) for pixels in (clip, other))
    assert torch.equal(same.output(statistics), changed.output(statistics))
    assert same.note(statistics).startswith("No leak")
    assert not torch.equal(same.output("patch"), changed.output("patch"))
    assert same.note("patch").startswith("LEAK")


def test_an_unknown_way_to_put_statistics_back_names_the_known_ones(model):
    with pytest.raises(ValueError, match="statistics must be one of nearby, visible, patch, none, not 'true'"):
        reconstruct(model, *clip_and_mask()).output("true")


def test_nearby_statistics_are_those_of_the_only_patch_that_is_near(model):
    """One visible patch: every hidden one takes its mean and spread. With two, an exact weight by distance."""
    clip, mask = clip_and_mask()
    mask[:] = True
    mask[[0, 3]] = False  # same slot and row, three columns apart
    made = reconstruct(model, clip, mask)
    near = made._nearness()
    torch.testing.assert_close(near.sum(1), torch.ones(len(near)))
    assert near.shape == (126, 2)
    torch.testing.assert_close(near[0], torch.tensor([16 / 17, 1 / 17]))  # token 1: distances 1 and 2


def test_a_model_of_plain_pixels_has_nothing_to_leak():
    torch.manual_seed(0)
    made = reconstruct(VideoMAEForPreTraining(VideoMAEConfig(**TINY, norm_pix_loss=False)), *clip_and_mask())
    assert torch.equal(made.output("patch"), made.output("nearby"))
    assert "nothing true was put back" in made.note("patch")


def test_what_the_decoder_leaves_out_is_dark_and_the_rest_is_what_it_says(model):
    clip, mask = clip_and_mask()
    left_out = running_cell_mask(GRID, generator=torch.Generator().manual_seed(1))
    made = reconstruct(model, clip, mask, bool_decoded_pos=~left_out)
    shown = made.output("none")
    assert (shown[in_pixels(mask & left_out)] == LEFT_OUT).all()
    logits = model.eval()(clip[None], mask[None], ~left_out[None]).logits[0]
    expected = logits[mask[~left_out]].unflatten(-1, (-1, 3)).transpose(1, 2)
    assert torch.equal(made.predicted, expected) and int(made.rebuilt.sum()) == int((mask & ~left_out).sum())


def test_attention_maps_are_the_weights_that_the_model_itself_reports(model):
    clip, _ = clip_and_mask()
    weights = model.videomae.eval()(clip[None], output_attentions=True).attentions
    maps = attention_maps(model.videomae, clip, layers=(0, -1), heads=("mean", 1))
    assert list(maps) == [(0, "mean"), (0, 1), (2, "mean"), (2, 1)]
    torch.testing.assert_close(maps[2, 1], weights[2][0, 1].mean(0).view(GRID) * 128)
    torch.testing.assert_close(maps[0, "mean"], weights[0][0].mean((0, 1)).view(GRID) * 128)
    torch.testing.assert_close(maps[0, "mean"].mean(), torch.tensor(1.0))
    asked = attention_maps(model.videomae, clip, layers=(1,), heads=(2,), query=(3, 1, 2))
    torch.testing.assert_close(asked[1, 2], weights[1][0, 2, (3 * 4 + 1) * 4 + 2].view(GRID) * 128)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(layers=(3,)), r"layer must be in 0 to 2 \(or -3 to -1, from the end\), not 3"),
        (dict(heads=(-4,)), r"head must be in 0 to 2 .*, not -4"),
        (dict(query=(8, 0, 0)), "query must be a slot, row and column below 8, 4, 4, not 8, 0, 0"),
    ],
)
def test_attention_that_does_not_exist_says_what_does(model, options, message):
    with pytest.raises(ValueError, match=message):
        attention_maps(model.videomae, clip_and_mask()[0], **options)


def test_attention_is_drawn_where_and_when_it_is():
    heat = torch.ones(GRID)
    heat[5, 2, 1] = 9.0
    shown = overlay(torch.full((16, 32, 32, 3), 0.5), heat, query=(0, 0, 0))
    brightness = shown.sum(-1)
    assert int(brightness[10:].flatten().argmax()) // (32 * 32) in (0, 1)
    _, row, column = np.unravel_index(int(brightness[10:].argmax()), (6, 32, 32))
    assert row // 8 == 2 and column // 8 == 1
    assert shown[0, 0, 3].tolist() == pytest.approx([0.2, 1.0, 1.0]) and shown[2, 0, 3, 0] != 0.2
    assert legend(heat) == "dark 1 to bright 9 times even attention"


def test_the_grid_has_one_row_of_frames_for_each_title_and_wraps_its_notes(model):
    made = reconstruct(model, *clip_and_mask())
    rows = [("input", made.input()), ("rebuilt", made.output())]
    bare = grid_picture(rows, columns=4, height=32)
    assert bare.height == 2 * 34 and np.asarray(bare)[20, -10].tolist() != [255, 255, 255]
    noted = grid_picture(rows, columns=4, height=32, notes=["LEAK: " + "a long note " * 20], seconds=range(16))
    assert noted.width == bare.width and noted.height > bare.height + 100
    below = np.asarray(noted)[-90:].reshape(-1, 3).astype(int)
    assert ((below[:, 0] - below[:, 1]) > 150).any(), "a warning is red"


def test_films_play_at_the_pace_of_the_clip_in_both_formats(model, tmp_path):
    made = reconstruct(model, *clip_and_mask())
    frames = film([("input", made.input()), ("seen", made.seen())], notes=["No leak: yes."], height=64)
    with Image.open(io.BytesIO(gif_bytes(frames, 0.125))) as gif:
        shown = []
        for number in range(gif.n_frames):
            gif.seek(number)
            shown.append(gif.info["duration"])
        assert gif.convert("RGB").getpixel((0, 0)) == (255, 255, 255), "the paper stays white in few colours"
        assert gif.info["loop"] == 0, "it starts again at its end"
    assert len(shown) == 16 and sum(shown) == 2000 and set(shown) == {120, 130}
    with Image.open(io.BytesIO(gif_bytes(frames, 0.001))) as gif:
        assert gif.info["duration"] == 20, "browsers slow down below 20 ms"
    (tmp_path / "film.mp4").write_bytes(mp4_bytes(frames, 0.125))
    info = probe(tmp_path / "film.mp4")
    assert info.num_frames == 16 and info.fps == pytest.approx(8) and (info.width, info.height) >= frames[0].size


def test_in_a_gif_what_stands_still_does_not_flicker_and_colours_stay_close():
    generator = torch.Generator().manual_seed(0)
    still = torch.rand(1, 4, 4, 3, generator=generator).repeat_interleave(16, 1).repeat_interleave(16, 2)
    video = still.repeat(8, 1, 1, 1)
    for number in range(8):
        video[number, 8 * number : 8 * number + 8] = torch.rand(8, 64, 3, generator=generator)
    frames = film([("moving", video)], notes=["LEAK: in red."], height=64)
    before = np.stack([np.asarray(frame) for frame in frames]).astype(int)
    with Image.open(io.BytesIO(gif_bytes(frames, 0.1))) as gif:
        after = np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]).astype(int)
    unchanged = (np.diff(before, axis=0) == 0).all(-1)
    assert unchanged.any() and (np.diff(after, axis=0)[unchanged] == 0).all()
    assert np.abs(after - before).mean() < 5
