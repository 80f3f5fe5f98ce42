"""Frames to the bytes of a video file: the encoder of the synthetic set and of prepared data sets.

Reading is video_io.py's; nothing here touches the disk.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av
import numpy as np


def encode_video(
    frames: Iterable[np.ndarray],
    fps: float | Fraction,
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    container: str = "mp4",
) -> bytes:
    """Encode uint8 RGB frames (H, W, 3), all of one size, so that equal input gives equal bytes.

    That takes one thread, and x264 without the code for AVX-512, with which 30 encodes of 60 frames of 340x256 gave 14
    different files; `cpu-independent` gave one, at the same speed. H.264 wants even sides and gets 4:2:0 colour; an odd row or column at the end is repeated once.
    """
    options = dict(options or {})
    if codec == "libx264":
        options["x264-params"] = ":".join(filter(None, (options.get("x264-params"), "cpu-independent=1")))
    buffer = io.BytesIO()
    rate = Fraction(fps).limit_denominator(1001 * 60)
    with av.open(buffer, "w", format=container) as output:
        stream = None
        for frame in frames:
            height, width = frame.shape[:2]
            frame = np.ascontiguousarray(np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))
            if stream is None:
                stream = cast(av.VideoStream, output.add_stream(codec, rate=rate, options=options))
                stream.width, stream.height = frame.shape[1], frame.shape[0]
                stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
                stream.thread_count = 1
            elif (stream.width, stream.height) != (frame.shape[1], frame.shape[0]):
                raise ValueError(
                    f"all frames of a video must have one size; got {width}x{height} after {stream.width}x{stream.height}"
                )
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        if stream is None:
            raise ValueError("a video needs at least one frame, got none")
        output.mux(stream.encode(None))
    return buffer.getvalue()


# Codecs of prepared data sets, and the quality each gets where none is given.
QUALITY = {"h264": 21, "mjpeg": 5}


@dataclass(frozen=True)
class Recoding:
    """How videos are re-encoded. Two runs into one folder must agree on this."""

    short_side: int = 256
    codec: str = "h264"
    quality: int = QUALITY["h264"]  # x264's crf; for mjpeg the quantiser, 2 (best) to 31
    gop: int = 48
    preset: str = "medium"

    def __post_init__(self):
        if self.codec not in QUALITY:
            raise ValueError(f"codec must be {' or '.join(QUALITY)}, not {self.codec!r}")
        for name, low, high in (("short_side", 16, 4096), ("quality", 0, 51), ("gop", 1, 1000)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be in [{low}, {high}], not {getattr(self, name)}")

    @property
    def options(self) -> dict[str, str]:
        """What the encoder is told."""
        if self.codec == "mjpeg":
            return {"qmin": str(max(self.quality, 2)), "qmax": str(max(self.quality, 2))}
        # fastdecode: no deblocking and no CABAC, which make half of the decoder's work. Seven of eight frames are B-frames
        # that nothing refers to: those that a clip does not want are passed over. Without psy and aq, which serve the eye,
        # the same bits bring the pixels nearer to the source.
        options = {"preset": self.preset, "crf": str(self.quality), "g": str(self.gop), "bf": "7", "tune": "fastdecode"}
        return options | {"x264-params": "b-adapt=0:b-pyramid=none:scenecut=0:psy=0:aq-mode=0"}

    def encode(self, frames: Iterable[np.ndarray], fps: float) -> bytes:
        return encode_video(frames, fps, codec="libx264" if self.codec == "h264" else self.codec, options=self.options)
