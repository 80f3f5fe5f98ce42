"""Files that players show without a word and that are unusual all the same: each is read as a full decode reads it."""

import random

import av
import numpy as np
import pytest
from video_files import numbers_in, write_trimmed, write_video, write_xvid

from videomae.video_io import VideoReader, VideoReadError, iter_windows, probe, read_frames


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
