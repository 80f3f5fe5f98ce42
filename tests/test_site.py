"""The documentation site: what its pages list, how links and docstrings are rewritten, and that it builds by itself."""

import importlib
import importlib.util
import inspect
import io
import re
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from documents import DOCUMENTS, ROOT, blocks, prose, text_of
from documents_world import model
from PIL import Image
from video_files import write_video

import videomae

API = sorted((ROOT / "docs/api").glob("*.md"))
ENTRIES = [
    name for page in API for name in re.findall(r"^::: (videomae[\w.]*)$", page.read_text("utf-8"), flags=re.MULTILINE)
]


def load(name):
    spec = importlib.util.spec_from_file_location(f"docs_{Path(name).name}", ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pages = load("pages")


def found(name):
    """The object of a dotted name: a module, or something inside of one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            thing = getattr(thing, part)
        return thing
    raise AssertionError(f"there is no {name}")


def public(module):
    """Names of the functions and classes that a module defines for others."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
    ]


# ------------------------------------------------------------------------------------------------------------ reference


def test_every_public_name_of_the_package_has_an_entry():
    assert {f"videomae.{name}" for name in videomae.__all__} - {"videomae.__version__"} <= set(ENTRIES)


def test_every_name_that_a_document_imports_has_an_entry():
    missing = set()
    for document in DOCUMENTS:
        for block in blocks(document):
            text = block.text if block.language == "python" else ""
            for module, names in re.findall(r"^from (videomae[\w.]*) import ([\w, ]+)$", text, flags=re.MULTILINE):
                full = {f"{module}.{name}" for name in names.split(", ")}
                missing |= set() if module in ENTRIES else full - set(ENTRIES)
    assert not missing


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_exists_and_has_a_docstring(name):
    """Of a module, so has each function and class; of a class at the root, so has each property and constructor."""
    thing = found(name)
    things = {name: thing}
    if inspect.ismodule(thing):
        things |= {f"{name}.{inner}": getattr(thing, inner) for inner in public(thing)}
    for called, one in list(things.items()):
        if inspect.isclass(one) and one.__module__.count(".") == 1:
            things |= {
                f"{called}.{inner}": value
                for inner, value in vars(one).items()
                if not inner.startswith("_") and isinstance(value, property | classmethod | staticmethod)
            }
    bare = [called for called, one in things.items() if not getattr(one, "__doc__", None)]
    assert not bare


def test_no_entry_is_listed_twice():
    assert len(ENTRIES) == len(set(ENTRIES))


# ------------------------------------------------------------------------------------------------------------ navigation


class Configuration(yaml.SafeLoader):
    """mkdocs.yml without the Python objects that it names."""


Configuration.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def navigation():
    def leaves(node):
        if isinstance(node, str):
            return [node]
        return [leaf for child in (node.values() if isinstance(node, dict) else node) for leaf in leaves(child)]

    return leaves(yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), Configuration)["nav"])


def test_the_navigation_lists_every_page_once():
    guides = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert sorted(navigation()) == sorted(guides | {f"api/{path.name}" for path in API} | set(pages.SOURCES))


def test_the_index_of_the_documents_lists_every_guide():
    links = set(re.findall(r"\]\(([\w./]+\.md)\)", prose("docs/README.md")))
    guides = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert guides <= links


# -------------------------------------------------------------------------------------------------------------- rewriting

TEXT = """See [data](data.md#lists), [the rules](../CONTRIBUTING.md), [`files.py`](../files.py), [x](https://example.org).

```python
[not a link](../files.py)
```

`[nor this](../files.py)` ![picture](pictures/a.svg)
"""


def test_links_between_pages_stay_and_links_to_other_files_go():
    changed = pages.for_site(TEXT, "migration.md", None)
    assert "[data](data.md#lists), [the rules](contributing.md), `files.py`, [x](https://example.org)" in changed
    assert "[not a link](../files.py)" in changed and "`[nor this](../files.py)`" in changed
    assert "![picture](pictures/a.svg)" in changed


def test_links_of_the_first_page_lead_into_the_site():
    changed = pages.for_site("[docs](docs/README.md) [data](docs/data.md#x) [law](LICENSE)", "index.md", None)
    assert changed == "[docs](contents.md) [data](data.md#x) law"


def test_links_to_files_use_the_address_of_the_project():
    changed = pages.for_site("[f](../../files.py#L3) [m](../data.md)", "api/masks.md", "https://example.org/o/r")
    assert changed == "[f](https://example.org/o/r/blob/main/files.py#L3) [m](../data.md)"


def test_the_description_of_an_index_has_absolute_links_or_none():
    text = "![p](docs/pictures/a.png) [data](docs/data.md#x) [here](#there)"
    assert pages.for_index(text, "README.md", None) == " data [here](#there)"
    assert pages.for_index(text, "README.md", "https://example.org/o/r") == (
        "![p](https://example.org/o/r/raw/main/docs/pictures/a.png) "
        "[data](https://example.org/o/r/blob/main/docs/data.md#x) [here](#there)"
    )


def test_the_address_of_the_project_comes_from_its_one_place(tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "x"\n[project.urls]\nRepository = "https://example.org/o/r/"'
    )
    assert pages.repository_address(tmp_path) == "https://example.org/o/r"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n[project.urls]\n')
    assert pages.repository_address(tmp_path) is None


def test_fields_of_a_docstring_become_a_list():
    pytest.importorskip("griffe", reason="the extra `docs` is not installed")
    text = "Clips.\n\nmode: what\n    is done\nas_bytes, x (`int`): more\n\nAn item is:\n    pixels  a\n    label  b"
    assert load("docstrings").as_markdown(text) == (
        "Clips.\n\n- `mode`: what\n    is done\n- `as_bytes`, `x` (`int`): more\n\nAn item is:\n\n    pixels  a\n    label  b"
    )


# --------------------------------------------------------------------------------------------------------------- drawings

drawings = load("pictures/make")


@pytest.mark.parametrize("name", drawings.PICTURES)
def test_a_drawing_of_the_guides_is_what_the_package_draws(name):
    drawn = drawings.PICTURES[name]()
    assert (ROOT / "docs/pictures" / name).read_text("utf-8") == drawn, "run python docs/pictures/make.py"
    assert any(f"(pictures/{name})" in text_of(document) for document in DOCUMENTS)


def test_the_first_picture_shows_what_is_seen_and_rebuilt_and_the_label(tmp_path):
    model(tmp_path / "pretrained", head="pretrain")
    model(tmp_path / "classifier")
    video = str(write_video(tmp_path / "drawn.mp4", num_frames=70, width=64, height=48))
    draw = partial(
        load("pictures/front").draw, str(tmp_path / "pretrained"), video, mask_ratio=0.75, columns=4, height=64
    )
    plain, labelled = (Image.open(io.BytesIO(draw(name))) for name in (None, str(tmp_path / "classifier")))
    assert plain.height > 3 * (64 + 2) and labelled.height > plain.height and labelled.width == plain.width > 4 * 64


# ------------------------------------------------------------------------------------------------------------------ build


class Loaded(HTMLParser):
    """Addresses that a browser fetches to show a page."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag in ("script", "img", "iframe", "video", "source") and given.get("src"):
            self.addresses.append(given["src"])
        if tag == "link" and given.get("rel") != "canonical":
            self.addresses.append(given.get("href", ""))


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    for needed in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(needed, reason="the extra `docs` is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = sorted(path.relative_to(tmp_path / "site") for path in tmp_path.rglob("*.html"))
    assert {Path(page).with_suffix(".html") for page in navigation()} - {Path("api/README.html")} <= set(built)
    for page in built:
        parser = Loaded()
        parser.feed((tmp_path / "site" / page).read_text("utf-8"))
        assert [address for address in parser.addresses if re.match(r"(\w+:)?//", address)] == [], page
    shown = "".join((tmp_path / "site" / page).read_text("utf-8") for page in built if page.parts[0] == "api")
    missing = [name for name in ENTRIES if f'id="{name}"' not in shown]
    assert not missing
    assert not list((tmp_path / "site").rglob("*.py"))
