"""Tokens of training videos on the disk, so that the encoder runs once over each: a data set over another one.

For it the views of a video must be the same in every epoch. A file a video, in half precision; when the limit is
reached, the videos that are left are read and encoded in every epoch.
"""

# B videos  N tokens of a video  D width

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch.utils.data import Dataset

from videomae.data.sampler import EpochIndex
from videomae.data.video_dataset import VideoDataset
from videomae.files import write_atomic


class TokenCache(Dataset):
    """The samples of the first epoch in all epochs, or the tokens of a video where the folder holds them.

    `share` processes of a launch write to one folder, and each keeps to its part of the limit.
    """

    def __init__(self, dataset: VideoDataset, folder: Path, *, limit_bytes: float, share: int = 1):
        self.dataset, self.folder = dataset, folder
        kept = [path.stat().st_size for path in folder.glob("*.safetensors")]
        self.left_bytes = (limit_bytes - sum(kept)) / share

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def broken(self) -> list[str]:
        return self.dataset.broken

    @property
    def truncated(self) -> list[str]:
        return self.dataset.truncated

    def __getitem__(self, index: EpochIndex) -> dict[str, Any]:
        number = index.index
        if (path := self._path(number)).exists():
            found = load_file(path)
            about = {"label": found["label"].item(), "path": self.dataset.manifest.path(number)}
            return {"tokens": found["tokens"], "asked": number, **about}
        return self.dataset[EpochIndex(0, number)] | {"asked": number}

    def keep(self, number: int, tokens: torch.Tensor, label: int) -> None:
        """Write the tokens (N, D) of a video, if the limit allows."""
        content = save({"tokens": tokens.cpu().contiguous(), "label": torch.tensor(label)})
        if len(content) <= self.left_bytes and tokens.isfinite().all():
            self.left_bytes -= len(content)
            write_atomic(self._path(number), content)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:09d}.safetensors"


class VideoCollator:
    """Items to a batch of videos: what `collate` makes of those with pixels, tokens of the others, a label of each.

    `fresh` says which videos have pixels, `asked` are the numbers of all in the data set.
    """

    def __init__(self, collate: Callable[[Sequence[dict]], dict]):
        self.collate = collate

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        fresh = [item for item in items if "tokens" not in item]
        batch = dict(self.collate(fresh)) if fresh else {}
        return batch | {
            "labels": torch.tensor([item["label"] for item in items]),
            "sources": [item["path"] for item in items],
            "fresh": ["tokens" not in item for item in items],
            "asked": [item.get("asked") for item in items],
            "tokens": [item["tokens"] for item in items if "tokens" in item],
        }


def video_tokens(
    encode: Callable[[torch.Tensor], torch.Tensor], batch: Mapping[str, Any], cache: TokenCache | None = None
) -> torch.Tensor:
    """The tokens (B, N, D) of a batch of VideoCollator; those just made are written to `cache`.

    With a cache they are rounded to half precision, so that no number depends on what the disk holds.
    """
    made: Any = ()
    if any(batch["fresh"]):
        tokens = encode(batch["pixel_values"])  # of all segments, video by video
        made = tokens.unflatten(0, (sum(batch["fresh"]), -1)).flatten(1, 2)
    if cache is None:
        return made
    made, kept, rows = iter(made.half() if len(made) else ()), iter(batch["tokens"]), []
    for number, is_fresh, label in zip(batch["asked"], batch["fresh"], batch["labels"].tolist()):
        rows.append(next(made) if is_fresh else next(kept).to(batch["labels"].device))
        if is_fresh:
            cache.keep(number, rows[-1], label)
    return torch.stack(rows).float()
