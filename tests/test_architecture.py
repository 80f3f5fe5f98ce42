"""The rooms of the package and which way imports may point; docs/architecture.md draws them."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the ground up. A module may import from its own row and from the rows before it.
TRAVELS = {
    "configuration_videomae", "masking_videomae", "inputs_videomae", "modeling_videomae", "modeling_videomae_detection",
    "roi_align_videomae", "token_reduction_videomae", "attentive_probe_videomae", "sampling_videomae", "video_source", "video_container", "video_download", "video_packets", "video_pictures", "video_decoder", "video_io", "video_windows", "video_live", "video_live_sources",
    "image_processing_videomae", "video_processing_videomae", "pipeline_videomae", "pipeline_videomae_detection",
}  # fmt: skip
FLOORS = (
    TRAVELS,
    {"choices", "command_line", "files", "auto_videomae"},
    {"models", "remote_code"},
    {"data"},
    {"metrics"},
    {"training", "pictures"},
    {"evaluation", "features"},
    {"inference", "model_cards"},
    {"conversion"},
    {"publishing"},
    {"train_pretrain", "train_classification", "train_detection", "convert_original_checkpoint"},
    {"app", "inspection"},
    {"commands"},
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
SCRIPTS = {"train_pretrain", "train_classification", "train_detection", "convert_original_checkpoint"}
MODEL_CLASSES = {
    "modeling_videomae",
    "modeling_videomae_detection",
    "token_reduction_videomae",
    "attentive_probe_videomae",
}
NOT_PACKAGED = ("tests/", "benchmarks/", "experiments/", "examples/", "docs/", "notebooks/", "src/")


def modules() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return [Path(name) for name in listed if not name.startswith(NOT_PACKAGED) and (ROOT / name).is_file()]


def room_of(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def imported(source: str, of_root: bool) -> set[str]:
    """The modules of ours that a source imports, by their dotted names below the package."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {
                alias.name.removeprefix("videomae.") for alias in node.names if alias.name.startswith("videomae.")
            }
        elif isinstance(node, ast.ImportFrom) and node.level == 1 and of_root:
            names |= {node.module} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "videomae":
            names |= {alias.name for alias in node.names if alias.name in FLOOR_OF}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("videomae."):
            module = node.module.removeprefix("videomae.")
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def broken_rules(sources: dict[Path, str]) -> list[str]:
    """A sentence for each import that points up, out of what travels, into `commands`, or from data to models."""
    broken = []
    for path, source in sources.items():
        room = room_of(path)
        if room == "__init__":
            continue
        for target in sorted({name.split(".")[0] for name in imported(source, of_root=len(path.parts) == 1)}):
            if target == room or target not in FLOOR_OF:
                continue
            if target == "commands":
                broken.append(f"{path} imports {target}: nobody imports commands")
            elif room in SCRIPTS and target in SCRIPTS:
                broken.append(f"{path} imports {target}: a script imports another")
            elif room in TRAVELS and target not in TRAVELS:
                broken.append(f"{path} imports {target}: what travels with a model imports only what travels")
            elif room == "data" and target in MODEL_CLASSES:
                broken.append(f"{path} imports {target}: data needs no model classes")
            elif FLOOR_OF[target] > FLOOR_OF[room]:
                broken.append(f"{path} imports {target}: {target} stands above {room}")
    return broken


def circle(sources: dict[Path, str]) -> list[str]:
    """Modules that import each other in a circle at the top of their files, or an empty list."""
    names = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in sources}
    edges = {}
    for name, path in names.items():
        body = "\n".join(
            ast.unparse(node) for node in ast.parse(sources[path]).body if isinstance(node, ast.Import | ast.ImportFrom)
        )
        edges[name] = {target for target in imported(body, of_root=len(path.parts) == 1) if target in names} - {name}
    done: set[str] = set()

    def walk(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        found = next(filter(None, (walk(target, [*trail, name]) for target in sorted(edges[name]))), [])
        done.add(name)
        return found

    return next(filter(None, (walk(name, []) for name in sorted(edges))), [])


@pytest.fixture(scope="module")
def sources() -> dict[Path, str]:
    return {path: (ROOT / path).read_text(encoding="utf-8") for path in modules()}


def test_every_room_has_its_floor(sources):
    assert {room_of(path) for path in sources} - {"__init__"} <= FLOOR_OF.keys()


def test_imports_point_downwards(sources):
    assert broken_rules(sources) == []


def test_no_modules_import_each_other_in_a_circle(sources):
    assert circle(sources) == []


@pytest.mark.parametrize(
    "path, line, rule",
    [
        ("training/loop.py", "from videomae.commands.probe import parser", "nobody imports commands"),
        ("data/samples.py", "from videomae.training import loop", "training stands above data"),
        ("data/samples.py", "from videomae.metrics.frechet_distance import frechet_distance", "metrics stands above data"),
        ("data/samples.py", "from videomae.modeling_videomae import VideoMAEModel", "data needs no model classes"),
        ("modeling_videomae.py", "from videomae.files import write_json", "imports only what travels"),
        ("train_detection.py", "from videomae.train_pretrain import train", "a script imports another"),
        ("metrics/a.py", "def f():\n    import videomae.features.extract", "features stands above metrics"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_named(path, line, rule):
    (sentence,) = broken_rules({Path(path): line})
    assert sentence.startswith(f"{path} imports ") and sentence.endswith(rule)


def test_a_circle_is_found():
    pair = {Path("data/a.py"): "from videomae.data.b import x", Path("data/b.py"): "from videomae.data import a"}
    assert circle(pair) == ["data.a", "data.b", "data.a"]


def test_the_drawing_shows_every_room():
    drawn = (ROOT / "docs/pictures/architecture.svg").read_text(encoding="utf-8")
    rooms = {room for rooms in FLOORS[1:] for room in rooms} - {"auto_videomae", "choices"}
    rooms |= {room.partition("_videomae")[0] for room in TRAVELS if room.endswith("_videomae")}
    assert [room for room in sorted(rooms) if room not in drawn] == []
