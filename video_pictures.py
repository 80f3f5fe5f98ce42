"""A decoded picture as RGB: turned upright, scaled, and never copied more often than that takes."""

import numpy as np

try:
    import av
except ImportError:  # decoded frames can be processed without it
    av = None


def quarter_turns(frame: "av.VideoFrame") -> int:
    """Quarter turns counter-clockwise that make a picture upright; other angles are left alone."""
    return frame.rotation // 90 % 4 if frame.rotation % 90 == 0 else 0


def upright_size(frame: "av.VideoFrame") -> tuple[int, int]:
    """Width and height."""
    return (frame.height, frame.width) if quarter_turns(frame) % 2 else (frame.width, frame.height)


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
    frame: "av.VideoFrame", width: int, height: int, turns: int, scaler: "av.video.reformatter.VideoReformatter"
) -> np.ndarray:
    """RGB (height, width, 3) of a picture stored `turns` quarter turns away; scaled if its size is another."""
    if turns % 2:
        width, height = height, width
    # one thread: starting a team for one small frame costs more than the frame
    rgb = scaler.reformat(frame, width=width, height=height, format="rgb24", interpolation="BILINEAR", threads=1)
    plane = rgb.planes[0]
    lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:height]  # lines are longer than the picture
    picture = lines[:, : 3 * width].reshape(height, width, 3)
    return np.rot90(picture, turns) if turns else picture
