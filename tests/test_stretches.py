"""Labelled stretches of videos: times, names, frames. Every frame of these videos shows its own number."""

import math
import os
import re

import pytest
import torch
from video_files import VIDEO_KINDS, numbers_in, write_video

from videomae.data import stretches
from videomae.data.lists.layouts import open_manifest
from videomae.data.sources import open_clip
from videomae.data.stretches import Stretch, named, parsed, seconds_in
from videomae.data.video_dataset import VideoDataset
from videomae.sampling_videomae import ClipSampling
from videomae.video_io import VideoReader, VideoReadError

HEADER = "path,label,start_seconds,end_seconds\n"


class Whole:
    """A transform that keeps the frames as they are."""

    def __call__(self, clip, generator):
        return clip.contiguous()

    def views(self, frames, crops):
        return [frames] * crops


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Videos of 120 frames at 30 a second, so of 4 s; `variable` shows every third frame four times as long, so 8 s."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "long.mp4", 120, options={"bf": "2"})
    write_video(folder / "other.mp4", 120)
    write_video(folder / "variable.mp4", 120, variable_rate=True, options={"bf": "2"})
    return folder


def write(path, text):
    path.write_text(text)
    return path


def shown(source):
    """The numbers that the frames of a source show."""
    with open_clip(source) as clip:
        return numbers_in(clip.read(range(clip.num_frames)))


def listed(folder, rows, **options):
    return open_manifest(write(folder / "list.csv", HEADER + rows), **options)


# ------------------------------------------------------------------------------------------------------------- times


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("12.5", 12.5),
        (7, 7.0),
        ("0", 0.0),
        ("2:03", 123.0),
        ("1:02:03.5", 3723.5),
        ("100:00:00", 360000.0),
        (" 5 ", 5.0),
    ],
)
def test_times_are_seconds_or_hours_minutes_and_seconds(text, seconds):
    assert seconds_in(text, -1.0) == seconds


@pytest.mark.parametrize("empty", [None, "", "  ", math.nan])
def test_an_empty_time_is_the_default(empty):
    assert seconds_in(empty, 9.0) == 9.0


@pytest.mark.parametrize("wrong", ["-1", "1:60", "1:75:00", "1.5:00", "1:2:3:4", "soon", "inf", True, "1:-2"])
def test_what_is_no_time_is_an_error(wrong):
    with pytest.raises(ValueError):
        seconds_in(wrong, 0.0)


def test_the_name_of_a_stretch_is_a_media_fragment_and_leads_back_to_its_file():
    assert named("a/b.mp4", 12.5, 20.0) == "a/b.mp4#t=12.5,20" and named("b.mp4", 100.0, math.inf) == "b.mp4#t=100"
    assert parsed("a/b.mp4#t=12.5,20") == ("a/b.mp4", 12.5, 20.0) and parsed("b.mp4#t=100") == (
        "b.mp4",
        100.0,
        math.inf,
    )
    assert all(parsed(name) == (name, 0.0, math.inf) for name in ("odd#t=x.mp4", "b.mp4", "#t=1,2"))


@pytest.mark.parametrize(
    "kind", ["h264_b_frames", "h264_mkv", "h264_late_start", "h264_variable_rate", "mpeg4_avi_b_frames"]
)
def test_every_frame_is_found_at_the_time_at_which_it_begins(tmp_path, kind):
    name, options = VIDEO_KINDS[kind]
    path = write_video(tmp_path / name, 60, **options)
    with VideoReader(path) as reader:
        begins = [reader.begins(index) for index in range(61)]
    assert begins[0] == 0 and begins == sorted(set(begins))
    step = [4 if kind == "h264_variable_rate" and index % 3 == 0 else 1 for index in range(60)]
    assert begins == pytest.approx([sum(step[:index]) / 30 for index in range(61)], abs=0.002)
    for index, seconds in enumerate(begins):
        with VideoReader(path) as fresh:  # what was found before does not matter
            assert [fresh.frame_at(seconds + shift) for shift in (-0.01, 0.0, 0.01)] == [index] * 3
    with VideoReader(path) as reader:
        assert reader.frame_at(1e6) == 60


# ------------------------------------------------------------------------------------------------------------- frames


@pytest.mark.parametrize(
    "times, frames",
    [
        ("1,2", range(30, 60)),
        ("0:01,0:02.5", range(30, 75)),
        (",0.5", range(15)),
        ("3.5,", range(105, 120)),
        ("1.33,1.67", range(40, 50)),  # 1.3333 and 1.6667, rounded by whoever wrote them
        ("3.9,4.8", range(117, 120)),  # ends are rounded up too
        (",", range(120)),
    ],
)
def test_a_stretch_holds_the_frames_between_its_times(folder, times, frames):
    manifest = listed(folder, f"long.mp4,a,{times}\nother.mp4,b,0,1\n")
    assert shown(manifest.source(0)) == list(frames)


def test_stretches_that_touch_share_no_frame_and_lose_none(folder):
    manifest = listed(folder, "long.mp4,a,0,1.234\nlong.mp4,b,1.234,2.9\nlong.mp4,a,2.9,\n")
    assert [number for index in range(3) for number in shown(manifest.source(index))] == list(range(120))


def test_the_files_own_times_count_where_frames_last_unequally_long(folder):
    manifest = listed(folder, "variable.mp4,a,2,4\nlong.mp4,b,0,1\n")
    assert shown(manifest.source(0)) == list(range(30, 60))  # 15 frames a second on average


def test_a_clip_can_be_read_in_any_order_scaled_and_in_part(folder):
    source = listed(folder, "long.mp4,a,1,2\n").source(0)
    with open_clip(source) as clip:
        assert clip.num_frames == 30 and clip.fps == pytest.approx(30) and not clip.truncated
        assert numbers_in(clip.read([29, 0, 7, 7])) == [59, 30, 37, 37]
        assert clip.read([3], short_side=32).shape == (1, 32, 48, 3)
        assert clip.read([3], part=lambda height, width: (0, 0, 10, 20)).shape == (1, 10, 20, 3)


def test_bytes_of_a_table_have_stretches_too(folder):
    from datasets import Dataset

    video = {"bytes": (folder / "long.mp4").read_bytes(), "path": "long.mp4"}
    times = {"start_seconds": ["0:01", None, "3"], "end_seconds": [2.0, 1.0, None]}
    rows = Dataset.from_dict({"video": [video] * 3, "label": [0, 1, 0], **times})
    manifest = open_manifest(rows)
    assert [shown(manifest.source(index)) for index in range(3)] == [[*range(30, 60)], [*range(30)], [*range(90, 120)]]
    assert manifest.path(0) == "long.mp4#t=1,2"
    with pytest.raises(ValueError, match="row 0: end_seconds=1 is not after start_seconds=3; correct them"):
        open_manifest(Dataset.from_dict({"video": [video], "start_seconds": [3.0], "end_seconds": [1.0]}))


@pytest.mark.parametrize("mode", ["train", "validation", "test", "pretrain"])
def test_clips_are_drawn_inside_the_stretch_as_from_a_video_of_its_own(folder, mode):
    """The same frames as of a file cut by hand, whatever the mode, the epoch and the policy."""
    manifest = listed(folder, "long.mp4,a,1,3\nother.mp4,b,0,1\n")
    write_video(folder / "cut.mp4", 60)
    write_video(folder / "cut1.mp4", 30)
    by_hand = open_manifest(write(folder / "cut.csv", "path,label\ncut.mp4,a\ncut1.mp4,b\n"))
    for strategy in ("dense",) if mode == "pretrain" else ("dense", "uniform"):
        sampling = ClipSampling(num_frames=8, stride_frames=2, strategy=strategy, clips=2, crops=1)
        sets = [
            VideoDataset(one, mode=mode, sampling=sampling, transform=Whole(), seed=3) for one in (manifest, by_hand)
        ]
        for epoch in range(3):
            for one in sets:
                one.set_epoch(epoch)
            clips = [one[0]["pixel_values"].flatten(0, 1).permute(0, 2, 3, 1) for one in sets]
            assert [number - 30 for number in numbers_in(clips[0])] == numbers_in(clips[1])
            assert sets[0][0]["path"] == "long.mp4#t=1,3"


def test_only_the_packets_of_the_stretch_and_its_group_of_pictures_are_read(tmp_path, monkeypatch):
    """Of 100 s with a key frame every 12 frames, a clip of one second costs a second of packets, not a hundred."""
    path = write_video(tmp_path / "long.mp4", 3000, width=32, height=32, gop=12, options={"preset": "ultrafast"})
    packets = []
    before = VideoReader._find_group
    monkeypatch.setattr(VideoReader, "_find_group", lambda self, index: packets.append(index) or before(self, index))
    runs = VideoReader._run
    decoded = []
    monkeypatch.setattr(
        VideoReader,
        "_run",
        lambda self, first, last, wanted: decoded.append((first, last)) or runs(self, first, last, wanted),
    )
    with open_clip(Stretch(str(path), 50.0, 51.0)) as clip:
        clip.read(range(0, 30, 4))
    assert min(packets) >= 1500 and max(packets) < 1530
    assert min(first for first, _ in decoded) >= 1488 and max(last for _, last in decoded) <= 1536


# ------------------------------------------------------------------------------------------------- files that stay open


def test_a_file_stays_open_for_its_next_stretch_and_is_opened_anew_once_it_changed(folder, tmp_path, monkeypatch):
    opened = []
    before = VideoReader.__init__
    monkeypatch.setattr(
        VideoReader, "__init__", lambda self, source, **more: opened.append(source) or before(self, source, **more)
    )
    path = str(write_video(tmp_path / "v.mp4", 60))
    assert [shown(Stretch(path, start, start + 0.5))[0] for start in (0.5, 0.0, 1.0)] == [15, 0, 30] and len(
        opened
    ) == 1
    write_video(path, 70)
    os.utime(path, ns=(1, 1))
    assert shown(Stretch(path, 2.0, math.inf)) == list(range(60, 70)) and len(opened) == 2
    with pytest.raises(VideoReadError):
        shown(Stretch(path, 50.0, 51.0))
    assert shown(Stretch(path, 0.0, 0.1)) == [0, 1, 2] and len(opened) == 3  # after an error nothing is kept


def test_no_more_files_than_the_limit_stay_open(tmp_path):
    for number in range(stretches.IDLE_READERS + 3):
        shown(Stretch(str(write_video(tmp_path / f"{number}.mp4", 12)), 0.0, 0.2))
    assert len(stretches._idle._kept) == stretches.IDLE_READERS


def test_two_users_of_one_file_do_not_share_a_reader(folder):
    path = str(folder / "long.mp4")
    with open_clip(Stretch(path, 0.0, 1.0)) as one, open_clip(Stretch(path, 2.0, 3.0)) as other:
        assert [numbers_in(clip.read([0, 5])) for clip in (one, other, one)] == [[0, 5], [60, 65], [0, 5]]


def test_samples_are_bit_equal_with_and_without_workers(folder):
    manifest = listed(
        folder, "".join(f"{name}.mp4,{name},{t / 4},{t / 4 + 1}\n" for t in range(12) for name in ("long", "other"))
    )
    sets = VideoDataset(manifest, sampling=ClipSampling(num_frames=4, stride_frames=2), transform=Whole())
    alone = [sets[index]["pixel_values"] for index in range(len(manifest))]
    loader = torch.utils.data.DataLoader(sets, batch_size=None, num_workers=2)
    assert all(torch.equal(one, item["pixel_values"]) for one, item in zip(alone, loader))


# ------------------------------------------------------------------------------------------------------------- errors


def refused(folder, rows, message, **options):
    with pytest.raises(ValueError, match=re.escape(message)):
        listed(folder, rows, **options)


def test_an_end_before_the_start_is_refused_with_its_line(folder):
    message = "list.csv, line 3: end_seconds=1 of long.mp4 is not after start_seconds=2; exchange or correct them"
    refused(folder, "long.mp4,a,0,1\nlong.mp4,b,2,1\n", message)


def test_a_time_that_cannot_be_read_is_refused_with_its_line(folder):
    message = "list.csv, line 2: end_seconds='1m' is no time; give seconds such as 83.5, or h:mm:ss such as 0:01:23.5"
    refused(folder, "long.mp4,a,0,1m\n", message)


def test_one_label_a_video_allows_no_overlap_under_two_labels(folder):
    message = (
        "list.csv, line 4: 'long.mp4' from 0.5 to 1.5 s as 'b' overlaps the stretch from 0 to 1 s as 'a' on line 2; correct "
        "the times, or read several labels with label_kind='multi'"
    )
    rows = "long.mp4,a,0,1\nother.mp4,b,0,1\nlong.mp4,b,0.5,1.5\n"
    refused(folder, rows, message)
    assert listed(folder, rows, label_kind="multi").labels.tolist() == [[1, 0], [0, 1], [0, 1]]
    refused(
        folder,
        "long.mp4,a,,\nlong.mp4,b,1,2\n",
        "line 3: 'long.mp4' from 1 to 2 s as 'b' overlaps the stretch from 0 to inf s",
    )
    assert (
        len(listed(folder, "long.mp4,a,0,1\nlong.mp4,a,0.5,2\nlong.mp4,b,2,3\n")) == 3
    )  # one label, and one that touches


def test_the_same_stretch_under_two_sets_of_labels_is_refused(folder):
    message = "line 3: 'long.mp4' from 1 to 2 s as 'b' overlaps the stretch from 1 to 2 s as 'a' on line 2; write both labels in one row"
    refused(folder, "long.mp4,a,1,2\nlong.mp4,b,1,2\n", message, label_kind="multi")


def test_start_and_end_without_a_total_are_refused_naming_both_readings(tmp_path):
    table = write(tmp_path / "t.csv", "path,label,start,end\na.mp4,x,1,2\n")
    message = (
        "columns start and end without total can mean seconds of a video or frames of a folder; for seconds name them "
        "start_seconds and end_seconds, for frames give start and total"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        open_manifest(table)
    frames = open_manifest(write(table, "path,label,start,total,end\nfolder,x,1,9,9\nb,y,1,9,9\n"))
    assert frames.source(0).count == 9 and frames.stretches is None


def test_seconds_of_a_folder_of_frames_are_refused(tmp_path):
    table = write(tmp_path / "t.csv", "path,label,start,total,start_seconds,end_seconds\nfolder,x,1,9,0,1\n")
    with pytest.raises(
        ValueError, match=r"line 2: folder is a folder of 9 frames, which have no clock; give their numbers by"
    ):
        open_manifest(table)


@pytest.mark.parametrize(
    "times, message",
    [
        (
            "5,6",
            r"list\.csv, line 2: start_seconds=5 lies beyond the end of \S+long\.mp4, which is 4\.00 s long; correct the",
        ),
        (
            "3,5.5",
            r"list\.csv, line 2: end_seconds=5\.5 lies beyond the end of \S+long\.mp4, which is 4\.00 s long; correct it",
        ),
        (
            "1.001,1.01",
            r"line 2: \S+long\.mp4 begins no frame from start_seconds=1\.001 to end_seconds=1\.01; make the",
        ),
    ],
)
def test_what_the_file_does_not_hold_is_an_error_when_it_is_opened(folder, times, message):
    with pytest.raises(VideoReadError, match=message):
        shown(listed(folder, f"long.mp4,a,{times}\nother.mp4,b,0,1\n").source(0))


# --------------------------------------------------------------------------------------------------------- the manifest


def test_entries_are_named_by_file_and_times_and_keep_them_in_a_subset(folder):
    manifest = listed(folder, "long.mp4,a,1,2\nother.mp4,b,,\nlong.mp4,b,2,\n")
    assert [manifest.path(index) for index in range(3)] == ["long.mp4#t=1,2", "other.mp4", "long.mp4#t=2"]
    assert manifest.source(1) == str(folder / "other.mp4")
    part = manifest.subset([2, 0])
    assert [part.path(index) for index in range(2)] == ["long.mp4#t=2", "long.mp4#t=1,2"]
    assert part.source(0).place.endswith("list.csv, line 4")
    other = listed(folder, "long.mp4,a,1,2.5\nother.mp4,b,,\nlong.mp4,b,2.5,\n")
    assert manifest.sha256() != other.sha256()
    plain = open_manifest(write(folder / "plain.csv", "path,label\nlong.mp4,a\nother.mp4,b\n"))
    assert listed(folder, "long.mp4,a,,\nother.mp4,b,,\n").sha256() == plain.sha256() and plain.stretches is None
