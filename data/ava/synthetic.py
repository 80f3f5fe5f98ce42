"""A small action-detection set made from nothing, in AVA's formats: two figures per movie, each doing its own thing.

videomae make-ava FOLDER --movies 60

In every second each figure stands, walks, jumps or crouches, and may wave. The two choose independently, so what happens
in the frame does not tell who does it: only a model that uses the box can be right about both.
"""

# T frames  H W pixels

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from videomae.data.encoding import encode_video
from videomae.files import new_folder, write_atomic, write_json

ACTIONS = ("stand", "walk", "jump", "crouch", "wave")
LABEL_TYPES = (*["PERSON_MOVEMENT"] * 4, "PERSON_INTERACTION")
STAND, WALK, JUMP, CROUCH, WAVE = range(1, 6)


@dataclass(frozen=True)
class SyntheticAva:
    """What a synthetic folder holds; equal records make equal movies."""

    movies: int = 60
    validation_movies: int = 20
    seconds: int = 8  # key frames at 1, 2, ..., seconds - 1
    height: int = 64
    width: int = 96
    fps: int = 12
    seed: int = 0

    def __post_init__(self):
        for name, least in (("movies", 1), ("validation_movies", 0), ("seconds", 2), ("height", 32), ("width", 48)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")


@dataclass
class Actor:
    """One figure's path through a movie: its centre and the top of its head per frame, and what it does per second."""

    x: np.ndarray  # (T,)
    top: np.ndarray  # (T,)
    height: np.ndarray  # (T,)
    width: float
    colour: np.ndarray
    actions: list[tuple[int, ...]]  # per key frame
    waving: np.ndarray  # (T,) where the arms are: 0 down, else 1 or 2


def make_synthetic_ava(folder: str | Path, spec: SyntheticAva | None = None) -> Path:
    """Write movies/*.mp4, train.csv and val.csv (annotations), val_persons.csv (detected persons), actions.pbtxt.

    A folder that already holds the same set is left alone; one that holds anything else is refused.
    """
    folder, spec = Path(folder), spec or SyntheticAva()
    record = json.loads(json.dumps(asdict(spec)))
    if (folder / "dataset.json").exists():
        if json.loads((folder / "dataset.json").read_text()) == record:
            return folder
        raise FileExistsError(f"{folder} holds another synthetic set; choose another folder or remove it")
    with new_folder(folder) as beside:
        (beside / "movies").mkdir()
        tables = {"train.csv": io.StringIO(), "val.csv": io.StringIO(), "val_persons.csv": io.StringIO()}
        for number in range(spec.movies + spec.validation_movies):
            split = "train" if number < spec.movies else "val"
            name = f"{split}{number:04d}"
            frames, actors, rng = render_movie(spec, number)
            options = {"preset": "ultrafast", "crf": "18", "g": str(2 * spec.fps)}
            (beside / "movies" / f"{name}.mp4").write_bytes(encode_video(frames, spec.fps, options=options))
            for second in range(1, spec.seconds):
                for person, actor in enumerate(actors):
                    box = box_of(actor, second * spec.fps, spec)
                    for action in actor.actions[second]:
                        tables[f"{split}.csv"].write(_row(name, second, box, action, person))
                    if split == "val":
                        found = np.clip(np.array(box) + rng.normal(0, 0.01, 4), 0, 1)
                        tables["val_persons.csv"].write(_row(name, second, found, "", f"{rng.uniform(0.85, 1):.4f}"))
                if split == "val":  # a detector also sees persons where there are none
                    x, y = rng.uniform(0, 0.7), rng.uniform(0, 0.5)
                    tables["val_persons.csv"].write(
                        _row(name, second, (x, y, x + 0.2, y + 0.4), "", f"{rng.uniform(0.2, 0.9):.4f}")
                    )
        for name, table in tables.items():
            write_atomic(beside / name, table.getvalue())
        entries = zip(ACTIONS, LABEL_TYPES)
        write_atomic(
            beside / "actions.pbtxt",
            "".join(
                f'label {{\n  name: "{name}"\n  label_id: {number}\n  label_type: {kind}\n}}\n'
                for number, (name, kind) in enumerate(entries, 1)
            ),
        )
        write_json(beside / "dataset.json", record)
    return folder


def _row(name: str, second: int, box, action, last) -> str:
    return f"{name},{second:04d},{','.join(f'{value:.4f}' for value in box)},{action},{last}\n"


def render_movie(spec: SyntheticAva, number: int) -> tuple[np.ndarray, list[Actor], np.random.Generator]:
    """(uint8 RGB frames (T, H, W, 3), the two actors, the generator that the detections use next)."""
    rng = np.random.default_rng((spec.seed, number))
    T, H, W = spec.seconds * spec.fps, spec.height, spec.width
    base = rng.uniform(60, 190, 3)
    ramp = np.linspace(-1, 1, W)[None, :, None] * rng.uniform(-25, 25, 3) + np.linspace(-1, 1, H)[
        :, None, None
    ] * rng.uniform(-25, 25, 3)
    frames = np.clip(base + ramp, 0, 255)[None].repeat(T, 0).astype(np.float32)
    actors = [make_actor(rng, spec, left, base) for left in (True, False)]
    rows, columns = np.arange(H)[:, None], np.arange(W)[None]
    for actor in actors:
        for t in range(T):
            _paint(frames[t], actor, t, rows, columns)
    frames += rng.normal(0, 2, frames.shape).astype(np.float32)
    return np.clip(frames, 0, 255).astype(np.uint8), actors, rng


def make_actor(rng: np.random.Generator, spec: SyntheticAva, left: bool, base: np.ndarray) -> Actor:
    """A figure in one half of the frame. What it does changes half-way between key frames."""
    T, H, W = spec.seconds * spec.fps, spec.height, spec.width
    width, tall = W * rng.uniform(0.11, 0.15), H * rng.uniform(0.5, 0.65)
    low = (0 if left else W / 2) + 0.9 * width
    high = (W / 2 if left else W) - 0.9 * width
    step = rng.uniform(0.16, 0.2) * W / spec.fps  # a figure walks this far in a frame
    floor = H * rng.uniform(0.88, 0.98)
    x, now, heading = np.zeros(T), rng.uniform(low, high), rng.choice([-1, 1])
    top, height, waving = np.zeros(T), np.zeros(T), np.zeros(T, dtype=int)
    actions: list[tuple[int, ...]] = []
    for second in range(spec.seconds):
        start = max(int((second - 0.5) * spec.fps), 0)
        end = T if second == spec.seconds - 1 else int((second + 0.5) * spec.fps)
        pose, wave = int(rng.integers(1, 5)), rng.uniform() < 0.5
        for t in range(start, end):
            if pose == WALK:
                heading = -heading if not low <= now + heading * step <= high else heading
                now += heading * step
            x[t] = now
            height[t] = tall * (0.6 if pose == CROUCH else 1.0)
            lift = abs(np.sin(np.pi * 2 * (t - start) / spec.fps)) * 0.16 * H if pose == JUMP else 0.0
            top[t] = floor - height[t] - lift
            waving[t] = 1 + (4 * t // spec.fps) % 2 if wave else 0
        actions.append((pose, WAVE) if wave else (pose,))
    colour = np.clip(base + rng.uniform(70, 110, 3) * np.where(base > 125, -1, 1), 0, 255)
    return Actor(x, top, height, width, colour, actions, waving)


def box_of(actor: Actor, t: int, spec: SyntheticAva) -> tuple[float, float, float, float]:
    """The box around the figure in frame t, as shares of the frame; raised arms stay inside."""
    width, height = actor.width, actor.height[t]
    x1, x2 = actor.x[t] - 0.85 * width, actor.x[t] + 0.85 * width
    y1, y2 = actor.top[t] - 0.05 * height, actor.top[t] + height
    box = np.clip(np.array([x1 / spec.width, y1 / spec.height, x2 / spec.width, y2 / spec.height]), 0, 1)
    return tuple(box.tolist())


def _paint(frame: np.ndarray, actor: Actor, t: int, rows: np.ndarray, columns: np.ndarray) -> None:
    """A head, a body, two legs and two arms, with soft edges."""
    width, height = actor.width, actor.height[t]
    x, top = actor.x[t], actor.top[t]

    def ellipse(cx, cy, rx, ry):
        return (1 - np.hypot((columns - cx) / rx, (rows - cy) / ry)) * min(rx, ry)

    def box(cx, cy, rx, ry):
        return np.minimum(rx - np.abs(columns - cx), ry - np.abs(rows - cy))

    swing = 0.12 * width * np.sin(t / 1.3) if t and actor.x[t] != actor.x[t - 1] else 0.0
    parts = [
        ellipse(x, top + 0.13 * height, 0.3 * width, 0.13 * height),
        box(x, top + 0.45 * height, 0.3 * width, 0.22 * height),
        box(x - 0.15 * width - swing, top + 0.83 * height, 0.12 * width, 0.17 * height),
        box(x + 0.15 * width + swing, top + 0.83 * height, 0.12 * width, 0.17 * height),
    ]
    # Arms hang, or are held out and up by turns.
    out, up = {0: (0.45, 0.45), 1: (0.5, 0.1), 2: (0.68, 0.3)}[int(actor.waving[t])]
    parts += [box(x + side * out * width, top + up * height, 0.14 * width, 0.16 * height) for side in (-1, 1)]
    inside = np.clip(0.5 + np.maximum.reduce(parts), 0, 1)[..., None]
    frame += inside * (actor.colour - frame)
