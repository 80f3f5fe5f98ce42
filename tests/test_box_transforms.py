"""Clips and boxes must move together: a painted rectangle is found where its box says, whatever was done to both."""

import colorsys

import numpy as np
import pytest
import torch

from videomae.data.ava.boxes import (
    DetectionTestTransform,
    DetectionTrainTransform,
    clip_boxes,
    flip_boxes,
    hsv_jitter,
    jitter_boxes,
    random_box,
    scale_boxes,
    shift_boxes,
)

PLAIN = dict(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def painted(height, width, box):
    """A black clip with a white rectangle, and its box as shares of the frame."""
    x1, y1, x2, y2 = box
    clip = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    clip[..., y1:y2, x1:x2] = 255
    return clip, torch.tensor([[x1 / width, y1 / height, x2 / width, y2 / height]])


def extent(pixels):
    """x1, y1, x2, y2 of what is bright in the first frame."""
    bright = pixels[0, 0] > 0.5
    rows, columns = bright.any(1).nonzero().flatten(), bright.any(0).nonzero().flatten()
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


@pytest.mark.parametrize("seed", range(12))
def test_the_box_follows_its_rectangle_through_scale_crop_and_flip(seed):
    clip, boxes = painted(120, 200, (70, 30, 130, 90))
    transform = DetectionTrainTransform(short_side=(60, 90), size=56, flip=0.5, **PLAIN)
    pixels, moved, kept = transform(clip, boxes, generator(seed))
    assert pixels.shape == (2, 3, 56, 56) and kept.tolist() == [True]
    assert moved[0].tolist() == pytest.approx(extent(pixels), abs=1.0)


def test_the_test_scales_the_whole_frame_and_keeps_every_box():
    clip, boxes = painted(120, 200, (70, 30, 130, 90))
    pixels, moved, kept = DetectionTestTransform(short_side=60, **PLAIN)(clip, boxes)
    assert pixels.shape == (2, 3, 60, 100) and kept.all()
    assert moved.tolist() == [pytest.approx([35, 15, 65, 45])]
    assert extent(pixels) == [35, 15, 65, 45]


def test_boxes_outside_the_crop_are_dropped_and_their_place_is_told():
    clip = torch.zeros(1, 3, 64, 300, dtype=torch.uint8)
    boxes = torch.tensor([[0.0, 0.0, 0.02, 1.0], [0.0, 0.0, 1.0, 1.0], [0.98, 0.0, 1.0, 1.0]])
    transform = DetectionTrainTransform(short_side=(64, 64), size=64, flip=0.0, **PLAIN)
    _, moved, kept = transform(clip, boxes, generator(3))
    assert kept.tolist() == [False, True, False]
    assert moved.tolist() == [[0.0, 0.0, 64.0, 64.0]]
    none = transform(clip, torch.zeros(0, 4), generator(3))
    assert none.boxes.shape == (0, 4) and none.kept.shape == (0,)


def test_mirror_images_count_their_last_pixel_as_each_family_does():
    box = torch.tensor([[10.0, 5.0, 29.0, 40.0]])
    assert flip_boxes(box, 100, inclusive=True).tolist() == [[70.0, 5.0, 89.0, 40.0]]
    assert flip_boxes(box, 100, inclusive=False).tolist() == [[71.0, 5.0, 90.0, 40.0]]
    for inclusive in (True, False):
        twice = flip_boxes(flip_boxes(box, 100, inclusive=inclusive), 100, inclusive=inclusive)
        assert torch.equal(twice, box)


def test_scaling_shifting_and_clipping_do_what_they_say():
    pixels = scale_boxes(torch.tensor([[0.25, 0.5, 0.75, 1.0]]), 40, 80)
    assert pixels.tolist() == [[20.0, 20.0, 60.0, 40.0]]
    shifted = shift_boxes(pixels, 10, 30)
    assert shifted.tolist() == [[-10.0, 10.0, 30.0, 30.0]]
    clipped, kept = clip_boxes(shifted, 20, 20, inclusive=False)
    assert clipped.tolist() == [[0.0, 10.0, 20.0, 20.0]] and kept.all()
    clipped, _ = clip_boxes(shifted, 20, 20, inclusive=True)
    assert clipped.tolist() == [[0.0, 10.0, 19.0, 19.0]]


def test_what_is_left_of_a_person_must_be_larger_than_a_pixel():
    boxes = torch.tensor(
        [[-9.0, -9.0, 0.8, 0.9], [-9.0, -9.0, 0.8, 30.0], [5.0, 5.0, 5.0, 30.0], [-9.0, 3.0, -1.0, 9.0]]
    )
    for inclusive in (True, False):
        _, kept = clip_boxes(boxes, 40, 40, inclusive=inclusive)
        assert kept.tolist() == [False, True, False, False]


def test_jitter_stays_within_its_bounds_and_reaches_them():
    boxes = torch.tensor([[100.0, 200.0, 199.0, 399.0]]).repeat(4000, 1)  # 100 x 200 with the last pixel counted
    moved = jitter_boxes(boxes, (0.2, 0.1, 0.1, 0.05), generator(), inclusive=True) - boxes
    outward = torch.stack([-moved[:, 0], -moved[:, 1], moved[:, 2], moved[:, 3]])
    for edge, (least, most) in zip(outward, ((-10, 20), (-10, 20), (-10, 20), (-10, 20))):
        assert least <= edge.min() < least + 0.5 and most - 0.5 < edge.max() <= most
        assert edge.mean() == pytest.approx((least + most) / 2, abs=0.5)
    assert torch.corrcoef(outward).fill_diagonal_(0).abs().max() < 0.06  # every edge has a draw of its own


def test_jitter_never_turns_a_box_inside_out():
    boxes = torch.tensor([[10.0, 10.0, 12.0, 12.0]]).repeat(500, 1)
    moved = jitter_boxes(boxes, (0.0, 0.9, 0.0, 0.9), generator(), inclusive=True)
    assert (moved[:, 2] >= moved[:, 0]).all() and (moved[:, 3] >= moved[:, 1]).all()


def test_crops_reach_every_place_and_are_smaller_in_small_frames():
    places = {random_box(10, 9, 8, generator(seed))[:2] for seed in range(60)}
    assert places == {(top, left) for top in range(3) for left in range(2)}
    assert random_box(6, 20, 8, generator()) == (0, random_box(6, 20, 8, generator()).left, 6, 8)


@pytest.mark.parametrize("seed", range(5))
def test_hue_saturation_and_value_move_as_the_standard_library_says(seed):
    clip = torch.randint(0, 256, (2, 3, 6, 7), dtype=torch.uint8, generator=generator(seed))
    clip[0, :, 0] = 90  # grey pixels have no hue
    clip[0, :, 1] = 0
    draws = generator(seed + 100)
    hue, saturation, value = (int(torch.randint(2 * bound + 1, (), generator=draws)) - bound for bound in (10, 26, 26))
    expected = np.empty(clip.shape)
    for frame, y, x in np.ndindex(2, 6, 7):
        h, s, v = colorsys.rgb_to_hsv(*(clip[frame, :, y, x] / 255).tolist())
        h, s, v = (h + hue / 180) % 1, min(max(s + saturation / 255, 0), 1), min(max(v + value / 255, 0), 1)
        expected[frame, :, y, x] = np.array(colorsys.hsv_to_rgb(h, s, v)) * 255
    ours = hsv_jitter(clip, (20.0, 0.1, 0.1), generator(seed + 100))
    assert ours.dtype == torch.uint8
    assert np.abs(ours.numpy() - expected).max() <= 0.51  # rounding


def test_no_jitter_leaves_the_clip_alone():
    clip = torch.randint(0, 256, (2, 3, 6, 7), dtype=torch.uint8)
    assert torch.equal(hsv_jitter(clip, (0.0, 0.0, 0.0), generator()), clip)


def test_equal_generators_give_equal_samples():
    clip, boxes = painted(120, 200, (70, 30, 130, 90))
    transform = DetectionTrainTransform(
        size=56, short_side=(60, 90), colour=(20.0, 0.1, 0.1), box_jitter=(0.2, 0.1, 0.1, 0.05), inclusive=True, **PLAIN
    )
    first, again, other = (transform(clip, boxes, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.pixel_values, again.pixel_values) and torch.equal(first.boxes, again.boxes)
    assert not torch.equal(first.boxes, other.boxes)
