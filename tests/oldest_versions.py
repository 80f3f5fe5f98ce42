"""The oldest versions that pyproject.toml allows, one `name==version` a line, as constraints for pip.

`make test_versions` installs them. torch is left out: the suite runs with the version that constraints.txt pins.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
LEFT_OUT = ("torch", "videomae")


def oldest(project: Mapping[str, Any], extras: tuple[str, ...] = ("plots", "demo", "lora", "onnx")) -> list[str]:
    """The lower bounds of the dependencies and of the extras that the suite uses."""
    named = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    bounds = {}
    for requirement in map(Requirement, named):
        lower = [part.version for part in requirement.specifier if part.operator == ">="]
        if requirement.name not in LEFT_OUT and lower:
            bounds[requirement.name] = lower[0]
    return [f"{name}=={version}" for name, version in bounds.items()]


if __name__ == "__main__":
    print("\n".join(oldest(tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"])))
