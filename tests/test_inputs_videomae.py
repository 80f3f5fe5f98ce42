"""Selection of tokens: which positions, in which order, what is padding, and what an empty mask says.

The errors that pixels and masks raise through the models are in test_modeling.py.
"""

import pytest
import torch

from videomae import VideoMAEConfig
from videomae.inputs_videomae import checked_mask, hide_tokens, refuse_empty, select_kept, select_patches, token_grid
from videomae.modeling_videomae import patchify

GRID = (1, 2, 3)


def mask(*rows: str) -> torch.Tensor:
    """mask("101", "010"): a row of digits per clip."""
    return torch.tensor([[digit == "1" for digit in row] for row in rows])


def test_kept_positions_come_in_token_order():
    kept = select_kept(mask("010110", "101001"), GRID, None, "clip {clip}")
    assert kept.positions.tolist() == [[1, 3, 4], [0, 2, 5]]
    assert kept.valid is None and kept.grid == GRID and kept.real.all() and kept.real.shape == (2, 3)


def test_a_given_count_is_believed_and_the_mask_is_not_read():
    kept = select_kept(mask("010110", "101001").to("meta"), GRID, 3, "clip {clip}")
    assert kept.positions.shape == (2, 3) and kept.valid is None
    with pytest.raises(RuntimeError, match="meta"):
        select_kept(mask("010110").to("meta"), GRID, None, "clip {clip}")


def test_clips_with_fewer_kept_tokens_are_padded():
    kept = select_kept(mask("010000", "111100", "000011"), GRID, None, "clip {clip}")
    assert kept.valid.tolist() == [[True] + [False] * 3, [True] * 4, [True, True, False, False]]
    assert kept.real is kept.valid
    assert [row[real].tolist() for row, real in zip(kept.positions, kept.valid)] == [[1], [0, 1, 2, 3], [4, 5]]


def test_the_first_clip_without_any_is_named():
    assert refuse_empty(mask("010", "111"), "clip {clip} is empty") == [1, 3]
    with pytest.raises(ValueError, match=r"^clip 1 is empty$"):
        refuse_empty(mask("010", "000", "000"), "clip {clip} is empty")


def test_the_loss_counts_what_is_hidden_and_rebuilt_and_no_padding():
    pixels = torch.zeros(2, 2, 3, 16, 24)
    hidden, decoded = mask("110000", "111110"), mask("011100", "100011")
    visible, rebuilt, counted = hide_tokens(pixels, GRID, hidden, decoded, None, None)
    assert visible.positions[0].tolist() == [2, 3, 4, 5] and visible.valid[1].tolist() == [True] + [False] * 3
    assert rebuilt.positions.tolist() == [[1, 2, 3], [0, 4, 5]] and rebuilt.valid is None
    assert counted.tolist() == [[True, False, False], [True, True, False]]
    _, rebuilt, counted = hide_tokens(pixels, GRID, hidden, None, None, None)
    assert counted is rebuilt.valid and counted.sum(1).tolist() == [2, 5]
    _, rebuilt, counted = hide_tokens(pixels[:1], GRID, hidden[:1], None, 4, None)
    assert rebuilt.positions.tolist() == [[0, 1]] and counted is None


def test_a_grid_is_counted_in_tubelets_and_patches():
    config = VideoMAEConfig(image_size=[32, 48], patch_size=[8, 16], num_frames=4)
    assert token_grid(torch.zeros(1, 4, 3, 32, 48), config) == (2, 4, 3)
    assert token_grid(torch.zeros(1, 8, 3, 16, 48), config, True) == (4, 2, 3)
    with pytest.raises(ValueError, match="8 frames of 16x48 where the model expects 4 of 32x48"):
        token_grid(torch.zeros(1, 8, 3, 16, 48), config)


def test_a_mask_of_another_grid_is_refused():
    with pytest.raises(ValueError, match=r"must have shape \(2, 6\), one entry per clip and token, got \(1, 6\)"):
        checked_mask("bool_masked_pos", mask("110000"), torch.zeros(2, 2, 3, 16, 24), GRID)


def test_patches_are_those_at_the_positions():
    video = torch.randn(2, 4, 3, 16, 24)
    patches = patchify(video, 2, (8, 8))  # (2, 2, 2, 3, C, u, p, p)
    positions = torch.tensor([[0, 7], [11, 5]])
    expected = torch.stack([patches.flatten(1, 3)[clip, row] for clip, row in enumerate(positions)])
    assert torch.equal(select_patches(patches, positions), expected)
