"""Labels of a live source as lines of JSON, and on another stream how fast, how late and what was lost.

Reading the source is video_live.py's work, the windows and their scores are the pipeline's `live`.
"""

import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any, TextIO

from videomae.pipeline_videomae import VideoClassificationPipeline


@dataclass
class Tally:
    """What came since it was made."""

    started: float = field(default_factory=time.monotonic)
    windows: int = 0
    frames: int = 0  # of the source, up to the last window
    dropped_frames: int = 0
    dropped_windows: int = 0
    damaged: int = 0
    latency_sum: float = 0.0
    latency_most: float = 0.0

    def add(self, result: dict[str, Any], new_frames: int) -> None:
        self.windows += 1
        self.frames += new_frames
        for name in ("dropped_frames", "dropped_windows", "damaged"):
            setattr(self, name, getattr(self, name) + result[name])
        self.latency_sum += result["latency_seconds"]
        self.latency_most = max(self.latency_most, result["latency_seconds"])

    def sentence(self) -> str:
        seconds = max(time.monotonic() - self.started, 1e-9)
        if not self.windows:
            return f"no window in {seconds:.0f} s"
        return (
            f"{self.windows} windows in {seconds:.0f} s ({self.windows / seconds:.2f}/s) of {self.frames / seconds:.1f} "
            f"frames/s; latency {self.latency_sum / self.windows:.2f} s, at most {self.latency_most:.2f}; dropped "
            f"{self.dropped_frames} frames ({self.dropped_windows} windows); damaged {self.damaged}"
        )


def label_live(
    pipe: VideoClassificationPipeline,
    source: Any,
    *,
    results: TextIO,
    notes: TextIO,
    every_seconds: float = 10.0,
    **options: Any,
) -> None:
    """Write a line of JSON for each window to `results` until the source is over or nobody reads them.

    Ctrl-C and errors pass through, after the last sentence. `notes` gets a sentence every so many seconds, one when a connection is lost or back, and one at the end. `options` are
    those of `pipe.live`.
    """

    def note(sentence: str) -> None:
        print(sentence, file=notes, flush=True)

    total, recent, frames = Tally(), Tally(), 0
    try:
        with contextlib.closing(pipe.live(source, on_event=note, **options)) as answers:
            for result in answers:
                # One write: a line is whole or not there.
                results.write(json.dumps(result, ensure_ascii=False) + "\n")
                results.flush()
                for tally in (total, recent):
                    tally.add(result, result["last_frame"] + 1 - frames)
                frames = result["last_frame"] + 1
                if time.monotonic() - recent.started >= every_seconds:
                    note(recent.sentence())
                    recent = Tally()
    except BrokenPipeError:
        note("nobody reads the results any more")
        if results is sys.stdout:  # else Python tries once more to write what is left, at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), results.fileno())
    finally:
        if total.windows:
            note(f"in all {total.sentence()}")
