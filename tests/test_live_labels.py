"""Lines of JSON of a live source, and the sentences beside them."""

import io
import json
import time

import pytest
import torch
from live_streams import pipe_of
from support import TINY
from video_files import write_video

from videomae import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEVideoProcessor
from videomae.inference.live import Tally, label_live
from videomae.pipeline_videomae import VideoClassificationPipeline

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def pipe():
    config = VideoMAEConfig(**TINY, id2label={0: "kø", 1: "b"}, label2id={"kø": 0, "b": 1})
    processor = VideoMAEVideoProcessor(size={"shortest_edge": 32}, crop_size=32)
    torch.manual_seed(0)
    return VideoClassificationPipeline(model=VideoMAEForVideoClassification(config).eval(), video_processor=processor)


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("live") / "stream.ts", 120).read_bytes()


def test_each_window_is_a_line_of_json(pipe, stream):
    results, notes = io.StringIO(), io.StringIO()
    options = {"hop_frames": 10, "queue_windows": 100, "top_k": 1}
    label_live(pipe, pipe_of(stream), results=results, notes=notes, every_seconds=0, **options)
    rows = [json.loads(line) for line in results.getvalue().splitlines()]
    assert [row["first_frame"] for row in rows] == [0, 10, 20, 30, 40, 50]
    assert set(rows[0]) == {
        *("first_frame", "last_frame", "start_seconds", "end_seconds", "scores", "time", "latency_seconds"),
        *("connection", "dropped_frames", "dropped_windows", "damaged"),
    }
    assert rows[0]["scores"][0]["label"] in ("kø", "b") and "\\u" not in results.getvalue()
    said = notes.getvalue().splitlines()
    assert sum(line.startswith("1 windows in ") for line in said) == 6
    assert "the pipe: it has ended" in said
    assert said[-1].startswith("in all 6 windows in ") and said[-1].endswith("dropped 0 frames (0 windows); damaged 0")


def test_a_source_that_never_came_is_an_error_without_a_summary(pipe):
    notes = io.StringIO()
    with pytest.raises(ValueError, match="the pipe cannot be read"):
        label_live(pipe, pipe_of(b""), results=io.StringIO(), notes=notes)
    assert notes.getvalue() == ""


def test_a_reader_of_the_results_who_leaves_ends_it(pipe, stream):
    class Left(io.StringIO):
        def flush(self):
            raise BrokenPipeError

    notes = io.StringIO()
    label_live(pipe, pipe_of(stream), results=Left(), notes=notes)
    assert "nobody reads the results any more" in notes.getvalue()


def test_a_tally_adds_up():
    tally = Tally(started=time.monotonic() - 4.0)
    for latency, dropped in ((0.2, 0), (0.6, 30)):
        lost = {"dropped_frames": dropped, "dropped_windows": dropped // 15, "damaged": 1}
        tally.add({"latency_seconds": latency, **lost}, new_frames=50)
    assert tally.sentence() == (
        "2 windows in 4 s (0.50/s) of 25.0 frames/s; latency 0.40 s, at most 0.60; dropped 30 frames (2 windows); damaged 2"
    )
