"""A `datasets.IterableDataset` as clips for training, for data that is streamed and has no length.

    stream = load_dataset("...", streaming=True, split="train")
    dataset = StreamingVideoDataset(stream, batch_size=8, mode="train", num_samples=2)
    loader = DataLoader(dataset, batch_size=8, collate_fn=ClassificationCollator(), num_workers=4)

Items are those of VideoDataset, and `index` is the position in the stream. Batches are the same, in the same order, with
any number of workers: worker w of W makes the batches w, w + W, ..., and passes over the others without decoding them.
"""

import itertools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from videomae.data.lists.layouts import video_and_label_columns, video_name
from videomae.data.lists.manifests import some_of
from videomae.data.samples import SampleMaker
from videomae.data.video_dataset import BrokenVideosError
from videomae.video_io import VideoReadError


class StreamingVideoDataset(IterableDataset):
    """Clips of the videos of a stream.

    class_names: needed where labels are names and the stream's features do not number them.
    batch_size: that of the DataLoader, since workers share the stream out batch by batch. rank, world: the process, in
        the same way. start: how many videos of this epoch, over all processes, an interrupted run has seen.
    shuffle_buffer: shuffle within a window of so many videos, by (seed, epoch); 0 keeps the stream's order.
    max_broken: the share of the videos seen so far that may be unreadable, once 100 have been seen. They are named in
        warnings and left out; the samples of all others stay what they are.
    """

    def __init__(
        self,
        stream: Any,
        *,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        shuffle_buffer: int = 0,
        max_broken: float = 0.01,
        class_names: Sequence[str] | None = None,
        **fields: Any,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.maker = SampleMaker(**fields)
        self.stream, self.video, self.label, names = _described(stream)
        self.class_names = tuple(class_names) if class_names is not None else names
        self.batch_size, self.rank, self.world, self.start = batch_size, rank, world, start
        self.shuffle_buffer, self.max_broken = shuffle_buffer, max_broken
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """The epoch whose samples (and order, if shuffled) come next, from its beginning or a position in it."""
        self._epoch.fill_(epoch)
        self.start = start

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch, worker = self.epoch, get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        stream = self.stream
        if self.shuffle_buffer:
            stream = stream.shuffle(seed=self.maker.seed, buffer_size=self.shuffle_buffer)
            stream.set_epoch(epoch)
        if self.start:
            stream = stream.skip(self.start)
        step = self.batch_size * self.world
        seen = broken = 0
        # `iter` hands the whole stream to every worker, where plain iteration would deal out its shards.
        for group, columns in enumerate(stream.iter(step)):
            if group % workers != number:
                continue
            examples = [dict(zip(columns, values)) for values in zip(*columns.values())]
            if len(examples) < step:
                return  # the last, incomplete global batch is dropped, as training does
            positions = range(self.start + group * step, self.start + (group + 1) * step)
            items = []
            for position, example in itertools.islice(zip(positions, examples), self.rank, None, self.world):
                seen += 1
                try:
                    items.append(self._item(position, example, epoch))
                except VideoReadError as error:
                    broken += 1
                    warnings.warn(f"broken video: {error}", RuntimeWarning, stacklevel=2)
                    if seen >= 100 and broken > self.max_broken * seen:
                        raise BrokenVideosError(
                            f"{broken} of {seen} videos of the stream cannot be read, above max_broken={self.max_broken:g}"
                        ) from None
            if not items:
                raise BrokenVideosError(f"none of the {self.batch_size} videos of a batch can be read")
            # A batch keeps its size, or the borders of all later ones would move: readable videos fill up.
            yield from itertools.islice(itertools.cycle(items), self.batch_size)

    def _item(self, position: int, example: dict[str, Any], epoch: int) -> dict[str, Any]:
        source, label = example[self.video], example[self.label] if self.label else None
        path = video_name(source, position)
        if isinstance(label, str):
            if self.class_names is None or label not in self.class_names:
                known = some_of(self.class_names) if self.class_names else "none; pass class_names"
                raise ValueError(f"{path}: label {label!r} is not among the class names ({known})")
            label = self.class_names.index(label)
        pixels, keys = self.maker.make(source, path, epoch=epoch, index=position)
        return {"pixel_values": pixels, "label": label, "index": position, "keys": keys, "path": path}


def _described(stream: Any) -> tuple[Any, str, str | None, tuple[str, ...] | None]:
    """The stream without its own decoding, its video and label columns, and the class names."""
    features = stream.features or next(iter(stream.take(1)))
    video, label = video_and_label_columns(features)
    names = getattr(features[label], "names", None) if label else None
    if stream.features is not None:
        from datasets import Video

        if isinstance(stream.features[video], Video):
            stream = stream.cast_column(video, Video(decode=False))
    return stream, video, label, tuple(names) if names else None
