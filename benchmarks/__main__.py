"""List the benchmarks, or run some: `python -m benchmarks [NAME ...]` from the root of the repository."""

import ast
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def benchmarks() -> dict[str, Path]:
    return {path.stem: path for path in sorted(FOLDER.glob("*.py")) if not path.stem.startswith("_")}


def main(names: list[str]) -> int:
    known = benchmarks()
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no benchmark {unknown[0]!r}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    if not names:
        for name, path in known.items():
            print(f"{name:<22}{ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]}")
        print(
            "\nEach times us and the named peers in one run: python -m benchmarks NAME, or python benchmarks/NAME.py --help"
        )
        return 0
    for name in names:
        print(f"== {name}", flush=True)
        subprocess.run([sys.executable, known[name]], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
