"""RoIAlign against a loop over samples that is written from the definition, one sample at a time."""

import math

import pytest
import torch

from videomae.roi_align_videomae import roi_align, roi_max


def bilinear(channel_map: torch.Tensor, y: float, x: float) -> torch.Tensor:
    """(C, h, w) read at one point: the four cells around it, the border's value near the border, zero beyond."""
    height, width = channel_map.shape[1:]
    if not (-1.0 <= y <= height and -1.0 <= x <= width):
        return channel_map.new_zeros(len(channel_map))
    y, x = max(y, 0.0), max(x, 0.0)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down = 0.0 if top == height - 1 else y - top
    across = 0.0 if left == width - 1 else x - left
    upper = (1 - across) * channel_map[:, top, left] + across * channel_map[:, top, right]
    lower = (1 - across) * channel_map[:, bottom, left] + across * channel_map[:, bottom, right]
    return (1 - down) * upper + down * lower


def roi_align_by_loops(feature_map, boxes, *, output_size, spatial_scale, sampling_ratio, aligned):
    bins_y, bins_x = output_size
    patches = []
    for channel_map, clip_boxes in zip(feature_map, boxes):
        for box in clip_boxes.tolist():
            shift = 0.5 if aligned else 0.0
            x1, y1, x2, y2 = (value * spatial_scale - shift for value in box)
            roi_height, roi_width = y2 - y1, x2 - x1
            if not aligned:
                roi_height, roi_width = max(roi_height, 1.0), max(roi_width, 1.0)
            samples_y = sampling_ratio or math.ceil(roi_height / bins_y)
            samples_x = sampling_ratio or math.ceil(roi_width / bins_x)
            patch = []
            for bin_y in range(bins_y):
                for bin_x in range(bins_x):
                    total = channel_map.new_zeros(len(channel_map))
                    for i in range(samples_y):
                        for j in range(samples_x):
                            y = y1 + roi_height / bins_y * (bin_y + (i + 0.5) / samples_y)
                            x = x1 + roi_width / bins_x * (bin_x + (j + 0.5) / samples_x)
                            total = total + bilinear(channel_map, y, x)
                    patch.append(total / max(samples_y * samples_x, 1))
            patches.append(torch.stack(patch, 1).view(-1, bins_y, bins_x))
    return torch.stack(patches)


# In pixels, for a map of 7 x 9 cells of 16 pixels.
BOXES = [
    torch.tensor(
        [
            [10.3, 7.9, 100.2, 88.8],
            [0.0, 0.0, 144.0, 112.0],  # the whole frame
            [31.7, 20.1, 32.2, 20.9],  # less than a cell
            [50.0, 40.0, 50.0, 40.0],  # nothing at all
            [-61.3, -33.1, 40.7, 30.3],  # partly outside
            [-303.1, -204.3, 500.9, 433.7],  # far larger than the map
        ]
    ),
    torch.tensor([[200.5, 150.5, 260.5, 180.5], [3.1, 60.7, 141.3, 111.1]]),  # the first wholly outside
]


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("output_size", [(7, 7), (3, 5)])
def test_patches_and_gradients_equal_the_loop_over_samples(aligned, sampling_ratio, output_size):
    torch.manual_seed(0)
    feature_map = torch.randn(2, 3, 7, 9, requires_grad=True)
    options = dict(output_size=output_size, spatial_scale=1 / 16, sampling_ratio=sampling_ratio, aligned=aligned)
    ours = roi_align(feature_map, BOXES, **options)
    expected = roi_align_by_loops(feature_map, BOXES, **options)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)

    upstream = torch.randn_like(expected)
    (ours_gradient,) = torch.autograd.grad(ours, feature_map, upstream)
    (expected_gradient,) = torch.autograd.grad(expected, feature_map, upstream)
    torch.testing.assert_close(ours_gradient, expected_gradient, atol=1e-5, rtol=1e-5)


def test_random_boxes_inside_the_frame_agree_with_the_loops_and_need_no_look_at_the_boxes():
    generator = torch.Generator().manual_seed(1)
    feature_map = torch.randn(1, 2, 8, 12, generator=generator)
    corners = torch.rand(20, 2, 2, generator=generator).sort(1).values * torch.tensor([192.0, 128.0])
    boxes = [corners.flatten(1)]
    for aligned in (False, True):
        options = dict(output_size=(4, 4), spatial_scale=1 / 16, sampling_ratio=0, aligned=aligned)
        expected = roi_align_by_loops(feature_map, boxes, **options)
        torch.testing.assert_close(roi_align(feature_map, boxes, **options), expected, atol=1e-5, rtol=1e-5)
        bounded = roi_align(feature_map, boxes, boxes_inside=True, **options)
        torch.testing.assert_close(bounded, expected, atol=1e-5, rtol=1e-5)


def test_a_box_over_one_cell_of_a_constant_map_returns_the_constant():
    feature_map = torch.full((1, 1, 4, 4), 2.5)
    box = [torch.tensor([[16.0, 16.0, 32.0, 32.0]])]
    assert roi_align(feature_map, box, output_size=2, spatial_scale=1 / 16).unique().tolist() == [2.5]


def test_a_linear_ramp_is_read_at_the_centres_of_the_bins():
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)  # the value is the column
    patch = roi_align(ramp, [torch.tensor([[1.0, 1.0, 5.0, 5.0]])], output_size=2, aligned=True)
    # Aligned: the box spans columns 0.5 to 4.5, its two bins have their centres at 1.5 and 3.5.
    assert patch[0, 0].tolist() == [[1.5, 3.5], [1.5, 3.5]]


def test_clips_without_boxes_give_no_rows_and_keep_the_order_of_the_others():
    feature_map = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    one = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    patch = roi_align(feature_map, [one, torch.zeros(0, 4), one], output_size=2)
    assert patch.amax((1, 2, 3)).tolist() == [0.0, 2.0]
    assert roi_align(feature_map, [torch.zeros(0, 4)] * 3, output_size=2).shape == (0, 1, 2, 2)


def test_the_maximum_is_that_of_the_patches():
    torch.manual_seed(0)
    feature_map = torch.randn(2, 5, 7, 9)
    options = dict(output_size=7, spatial_scale=1 / 16, sampling_ratio=2, aligned=False, boxes_inside=False)
    expected = roi_align(feature_map, BOXES, **options).amax((2, 3))
    torch.testing.assert_close(roi_max(feature_map, BOXES, **options), expected)


def test_dropout_falls_on_the_patch_and_the_maximum_goes_to_what_is_left():
    feature_map = torch.rand(1, 400, 8, 8) + 1
    options = dict(output_size=2, spatial_scale=1.0, sampling_ratio=1, aligned=False, boxes_inside=False)
    boxes = [torch.tensor([[0.0, 0.0, 8.0, 8.0]])]
    patches = []

    def dropout(patch):
        patches.append(torch.nn.functional.dropout(patch, 0.5))
        return patches[-1]

    torch.manual_seed(0)
    pooled = roi_max(feature_map, boxes, dropout=dropout, **options)
    assert torch.equal(pooled, patches[0].amax((1, 2)))
    # A channel is zero only where all four of its values were dropped: one in sixteen.
    assert 0.03 < (pooled == 0).float().mean() < 0.1


def test_half_precision_maps_are_sampled_in_float32():
    torch.manual_seed(0)
    feature_map = torch.randn(1, 4, 7, 9, dtype=torch.bfloat16)
    boxes = [BOXES[0][:1]]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        patch = roi_align(feature_map, boxes, output_size=7, spatial_scale=1 / 16)
    exact = roi_align(feature_map.float(), boxes, output_size=7, spatial_scale=1 / 16)
    assert patch.dtype == torch.bfloat16
    assert torch.equal(patch, exact.bfloat16())


def test_lists_of_boxes_must_match_the_batch():
    with pytest.raises(ValueError, match="1 lists of boxes for a batch of 2"):
        roi_align(torch.zeros(2, 1, 4, 4), [torch.zeros(0, 4)], output_size=2)
    with pytest.raises(ValueError, match=r"feature_map must be \(batch, channels, height, width\)"):
        roi_align(torch.zeros(1, 4, 4), [torch.zeros(0, 4)], output_size=2)
