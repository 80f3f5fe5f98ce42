"""Lines of JSON of a live source, and the sentences beside them."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch
from live_streams import TcpStreams, pipe_of, stall
from support import TINY
from video_files import write_video

from videomae import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEVideoProcessor
from videomae.commands.main import main
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


# --------------------------------------------------------------------------------------------------- videomae label --live


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    pipe.model.save_pretrained(folder)
    pipe.video_processor.save_pretrained(folder)
    return str(folder)


def live_words(folder, source):
    return ["label", "--live", source, "--model", folder, "--device", "cpu", "--stride", "10", "--top_k", "1"]


def test_ctrl_c_ends_the_command_with_its_summary(folder, stream, capsys, monkeypatch):
    """The source has stalled by then: nothing waits for it."""
    answered, add = threading.Event(), Tally.add
    monkeypatch.setattr(Tally, "add", lambda self, *given: (add(self, *given), answered.set()))

    def interrupt(connection):
        connection.sendall(stream)
        if answered.wait(50):
            os.kill(os.getpid(), signal.SIGINT)
        stall(connection)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = main([*live_words(folder, TcpStreams(interrupt).url), "--stall_seconds", "50"])
    finally:
        signal.signal(signal.SIGINT, before)
    out, err = capsys.readouterr()
    assert code == 130
    assert all(json.loads(line)["connection"] == 1 for line in out.splitlines()) and out
    assert "in all " in err and err.rstrip().endswith("videomae label: stopped")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_standard_input_is_read_to_its_end(folder, stream):
    command = [sys.executable, "-m", "videomae.commands.main", *live_words(folder, "-")]
    done = subprocess.run(command, input=stream, capture_output=True, timeout=250)
    assert done.returncode == 0, done.stderr.decode()
    rows = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert rows and rows[-1]["first_frame"] == 50  # what came before may be dropped, the newest is not
    said = done.stderr.decode()
    assert "standard input: it has ended" in said and "in all " in said


def test_a_source_that_cannot_be_live_is_refused_before_the_model_is_loaded(folder, capsys, monkeypatch):
    monkeypatch.setattr("videomae.inference.labels.open_pipeline", None)
    for source, sentence in (
        ("https://host/a.mp4", "https://host/a.mp4 is read as a file: leave live out"),
        ("/dev/video99", "no camera at /dev/video99"),
        (__file__, "is a file, not a live source; leave live out"),
    ):
        assert main(live_words(folder, source)) == 1
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, sentence",
    [
        (("--stretches",), "--stretches is not for --live"),
        (("--output", "x"), "--output is not for --live"),
        (("--batch_size", "2"), "--batch_size is not for --live"),
        (("--stride", "0.5s"), "--stride of --live is a number of frames such as 32, not '0.5s'"),
        (("--stall_seconds", "0"), "--stall_seconds must be above 0"),
        (("--reconnect_seconds", "-1"), "--reconnect_seconds must be at least 0"),
    ],
)
def test_options_of_files_are_refused(folder, capsys, words, sentence):
    assert main(["label", "udp://@:1", "--live", "--model", folder, *words]) == 2
    assert sentence in capsys.readouterr().err


def test_options_of_live_sources_need_live(folder, stream, tmp_path, capsys):
    (tmp_path / "a.ts").write_bytes(stream)
    words = ["label", str(tmp_path / "a.ts"), "--model", folder]
    assert main([*words, "--reconnect_seconds", "5"]) == 2
    assert "--reconnect_seconds needs --live" in capsys.readouterr().err


def test_without_live_no_stream_is_opened(folder, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.2)
    with server:
        host = f"127.0.0.1:{server.getsockname()[1]}"
        for source in (f"tcp://{host}", f"rtsp://{host}/a", "udp://@:1", "/dev/video0", "-"):
            assert main(["label", source, "--model", folder]) == 2
            assert f"VIDEOS {source}: streams, cameras and standard input need --live" in capsys.readouterr().err
        with pytest.raises(TimeoutError):
            server.accept()
    assert list(tmp_path.iterdir()) == []
