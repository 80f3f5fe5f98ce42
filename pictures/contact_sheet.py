"""Many small pictures with captions on one sheet."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from videomae.pictures.drawing import GAP, INK, MARGIN, PAPER, font_of, text_size

TILE = (176, 132)
EMPTY = (225, 225, 225)


def contact_sheet(tiles: Sequence[tuple[np.ndarray | None, str]], *, columns: int = 6) -> Image.Image:
    """Frames (H, W, 3) of bytes, or None where there is none, with captions of one or more lines, row by row."""
    font = font_of(11)
    line = text_size("Ag", font)[1] + 5
    below = max((caption.count("\n") + 1 for _, caption in tiles), default=1) * line + MARGIN
    columns = min(columns, max(len(tiles), 1))
    rows = -(-len(tiles) // columns)
    width, height = TILE[0] + 2 * GAP, TILE[1] + below + 2 * GAP
    canvas = Image.new("RGB", (columns * width, max(rows, 1) * height), PAPER)
    draw = ImageDraw.Draw(canvas)
    for place, (frame, caption) in enumerate(tiles):
        left, top = place % columns * width + GAP, place // columns * height + GAP
        draw.rectangle([left, top, left + TILE[0] - 1, top + TILE[1] - 1], fill=EMPTY)
        if frame is None:
            draw.text((left + TILE[0] / 2, top + TILE[1] / 2), "no picture", fill=INK, font=font, anchor="mm")
        else:
            picture = Image.fromarray(frame)
            picture.thumbnail(TILE)
            canvas.paste(picture, (left + (TILE[0] - picture.width) // 2, top + (TILE[1] - picture.height) // 2))
        for number, text in enumerate(caption.split("\n")):
            draw.text((left, top + TILE[1] + 3 + number * line), shortened(text, font), fill=INK, font=font)
    return canvas


def shortened(text: str, font) -> str:
    """The end of a text that is too wide for a tile: of paths it says most."""
    if font.getlength(text) <= TILE[0]:
        return text
    while text and font.getlength(f"…{text}") > TILE[0]:
        text = text[1:]
    return f"…{text}"
