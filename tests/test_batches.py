"""Which clips make which step, and one loader that brings them through all epochs."""

import os

import pytest
import torch
from torch.utils.data import Dataset

from videomae.data.collators import PretrainCollator
from videomae.data.sampler import EpochIndex, EpochSampler, RunSampler
from videomae.data.synthetic import SyntheticSet, make_synthetic_set
from videomae.data.transforms import PretrainTransform
from videomae.data.video_dataset import VideoDataset
from videomae.sampling_videomae import ClipSampling
from videomae.training.batches import StepPlan, step_batches

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Numbers(Dataset):
    """Says which (epoch, index) was asked for, and in which process; nothing is read."""

    def __len__(self):
        return 11

    def __getitem__(self, index):
        return (*index, os.getpid())


def collate(items):
    return {"clips": [item[:2] for item in items], "pids": {item[2] for item in items}, "sources": []}


def plan(clips=11, per_step=4, per_device=2, processes=1, epochs=5):
    return StepPlan(
        num_clips=clips, clips_per_step=per_step, clips_per_device=per_device, processes=processes, epochs=epochs
    )


def steps(made, first=0, last=None, *, dataset=None, workers=0, rank=0):
    """{step: the batches of its micro-batches}"""
    last = made.total_steps if last is None else last
    found = step_batches(
        dataset or Numbers(), collate, made, seed=3, first_step=first, last_step=last, num_workers=workers, rank=rank
    )
    return {step: list(batches) for step, batches in found}


def clips(found):
    return {step: [clip for batch in batches for clip in batch["clips"]] for step, batches in found.items()}


def test_each_epoch_has_its_own_order_and_drops_what_does_not_fill_a_step():
    found = clips(steps(plan()))
    assert sorted(found) == list(range(10))  # 2 steps an epoch of 11 clips, 3 of which are dropped
    for epoch in range(5):
        order = EpochSampler(11, seed=3, epoch=epoch).order().tolist()
        assert found[2 * epoch] == [(epoch, index) for index in order[:4]]
        assert found[2 * epoch + 1] == [(epoch, index) for index in order[4:8]]


@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_and_any_resume_point_give_the_same_steps(workers):
    whole = clips(steps(plan()))
    for first, last in ((0, 10), (3, 10), (4, 7), (9, 10)):
        found = clips(steps(plan(), first, last, workers=workers))
        assert found == {step: whole[step] for step in range(first, last)}


def test_processes_share_out_each_step_of_one():
    alone = clips(steps(plan()))
    shared = [clips(steps(plan(processes=2, per_device=1), 1, rank=rank)) for rank in range(2)]
    for step in range(1, 10):
        assert shared[0][step] == alone[step][0::2] and shared[1][step] == alone[step][1::2]


def test_workers_start_once_and_live_through_all_epochs():
    found = steps(plan(), workers=2)
    pids = [set().union(*(batch["pids"] for batch in found[step])) for step in range(10)]
    assert len(set().union(*pids)) == 2 and os.getpid() not in set().union(*pids)
    assert pids[0] == pids[9]


def test_a_run_that_is_over_starts_no_worker():
    assert steps(plan(), 10, 10, workers=2) == steps(plan(), 10, 6) == {}


def test_the_clips_of_workers_ahead_of_an_epochs_edge_are_those_of_their_own_epoch(tmp_path):
    """An epoch is one step here, so that workers with two batches ahead of them are always past its edge."""
    folder = make_synthetic_set(
        tmp_path / "set", SyntheticSet(clips=8, validation_clips=8, test_clips=0, num_frames=12, height=24, width=32)
    )

    def pixels(first, workers):
        dataset = VideoDataset(
            folder / "train.csv",
            mode="pretrain",
            sampling=ClipSampling(num_frames=4, stride_frames=2),
            transform=PretrainTransform(16),
            seed=3,
        )
        collate = PretrainCollator((2, 2, 2), mask_ratio=0.5, as_bytes=True)
        made = plan(clips=8, per_step=8, per_device=4)
        found = step_batches(dataset, collate, made, seed=3, first_step=first, last_step=5, num_workers=workers)
        return {step: torch.cat([batch["pixel_values"] for batch in batches]) for step, batches in found}

    expected = {}
    for epoch in range(5):
        dataset = VideoDataset(
            folder / "train.csv",
            mode="pretrain",
            sampling=ClipSampling(num_frames=4, stride_frames=2),
            transform=PretrainTransform(16),
            seed=3,
        )
        dataset.set_epoch(epoch)
        expected[epoch] = torch.cat([dataset[index]["pixel_values"] for index in EpochSampler(8, 3, epoch)])
    assert not torch.equal(expected[0].sum((1, 2, 3, 4)).sort().values, expected[1].sum((1, 2, 3, 4)).sort().values)
    for first, workers in ((0, 0), (0, 1), (0, 4), (2, 1)):
        found = pixels(first, workers)
        assert list(found) == list(range(first, 5))
        assert all(torch.equal(found[step], expected[step]) for step in found)


def test_a_plain_index_takes_the_epoch_that_was_set_and_a_pair_its_own(tmp_path):
    folder = make_synthetic_set(
        tmp_path / "set", SyntheticSet(clips=8, validation_clips=8, test_clips=0, num_frames=12, height=24, width=32)
    )
    dataset = VideoDataset(folder / "train.csv", sampling=ClipSampling(num_frames=4, stride_frames=2), mode="pretrain")
    dataset.set_epoch(2)
    assert dataset[EpochIndex(2, 5)]["keys"] == dataset[5]["keys"] != dataset[EpochIndex(3, 5)]["keys"]
    assert dataset[EpochIndex(2, -1)]["index"] == 7


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(epoch_clips=12, first=0, last=12), r"epoch_clips must be in \[1, 11\]"),
        (dict(epoch_clips=8, first=9, last=8), r"first must be in \[0, 8\]"),
        (dict(epoch_clips=8, first=3, last=8, world=2), "first must be a multiple of the 2 processes, not 3"),
    ],
)
def test_impossible_runs_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RunSampler(11, **arguments)


def test_a_sampler_knows_its_length():
    sampler = RunSampler(11, epoch_clips=8, first=4, last=40, rank=1, world=2)
    assert len(sampler) == len(list(sampler)) == 18
