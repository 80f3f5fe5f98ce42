"""Stretches of one video against each other: which overlap under two labels, and what none of them covers."""

from collections.abc import Sequence

import numpy as np

MIN_GAP_SECONDS = 1.0  # between two stretches, to count as background


def first_conflict(
    videos: np.ndarray, starts: np.ndarray, ends: np.ndarray, labels: np.ndarray, *, overlaps: bool
) -> tuple[int, int] | None:
    """Two entries of one video under two labels: with the same times or, with `overlaps`, with a time in common.

    All are (N,) arrays; videos and labels are numbers. Stretches that only touch have no time in common.
    """
    order = np.lexsort((ends, starts, videos))
    video, reach = None, {}  # label -> the entry of it that ends last
    for entry in order.tolist():
        if videos[entry] != video:
            video, reach = videos[entry], {}
        for label, other in reach.items():
            same = (starts[other], ends[other]) == (starts[entry], ends[entry])
            if label != labels[entry] and (same or (overlaps and ends[other] > starts[entry])):
                return (other, entry) if other < entry else (entry, other)
        # A label whose stretches have all ended conflicts with nothing that comes later.
        reach = {label: other for label, other in reach.items() if ends[other] > starts[entry]}
        own = reach.get(labels[entry])
        if own is None or not overlaps or ends[own] < ends[entry]:
            reach[labels[entry]] = entry
    return None


def gaps(stretches: Sequence[tuple[float, float]], length: float | None) -> list[tuple[float, float]]:
    """What no stretch covers of a video of `length` seconds; behind the last one only where the length is known."""
    found, reached = [], 0.0
    for start, end in [*sorted(stretches), *([] if length is None else [(length, length)])]:
        if start - reached >= MIN_GAP_SECONDS:
            found.append((reached, start))
        reached = max(reached, end)
    return found
