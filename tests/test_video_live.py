"""Live sources on loopback: real MPEG-TS over TCP, UDP and pipes; a source that stalls, dies and returns."""

import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch
from live_streams import TcpStreams, free_udp_port, pipe_of, send_paced, send_udp, stall
from support import TINY
from video_files import numbers_in, write_video

from videomae import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEVideoProcessor, video_live
from videomae.pipeline_videomae import VideoClassificationPipeline
from videomae.video_io import Limits, VideoReadError, iter_windows
from videomae.video_live import Backlog, LiveReader

pytestmark = pytest.mark.timeout(60)
CLIP = {"num_frames": 4, "stride_frames": 2, "hop_frames": 5}  # a window spans 7 frames


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    """120 numbered frames at 30 a second as MPEG-TS."""
    return write_video(tmp_path_factory.mktemp("live") / "stream.ts", 120)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """The first attempt to connect again comes at once."""
    monkeypatch.setattr(video_live, "FIRST_DELAY", 0.05)


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    config = VideoMAEConfig(**TINY, id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0, "b": 1, "c": 2})
    processor = VideoMAEVideoProcessor(size={"shortest_edge": 32}, crop_size=32)
    return VideoClassificationPipeline(model=VideoMAEForVideoClassification(config).eval(), video_processor=processor)


def first_frames(windows):
    return [window.first_frame for window in windows]


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# -------------------------------------------------------------------------------------------------------- what is read


def test_a_pipe_gives_the_windows_of_the_file(stream):
    with LiveReader(pipe_of(stream.read_bytes()), **CLIP, queue_windows=100) as reader:
        live = list(reader)
    expected = list(iter_windows(stream, **CLIP, partial="drop"))
    assert first_frames(live) == first_frames(expected) and len(live) == 23
    for ours, theirs in zip(live, expected):
        assert numbers_in(ours.frames) == numbers_in(theirs.frames)
        assert ours.last_frame == theirs.last_frame
        assert (ours.start_seconds, ours.end_seconds) == pytest.approx((theirs.start_seconds, theirs.end_seconds))
        assert (ours.connection, ours.dropped_frames, ours.dropped_windows, ours.damaged) == (1, 0, 0, 0)


def test_udp_is_read_while_it_is_sent(stream):
    port, stop = free_udp_port(), threading.Event()
    send_udp(port, stream.read_bytes(), 1.0, stop)
    try:
        with LiveReader(f"udp://127.0.0.1:{port}", **CLIP) as reader:
            windows = [window for window, _ in zip(reader, range(3))]
    finally:
        stop.set()
    for window in windows:
        numbers = numbers_in(window.frames)
        assert numbers == list(range(numbers[0], numbers[0] + 8, 2))


def test_windows_come_while_the_stream_is_sent(stream):
    server = TcpStreams(lambda connection: send_paced(connection.sendall, stream.read_bytes(), 4.0))
    start = time.monotonic()
    with LiveReader(server.url, **CLIP) as reader:
        window = next(iter(reader))
        assert numbers_in(window.frames)[-1] < 90 and time.monotonic() - start < 3.5


def test_a_size_that_changes_is_no_error(stream, tmp_path):
    larger = write_video(tmp_path / "larger.ts", 40, width=128, height=96).read_bytes()
    with LiveReader(pipe_of(stream.read_bytes() + larger), **CLIP, queue_windows=100) as reader:
        shapes = {frame.shape for window in reader for frame in window.frames}
    assert shapes == {(64, 96, 3), (96, 128, 3)}


def test_damage_is_counted_and_does_not_end_the_stream(stream):
    data = bytearray(stream.read_bytes())
    for place in range(len(data) // 3, len(data) // 2, 400):
        data[place] ^= 0xFF
    with LiveReader(pipe_of(bytes(data)), **CLIP, queue_windows=100) as reader:
        windows = list(reader)
    assert sum(window.damaged for window in windows) > 0
    assert numbers_in(windows[-1].frames)[-1] > 110


# ---------------------------------------------------------------------------------------------------------- being late


def test_the_newest_windows_are_kept_and_what_nobody_sees_is_counted(stream):
    with LiveReader(pipe_of(stream.read_bytes()), **CLIP, queue_windows=2) as reader:
        wait_for(lambda: reader._done)  # 23 windows have come, and nobody took one
        windows = list(reader)
    assert first_frames(windows) == [105, 110]
    assert (windows[0].dropped_windows, windows[0].dropped_frames) == (21, 105)  # frames 0 to 104
    assert (windows[1].dropped_windows, windows[1].dropped_frames) == (0, 0)


def test_frames_that_another_window_shows_are_not_dropped(stream):
    clip = {"num_frames": 4, "stride_frames": 2, "hop_frames": 3}
    data, seen = stream.read_bytes(), threading.Event()
    half = len(data) // 2

    def serve(connection):
        connection.sendall(data[:half])
        seen.wait(20)  # else the first window may be one of the last
        connection.sendall(data[half:])
        stall(connection)

    with LiveReader(TcpStreams(serve).url, **clip) as reader:
        first = next(iter(reader))
        seen.set()
        wait_for(lambda: reader._frames > first.last_frame + 20)
        second = next(iter(reader))
    assert second.dropped_windows == (second.first_frame - first.first_frame) // 3 - 1
    # a window spans 7 frames
    assert second.dropped_frames == second.first_frame - (first.last_frame + 1) > 0


def arrivals(decode_seconds, *, count=3000, rate=30.0, gop=30, sent=lambda i: i / 30.0, stamp=lambda i: i / 30.0):
    """What a Backlog leaves out of `count` packets, and how late the others are: the most, and the last one."""
    backlog, clock, left_out, late = Backlog(), 0.0, 0, [0.0]
    for i in range(count):
        waited = max(sent(i) - clock, 0.0)
        clock += waited
        if backlog.leaves_out(stamp(i), i % gop == 0, clock, waited):
            left_out += 1
            continue
        late.append(clock - sent(i))
        clock += decode_seconds
    return left_out, max(late), late[-1]


def test_a_decoder_that_keeps_up_leaves_nothing_out():
    assert arrivals(0.01)[0] == 0
    assert arrivals(0.03, sent=lambda i: 0.0)[0] == 0  # a pipe that gives everything at once
    assert arrivals(0.01, sent=lambda i: 0.0, stamp=lambda i: i % 1000 / 30)[0] == 0  # and whose clock is set anew


@pytest.mark.parametrize("decode_seconds, gop", [(0.05, 30), (0.1, 250)])
def test_a_decoder_that_is_too_slow_does_not_fall_behind_ever_further(decode_seconds, gop):
    without = 3000 * decode_seconds - 100
    left_out, most, last = arrivals(decode_seconds, gop=gop)
    assert left_out > 3000 * (1 - 1 / 30 / decode_seconds) * 0.8
    assert most < 8 < without and last < 8


def test_a_source_that_paused_loses_one_group_of_pictures_at_most():
    assert arrivals(0.01, sent=lambda i: i / 30 + (20 if i > 900 else 0))[0] < 30


def test_what_comes_too_late_out_of_the_decoder_is_left_out_and_counted(stream, monkeypatch):
    monkeypatch.setattr(video_live, "LATE_SECONDS", 0.2)

    def slow(picture):
        time.sleep(0.1)
        return picture

    server = TcpStreams(lambda connection: send_paced(connection.sendall, stream.read_bytes(), 4.0))
    reader, windows = LiveReader(server.url, **CLIP, transform=slow, queue_windows=100, reconnect_seconds=0), []
    with pytest.raises(VideoReadError, match="it has ended"):
        windows.extend(reader)
    dropped = sum(window.dropped_frames for window in windows)
    assert 0 < len(windows) < 23 and 0 < dropped + reader._dropped_frames < 120
    for window in windows:
        numbers = numbers_in(window.frames)
        assert numbers == list(range(numbers[0], numbers[0] + 8, 2))  # none spans what was left out


# ------------------------------------------------------------------------------------------- lost, and found once more


def test_a_source_that_stalls_and_dies_is_opened_again(stream):
    data, events = stream.read_bytes(), []
    server = TcpStreams(
        lambda connection: (connection.sendall(data), stall(connection)),
        lambda connection: connection.sendall(data[: len(data) // 2]),  # dies in the middle
        lambda connection: None,  # hangs up at once
        lambda connection: (connection.sendall(data), stall(connection)),
    )
    seen = []
    with LiveReader(server.url, **CLIP, queue_windows=100, stall_seconds=0.5, on_event=events.append) as reader:
        for window in reader:
            seen.append(window)
            if window.connection == 3 and numbers_in(window.frames)[0] >= 90:
                break
    assert {window.connection for window in seen} == {1, 2, 3}
    for window in seen:
        numbers = numbers_in(window.frames)
        assert numbers == list(range(numbers[0], numbers[0] + 8, 2))  # none spans two connections
    assert first_frames(seen) == sorted(first_frames(seen))
    starts = [window.start_seconds for window in seen]
    assert starts == sorted(starts)
    assert any("no data for 0.5 s; next attempt in 0.05 s" in event for event in events)
    assert any("it has ended; next attempt in 0.05 s" in event for event in events)
    assert [event for event in events if event.endswith(": back")] == [f"{server.url}: back"] * 2


def test_the_pauses_between_attempts_grow_and_end_at_reconnect_seconds(stream, monkeypatch):
    monkeypatch.setattr(video_live, "LAST_DELAY", 0.2)
    events = []
    server = TcpStreams(lambda connection: connection.sendall(stream.read_bytes()))
    sentence = "is lost: Connection refused; no picture for .* later than reconnect_seconds=2"
    with pytest.raises(VideoReadError, match=sentence):
        list(LiveReader(server.url, **CLIP, reconnect_seconds=2.0, on_event=events.append))
    delays = [float(event.rpartition(" in ")[2].removesuffix(" s")) for event in events]
    assert len(delays) >= 2 and delays == [0.05, 0.1, *[0.2] * 20][: len(delays)]


def test_with_reconnect_seconds_0_the_first_loss_is_the_end(stream):
    server = TcpStreams(lambda connection: connection.sendall(stream.read_bytes()))
    reader, windows = LiveReader(server.url, **CLIP, queue_windows=100, reconnect_seconds=0), []
    with pytest.raises(VideoReadError, match="is lost: it has ended"):
        windows.extend(window for window in reader)
    assert len(windows) == 23


def test_a_pipe_that_stalls_is_waited_for(stream):
    reading, writing = os.pipe()
    data, events = stream.read_bytes(), []

    def write():
        with os.fdopen(writing, "wb", buffering=0) as file:
            file.write(data[: len(data) // 2])
            wait_for(lambda: events)
            file.write(data[len(data) // 2 :])

    threading.Thread(target=write, daemon=True).start()
    source = os.fdopen(reading, "rb")
    with LiveReader(source, **CLIP, queue_windows=100, stall_seconds=0.3, on_event=events.append) as reader:
        assert len(list(reader)) == 23
    assert events == ["the pipe: no data for 0.3 s; waiting", "the pipe: it has ended"]


def test_closing_does_not_wait_for_a_source_that_stalls(stream):
    server = TcpStreams(lambda connection: (connection.sendall(stream.read_bytes()), stall(connection)))
    with LiveReader(server.url, **CLIP) as reader:
        next(iter(reader))
        wait_for(lambda: reader._frames > 100)
        start = time.monotonic()
    assert time.monotonic() - start < 1.5 and not reader._thread.is_alive()


def rtsp_server(*port):
    """The process of tests/rtsp_server.py and its port; skips the test where the system has no GStreamer."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None:
        pytest.skip("no python3 of the system")
    command = [python, str(Path(__file__).with_name("rtsp_server.py")), *port]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    port = server.stdout.readline().strip()
    if not port:
        server.wait(10)
        pytest.skip("GStreamer's RTSP server is not installed")
    return server, port


@pytest.mark.slow
def test_rtsp_is_read_lost_and_found_once_more():
    server, port = rtsp_server()
    events, connections = [], []
    try:
        url = f"rtsp://127.0.0.1:{port}/ball"
        with LiveReader(url, **CLIP, stall_seconds=5.0, on_event=events.append) as reader:
            for window in reader:
                assert window.frames[0].shape == (64, 96, 3) and window.frames[0].max() > 200  # the ball
                connections.append(window.connection)
                if connections == [1, 1]:
                    server.kill()
                    server.wait(10)
                    time.sleep(0.2)
                    server, _ = rtsp_server(port)
                if connections[-2:] == [2, 2]:
                    break
    finally:
        server.kill()
        server.wait(10)
    assert connections[0] == 1 and events[-1] == f"{url}: back"


# -------------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "source, sentence",
    [
        ("http://host/a.m3u8", "read as a file: leave live out, or let FFmpeg pipe it"),
        ("rtmp://host/live", "rtmp://host/live: a live source is rtsp://HOST/PATH, .* not rtmp://"),
        ("tcp://host", "tcp://host needs a port; the form is tcp://HOST:PORT"),
        ("udp://@", "udp:// needs a port; the form is udp://@:PORT"),
        ("tcp://host:99999", "port is not a number from 0 to 65535"),
        ("udp://@:1234?fifo_size=5", "nothing may follow the port"),
        ("rtsp:///path", "names no host"),
        ("udp://192.0.2.1:1234", "must be an address of this machine, a multicast group"),
    ],
)
def test_an_address_that_cannot_be_live_is_refused(source, sentence):
    with pytest.raises(VideoReadError, match=sentence):
        list(LiveReader(source, **CLIP))


def test_files_folders_and_missing_cameras_are_refused(stream, tmp_path):
    with pytest.raises(VideoReadError, match="is a file, not a live source"):
        LiveReader(stream, **CLIP)
    with pytest.raises(VideoReadError, match="is not a camera"):
        LiveReader(tmp_path, **CLIP)
    with pytest.raises(FileNotFoundError, match=r"no camera at /dev/video99: No such file .* a live source is rtsp://"):
        LiveReader("/dev/video99", **CLIP)
    with pytest.raises(VideoReadError, match="cannot be read: "):  # a device, but no camera
        list(LiveReader("/dev/null", **CLIP))
    with pytest.raises(TypeError, match="or an open pipe, not int"):
        LiveReader(3, **CLIP)


def test_a_camera_that_this_pyav_cannot_read_is_refused(monkeypatch):
    monkeypatch.setattr(video_live.av, "formats_available", {"mpegts"})
    with pytest.raises(VideoReadError, match="this PyAV reads no cameras"):
        list(LiveReader("/dev/null", **CLIP))


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"queue_windows": 0}, "queue_windows must be at least 1, not 0"),
        ({"hop_frames": 0}, "hop_frames must be at least 1, not 0"),
        ({"stall_seconds": 0.0}, "stall_seconds must be above 0, not 0.0"),
        ({"reconnect_seconds": -1.0}, "reconnect_seconds must be at least 0, or None"),
    ],
)
def test_options_have_bounds(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        LiveReader("udp://@:1", **{**CLIP, **options})


def test_the_first_connection_must_succeed_and_no_message_has_the_password():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for scheme in ("tcp", "rtsp"):
        with pytest.raises(VideoReadError) as caught:
            list(LiveReader(f"{scheme}://user:secret@127.0.0.1:{port}/", **CLIP))
        assert str(caught.value).startswith(f"{scheme}://127.0.0.1:{port}/ cannot be read: Connection refused")


def test_what_is_no_video_is_refused():
    with pytest.raises(VideoReadError, match="the pipe cannot be read: Invalid data"):
        list(LiveReader(pipe_of(b"no video at all " * 1000), **CLIP))
    with pytest.raises(VideoReadError, match="the pipe cannot be read: "):
        list(LiveReader(pipe_of(b""), **CLIP))


def test_a_play_list_in_a_stream_opens_nothing(tmp_path, stream):
    play_list = f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfile://{stream}\n#EXT-X-ENDLIST\n".encode()
    with pytest.raises(VideoReadError, match="Invalid data"):
        list(LiveReader(pipe_of(play_list), **CLIP))


def test_limits_hold(stream):
    with pytest.raises(VideoReadError, match="frames of 96x64, above max_pixels=100"):
        list(LiveReader(pipe_of(stream.read_bytes()), **CLIP, limits=Limits(max_pixels=100)))


def test_an_error_of_the_transform_reaches_the_caller(stream):
    def broken(picture):
        raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room"):
        list(LiveReader(pipe_of(stream.read_bytes()), **CLIP, transform=broken))


# ------------------------------------------------------------------------------------------------------- the pipeline's


def test_pipe_live_gives_the_answers_of_windows(pipe, stream):
    results = list(pipe.live(pipe_of(stream.read_bytes()), hop_frames=10, queue_windows=100, top_k=2, on_event=str))
    expected = list(pipe.windows(stream, hop_frames=10, top_k=2, partial="drop", progress=False))
    assert len(results) == len(expected) == 6
    for ours, theirs in zip(results, expected):
        assert [entry["label"] for entry in ours["scores"]] == [entry["label"] for entry in theirs["scores"]]
        for name in ("first_frame", "last_frame", "start_seconds", "end_seconds"):
            assert ours[name] == pytest.approx(theirs[name])
        for mine, their in zip(ours["scores"], theirs["scores"]):
            assert mine["score"] == pytest.approx(their["score"], abs=1e-5)
        assert 0 <= ours["latency_seconds"] < 30 and ours["time"].endswith("+00:00")
        assert (ours["connection"], ours["dropped_frames"], ours["dropped_windows"]) == (1, 0, 0)


def test_closing_the_iterator_of_pipe_live_ends_its_thread(pipe, stream):
    server = TcpStreams(lambda connection: (connection.sendall(stream.read_bytes()), stall(connection)))
    results = pipe.live(server.url)
    assert next(results)["last_frame"] >= 60
    results.close()
    assert not any(thread.name == "videomae-live" for thread in threading.enumerate())
