"""Fréchet and kernel distance between two sets of features: `videomae fvd A B`.

A and B are folders that `videomae features` wrote with the same model and options, or .npy or .safetensors files of
vectors. The kernel distance comes with a bootstrap interval and is of use from about 100 videos on.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from videomae.choices import DISTANCES
from videomae.command_line import argument, option, read_options


@dataclass(frozen=True, kw_only=True)
class Options:
    first: str = argument("features of the one set, such as generated videos", kind="path", metavar="A")
    second: str = argument("features of the other, such as real ones", kind="path", metavar="B")
    distances: tuple[str, ...] = option(DISTANCES, "options", "which distances", choices=DISTANCES, metavar="DISTANCE")
    min_clips: int | None = option(
        None, "options", "accept so few vectors for the Fréchet distance [one more than their width]"
    )
    bootstraps: int = option(1000, "options", "samples for the interval of the kernel distance", least=2)
    seed: int = option(0, "options", "of these samples")
    json: bool = option(False, "options", "print JSON")


def main(argv: list[str] | None = None) -> int:
    options = read_options(Options, argv, command="fvd", about=__doc__)
    from videomae.features.sets import check_comparable, read_set
    from videomae.metrics.frechet_distance import frechet_distance
    from videomae.metrics.kernel_distance import kernel_distance

    (first, made1), (second, made2) = read_set(options.first), read_set(options.second)
    check_comparable(made1, made2)
    result: dict[str, Any] = {}
    if "frechet" in options.distances:
        try:
            result = frechet_distance(first, second, min_vectors=options.min_clips)
        except ValueError as error:
            more = ", or leave it out: --distances kernel needs fewer" if "are needed for" in str(error) else ""
            raise ValueError(str(error).replace("min_vectors", "--min_clips") + more) from None
    if "kernel" in options.distances:
        result["kernel"] = kernel_distance(first, second, bootstraps=options.bootstraps, seed=options.seed)
    result |= {"vectors": [len(first), len(second)], "width": first.shape[1], "checked": bool(made1 and made2)}
    if options.json:
        print(json.dumps(result))
        return 0
    print("\n".join(report_lines(result)))
    for path, made in ((options.first, made1), (options.second, made2)):
        if made is None:
            print(f"  {path} does not say what it was made with; it must be the same model and options")
        elif made["broken"]:
            print(f"  {path} lacks {made['broken']} videos that could not be read")
    return 0


def report_lines(result: dict[str, Any]) -> Iterator[str]:
    from videomae.metrics.kernel_distance import ADVISED_VECTORS

    sets = "between {} and {} vectors of {}".format(*result["vectors"], result["width"])
    if "distance" in result:
        parts = f"means {result['mean']:.4f}, covariances {result['covariance']:.4f}"
        yield f"Fréchet distance {result['distance']:.4f} ({parts}) {sets}"
    if kernel := result.get("kernel"):
        interval = f"95 % interval {kernel['low']:.4g} to {kernel['high']:.4g}"
        yield f"kernel distance {kernel['distance']:.4g} ({interval}; as JEDi has it {kernel['jedi']:.4g}) {sets}"
        if min(result["vectors"]) < ADVISED_VECTORS:
            yield f"  fewer than {ADVISED_VECTORS} vectors: expect a wide interval"
