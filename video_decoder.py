"""Videos that somebody else has opened: torchcodec's `VideoDecoder`, which `datasets` gives for a `Video` column.

torchcodec is not imported: whatever has its two names, `metadata` and `get_frames_at`, is read. Files are video_io.py's part.
"""

# T frames  C channels  H W pixels

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from .image_processing_videomae import resize_short_side
from .video_pictures import Part
from .video_source import Limits, VideoReadError, check_bytes
from .video_windows import Window, regular_windows

FRAMES_AT_ONCE = 16  # asked of a decoder while windows are walked through: one call for each frame would cost more


def is_decoder(thing: Any) -> bool:
    """Whether this is an open decoder, rather than a file or frames."""
    return callable(getattr(thing, "get_frames_at", None)) and hasattr(thing, "metadata")


class DecoderReader:
    """Reads an open decoder as `VideoReader` reads a file: `num_frames`, `fps`, `read`."""

    truncated = False

    def __init__(self, decoder: Any, limits: Limits | None = None):
        self._decoder, self._limits = decoder, limits or Limits()
        about = decoder.metadata
        of_rows = getattr(decoder, "_hf_encoded", None)  # where `datasets` keeps what it decodes
        self.name = str((of_rows or {}).get("path") or f"the open {type(decoder).__name__}")
        num_frames = getattr(about, "num_frames", None)
        if not num_frames:
            raise VideoReadError(f"{self.name}: its metadata have no num_frames; open it with seek_mode='exact'")
        self.num_frames = int(num_frames)
        self.fps = float(getattr(about, "average_fps", None) or 0.0)
        self.width, self.height = (int(getattr(about, side, None) or 0) for side in ("width", "height"))
        self.duration_seconds = float(getattr(about, "duration_seconds", None) or 0.0)

    def __enter__(self) -> "DecoderReader":
        return self

    def __exit__(self, *error) -> None:
        """The decoder stays open: it belongs to the caller."""

    def read(self, indices: Sequence[int], *, short_side: int | None = None, part: Part | None = None) -> torch.Tensor:
        """The frames at `indices` (any order, repeats allowed), or their `part`, as uint8 RGB (T, H, W, 3)."""
        indices = [int(index) for index in indices]
        outside = [index for index in indices if not 0 <= index < self.num_frames]
        if outside:
            raise VideoReadError(f"{self.name} has no frame {outside[0]}; it has {self.num_frames} frames")
        check_bytes(self.name, len(indices), self.width, self.height, self._limits)
        try:
            frames = self._decoder.get_frames_at(indices=indices).data
        except (RuntimeError, IndexError, OSError) as error:
            raise VideoReadError(f"{self.name} cannot be decoded: {str(error).splitlines()[0]}") from None
        channels_last = frames.shape[1] != 3 and frames.shape[-1] == 3  # dimension_order="NHWC"
        frames = frames.permute(0, 3, 1, 2) if channels_last else frames
        if short_side is not None and min(frames.shape[-2:]) > short_side:
            frames = resize_short_side(frames, short_side)
        if part is not None:
            top, left, height, width = part(*frames.shape[-2:])
            frames = frames[..., top : top + height, left : left + width]
        return frames.permute(0, 2, 3, 1)

    def frames(self, needed: Callable[[int], bool]) -> Iterator[tuple[int, float, float, np.ndarray | None]]:
        """Every frame in order, as `iter_frames` gives those of a file; times are those of the average rate."""
        rate = self.fps or 25.0
        for first in range(0, self.num_frames, FRAMES_AT_ONCE):
            indices = range(first, min(first + FRAMES_AT_ONCE, self.num_frames))
            wanted = [index for index in indices if needed(index)]
            pictures = dict(zip(wanted, self.read(wanted).numpy())) if wanted else {}
            for index in indices:
                yield index, index / rate, (index + 1) / rate, pictures.get(index)


def decoder_windows(decoder: Any, *, limits: Limits | None = None, **windows: Any) -> Iterator[Window]:
    """`iter_windows` of a decoder that is open already; `windows` are the arguments of `regular_windows`."""
    return regular_windows(DecoderReader(decoder, limits).frames, **windows)
