"""Build what goes to an index, and check it as an index would: `make dist`.

The index shows the README, whose relative links lead nowhere there: it is built from a copy of the checkout in which they
are absolute (pages.py).
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pages import ROOT, for_index, repository_address


def copy_checkout(folder: Path) -> None:
    """The files that git knows, as they are now, with the README for an index."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
    readme = folder / "README.md"
    readme.write_text(for_index(readme.read_text("utf-8"), "README.md", repository_address(folder)), "utf-8")


def main() -> None:
    output = ROOT / "dist"
    shutil.rmtree(output, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="videomae-dist-") as folder:
        copy_checkout(Path(folder))
        build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), folder]
        subprocess.run(build, check=True)
    files = sorted(map(str, output.iterdir()))
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], check=True)
    if repository_address() is None:
        print("pyproject.toml has no [project.urls] Repository: the index page will have no links to files")


if __name__ == "__main__":
    main()
