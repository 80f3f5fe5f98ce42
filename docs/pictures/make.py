"""The drawings of the guides, made by the package's own functions: `python docs/pictures/make.py` writes them.

A test compares the files with what is made here, so a drawing cannot say something else than the code.
"""

import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path

import torch

from videomae.data.lists.layouts import open_manifest
from videomae.data.transforms import spatial_boxes
from videomae.masking_videomae import MASKS, make_mask
from videomae.sampling_videomae import ClipSampling, pretrain_clip, test_clips, train_clip, validation_clip

FOLDER = Path(__file__).parent
INK, GREY, PAPER, EMPTY = "#222", "#666", "#fff", "#e6e9ef"
BLUE, ORANGE, GREEN = "#2b5797", "#c8651b", "#2f7d4f"
GRID = (8, 14, 14)  # 16 frames of 224 x 224 in patches of 16 and tubelets of 2
SEED = 3


class Drawing:
    """Lines of an SVG; the text is that of the reader's system, the paper white on dark pages too."""

    def __init__(self, width: int, height: int, label: str):
        self.lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" '
            f'role="img" aria-label="{escape(label)}">',
            f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        ]

    def text(
        self, x: float, y: float, words: str, *, size: int = 13, fill: str = INK, anchor="start", bold=False, mono=False
    ):
        style = ' font-weight="600"' if bold else ""
        style += ' font-family="ui-monospace, monospace" xml:space="preserve"' if mono else ""
        self.lines.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" text-anchor="{anchor}"{style}>{escape(words)}</text>'
        )

    def rect(self, x: float, y: float, width: float, height: float, *, fill: str = "none", stroke: str | None = None):
        edge = f' stroke="{stroke}" stroke-width="1.5"' if stroke else ""
        self.lines.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}"{edge}/>')

    def path(self, d: str, *, fill: str = "none", stroke: str | None = None):
        edge = f' stroke="{stroke}"' if stroke else ""
        self.lines.append(f'<path d="{d}" fill="{fill}"{edge}/>')

    def svg(self) -> str:
        return "\n".join([*self.lines, "</svg>\n"])


# ----------------------------------------------------------------------------------------------------------------- masks

MASK_ROWS = (
    ("tube", 0.9, "tube, 90 %: VideoMAE", "the same cells in every slot"),
    ("random", 0.9, "random, 90 %", "any tokens of the clip"),
    ("frame", 0.75, "frame, 75 %", "whole slots"),
    ("running_cell", 0.5, "running cell, 50 %: V2", "what the decoder leaves out"),
    ("short_blocks", 0.75, "short blocks, 75 %", "V-JEPA: blocks of 15 % of a frame"),
    ("long_blocks", 0.75, "long blocks, 75 %", "V-JEPA: blocks of 70 % of a frame"),
)


def masks() -> str:
    """Each kind of mask over the slots of one clip."""
    assert {kind for kind, *_ in MASK_ROWS} == set(MASKS)
    t, _, w = GRID
    cell, gap, left, top = 6, 10, 230, 40
    side = w * cell
    height = top + len(MASK_ROWS) * (side + 22)
    drawing = Drawing(left + t * (side + gap) + 6, height, "Masks over the eight slots of a clip")
    drawing.text(12, 26, "dark: hidden", bold=True)
    for slot in range(t):
        x = left + slot * (side + gap) + side / 2
        drawing.text(x, 26, f"frames {2 * slot}, {2 * slot + 1}", size=11, fill=GREY, anchor="middle")
    for row, (kind, ratio, title, meaning) in enumerate(MASK_ROWS):
        y = top + row * (side + 22)
        hidden = make_mask(kind, GRID, ratio, torch.Generator().manual_seed(SEED))
        drawing.text(12, y + 36, title, bold=True)
        drawing.text(12, y + 54, meaning, size=12, fill=GREY)
        drawing.text(12, y + 72, f"{int(hidden.sum())} of {len(hidden)} tokens", size=12, fill=GREY)
        for slot, cells in enumerate(hidden.view(GRID)):
            x = left + slot * (side + gap)
            drawing.rect(x, y, side, side, fill=ORANGE if kind != "running_cell" else GREEN)
            drawing.path(_runs(cells, x, y, cell), fill="#2c313c")
    return drawing.svg()


def _runs(cells: torch.Tensor, x: float, y: float, cell: int) -> str:
    """The True cells of (h, w) as one path, a rectangle for each run in a row."""
    parts = []
    for row, line in enumerate(cells.tolist()):
        start = None
        for column, on in enumerate([*line, False]):
            if on and start is None:
                start = column
            elif not on and start is not None:
                parts.append(
                    f"M{x + start * cell:g} {y + row * cell:g}h{(column - start) * cell}v{cell}h-{(column - start) * cell}z"
                )
                start = None
    return "".join(parts)


# -------------------------------------------------------------------------------------------------------------- sampling

VIDEO_FRAMES = 160


def sampling() -> str:
    """Which frames of a video each strategy takes."""
    dense, uniform = ClipSampling(), ClipSampling(strategy="uniform", clips=2)
    draw = torch.Generator().manual_seed(SEED)
    rows = [
        ("pre-training", "dense: every 4th frame", [pretrain_clip(VIDEO_FRAMES, dense, draw)], BLUE),
        ("fine-tuning", "dense, at random", [train_clip(VIDEO_FRAMES, dense, draw)], BLUE),
        ("validation, one view", "dense, the centre", [validation_clip(VIDEO_FRAMES, dense)], BLUE),
        ("test, 5 clips", "dense, from start to end", test_clips(VIDEO_FRAMES, dense), BLUE),
        ("fine-tuning", "uniform: one of each segment", [train_clip(VIDEO_FRAMES, uniform, draw)], ORANGE),
        ("validation, one view", "uniform, the middles", [validation_clip(VIDEO_FRAMES, uniform)], ORANGE),
        ("test, 2 clips", "uniform, starts and middles", test_clips(VIDEO_FRAMES, uniform), ORANGE),
        ("fine-tuning", "spread", [train_clip(VIDEO_FRAMES, ClipSampling(strategy="spread"), draw)], GREEN),
    ]
    left, step, line = 236, 5, 14
    heights = [max(len(clips) * line, 30) + 12 for *_, clips, _ in rows]
    drawing = Drawing(left + VIDEO_FRAMES * step + 16, 46 + sum(heights), "Frames of a clip by strategy")
    drawing.text(12, 26, f"16 frames of a video of {VIDEO_FRAMES}", bold=True)
    for number in range(0, VIDEO_FRAMES + 1, 20):
        drawing.text(left + number * step, 26, str(number), size=11, fill=GREY, anchor="middle")
    y = 42
    for (title, strategy, clips, colour), height in zip(rows, heights):
        drawing.text(12, y + 13, title)
        drawing.text(12, y + 28, strategy, size=11, fill=GREY)
        for number, frames in enumerate(clips):
            top = y + 3 + number * line
            drawing.rect(left, top, VIDEO_FRAMES * step, line - 4, fill=EMPTY)
            drawing.path("".join(f"M{left + frame * step} {top}h4v{line - 4}h-4z" for frame in frames), fill=colour)
        y += height
    return drawing.svg()


# ----------------------------------------------------------------------------------------------------------------- views


def views() -> str:
    """The 5 x 3 views of the Kinetics test: clips in time, crops along the long side."""
    policy, scale = ClipSampling(), 0.6
    size, (height, width) = 224, (224, 299)  # of a 320 x 240 video
    boxes = spatial_boxes(height, width, size, policy.crops)
    clips = test_clips(VIDEO_FRAMES, policy)
    left, step, gap = 16, 1.1, 14
    tile = width * scale
    drawing = Drawing(int(left + len(boxes) * (tile + gap) + 250), 250, "The views of a test")
    drawing.text(left, 26, f"{policy.crops} crops of {size} x {size} from a frame of {width} x {height}", bold=True)
    for number, box in enumerate(boxes):
        x = left + number * (tile + gap)
        drawing.rect(x, 40, tile, height * scale, fill=EMPTY)
        drawing.rect(
            x + box.left * scale,
            40 + box.top * scale,
            box.width * scale,
            box.height * scale,
            fill="#cfdcf0",
            stroke=BLUE,
        )
        drawing.text(
            x + (box.left + box.width / 2) * scale,
            40 + height * scale / 2,
            f"columns {box.left} to {box.left + box.width - 1}",
            size=12,
            anchor="middle",
        )
    x = left + len(boxes) * (tile + gap) + 20
    drawing.text(x, 26, f"{policy.clips} clips in time", bold=True)
    for number, frames in enumerate(clips):
        y = 46 + number * 26
        drawing.rect(x, y, VIDEO_FRAMES * step, 12, fill=EMPTY)
        drawing.path("".join(f"M{x + frame * step:.1f} {y}h1.1v12h-1.1z" for frame in frames), fill=BLUE)
        drawing.text(x + VIDEO_FRAMES * step + 6, y + 11, f"{frames[0]}–{frames[-1]}", size=11, fill=GREY)
    count = len(clips) * len(boxes)
    drawing.text(left, 212, f"{len(clips)} clips x {len(boxes)} crops = {count} views, all cut from one decode;")
    drawing.text(left, 230, "the scores of a video are the mean over its views.")
    return drawing.svg()


# --------------------------------------------------------------------------------------------------------------- layouts

TREES = (
    (
        "A folder for each class",
        "--data videos",
        "videos",
        {"opens/a.mp4": "", "opens/b.webm": "", "closes/c.mp4": "", "closes/d.avi": ""},
    ),
    (
        "The same, with splits",
        "--data set (split train)",
        "set",
        {"train/opens/a.mp4": "", "train/closes/c.mp4": "", "test/opens/b.mp4": "", "test/closes/d.mp4": ""},
    ),
    (
        "A list beside its videos",
        "--data train.txt",
        "train.txt",
        {"train.txt": "clips/a.mp4 0\nclips/c.mp4 1\n", "clips/a.mp4": "", "clips/c.mp4": ""},
    ),
    (
        "A table with named columns",
        "--data train.csv",
        "train.csv",
        {"train.csv": "path,label\nclips/a.mp4,opens\nclips/c.mp4,closes\n", "clips/a.mp4": "", "clips/c.mp4": ""},
    ),
    (
        "Frame images, V2's list",
        "--data v2.txt",
        "v2.txt",
        {
            "v2.txt": "frames/a 0 120 0\nframes/c 0 96 1\n",
            "frames/a/img_00001.jpg": "",
            "frames/a/…": "",
            "frames/c/img_00001.jpg": "",
            "frames/c/…": "",
        },
    ),
    (
        "UCF101's own files",
        "--data ucf101 (split train1)",
        "ucf101",
        {
            "classInd.txt": "1 Archery\n2 Biking\n",
            "trainlist01.txt": "Archery/v_Archery_g08_c01.avi 1\nBiking/v_Biking_g08_c01.avi 2\n",
            "testlist01.txt": "Archery/v_Archery_g01_c01.avi\n",
            "Archery/v_Archery_g08_c01.avi": "",
            "Archery/…": "",
            "Biking/v_Biking_g08_c01.avi": "",
        },
    ),
)


def layouts() -> str:
    """Folders as people have them, and what `open_manifest` makes of each."""
    column, line, columns = 300, 18, 3
    rows = [TREES[start : start + columns] for start in range(0, len(TREES), columns)]
    heights = [max(len(_shown(files)) for *_, files in row) * line + 100 for row in rows]
    drawing = Drawing(columns * column + 16, sum(heights) + 8, "Layouts of data folders")
    top = 8
    for row, height in zip(rows, heights):
        for number, (title, option, source, files) in enumerate(row):
            x = 12 + number * column
            drawing.rect(x, top, column - 14, height - 14, fill="#f7f8fa", stroke="#ccc")
            drawing.text(x + 12, top + 24, title, bold=True)
            drawing.text(x + 12, top + 44, option, size=12, fill=BLUE, mono=True)
            for place, words in enumerate(_shown(files)):
                drawing.text(x + 12, top + 68 + place * line, words, size=12, mono=True)
            drawing.text(x + 12, top + height - 26, _read(source, files), size=12, fill=GREY)
        top += height
    return drawing.svg()


def _shown(files: dict[str, str]) -> list[str]:
    """A tree of the files, folders once, and the lines of those that have some."""
    lines: list[str] = []
    folders: list[str] = []
    for name, content in files.items():
        *parents, last = name.split("/")
        for depth, parent in enumerate(parents):
            if folders[depth : depth + 1] != [parent]:
                folders = [*folders[:depth], parent]
                lines.append("  " * depth + parent + "/")
        folders = folders[: len(parents)]
        lines.append("  " * len(parents) + last)
        lines += ["  " * len(parents) + "| " + row for row in content.splitlines()]
    return lines


def _read(source: str, files: dict[str, str]) -> str:
    """What comes of reading these files; a source that is no file of them is the folder around them."""
    is_folder = source not in files
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, source) if is_folder else Path(folder)
        for name, content in files.items():
            if "…" not in name:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(content)
        options = {"split": "train1" if source == "ucf101" else "train"} if source in ("set", "ucf101") else {}
        manifest = open_manifest(root if is_folder else root / source, **options)
    names = ", ".join(manifest.class_names) if manifest.class_names else f"0 to {manifest.num_labels - 1}"
    return f"{len(manifest)} videos, classes {names}"


PICTURES = {"masks.svg": masks, "sampling.svg": sampling, "views.svg": views, "layouts.svg": layouts}


def main(names: Sequence[str] = tuple(PICTURES)) -> None:
    for name in names:
        (FOLDER / name).write_text(PICTURES[name](), encoding="utf-8")
        print(FOLDER / name)


if __name__ == "__main__":
    main()
