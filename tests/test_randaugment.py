import collections
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from videomae.data import randaugment
from videomae.data.boxes import Box, crop
from videomae.data.randaugment import OPERATIONS, RandAugment
from videomae.data.transforms import random_resized_box

POLICY = "rand-m7-n4-mstd0.5-inc1"


def natural_clip(frames=3, channels=3, height=120, width=161, seed=0) -> torch.Tensor:
    """Frames with the falling spectrum of photographs, and a few hard edges."""
    rng = np.random.default_rng(seed)
    distance = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]) + 1 / width
    noise = np.fft.fft2(rng.standard_normal((frames, channels, height, width)))
    pixels = np.fft.ifft2(noise / distance).real
    pixels = 128 + 50 * pixels / pixels.std()
    pixels[..., 30:60, 40:90] += 70
    return torch.from_numpy(pixels.clip(3, 250).astype(np.uint8))


def images(clip: torch.Tensor) -> list[Image.Image]:
    if clip.shape[1] == 1:
        return [Image.fromarray(frame[0].numpy()) for frame in clip]
    return [Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()) for frame in clip]


def transformed(image, matrix, resample):
    return image.transform(
        image.size, Image.AFFINE, matrix, resample=resample, fillcolor=(128,) * len(image.getbands())
    )


def in_pil(name: str, argument: float, resample=Image.BICUBIC):
    """The operation as timm and SlowFast call it in PIL."""
    enhance = {n: getattr(ImageEnhance, n) for n in ("Color", "Contrast", "Brightness", "Sharpness")}
    return {
        "AutoContrast": ImageOps.autocontrast,
        "Equalize": ImageOps.equalize,
        "Invert": ImageOps.invert,
        "Posterize": lambda image: ImageOps.posterize(image, argument),
        "Solarize": lambda image: ImageOps.solarize(image, argument),
        "SolarizeAdd": lambda image: image.point([v + argument if v < 128 else v for v in range(256)] * 3),
        "Rotate": lambda image: image.rotate(argument, resample=resample, fillcolor=(128, 128, 128)),
        "ShearX": lambda image: transformed(image, (1, argument, 0, 0, 1, 0), resample),
        "ShearY": lambda image: transformed(image, (1, 0, 0, argument, 1, 0), resample),
        "TranslateXRel": lambda image: transformed(image, (1, 0, argument * image.size[0], 0, 1, 0), resample),
        "TranslateYRel": lambda image: transformed(image, (1, 0, 0, 0, 1, argument * image.size[1]), resample),
        **{name: lambda image, name=name: enhance[name](image).enhance(argument) for name in enhance},
    }[name]


CASES = [
    *(("AutoContrast", 0), ("Equalize", 0), ("Invert", 0)),
    *(("Posterize", bits) for bits in (1, 2, 4, 8)),
    *(("Solarize", threshold) for threshold in (0, 77, 180, 255, 256)),
    *(("SolarizeAdd", amount) for amount in (0, 77, 110)),
    *((name, factor) for name in randaugment.ENHANCING for factor in (0.1, 0.37, 1.0, 1.63, 1.9)),
    *(("Rotate", degrees) for degrees in (-30.0, -7.3, 12.0, 21.37)),
    *((name, factor) for name in ("ShearX", "ShearY") for factor in (-0.3, 0.21)),
    *((name, share) for name in ("TranslateXRel", "TranslateYRel") for share in (-0.45, 0.313)),
]


@pytest.mark.parametrize("name, argument", CASES)
def test_every_operation_gives_the_bytes_of_pil_within_one_rounding_step(name, argument):
    clip = natural_clip()
    expected = np.stack([np.asarray(in_pil(name, argument)(image)) for image in images(clip)])
    ours = RandAugment().apply(clip, [(name, argument)])
    difference = (ours.permute(0, 2, 3, 1).int() - torch.from_numpy(expected).int()).abs()
    assert difference.max() <= 1
    # Geometry sums in single precision where PIL sums in double; everything else is exact.
    assert (difference > 0).float().mean() < (0.01 if name in randaugment.SIGNED else 1e-9)


@pytest.mark.parametrize("interpolation, resample", [("nearest", Image.NEAREST), ("bilinear", Image.BILINEAR)])
@pytest.mark.parametrize("name, argument", [("Rotate", 17.0), ("ShearX", 0.2137), ("TranslateYRel", 0.113)])
def test_geometry_follows_pil_under_other_interpolations_too(interpolation, resample, name, argument):
    clip = natural_clip()
    expected = np.stack([np.asarray(in_pil(name, argument, resample)(image)) for image in images(clip)])
    ours = RandAugment(interpolation=interpolation).apply(clip, [(name, argument)])
    difference = (ours.permute(0, 2, 3, 1).int() - torch.from_numpy(expected).int()).abs()
    assert (difference > 1).float().mean() < 1e-3  # nearest may fall on either side of a pixel's border


def test_a_box_gives_the_same_bytes_as_cutting_it_out_of_the_whole():
    clip, policy, g = natural_clip(), RandAugment.parse("rand-m7-n6-mstd0.5-inc1"), torch.Generator().manual_seed(1)
    for i in range(60):
        box = random_resized_box(120, 161, g) if i % 6 else Box(0, 0, 120, 161)
        drawn = policy.draw(g)
        assert torch.equal(policy.apply(clip, drawn, box), crop(policy.apply(clip, drawn), box)), (drawn, box)


@pytest.mark.parametrize("name", ["AutoContrast", "Equalize", "Contrast", "Sharpness"])
def test_statistics_belong_to_each_frame(name):
    clip = torch.cat([natural_clip(1, seed=1), natural_clip(1, seed=2) // 2])
    both = RandAugment().apply(clip, [(name, 1.6)])
    for i in range(2):
        assert torch.equal(both[i : i + 1], RandAugment().apply(clip[i : i + 1], [(name, 1.6)]))


def test_posterizing_to_no_bits_is_black():
    assert not RandAugment().apply(natural_clip(1), [("Posterize", 0)]).any()


def test_flat_frames_stay_as_they_are_under_autocontrast_and_equalize():
    clip = torch.full((2, 3, 40, 50), 99, dtype=torch.uint8)
    for name in ("AutoContrast", "Equalize"):
        assert torch.equal(RandAugment().apply(clip, [(name, 0)]), clip)


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_every_operation_takes_grey_tiny_and_interleaved_clips_and_leaves_its_input_alone(name):
    argument = {"Posterize": 2, "Solarize": 100, "SolarizeAdd": 50}.get(name, 0.3)
    grey = natural_clip(2, channels=1, height=33, width=20)
    interleaved = natural_clip(2, height=33, width=20).contiguous(memory_format=torch.channels_last)
    tiny = torch.randint(0, 256, (1, 3, 2, 2), dtype=torch.uint8)
    for clip in (grey, interleaved, tiny):
        before = clip.clone()
        out = RandAugment().apply(clip, [(name, argument)])
        assert out.shape == clip.shape and out.dtype == torch.uint8
        assert torch.equal(clip, before)
    assert torch.equal(
        RandAugment().apply(interleaved, [(name, argument)]),
        RandAugment().apply(interleaved.contiguous(), [(name, argument)]),
    )


def test_the_policy_string_is_read():
    policy = RandAugment.parse(POLICY)
    assert (policy.magnitude, policy.layers, policy.magnitude_std, policy.increasing) == (7, 4, 0.5, True)
    assert RandAugment.parse("rand") == RandAugment(magnitude=10, layers=2)
    assert RandAugment.parse("rand-m9-w0").weighted


@pytest.mark.parametrize(
    "policy, message",
    [
        ("augmix-m5", "starts with 'rand'"),
        ("rand-x3", "cannot read 'x3'"),
        ("rand-m11", "magnitude must be in"),
        ("rand-n2.5", "cannot read 'n2.5'"),
        ("rand-w1", "one set of weights"),
        ("rand-w0-n20", "without replacement"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(policy, message):
    with pytest.raises(ValueError, match=message):
        RandAugment.parse(policy)


def test_other_pixels_than_bytes_are_refused():
    with pytest.raises(ValueError, match="uint8 clips"):
        RandAugment().apply(torch.zeros(2, 3, 4, 4), [("Invert", 0)])


def draws(policy: str, count: int) -> list[list[tuple[str, float]]]:
    parsed, generator = RandAugment.parse(policy), torch.Generator().manual_seed(0)
    return [parsed.draw(generator) for _ in range(count)]


def test_operations_come_equally_often_and_half_of_the_layers_are_empty():
    drawn = draws(POLICY, 6000)
    counts = collections.Counter(name for clip in drawn for name, _ in clip)
    total = sum(counts.values())
    assert total / len(drawn) == pytest.approx(2.0, abs=0.05)  # four layers, each with probability one half
    assert set(counts) == set(OPERATIONS)
    expected = total / len(OPERATIONS)
    assert all(abs(count - expected) < 5 * math.sqrt(expected) for count in counts.values())


def test_weighted_policies_draw_by_weight_and_never_twice():
    drawn = draws("rand-m9-n3-w0", 4000)
    assert all(len({name for name, _ in clip}) == len(clip) for clip in drawn)
    counts = collections.Counter(name for clip in drawn for name, _ in clip)
    assert counts["Rotate"] > counts["ShearX"] > counts["TranslateXRel"] > counts["Color"]
    assert "Invert" not in counts and "Posterize" not in counts


def test_magnitudes_follow_the_published_ranges():
    arguments = collections.defaultdict(list)
    for clip in draws(POLICY, 6000):
        for name, argument in clip:
            arguments[name].append(argument)
    # magnitude 7 +- 0.5 of 10, scaled to each operation's range, with a random sign where it has one
    for name, reach in randaugment.SIGNED.items():
        values = np.array(arguments[name])
        assert np.abs(values).mean() == pytest.approx(0.7 * reach, rel=0.02)
        assert np.abs(values).std() == pytest.approx(0.05 * reach, rel=0.15)
        assert abs((values > 0).mean() - 0.5) < 0.08
    for name in randaugment.ENHANCING:
        values = np.array(arguments[name])
        assert np.abs(values - 1).mean() == pytest.approx(0.63, rel=0.02)
        assert values.min() > 0 and values.max() < 2
    assert set(arguments["Posterize"]) <= {1, 2} and np.mean(arguments["Posterize"]) == pytest.approx(1.9, abs=0.15)
    assert np.mean(arguments["Solarize"]) == pytest.approx(256 * 0.3, abs=3)
    assert np.mean(arguments["SolarizeAdd"]) == pytest.approx(77, abs=2)


def test_without_increasing_the_ranges_run_from_weak_to_strong_the_other_way():
    arguments = dict(pair for clip in draws("rand-m10-n9", 200) for pair in clip)
    assert arguments["Posterize"] == 4 and arguments["Solarize"] == 256
    assert arguments["Color"] == pytest.approx(1.9)


def test_the_same_generator_state_gives_the_same_clip():
    clip, policy = natural_clip(), RandAugment.parse(POLICY)
    first, second = (policy(clip, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
