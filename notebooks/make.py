"""Notebooks from the tutorials of docs/: `python notebooks/make.py` writes them.

Text becomes Markdown cells, Python blocks become code cells, and shell blocks become code cells of `!` lines. A test says when a
notebook is out of date, and the slow set runs each.
"""

import json
import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = {
    "label_a_video": "docs/tutorial_label.md",
    "finetune_on_your_videos": "docs/tutorial_finetune.md",
    "what_a_model_rebuilds": "docs/tutorial_rebuild.md",
}
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```\n", flags=re.DOTALL | re.MULTILINE)
FIRST = """Made from [{guide}](../{guide}) by `make notebooks`; edit that file. The package has to be installed: `pip install .` in a checkout.
"""


def cells(guide: str) -> list[tuple[str, str]]:
    """(kind, source) of each cell of a guide."""
    text = (ROOT / guide).read_text(encoding="utf-8")
    text = re.sub(r"This page is also a notebook:\s*\[[^\]]*\]\([^)]*\)\.\s?", "", text)
    parts = BLOCK.split(text)  # text, language, code, text, ...
    made = []
    for place in range(0, len(parts), 3):
        if words := parts[place].strip():
            made.append(("markdown", _from_notebooks(words, guide)))
        if place + 2 < len(parts):
            language, code = parts[place + 1 : place + 3]
            lines = code.strip().splitlines()
            made.append(("code", "\n".join(f"!{line}" if language == "bash" else line for line in lines)))
    title, words = made[0][1].split("\n", 1)
    made[0] = ("markdown", f"{title}\n\n{FIRST.format(guide=guide)}\n{words.strip()}")
    return made


def _from_notebooks(words: str, guide: str) -> str:
    """Relative links as they are from notebooks/."""

    def link(match: re.Match) -> str:
        if re.match(r"\w+:|#", match[1]):
            return match[0]
        return f"]({posixpath.relpath(posixpath.join(posixpath.dirname(guide), match[1]), 'notebooks')})"

    return re.sub(r"\]\(([^)\s]+)\)", link, words)


def notebook(guide: str) -> str:
    """The file of a notebook, without outputs: they would be of another machine."""
    made = []
    for number, (kind, source) in enumerate(cells(guide)):
        cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source.splitlines(keepends=True)}
        made.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {
        "cells": made,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    for name, guide in NOTEBOOKS.items():
        path = ROOT / "notebooks" / f"{name}.ipynb"
        path.write_text(notebook(guide), encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
