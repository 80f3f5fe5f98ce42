"""Scores over time, or losses over steps, as a piece of HTML: lines that fit any width, with words that keep their size on a phone."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

# Told apart on white and on black, and by most colour-blind eyes (after Okabe and Ito, 2008); then dashed.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c8c8c")
DASHES = ("none", "6 4", "2 3")
HEIGHT = 220  # pixels
SHARP = 'vector-effect="non-scaling-stroke"'
ABOVE = "position:absolute;line-height:16px;white-space:nowrap;opacity:0.75;"


def line_plot(rows: Sequence[Mapping[str, Any]], *, across: str = "seconds", from_zero: bool = True) -> str:
    """Rows of "seconds" (or what `across` names), "label" and "score" -> lines, one a label, in the order of the labels.

    The scores' axis begins at zero, or else near the lowest score.
    """
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        lines.setdefault(str(row["label"]), []).append((float(row[across]), float(row["score"])))
    if not lines:
        return ""
    times = [at for points in lines.values() for at, _ in points]
    scores = [score for points in lines.values() for _, score in points]
    lowest = min(0.0, *scores) if from_zero else min(scores)
    columns, levels = ticks(min(times), max(times), 5), ticks(lowest, max(scores), 4)
    left, right = min(times), max(max(times), min(times) + 1e-9)
    low, high = levels[0], levels[-1]

    unit = " s" if across == "seconds" else ""

    def place(at: float, score: float) -> tuple[float, float]:
        """Percent of the width from the left, and of the height from the top."""
        return 100 * (at - left) / (right - left), 100 * (high - score) / (high - low)

    levels_drawn = [(place(0, level)[1], f"{level:g}") for level in levels]
    down = [(place(at, 0)[0], f"{at:g}{unit}") for at in columns if left <= at <= right]
    drawn = [
        f'<line x1="0" x2="100" y1="{y:.2f}" y2="{y:.2f}" stroke="currentColor" opacity="0.15" {SHARP}/>'
        for y, _ in levels_drawn
    ]
    words = [
        f'<span style="{ABOVE}right:calc(100% + 6px);top:calc({y:.2f}% - 8px)">{text}</span>'
        for y, text in levels_drawn
    ]
    words += [
        f'<span style="{ABOVE}left:{x:.2f}%;top:calc(100% + 4px);transform:translateX(-50%)">{text}</span>'
        for x, text in down
    ]
    legend = []
    for number, (label, points) in enumerate(lines.items()):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        corners = " ".join(f"{x:.2f},{y:.2f}" for x, y in (place(*point) for point in points))
        stroke = f'stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dash}"'
        drawn.append(f'<polyline points="{corners}" fill="none" {stroke} {SHARP}/>')
        legend.append(
            f'<span style="white-space:nowrap"><svg width="22" height="10" style="display:inline-block"><line x1="0" x2="22" y1="5" y2="5" {stroke}/>'
            f"</svg> {html.escape(label)}</span>"
        )
    return (
        f'<figure class="line-plot" style="margin:0;font-size:13px"><div style="position:relative;height:{HEIGHT}px;'
        'margin:28px 20px 30px 46px">'
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" style="width:100%;height:100%;overflow:visible">'
        f"{''.join(drawn)}</svg>{''.join(words)}</div>"
        f'<figcaption style="display:flex;flex-wrap:wrap;gap:4px 16px">{"".join(legend)}</figcaption></figure>'
    )


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers with equal steps, of which the first is at most `low` and the last at least `high`."""
    span = high - low or abs(high) or 1.0
    size = 10.0 ** math.floor(math.log10(span / count))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor * count >= span * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]
