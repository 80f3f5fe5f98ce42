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
    shift_boxes,
    squeeze_boxes,
)
from videomae.data.randomness import randint, uniform
from videomae.roi_align_videomae import scale_boxes, scaled_size

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


WIDE = torch.zeros(1, 3, 64, 300, dtype=torch.uint8)
THREE = torch.tensor([[0.0, 0.0, 0.02, 1.0], [0.0, 0.0, 1.0, 1.0], [0.98, 0.0, 1.0, 1.0]])


def test_boxes_outside_the_crop_can_be_dropped_and_their_place_is_told():
    transform = DetectionTrainTransform(short_side=(64, 64), size=64, flip=0.0, outside="drop", **PLAIN)
    _, moved, kept = transform(WIDE, THREE, generator(3))
    assert kept.tolist() == [False, True, False]
    assert moved.tolist() == [[0.0, 0.0, 64.0, 64.0]]
    none = transform(WIDE, torch.zeros(0, 4), generator(3))
    assert none.boxes.shape == (0, 4) and none.kept.shape == (0,)
    with pytest.raises(ValueError, match="outside must be one of squeeze, drop, not 'keep'"):
        DetectionTrainTransform(outside="keep", **PLAIN)


def released_ad_boxes(shares, source, short_side, place, flipped, draws):
    """VideoMAE-Action-Detection's BoxList restated in numbers: xywh to xyxy, clip, resize, crop, transpose, random_aug."""
    (H, W), (top, left, size) = source, place
    height, width = (short_side, int(short_side * W / H)) if H <= W else (int(short_side * H / W), short_side)
    result = []
    for (x1, y1, x2, y2), draw in zip(shares.double().tolist(), draws.T.tolist()):
        box = [x1 * W, y1 * H, x1 * W + max((x2 - x1) * W - 1, 0), y1 * H + max((y2 - y1) * H - 1, 0)]
        box = [min(max(value, 0), most - 1) for value, most in zip(box, (W, H, W, H))]
        if not (box[3] > box[1] and box[2] > box[0]):
            continue
        box = [value * ratio for value, ratio in zip(box, (width / W, height / H) * 2)]
        box = [min(max(value - start, 0), size) for value, start in zip(box, (left, top, left, top))]
        if flipped:
            box = [size - box[2] - 1, box[1], size - box[0] - 1, box[3]]
        wide, high = box[2] - box[0] + 1, box[3] - box[1] + 1
        moves = [draw[0] * 0.3 - 0.1, draw[1] * 0.15 - 0.05, draw[2] * 0.3 - 0.1, draw[3] * 0.15 - 0.05]
        x1, y1 = (min(max(v - m * s, 0), size - 2) for v, m, s in ((box[0], moves[0], wide), (box[1], moves[1], high)))
        x2 = max(min(box[2] + moves[2] * wide, size - 1), x1 + 1)
        y2 = max(min(box[3] + moves[3] * high, size - 1), y1 + 1)
        result.append([x1, y1, x2, y2])
    return result


@pytest.mark.parametrize("seed", range(16))
def test_training_boxes_are_those_of_the_release_outside_of_the_crop_too(seed):
    source = [(90, 160), (90, 300), (160, 90), (120, 121)][seed % 4]
    draws = generator(seed)
    clip = torch.zeros(1, 3, *source, dtype=torch.uint8)
    corners = torch.rand(9, 2, 2, generator=draws).sort(1).values.flatten(1)
    shares = torch.cat([corners, torch.tensor([[0.0, 0.0, 0.001, 0.5], [0.0, 0.0, 0.02, 0.02], [0.0, 0.0, 1.0, 1.0]])])
    ad = DetectionTrainTransform(
        short_side=(72, 72), size=56, flip=0.5, box_jitter=(0.2, 0.1, 0.1, 0.05), inclusive=True, **PLAIN
    )
    pixels, moved, kept = ad(clip, shares, generator(seed))
    again = generator(seed)  # the same draws: short side, place, flip, jitter
    randint(again, 1)
    size = scaled_size(*source, 72, rounded=False)
    place = random_box(*size, 56, again)
    flipped = uniform(again, 0, 1) < 0.5
    expected = released_ad_boxes(
        shares, source, 72, (place.top, place.left, 56), flipped, torch.rand(4, 12, generator=again)
    )
    assert pixels.shape == (1, 3, 56, 56) and kept.sum() == len(expected) < 12  # one is thin
    torch.testing.assert_close(moved, torch.tensor(expected), atol=1e-4, rtol=0)
    assert (moved[:, 2:] - moved[:, :2]).min() > 0.999  # whoever is outside became a pixel wide

    # mmaction2: rescale_size rounds, _box_crop clips to the last pixel, _box_flip mirrors about the width; all are kept.
    mm = DetectionTrainTransform(short_side=(72, 72), size=56, flip=0.5, **PLAIN)
    _, moved, kept = mm(clip, shares, generator(seed))
    again = generator(seed)
    randint(again, 1)
    scale = 72 / min(source)
    height, width = (int(side * scale + 0.5) for side in source)
    place = random_box(height, width, 56, again)
    flipped = uniform(again, 0, 1) < 0.5
    expected = (shares.double().numpy() * [width, height, width, height]) - [place.left, place.top] * 2
    expected = expected.clip(0, 55)
    if flipped:
        expected[:, [0, 2]] = 56 - expected[:, [2, 0]]
    assert kept.all()
    torch.testing.assert_close(moved, torch.from_numpy(expected).float(), atol=1e-4, rtol=0)


def test_squeezed_boxes_end_where_each_release_ends_them():
    boxes = torch.tensor([[-30.0, 5.0, -10.0, 30.0], [50.0, -3.0, 90.0, 80.0]])
    assert squeeze_boxes(boxes, 40, 60, inclusive=True).tolist() == [[0, 5, 0, 30], [50, 0, 60, 40]]
    assert squeeze_boxes(boxes, 40, 60, inclusive=False).tolist() == [[0, 5, 0, 30], [50, 0, 59, 39]]


def test_a_mirror_image_without_jitter_stays_inside_of_the_frame():
    for inclusive in (True, False):
        transform = DetectionTrainTransform(short_side=(64, 64), size=64, flip=1.0, inclusive=inclusive, **PLAIN)
        for seed in range(4):
            moved = transform(WIDE, THREE, generator(seed)).boxes
            assert moved.min() >= 0 and moved.max() <= (63 if inclusive else 64)


def test_the_longer_side_is_rounded_by_one_release_and_cut_by_the_other():
    for height, width in ((361, 640), (640, 361), (255, 255), (480, 853)):
        scale = 256 / min(height, width)
        assert scaled_size(height, width, 256, rounded=True) == (int(height * scale + 0.5), int(width * scale + 0.5))
        cut = tuple(
            256 if side == min(height, width) else int(256 * side / min(height, width)) for side in (height, width)
        )
        assert scaled_size(height, width, 256, rounded=False) == cut
    assert scaled_size(361, 640, 256, rounded=True) == (256, 454) and scaled_size(361, 640, 256, rounded=False) == (
        256,
        453,
    )


def test_a_test_leaves_out_persons_without_area_where_the_release_does():
    shares = torch.tensor([[0.1, 0.1, 0.1, 0.5], [0.0, 0.0, 1.0, 1.0]])
    clip = torch.zeros(1, 3, 64, 100, dtype=torch.uint8)
    ad = DetectionTestTransform(short_side=32, inclusive=True, **PLAIN)(clip, shares)
    assert ad.kept.tolist() == [False, True] and ad.boxes.tolist() == [pytest.approx([0, 0, 49.5, 31.5])]
    mm = DetectionTestTransform(short_side=32, **PLAIN)(clip, shares)
    assert mm.kept.all() and mm.boxes[1].tolist() == [0, 0, 50, 32]


def test_mirror_images_count_their_last_pixel_as_each_family_does():
    box = torch.tensor([[10.0, 5.0, 29.0, 40.0]])
    assert flip_boxes(box, 100, inclusive=True).tolist() == [[70.0, 5.0, 89.0, 40.0]]
    assert flip_boxes(box, 100, inclusive=False).tolist() == [[71.0, 5.0, 90.0, 40.0]]
    for inclusive in (True, False):
        twice = flip_boxes(flip_boxes(box, 100, inclusive=inclusive), 100, inclusive=inclusive)
        assert torch.equal(twice, box)


def test_scaling_shifting_and_clipping_do_what_they_say():
    shares = torch.tensor([[0.25, 0.5, 0.75, 1.0]])
    pixels = scale_boxes(shares, (80, 160), (40, 80), inclusive=False)
    assert pixels.tolist() == [[20.0, 20.0, 60.0, 40.0]]
    assert scale_boxes(shares, (80, 160), (40, 80), inclusive=True).tolist() == [[20.0, 20.0, 59.5, 39.5]]
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
    frame = dict(height=900, width=900, inclusive=True)
    moved = jitter_boxes(boxes, (0.2, 0.1, 0.1, 0.05), generator(), **frame) - boxes
    outward = torch.stack([-moved[:, 0], -moved[:, 1], moved[:, 2], moved[:, 3]])
    for edge, (least, most) in zip(outward, ((-10, 20), (-10, 20), (-10, 20), (-10, 20))):
        assert least <= edge.min() < least + 0.5 and most - 0.5 < edge.max() <= most
        assert edge.mean() == pytest.approx((least + most) / 2, abs=0.5)
    assert torch.corrcoef(outward).fill_diagonal_(0).abs().max() < 0.06  # every edge has a draw of its own


def test_jitter_never_turns_a_box_inside_out_or_out_of_the_frame():
    boxes = torch.tensor([[10.0, 10.0, 12.0, 12.0], [0.0, 0.0, 39.0, 29.0], [39.0, 29.0, 39.0, 29.0]]).repeat(500, 1)
    moved = jitter_boxes(boxes, (0.5, 0.9, 0.5, 0.9), generator(), height=30, width=40, inclusive=True)
    assert (moved[:, 2:] - moved[:, :2]).min() > 0.999
    assert moved.min() >= 0 and moved[:, 2].max() <= 39 and moved[:, 3].max() <= 29


def test_crops_reach_every_place_but_the_last_and_are_smaller_in_small_frames():
    places = {random_box(10, 9, 8, generator(seed))[:2] for seed in range(60)}
    assert places == {(0, 0), (1, 0)}  # of 3 and 2 places; neither release draws the last
    assert random_box(8, 8, 8, generator())[:2] == (0, 0)
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
