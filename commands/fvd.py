"""Fréchet video distance between two sets of features: `videomae fvd A B`.

A and B are folders that `videomae features` wrote with the same model and options, or .npy or .safetensors files of
vectors.
"""

import json
from dataclasses import dataclass
from typing import Any

from videomae.command_line import argument, option, read_options


@dataclass(frozen=True, kw_only=True)
class Options:
    first: str = argument("features of the one set, such as generated videos", kind="path", metavar="A")
    second: str = argument("features of the other, such as real ones", kind="path", metavar="B")
    min_clips: int | None = option(None, "options", "accept so few vectors [one more than their width]")
    json: bool = option(False, "options", "print JSON")


def main(argv: list[str] | None = None) -> int:
    options = read_options(Options, argv, command="fvd", about=__doc__)
    from videomae.features.sets import check_comparable, read_set
    from videomae.metrics.frechet_distance import frechet_distance

    (first, made1), (second, made2) = read_set(options.first), read_set(options.second)
    check_comparable(made1, made2)
    try:
        result: dict[str, Any] = frechet_distance(first, second, min_vectors=options.min_clips)
    except ValueError as error:
        raise ValueError(str(error).replace("min_vectors", "--min_clips")) from None
    result |= {"vectors": [len(first), len(second)], "width": first.shape[1], "checked": bool(made1 and made2)}
    if options.json:
        print(json.dumps(result))
        return 0
    print(
        f"Fréchet distance {result['distance']:.4f} (means {result['mean']:.4f}, covariances {result['covariance']:.4f}) "
        f"between {len(first)} and {len(second)} vectors of {first.shape[1]}"
    )
    for path, made in ((options.first, made1), (options.second, made2)):
        if made is None:
            print(f"  {path} does not say what it was made with; it must be the same model and options")
        elif made["broken"]:
            print(f"  {path} lacks {made['broken']} videos that could not be read")
    return 0
