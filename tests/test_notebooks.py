"""The notebooks are their guides, and run from the first cell to the last."""

import importlib.util
import json
import os
import shlex
import subprocess
import sys

import pytest
from documents import ROOT, resolve, shell_commands
from documents_world import lay_out

SPEC = importlib.util.spec_from_file_location("notebooks_make", ROOT / "notebooks/make.py")
make = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make)


@pytest.mark.parametrize("name", make.NOTEBOOKS)
def test_a_notebook_is_what_its_guide_makes(name):
    written = (ROOT / "notebooks" / f"{name}.ipynb").read_text("utf-8")
    assert written == make.notebook(make.NOTEBOOKS[name]), "run make notebooks"
    assert f"(../notebooks/{name}.ipynb)" in (ROOT / make.NOTEBOOKS[name]).read_text("utf-8")


def test_there_is_no_other_notebook():
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == set(make.NOTEBOOKS)


def test_cells_follow_the_guide(tmp_path, monkeypatch):
    text = "# T\n\nSee [x](data.md#a) and [y](https://example.org).\n\n```bash\nvideomae a\nvideomae b\n```\n\n```python\nf(1)\n```\n"
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/guide.md").write_text(text)
    monkeypatch.setattr(make, "ROOT", tmp_path)
    first, *others = make.cells("docs/guide.md")
    assert first[1].startswith("# T\n\nMade from [docs/guide.md](../docs/guide.md)")
    assert first[1].endswith("See [x](../docs/data.md#a) and [y](https://example.org).")
    assert others == [("code", "!videomae a\n!videomae b"), ("code", "f(1)")]
    content = json.loads(make.notebook("docs/guide.md"))
    assert content["nbformat"] == 4 and [cell["cell_type"] for cell in content["cells"]] == ["markdown", "code", "code"]
    assert content["cells"][1]["source"] == ["!videomae a\n", "!videomae b"]


def as_script(path):
    """The code of a notebook as one program; `!` lines become processes, as they are in Jupyter."""
    lines = ["import subprocess"]
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            for line in "".join(cell["source"]).splitlines():
                if line.startswith("!"):
                    (words,) = shell_commands(line[1:])
                    assert resolve(words), words
                    command = [sys.executable, "-m", "videomae.commands.main", *words[1:]]
                    lines.append(f"subprocess.run({command!r}, check=True)")
                else:
                    lines.append(line)
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("name", make.NOTEBOOKS)
def test_a_notebook_runs(name, tmp_path):
    """In a process of its own. The released weights that it names are tiny stand-ins of random numbers."""
    lay_out(tmp_path, make.NOTEBOOKS[name], commands=True)
    (tmp_path / "cells.py").write_text(as_script(ROOT / "notebooks" / f"{name}.ipynb"))
    done = subprocess.run(
        [sys.executable, "cells.py"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT / "src"))},
    )  # fmt: skip
    assert done.returncode == 0, f"{shlex.quote(name)}\n{done.stdout}\n{done.stderr}"
