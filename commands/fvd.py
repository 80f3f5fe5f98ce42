"""Fréchet video distance between two sets of features: `videomae fvd A B`."""

import argparse
import json
from typing import Any

from videomae.features.sets import check_comparable, read_set
from videomae.metrics.frechet_distance import frechet_distance


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
