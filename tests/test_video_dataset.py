import hashlib
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from video_files import numbers_in, write_video

from videomae.data.collators import ClassificationCollator, PretrainCollator
from videomae.data.lists.layouts import open_manifest
from videomae.data.mixing import Mixing
from videomae.data.on_device import finish
from videomae.data.randaugment import RandAugment
from videomae.data.sampler import EpochSampler
from videomae.data.synthetic import SyntheticSet, make_synthetic_set
from videomae.data.transforms import EvalTransform, PretrainTransform, TrainTransform, normalise
from videomae.data.video_dataset import BrokenVideosError, VideoDataset, make_loader
from videomae.sampling_videomae import ClipSampling, test_clips
from videomae.video_io import VideoReadError, read_frames

SAMPLING = ClipSampling(num_frames=8, stride_frames=2)
pytestmark = pytest.mark.filterwarnings("ignore:training flips clips", "ignore:This DataLoader will create")
LIGHT = TrainTransform(size=16, auto_augment=RandAugment.parse("rand-m7-n2-mstd0.5-inc1"))


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    spec = SyntheticSet(clips=24, validation_clips=8, test_clips=0, num_frames=24, height=32, width=48)
    return make_synthetic_set(tmp_path_factory.mktemp("data") / "synthetic", spec)


@pytest.fixture
def numbered(tmp_path):
    """A set of videos of 20, 21, ... frames, each frame showing its number."""
    lines = []
    for i in range(6):
        write_video(tmp_path / f"v{i}.mp4", 40 + i)
        lines.append(f"v{i}.mp4 {i % 3}\n")
    (tmp_path / "list.txt").write_text("".join(lines))
    return tmp_path / "list.txt"


class Whole:
    """A transform that keeps the frames as they are."""

    def __call__(self, clip, generator):
        return clip.contiguous()


def digest(tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def training_set(folder, **fields):
    manifest = open_manifest(folder / "train.csv")
    return VideoDataset(manifest, sampling=SAMPLING, transform=LIGHT, num_samples=2, seed=5, **fields)


def batches(dataset, workers, *, start=0, epoch=3, rank=0, world=1, batch_size=4):
    dataset.set_epoch(epoch)
    sampler = EpochSampler(len(dataset), seed=5, epoch=epoch, start=start, rank=rank, world=world)
    collate = ClassificationCollator(Mixing(8))
    return list(make_loader(dataset, sampler, batch_size, collate, workers=workers))


def test_samples_are_bit_equal_with_any_number_of_workers_in_any_order_and_after_resuming(synthetic):
    dataset = training_set(synthetic)
    dataset.set_epoch(3)
    order = EpochSampler(len(dataset), seed=5, epoch=3).order().tolist()
    one_by_one = {index: digest(dataset[index]["pixel_values"]) for index in reversed(order)}
    again = {index: digest(training_set_at(synthetic, 3)[index]["pixel_values"]) for index in order[:5]}
    assert again == {index: one_by_one[index] for index in order[:5]}
    reference = [digest(batch["pixel_values"]) + digest(batch["labels"]) for batch in batches(dataset, 0)]
    for workers in (1, 4):
        found = batches(training_set(synthetic), workers)
        assert [digest(batch["pixel_values"]) + digest(batch["labels"]) for batch in found] == reference
    resumed = batches(training_set(synthetic), 1, start=8)
    assert [digest(batch["pixel_values"]) + digest(batch["labels"]) for batch in resumed] == reference[2:]
    other_epoch = batches(dataset, 0, epoch=4)
    assert not {digest(batch["pixel_values"]) + digest(batch["labels"]) for batch in other_epoch} & set(reference)


def training_set_at(folder, epoch):
    dataset = training_set(folder)
    dataset.set_epoch(epoch)
    return dataset


def test_pretraining_batches_are_bit_equal_with_any_number_of_workers(synthetic):
    def hashes(workers):
        dataset = VideoDataset(
            synthetic / "train.csv", mode="pretrain", sampling=SAMPLING, transform=PretrainTransform(size=32),
            num_samples=2, seed=1,
        )  # fmt: skip
        collate = PretrainCollator((4, 4, 4), decoder_mask="running_cell")
        loader = make_loader(dataset, EpochSampler(len(dataset), seed=1), 6, collate, workers=workers)
        names = ("pixel_values", "bool_masked_pos", "bool_decoded_pos")
        return [[digest(batch[name]) for name in names] + batch["sources"] for batch in loader]

    assert hashes(0) == hashes(1) == hashes(4)


def test_workers_that_stay_see_the_next_epoch(synthetic):
    dataset = VideoDataset(synthetic / "train.csv", sampling=SAMPLING, transform=LIGHT)
    loader = make_loader(dataset, EpochSampler(len(dataset), shuffle=False), 8, ClassificationCollator(), workers=2)
    first = [digest(batch["pixel_values"]) for batch in loader]
    dataset.set_epoch(1)
    second = [digest(batch["pixel_values"]) for batch in loader]
    dataset.set_epoch(0)
    assert [digest(batch["pixel_values"]) for batch in loader] == first
    assert not set(first) & set(second)


def test_processes_share_out_each_global_batch():
    whole = list(EpochSampler(21, seed=2, epoch=7))
    assert sorted(whole) == list(range(21)) and whole != sorted(whole)
    parts = [list(EpochSampler(21, seed=2, epoch=7, rank=rank, world=4)) for rank in range(4)]
    assert [len(part) for part in parts] == [5] * 4 == [len(EpochSampler(21, rank=rank, world=4)) for rank in range(4)]
    assert [parts[i % 4][i // 4] for i in range(20)] == whole[:20]
    resumed = [list(EpochSampler(21, seed=2, epoch=7, start=8, rank=rank, world=2)) for rank in range(2)]
    assert [resumed[i % 2][i // 2] for i in range(12)] == whole[8:20]  # with other processes the order stays global


def test_evaluation_sees_each_clip_once_over_all_processes():
    parts = [list(EpochSampler(10, shuffle=False, even=False, rank=rank, world=4)) for rank in range(4)]
    assert sorted(index for part in parts for index in part) == list(range(10)) and [len(part) for part in parts] == [
        3,
        3,
        2,
        2,
    ]
    assert [len(EpochSampler(10, shuffle=False, even=False, rank=rank, world=4)) for rank in range(4)] == [3, 3, 2, 2]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"length": 0}, "at least 1 clip"),
        ({"length": 5, "start": 6}, r"start must be in \[0, 5\]"),
        ({"length": 5, "rank": 2, "world": 2}, r"rank must be in \[0, 1\]"),
    ],
)
def test_impossible_orders_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EpochSampler(**arguments)


# -- which frames, which pixels --------------------------------------------------------------------------------------


def test_a_training_clip_has_the_frames_of_its_rule_and_all_copies_the_same(numbered):
    dataset = VideoDataset(numbered, sampling=ClipSampling(num_frames=4, stride_frames=3, rule="exact"), transform=Whole(), num_samples=3)  # fmt: skip
    starts = set()
    for epoch in range(10):
        dataset.set_epoch(epoch)
        item = dataset[2]
        shown = [numbers_in(copy.permute(0, 2, 3, 1)) for copy in item["pixel_values"]]
        assert shown[0] == shown[1] == shown[2] == [shown[0][0] + 3 * i for i in range(4)]
        starts.add(shown[0][0])
    assert len(starts) > 3 and item["label"] == 2 and item["index"] == 2 and item["path"] == "v2.mp4"


def test_only_frames_of_sources_at_half_the_rate_take_half_the_stride(tmp_path):
    for name in ("SomethingV2/a.mp4", "k/b.mp4"):
        (tmp_path / name).parent.mkdir()
        write_video(tmp_path / name, 60)
    for folder in ("SomethingV2/frames", "k/frames"):
        (tmp_path / folder).mkdir()
        for number, frame in enumerate(read_frames(tmp_path / "k/b.mp4", list(range(60))).numpy(), 1):
            Image.fromarray(frame).save(tmp_path / folder / f"img_{number:05}.jpg", quality=95)
    (tmp_path / "list.txt").write_text("SomethingV2/a.mp4 0 -1\nk/b.mp4 0 -1\nSomethingV2/frames 1 60\nk/frames 1 60\n")
    dataset = VideoDataset(
        tmp_path / "list.txt", mode="pretrain", sampling=ClipSampling(num_frames=4, stride_frames=4), transform=Whole(),
        half_rate_sources=("SomethingV2",),
    )  # fmt: skip
    steps = [np.diff(numbers_in(dataset[i]["pixel_values"][0].permute(0, 2, 3, 1))).tolist() for i in range(4)]
    # Something-Something as video files has its own 24 frames a second; V2 stored its frames at 12.
    assert steps == [[4, 4, 4], [4, 4, 4], [2, 2, 2], [4, 4, 4]]


def test_test_views_equal_a_separate_decode_and_crop_of_each(numbered):
    sampling = ClipSampling(num_frames=4, stride_frames=3, clips=3, crops=3)
    dataset = VideoDataset(numbered, mode="test", sampling=sampling, transform=EvalTransform(size=32))
    item = dataset[1]
    assert item["pixel_values"].shape == (9, 4, 3, 32, 32) and len(item["keys"]) == 9
    views = []
    for indices in test_clips(41, sampling):
        frames = read_frames(numbered.parent / "v1.mp4", indices).permute(0, 3, 1, 2)
        resized = torch.nn.functional.interpolate(
            frames.contiguous(memory_format=torch.channels_last), size=(32, 48), mode="bilinear"
        )
        views += [resized[..., left : left + 32] for left in (0, 8, 16)]
    assert torch.equal(item["pixel_values"], torch.stack(views))


def test_validation_is_the_centre_clip_and_crop(numbered):
    sampling = ClipSampling(num_frames=4, stride_frames=3, rule="exact")
    dataset = VideoDataset(numbered, mode="validation", sampling=sampling, transform=Whole())
    assert numbers_in(dataset[0]["pixel_values"][0].permute(0, 2, 3, 1)) == [15, 18, 21, 24]
    default = VideoDataset(numbered, mode="validation", sampling=sampling)
    assert default[0]["pixel_values"].shape == (1, 4, 3, 224, 224)


def test_frame_folders_and_short_videos_are_read(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(1, 12):
        Image.fromarray(np.full((20, 30, 3), 10 * i, np.uint8)).save(folder / f"img_{i:05}.png")
    (tmp_path / "list.txt").write_text("frames 2 10 0\nframes 5 3 1\n")
    manifest = open_manifest(tmp_path / "list.txt", pattern="img_{:05}.png")
    sampling = ClipSampling(num_frames=4, stride_frames=2, rule="exact")
    dataset = VideoDataset(manifest, mode="validation", sampling=sampling, transform=Whole())
    assert dataset[0]["pixel_values"][0, :, 0, 0, 0].tolist() == [30, 50, 70, 90]
    assert dataset[1]["pixel_values"][0, :, 0, 0, 0].tolist() == [50, 70, 70, 70]
    strict = VideoDataset(
        manifest,
        mode="validation",
        sampling=ClipSampling(num_frames=4, stride_frames=2, short="error"),
        transform=Whole(),
    )
    with pytest.raises(VideoReadError, match="span 7 frames, but the video has 3"):
        strict[1]


# -- broken videos ---------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(synthetic, tmp_path):
    """A copy of the set with videos 2, 3 and 9 of the training list broken in three ways."""
    folder = tmp_path / "damaged"
    shutil.copytree(synthetic, folder)
    (folder / "videos/train/00002.mp4").unlink()
    (folder / "videos/train/00003.mp4").write_bytes(b"not a video at all")
    whole = (folder / "videos/train/00009.mp4").read_bytes()
    (folder / "videos/train/00009.mp4").write_bytes(whole[: len(whole) // 2])
    return folder


def test_training_replaces_broken_videos_by_the_next_readable_one_and_counts_them(damaged):
    dataset = training_set(damaged, max_broken=0.2)
    with pytest.warns(RuntimeWarning, match="broken video: .*00002.mp4"):
        item = dataset[2]
    assert item["index"] == 4 and item["path"].endswith("00004.mp4") and item["label"] == dataset[4]["label"]
    with pytest.warns(RuntimeWarning, match="00009"):
        assert dataset[9]["index"] == 10
    assert [path[-9:] for path in dataset.broken] == ["00002.mp4", "00003.mp4", "00009.mp4"]
    # The stand-in does not depend on what was met before.
    fresh = training_set(damaged, max_broken=0.2)
    with pytest.warns(RuntimeWarning):
        assert torch.equal(fresh[2]["pixel_values"], item["pixel_values"])


def test_a_video_that_is_cut_off_is_broken_or_read_as_far_as_it_goes_and_noted_once(tmp_path):
    for i in range(4):
        write_video(tmp_path / f"{i}.mkv", 60)
    whole = (tmp_path / "2.mkv").read_bytes()
    (tmp_path / "2.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "list.txt").write_text("".join(f"{i}.mkv {i % 2}\n" for i in range(4)))
    manifest = open_manifest(tmp_path / "list.txt")
    reading = {"sampling": SAMPLING, "transform": LIGHT, "max_broken": 0.5}
    with pytest.warns(RuntimeWarning, match=r"broken video: .*2\.mkv"):
        assert VideoDataset(manifest, **reading)[2]["index"] == 3
    dataset = VideoDataset(manifest, errors="truncate", **reading)
    with pytest.warns(RuntimeWarning, match=r"cut off or damaged, read as far as it goes: 2\.mkv") as caught:
        items = [dataset[i] for i in (0, 2, 2, 3)]
    assert [item["index"] for item in items] == [0, 2, 2, 3] and len(caught) == 1
    assert dataset.truncated == ["2.mkv"] and dataset.broken == []


def test_workers_report_broken_videos_to_the_main_process(damaged):
    dataset = training_set(damaged, max_broken=0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batches(dataset, 2)
    assert len(dataset.broken) == 3


def test_training_stops_above_the_allowed_share(damaged):
    dataset = training_set(damaged, max_broken=0.05)
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(BrokenVideosError, match=r"2 of 24 videos .* above max_broken=0.05"),
    ):
        dataset[2]


def test_a_set_without_a_readable_video_stops(tmp_path):
    (tmp_path / "list.txt").write_text("a.mp4 0\nb.mp4 1\n")
    dataset = VideoDataset(tmp_path / "list.txt", max_broken=1.0)
    with pytest.warns(RuntimeWarning), pytest.raises(BrokenVideosError, match="none of the 2 videos"):
        dataset[0]


def test_evaluation_fails_or_excludes_but_never_replaces(damaged):
    manifest = open_manifest(damaged / "train.csv")
    sampling, transform = ClipSampling(num_frames=4, stride_frames=2, clips=2, crops=1), EvalTransform(size=16)
    failing = VideoDataset(manifest, mode="test", sampling=sampling, transform=transform)
    with pytest.warns(RuntimeWarning), pytest.raises(VideoReadError, match=r"00002\.mp4.*broken='exclude'"):
        failing[2]
    excluding = VideoDataset(
        manifest, mode="test", sampling=sampling, transform=transform, broken="exclude", max_broken=0.5
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(make_loader(excluding, range(24), 2, list, drop_last=False, workers=1))
    items = [item for batch in found for item in batch]
    missing = [(item["index"], item["error"]) for item in items if item["pixel_values"] is None]
    assert [index for index, _ in missing] == [2, 3, 9] and all(f"{index:05}.mp4" in text for index, text in missing)
    assert items[8]["pixel_values"].shape == (2, 4, 3, 16, 16)
    assert len(ClassificationCollator()(found[4])["labels"]) == 2  # of video 8 alone, in two views
    with pytest.raises(ValueError, match="none of the 2 videos of a batch could be read"):
        ClassificationCollator()(found[1])
    with pytest.raises(ValueError, match="evaluation never replaces a video"):
        VideoDataset(manifest, mode="test", broken="replace")


def test_a_decode_that_takes_too_long_counts_as_broken(synthetic):
    dataset = training_set(synthetic, decode_seconds=0.0, max_broken=0.0)
    with pytest.warns(RuntimeWarning), pytest.raises(BrokenVideosError, match="decode_seconds"):
        dataset[0]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"mode": "eval"}, "mode must be one of"),
        ({"num_samples": 0}, "num_samples must be at least 1"),
        ({"mode": "test", "num_samples": 2}, "test has no augmented copies"),
        ({"broken": "skip"}, "broken must be one of"),
        ({"max_broken": 5}, "max_broken is a share"),
    ],
)
def test_impossible_data_sets_are_refused(synthetic, fields, message):
    with pytest.raises(ValueError, match=message):
        VideoDataset(synthetic / "train.csv", **fields)


def test_training_on_one_class_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("a.mp4 3\nb.mp4 3\n")
    with pytest.raises(ValueError, match="one class only"):
        VideoDataset(tmp_path / "list.txt")
    VideoDataset(tmp_path / "list.txt", mode="pretrain")


def test_flips_of_sided_classes_are_warned_about(synthetic):
    with pytest.warns(UserWarning, match="'moves right' depend on the side"):
        VideoDataset(synthetic / "train.csv", sampling=SAMPLING, transform=LIGHT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VideoDataset(synthetic / "train.csv", sampling=SAMPLING, transform=TrainTransform(16, flip=0.0))


def test_passing_over_a_loader_leaves_the_global_generator_alone(synthetic):
    dataset = training_set(synthetic)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(make_loader(dataset, EpochSampler(len(dataset)), 12, ClassificationCollator()))
    assert torch.equal(torch.rand(3), expected)


def test_indices_past_the_end_end_iteration(synthetic):
    dataset = training_set(synthetic)
    with pytest.raises(IndexError):
        dataset[24]
    assert dataset[-1]["index"] == 23 and len(dataset) == 24 and dataset.num_labels == 8
    assert dataset.class_names[0] == "moves right" and dataset.labels.shape == (24,)


# -- collators -------------------------------------------------------------------------------------------------------


def items(count=2, samples=2, size=16):
    g = torch.Generator().manual_seed(0)
    return [
        {
            "pixel_values": torch.randint(0, 256, (samples, 4, 3, size, size), dtype=torch.uint8, generator=g),
            "label": i, "index": i, "keys": [10 * i + s for s in range(samples)], "path": f"{i}.mp4",
        }
        for i in range(count)
    ]  # fmt: skip


def test_a_pretraining_batch_has_normalised_pixels_masks_by_key_and_counts():
    given = items()
    batch = PretrainCollator((2, 4, 4), mask_ratio=0.75, decoder_mask="running_cell")(given)
    assert torch.allclose(batch["pixel_values"][1], normalise(given[0]["pixel_values"][1]))
    assert batch["pixel_values"].shape == (4, 4, 3, 16, 16) and batch["pixel_values"].dtype == torch.float32
    assert batch["bool_masked_pos"].shape == (4, 32) and batch["bool_masked_pos"].dtype == torch.bool
    assert batch["num_visible"] == 8 and (~batch["bool_masked_pos"]).sum(1).tolist() == [8] * 4
    assert batch["num_decoded"] == 16 and batch["bool_decoded_pos"].sum(1).tolist() == [16] * 4
    assert batch["sources"] == ["0.mp4", "0.mp4", "1.mp4", "1.mp4"]
    turned = PretrainCollator((2, 4, 4), mask_ratio=0.75, decoder_mask="running_cell")(given[::-1])
    assert torch.equal(turned["bool_masked_pos"], batch["bool_masked_pos"][[2, 3, 0, 1]])
    assert len({tuple(mask.tolist()) for mask in batch["bool_masked_pos"]}) == 4
    plain = PretrainCollator((2, 4, 4))(given)
    assert set(plain) == {"pixel_values", "bool_masked_pos", "num_visible", "sources"}


@pytest.mark.parametrize("as_bytes", [False, True])
def test_block_masks_give_each_sample_two_rows_with_masks_from_its_own_key(as_bytes):
    collate = PretrainCollator((2, 4, 4), mask="blocks", mask_ratio=0.75, as_bytes=as_bytes)
    given = items()
    batch, turned = (finish(collate(each)) for each in (given, given[::-1]))
    plain = PretrainCollator((2, 4, 4), mask_ratio=0.75)(given)
    assert torch.equal(batch["pixel_values"], plain["pixel_values"].repeat_interleave(2, 0))
    assert batch["bool_masked_pos"].shape == (8, 32) and batch["num_visible"] == 8
    assert torch.equal(turned["bool_masked_pos"], batch["bool_masked_pos"].roll(4, 0))
    for kind, rows in (("short_blocks", slice(0, 8, 2)), ("long_blocks", slice(1, 8, 2))):
        alone = PretrainCollator((2, 4, 4), mask=kind, mask_ratio=0.75)(given)["bool_masked_pos"]
        assert torch.equal(alone, batch["bool_masked_pos"][rows]) is (
            kind == "short_blocks"
        )  # drawn first, from the same key
    dual = PretrainCollator((2, 4, 4), mask="blocks", mask_ratio=0.75, decoder_mask="running_cell")(given)
    assert dual["bool_decoded_pos"].shape == (8, 32) and dual["num_decoded"] == 16
    with pytest.raises(
        ValueError, match=r"decoder_mask must be one of tube, random, frame, running_cell, .*not 'blocks'"
    ):
        PretrainCollator((2, 4, 4), decoder_mask="blocks")


def test_a_pretraining_batch_is_what_the_model_takes():
    from support import TINY

    from videomae import VideoMAEConfig, VideoMAEForPreTraining

    config = VideoMAEConfig(**{**TINY, "num_frames": 4})
    model = VideoMAEForPreTraining(config).eval()
    batch = PretrainCollator(config.grid, decoder_mask="running_cell")(items(size=32))
    batch.pop("sources")
    assert torch.isfinite(model(**batch).loss)


def test_a_classification_batch_repeats_labels_for_copies_and_mixes():
    batch = ClassificationCollator()(items())
    assert batch["labels"].tolist() == [0, 0, 1, 1] and batch["sources"][2] == "1.mp4"
    mixed = ClassificationCollator(Mixing(3))(items())
    assert mixed["labels"].shape == (4, 3) and torch.allclose(mixed["labels"].sum(1), torch.ones(4))
    vectors = [{**item, "label": torch.tensor([1.0, 0.0])} for item in items()]
    assert ClassificationCollator()(vectors)["labels"].shape == (4, 2)
    unlabelled = [{**item, "label": None} for item in items()]
    assert "labels" not in ClassificationCollator()(unlabelled)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: PretrainCollator((2, 4, 4), mask="tub"), "mask must be one of"),
        (lambda: PretrainCollator((2, 4, 4), mask_ratio=1.0), "hides every token"),
        (lambda: PretrainCollator((2, 4, 4), mask_ratio=0.01), "hides nothing"),
        (lambda: PretrainCollator((2, 4, 4), decoder_mask="running_cell", decoder_mask_ratio=0.3), "ratio 0.5"),
        (lambda: ClassificationCollator()([items()[0], items(size=20)[0]]), "differ in shape"),
    ],
)
def test_impossible_batches_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
