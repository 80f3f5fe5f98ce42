"""Key frames to samples: which persons, which frames, and what happens to what is missing or broken."""

import numpy as np
import pytest
import torch
from video_files import number_in, write_video

from videomae import VideoMAEConfig
from videomae.data.ava.annotations import Annotations, KeyFrame, Persons
from videomae.data.ava.boxes import DetectionTestTransform, DetectionTrainTransform
from videomae.data.ava.dataset import AvaDataset, collate_detection, match_boxes, movie_batches
from videomae.data.ava.movies import MovieFolder
from videomae.data.sampler import EpochIndex
from videomae.data.video_dataset import BrokenVideosError

PLAIN = dict(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
TEST = DetectionTestTransform(short_side=64, **PLAIN)
TRAIN = DetectionTrainTransform(short_side=(64, 80), size=48, box_jitter=(0.2, 0.1, 0.1, 0.05), **PLAIN)


@pytest.fixture(scope="module")
def movies(tmp_path_factory):
    """Two movies of six seconds at ten frames a second, of different shapes; frames show their number."""
    folder = tmp_path_factory.mktemp("movies")
    write_video(folder / "wide.mp4", 60, fps=10, width=128, height=64)
    write_video(folder / "tall.mp4", 60, fps=10, width=64, height=96)
    return MovieFolder(folder)


def config(family="videomae", **fields):
    return VideoMAEConfig.preset(
        "small", head="detect", detection_family=family, num_labels=6, num_frames=4, detection_frame_rate=10, **fields
    )


def annotations(**persons_of):
    """wide_2=[...] is the key frame at second 2 of `wide`, each person a box and its actions."""
    frames = {}
    for name, persons in persons_of.items():
        video, second = name.split("_")
        boxes = np.array([box for box, _ in persons], dtype=np.float32).reshape(-1, 4)
        actions = [tuple(actions) for _, actions in persons]
        frames[KeyFrame(video, float(second))] = Persons(boxes, actions, [-1] * len(persons))
    return Annotations("train.csv", frames)


LEFT, RIGHT = [0.0, 0.1, 0.45, 0.9], [0.5, 0.2, 1.0, 0.95]
BOTH = annotations(wide_2=[(LEFT, [1, 6]), (RIGHT, [3])], wide_3=[], tall_2=[(LEFT, [2])])


def test_an_item_has_the_clip_around_the_key_frame_its_persons_and_their_actions(movies):
    dataset = AvaDataset(BOTH, movies, config(), mode="test", transform=TEST)
    item = dataset[0]
    numbers = [number_in((frame * 255).permute(1, 2, 0)) for frame in item["pixel_values"]]
    assert numbers == [20 - 7, 20 - 3, 20 + 1, 20 + 5]  # stride 4, the middle of each
    assert item["boxes"].tolist() == [pytest.approx([0, 6.4, 57.6, 57.6]), pytest.approx([64, 12.8, 128, 60.8])]
    assert item["labels"].tolist() == [[1, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0]]
    assert item["path"] == "wide,0002" and item["key_frame"] == KeyFrame("wide", 2.0)
    nobody = dataset[1]
    assert nobody["boxes"].shape == (0, 4) and nobody["labels"].shape == (0, 6)
    assert len(dataset) == 3


def test_mmaction2_takes_the_start_of_each_stride_and_moves_frames_in_training(movies):
    dataset = AvaDataset(BOTH, movies, config("mmaction2"), mode="test", transform=TEST)
    numbers = [number_in((frame * 255).permute(1, 2, 0)) for frame in dataset[0]["pixel_values"]]
    assert numbers == [12, 16, 20, 24]
    offsets = []
    for epoch in range(40):
        dataset = AvaDataset(
            BOTH, movies, config("mmaction2"), mode="train", transform=TEST, frame_jitter=(-2, 1), seed=epoch
        )
        numbers = [number_in((frame * 255).permute(1, 2, 0)) for frame in dataset[0]["pixel_values"]]
        offsets += [number - at for number, at in zip(numbers, (12, 16, 20, 24))]
    assert set(offsets) == {-2, -1, 0, 1}


def test_training_leaves_key_frames_without_persons_out_and_repeats_exactly(movies):
    dataset = AvaDataset(BOTH, movies, config(), mode="train", transform=TRAIN, seed=3)
    assert [str(key) for key in dataset.key_frames] == ["wide,0002", "tall,0002"]
    first, again = dataset[0], dataset[0]
    assert torch.equal(first["pixel_values"], again["pixel_values"]) and torch.equal(first["boxes"], again["boxes"])
    second = dataset[EpochIndex(1, 0)]
    assert not torch.equal(first["pixel_values"], second["pixel_values"])
    dataset.set_epoch(1)
    assert torch.equal(second["pixel_values"], dataset[0]["pixel_values"])
    assert first["pixel_values"].shape == (4, 3, 48, 48)


def test_persons_that_leave_the_crop_take_their_labels_with_them(movies):
    narrow = DetectionTrainTransform(short_side=(64, 64), size=32, flip=0.0, outside="drop", **PLAIN)
    persons = annotations(wide_2=[([0.0, 0.0, 0.1, 1.0], [1]), ([0.9, 0.0, 1.0, 1.0], [2])])
    seen = set()
    for seed in range(20):
        item = AvaDataset(persons, movies, config(), mode="train", transform=narrow, seed=seed)[0]
        assert len(item["boxes"]) == len(item["labels"]) == len(item["person_boxes"]) <= 1
        if len(item["labels"]):
            left = float(item["person_boxes"][0, 0]) == 0.0
            seen.add(left)
            assert item["labels"][0].argmax() == (0 if left else 1)
    assert seen == {True, False}
    squeezed = DetectionTrainTransform(short_side=(64, 64), size=32, flip=0.0, **PLAIN)
    item = AvaDataset(persons, movies, config(), mode="train", transform=squeezed)[0]
    assert item["labels"].argmax(1).tolist() == [0, 1]  # as in the releases, with actions that nobody can see


def test_proposals_are_compared_with_persons_as_the_crop_leaves_them(movies):
    """mmaction2 assigns after its pipeline: what differs outside of the crop does not count."""
    person, proposal = [0.0, 0.0, 0.5, 1.0], [0.0, 0.0, 1.0, 1.0]  # overlap by a half in the frame
    proposals = {KeyFrame("wide", 2.0): np.array([[*proposal, 0.99]], dtype=np.float32)}
    narrow = DetectionTrainTransform(short_side=(64, 64), size=32, flip=0.0, **PLAIN)
    counts = set()
    for seed in range(12):
        item = AvaDataset(
            annotations(wide_2=[(person, [4])]), movies, config("mmaction2"), mode="train", transform=narrow, seed=seed,
            proposals=proposals, proposal_iou=0.9,
        )[0]  # fmt: skip
        truth, *joined = item["boxes"].tolist()
        width = truth[2] - truth[0]
        assert len(joined) == (width / 31 >= 0.9)
        assert item["labels"].argmax(1).tolist() == [3] * len(item["boxes"])
        counts.add(len(joined))
    assert counts == {0, 1}


def test_a_test_with_proposals_looks_at_the_persons_that_were_detected(movies):
    boxes = np.array([[*LEFT, 0.95], [*RIGHT, 0.85], [0.2, 0.2, 0.4, 0.4, 0.5]], dtype=np.float32)
    proposals = {KeyFrame("wide", 2.0): boxes, KeyFrame("wide", 4.0): boxes[2:]}
    keys = [KeyFrame("wide", 2.0), KeyFrame("wide", 4.0), KeyFrame("tall", 2.0)]
    options = dict(mode="test", transform=TEST, proposals=proposals, key_frames=keys)
    ad = AvaDataset(BOTH, movies, config(), box_score=0.8, **options)
    assert [len(ad[index]["boxes"]) for index in range(3)] == [2, 0, 0]
    assert ad[0]["person_scores"].tolist() == pytest.approx([0.95, 0.85])
    assert not ad[0]["labels"].any()
    mm = AvaDataset(BOTH, movies, config("mmaction2"), box_score=0.9, **options)
    assert [len(mm[index]["boxes"]) for index in range(3)] == [1, 1, 0]  # the best one where none is sure


def test_matched_proposals_join_training_with_the_actions_of_their_person(movies):
    near = [0.01, 0.1, 0.45, 0.9]
    proposals = {
        KeyFrame("wide", 2.0): np.array([[*near, 0.97], [*RIGHT, 0.99], [0.2, 0.2, 0.9, 0.9, 0.99]], np.float32)
    }
    keys = [KeyFrame("wide", 2.0)]
    options = dict(mode="train", transform=TEST, key_frames=keys, box_score=0.9, proposals=proposals)
    item = AvaDataset(BOTH, movies, config("mmaction2"), proposal_iou=0.9, **options)[0]
    assert item["person_boxes"].tolist() == [pytest.approx(box) for box in (LEFT, RIGHT, near, RIGHT)]
    assert item["labels"].tolist() == [[1, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0]] * 2
    few = AvaDataset(BOTH, movies, config("mmaction2"), proposal_iou=0.9, max_boxes=2, **options)
    chosen = set()
    for epoch in range(20):
        few.set_epoch(epoch)
        item = few[0]
        assert len(item["boxes"]) == 2
        chosen.add(tuple(tuple(box) for box in item["person_boxes"].tolist()))
    assert len(chosen) > 3
    with pytest.raises(ValueError, match="trains on proposals too"):
        AvaDataset(BOTH, movies, config("mmaction2"), mode="train", transform=TEST, proposal_iou=0.9)


def test_boxes_are_matched_to_the_one_they_overlap_most():
    truth = torch.tensor([LEFT, RIGHT])
    boxes = torch.tensor([RIGHT, [0.0, 0.1, 0.45, 0.85], [0.0, 0.0, 1.0, 1.0]])
    rows, of = match_boxes(boxes, truth, 0.9)
    assert rows.tolist() == [0, 1] and of.tolist() == [1, 0]
    assert match_boxes(boxes[:0], truth, 0.9)[0].shape == (0,)


def test_clips_of_different_sizes_are_padded_and_say_where_they_end(movies):
    dataset = AvaDataset(BOTH, movies, config(), mode="test", transform=TEST)
    batch = collate_detection([dataset[0], dataset[2]])
    assert batch["pixel_values"].shape == (2, 4, 3, 96, 128)
    assert batch["frame_sizes"] == [(64, 128), (96, 64)]
    assert not batch["pixel_values"][0, :, :, 64:].any() and not batch["pixel_values"][1, ..., 64:].any()
    assert [len(boxes) for boxes in batch["boxes"]] == [2, 1] and batch["labels"].shape == (3, 6)
    assert batch["sources"] == ["wide,0002", "tall,0002"]


def test_test_batches_never_mix_movies_and_cover_every_key_frame_once(movies):
    keys = {f"wide_{second}": [] for second in range(5)} | {f"tall_{second}": [] for second in range(2)}
    dataset = AvaDataset(annotations(**keys), movies, config(), mode="test", transform=TEST)
    assert list(movie_batches(dataset, 2)) == [[0, 1], [2, 3], [4], [5, 6]]
    shared = [*movie_batches(dataset, 2, rank=0, world=2), *movie_batches(dataset, 2, rank=1, world=2)]
    assert sorted(index for batch in shared for index in batch) == list(range(7))


def test_a_missing_movie_is_an_error_or_counted(movies):
    lost = annotations(wide_2=[(LEFT, [1])], gone_2=[(LEFT, [1])], gone_3=[(LEFT, [1])])
    with pytest.raises(ValueError, match=r"has no movie for 1 of the 2 videos of train\.csv \(gone\), 2 key frames"):
        AvaDataset(lost, movies, config(), mode="train", transform=TRAIN)
    dataset = AvaDataset(lost, movies, config(), mode="train", transform=TRAIN, missing="skip")
    assert len(dataset) == 1 and len(dataset.skipped) == 2


def test_what_cannot_be_used_is_named(movies):
    with pytest.raises(ValueError, match="key frame wide,0002 has action 9; the model's 6 actions are numbered 1 to 6"):
        AvaDataset(annotations(wide_2=[(LEFT, [9])]), movies, config(), mode="train", transform=TRAIN)
    with pytest.raises(ValueError, match="other split"):
        proposals = {KeyFrame("elsewhere", 2.0): np.zeros((0, 5), np.float32)}
        AvaDataset(BOTH, movies, config(), mode="test", transform=TEST, proposals=proposals)
    with pytest.raises(ValueError, match=r"train\.csv has no key frame with persons"):
        AvaDataset(annotations(wide_2=[]), movies, config(), mode="train", transform=TRAIN)
    with pytest.raises(ValueError, match="mode must be one of train, test"):
        AvaDataset(BOTH, movies, config(), mode="validation", transform=TEST)


def test_training_replaces_what_cannot_be_read_and_stops_above_a_share(movies):
    late = annotations(wide_2=[(LEFT, [1])], wide_77=[(LEFT, [1])], tall_2=[(LEFT, [1])])
    dataset = AvaDataset(late, movies, config(), mode="train", transform=TRAIN, max_broken=0.5)
    with pytest.warns(RuntimeWarning, match=r"key frame wide,0077: .* lies outside the video"):
        item = dataset[1]
    assert item["path"] == "tall,0002" and dataset.broken == ["wide,0077"]
    strict = AvaDataset(late, movies, config(), mode="train", transform=TRAIN)
    with pytest.warns(RuntimeWarning), pytest.raises(BrokenVideosError, match=r"1 of 3 key frames .* cannot be read"):
        strict[1]
    test = AvaDataset(late, movies, config(), mode="test", transform=TEST)
    with pytest.raises(ValueError, match="lies outside the video"):
        test[1]
