"""The package as a whole: what importing costs, and that the wheel holds everything."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from oldest_versions import oldest

ROOT = Path(__file__).parent.parent
NOT_PACKAGED = {"tests", "benchmarks", "experiments", "examples", "docs", "notebooks"}
DATA_FILES = ("py.typed", "model_cards/*.yaml", "model_cards/*.jinja", "metrics/*/README.md")


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


def with_versions(folder, **versions):
    """What `import videomae` says beside installed packages of these versions."""
    for name, version in versions.items():
        about = folder / f"{name}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", "from videomae.files import today"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    ).stderr


def test_versions_that_do_not_go_with_the_package_are_named_in_one_line(tmp_path):
    last = with_versions(tmp_path, transformers="4.57.6", av="19.0.0").splitlines()[-1]
    assert last == (
        "ImportError: videomae: transformers 4.57.6 is installed and transformers>=5.23,<6 is needed; "
        "av 19.0.0 is installed and av>=18.0,<19 is needed: pip install -U 'transformers>=5.23,<6' 'av>=18.0,<19'"
    )


@pytest.mark.parametrize("version", ["5.23.0", "5.24.0.dev0", "5.30.1+local"])
def test_versions_in_between_are_taken(version, tmp_path):
    assert with_versions(tmp_path, transformers=version, torch="2.13.0+cpu", av="18.2rc1") == ""


def test_the_versions_that_are_checked_are_those_of_the_package():
    from packaging.requirements import Requirement

    import videomae

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = {named.name: named.specifier for named in map(Requirement, project["dependencies"])}
    for name, (least, below) in videomae._NEEDED.items():
        texts = [f">={'.'.join(map(str, least))}", *([f"<{'.'.join(map(str, below))}"] if below else [])]
        assert set(texts) == {str(part) for part in bounds[name]}, name


def test_types_are_checked_without_switching_rules_off_and_ignored_in_few_places_with_a_reason():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pyright"]
    assert settings["typeCheckingMode"] == "basic"
    assert not [name for name in settings if name.startswith(("report", "strict"))]
    rooms = {str(path).split("/")[0] for path in sources() if "/" in str(path)} - NOT_PACKAGED
    assert rooms <= set(settings["include"])
    lines = [line for path in sources() for line in (ROOT / path).read_text("utf-8").splitlines()]
    ignored = [line for line in lines if re.search(r"#\s*(type|pyright):", line)]
    assert len(ignored) < 25
    assert all(re.search(r"# pyright: ignore\[report\w+\]  # \S.*", line) for line in ignored)


def test_the_oldest_versions_are_the_lower_bounds_of_the_package_without_torch():
    project = {
        "dependencies": ["torch>=2.10", "av>=18.0,<19", "numpy>=2.0"],
        "optional-dependencies": {"demo": ["gradio>=6.29.1"], "lora": ["peft"]},
    }
    assert oldest(project, ("demo", "lora")) == ["av==18.0", "numpy==2.0", "gradio==6.29.1"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"transformers==5.23", "accelerate==1.15", "datasets==5.2"} < set(oldest(project))


def test_no_module_bears_the_name_of_a_package_we_use():
    used = {"torch", "transformers", "accelerate", "datasets", "evaluate", "av", "numpy", "PIL", "yaml", "safetensors"}
    assert not used & {path.stem for path in sources() if len(path.parts) == 1}


def build(source, kind, output):
    """Build the checkout's tracked files as a "wheel" or "sdist" with the setuptools that are here; returns the file."""
    code = f"import setuptools.build_meta as backend; print(backend.build_{kind}({str(output)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(wheel, sdist, files of the wheel that was made from the unpacked sdist); building twice in one tree."""
    work = tmp_path_factory.mktemp("built")
    copy = work / "source"
    ignored = shutil.ignore_patterns(
        ".git", ".venv*", "build", "dist", "*.egg-info", "__pycache__", "runs", "demo_output"
    )
    shutil.copytree(ROOT, copy, symlinks=True, ignore=ignored)
    sdist = build(copy, "sdist", work)
    wheel = build(copy, "wheel", work)
    with tarfile.open(sdist) as archive:
        archive.extractall(work / "unpacked", filter="data")
    (unpacked,) = (work / "unpacked").iterdir()
    (work / "again").mkdir()
    again = zipfile.ZipFile(build(unpacked, "wheel", work / "again")).namelist()
    return wheel, sdist, again


def packaged(names):
    """The files of the package among the names in an archive, as paths below the root of the checkout."""
    return {name.split("videomae/", 1)[1] for name in names if name.startswith("videomae/")}


def test_the_wheel_holds_every_module_and_data_file_and_nothing_else(built):
    wheel, _, again = built
    names = zipfile.ZipFile(wheel).namelist()
    data = {str(file.relative_to(ROOT)) for pattern in DATA_FILES for file in ROOT.glob(pattern)}
    assert packaged(names) == set(map(str, sources())) | data
    assert set(again) == set(names), "a wheel that is built from the source distribution differs"


def test_the_source_distribution_holds_each_file_of_the_package_once(built):
    _, sdist, _ = built
    with tarfile.open(sdist) as archive:
        names = [name.split("/", 1)[1] for name in archive.getnames() if "/" in name]
    modules = sorted(name.removeprefix("src/videomae/") for name in names if name.endswith(".py"))
    assert [name for name in modules if not name.startswith("tests/")] == sorted(map(str, sources()))


def test_the_installed_wheel_imports_every_module(built, tmp_path):
    zipfile.ZipFile(built[0]).extractall(tmp_path)
    modules = [".".join(["videomae", *path.with_suffix("").parts]).removesuffix(".__init__") for path in sources()]
    printed = python(
        f"import importlib, videomae\nfor name in {modules!r}: importlib.import_module(name)\nprint(videomae.__file__)",
        PYTHONPATH=str(tmp_path),
    )
    assert printed.strip().endswith(str(tmp_path / "videomae" / "__init__.py"))


def test_the_measures_of_the_installed_wheel_load_by_their_path(built, tmp_path):
    zipfile.ZipFile(built[0]).extractall(tmp_path)
    printed = python(
        "import evaluate\nfrom videomae import metrics\n"
        "accuracy, ava = (evaluate.load(metrics.path(name), keep_in_memory=True) for name in metrics.MODULES)\n"
        "print(metrics.__file__, accuracy.compute(predictions=[[0.6, 0.4], [0.7, 0.3]], references=[0, 1])['video_top1'])\n"
        "box = {'boxes': [[0, 0, 9, 9]], 'labels': [12]}\n"
        "print(ava.compute(predictions=[{**box, 'scores': [0.9]}], references=[box])['mAP'])",
        PYTHONPATH=str(tmp_path),
        HF_HOME=str(tmp_path / "cache"),
    )
    assert printed.split() == [str(tmp_path / "videomae" / "metrics" / "__init__.py"), "0.5", "1.0"]


def test_building_asks_for_setuptools_alone():
    """Whatever else stood there would be installed again, torch and all, for each build."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert [requirement.split(">")[0] for requirement in project["build-system"]["requires"]] == ["setuptools"]


def test_an_index_takes_the_distribution(built):
    pytest.importorskip("twine", reason="twine is not installed")
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built[:2])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_citation_has_the_version_of_the_package():
    import videomae

    assert f"\nversion: {videomae.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_workflow_runs_what_ci_runs_on_every_python_that_the_project_claims():
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    claimed = [name.split(" :: ")[-1] for name in classifiers if re.search(r"Python :: 3\.\d+$", name)]
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["run"]
    assert job["strategy"]["matrix"]["python"] == claimed
    assert job["steps"][-1] == {"run": ".ci/run"} and os.access(ROOT / ".ci/run", os.X_OK)
