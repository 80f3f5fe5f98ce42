"""The package as a whole: what importing costs, and that the wheel holds everything."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parent.parent
NOT_PACKAGED = {"tests", "benchmarks", "examples", "docs"}


def python(code, **environment):
    """Run a snippet in a fresh interpreter, somewhere else than in the checkout."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT.anchor, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def sources():
    """Every module of the package, as a path below the root."""
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return sorted(Path(file) for file in files if file.split("/")[0] not in NOT_PACKAGED and (ROOT / file).exists())


def test_importing_the_package_loads_neither_torch_nor_transformers():
    loaded = python(
        "import sys, videomae; videomae.__version__; dir(videomae);"
        "print([name for name in ('torch', 'transformers', 'numpy', 'av') if name in sys.modules])"
    )
    assert loaded.strip() == "[]"


def test_every_public_name_loads():
    python("import videomae; [getattr(videomae, name) for name in videomae.__all__]")


def test_an_unknown_name_is_an_attribute_error():
    import videomae

    with pytest.raises(AttributeError, match="module 'videomae' has no attribute 'VideoMAE'"):
        _ = videomae.VideoMAE


def test_the_version_is_the_installed_one():
    import videomae

    assert importlib.metadata.version("videomae") == videomae.__version__


def test_the_tested_pins_satisfy_the_lower_bounds():
    from packaging.requirements import Requirement

    lines = re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    pins = {name.lower(): version for name, version in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in map(Requirement, project["dependencies"]):
        assert pins[requirement.name.lower()] in requirement.specifier, requirement


def test_no_module_bears_the_name_of_a_package_we_use():
    used = {"torch", "transformers", "accelerate", "datasets", "evaluate", "av", "numpy", "PIL", "yaml", "safetensors"}
    assert not used & {path.stem for path in sources() if len(path.parts) == 1}


def test_the_built_wheel_holds_and_imports_every_module_and_data_file(tmp_path):
    copy = tmp_path / "source"
    shutil.copytree(
        ROOT,
        copy,
        ignore=shutil.ignore_patterns(".git", ".venv", "build", "*.egg-info", "tests", "runs", "__pycache__"),
    )
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "-w", tmp_path, copy],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("videomae-*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    for path in sources():
        assert (site / "videomae" / path).is_file(), f"{path} is not in the wheel: name its package in pyproject.toml"
    for pattern in ("model_cards/*.yaml", "model_cards/*.jinja"):
        for file in ROOT.glob(pattern):
            assert (site / "videomae" / file.relative_to(ROOT)).is_file(), f"{file.name} is not in the wheel"
    modules = [".".join(["videomae", *path.with_suffix("").parts]).removesuffix(".__init__") for path in sources()]
    printed = python(
        f"import importlib, videomae\nfor name in {modules!r}: importlib.import_module(name)\nprint(videomae.__file__)",
        PYTHONPATH=str(site),
    )
    assert printed.strip().endswith(str(site / "videomae" / "__init__.py"))


def test_building_asks_for_setuptools_alone():
    """Whatever else stood there would be installed anew, torch and all, for each build."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert [requirement.split(">")[0] for requirement in project["build-system"]["requires"]] == ["setuptools"]
