"""A decoded picture as RGB: turned upright, scaled, and never copied more often than that takes."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from .video_source import av

# What is kept of frames of (height, width): (top, left, height, width).
Part = Callable[[int, int], tuple[int, int, int, int]]


class Damage:
    """Whether damage that the decoder has marked reaches a picture: pictures refer to those before, up to a key frame."""

    reaches = False

    def see(self, frame: "av.VideoFrame") -> None:
        """The next picture that comes out of the decoder."""
        self.reaches = frame.is_corrupt or (self.reaches and not _starts_decoding(frame))


def _starts_decoding(frame: "av.VideoFrame") -> bool:
    return frame.key_frame or frame.pict_type == av.video.frame.PictureType.I


# (quarter turns counter-clockwise, then whether left and right change places) by the signs of a display matrix: where it
# keeps rows (a, d), and where it makes columns of them (b, c).
_KEEPING = {(1, 1): (0, False), (-1, -1): (2, False), (-1, 1): (0, True), (1, -1): (2, True)}
_TURNING = {(-1, 1): (1, False), (1, -1): (3, False), (1, 1): (3, True), (-1, -1): (1, True)}
NEARLY_ZERO = 0.01  # the sine of half a degree: matrices are rounded


def orientation(frame: "av.VideoFrame") -> tuple[int, bool]:
    """What makes a picture upright: quarter turns counter-clockwise, then maybe a mirror; other angles are left alone."""
    # Not `frame.side_data`: it and the frame refer to each other, and the picture waits for Python's garbage collector.
    side_data = cast(Any, av.sidedata.sidedata.SideDataContainer)(frame)
    matrix = side_data.get("DISPLAYMATRIX") if len(side_data) else None  # a look-up costs more than a count
    if matrix is None:
        return 0, False
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].astype(float).tolist()  # (x, y) goes to (ax + cy, bx + dy)
    straight, across = min(abs(a), abs(d)), min(abs(b), abs(c))
    if max(abs(b), abs(c)) <= NEARLY_ZERO * straight:
        return _KEEPING[(1 if a > 0 else -1, 1 if d > 0 else -1)] if straight else (0, False)
    if max(abs(a), abs(d)) <= NEARLY_ZERO * across:
        return _TURNING[(1 if b > 0 else -1, 1 if c > 0 else -1)]
    return 0, False


def upright_size(frame: "av.VideoFrame") -> tuple[int, int]:
    """Width and height."""
    turns, _ = orientation(frame)
    return (frame.height, frame.width) if turns % 2 else (frame.width, frame.height)


def scaled_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """Width and height after scaling the shorter side down to `short_side`; never up."""
    if short_side is not None and short_side < 1:
        raise ValueError(f"short_side must be at least 1, not {short_side}")
    if short_side is None or min(width, height) <= short_side:
        return width, height
    if width <= height:
        return short_side, int(short_side * height / width)
    return int(short_side * width / height), short_side


def upright_rgb(
    frame: "av.VideoFrame", width: int, height: int, scaler: "av.video.reformatter.VideoReformatter"
) -> np.ndarray:
    """RGB (height, width, 3) of a picture, in its own memory; scaled if its upright size is another."""
    turns, mirrored = orientation(frame)
    if turns % 2:
        width, height = height, width
    # one thread: starting a team for one small frame costs more than the frame
    rgb = scaler.reformat(
        frame, width, height, "rgb24", interpolation=av.video.reformatter.Interpolation.BILINEAR, threads=1
    )
    plane = rgb.planes[0]
    lines = np.frombuffer(cast(Any, plane), np.uint8).reshape(-1, plane.line_size)[
        :height
    ]  # lines are longer than the picture
    picture = lines[:, : 3 * width].reshape(height, width, 3)
    picture = np.rot90(picture, turns) if turns else picture
    return picture[:, ::-1] if mirrored else picture
