"""Stretches as subtitle files that players show over a video: SubRip (.srt) and WebVTT (.vtt)."""

import html
from collections.abc import Sequence

from videomae.inference.stretches import Cue


def srt_text(cues: Sequence[Cue]) -> str:
    """SubRip: numbered cues, times with a comma before the milliseconds."""
    blocks = [
        f"{number}\n{_time(cue.start_seconds, ',')} --> {_time(cue.end_seconds, ',')}\n{_lines(cue)}\n"
        for number, cue in enumerate(cues, 1)
    ]
    return "\n".join(blocks)


def vtt_text(cues: Sequence[Cue]) -> str:
    """WebVTT: a header, times with a point, and text in which & < > are escaped."""
    blocks = [
        f"{_time(cue.start_seconds, '.')} --> {_time(cue.end_seconds, '.')}\n{html.escape(_lines(cue), quote=False)}\n"
        for cue in cues
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def _lines(cue: Cue) -> str:
    """A line a label; a blank line inside would end the cue, and an arrow would pass for its times."""
    labels = [" ".join(stretch.label.replace("-->", "->").split()) or "?" for stretch in cue.stretches]
    return "\n".join(f"{label} {stretch.score:.2f}" for label, stretch in zip(labels, cue.stretches))


def _time(seconds: float, point: str) -> str:
    milliseconds = round(max(seconds, 0.0) * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"
