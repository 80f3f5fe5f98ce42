import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance
from test_randaugment import images, natural_clip

from videomae.data import transforms
from videomae.data.randomness import generator_for, sample_key
from videomae.data.transforms import (
    Box,
    ColourJitter,
    EvalTransform,
    PretrainTransform,
    RandomErasing,
    TrainTransform,
    multi_scale_box,
    normalise,
    random_resized_box,
    resize,
    resize_short_side,
    spatial_boxes,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_keys_of_samples_differ_and_streams_of_one_sample_do_too():
    keys = {sample_key(s, e, i, n) for s in range(3) for e in range(5) for i in range(50) for n in range(4)}
    assert len(keys) == 3 * 5 * 50 * 4 and min(keys) >= 0 and max(keys) < 2**63
    assert generator_for(5, "mask").initial_seed() != generator_for(5, "pixels").initial_seed()
    assert sample_key(1, 2, 3, 4) == sample_key(1, 2, 3, 4) == 8837058709363898967


def test_multi_scale_crops_have_the_published_sides_and_places():
    g = generator()
    boxes = [multi_scale_box(256, 340, 224, g) for _ in range(8000)]
    sides = [256, 224, 192, 168]  # 0.875 * 256 is 224 exactly; 0.66 * 256 is cut to 168
    pairs = {(box.height, box.width) for box in boxes}
    assert pairs == {(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1}
    for pair in pairs:
        share = np.mean([(box.height, box.width) == pair for box in boxes])
        assert share == pytest.approx(1 / len(pairs), abs=0.02)
    for pair in pairs:
        places = {(box.top, box.left) for box in boxes if (box.height, box.width) == pair}
        h, w = (256 - pair[0]) // 4, (340 - pair[1]) // 4
        corners_and_centre = {(0, 0), (0, 4 * w), (4 * h, 0), (4 * h, 4 * w), (2 * h, 2 * w)}
        edges = {(2 * h, 0), (2 * h, 4 * w), (4 * h, 2 * w), (0, 2 * w)}
        inner = {(h, w), (h, 3 * w), (3 * h, w), (3 * h, 3 * w)}
        assert places == corners_and_centre | edges | inner


def test_a_side_within_three_pixels_of_the_target_becomes_the_target():
    g = generator()
    sides = {multi_scale_box(258, 400, 224, g).height for _ in range(500)}
    assert sides == {258, 224, 193, 170}  # 0.875 * 258 = 225 is snapped
    assert {multi_scale_box(222, 400, 224, g).height for _ in range(500)} == {
        222,
        194,
        166,
        146,
    }  # never over the frame


def test_random_resized_crops_have_the_published_areas_and_aspects():
    g = generator()
    boxes = [random_resized_box(400, 400, g) for _ in range(6000)]
    areas = np.array([box.height * box.width for box in boxes]) / 400**2
    ratios = np.log([box.width / box.height for box in boxes])
    assert areas.min() > 0.079 and areas.max() <= 1
    # Inside the range where every aspect fits the frame, the draws are uniform in area and in log aspect.
    for limit in (0.2, 0.4, 0.6):
        assert np.mean(areas < limit) / np.mean(areas < 0.7) == pytest.approx((limit - 0.08) / 0.62, abs=0.03)
    fits = areas < 0.7
    assert np.abs(ratios).max() < math.log(4 / 3) + 0.02
    assert ratios[fits].mean() == pytest.approx(0, abs=0.01)
    assert ratios[fits].std() == pytest.approx(2 * math.log(4 / 3) / math.sqrt(12), rel=0.03)
    free = [(box.top / (400 - box.height), box.left / (400 - box.width)) for box in boxes if max(box[2:]) < 350]
    assert np.mean(free, axis=0) == pytest.approx([0.5, 0.5], abs=0.02)


def test_a_frame_too_narrow_for_any_draw_gives_the_largest_central_crop():
    box = random_resized_box(1000, 10, generator(), area=(0.9, 1.0))
    assert box == Box(493, 0, 13, 10)


def test_erasing_has_the_published_probability_areas_and_aspects():
    g, erasing = generator(), RandomErasing(0.25)
    boxes = [erasing.box(224, 224, g) for _ in range(8000)]
    drawn = [box for box in boxes if box is not None]
    assert len(drawn) / len(boxes) == pytest.approx(0.25, abs=0.015)
    areas = np.array([box.height * box.width for box in drawn]) / 224**2
    ratios = np.log([box.height / box.width for box in drawn])
    assert areas.min() > 0.0195 and areas.max() < 0.337
    small = areas < 0.28  # below this every aspect fits, so nothing was redrawn
    assert np.mean(areas[small] < 0.15) == pytest.approx((0.15 - 0.02) / (0.28 - 0.02), abs=0.04)
    assert ratios[small].std() == pytest.approx(2 * math.log(1 / 0.3) / math.sqrt(12), rel=0.04)


def test_erasing_puts_fresh_unit_noise_into_one_box_of_all_frames():
    pixels = torch.zeros(8, 3, 64, 64)
    RandomErasing(1.0, area=(0.2, 0.3)).draw(pixels.shape, generator(1)).fill(pixels)
    touched = pixels != 0
    assert torch.equal(touched.any(0), touched.all(0)) and touched.any()
    noise = pixels[touched]
    assert noise.mean() == pytest.approx(0, abs=0.05) and noise.std() == pytest.approx(1, abs=0.05)
    assert not torch.equal(pixels[0], pixels[1])


def test_antialiased_resizing_gives_the_bytes_of_pil():
    clip = natural_clip(3, height=168, width=224)
    expected = np.stack([np.asarray(image.resize((112, 112), Image.BILINEAR)) for image in images(clip)])
    ours = resize(clip, (112, 112), antialias=True)
    assert (ours.permute(0, 2, 3, 1).int() - torch.from_numpy(expected).int()).abs().max() <= 1


def test_resizing_without_antialiasing_is_interpolation_in_floats_rounded_once_per_axis():
    clip = natural_clip(3, height=168, width=224)
    exact = F.interpolate(clip.float(), size=(112, 130), mode="bilinear", align_corners=False)
    error = (resize(clip, (112, 130), antialias=False) - exact).abs()
    assert error.max() <= 1.01 and error.mean() < 0.4


@pytest.mark.parametrize(
    "height, width, expected", [(256, 340, (224, 297)), (340, 256, (297, 224)), (224, 224, (224, 224))]
)
def test_the_long_side_is_cut_to_an_integer(height, width, expected):
    assert resize_short_side(torch.zeros(1, 3, height, width, dtype=torch.uint8), 224).shape[-2:] == expected


def test_three_crops_stand_at_the_start_the_middle_and_the_end_of_the_long_side():
    assert spatial_boxes(224, 297, 224, 3) == [Box(0, 0, 224, 224), Box(0, 36, 224, 224), Box(0, 73, 224, 224)]
    assert spatial_boxes(300, 224, 224, 2) == [Box(0, 0, 224, 224), Box(76, 0, 224, 224)]
    assert spatial_boxes(224, 297, 224, 1) == [Box(0, 36, 224, 224)]
    assert spatial_boxes(224, 299, 224, 1) == [Box(0, 38, 224, 224)]  # 37.5, rounded as the releases do


def test_normalising_is_scaling_by_mean_and_deviation():
    clip = natural_clip(2).contiguous(memory_format=torch.channels_last)
    mean, std = torch.tensor(transforms.IMAGENET_MEAN), torch.tensor(transforms.IMAGENET_STD)
    expected = (clip.double() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    for pixels in (clip, clip[None], clip[0]):
        out = normalise(pixels)
        assert out.dtype == torch.float32 and out.is_contiguous() and out.shape == pixels.shape
    assert (normalise(clip) - expected).abs().max() < 1e-6


@pytest.mark.parametrize(
    "field, enhancer", [("brightness", "Brightness"), ("contrast", "Contrast"), ("saturation", "Color")]
)
def test_colour_jitter_is_pils_enhancement_by_a_factor_near_one(field, enhancer):
    clip = natural_clip(2)
    ours = ColourJitter(**{field: 0.4})(clip, generator(4))
    factors = np.linspace(0.6, 1.4, 161)
    errors = []
    for factor in factors:
        image = getattr(ImageEnhance, enhancer)(images(clip)[0]).enhance(factor)
        errors.append(np.abs(np.asarray(image).astype(int) - ours[0].permute(1, 2, 0).numpy()).mean())
    assert min(errors) < 1 and not torch.equal(ours, clip)


def test_the_pretraining_transform_is_a_multi_scale_crop_resized_like_pil():
    clip = natural_clip(2, height=120, width=160)
    out = PretrainTransform(size=64)(clip, generator(7))
    box = multi_scale_box(120, 160, 64, generator(7))
    image = images(clip)[0].crop((box.left, box.top, box.left + box.width, box.top + box.height))
    expected = np.asarray(image.resize((64, 64), Image.BILINEAR)).astype(int)
    assert np.abs(out[0].permute(1, 2, 0).numpy() - expected).max() <= 1


def test_the_training_transform_repeats_with_its_generator_and_flips_half_of_the_time():
    clip = natural_clip(2)
    transform = TrainTransform(size=32)
    assert torch.equal(transform(clip, generator(1)), transform(clip, generator(1)))
    assert not torch.equal(transform(clip, generator(1)), transform(clip, generator(2)))
    whole = dict(auto_augment=None, erasing=None, area=(1, 1), aspect=(161 / 120, 161 / 120))
    straight = TrainTransform(size=32, flip=0.0, **whole)(clip, generator())
    g = generator()
    flipped = [torch.equal(TrainTransform(size=32, flip=0.5, **whole)(clip, g), straight.flip(-1)) for _ in range(200)]
    assert np.mean(flipped) == pytest.approx(0.5, abs=0.12)
    assert pickle.loads(pickle.dumps(transform)) == transform  # workers that are spawned get it so


def test_views_of_the_test_are_crops_of_one_resized_clip():
    clip = natural_clip(2, height=120, width=180)
    views = EvalTransform(size=64).views(clip, 3)
    resized = resize_short_side(clip, 64)
    assert resized.shape[-2:] == (64, 96)
    assert [v.shape for v in views] == [(2, 3, 64, 64)] * 3
    assert torch.equal(views[1], resized[..., 16:80])
    assert torch.equal(EvalTransform(size=64)(clip), views[1])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: RandomErasing(1.5), "probability of random erasing"),
        (lambda: ColourJitter(brightness=2), "brightness must be in"),
    ],
)
def test_parameters_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
