"""The short way to a video of a shard: its frames are those of the long way, and whatever is unusual takes the long way."""

import os
import random

import numpy as np
import pytest
import torch
from video_files import numbers_in, write_video

from videomae.data.encoding import Recoding
from videomae.data.lists.shards import write_shard
from videomae.data.prepare import recode
from videomae.data.prepared_video import NotAsPrepared, PreparedReader, read_table
from videomae.data.samples import SampleMaker
from videomae.data.sources import TarMember, open_clip
from videomae.data.transforms import PretrainTransform
from videomae.sampling_videomae import ClipSampling
from videomae.video_io import Limits, VideoReader, VideoReadError

FAST = Recoding(short_side=64, gop=24, preset="ultrafast")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "a.mp4"
    write_video(path, 83, gop=30)
    return recode(str(path), FAST)[0]


def reader_of(video, limits=None, reopen=None):
    limits = limits or Limits()
    reopen = reopen or (lambda: VideoReader(video, limits=limits))
    return PreparedReader(lambda start, end: video[start:end], len(video), reopen, limits)


def unexpected():
    raise AssertionError("the long way was taken")


def in_a_shard(video, folder):
    (record,) = write_shard(folder / "shard.tar", [({"index": 0, "path": "a.mp4", "label": 0}, video)])
    return TarMember(str(folder / "shard.tar"), record["offset"], record["size"], "a.mp4")


@pytest.mark.parametrize("gop", [1, 5, 48, 250])
@pytest.mark.parametrize("num_frames", [2, 7, 61])
def test_what_prepare_writes_is_read_the_short_way_as_the_long_way(tmp_path, gop, num_frames):
    write_video(tmp_path / "a.mp4", num_frames, width=98, height=66)
    video = recode(str(tmp_path / "a.mp4"), Recoding(short_side=64, gop=gop))[0]
    with VideoReader(video) as long:
        expected = long.read(range(num_frames))
    assert numbers_in(expected) == list(range(num_frames))
    short = reader_of(video, reopen=unexpected)
    assert short.num_frames == num_frames
    choices = random.Random(gop)
    for wanted in (
        list(range(num_frames)),
        [num_frames - 1],
        *(choices.choices(range(num_frames), k=6) for _ in range(8)),
    ):
        assert torch.equal(short.read(wanted), expected[wanted])
    with VideoReader(video) as long:
        for side in (32, 200):
            assert torch.equal(short.read([1, 0], short_side=side), long.read([1, 0], short_side=side))
        part = short.read([1, 0], part=lambda height, width: (3, 5, height - 10, width - 20))
        assert torch.equal(part, expected[[1, 0], 3:-7, 5:-15])
        assert torch.equal(part, long.read([1, 0], part=lambda height, width: (3, 5, height - 10, width - 20)))


def test_only_the_packets_that_are_needed_are_read(video):
    ranges = []

    def read(start, end):
        ranges.append((start, end))
        return video[start:end]

    reader = PreparedReader(read, len(video), unexpected, Limits())
    table = read_table(lambda start, end: video[start:end], len(video), 100)
    del ranges[:]
    reader.read([30, 50])
    assert table.keys == [0, 24, 48, 72]  # 50 lies behind the key frame 48, so two stretches
    assert [start for start, _ in ranges] == [table.starts[24], table.starts[48]]
    assert sum(end - start for start, end in ranges) < (table.starts[72] - table.starts[24]) / 2


@pytest.mark.parametrize(
    "fields", [{"codec": "mpeg4"}, {"start_seconds": 0.5}, {"rotation": 90}], ids=["codec", "late", "turned"]
)
def test_other_videos_in_a_shard_take_the_long_way(tmp_path, fields):
    write_video(tmp_path / "a.mp4", 20, **fields)
    video = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(NotAsPrepared):
        reader_of(video)
    with open_clip(in_a_shard(video, tmp_path)) as clip, VideoReader(video) as long:
        assert clip.num_frames == 20 and torch.equal(clip.read([3, 1]), long.read([3, 1]))


def test_changed_bytes_never_give_other_frames_than_the_long_way(video):
    """Of the table and of the pictures: the short way gives the frames of the long way, or its error."""
    choices, begin = random.Random(0), video.index(b"moov") - 4
    agreed = refused = 0
    for trial in range(400):
        changed = bytearray(video)
        for _ in range(choices.choice((1, 3))):
            low, high = ((begin, len(video)), (48, begin), (0, 48))[choices.choices((0, 1, 2), (5, 4, 1))[0]]
            changed[choices.randrange(low, high)] ^= 1 << choices.randrange(8)
        changed, wanted = bytes(changed), sorted(choices.sample(range(83), 5))
        try:
            short = reader_of(changed)
        except NotAsPrepared:
            refused += 1
            continue
        results = []
        for reader in (short, None):
            try:
                reader = reader or VideoReader(changed)
                results.append((reader.num_frames, reader.read(wanted)))
            except VideoReadError:
                results.append(None)
        if results[0] is None or results[1] is None:
            assert results[0] is None and results[1] is None, trial
        else:
            assert results[0][0] == results[1][0] and torch.equal(results[0][1], results[1][1]), trial
            agreed += 1
    assert agreed > 100 and refused > 50


def test_a_video_that_cannot_be_decoded_gets_the_error_of_the_long_way(video, tmp_path):
    table = read_table(lambda start, end: video[start:end], len(video), 100)
    damaged = bytearray(video)
    damaged[table.starts[24] : table.starts[26]] = bytes(table.starts[26] - table.starts[24])
    member = in_a_shard(bytes(damaged), tmp_path)
    with (
        pytest.raises(
            VideoReadError, match=r"^a\.mp4 in .*shard\.tar: the video in memory cannot be decoded at packet 24"
        ),
        open_clip(member) as clip,
    ):
        assert numbers_in(clip.read([3])) == [3]
        clip.read([30])


def test_limits_hold_the_short_way_too(video):
    with pytest.raises(VideoReadError, match=r"the video is not decoded after decode_seconds=0"):
        reader_of(video, Limits(decode_seconds=0), unexpected).read([5])
    with pytest.raises(VideoReadError, match=r"the video: 2 frames of 96x64 take 36864 bytes, above max_bytes=30000"):
        reader_of(video, Limits(max_bytes=30000), unexpected).read([5, 6])
    for limits in (Limits(max_frames=82), Limits(max_pixels=96 * 64 - 1)):
        with pytest.raises(NotAsPrepared):
            reader_of(video, limits)


def test_frames_that_do_not_exist_are_named(video, tmp_path):
    with open_clip(in_a_shard(video, tmp_path)) as clip:
        with pytest.raises(VideoReadError, match="has 83 frames, 0 to 82; frame 83 does not exist"):
            clip.read([83])
        with pytest.raises(VideoReadError, match="no frames asked for"):
            clip.read([])


def test_a_table_of_another_number_of_frames_than_the_file_gives_is_an_error(video):
    class Fewer:
        num_frames = 80

    with pytest.raises(
        VideoReadError, match="the video has 83 frames in its table and 80 can be decoded; prepare it again"
    ):
        reader_of(video, reopen=Fewer).read([90])


def test_a_sample_from_a_shard_is_that_of_the_same_file(video, tmp_path):
    """The crop is drawn before the frames are read, with the same numbers."""
    (tmp_path / "a.mp4").write_bytes(video)
    sampling = ClipSampling(num_frames=4, stride_frames=3)
    for flip in (0.0, 1.0):
        one = SampleMaker("pretrain", sampling, PretrainTransform(32, flip=flip))
        two = SampleMaker("pretrain", sampling, PretrainTransform(32, flip=flip), num_samples=2)
        for epoch in range(4):
            where = {"epoch": epoch, "index": 0}
            near = one.samples(in_a_shard(video, tmp_path), "a.mp4", **where)
            far = one.samples(str(tmp_path / "a.mp4"), "a.mp4", **where)
            both = two.samples(str(tmp_path / "a.mp4"), "a.mp4", **where)
            assert torch.equal(near["pixel_values"], far["pixel_values"]) and near["keys"] == far["keys"]
            assert torch.equal(near["pixel_values"][0], both["pixel_values"][0])


def test_an_open_video_keeps_no_file_open_afterwards(video, tmp_path):
    member, before = (
        in_a_shard(video, tmp_path),
        len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0,
    )
    for _ in range(3):
        with open_clip(member) as clip:
            clip.read([1])
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


def test_parts_of_frame_folders_are_cut_alike(tmp_path):
    from PIL import Image

    from videomae.data.sources import FrameFolder

    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "img_00001.png")
    with open_clip(FrameFolder(str(tmp_path), 1, 1, "img_{:05d}.png")) as clip:
        part = clip.read([0, 0], part=lambda height, width: (2, 3, height - 5, width - 4))
    assert np.array_equal(part.numpy(), np.stack([picture[2:17, 3:29]] * 2))
