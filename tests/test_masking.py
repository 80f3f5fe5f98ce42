"""Masks against their published definitions."""

import pytest
import torch

from videomae.masking_videomae import (
    MASKS,
    batch_masks,
    block_mask,
    frame_mask,
    make_mask,
    masks_of,
    random_mask,
    running_cell_mask,
    stack_masks,
    tube_mask,
)

GRID = (8, 14, 14)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_tube_mask_hides_the_same_cells_in_every_tubelet():
    mask = tube_mask(GRID, 0.9, generator()).view(8, 196)
    assert (mask == mask[0]).all() and mask[0].sum() == 176


@pytest.mark.parametrize("ratio, hidden", [(0.75, 147), (0.9, 176), (0.95, 186), (0.0, 0), (1.0, 196)])
def test_tube_mask_rounds_the_hidden_count_down_per_slot(ratio, hidden):
    assert tube_mask(GRID, ratio, generator()).view(8, 196).sum(1).tolist() == [hidden] * 8


def test_random_mask_hides_a_share_of_the_whole_volume():
    mask = random_mask(GRID, 0.9, generator())
    assert mask.sum() == int(0.9 * 1568)
    assert len(set(mask.view(8, 196).sum(1).tolist())) > 1  # not the same in each slot


def test_frame_mask_hides_whole_slots():
    mask = frame_mask(GRID, 0.5, generator()).view(8, 196)
    assert mask.all(1).sum() == 4 and (~mask).all(1).sum() == 4


def official_running_cell(phase, t, h, w):
    """The running cell as V2's masking_generator.py builds it, for even grids: tiles of one rolled pattern per frame."""
    pattern = [1, 1, 0, 0]
    frames = []
    for slot in range(t):
        shift = (phase + slot + 1) % 4
        turned = pattern[shift:] + pattern[:shift]
        cell = torch.tensor(turned).view(2, 2)
        frames.append(torch.cat([torch.cat([cell] * (w // 2), dim=1)] * (h // 2), dim=0))
    return torch.stack(frames).flatten().bool()


def test_running_cell_mask_turns_one_of_four_phases_from_slot_to_slot():
    phases = [official_running_cell(phase, 8, 4, 6) for phase in range(4)]
    seen = set()
    for seed in range(40):
        mask = running_cell_mask((8, 4, 6), 0.5, generator(seed))
        (phase,) = [index for index, other in enumerate(phases) if torch.equal(mask, other)]
        seen.add(phase)
    assert seen == {0, 1, 2, 3}


def test_running_cell_mask_decodes_every_place_in_half_of_the_slots():
    mask = running_cell_mask(GRID, 0.5, generator()).view(8, 196)
    assert (mask.sum(0) == 4).all()


def test_running_cell_mask_cuts_the_cells_at_an_odd_edge():
    odd = running_cell_mask((3, 5, 7), 0.5, generator(3)).view(3, 5, 7)
    even = running_cell_mask((3, 6, 8), 0.5, generator(3)).view(3, 6, 8)
    assert torch.equal(odd, even[:, :5, :7])


def test_running_cell_mask_has_no_other_ratio():
    with pytest.raises(ValueError, match=r"ratio 0.5 .*not 0.25; use random_mask"):
        running_cell_mask(GRID, 0.25)


@pytest.mark.parametrize("kind", ["short_blocks", "long_blocks"])
@pytest.mark.parametrize("ratio, hidden", [(0.75, 147), (0.9, 176), (0.0, 0), (1.0, 196), (0.01, 1)])
def test_block_masks_hide_the_same_cells_in_all_slots_and_exactly_as_many_as_asked(kind, ratio, hidden):
    for seed in range(5):
        mask = make_mask(kind, GRID, ratio, generator(seed)).view(8, 196)
        assert (mask == mask[0]).all() and mask[0].sum() == hidden


def published_sizes(h, w, area):
    """(height, width) of blocks for aspects from 0.75 to 1.5, as multiseq_multiblock3d.py of V-JEPA 2 computes them."""
    cells = int(h * w * area)
    aspects = torch.linspace(0.75, 1.5, 1000).tolist()
    return {(min(round((cells * a) ** 0.5), h), min(round((cells / a) ** 0.5), w)) for a in aspects}


@pytest.mark.parametrize("area, known", [(0.15, (5, 6)), (0.7, (14, 10))])
def test_one_block_has_a_published_size(area, known):
    sizes = published_sizes(14, 14, area)
    assert known in sizes
    seen = set()
    for seed in range(60):
        # A count of exactly one block's cells: nothing is trimmed where the first block covers it.
        for height, width in sizes:
            mask = block_mask((1, 14, 14), height * width / 196 + 1e-9, generator(seed), area=area).view(14, 14)
            rows, columns = mask.any(1).sum().item(), mask.any(0).sum().item()
            if (rows, columns) == (height, width) and mask.sum() == height * width:
                seen.add((height, width))
    assert seen == sizes


def test_the_last_block_is_trimmed_and_the_ones_before_it_are_whole():
    """Two long blocks of 14 x 14 cells: what is visible lies outside of the first, and in the second as far as trimmed."""
    mask = block_mask((1, 14, 14), 0.5, generator(0), area=0.7).view(14, 14)
    whole = block_mask((1, 14, 14), 0.65, generator(0), area=0.7).view(14, 14)
    assert mask.sum() == 98 and whole.sum() == 127
    rows, columns = (range(int(line.min()), int(line.max()) + 1) for line in mask.nonzero().T)
    assert len(rows) * len(columns) >= 127  # inside one block, which is larger than either count


def test_a_block_mask_of_a_tiny_grid_ends():
    assert block_mask((2, 1, 1), 1.0, generator(), area=0.15).tolist() == [True, True]
    assert block_mask((1, 2, 3), 0.5, generator(), area=0.15).sum() == 3


def test_blocks_are_two_masks_and_other_names_one():
    assert masks_of("blocks") == ("short_blocks", "long_blocks") and masks_of("tube") == ("tube",)


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_is_a_function_of_its_generator(kind):
    first, second = (make_mask(kind, GRID, 0.5, generator(7)) for _ in range(2))
    assert torch.equal(first, second) and first.dtype == torch.bool and first.shape == (1568,)
    others = [make_mask(kind, GRID, 0.5, generator(seed)) for seed in range(8)]
    assert any(not torch.equal(first, other) for other in others)


def test_batch_masks_draws_one_mask_a_clip_and_counts_the_visible():
    masks, visible = batch_masks("tube", GRID, 0.9, 3, generator())
    assert masks.shape == (3, 1568) and visible == 160
    assert not torch.equal(masks[0], masks[1])


def test_stack_masks_gives_no_count_when_the_clips_differ():
    masks, visible = stack_masks([tube_mask(GRID, 0.5, generator()), tube_mask(GRID, 0.75, generator())])
    assert masks.shape == (2, 1568) and visible is None


def test_impossible_requests_name_the_argument():
    with pytest.raises(ValueError, match=r"mask ratio must be in \[0, 1\], got 90"):
        tube_mask(GRID, 90)
    with pytest.raises(ValueError, match=r"grid must be three positive ints \(t, h, w\), got \(14, 14\)"):
        tube_mask((14, 14), 0.9)
    with pytest.raises(ValueError, match="unknown mask 'tubes'; choose one of tube, random, frame, running_cell, "):
        make_mask("tubes", GRID, 0.9)
