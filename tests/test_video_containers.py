"""Files that players show without a word and that are unusual all the same: each is read as a full decode reads it."""

import random
import time

import av
import numpy as np
import pytest
from video_files import (
    mp4_rotation_matrix,
    numbered_frame,
    numbers_in,
    write_field_coded,
    write_trimmed,
    write_video,
    write_xvid,
)

from videomae.video_container import outline
from videomae.video_io import Limits, VideoReader, VideoReadError, iter_windows, probe, read_frames


def sequential(path):
    """Every frame of a decode from the start."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(container.streams.best("video"))]


def assert_reads_as_decoded(path, count):
    """Any set of indices, windows and the number of frames agree with a decode from the start."""
    expected = sequential(path)
    assert len(expected) == count
    draw = random.Random(0)
    sets = [[0], [count - 1], list(range(count)), *([draw.randrange(count) for _ in range(5)] for _ in range(10))]
    with VideoReader(path) as reader:
        assert (reader.num_frames, reader.info.truncated) == (count, False)
        for indices in sets:
            for index, frame in zip(indices, reader.read(indices).numpy()):
                assert np.array_equal(frame, expected[index]), (indices, index)
    windows = iter_windows(path, num_frames=1, stride_frames=1, hop_frames=1)
    for frame, window in zip(expected, windows, strict=True):
        assert np.array_equal(frame, window.frames[0])


# Xvid and DivX in AVI


@pytest.mark.parametrize("b_frames", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_packets_without_a_picture_are_not_counted(packed, b_frames, tmp_path):
    path = write_xvid(tmp_path / "xvid.avi", packed=packed, b_frames=b_frames)
    with av.open(str(path)) as container:
        sizes = [packet.size for packet in container.demux(video=0) if packet.size]
    assert len(sizes) == 50 and sizes[1:3] == [1, 1] and (6 in sizes) == (packed and b_frames)
    assert_reads_as_decoded(path, 48)
    info = probe(path)
    assert info.notes == ("50 packets give 48 frames; these are counted",)
    assert info.fps == 30 and info.duration_seconds == pytest.approx(1.6)
    assert numbers_in(read_frames(path, range(48)).numpy()) == list(range(48))


def test_an_avi_with_fillers_that_is_cut_off_is_still_refused(tmp_path):
    path = write_xvid(tmp_path / "xvid.avi", packed=True)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"idx1") - 1000])
    with pytest.raises(VideoReadError, match=r"xvid\.avi is cut off or damaged"):
        probe(path)
    assert 10 < probe(path, errors="truncate").num_frames < 48


def test_a_file_without_fillers_is_not_decoded_to_be_counted(tmp_path, monkeypatch):
    path = write_video(tmp_path / "plain.avi", 40, codec="mpeg4", width=160, height=128, options={"bf": "2"})
    monkeypatch.setattr(VideoReader, "_order_by_decoding", lambda self: pytest.fail("decoded the file"))
    assert probe(path).num_frames == 40 and probe(path).notes == ()


# MP4 with edit lists, with bytes behind it, and with tables that lie


@pytest.mark.parametrize("b_frames", ["0", "2"])
@pytest.mark.parametrize("seconds, kept", [(0.1, 47), (0.4, 40), (0.6, 35), (1.3, 17)])
def test_a_trimmed_mp4_has_the_frames_that_its_edit_list_leaves(seconds, kept, b_frames, tmp_path):
    whole = write_video(tmp_path / "whole.mp4", 50, fps=25, options={"bf": b_frames})
    path = write_trimmed(whole, tmp_path / "trimmed.mp4", seconds)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.frames == 50 and (len(stream.index_entries) < 50) == (seconds > 0.3)
    assert_reads_as_decoded(path, kept)
    assert numbers_in(read_frames(path, range(kept)).numpy()) == list(range(50 - kept, 50))


def test_a_trimmed_mp4_that_is_cut_off_is_still_refused(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", 50, fps=25)
    path = write_trimmed(whole, tmp_path / "trimmed.mp4", 0.6)
    content = path.read_bytes()
    at = content.index(b"mdat") - 4  # the table at the end is put before the pictures, and half of those are left out
    size = int.from_bytes(content[at : at + 4], "big")
    tables = content[at + size :]
    offset = tables.index(b"stco") + 12  # one chunk
    tables = tables[:offset] + (at + len(tables) + 8).to_bytes(4, "big") + tables[offset + 4 :]
    path.write_bytes(content[:at] + tables + content[at : at + size])
    assert numbers_in(read_frames(path, [0, 34]).numpy()) == [15, 49]
    path.write_bytes((content[:at] + tables + content[at : at + size])[: -size // 2])
    with pytest.raises(VideoReadError, match=r"trimmed\.mp4 is cut off or damaged"):
        probe(path)


def test_bytes_behind_a_whole_mp4_are_not_taken_for_a_part_of_it(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", 20)
    path = tmp_path / "longer.mp4"
    path.write_bytes(whole.read_bytes() + random.Random(0).randbytes(5000))
    assert outline(str(path)).missing is None
    assert_reads_as_decoded(path, 20)


def test_a_fragmented_mp4_that_ends_inside_a_fragment_is_still_refused(tmp_path):
    options = {"movflags": "frag_keyframe+empty_moov"}
    path = write_video(tmp_path / "fragments.mp4", 40, container_options=options)
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"mdat") + 50])
    with pytest.raises(VideoReadError, match="is cut off"):
        probe(path)


# Raw streams, fields, and what an editor cut out of an open group of pictures


@pytest.mark.parametrize("kind", ["h264", "hevc"])
def test_windows_of_a_raw_stream_come_to_an_end(kind, tmp_path):
    options = {"x265-params": "log-level=none:pools=1:frame-threads=1:bframes=0"} if kind == "hevc" else {"bf": "0"}
    codec = {"h264": "libx264", "hevc": "libx265"}[kind]
    path = write_video(tmp_path / f"raw.{kind}", 24, codec=codec, options=options, fps=25)
    assert_reads_as_decoded(path, 24)
    windows = list(iter_windows(path, num_frames=4, stride_frames=2, hop_frames=8))
    assert [window.first_frame for window in windows] == [0, 8, 16]
    assert windows[1].start_seconds == pytest.approx(8 / 25) and windows[2].end_seconds == pytest.approx(23 / 25)


@pytest.mark.parametrize("kind", ["h264", "ts", "mp4", "mkv"])
def test_two_fields_in_two_packets_are_one_frame(kind, tmp_path):
    path = write_field_coded(tmp_path / f"fields.{kind}", 12)
    with av.open(str(path)) as container:
        assert sum(packet.size > 0 for packet in container.demux(video=0)) == 24
    assert_reads_as_decoded(path, 12)
    info = probe(path)
    assert (info.fps, info.duration_seconds) == (25, pytest.approx(0.48))
    assert numbers_in(read_frames(path, [11, 0, 5]).numpy()) == [11, 0, 5]


@pytest.mark.parametrize("kind", ["mkv", "ts", "mp4", "h264"])
def test_pictures_that_refer_to_what_was_cut_away_are_not_counted(kind, tmp_path):
    options = {"bf": "3", "b-adapt": "0", "x264-params": "open-gop=1:scenecut=0"}
    whole = write_video(tmp_path / ("whole.mp4" if kind in ("mkv", "mp4") else "whole.ts"), 40, gop=9, options=options)
    path = tmp_path / f"cut.{kind}"
    with av.open(str(whole)) as opened, av.open(str(path), "w") as container:
        kept = opened.streams.video[0]
        stream = container.add_stream_from_template(kept)
        packets = [packet for packet in opened.demux(kept) if packet.size]
        keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
        first = next(number for number in keys if packets[number + 1].pts < packets[number].pts)
        for packet in packets[first:]:
            packet.stream = stream
            container.mux(packet)
    count = len(sequential(path))
    assert count < len(packets) - first
    assert_reads_as_decoded(path, count)


# Transport and program streams


def test_a_program_stream_is_read_as_decoded(tmp_path):
    path = write_video(tmp_path / "film.mpg", 48, codec="mpeg2video", options={"bf": "2"})
    assert_reads_as_decoded(path, 48)
    assert numbers_in(read_frames(path, [24, 47, 0]).numpy()) == [24, 47, 0]


@pytest.mark.parametrize("b_frames", ["0", "2"])
def test_joined_transport_streams_are_read_to_the_end(b_frames, tmp_path):
    first = write_video(tmp_path / "first.ts", 24, options={"bf": b_frames})
    second = write_video(tmp_path / "second.ts", 36, options={"bf": b_frames})
    path = tmp_path / "joined.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    assert_reads_as_decoded(path, 60)
    assert numbers_in(read_frames(path, range(60)).numpy()) == [*range(24), *range(36)]
    assert probe(path).notes == ("another recording was appended at packet 24",)


def test_a_transport_stream_that_lost_packets_is_still_refused(tmp_path):
    content = write_video(tmp_path / "whole.ts", 48).read_bytes()
    path, packets, refused = tmp_path / "lost.ts", len(content) // 188, 0
    for lost in range(packets // 4, packets - 4, 5):
        path.write_bytes(content[: lost * 188] + content[(lost + 1) * 188 :])
        with av.open(str(path)) as container:
            marked = any(packet.is_corrupt for packet in container.demux(video=0))
        if marked:
            refused += 1
            with pytest.raises(VideoReadError, match=r"lost\.ts is cut off or damaged \(packet \d+ is incomplete"):
                probe(path)
            assert probe(path, errors="truncate").truncated
    assert refused > 3


def test_a_stream_that_appears_in_the_middle_of_a_file_ends_nothing(tmp_path):
    silent = write_video(tmp_path / "silent.ts", 400, width=320, height=240, gop=400, options={"bf": "0"})
    sound = write_video(tmp_path / "sound.ts", 24, width=320, height=240, audio=True, options={"bf": "0"})
    path = tmp_path / "both.ts"
    path.write_bytes(silent.read_bytes() + sound.read_bytes())
    for _ in range(3):  # PyAV's failure depends on what the memory held before
        assert len(list(iter_windows(path, num_frames=1, stride_frames=8, hop_frames=8))) == 53
        assert probe(path).num_frames == 424


# Which stream, which way up, which size


def test_the_default_stream_is_read_rather_than_the_first(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = []
        for width, default in ((64, False), (96, True)):
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, 64, "yuv420p"
            stream.disposition = av.stream.Disposition.default if default else av.stream.Disposition(0)
            streams.append(stream)
        for number in range(10):
            for stream in streams:
                picture = numbered_frame(number if stream.width == 96 else 99, stream.width, 64)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    assert probe(path).width == 96
    assert numbers_in(read_frames(path, range(10)).numpy()) == list(range(10))


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("first, second", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_turns_and_mirrors_of_the_display_matrix_are_applied(swapped, first, second, tmp_path):
    a, b, c, d = (0, first, second, 0) if swapped else (first, 0, 0, second)
    path, one = tmp_path / "turned.mp4", 1 << 16
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.set_display_matrix([a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30])
        container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(5), "rgb24")))
        container.mux(stream.encode())
    assert mp4_rotation_matrix(path) == (a, b, c, d)
    (picture,) = sequential(path)
    ys, xs = np.mgrid[:64, :96]
    to_x, to_y = a * xs + c * ys, b * xs + d * ys  # as ISO 14496-12 says, y downwards
    upright = np.zeros((96, 64, 3) if swapped else (64, 96, 3), np.uint8)
    upright[to_y - to_y.min(), to_x - to_x.min()] = picture
    info = probe(path)
    assert (info.height, info.width) == upright.shape[:2] and info.mirrored == (a * d - b * c < 0)
    assert np.array_equal(read_frames(path, [0])[0].numpy(), upright)


def test_frames_of_another_size_are_scaled_to_that_of_the_first_whichever_are_asked_for(tmp_path):
    large = write_video(tmp_path / "large.h264", 12, width=192, height=128, options={"bf": "0"})
    small = write_video(tmp_path / "small.h264", 12, options={"bf": "0"})
    path = tmp_path / "changing.h264"
    path.write_bytes(large.read_bytes() + small.read_bytes())
    apart, together = read_frames(path, [20]), read_frames(path, [0, 20])
    assert apart.shape == (1, 128, 192, 3) and np.array_equal(apart[0], together[1])
    assert numbers_in(together.numpy()) == [0, 8]
    with VideoReader(path) as reader:
        reader.read([0, 20])
        assert reader.info.notes == ("frames of other sizes are scaled to 192x128, that of the first",)
    (window,) = iter_windows(path, num_frames=24, stride_frames=1, hop_frames=24)
    assert {frame.shape for frame in window.frames} == {(128, 192, 3)}


# Damage that the decoder knows of


def marked_copy(path, tmp_path):
    """A copy with flipped bits that decodes without an error and with marks, and the numbers of the frames marked."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    flipped, content = tmp_path / f"flipped{path.suffix}", path.read_bytes()
    for seed in range(100):
        draw, damaged = random.Random(seed), bytearray(content)
        for _ in range(4):
            damaged[packets[20].pos + draw.randrange(packets[20].size)] ^= 1 << draw.randrange(8)
        flipped.write_bytes(damaged)
        try:
            with av.open(str(flipped)) as container:
                marked = [number for number, frame in enumerate(container.decode(video=0)) if frame.is_corrupt]
        except av.FFmpegError:
            continue
        if marked:
            return flipped, marked
    pytest.fail("no flipped bit made a mark")


def test_frames_that_the_decoder_marks_and_those_that_follow_are_an_error_or_a_note(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", 48, options={"bf": "0", "sc_threshold": "0"}, gop=12)
    path, marked = marked_copy(whole, tmp_path)
    assert marked == [20]
    assert numbers_in(read_frames(path, [3, 19, 24, 40]).numpy()) == [3, 19, 24, 40]
    for index in (20, 23):
        message = rf"frame {index} of 48 is damaged or follows one that is, by the decoder's own mark; .*truncate"
        with pytest.raises(VideoReadError, match=message):
            read_frames(path, [3, index])
    windows = iter_windows(path, num_frames=4, stride_frames=1, hop_frames=4)
    assert [next(windows).first_frame for _ in range(5)] == [0, 4, 8, 12, 16]
    with pytest.raises(VideoReadError, match=r"frame 20 is damaged or follows one that is, by the decoder's own mark"):
        next(windows)
    with VideoReader(path, errors="truncate") as reader:
        assert reader.num_frames == 48 and reader.read([3, 20]).shape == (2, 64, 96, 3)
        assert reader.notes == ["frame 20 of 48 is damaged or follows one that is, by the decoder's own mark"]


# Limits


def patched(content, tag, offset, value):
    at = content.index(tag) + len(tag) + offset
    return content[:at] + value + content[at + len(value) :]


@pytest.mark.parametrize("kind", ["table", "edits", "fragments"])
def test_a_small_file_cannot_declare_a_table_that_fills_the_memory(kind, tmp_path):
    if kind == "fragments":
        path = write_video(tmp_path / "a.mp4", 10, container_options={"movflags": "frag_keyframe+empty_moov"})
        content = patched(path.read_bytes(), b"trun", 4, (60_000_000).to_bytes(4, "big"))
        path.write_bytes(patched(content, b"trun", 4, (60_000_000).to_bytes(4, "big")))
    elif kind == "table":
        path = write_video(tmp_path / "a.mp4", 10)
        content = patched(path.read_bytes(), b"stsz", 4, (1).to_bytes(4, "big"))
        path.write_bytes(patched(content, b"stsz", 8, (60_000_000).to_bytes(4, "big")))
    else:
        path = write_video(tmp_path / "a.mp4", 10)
        content = patched(path.read_bytes(), b"stsz", 8, (4_000_000).to_bytes(4, "big"))
        # an edit list of 100 entries in place of the user data at the end
        edits = b"".join((1000).to_bytes(4, "big") + bytes(4) + b"\0\1\0\0" for _ in range(100))
        entry = (16 + len(edits)).to_bytes(4, "big") + b"elst" + bytes(4) + (100).to_bytes(4, "big") + edits
        at = content.index(b"edts") - 4
        old = int.from_bytes(content[at : at + 4], "big")
        new = (8 + len(entry)).to_bytes(4, "big") + b"edts" + entry
        content = content[:at] + new + content[at + old :]
        for tag in (b"moov", b"trak"):
            place = content.index(tag) - 4
            size = int.from_bytes(content[place : place + 4], "big") + len(new) - old
            content = content[:place] + size.to_bytes(4, "big") + content[place + 4 :]
        path.write_bytes(content)
    begin = time.monotonic()
    for read in (lambda: probe(path), lambda: next(iter_windows(path, num_frames=1, stride_frames=1, hop_frames=1))):
        with pytest.raises(VideoReadError, match=r"a\.mp4 declares \d+ frames, more than max_frames=5000000; raise"):
            read()
    assert time.monotonic() - begin < 1


def test_a_walk_over_millions_of_boxes_ends_with_the_time(tmp_path):
    path = tmp_path / "boxes.mp4"
    path.write_bytes(b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\x08free" * 3_000_000)
    begin = time.monotonic()
    with pytest.raises(VideoReadError, match=r"boxes\.mp4 is not decoded after decode_seconds=0\.2"):
        probe(path, limits=Limits(decode_seconds=0.2))
    assert time.monotonic() - begin < 1
    nested = bytearray()
    for depth in range(20_000):
        nested += (8 * (20_000 - depth)).to_bytes(4, "big") + b"trak"
    path.write_bytes(b"\0\0\0\x10ftypisom\0\0\0\0" + (8 + len(nested)).to_bytes(4, "big") + b"moov" + nested)
    assert outline(str(path)).frames == 0


@pytest.mark.parametrize(
    "limits, message",
    [
        (Limits(max_bytes=96 * 64 * 3 * 7 - 1), "7 frames of 96x64 take 129024 bytes, above max_bytes=129023"),
        (Limits(max_frames=19), "more than max_frames=19 frames"),
        (Limits(max_pixels=6143), "frames of 96x64, above max_pixels=6143"),
        (Limits(decode_seconds=0.0), "not decoded after decode_seconds=0"),
    ],
)
def test_limits_hold_in_windows(limits, message, tmp_path):
    path = write_video(tmp_path / "clip.mkv", 48)
    with pytest.raises(VideoReadError, match=message):
        list(iter_windows(path, num_frames=4, stride_frames=2, hop_frames=4, limits=limits))


def test_the_time_for_a_window_is_that_of_the_reader(tmp_path):
    path = write_video(tmp_path / "clip.mkv", 12)
    for _ in iter_windows(path, num_frames=1, stride_frames=1, hop_frames=4, limits=Limits(decode_seconds=0.3)):
        time.sleep(0.4)


def test_a_file_on_another_host_is_no_local_file(tmp_path):
    path = write_video(tmp_path / "clip.mp4", 4)
    assert probe(f"file://localhost{path}").num_frames == 4
    with pytest.raises(VideoReadError, match="other-host is another machine; only local files and http"):
        probe(f"file://other-host{path}")


# Time stamps


@pytest.mark.parametrize("kind", ["mkv", "mp4", "flv"])
def test_a_wrong_time_stamp_is_found_out_by_the_pictures_around_it(kind, tmp_path):
    whole = write_video(tmp_path / "whole.mp4", 40, gop=10, options={"bf": "2"})
    path = tmp_path / f"moved.{kind}"
    with av.open(str(whole)) as opened, av.open(str(path), "w") as container:
        kept = opened.streams.video[0]
        stream = container.add_stream_from_template(kept)
        for number, packet in enumerate(packet for packet in opened.demux(kept) if packet.size):
            packet.pts += round(0.21 / packet.time_base) if number == 22 else 0  # six frames and a third
            packet.stream = stream
            container.mux(packet)
    with VideoReader(path) as reader:
        assert numbers_in(reader.read(range(40)).numpy()) == list(range(40))
        assert numbers_in(reader.read([21, 25, 29]).numpy()) == [21, 25, 29]
        assert reader.info.notes == ("its time stamps contradict the decoder, whose order is used",)
