import gc
import http.server
import io
import os
import random
import threading
import time

import av
import numpy as np
import pytest
import torch
from video_files import (
    VIDEO_KINDS,
    make_kind,
    mp4_rotation_matrix,
    number_in,
    numbered_frame,
    numbers_in,
    write_audio,
    write_video,
)

from videomae import video_io
from videomae.video_io import Limits, VideoReader, VideoReadError, iter_windows, probe, read_frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def clip(folder):
    return write_video(folder / "clip.mp4", 60, options={"bf": "2"})


def sequential(path):
    """Every frame of a decode from the start, turned upright: what any read must agree with."""
    with av.open(str(path)) as container:
        return [np.rot90(f.to_ndarray(format="rgb24"), f.rotation // 90) for f in container.decode(video=0)]


# Exactness


@pytest.mark.parametrize("kind", VIDEO_KINDS)
def test_frames_by_index_are_those_of_a_sequential_decode(kind, folder):
    path = make_kind(kind, folder)
    expected = sequential(path)
    n = len(expected)
    assert numbers_in(expected) == list(range(VIDEO_KINDS[kind][1].get("num_frames", 48)))
    draw = random.Random(kind)
    index_sets = [[0], [n - 1], list(range(n)), list(range(n))[::-1], list(range(0, n, 7))]
    index_sets += [[draw.randrange(n) for _ in range(draw.randint(1, 6))] for _ in range(12)]
    with VideoReader(path) as reader:
        assert reader.info.num_frames == n
        for indices in index_sets:
            frames = reader.read(indices).numpy()
            assert all(np.array_equal(frame, expected[index]) for frame, index in zip(frames, indices)), indices


def test_a_read_touches_only_the_groups_of_pictures_that_it_needs(folder, monkeypatch):
    path = write_video(folder / "groups.mp4", 100, gop=10, options={"sc_threshold": "0", "bf": "2"})
    fed = []
    monkeypatch.setattr(video_io.Deadline, "check", lambda self: fed.append(1))
    with VideoReader(path) as reader:
        assert reader.info.key_frames == 10
        fed.clear()
        assert numbers_in(reader.read([95, 2]).numpy()) == [95, 2]
    assert len(fed) <= 16


def test_an_mp4_is_known_and_read_without_going_through_the_file(clip, monkeypatch):
    monkeypatch.setattr(VideoReader, "_read_packets", lambda self: pytest.fail("went through all packets"))
    with VideoReader(clip) as reader:
        assert reader.num_frames == 60
        assert numbers_in(reader.read([59, 0, 31]).numpy()) == [59, 0, 31]
        assert reader.info.duration_seconds == pytest.approx(2.0)


@pytest.mark.parametrize("kind", ["h264_b_frames", "h264_long_gop", "h264_open_gop"])
def test_a_table_that_marks_every_frame_as_a_key_frame_does_no_harm(kind, folder, tmp_path):
    path = make_kind(kind, folder)
    liar = tmp_path / path.name
    assert path.read_bytes().count(b"stss") == 1
    liar.write_bytes(path.read_bytes().replace(b"stss", b"free"))  # without that list every sample counts as one
    expected = sequential(path)
    frames = read_frames(liar, [3, 22, 47, 40]).numpy()
    assert all(np.array_equal(frame, expected[index]) for frame, index in zip(frames, [3, 22, 47, 40]))


def test_a_table_that_hides_reordering_is_found_out(folder, tmp_path):
    """One sync sample that is none, in the midst of pictures that are shown in another order."""
    path = make_kind("h264_b_frames", folder)
    content = bytearray(path.read_bytes())
    at = content.index(b"stss") + 4
    count = int.from_bytes(content[at + 4 : at + 8], "big")
    expected = sequential(path)
    for wrong in range(2, 12):
        content[at + 12 : at + 16] = wrong.to_bytes(4, "big")  # in place of the second key frame
        assert count > 1
        liar = tmp_path / f"{wrong}.mp4"
        liar.write_bytes(content)
        frames = read_frames(liar, range(0, 16)).numpy()
        assert all(np.array_equal(frame, picture) for frame, picture in zip(frames, expected))


def test_a_long_group_of_pictures_is_decoded_once_however_many_frames_are_wanted(folder, monkeypatch):
    path = write_video(folder / "one_group.mp4", 100, gop=1000, options={"sc_threshold": "0"})
    fed = []
    with VideoReader(path) as reader:
        monkeypatch.setattr(video_io.Deadline, "check", lambda self: fed.append(1))
        reader.read(range(0, 100, 5))
    assert len(fed) <= 100


def test_more_decoder_threads_give_the_same_frames(clip):
    assert torch.equal(read_frames(clip, range(0, 60, 3)), read_frames(clip, range(0, 60, 3), threads=2))


def test_a_key_frame_in_the_wrong_place_of_the_index_is_survived(clip, monkeypatch):
    with VideoReader(clip) as reader:
        for keys in ([0, 31, 37], [37], []):  # no key frames: nothing comes out there
            reader._set_order(reader._order, keys)
            assert numbers_in(reader.read([3, 33, 40, 59]).numpy()) == [3, 33, 40, 59]


# What is known


def test_probe_tells_size_rate_and_length(folder):
    info = probe(write_video(folder / "known.mp4", 45, width=128, height=72, fps=15, start_seconds=2.0))
    assert (info.num_frames, info.width, info.height, info.codec, info.rotation) == (45, 128, 72, "h264", 0)
    assert info.fps == pytest.approx(15) and info.duration_seconds == pytest.approx(3.0, abs=0.01)
    assert info.start_seconds == pytest.approx(2.0, abs=0.01) and not info.truncated


def test_a_webm_header_without_a_count_is_counted(folder):
    path = make_kind("vp9", folder)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 0
    assert probe(path).num_frames == 48


def test_a_variable_rate_is_averaged(folder):
    info = probe(make_kind("h264_variable_rate", folder))
    assert info.duration_seconds == pytest.approx(48 / 15, abs=0.1) and info.fps == pytest.approx(15, rel=0.05)


def test_no_picture_outlives_its_use_until_python_collects(clip):
    """A hundred pictures of a 4K video are 1.2 GB."""

    def alive():
        return sum(isinstance(one, av.VideoFrame) for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        with VideoReader(clip) as reader:
            reader.read(range(60))
            assert alive() < 5
        list(iter_windows(clip, num_frames=16, stride_frames=1, hop_frames=16))
        assert alive() < 5
    finally:
        gc.enable()


@pytest.mark.parametrize("rotation, matrix", [(90, (0, -1, 1, 0)), (180, (-1, 0, 0, -1)), (270, (0, 1, -1, 0))])
def test_phone_video_is_turned_as_its_track_header_says(rotation, matrix, folder):
    path = make_kind(f"h264_rotated_{rotation}", folder)
    assert mp4_rotation_matrix(path) == matrix  # (x, y) goes to (ax + cy, bx + dy), y downwards
    stored = av.open(str(path))
    picture = next(stored.decode(video=0)).to_ndarray(format="rgb24")
    stored.close()
    height, width = picture.shape[:2]
    a, b, c, d = matrix
    ys, xs = np.mgrid[:height, :width]
    to_x, to_y = a * xs + c * ys, b * xs + d * ys
    upright = np.zeros((64, 96, 3), np.uint8)
    upright[to_y - to_y.min(), to_x - to_x.min()] = picture
    info = probe(path)
    assert (info.width, info.height, info.rotation) == (96, 64, rotation)
    assert np.array_equal(read_frames(path, [0])[0].numpy(), upright)


def test_colours_tagged_bt709_come_out_as_they_went_in(folder):
    red = np.full((64, 96, 3), (200, 30, 60), np.uint8)
    path = folder / "bt709.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.colorspace = 1
        for _ in range(4):
            frame = av.VideoFrame.from_ndarray(red, "rgb24").reformat(format="yuv420p", dst_colorspace="ITU709")
            frame.colorspace = 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert np.abs(read_frames(path, [2])[0].numpy().astype(int) - red).max() <= 4


# Scaling and sources


def test_short_side_scales_down_and_never_up(clip):
    frames = read_frames(clip, [3, 50], short_side=32)
    assert frames.shape == (2, 32, 48, 3) and numbers_in(frames.numpy()) == [3, 50]
    assert read_frames(clip, [3], short_side=500).shape == (1, 64, 96, 3)
    with pytest.raises(ValueError, match="short_side must be at least 1, not 0"):
        read_frames(clip, [3], short_side=0)


def test_short_side_of_a_rotated_video_is_that_of_the_upright_picture(folder):
    path = write_video(folder / "portrait.mp4", 5, width=64, height=128, rotation=90)
    frames = read_frames(path, [4], short_side=32)
    assert frames.shape == (1, 64, 32, 3) and number_in(frames[0].numpy()) == 4


class Unseekable(io.RawIOBase):
    def __init__(self, content):
        self.content = io.BytesIO(content)

    def readable(self):
        return True

    def seekable(self):
        return False

    def readinto(self, buffer):
        return self.content.readinto(buffer)


def test_every_kind_of_source_gives_the_same_frames(clip):
    content, indices = clip.read_bytes(), [0, 17, 59]
    expected = read_frames(clip, indices)
    with open(clip, "rb") as opened:
        sources = [
            str(clip),
            os.path.relpath(clip),
            clip.as_uri(),
            content,
            bytearray(content),
            memoryview(content),
            io.BytesIO(content),
            opened,
            Unseekable(content),
            {"path": str(clip), "bytes": None},
            {"path": None, "bytes": content},
        ]
        for source in sources:
            assert torch.equal(read_frames(source, indices), expected)
        assert torch.equal(read_frames(opened, indices), expected)  # a second time from the same file object


def test_a_file_name_is_never_taken_for_a_protocol(clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    strange = tmp_path / "concat:a|b 100%.mp4"
    strange.write_bytes(clip.read_bytes())
    assert number_in(read_frames("concat:a|b 100%.mp4", [7])[0].numpy()) == 7
    with pytest.raises(VideoReadError, match="not rtmp://"):
        probe("rtmp://example.org/live")
    for name, text in {
        "list.m3u8": f"#EXTM3U\n#EXTINF:1,\n{clip}\n#EXT-X-ENDLIST\n",
        "list.ffconcat": f"ffconcat version 1.0\nfile {clip}\n",
        "list.sdp": "v=0\nm=video 5004 RTP/AVP 96\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(VideoReadError, match="not a video that can be read"):
            probe(tmp_path / name)


# URLs


@pytest.fixture(scope="module")
def server(clip):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content = clip.read_bytes()
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/clip.mp4")
                self.end_headers()
            elif self.path == "/away":
                self.send_response(302)
                self.send_header("Location", f"file://{clip}")
                self.end_headers()
            elif self.path == "/missing":
                self.send_error(404)
            elif self.path == "/slow":
                self.send_response(200)
                self.end_headers()
                try:
                    for _ in range(50):
                        self.wfile.write(b"x")
                        time.sleep(0.1)
                except OSError:
                    pass
            else:
                self.send_response(200)
                if self.path == "/cut":
                    self.send_header("Content-Length", str(len(content) + 10))
                elif self.path != "/unsized":
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()


@pytest.mark.parametrize("path", ["/clip.mp4", "/moved", "/unsized"])
def test_a_url_is_fetched_and_read(server, clip, path):
    assert torch.equal(read_frames(server + path, [5, 50]), read_frames(clip, [5, 50]))


@pytest.mark.parametrize(
    "path, limits, message",
    [
        ("/missing", Limits(), "missing cannot be fetched: the server answers 404 Not Found"),
        (
            "/clip.mp4",
            Limits(max_download_bytes=1000),
            "clip.mp4 cannot be fetched: it is longer than max_download_bytes=1000",
        ),
        (
            "/unsized",
            Limits(max_download_bytes=1000),
            "unsized cannot be fetched: it is longer than max_download_bytes=1000",
        ),
        ("/slow", Limits(download_seconds=0.5), "not done after download_seconds=0.5|timed out"),
        ("/cut", Limits(), "cut cannot be fetched: it ended after|cannot be fetched"),
        ("/away", Limits(), "cannot be fetched"),
    ],
)
def test_a_url_that_fails_says_why_within_its_limits(server, path, limits, message):
    begin = time.monotonic()
    with pytest.raises(VideoReadError, match=message):
        probe(server + path, limits=limits)
    assert time.monotonic() - begin < 5


# Bad input


def test_files_that_are_no_videos_are_refused_by_name(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    write_audio(tmp_path / "sound.m4a")
    for path, message in {
        "empty.mp4": "empty.mp4 is empty",
        "text.mp4": "text.mp4 is not a video that can be read",
        "sound.m4a": "sound.m4a holds no video, only audio",
        ".": "is a folder, not a video file; pass a list of its files",
    }.items():
        with pytest.raises(VideoReadError, match=message):
            probe(tmp_path / path)
    with pytest.raises(FileNotFoundError, match=r"no video at .*absent\.mp4"):
        probe(tmp_path / "absent.mp4")
    with pytest.raises(VideoReadError, match="the video in memory is empty"):
        probe(b"")
    with pytest.raises(TypeError, match="not int"):
        probe(3)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoReadError, match="not a regular file"):
        probe(tmp_path / "pipe.mp4")


def test_indices_outside_the_video_are_refused(clip):
    for indices, message in {
        (0, 60): r"has 60 frames, 0 to 59; frame 60 does not exist",
        (-1,): "frame -1",
        (): "empty",
    }.items():
        with pytest.raises(VideoReadError, match=message):
            read_frames(clip, indices)


@pytest.mark.parametrize(
    "limits, message",
    [
        (Limits(max_pixels=96 * 64 - 1), "frames of 96x64, above max_pixels=6143"),
        (Limits(max_frames=59), "declares 60 frames, more than max_frames=59; raise"),
        (Limits(max_bytes=96 * 64 * 3), "2 frames of 96x64 take 36864 bytes, above max_bytes=18432"),
        (Limits(decode_seconds=0.0), "not decoded after decode_seconds=0"),
    ],
)
def test_limits_hold_and_say_how_to_go_on(clip, limits, message):
    with pytest.raises(VideoReadError, match=message):
        read_frames(clip, [1, 2], limits=limits)


@pytest.mark.parametrize("kind", ["h264", "h264_mkv", "mpeg4_avi", "vp9", "h264_fragmented"])
def test_a_file_cut_off_in_the_middle_is_an_error_unless_its_beginning_will_do(kind, folder, tmp_path):
    name, arguments = VIDEO_KINDS[kind]
    options = {"movflags": "faststart"} if kind == "h264" else arguments.get("container_options")
    whole = write_video(tmp_path / f"whole{name[1:]}", 60, **{**arguments, "container_options": options})
    cut = tmp_path / f"cut{name[1:]}"
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(VideoReadError, match=r'cut off or damaged .*errors="truncate"'):
        probe(cut)
    info = probe(cut, errors="truncate")
    assert info.truncated and 5 < info.num_frames < 60
    expected = sequential(whole)
    frames = read_frames(cut, range(info.num_frames - 4), errors="truncate").numpy()
    assert all(np.array_equal(frame, expected[index]) for index, frame in enumerate(frames))
    with pytest.raises(VideoReadError, match=r"does not exist \(the file is cut off\)"):
        read_frames(cut, [59], errors="truncate")


def test_an_mp4_without_its_table_is_an_error(clip, tmp_path):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(clip.read_bytes()[:-500])
    with pytest.raises(VideoReadError, match=r"cut\.mp4 is not a video that can be read"):
        probe(cut)


def patched(content, tag, offset, value):
    """`content` with the bytes at `offset` after the first `tag` replaced."""
    at = content.index(tag) + len(tag) + offset
    return content[:at] + value + content[at + len(value) :]


@pytest.mark.parametrize(
    "kind, tag, offset, value",
    [
        ("h264", b"mvhd", 16, (10**6).to_bytes(4, "big")),  # duration of the film
        ("h264", b"mdhd", 16, (10**7).to_bytes(4, "big")),  # duration of the track
        ("mpeg4_avi", b"avih", 20, (999).to_bytes(4, "little")),  # total frames
        ("mpeg4_avi", b"strh", 36, (999).to_bytes(4, "little")),  # length of the stream
        ("h264_mkv", b"\x44\x89\x88", 0, b"\x41\x4f\x00\x00\x00\x00\x00\x00"),  # duration, in milliseconds
    ],
)
def test_a_header_that_lies_about_the_length_is_not_believed(kind, tag, offset, value, folder, tmp_path):
    path = make_kind(kind, folder)
    liar = tmp_path / path.name
    liar.write_bytes(patched(path.read_bytes(), tag, offset, value))
    assert probe(liar).num_frames == 48
    assert numbers_in(read_frames(liar, [0, 30, 47]).numpy()) == [0, 30, 47]


def test_damage_in_a_frame_that_is_needed_is_an_error_and_elsewhere_is_none(folder, tmp_path):
    path = write_video(folder / "png.mov", 12, codec="png", pix_fmt="rgb24")
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    content[places[6] + 20 : places[6] + 60] = bytes(40)
    broken = tmp_path / "broken.mov"
    broken.write_bytes(content)
    assert numbers_in(read_frames(broken, [5, 7]).numpy()) == [5, 7]
    with pytest.raises(
        VideoReadError, match=r"broken\.mov cannot be decoded at packet 6|frame 6 of 12 does not come out"
    ):
        read_frames(broken, [6])


# Windows of long videos


def test_windows_share_frames_and_carry_their_times(clip):
    calls = []

    def remember(picture):
        calls.append(number_in(picture))
        return calls[-1]

    windows = list(iter_windows(clip, num_frames=4, stride_frames=3, hop_frames=6, transform=remember))
    assert [w.frames for w in windows[:3]] == [[0, 3, 6, 9], [6, 9, 12, 15], [12, 15, 18, 21]]
    assert calls == sorted(set(calls)) and all(number % 3 == 0 for number in calls)  # each needed frame once
    assert (windows[1].first_frame, windows[1].last_frame) == (6, 15)
    assert windows[1].start_seconds == pytest.approx(0.2) and windows[1].end_seconds == pytest.approx(16 / 30)


def test_the_end_of_the_video_is_covered_or_dropped_as_asked(clip):
    settings = dict(num_frames=4, stride_frames=4, hop_frames=13, transform=number_in)
    full = list(iter_windows(clip, partial="drop", **settings))
    assert [w.frames for w in full] == [[0, 4, 8, 12], [13, 17, 21, 25], [26, 30, 34, 38], [39, 43, 47, 51]]
    last = list(iter_windows(clip, **settings))[-1]
    assert last.frames == [52, 56, 56, 56] and (last.first_frame, last.last_frame) == (52, 59)
    assert last.end_seconds == pytest.approx(2.0)
    exact = list(iter_windows(clip, num_frames=4, stride_frames=5, hop_frames=44, transform=number_in))
    assert [w.frames for w in exact] == [[0, 5, 10, 15], [44, 49, 54, 59]]  # nothing is left over


def test_a_video_shorter_than_a_window_gives_one_window(clip):
    (window,) = iter_windows(clip, num_frames=16, stride_frames=8, hop_frames=8, transform=number_in)
    assert window.frames == [0, 8, 16, 24, 32, 40, 48, *[56] * 9] and window.last_frame == 59
    assert list(iter_windows(clip, num_frames=16, stride_frames=8, hop_frames=8, partial="drop")) == []


def test_windows_can_leave_gaps(clip):
    windows = list(iter_windows(clip, num_frames=2, stride_frames=1, hop_frames=20, transform=number_in))
    assert [w.frames for w in windows] == [[0, 1], [20, 21], [40, 41]]


def test_windows_come_while_an_endless_source_is_still_being_read(folder):
    path = write_video(folder / "live.ts", 200, gop=10, options={"bf": "0"})

    class Live(Unseekable):
        taken = 0

        def readinto(self, buffer):
            self.taken += (count := self.content.readinto(buffer))
            return count

    content = path.read_bytes()
    # a stream that continues far beyond what is taken from it
    live = Live(content * 40)
    first = next(iter_windows(live, num_frames=4, stride_frames=4, hop_frames=4, transform=number_in))
    assert first.frames == [0, 4, 8, 12] and live.taken < 30 * len(content)


def test_wrong_windows_are_refused(clip):
    with pytest.raises(ValueError, match="hop_frames must be at least 1, not 0"):
        next(iter_windows(clip, num_frames=4, stride_frames=1, hop_frames=0))
    with pytest.raises(ValueError, match="partial must be"):
        next(iter_windows(clip, num_frames=4, stride_frames=1, hop_frames=1, partial="pad"))


def test_the_patterns_of_the_test_videos_can_be_told_apart():
    assert numbers_in(numbered_frame(number) for number in range(4096)) == list(range(4096))
    with pytest.raises(ValueError, match="not an upright"):
        number_in(np.rot90(numbered_frame(5)))
