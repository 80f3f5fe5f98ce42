import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch
from video_files import numbers_in, write_video

from videomae.commands.prepare import main
from videomae.data import prepare as preparing
from videomae.data.lists.layouts import open_manifest
from videomae.data.prepare import Recoding, prepare, recode
from videomae.data.sources import open_clip
from videomae.data.synthetic import SyntheticSet, make_synthetic_set
from videomae.data.transforms import PretrainTransform
from videomae.data.video_dataset import VideoDataset
from videomae.sampling_videomae import ClipSampling
from videomae.video_io import probe, read_frames

FAST = Recoding(short_side=32, preset="ultrafast")


pytestmark = pytest.mark.filterwarnings("ignore:training flips clips")


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    spec = SyntheticSet(clips=20, validation_clips=0, test_clips=0, num_frames=12, height=32, width=48)
    return make_synthetic_set(tmp_path_factory.mktemp("data") / "synthetic", spec)


@pytest.fixture(scope="module")
def prepared(synthetic, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "prepared"
    prepare(open_manifest(synthetic / "train.csv"), folder, recoding=FAST, videos_per_shard=6, progress=False)
    return folder


def by_path(manifest):
    return {manifest.path(i): i for i in range(len(manifest))}


def test_frames_keep_their_number_and_order_at_the_new_size(tmp_path):
    write_video(tmp_path / "a.mp4", 40, width=192, height=128, fps=25, options={"bf": "3"})
    for recoding in (Recoding(short_side=64), Recoding(short_side=64, codec="mjpeg", quality=3)):
        video, facts = recode(str(tmp_path / "a.mp4"), recoding)
        assert (facts["frames"], facts["fps"], facts["width"], facts["height"]) == (40, 25.0, 96, 64)
        assert numbers_in(read_frames(video, range(40))) == list(range(40))


def test_prepared_h264_has_short_distances_between_key_frames(tmp_path):
    write_video(tmp_path / "a.mp4", 100, gop=1000)
    video, _ = recode(str(tmp_path / "a.mp4"), Recoding())
    assert probe(video).key_frames == 3 and probe(video).height == 64  # never scaled up


def test_shards_hold_every_video_with_its_label_and_near_equal_pixels(synthetic, prepared):
    original, manifest = open_manifest(synthetic / "train.csv"), open_manifest(prepared)
    places = by_path(manifest)
    assert places.keys() == by_path(original).keys() and manifest.class_names == original.class_names
    for i in range(len(original)):
        assert manifest.label(places[original.path(i)]) == original.label(i)
    with open_clip(manifest.source(places[original.path(7)])) as clip:
        assert clip.num_frames == 12
        ours = clip.read([0, 5, 11]).int()
    assert (ours - read_frames(original.source(7), [0, 5, 11]).int()).abs().float().mean() < 6


def test_shards_are_tar_files_of_pairs_that_others_can_read(prepared):
    names = sorted(path.name for path in prepared.glob("*.tar"))
    assert names == ["shard-00000.tar", "shard-00001.tar", "shard-00002.tar", "shard-00003.tar"]
    with tarfile.open(prepared / names[0]) as tar:
        members = tar.getnames()
        assert len(members) == 12 and {name.split(".")[1] for name in members} == {"mp4", "json"}
        record = json.load(tar.extractfile(members[1]))
        assert record["frames"] == 12 and record["path"].startswith("videos/train/")
        assert probe(tar.extractfile(members[0]).read()).num_frames == 12


def test_a_data_set_over_shards_trains_like_one_over_files(prepared):
    dataset = VideoDataset(
        prepared, sampling=ClipSampling(num_frames=4, stride_frames=2), transform=PretrainTransform(16)
    )
    item = dataset[3]
    assert item["pixel_values"].shape == (1, 4, 3, 16, 16) and torch.equal(
        item["pixel_values"], dataset[3]["pixel_values"]
    )


def test_a_folder_keeps_names_and_order_and_is_read_by_its_list(synthetic, tmp_path):
    original = open_manifest(synthetic / "train.csv")
    prepare(original, tmp_path / "out", recoding=FAST, format="folder", progress=False)
    manifest = open_manifest(tmp_path / "out" / "manifest.jsonl")
    assert [manifest.path(i) for i in range(3)] == [original.path(i) for i in range(3)]
    assert manifest.labels.tolist() == original.labels.tolist() and manifest.class_names == original.class_names
    row = json.loads((tmp_path / "out" / "manifest.jsonl").read_text().splitlines()[0])
    assert row["frames"] == 12 and len(row["source_sha256"]) == 64 and row["source"] == original.path(0)


@pytest.mark.slow  # each worker imports torch
def test_two_workers_write_the_bytes_of_one(synthetic, prepared, tmp_path):
    manifest = open_manifest(synthetic / "train.csv")
    prepare(manifest, tmp_path / "two", recoding=FAST, videos_per_shard=6, workers=2, progress=False)
    for path in prepared.iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_an_interrupted_run_goes_on_where_it_stopped(synthetic, prepared, tmp_path, monkeypatch):
    manifest, calls = open_manifest(synthetic / "train.csv"), []
    whole = preparing.recode

    def failing(source, recoding, errors):
        calls.append(source)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return whole(source, recoding, errors)

    monkeypatch.setattr(preparing, "recode", failing)
    with pytest.raises(KeyboardInterrupt):
        prepare(manifest, tmp_path / "out", recoding=FAST, videos_per_shard=6, progress=False)
    assert not (tmp_path / "out" / "shards.json").exists()
    done = len(calls)
    prepare(manifest, tmp_path / "out", recoding=FAST, videos_per_shard=6, progress=False)
    assert len(calls) - done == 20 - 6  # the first shard was complete
    for path in prepared.iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    with pytest.raises(ValueError, match="was prepared with short_side=32, not 64"):
        prepare(manifest, tmp_path / "out", recoding=Recoding(short_side=64), videos_per_shard=6, progress=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thing").touch()
    with pytest.raises(FileExistsError, match="was not made by this command"):
        prepare(manifest, tmp_path / "other", progress=False)


def test_broken_and_oddly_named_videos_are_reported_or_kept(synthetic, tmp_path, capsys):
    shutil.copytree(synthetic, tmp_path / "set")
    (tmp_path / "set/videos/train/00004.mp4").write_bytes(b"x")
    (tmp_path / "set/videos/train/00005.mp4").rename(tmp_path / "set/videos/train/跑 步 é.mp4")
    rows = (tmp_path / "set/train.csv").read_text().replace("00005.mp4", "跑 步 é.mp4")
    (tmp_path / "set/train.csv").write_text(rows, encoding="utf-8")
    code = main([str(tmp_path / "set/train.csv"), str(tmp_path / "out"), "--num_workers=1", "--preset=ultrafast"])
    shown = capsys.readouterr()
    assert code == 1 and "FAILED: 1 of 20 videos cannot be read, above --max_broken 0.01" in shown.err
    more = ["--num_workers=1", "--preset=ultrafast", "--max_broken=0.05"]
    assert main([str(tmp_path / "set/train.csv"), str(tmp_path / "out"), *more]) == 0
    assert "19 videos" in shown.out and "broken, left out: videos/train/00004.mp4" in shown.err
    manifest = open_manifest(tmp_path / "out")
    assert len(manifest) == 19 and "videos/train/跑 步 é.mp4" in by_path(manifest)
    assert json.loads((tmp_path / "out/report.json").read_text())["broken"][0]["index"] == 4


def test_a_video_that_is_cut_off_is_left_out_or_prepared_as_far_as_it_goes(tmp_path):
    (tmp_path / "in").mkdir()
    for name in "ab":
        write_video(tmp_path / f"in/{name}.mkv", 60, width=64, height=48)
    whole = (tmp_path / "in/b.mkv").read_bytes()
    (tmp_path / "in/b.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    manifest = open_manifest(tmp_path / "in")
    strict = prepare(manifest, tmp_path / "strict", recoding=FAST, progress=False)
    assert strict["videos"] == 1 and [record["path"] for record in strict["broken"]] == ["b.mkv"]
    report = prepare(manifest, tmp_path / "out", recoding=FAST, errors="truncate", progress=False)
    assert report["videos"] == 2 and report["broken"] == [] and 65 < report["frames"] < 120
    with pytest.raises(ValueError, match="was prepared with errors='truncate', not 'strict'"):
        prepare(manifest, tmp_path / "out", recoding=FAST, progress=False)
    settings = json.loads((tmp_path / "strict/prepare.json").read_text())
    del settings["errors"]  # as a version without the choice wrote it
    (tmp_path / "strict/prepare.json").write_text(json.dumps(settings))
    assert prepare(manifest, tmp_path / "strict", recoding=FAST, progress=False)["videos"] == 1
    (tmp_path / "strict/prepare.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"prepare\.json is damaged; choose another folder"):
        prepare(manifest, tmp_path / "strict", recoding=FAST, progress=False)


def test_what_a_kill_left_does_not_block_the_next_run(synthetic, tmp_path):
    (tmp_path / ".prepare.json.ab12.tmp").write_text("half")
    prepare(open_manifest(synthetic / "train.csv"), tmp_path, recoding=FAST, progress=False)
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.slow  # each worker imports torch
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="asks the system for the children of a process")
def test_workers_end_with_a_process_that_is_killed(synthetic, tmp_path):
    code = "import sys; from videomae.commands.prepare import main; main(sys.argv[1:])"
    options = ["--num_workers=2", "--preset=placebo", "--short_side=240", "--videos_per_shard=2"]
    command = [sys.executable, "-c", code, str(synthetic / "train.csv"), str(tmp_path / "out"), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").glob("shard-*.json")):  # both workers have worked
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    process.kill()
    process.wait()
    assert len(workers) >= 2
    while any(_is_alive(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_damaged_shards_are_refused(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "cut")
    whole = (tmp_path / "cut/shard-00001.tar").read_bytes()
    (tmp_path / "cut/shard-00001.tar").write_bytes(whole[:3000])
    with pytest.raises(ValueError, match=r"shard-00001.tar is cut off"):
        open_manifest(tmp_path / "cut")
    (tmp_path / "cut/shard-00001.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-00001.tar is missing"):
        open_manifest(tmp_path / "cut")


def test_shards_outside_the_folder_are_refused(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "set")
    index = json.loads((tmp_path / "set/shards.json").read_text())
    index["shards"] = [f"../{prepared.name}/{name}" for name in index["shards"]]
    (tmp_path / "set/shards.json").write_text(json.dumps(index))
    (tmp_path / prepared.name).symlink_to(prepared)
    with pytest.raises(ValueError, match="outside its folder"):
        open_manifest(tmp_path / "set")


def test_vectors_of_labels_survive(tmp_path, synthetic):
    rows = [
        json.loads(json.dumps({"path": f"videos/train/0000{i}.mp4", "label": ["a"] if i else ["a", "b"]}))
        for i in range(3)
    ]
    (synthetic / "multi.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepare(
        open_manifest(synthetic / "multi.jsonl", label_kind="multi", class_names=["a", "b"]),
        tmp_path / "out",
        recoding=FAST,
        progress=False,
    )
    manifest = open_manifest(tmp_path / "out")
    assert manifest.labels[by_path(manifest)["videos/train/00000.mp4"]].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"codec": "vp9"}, "codec must be"),
        ({"short_side": 3}, "short_side must be in"),
        ({"gop": 0}, "gop must be in"),
    ],
)
def test_impossible_recodings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Recoding(**fields)
