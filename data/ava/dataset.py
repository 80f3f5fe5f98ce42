"""Clips around annotated key frames with their persons: what a detector is trained and tested on.

    dataset = AvaDataset(read_annotations("ava_train_v2.2.csv"), MovieFolder("movies"), config, mode="train",
                         transform=DetectionTrainTransform(...))
    batch = collate_detection([dataset[0], dataset[1]])

As everywhere in training, what a sample is depends on (seed, epoch, index) only.
"""

# n persons of a key frame  L actions  T frames  C channels  H W pixels

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from videomae.configuration_videomae import VideoMAEConfig
from videomae.data.ava.annotations import Annotations, KeyFrame, Persons
from videomae.data.ava.boxes import BoxedClip, iou
from videomae.data.ava.movies import MovieFolder
from videomae.data.ava.proposals import Proposals, check_split, choose_persons
from videomae.data.randomness import FRAMES, PIXELS, generator_for, randint, sample_key
from videomae.data.sampler import EpochIndex
from videomae.data.video_dataset import BrokenVideosError
from videomae.sampling_videomae import key_frame_offsets
from videomae.video_io import VideoReadError

MODES = ("train", "test")
NOBODY = Persons(boxes=np.zeros((0, 4), dtype=np.float32), actions=[], person_ids=[])


class AvaDataset(Dataset):
    """One item per key frame.

    mode: "train" takes the key frames with persons, moves frames by `frame_jitter`, and replaces a clip that cannot
        be read by the next one; "test" takes all `key_frames` and reports what cannot be read as an error.
    config: of the model, which says which frames make the clip around a key frame and how many actions there are.
        Action number k of the annotations is column k - 1.
    proposals: persons that were detected. In a test they are the persons, where their score reaches `box_score` (for
        "mmaction2" the best-scored one where none does); in training those that overlap an annotated person by
        `proposal_iou` in the crop join it with its actions. Without proposals a test uses the annotated persons.
    whole_frame: in a test with proposals, key frames without any get the whole frame as a person of score 1, as in
        mmaction2's test; else they have no person.
    missing: what becomes of key frames whose movie is not there: "error", or "skip", which counts them.

    An item is a dict: pixel_values (T, C, H, W) float32, boxes (n, 4) pixels, labels (n, L) float32, and for results
    person_boxes (n, 4) shares of the frame and person_scores (n,); index, key_frame and path name it.
    """

    def __init__(
        self,
        annotations: Annotations,
        movies: MovieFolder,
        config: VideoMAEConfig,
        *,
        mode: str,
        transform: Callable[[torch.Tensor, torch.Tensor, torch.Generator], BoxedClip],
        key_frames: Iterable[KeyFrame] | None = None,
        proposals: Proposals | None = None,
        proposals_path: str = "the proposals",
        box_score: float = 0.8,
        proposal_iou: float | None = None,
        whole_frame: bool = False,
        max_boxes: int = 100,
        frame_jitter: tuple[int, int] = (0, 0),
        seed: int = 0,
        missing: str = "error",
        max_broken: float = 0.01,
    ):
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
        if missing not in ("error", "skip"):
            raise ValueError(f"missing must be error or skip, not {missing!r}")
        if mode == "train" and proposal_iou is not None and proposals is None:
            raise ValueError(
                "this recipe trains on proposals too (proposal_iou); give them, or set proposal_iou to none"
            )
        self.annotations, self.config, self.mode, self.transform = annotations, config, mode, transform
        self.proposals, self.box_score, self.whole_frame = proposals, box_score, whole_frame
        self.proposal_iou, self.max_boxes, self.frame_jitter = proposal_iou, max_boxes, frame_jitter
        self.seed, self.max_broken = seed, max_broken
        self.offsets = key_frame_offsets(
            config.num_frames, config.detection_stride_frames, family=config.detection_family
        )
        for key, persons in annotations.key_frames.items():
            for action in itertools.chain.from_iterable(persons.actions):
                if not 1 <= action <= config.num_labels:
                    raise ValueError(
                        f"{annotations.path}: key frame {key} has action {action}; the model's {config.num_labels} "
                        f"actions are numbered 1 to {config.num_labels}"
                    )
        wanted = list(annotations.key_frames if key_frames is None else dict.fromkeys(key_frames))
        if mode == "train":
            wanted = [key for key in wanted if len(annotations.key_frames.get(key, NOBODY).boxes)]
        if proposals is not None:
            self.covered = check_split(proposals, wanted, path=proposals_path, of=annotations.path)
        self.key_frames, self.skipped = self._with_movies(wanted, movies, missing)
        if not self.key_frames:
            raise ValueError(f"{annotations.path} has no key frame {'with persons ' if mode == 'train' else ''}to use")
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._broken = torch.zeros(len(self.key_frames), dtype=torch.bool).share_memory_()

    def _with_movies(
        self, wanted: Sequence[KeyFrame], movies: MovieFolder, missing: str
    ) -> tuple[list[KeyFrame], list[KeyFrame]]:
        """Find every movie once; (key frames to use, those whose movie is not there)."""
        last: dict[str, float] = {}
        for key in (*self.annotations.key_frames, *wanted):
            last[key.video_id] = max(last.get(key.video_id, 0.0), key.seconds)
        ids = dict.fromkeys(key.video_id for key in wanted)
        self.movies = {video_id: movies.find(video_id, last_seconds=last[video_id]) for video_id in ids}
        without = [key for key in wanted if self.movies[key.video_id] is None]
        if without and missing == "error":
            lost = list(dict.fromkeys(key.video_id for key in without))
            raise ValueError(
                f"{movies.folder} has no movie for {len(lost)} of the {len(ids)} videos of {self.annotations.path} "
                f"({', '.join(lost[:3])}{', ...' if len(lost) > 3 else ''}), {len(without)} key frames; add them, or use "
                "missing='skip' to continue without"
            )
        return [key for key in wanted if self.movies[key.video_id] is not None], without

    def __len__(self) -> int:
        return len(self.key_frames)

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    @property
    def broken(self) -> list[str]:
        """The key frames that could not be read so far, in any worker."""
        return [str(self.key_frames[index]) for index in self._broken.nonzero().flatten().tolist()]

    def __getitem__(self, index: int | EpochIndex) -> dict[str, Any]:
        epoch, index = index if isinstance(index, EpochIndex) else (self.epoch, index)
        index = range(len(self))[index]
        key = sample_key(self.seed, epoch, index, 0)
        if self.mode == "test":
            return self._item(index, key)
        for i in itertools.chain(range(index, len(self)), range(index)):
            if self._broken[i]:
                continue
            try:
                return self._item(i, key)
            except VideoReadError as error:
                self._report(i, error)
        raise BrokenVideosError(f"none of the {len(self)} key frames of {self.annotations.path} can be read")

    def _report(self, index: int, error: VideoReadError) -> None:
        self._broken[index] = True
        warnings.warn(f"key frame {self.key_frames[index]}: {error}", RuntimeWarning, stacklevel=3)
        count = int(self._broken.sum())
        if count > self.max_broken * len(self):
            raise BrokenVideosError(
                f"{count} of {len(self)} key frames of {self.annotations.path} cannot be read, above max_broken="
                f"{self.max_broken:g}; the last: {self.key_frames[index]}: {error}"
            )

    def _item(self, index: int, key: int) -> dict[str, Any]:
        key_frame = self.key_frames[index]
        generator = generator_for(key, FRAMES)
        offsets = self.offsets
        if self.mode == "train" and any(self.frame_jitter):
            low, high = self.frame_jitter
            offsets = [offset + low + randint(generator, high - low + 1) for offset in offsets]
        boxes, labels, scores, annotated = self.persons(key_frame)
        movie = self.movies[key_frame.video_id]
        assert movie is not None  # key frames without one are left out
        frames = movie.read(key_frame.seconds, offsets, self.config.detection_frame_rate)
        sample = self.transform(frames.permute(0, 3, 1, 2), boxes, generator_for(key, PIXELS))
        kept, its_boxes, labels = sample.kept.nonzero().flatten(), sample.boxes, labels[sample.kept]
        if self.mode == "train":
            rows, labels = self._trained_on(its_boxes, labels, annotated[kept], generator)
            kept, its_boxes = kept[rows], its_boxes[rows]
        return {
            "pixel_values": sample.pixel_values,
            "boxes": its_boxes,
            "labels": labels,
            "person_boxes": boxes[kept],
            "person_scores": scores[kept],
            "index": index,
            "key_frame": key_frame,
            "path": str(key_frame),
        }

    def persons(self, key_frame: KeyFrame) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """(boxes as shares of the frame, labels, scores, whether annotated) of the persons that may take part."""
        persons = self.annotations.key_frames.get(key_frame, NOBODY)
        truth = torch.from_numpy(persons.boxes)
        labels = torch.zeros(len(truth), self.config.num_labels)
        for row, actions in enumerate(persons.actions):
            labels[row, [action - 1 for action in actions]] = 1
        found = torch.zeros(0, 5)
        if self.proposals is not None and (self.mode == "test" or self.proposal_iou is not None):
            found = self._chosen(self.proposals, key_frame)
            if self.mode == "test":
                truth, labels = truth[:0], labels[:0]
        return (
            torch.cat([truth, found[:, :4]]),
            torch.cat([labels, torch.zeros(len(found), self.config.num_labels)]),
            torch.cat([torch.ones(len(truth)), found[:, 4]]),
            torch.arange(len(truth) + len(found)) < len(truth),
        )

    def _trained_on(
        self, boxes: torch.Tensor, labels: torch.Tensor, annotated: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(rows of the transformed boxes to train on, their labels), at most `max_boxes`.

        A proposal takes the actions of the annotated person that it overlaps most, if by `proposal_iou`; what the crop
        leaves of both is compared, as mmaction2 does (its assigner sees the boxes after the pipeline).
        """
        truth, others = annotated.nonzero().flatten(), (~annotated).nonzero().flatten()
        matched, of = match_boxes(boxes[others], boxes[truth], self.proposal_iou or 1.0)
        rows, labels = torch.cat([truth, others[matched]]), labels[torch.cat([truth, truth[of]])]
        if len(rows) > self.max_boxes:
            some = torch.randperm(len(rows), generator=generator)[: self.max_boxes].sort().values
            rows, labels = rows[some], labels[some]
        return rows, labels

    def _chosen(self, proposals: Proposals, key_frame: KeyFrame) -> torch.Tensor:
        boxes = proposals.get(key_frame, np.zeros((0, 5), dtype=np.float32))
        if not len(boxes) and self.whole_frame:
            return torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0]])
        else_best = self.config.detection_family == "mmaction2"
        return torch.from_numpy(choose_persons(boxes, self.box_score, else_best=else_best))


def match_boxes(boxes: torch.Tensor, truth: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows of `boxes` that overlap some box of `truth` by the threshold, the row that each overlaps most)."""
    if not len(boxes) or not len(truth):
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    pairs = iou(np.repeat(boxes.numpy(), len(truth), 0), np.tile(truth.numpy(), (len(boxes), 1)))
    best, of = torch.from_numpy(pairs).view(len(boxes), len(truth)).max(1)
    rows = (best >= threshold).nonzero().flatten()
    return rows, of[rows]


def collate_detection(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack clips; those smaller than the largest are padded with zeros at the right and bottom."""
    sizes = [tuple(item["pixel_values"].shape[-2:]) for item in items]
    height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
    clips = [F.pad(item["pixel_values"], (0, width - size[1], 0, height - size[0])) for item, size in zip(items, sizes)]
    return {
        "pixel_values": torch.stack(clips),
        "boxes": [item["boxes"] for item in items],
        "labels": torch.cat([item["labels"] for item in items]),
        "frame_sizes": sizes,
        "sources": [item["path"] for item in items],
    }


def collate_with_items(items: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """`collate_detection`, and the items without their pixels, which say whose boxes they are."""
    return collate_detection(items), [
        {name: value for name, value in item.items() if name != "pixel_values"} for item in items
    ]


def movie_batches(dataset: AvaDataset, batch_size: int, *, rank: int = 0, world: int = 1) -> Iterator[list[int]]:
    """Every index once, in batches that never mix movies: their frames have one size, so nothing is padded.

    Padding would be seen by every token of a clip, and scores would depend on the company that a clip keeps.
    """
    by_movie: dict[str, list[int]] = {}
    for index, key in enumerate(dataset.key_frames):
        by_movie.setdefault(key.video_id, []).append(index)
    batches = [
        indices[start : start + batch_size]
        for indices in by_movie.values()
        for start in range(0, len(indices), batch_size)
    ]
    yield from batches[rank::world]
