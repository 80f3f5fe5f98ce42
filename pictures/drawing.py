"""Rows of frames as one picture, panels side by side as a film, and both as files. Pillow's own font; nothing to load.

The rows come from reconstruction.py and attention.py; titles and notes are added here.
"""

import io
import itertools
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from videomae.data.encoding import encode_video

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# T frames  H W pixels  C channels
Row = tuple[str, Tensor]  # a title, which may have several lines, and frames (T, H, W, C) of [0, 1]
GAP, MARGIN = 2, 6
INK, PAPER, WARNING = (20, 20, 20), (255, 255, 255), (176, 0, 32)


def grid_picture(
    rows: Sequence[Row],
    *,
    notes: Sequence[str] = (),
    seconds: Sequence[float] = (),
    columns: int = 8,
    height: int = 112,
) -> Image.Image:
    """One row of frames per title, `columns` of them spread over the clip, their times above and the notes below.

    A note that begins with a word in capitals is a warning and is printed in red.
    """
    font = font_of(12)
    frame_numbers = _spread(len(rows[0][1]), columns)
    tiles = [[_tile(video[index], height) for index in frame_numbers] for _, video in rows]
    titles = max(text_size(title, font)[0] for title, _ in rows) + 2 * MARGIN
    width = titles + max(sum(tile.width + GAP for tile in row) for row in tiles)
    head = text_size("0", font)[1] + 2 * MARGIN if seconds else 0
    below, foot = _note_lines(notes, width - 2 * MARGIN, font)
    canvas = Image.new("RGB", (width, head + len(rows) * (height + GAP) + foot), PAPER)
    draw = ImageDraw.Draw(canvas)
    for row, ((title, _), frames) in enumerate(zip(rows, tiles)):
        top = head + row * (height + GAP)
        draw.multiline_text((MARGIN, top + height // 2), title, fill=INK, font=font, anchor="lm")
        for column, frame in enumerate(frames):
            left = titles + column * (frame.width + GAP)
            canvas.paste(frame, (left, top))
            if seconds and row == 0:
                time = f"{seconds[frame_numbers[column]]:.2f} s"
                draw.text((left + frame.width // 2, head // 2), time, fill=INK, font=font, anchor="mm")
    _write_notes(draw, below, canvas.height - foot, font)
    return canvas


def film(panels: Sequence[Row], *, notes: Sequence[str] = (), height: int = 224) -> list[Image.Image]:
    """The panels side by side, one picture per frame, titles above and notes below."""
    font = font_of(14)
    tiles = [[_tile(frame, height) for frame in video] for _, video in panels]
    titles = [title for title, _ in panels]
    head = max(text_size(title, font)[1] for title in titles) + 2 * MARGIN
    widths = [max(row[0].width, text_size(title, font)[0] + 2 * MARGIN) for row, title in zip(tiles, titles)]
    width = sum(widths) + GAP * (len(widths) - 1)
    below, foot = _note_lines(notes, width - 2 * MARGIN, font)
    base = Image.new("RGB", (width, head + height + foot), PAPER)
    draw = ImageDraw.Draw(base)
    lefts = [sum(widths[:place]) + GAP * place for place in range(len(widths))]
    for title, left, room in zip(titles, lefts, widths):
        draw.multiline_text((left + room // 2, head // 2), title, fill=INK, font=font, anchor="mm", align="center")
    _write_notes(draw, below, head + height, font)
    frames = []
    for number in range(len(tiles[0])):
        frame = base.copy()
        for row, left, room in zip(tiles, lefts, widths):
            frame.paste(row[number], (left + (room - row[number].width) // 2, head))
        frames.append(frame)
    return frames


def png_bytes(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def gif_bytes(frames: Sequence[Image.Image], frame_seconds: float) -> bytes:
    """An endless GIF. All frames become one picture of 256 colours, so that what stands still does not flicker."""
    width, height = frames[0].size
    sheet = Image.new("RGB", (width, height * len(frames)))
    for number, frame in enumerate(frames):
        sheet.paste(frame, (0, number * height))
    sheet = sheet.quantize(256)
    first, *others = [sheet.crop((0, top, width, top + height)) for top in range(0, sheet.height, height)]
    # GIF counts hundredths of a second, and browsers slow down below two of them.
    ends = [round(number * frame_seconds * 100) for number in range(len(frames) + 1)]
    durations = [10 * max(end - start, 2) for start, end in itertools.pairwise(ends)]
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=durations, loop=0, optimize=False)
    return buffer.getvalue()


def mp4_bytes(frames: Sequence[Image.Image], frame_seconds: float) -> bytes:
    """H.264 that every browser plays, at the pace of the clip."""
    return encode_video((np.asarray(frame) for frame in frames), 1 / frame_seconds, options={"crf": "18", "g": "16"})


def _spread(length: int, columns: int) -> list[int]:
    return torch.linspace(0, length - 1, min(columns, length)).round().long().tolist()


def _tile(frame: Tensor, height: int) -> Image.Image:
    """One frame (H, W, C) scaled to a height; enlarged patches keep their edges."""
    if frame.shape[-1] not in (1, 3):  # other modalities: the first channel, grey
        frame = frame[..., :1]
    shades = (frame.float().cpu() * 255).round().to(torch.uint8)
    image = Image.fromarray(shades.expand(*shades.shape[:2], 3).contiguous().numpy())
    if image.height == height:
        return image
    how = Image.Resampling.NEAREST if image.height < height else Image.Resampling.BICUBIC
    return image.resize((max(round(image.width * height / image.height), 1), height), how)


def font_of(size: int) -> Font:
    return ImageFont.load_default(size=size)


def text_size(text: str, font: Font) -> tuple[int, int]:
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left, top, right, bottom = draw.multiline_textbbox((0, 0), text, font=font)
    return round(right - left), round(bottom - top)


def _note_lines(notes: Sequence[str], width: int, font: Font) -> tuple[list[tuple[str, bool]], int]:
    """(line, is a warning) of all notes, wrapped, and the height that they need."""
    lines = []
    for note in notes:
        words = note.split()
        warning, line = words[0].rstrip(":").isupper() and len(words[0]) > 2, ""
        for word in words:
            if line and font.getlength(f"{line} {word}") > width:
                lines.append((line, warning))
                line = word
            else:
                line = f"{line} {word}".strip()
        lines.append((line, warning))
    return lines, len(lines) * _line_height(font) + 2 * MARGIN if lines else 0


def _line_height(font: Font) -> int:
    return text_size("Ag", font)[1] + 6


def _write_notes(draw: ImageDraw.ImageDraw, lines: Sequence[tuple[str, bool]], top: int, font) -> None:
    for number, (line, warning) in enumerate(lines):
        place = (MARGIN, top + MARGIN + number * _line_height(font))
        draw.text(place, line, fill=WARNING if warning else INK, font=font)
