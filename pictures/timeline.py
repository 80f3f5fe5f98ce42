"""Labels over time as one picture: a strip of scores for each label, under it the stretches found and those labelled."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from videomae.metrics.temporal_detection import LabelledStretch
from videomae.pictures.drawing import INK, MARGIN, PAPER, font_of, text_size
from videomae.pictures.plot import ticks

WIDTH = 960  # pixels of the time axis
STRIP, BAR, GAP = 18, 6, 8  # heights: of scores, of a row of stretches, between labels
SCORE, FOUND, TRUE, GRID = (0, 114, 178), (230, 159, 0), (0, 158, 115), (215, 215, 215)
LONGEST_NAME = 28  # characters


def timeline_picture(
    scores: np.ndarray,
    slots: np.ndarray,
    names: Sequence[str],
    *,
    found: Sequence[LabelledStretch] = (),
    truth: Sequence[LabelledStretch] | None = None,
    most: int = 8,
) -> Image.Image:
    """scores (W, L) and slots (W, 2), the seconds that each row of them answers for; the darker, the higher.

    Labels with stretches come first, then those that score highest anywhere; `most` are drawn. A truth of None has no bars.
    """
    start, end = float(slots[0, 0]), float(slots[-1, 1])
    chosen = _chosen(scores, names, (*found, *(truth or ())), most)
    font, shorts = font_of(12), [_short(names[column]) for column in chosen]
    left = max([text_size(name, font)[0] for name in shorts]) + 2 * MARGIN
    groups = [(FOUND, found)] if found else []
    groups += [(TRUE, truth)] if truth is not None else []
    step, top = STRIP + len(groups) * BAR + GAP, MARGIN
    foot = top + len(chosen) * step
    canvas = Image.new("RGB", (left + WIDTH + 24, foot + 52), PAPER)
    draw = ImageDraw.Draw(canvas)

    def across(seconds: float) -> float:
        return left + WIDTH * (min(max(seconds, start), end) - start) / ((end - start) or 1.0)

    unit = 60.0 if end - start > 120 else 1.0
    for at in (unit * tick for tick in ticks(start / unit, end / unit, 8)):
        if start <= at <= end:
            draw.line([(across(at), top), (across(at), foot - GAP + 4)], fill=GRID)
            draw.text((across(at), foot), clock(at), fill=INK, font=font, anchor="ma")
    moments = start + (np.arange(WIDTH) + 0.5) * (end - start) / WIDTH
    row_of = np.clip(np.searchsorted(slots[:, 1], moments), 0, len(slots) - 1)
    for place, (column, name) in enumerate(zip(chosen, shorts)):
        y = top + place * step
        draw.text((left - MARGIN, y + STRIP / 2), name, fill=INK, font=font, anchor="rm")
        canvas.paste(_strip(scores[row_of, column]), (left, y))
        draw.rectangle([left, y, left + WIDTH, y + STRIP], outline=GRID)
        for row, (colour, stretches) in enumerate(groups):
            bar = y + STRIP + row * BAR
            for stretch in stretches:
                if stretch.label == names[column]:
                    first, last = across(stretch.start_seconds), across(stretch.end_seconds)
                    draw.rectangle([first, bar + 2, max(last, first + 1), bar + BAR], fill=colour)
    legend = {SCORE: "score, 0 to 1", FOUND: "stretches found", TRUE: "labelled"}
    _legend(draw, left, foot + 34, [(colour, legend[colour]) for colour in (SCORE, *dict(groups))])
    return canvas


def clock(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour, or 3.5 s below a minute."""
    if seconds < 60:
        return f"{seconds:g} s"
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def _chosen(scores: np.ndarray, names: Sequence[str], stretches: Sequence[LabelledStretch], most: int) -> list[int]:
    """The columns that are drawn, in the order of the labels."""
    with_stretches = {stretch.label for stretch in stretches}
    highest = scores.max(axis=0)
    order = sorted(range(len(names)), key=lambda column: (names[column] not in with_stretches, -highest[column]))
    return sorted(order[:most])


def _strip(values: np.ndarray) -> Image.Image:
    """(WIDTH,) scores -> shades from paper to full colour."""
    share = np.clip(values, 0.0, 1.0)[:, None]
    shades = np.array(PAPER) + share * (np.array(SCORE) - np.array(PAPER))
    return Image.fromarray(np.repeat(shades.round().astype(np.uint8)[None], STRIP, axis=0))


def _legend(
    draw: ImageDraw.ImageDraw, left: float, y: float, entries: Sequence[tuple[tuple[int, int, int], str]]
) -> None:
    font = font_of(12)
    for colour, text in entries:
        draw.rectangle([left, y - 5, left + 10, y + 5], fill=colour)
        draw.text((left + 16, y), text, fill=INK, font=font, anchor="lm")
        left += text_size(text, font)[0] + 40


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
