"""A small labelled set of videos made from nothing: a shape whose motion, and nothing else, is its class.

videomae make-data FOLDER --clips 400

No single frame tells the class: place, angle, size, shape, colours, background and distractors follow the same
distributions in all classes, at every moment; in a `centred` set, which is easier, in the middle frame only. Left and
right are classes, so train without horizontal flips. Equal arguments give equal bytes under one FFmpeg.
"""

# T frames  H W pixels

import csv
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from videomae.data.encoding import encode_video
from videomae.files import new_folder, write_atomic, write_json

MOTIONS = (
    "moves right",
    "moves left",
    "moves down",
    "moves up",
    "turns clockwise",
    "turns counter-clockwise",
    "circles clockwise",
    "circles counter-clockwise",
)
DIRECTIONS = {"moves right": (1, 0), "moves left": (-1, 0), "moves down": (0, 1), "moves up": (0, -1)}
SHAPES = ("bar", "cross", "ell", "triangle")  # each shows its angle


@dataclass(frozen=True)
class SyntheticSet:
    """What a synthetic folder holds; equal records make equal videos."""

    clips: int = 400
    validation_clips: int = 80
    test_clips: int = 80
    motions: tuple[str, ...] = MOTIONS
    num_frames: int = 32
    height: int = 96
    width: int = 128
    fps: int = 16
    distractors: int = 3
    still_camera: bool = False  # nothing but the shapes moves or changes: no pan, no flicker of the light
    centred: bool = False  # a large, bright shape on a dark background, upright near the centre in the middle frame
    seed: int = 0

    def __post_init__(self):
        unknown = [motion for motion in self.motions if motion not in MOTIONS]
        if unknown:
            raise ValueError(f"no motion {unknown[0]!r}; choose from {', '.join(MOTIONS)}")
        if len(set(self.motions)) < 2:
            raise ValueError(f"a set needs at least 2 different motions to tell apart, got {list(self.motions)}")
        for name, least in (("num_frames", 2), ("height", 16), ("width", 16), ("fps", 1), ("distractors", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.clips < len(self.motions):
            raise ValueError(f"{self.clips} clips leave some of the {len(self.motions)} classes empty; ask for more")

    @property
    def splits(self) -> dict[str, int]:
        sizes = {"train": self.clips, "validation": self.validation_clips, "test": self.test_clips}
        return {name: size for name, size in sizes.items() if size}


def make_synthetic_set(folder: str | Path, spec: SyntheticSet | None = None) -> Path:
    """Write videos/SPLIT/*.mp4 and SPLIT.csv (columns path, label), labels.txt and dataset.json; returns the folder.

    A folder that already holds the same set is left alone; one that holds anything else is refused.
    """
    folder, spec = Path(folder), spec or SyntheticSet()
    record = json.loads(json.dumps(asdict(spec)))
    if (folder / "dataset.json").exists():
        found = json.loads((folder / "dataset.json").read_text())
        if {
            **json.loads(json.dumps(asdict(SyntheticSet()))),
            **found,
        } == record:  # what it lacks is newer: as by default
            return folder
        raise FileExistsError(f"{folder} holds another synthetic set; choose another folder or remove it")
    bar = tqdm(total=sum(spec.splits.values()), desc="videos", disable=None)  # None: only in a terminal
    with new_folder(folder) as beside, bar:
        for number, (split, size) in enumerate(spec.splits.items()):
            table = io.StringIO()
            writer = csv.writer(table, lineterminator="\n")
            writer.writerow(["path", "label"])
            (beside / "videos" / split).mkdir(parents=True)
            for i in range(size):
                label = i % len(spec.motions)
                path = f"videos/{split}/{i:05d}.mp4"
                frames = render_clip(spec.motions[label], spec, seed=(spec.seed, number, i))
                # fast to write; a key frame a second lets readers seek
                options = {"preset": "ultrafast", "crf": "18", "g": str(spec.fps)}
                (beside / path).write_bytes(encode_video(frames, spec.fps, options=options))
                writer.writerow([path, spec.motions[label]])
                bar.update()
            write_atomic(beside / f"{split}.csv", table.getvalue())
        write_atomic(beside / "labels.txt", "".join(f"{motion}\n" for motion in spec.motions))
        write_json(beside / "dataset.json", record)
    return folder


def render_clip(motion: str, spec: SyntheticSet, seed: int | tuple[int, ...]) -> np.ndarray:
    """One clip of a motion: uint8 RGB (T, H, W, 3)."""
    rng = np.random.default_rng(seed)
    T, H, W = spec.num_frames, spec.height, spec.width
    unit = min(H, W)
    progress = np.arange(T) / (T - 1)
    flicker = 1 + 0.03 * np.sin(rng.uniform(0, 2 * np.pi) + rng.uniform(0.2, 0.6) * np.arange(T))
    if spec.still_camera:
        flicker = np.ones(T)
    base = rng.uniform(60, 100 if spec.centred else 180, 3)
    pixels = _background(rng, base, T, H, W, spec.still_camera, reach=1 if spec.centred else 3)
    pixels *= flicker[:, None, None, None].astype(np.float32)
    for _ in range(rng.integers(spec.distractors + 1)):
        drift = rng.uniform(-0.3, 0.3, 2) * unit
        x, y = rng.uniform(0, W) + drift[0] * progress, rng.uniform(0, H) + drift[1] * progress
        angle, size = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.08) * unit
        _paint(pixels, rng.choice(SHAPES), x, y, angle, size, flicker[:, None] * rng.uniform(60, 200, 3))
    # The actor. It starts anywhere, at any angle, and the plane's edges meet, so at any moment its place and angle are
    # distributed alike in all classes. A centred set moves it afterwards.
    x, y, angle = rng.uniform(0, W), rng.uniform(0, H), rng.uniform(0, 2 * np.pi)
    size, distance = rng.uniform(0.12, 0.25) * unit, rng.uniform(0.6, 1.0) * unit
    turn, orbit = rng.uniform(0.35, 0.6) * 2 * np.pi * progress, rng.uniform(0.8, 1.2) * 2 * np.pi * progress
    if spec.centred:
        size, distance = rng.uniform(0.26, 0.36) * unit, rng.uniform(0.5, 0.8) * unit
        turn, orbit = 0.55 * turn, 0.6 * orbit
    dx, dy = DIRECTIONS.get(motion, (0, 0))
    x, y = x + dx * distance * progress, y + dy * distance * progress
    sense = {"clockwise": 1, "counter-clockwise": -1}.get(motion.split()[-1], 0)
    if motion.startswith("turns"):
        angle = angle + sense * turn
    elif motion.startswith("circles"):
        start, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.25) * unit
        if spec.centred:
            start, radius = -np.pi / 2 - sense * orbit[T // 2], 1.4 * radius  # the top of the circle
        x, y = x + radius * np.cos(start + sense * orbit), y + radius * np.sin(start + sense * orbit)
    away = rng.uniform(70, 110, 3) * np.where(base > 120, -1, 1)  # a colour that stands out
    if spec.centred:  # in the middle frame all classes show the same pose: upright, near the centre
        away = rng.uniform(90, 140, 3)
        x, y = (path - path[T // 2] + rng.uniform(0.4, 0.6) * side for path, side in ((x, W), (y, H)))
        angle = np.broadcast_to(angle, T)
        angle = angle - angle[T // 2] + rng.uniform(-0.3, 0.3)
    _paint(pixels, rng.choice(SHAPES), x, y, angle, size, flicker[:, None] * (base + away))
    return pixels.astype(np.uint8)  # every term above is bounded so that nothing leaves 0 ... 255


def _background(
    rng: np.random.Generator, base: np.ndarray, T: int, H: int, W: int, still_camera: bool = False, reach: int = 3
) -> np.ndarray:
    """A soft random texture under a camera that pans slowly or stands still, as float32 (T, H, W, 3).

    Its waves have up to `reach` periods across the frame.
    """
    tint, pan = rng.uniform(-18, 18, 3), rng.uniform(-0.4, 0.4, 2) * (not still_camera)
    rows, columns, time = np.arange(H) / H, np.arange(W) / W, np.arange(T)[:, None] / T
    left, right = [], []
    for _ in range(3):
        fy, fx = rng.integers(-reach, reach + 1, 2)
        across = 2 * np.pi * fx * columns
        down = 2 * np.pi * (rng.uniform() + fy * rows + time * (pan[0] * fy + pan[1] * fx))
        # sin(across + down) by its parts, so that the sum of all waves is one small matrix product
        left += [np.cos(down), np.sin(down)]
        right += [rng.uniform(0.3, 1) * np.sin(across), rng.uniform(0.3, 1) * np.cos(across)]
    left = np.stack(left, -1).astype(np.float32)  # (T, H, 6)
    right = (np.stack(right)[..., None] * tint).astype(np.float32)  # (6, W, 3)
    return (left.reshape(T * H, -1) @ right.reshape(len(right), -1)).reshape(T, H, W, 3) + base.astype(np.float32)


def _paint(pixels: np.ndarray, kind: str, x, y, angle, size, colours: np.ndarray) -> None:
    """Draw one shape into every frame, with soft edges and wrapped round the borders.

    Centre, angle and size (half of the longest side) are numbers or one number a frame; `colours` is (T, 3).
    """
    T, H, W = pixels.shape[:3]
    x, y, angle, size = (np.broadcast_to(value, T).astype(np.float32)[:, None, None] for value in (x, y, angle, size))
    reach = np.arange(-int(1.3 * size.max()) - 1, int(1.3 * size.max()) + 2)
    rows, columns = np.floor(y).astype(int) + reach[:, None], np.floor(x).astype(int) + reach
    alpha = _inside(kind, columns - x, rows - y, angle, size)[..., None]
    where = np.arange(T)[:, None, None], rows % H, columns % W
    under = pixels[where]
    pixels[where] = under + alpha * (colours.astype(np.float32)[:, None, None] - under)


def _inside(kind: str, dx: np.ndarray, dy: np.ndarray, angle: np.ndarray, size: np.ndarray) -> np.ndarray:
    """How much each pixel lies inside a shape, 0 to 1, from its distances to the centre. A cross has one short arm."""
    cos, sin = np.cos(angle), np.sin(angle)
    u, v = ((cos * dx + sin * dy) / size).astype(np.float32), ((cos * dy - sin * dx) / size).astype(np.float32)

    def box(u0, v0, half_width, half_height):
        return np.maximum(np.abs(u - u0) - half_width, np.abs(v - v0) - half_height)

    if kind == "bar":
        outside = box(0, 0, 1, 0.4)
    elif kind == "cross":
        outside = np.minimum(box(0, 0, 1, 0.28), box(0.3, 0, 0.28, 0.8))
    elif kind == "ell":
        outside = np.minimum(box(0, 0.6, 1, 0.32), box(-0.65, 0, 0.32, 0.92))
    else:  # a triangle, where three half-planes meet
        outside = np.maximum(-u - 0.5, np.maximum(0.5 * u + 0.87 * v, 0.5 * u - 0.87 * v) - 0.5)
    return np.clip(0.5 - outside * size, 0, 1)
