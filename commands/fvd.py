"""Fréchet video distance between two sets of features: `videomae fvd A B`.

A and B are folders that `videomae features` wrote with the same model and options (`--level video`, or `window`), or
.npy or .safetensors files of vectors. Exit codes: 0 the distance is printed; 1 the sets cannot be compared.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from videomae.commands.feature_files import read_array
from videomae.commands.features import differing
from videomae.metrics.frechet_distance import frechet_distance

# What must agree for two sets to be comparable; batches, files and their precision need not.
MUST_AGREE = ("weights_sha256", "pooling", "num_frames", "pixels", "clips", "level", "reference")


def read_set(path: str) -> tuple[np.ndarray, dict[str, Any] | None]:
    """The vectors (n, D) of a folder or a file, and, of a folder, what they were made with."""
    folder = Path(path)
    if not folder.is_dir():
        return read_array(folder), None
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        raise FileNotFoundError(f"{path} has no manifest.json; give a folder that `videomae features` wrote")
    described = json.loads(manifest.read_text("utf-8"))
    identity = described["identity"]
    if not described["complete"]:
        raise ValueError(f"{path} is not complete; run the same `videomae features` again to finish it")
    if identity["level"] == "token":
        raise ValueError(f"{path} holds tokens; make features with --level video or window to compare")
    if not described["videos"]:
        raise ValueError(f"{path} holds no features; none of its videos could be read")
    rows = [read_array(folder / video["file"]) for video in described["videos"]]
    return np.concatenate([np.atleast_2d(row) for row in rows]), {**identity, "broken": len(described["broken"])}


def check_comparable(first: dict[str, Any] | None, second: dict[str, Any] | None) -> None:
    if first is None or second is None:
        return
    kept = [{name: identity[name] for name in MUST_AGREE} for identity in (first, second)]
    if changes := differing(*kept):
        raise ValueError(
            f"the two sets were made in different ways ({'; '.join(changes).replace(', now ', ' against ')}); make both "
            "with one model and the same options"
        )


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(
        prog="videomae fvd", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parse.add_argument("first", help="features of the one set, such as generated videos")
    parse.add_argument("second", help="features of the other, such as real ones")
    parse.add_argument("--min_clips", type=int, help="accept so few vectors [one more than their width]")
    parse.add_argument("--json", action="store_true", help="print JSON")
    return parse


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    (first, made1), (second, made2) = read_set(arguments.first), read_set(arguments.second)
    check_comparable(made1, made2)
    try:
        result: dict[str, Any] = frechet_distance(first, second, min_vectors=arguments.min_clips)
    except ValueError as error:
        raise ValueError(str(error).replace("min_vectors", "--min_clips")) from None
    result |= {"vectors": [len(first), len(second)], "width": first.shape[1], "checked": bool(made1 and made2)}
    if arguments.json:
        print(json.dumps(result))
        return 0
    print(
        f"Fréchet distance {result['distance']:.4f} (means {result['mean']:.4f}, covariances {result['covariance']:.4f}) "
        f"between {len(first)} and {len(second)} vectors of {first.shape[1]}"
    )
    for path, made in ((arguments.first, made1), (arguments.second, made2)):
        if made is None:
            print(f"  {path} does not say what it was made with; it must be the same model and options")
        elif made["broken"]:
            print(f"  {path} lacks {made['broken']} videos that could not be read")
    return 0


if __name__ == "__main__":
    from videomae.commands.main import main as command

    sys.exit(command(["fvd", *sys.argv[1:]]))
