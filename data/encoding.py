"""Frames to the bytes of a video file: the encoder of the synthetic set and of prepared data sets.

Reading is video_io.py's; nothing here touches the disk.
"""

import io
from collections.abc import Iterable
from fractions import Fraction

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
                stream = output.add_stream(codec, rate=rate, options=options)
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
