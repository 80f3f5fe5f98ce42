"""A map-style data set of clips over a manifest: one decode, `num_samples` augmented copies, exact repeatability.

    manifest = open_manifest("train.csv")
    dataset = VideoDataset(manifest, mode="train", sampling=ClipSampling(), transform=TrainTransform(), num_samples=2)
    loader = make_loader(dataset, EpochSampler(len(dataset), seed=0), 8, ClassificationCollator(), workers=4)

What a sample is depends on (seed, epoch, index, sample number) only, never on workers, order or history. The epoch comes
with the index (`RunSampler`), or is that of `set_epoch`.
"""

# S samples of one clip, or views of one video  T frames  C channels  H W pixels

import functools
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from videomae.data.lists.layouts import open_manifest
from videomae.data.lists.manifests import Manifest
from videomae.data.sampler import EpochIndex
from videomae.data.samples import SampleMaker
from videomae.sampling_videomae import ClipSampling
from videomae.video_io import VideoReadError

BROKEN_POLICIES = ("replace", "exclude", "fail")


class BrokenVideosError(RuntimeError):
    """Too many videos of a data set cannot be read; the message names some."""


class VideoDataset(Dataset):
    """Clips of the videos of a manifest.

    mode: "pretrain" and "train" draw a random clip and `num_samples` augmentations of it; "validation" gives the one
        clip and crop of `validation_clip`; "test" all `sampling.clips` x `sampling.crops` views, clips outermost, from
        one decode. Left out: `transform` is the published one of the mode.
    half_rate_sources: parts of paths whose frame folders are stored at half the frame rate and are read at half the
        stride in pre-training (V2's mixed set). Video files have their own rate and keep the stride.
    broken: what becomes of a video that cannot be read. "replace" (training) takes the next readable entry of the
        manifest; "exclude" (evaluation) gives an item without pixels, which collators leave out; "fail" raises. Each is
        named in a warning and counted in `broken`; above a share of `max_broken` of the set, BrokenVideosError is
        raised. By default training replaces and evaluation fails.
    decode_seconds: a video that takes longer to read counts as broken.
    errors: "strict" takes a video that is cut off or damaged for broken; "truncate" reads it up to there. Each such video
        is named once in a warning and counted in `truncated`.
    decode_short_side: scale larger frames down while they are decoded (fast; not the resampling of the releases).
    as_bytes: stop before normalising, where the transform can (TrainTransform): a quarter of the memory, and the
        collator, or the device (on_device.py), does the rest with the same result.

    An item is a dict:
        pixel_values  (S, T, C, H, W), uint8 or, if the transform normalises, float32; None for an excluded video
        erased        only with as_bytes: S times what is erased after normalising (transforms.Erased), or None
        pixel_statistics  only with as_bytes: the mean and std that the transform normalises with
        label         class number, float vector, or None where the manifest has no labels
        index         the entry that was read (of a replaced video: the one in its place)
        keys          the S sample keys, which seed masks and mixing
        path          the entry's name
        error         only for an excluded video: why
    """

    def __init__(
        self,
        manifest: Manifest | Any,
        *,
        mode: str = "train",
        sampling: ClipSampling | None = None,
        transform: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None,
        num_samples: int = 1,
        seed: int = 0,
        half_rate_sources: tuple[str, ...] = (),
        broken: str | None = None,
        max_broken: float = 0.01,
        decode_seconds: float | None = 60.0,
        decode_short_side: int | None = None,
        as_bytes: bool = False,
        errors: str = "strict",
    ):
        self.maker = SampleMaker(
            mode=mode,
            sampling=sampling or ClipSampling(),
            transform=transform,
            num_samples=num_samples,
            seed=seed,
            half_rate_sources=half_rate_sources,
            decode_seconds=decode_seconds,
            decode_short_side=decode_short_side,
            as_bytes=as_bytes,
            errors=errors,
        )
        broken = broken or ("replace" if mode in ("pretrain", "train") else "fail")
        if broken not in BROKEN_POLICIES:
            raise ValueError(f"broken must be one of {', '.join(BROKEN_POLICIES)}, not {broken!r}")
        if broken == "replace" and mode in ("validation", "test"):
            raise ValueError("evaluation never replaces a video, which would change the result; use exclude or fail")
        if not 0.0 <= max_broken <= 1.0:
            raise ValueError(f"max_broken is a share in [0, 1], not {max_broken}")
        self.manifest = open_manifest(manifest)
        if mode == "train":
            self.manifest.check_labels()
            sided = self.manifest.sided_classes()
            if sided and getattr(self.transform, "flip", 0):
                warnings.warn(
                    f"training flips clips, but classes such as {sided[0]!r} depend on the side; set the transform's flip "
                    "to 0",
                    stacklevel=2,
                )
        self.broken_policy, self.max_broken = broken, max_broken
        # In memory that workers share, also with those that outlive an epoch.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._broken = torch.zeros(len(self.manifest), dtype=torch.bool).share_memory_()
        self._truncated = torch.zeros(len(self.manifest), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.manifest)

    @property
    def mode(self) -> str:
        return self.maker.mode

    @property
    def sampling(self) -> ClipSampling:
        return self.maker.sampling

    @property
    def transform(self) -> Callable[[torch.Tensor, torch.Generator], torch.Tensor]:
        return self.maker.transform

    @property
    def labels(self) -> torch.Tensor | None:
        return self.manifest.labels

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self.manifest.class_names

    @property
    def num_labels(self) -> int | None:
        return self.manifest.num_labels

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of samples that are asked for by a plain index; reaches running workers too, from their next item on."""
        self._epoch.fill_(epoch)

    @property
    def broken(self) -> list[str]:
        """The videos that could not be read so far, in any worker of this process."""
        return [self.manifest.path(i) for i in self._broken.nonzero().flatten().tolist()]

    @property
    def truncated(self) -> list[str]:
        """The videos that were read up to their damage so far, in any worker of this process."""
        return [self.manifest.path(i) for i in self._truncated.nonzero().flatten().tolist()]

    def was_truncated(self, index: int) -> bool:
        """Whether the entry was read up to its damage, in any worker of this process."""
        return bool(self._truncated[index])

    def _note_truncated(self, index: int) -> None:
        if not self._truncated[index]:
            self._truncated[index] = True
            text = f"cut off or damaged, read as far as it goes: {self.manifest.path(index)}"
            warnings.warn(text, RuntimeWarning, stacklevel=3)

    def __getitem__(self, index: int | EpochIndex) -> dict[str, Any]:
        epoch, index = index if isinstance(index, EpochIndex) else (self.epoch, index)
        index = range(len(self))[index]
        if self.broken_policy != "replace":
            try:
                return self._item(index, epoch, index)
            except VideoReadError as error:
                self._report(index, error)
                if self.broken_policy == "fail":
                    raise VideoReadError(f"{error}; broken='exclude' leaves such videos out and lists them") from None
                path, label = self.manifest.path(index), self.manifest.label(index)
                return {
                    "pixel_values": None, "label": label, "index": index, "keys": [], "path": path, "error": str(error)
                }  # fmt: skip
        # The next entries in order, so that the stand-in depends on nothing but the files.
        for i in itertools.chain(range(index, len(self)), range(index)):
            if self._broken[i]:
                continue
            try:
                return self._item(i, epoch, index)
            except VideoReadError as error:
                self._report(i, error)
        raise BrokenVideosError(f"none of the {len(self)} videos of {self.manifest.origin} can be read")

    def _item(self, index: int, epoch: int, asked: int) -> dict[str, Any]:
        """The item of an entry; its random choices are those of the entry that was asked for."""
        path = self.manifest.path(index)
        cut = functools.partial(self._note_truncated, index)
        samples = self.maker.samples(self.manifest.source(index), path, epoch=epoch, index=asked, on_truncated=cut)
        return samples | {"label": self.manifest.label(index), "index": index, "path": path}

    def _report(self, index: int, error: VideoReadError) -> None:
        """Name and count a broken video; stop the run above the share that the user allows."""
        if self._broken[index]:
            return
        self._broken[index] = True
        warnings.warn(f"broken video: {error}", RuntimeWarning, stacklevel=3)
        count = int(self._broken.sum())
        if count > self.max_broken * len(self) and self.broken_policy != "fail":
            raise BrokenVideosError(
                f"{count} of {len(self)} videos of {self.manifest.origin} cannot be read, above max_broken="
                f"{self.max_broken:g}; the last: {error}. `videomae check-data` lists them; remove them or raise max_broken"
            )


def make_loader(
    dataset: Dataset,
    sampler: Sampler[int] | Sampler[EpochIndex],
    batch_size: int,
    collate: Callable,
    *,
    workers: int = 0,
    drop_last: bool = True,
    pin_memory: bool | None = None,
    prefetch_factor: int = 2,
    timeout_seconds: float = 0,
) -> DataLoader:
    """A DataLoader set up for video: workers that stay, one thread each, pinned memory where there is a GPU.

    Over a RunSampler one pass is the whole run: workers start once, and are at work on an epoch before the last one ends.
    Decoding takes far longer than handing over, so two batches ahead per worker are enough; more only costs memory.
    """
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        drop_last=drop_last,
        pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
        persistent_workers=workers > 0,
        prefetch_factor=prefetch_factor if workers else None,
        timeout=timeout_seconds,
        # Its own generator: by default each pass draws a number from the global one, and dropout would depend on resuming.
        generator=torch.Generator(),
    )
