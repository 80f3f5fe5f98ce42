import copy

import pytest
import torch
from test_randaugment import natural_clip

from videomae.data.boxes import Box
from videomae.data.collators import ClassificationCollator, PretrainCollator
from videomae.data.mixing import Mix, Mixing
from videomae.data.on_device import FINISHING, NOISE, Finishing, finish
from videomae.data.randaugment import RandAugment
from videomae.data.sampler import EpochSampler
from videomae.data.synthetic import SyntheticSet, make_synthetic_set
from videomae.data.transforms import EvalTransform, PretrainTransform, RandomErasing, TrainTransform, normalise
from videomae.data.video_dataset import VideoDataset, make_loader
from videomae.sampling_videomae import ClipSampling

MEAN, STD = (0.5, 0.25, 0.125), (0.25, 0.5, 1.0)
SAMPLING = ClipSampling(num_frames=4, stride_frames=2)
TRANSFORMS = {
    "pretrain": PretrainTransform(16, flip=0.5),
    "train": TrainTransform(
        16,
        auto_augment=RandAugment.parse("rand-m7-n2-mstd0.5-inc1"),
        erasing=RandomErasing(0.5),
        mean=MEAN,
        std=STD,
    ),
    "validation": EvalTransform(16),
    "test": EvalTransform(16),
}
COLLATORS = {
    "plain": lambda **fields: ClassificationCollator(mean=MEAN, std=STD, **fields),
    "mixup": lambda **fields: ClassificationCollator(Mixing(8, cutmix_alpha=0), **fields),
    "cutmix": lambda **fields: ClassificationCollator(Mixing(8, mixup_alpha=0), **fields),
    "either": lambda **fields: ClassificationCollator(Mixing(8), **fields),
    "pretrain": lambda **fields: PretrainCollator((2, 2, 2), mask_ratio=0.5, **fields),
}
pytestmark = pytest.mark.filterwarnings("ignore:training flips clips", "ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    spec = SyntheticSet(clips=8, validation_clips=8, test_clips=0, num_frames=12, height=32, width=48)
    return make_synthetic_set(tmp_path_factory.mktemp("data") / "synthetic", spec)


def dataset(folder, mode, *, seed=0, **fields):
    listing = folder / ("validation.csv" if mode in ("validation", "test") else "train.csv")
    return VideoDataset(listing, mode=mode, sampling=SAMPLING, transform=TRANSFORMS[mode], seed=seed, **fields)


def same(batch, other):
    assert batch.keys() == other.keys()
    for name, value in batch.items():
        assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name], name


@pytest.mark.parametrize(
    "mode, samples, kind",
    [
        ("pretrain", 1, "pretrain"),
        ("pretrain", 4, "pretrain"),
        ("train", 1, "plain"),
        ("train", 2, "plain"),
        ("train", 1, "mixup"),
        ("train", 2, "cutmix"),
        ("train", 2, "either"),
        ("validation", 1, "plain"),
        ("test", 1, "plain"),
    ],
)
def test_bytes_finished_later_are_the_floats_of_the_other_way_bit_for_bit(synthetic, mode, samples, kind):
    erased = 0
    for seed in range(5):
        ways = {}
        for as_bytes in (False, True):
            clips = dataset(synthetic, mode, seed=seed, num_samples=samples, as_bytes=as_bytes)
            ways[as_bytes] = COLLATORS[kind](as_bytes=as_bytes)([clips[index] for index in range(4)])
        assert ways[True]["pixel_values"].dtype == torch.uint8 and ways[False]["pixel_values"].dtype == torch.float32
        erased += NOISE in ways[True]
        same(ways[False], finish(ways[True]))
    assert erased if mode == "train" else not erased


def test_floats_are_normalised_then_erased_then_mixed():
    clips = torch.stack([natural_clip(2, height=8, width=8), natural_clip(2, height=8, width=8).flip(0)])
    noise = torch.randn(2 * 3 * 2 * 4, generator=torch.Generator().manual_seed(0))
    todo = Finishing(MEAN, STD, (None, Box(1, 2, 2, 4)), Mix(0.75))
    batch = finish({"pixel_values": clips, "labels": "kept", FINISHING: todo, NOISE: noise})
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD))
    expected = (clips.double() / 255 - mean) / std
    expected[1, :, :, 1:3, 2:6] = noise.view(2, 3, 2, 4).double()
    expected = 0.75 * expected + 0.25 * expected.flip(0)
    assert set(batch) == {"pixel_values", "labels"} and batch["pixel_values"].dtype == torch.float32
    assert torch.allclose(batch["pixel_values"].double(), expected, atol=1e-6)
    cut = finish({"pixel_values": clips, FINISHING: Finishing(MEAN, STD, mix=Mix(0.5, Box(0, 0, 4, 8)))})
    expected = normalise(clips, MEAN, STD)
    expected[..., :4, :] = expected[..., :4, :].flip(0)
    assert torch.equal(cut["pixel_values"], expected)


def test_a_batch_can_be_finished_again_and_nothing_random_is_drawn(synthetic):
    clips = dataset(synthetic, "train", num_samples=2, as_bytes=True)
    batch = COLLATORS["either"](as_bytes=True)([clips[0], clips[1]])
    before, state = copy.deepcopy(batch), torch.get_rng_state()
    first, second = finish(batch), finish(batch)
    same(first, second)
    assert torch.equal(torch.get_rng_state(), state) and batch.keys() == before.keys()
    assert torch.equal(batch["pixel_values"], before["pixel_values"])


def test_a_batch_of_floats_comes_back_as_it_is(synthetic):
    floats = COLLATORS["plain"]()([dataset(synthetic, "train")[0]])
    assert finish(floats) is floats
    # a transform of the user that normalises, and a collator that could leave bytes
    mixed = COLLATORS["either"](as_bytes=True)([dataset(synthetic, "train")[index] for index in range(2)])
    assert mixed["pixel_values"].dtype == torch.float32 and finish(mixed) is mixed
    same(mixed, COLLATORS["either"]()([dataset(synthetic, "train")[index] for index in range(2)]))


def test_the_pixel_statistics_of_the_transform_travel_with_its_bytes(synthetic):
    items = [dataset(synthetic, "train", as_bytes=as_bytes)[1] for as_bytes in (True, False)]
    floats = [ClassificationCollator()([item])["pixel_values"] for item in items]  # the collator's are ImageNet's
    assert torch.equal(*floats) and items[0]["pixel_statistics"] == (MEAN, STD)


def test_workers_hand_over_a_byte_a_value_and_the_noise_of_the_boxes_alone(synthetic):
    collate = COLLATORS["either"](as_bytes=True)
    found = {}
    for workers in (0, 1):
        clips = dataset(synthetic, "train", num_samples=2, as_bytes=True)
        found[workers] = list(make_loader(clips, EpochSampler(8), 4, collate, workers=workers))
    for here, there in zip(*found.values(), strict=True):
        same(here, there)
        boxes = [box for box in here[FINISHING].erased if box is not None]
        assert here["pixel_values"].nbytes == 8 * 4 * 3 * 16 * 16
        assert here[NOISE].nbytes == sum(4 * 4 * 3 * box.height * box.width for box in boxes)
    # colours stay interleaved from the decoder to the device: copies of a clip are then copies of memory
    assert clips[0]["pixel_values"].stride()[-3:] == (1, 48, 3)


def test_odd_batches_are_refused_before_they_are_handed_over(synthetic):
    clips = dataset(synthetic, "train", as_bytes=True)
    with pytest.raises(ValueError, match="even batch, got 3"):
        COLLATORS["mixup"](as_bytes=True)([clips[index] for index in range(3)])


def test_constants_made_in_inference_serve_training_too():
    clip = natural_clip(2)
    with torch.inference_mode():
        normalise(clip, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    pixels = normalise(clip, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    weight = torch.ones((), requires_grad=True)
    (weight * pixels).sum().backward()
    assert weight.grad.isfinite()
