"""The documents outside the repository: on the site (the hooks of mkdocs.yml) and on an index page (distribution.py).

Documents are written for the repository, where `../CONTRIBUTING.md` is a file. On the site some of these files are pages
(PAGES). A link to any other file goes to the address that pyproject.toml gives as `[project.urls] Repository`; while there is
none, its text stays and the link goes.
"""

import posixpath
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Files of the repository that are pages of the site, by their names there; the others lie in docs/ and keep their names.
PAGES = {
    "README.md": "index.md",
    "docs/README.md": "contents.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
SOURCES = {page: source for source, page in PAGES.items()}
LINK = re.compile(r"(!?)\[((?:[^\[\]`]|`[^`]*`|\[[^\]]*\])*)\]\(([^)\s]+)\)")
CODE = re.compile(r"^[ \t]*```.*?^[ \t]*```|(?<![`\[])`[^`\n]+`(?!\])", re.DOTALL | re.MULTILINE)


def repository_address(root: Path = ROOT) -> str | None:
    """The address of the repository, where the owner has filled it in."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    address = project.get("urls", {}).get("Repository")
    return address.rstrip("/") if address else None


# ------------------------------------------------------------------------------------------------------------ the site


def on_config(config):
    config.repo_url = repository_address()
    return config


def on_files(files, config):
    """The index of docs/ gives its place to the README of the repository and becomes a page of its own."""
    from mkdocs.structure.files import File

    files.remove(files.get_file_from_path("README.md"))
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown, page, config, files):
    return for_site(markdown, page.file.src_uri, repository_address())


def for_site(markdown: str, page: str, address: str | None) -> str:
    """A document with links between pages as the site has them."""

    def target(place: str, anchor: str) -> str | None:
        there = PAGES.get(place) or (place.removeprefix("docs/") if place.startswith("docs/") else None)
        if there:
            return posixpath.relpath(there, posixpath.dirname(page) or ".") + anchor
        return f"{address}/blob/main/{place}{anchor}" if address else None

    return with_links(markdown, SOURCES.get(page, f"docs/{page}"), target)


# -------------------------------------------------------------------------------------------------------- an index page


def for_index(markdown: str, source: str, address: str | None) -> str:
    """A document with absolute links; without an address links to files go, and so do pictures."""
    return with_links(
        markdown, source, lambda place, anchor: f"{address}/blob/main/{place}{anchor}" if address else None
    )


# ------------------------------------------------------------------------------------------------------------- rewriting


def with_links(markdown: str, source: str, target: Callable[[str, str], str | None]) -> str:
    """`target(file of the repository, "#anchor" or "")` gives each relative link its new end; None leaves the text alone."""

    def link(match: re.Match) -> str:
        mark, text, end = match.groups()
        if re.match(r"\w+:|#", end):
            return match[0]
        path, hash_, anchor = end.partition("#")
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        new = target(place, hash_ + anchor)
        if new is None:
            return "" if mark else text
        return f"{mark}[{text}]({new.replace('/blob/', '/raw/') if mark else new})"

    return outside_code(lambda text: LINK.sub(link, text), markdown)


def outside_code(change: Callable[[str], str], markdown: str) -> str:
    """`change` on everything but blocks and spans of code; a span that is the text of a link stays with its link."""
    kept: list[str] = []

    def keep(match: re.Match) -> str:
        kept.append(match[0])
        return f"\0{len(kept) - 1}\0"

    return re.sub(r"\0(\d+)\0", lambda match: kept[int(match[1])], change(CODE.sub(keep, markdown)))
