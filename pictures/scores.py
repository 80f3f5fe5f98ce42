"""Pictures of scores: reliability and confusion side by side. Pillow's own font, as in drawing.py."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from videomae.pictures.drawing import INK, MARGIN, PAPER, font_of, text_size

SIDE = 360  # pixels of a panel
FILLED, GAP, TEMPERED, GRID = (0, 114, 178), (230, 159, 0), (0, 158, 115), (215, 215, 215)
NAMED_CLASSES = 30  # more cannot be read beside a matrix of this size
COUNTED_CLASSES = 16  # up to which the cells show their counts


def score_picture(result: Mapping[str, Any]) -> Image.Image:
    """The picture of a report as evaluation/scores.py makes it; without a matrix only the reliability."""
    temperature = result["temperature"]
    after = (f"after temperature {temperature['value']:.2f}", temperature["reliability_after"])
    panels = [reliability_panel(result["reliability"], after, ece=result["headline"]["ece"]["value"])]
    if "confusion" in result:
        panels.append(confusion_panel(np.array(result["confusion"]), result["class_names"]))
    height = max(panel.height for panel in panels)
    canvas = Image.new("RGB", (sum(panel.width for panel in panels), height), PAPER)
    left = 0
    for panel in panels:
        canvas.paste(panel, (left, 0))
        left += panel.width
    return canvas


def reliability_panel(
    table: Sequence[Mapping[str, Any]], after: tuple[str, Sequence[Mapping[str, Any]]], *, ece: float
) -> Image.Image:
    """Share of right answers by confidence; a column below the diagonal was too sure. Counts stand at the top."""
    font, left, top = font_of(12), 56, 34
    canvas = Image.new("RGB", (left + SIDE + 24, top + SIDE + 60), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((left, top // 2), f"reliability, expected calibration error {ece:.3f}", fill=INK, font=font, anchor="lm")

    def place(confidence: float, accuracy: float) -> tuple[float, float]:
        return left + SIDE * confidence, top + SIDE * (1 - accuracy)

    for level in (0.0, 0.25, 0.5, 0.75, 1.0):
        draw.line([place(0, level), place(1, level)], fill=GRID)
        draw.text((left - MARGIN, place(0, level)[1]), f"{level:g}", fill=INK, font=font, anchor="rm")
        draw.text((place(level, 0)[0], top + SIDE + MARGIN), f"{level:g}", fill=INK, font=font, anchor="ma")
    for row in table:
        if row["count"]:
            corner, foot = place(row["lower"], row["accuracy"]), place(row["upper"], 0)
            draw.rectangle([corner[0] + 1, corner[1], foot[0] - 1, foot[1]], fill=FILLED)
            draw.text(((corner[0] + foot[0]) / 2, top + 2), str(row["count"]), fill=INK, font=font_of(10), anchor="ma")
    draw.line([place(0, 0), place(1, 1)], fill=INK, width=1)
    for colour, rows in ((GAP, table), (TEMPERED, after[1])):
        for row in rows:
            if row["count"]:
                x, y = place(row["confidence"], row["accuracy"])
                draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=colour, outline=PAPER)
    draw.text((left + SIDE / 2, top + SIDE + 22), "confidence", fill=INK, font=font, anchor="ma")
    x = left
    for colour, name in ((GAP, "accuracy"), (TEMPERED, after[0])):
        y = top + SIDE + 48
        draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=colour)
        draw.text((x + 8, y), name, fill=INK, font=font, anchor="lm")
        x += text_size(name, font)[0] + 28
    return canvas


def confusion_panel(counts: np.ndarray, names: Sequence[str]) -> Image.Image:
    """True classes by row, given answers by column; a cell is as dark as its share of the row."""
    font, count = font_of(11), len(names)
    named = count <= NAMED_CLASSES
    shorts = [name if len(name) <= 20 else name[:19] + "…" for name in names]
    room = max(text_size(name, font)[0] for name in shorts) + 2 * MARGIN if named else 24
    cell = max(SIDE // count, 14 if named else 3)
    left, top, side = room + 20, 34, cell * count
    canvas = Image.new("RGB", (left + side + 12, top + side + (room if named else 24) + 24), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text(
        (left, top // 2), "confusion: true class by row, answer by column", fill=INK, font=font_of(12), anchor="lm"
    )
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for row in range(count):
        for column in range(count):
            share = float(shares[row, column])
            colour = tuple(round(paper + share * (full - paper)) for paper, full in zip(PAPER, FILLED))
            x, y = left + column * cell, top + row * cell
            draw.rectangle([x, y, x + cell - 1, y + cell - 1], fill=colour, outline=GRID if cell > 6 else None)
            if counts[row, column] and count <= COUNTED_CLASSES:
                ink = PAPER if share > 0.6 else INK
                draw.text((x + cell / 2, y + cell / 2), str(counts[row, column]), fill=ink, font=font, anchor="mm")
    if named:
        for place, name in enumerate(shorts):
            draw.text((left - MARGIN, top + (place + 0.5) * cell), name, fill=INK, font=font, anchor="rm")
            upright = Image.new("RGB", (room, text_size("Ag", font)[1] + 6), PAPER)
            ImageDraw.Draw(upright).text((room - 1, 2), name, fill=INK, font=font, anchor="ra")
            upright = upright.rotate(90, expand=True)
            canvas.paste(upright, (round(left + (place + 0.5) * cell - upright.width / 2), top + side + 4))
    return canvas
