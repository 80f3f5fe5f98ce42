"""Prepared shards behind a URL: equal to local ones, whatever servers, networks and killed processes do."""

import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import huggingface_hub
import pytest
import torch
from hub_server import HubServer

from videomae import train_pretrain
from videomae.command_line import UsageError
from videomae.data import remote
from videomae.data.collators import ClassificationCollator
from videomae.data.lists.layouts import open_manifest, open_videos
from videomae.data.prepare import Recoding, prepare
from videomae.data.remote import BUCKETS, Cache
from videomae.data.sampler import EpochSampler
from videomae.data.sources import open_clip, read_member
from videomae.data.synthetic import SyntheticSet, make_synthetic_set
from videomae.data.transforms import TrainTransform
from videomae.data.video_dataset import VideoDataset, make_loader
from videomae.sampling_videomae import ClipSampling
from videomae.training.options import FINETUNE, PRETRAIN, read_arguments
from videomae.training.runs import read_log
from videomae.video_io import VideoReadError

TROUBLE = "trying for"  # of the warning that a read is tried again
pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore:training flips clips")]


class RangeServer:
    """A folder over HTTP with byte ranges, and the trouble that a test asks for.

    trouble[name] lists what happens to the next requests for a file: "503", "stall", "short", "whole" (the range is
    ignored) or "fine"; the last one stays, and after an empty list all is well.
    """

    def __init__(self, folder):
        self.folder, self.trouble, self.lock = folder, {}, threading.Lock()
        self.asked: list[tuple[str, tuple[int, int] | None]] = []  # file, its range
        self.closing = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/set"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def handler(server):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                name = self.path.rpartition("/")[2]
                path = server.folder / name
                match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                limits = (int(match[1]), int(match[2]) + 1) if match else None
                with server.lock:
                    server.asked.append((name, limits))
                    left = server.trouble.get(name, ["fine"])
                    what = left.pop(0) if len(left) > 1 else left[0]
                if what == "stall":
                    server.closing.wait(30)
                if what == "503":
                    return self.answer(503, b"slow down")
                if not path.is_file():
                    return self.answer(404, b"no such file")
                data = path.read_bytes()
                if limits is None or what == "whole":
                    return self.answer(200, data)
                if limits[0] >= len(data):
                    return self.answer(416, b"", f"bytes */{len(data)}")
                part = data[slice(*limits)]
                if what == "short":
                    part = part[: len(part) // 2]
                self.answer(206, part, f"bytes {limits[0]}-{limits[0] + len(part) - 1}/{len(data)}")

            def answer(self, status, data, limits=None):
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(data)))
                    if limits:
                        self.send_header("Content-Range", limits)
                    self.end_headers()
                    self.wfile.write(data)

        return Handler

    def member_reads(self):
        """The ranges of videos that were read, without the looks at a last byte."""
        return [limits for name, limits in self.asked if name.endswith(".tar") and limits[1] - limits[0] > 1]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    spec = SyntheticSet(clips=20, validation_clips=0, test_clips=0, num_frames=12, height=32, width=48)
    folder = tmp_path_factory.mktemp("data")
    make_synthetic_set(folder / "synthetic", spec)
    recoding = Recoding(short_side=32, preset="ultrafast")
    prepare(open_manifest(folder / "synthetic/train.csv"), folder / "set", recoding=recoding, videos_per_shard=6, progress=False)  # fmt: skip
    return folder / "set"


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEOMAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VIDEOMAE_CACHE_GIB", "16")  # what a test changes is set back
    monkeypatch.setenv("VIDEOMAE_READ_SECONDS", "20")


@pytest.fixture
def server(prepared, tmp_path):
    """A server over a copy that a test may damage."""
    shutil.copytree(prepared, tmp_path / "served")
    with RangeServer(tmp_path / "served") as server:
        yield server


def same(remote_set, local_set):
    assert remote_set.sha256(labels=True) == local_set.sha256(labels=True)
    assert remote_set.class_names == local_set.class_names and remote_set.shards == local_set.shards
    for i in range(len(local_set)):
        assert read_member(remote_set.source(i)) == read_member(local_set.source(i))


# ------------------------------------------------------------------------------------------------------ what is read


def test_a_set_over_http_is_the_local_one_and_each_video_is_one_range(prepared, server):
    local, far = open_manifest(prepared), open_manifest(server.url)
    assert far.root == server.url and far.source(3).shard.startswith("http://127.0.0.1")
    same(far, local)
    sizes = sorted(read[1] - read[0] for read in server.member_reads())
    assert sizes == sorted(int(size) + 512 for size in local.size)  # each with its tar header, and nothing else


@pytest.mark.parametrize("ending", ["", "/", "/shards.json"])
def test_the_folder_may_be_named_in_three_ways(server, ending):
    assert open_manifest(server.url + ending).source(0).shard.startswith(server.url + "/shard-0000")
    assert len(open_videos(server.url + ending)) == 20


def test_a_file_url_is_the_folder_itself(prepared):
    assert open_manifest(prepared.as_uri()).source(0) == open_manifest(prepared).source(0)


def test_file_systems_that_are_not_asynchronous_are_read_too(prepared):
    memory = fsspec.filesystem("memory")
    memory.put(str(prepared), "/a set", recursive=True)
    try:
        same(open_manifest("memory://a set"), open_manifest(prepared))
    finally:
        memory.rm("/a set", recursive=True)


def batches(source, workers, mode="train"):
    dataset = VideoDataset(
        source, mode=mode, sampling=ClipSampling(num_frames=4, stride_frames=2), transform=TrainTransform(16)
    )
    return list(make_loader(dataset, EpochSampler(20, seed=3), 4, ClassificationCollator(), workers=workers))


def test_workers_forked_after_this_process_has_read_give_the_clips_of_the_local_set(prepared, server):
    local, here = batches(prepared, 0), batches(server.url, 0)
    forked = batches(server.url, 2)
    for one, two, three in zip(local, here, forked, strict=True):
        assert torch.equal(one["pixel_values"], two["pixel_values"]) and one["sources"] == two["sources"]
        assert torch.equal(one["pixel_values"], three["pixel_values"]) and torch.equal(one["labels"], three["labels"])


def test_a_training_from_http_shards_has_the_losses_of_one_from_local_shards(prepared, server, tmp_path):
    architecture = (
        "patch_size=8 hidden_size=32 num_hidden_layers=1 num_attention_heads=2 intermediate_size=64 "
        "decoder_hidden_size=16 decoder_num_hidden_layers=1 decoder_num_attention_heads=2 decoder_intermediate_size=32"
    )
    command = ["--recipe", "tiny-v2", "--image_size", "32", "--num_frames", "8", "--clips_per_step", "4", "--log_every", "1"]  # fmt: skip
    command += ["--config", *architecture.split()]

    def losses(data, name, *more):
        output = ["--output", str(tmp_path / name), *more]
        assert train_pretrain.main([*command, "--data", str(data), *output]) == 0
        return [line["loss"] for line in read_log(tmp_path / name / "log.jsonl")]

    local = losses(prepared, "local", "--max_steps", "4", "--num_workers", "0")
    server.trouble["shard-00001.tar"] = ["fine", "503", "short", "fine"]  # after the look at its last byte
    cache = ("--cache_dir", str(tmp_path / "kept"), "--cache_gib", "1")
    assert losses(server.url, "far", "--max_steps", "2", "--num_workers", "1", *cache) == local[:2]
    assert files_in(tmp_path / "kept")  # by the worker
    assert (
        losses(server.url, "far", "--max_steps", "4", "--resume", "auto", "--num_workers", "0") == local
        and len(local) == 4
    )


@pytest.fixture
def hub(monkeypatch):
    with HubServer() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
        address = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        yield hub


def test_a_data_set_of_the_hub_is_read_by_ranges_in_this_process_and_in_workers(prepared, hub):
    repo = hub.add_repo("lab/clips", {f"prepared/{path.name}": path.read_bytes() for path in prepared.iterdir()})
    url, local = "hf://datasets/lab/clips/prepared", open_manifest(prepared)
    far = open_manifest(url)
    hub.ranges.clear()
    same(far, local)
    starts = [far.source(i).offset - 512 for i in range(20)]
    ends = [far.source(i).offset + far.source(i).size - 1 for i in range(20)]
    assert hub.ranges == [f"bytes={start}-{end}" for start, end in zip(starts, ends)]
    for one, two in zip(batches(prepared, 0), batches(url, 2), strict=True):
        assert torch.equal(one["pixel_values"], two["pixel_values"])
    del repo.files["prepared/shard-00001.tar"]
    hub.add_repo("lab/less", repo.files)
    with pytest.raises(FileNotFoundError, match=r"less/prepared/shard-00001.tar is missing"):
        open_manifest("hf://datasets/lab/less/prepared")
    with pytest.raises(FileNotFoundError, match=r"hf://datasets/lab/none/shards.json is missing"):
        open_manifest("hf://datasets/lab/none")


@pytest.fixture(scope="module")
def s3():
    """S3 as moto serves it, with the settings that its clients take from the environment."""
    pytest.importorskip("s3fs", reason="needs pip install 'videomae[test_s3]'")
    moto = pytest.importorskip("moto.server", reason="needs pip install 'videomae[test_s3]'")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "stand-in")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield fsspec.filesystem("s3")
    server.stop()


def test_a_bucket_of_s3_is_read_by_ranges_in_this_process_and_in_workers(prepared, s3):
    s3.mkdir("clips")
    s3.put(str(prepared), "clips/prepared", recursive=True)
    url = "s3://clips/prepared"
    same(open_manifest(url), open_manifest(prepared))
    for one, two in zip(batches(prepared, 0), batches(url, 2), strict=True):
        assert torch.equal(one["pixel_values"], two["pixel_values"])


def test_what_is_wrong_with_a_bucket_is_said_at_once(prepared, s3, monkeypatch):
    s3.mkdir("less")
    s3.put(str(prepared), "less/prepared", recursive=True)
    s3.pipe("less/prepared/shard-00001.tar", (prepared / "shard-00001.tar").read_bytes()[:3000])
    start = time.monotonic()
    with pytest.raises(OSError, match=r"shard-00001.tar is shorter than its index says .*upload it again"):
        open_manifest("s3://less/prepared")
    s3.rm("less/prepared/shard-00001.tar")
    with pytest.raises(FileNotFoundError, match=r"s3://less/prepared/shard-00001.tar is missing"):
        open_manifest("s3://less/prepared")
    with pytest.raises(FileNotFoundError, match=r"s3://none/shards.json is missing"):
        open_manifest("s3://none")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    type(s3).clear_instance_cache()
    with pytest.raises(PermissionError, match=r"shards.json may not be read .*check the credentials of this machine"):
        open_manifest("s3://less/prepared")
    type(s3).clear_instance_cache()
    assert time.monotonic() - start < 15


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(ImportError, match=r"s3:// needs a package that is not installed: pip install 'videomae\[s3\]'"):
        open_manifest("s3://clips/prepared")


# ------------------------------------------------------------------------------------------------------ what goes wrong


def first_of(server, shard=0):
    """A video of a shard of the set that a server holds."""
    manifest = open_manifest(server.url)
    return manifest.source(manifest.shard.tolist().index(shard))


def test_a_busy_server_is_asked_again(prepared, server):
    server.trouble["shards.json"] = server.trouble["shard-00002.json"] = ["503", "503", "fine"]
    with pytest.warns(RuntimeWarning, match="503.*trying for 20 s"):
        member = first_of(server)
    server.trouble["shard-00000.tar"] = ["503", "503", "fine"]
    with pytest.warns(RuntimeWarning, match="shard-00000.tar: .*503"):
        assert len(read_member(member)) == member.size
    assert [name for name, _ in server.asked].count("shards.json") == 3


def test_a_server_that_stalls_is_left_and_asked_again(server, monkeypatch):
    member = first_of(server)
    monkeypatch.setenv("VIDEOMAE_READ_SECONDS", "6")
    server.trouble["shard-00000.tar"] = ["stall", "fine"]
    start = time.monotonic()
    with pytest.warns(RuntimeWarning, match="Timeout"):
        assert len(read_member(member)) == member.size
    assert 1.5 <= time.monotonic() - start < 6  # a quarter of the limit, and a pause


def test_a_server_that_answers_nothing_stops_the_run_after_the_limit(server, monkeypatch):
    member = first_of(server)
    monkeypatch.setenv("VIDEOMAE_READ_SECONDS", "2")
    server.trouble["shard-00000.tar"] = ["stall"]
    start = time.monotonic()
    with (
        pytest.warns(RuntimeWarning, match=TROUBLE),
        pytest.raises(OSError, match=r"could not be read in 2 s and \d tries: .*Timeout.*raise VIDEOMAE_READ_SECONDS"),
    ):
        read_member(member)
    assert time.monotonic() - start < 10


def test_a_body_that_is_short_once_is_asked_for_again_and_always_short_is_an_error(server):
    member = first_of(server)
    server.trouble["shard-00000.tar"] = ["short", "fine"]
    with pytest.warns(RuntimeWarning, match=r"bytes came instead of \d+; trying"):
        assert len(read_member(member)) == member.size
    shutil.rmtree(os.environ["VIDEOMAE_CACHE"])
    server.trouble["shard-00000.tar"] = ["short"]
    wanted = rf"shard-00000.tar is shorter than its index says \(\d+ bytes came instead of {member.size + 512}\)"
    with pytest.warns(RuntimeWarning, match=TROUBLE), pytest.raises(OSError, match=wanted):
        read_member(member)


def test_a_server_without_ranges_is_refused_when_the_set_is_opened(server):
    server.trouble["shard-00000.tar"] = ["whole"]
    with pytest.raises(OSError, match=r"asked for 1 bytes, the server sent \d+; it does not serve byte ranges"):
        open_manifest(server.url)


def test_a_missing_or_short_object_is_named_when_the_set_is_opened(server):
    (server.folder / "shard-00002.tar").write_bytes((server.folder / "shard-00002.tar").read_bytes()[:4000])
    with pytest.raises(OSError, match=r"shard-00002.tar is shorter than its index says .*416.*upload it again"):
        open_manifest(server.url)
    (server.folder / "shard-00002.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-00002.tar is missing; give the URL of a prepared folder"):
        open_manifest(server.url)
    (server.folder / "shards.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"set/shards.json is missing; give the URL of a prepared folder"):
        open_manifest(server.url)


def test_an_object_that_goes_missing_later_stops_a_run_and_replaces_no_clip(server):
    dataset = VideoDataset(open_manifest(server.url), mode="pretrain", transform=TrainTransform(16))
    (server.folder / "shard-00000.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-00000.tar is missing"):
        dataset[dataset.manifest.shard.tolist().index(0)]
    assert dataset.broken == []


def test_a_broken_video_behind_a_url_is_still_a_broken_video(server):
    member = first_of(server)
    path = server.folder / "shard-00000.tar"
    data = bytearray(path.read_bytes())
    data[member.offset : member.offset + member.size] = bytes(member.size)
    path.write_bytes(data)
    with (
        pytest.raises(VideoReadError, match=rf"{re.escape(member.name)} in http://.*shard-00000.tar"),
        open_clip(member),
    ):
        pass


def test_a_shard_that_is_not_that_of_its_index_is_refused(server):
    member = first_of(server)
    for moved in (member._replace(offset=member.offset + 512), member._replace(size=member.size - 1)):
        with pytest.raises(
            OSError, match=rf"has no file of {moved.size} bytes at {moved.offset} .*upload the prepared"
        ):
            read_member(moved)


def test_an_index_that_points_before_its_shard_is_refused_near_and_far(server):
    index = server.folder / "shard-00001.json"
    index.write_text(re.sub(r'"offset": \d+', '"offset": -7', index.read_text(), count=1))
    for source in (server.folder, server.url):
        with pytest.raises(ValueError, match=r"shard-00001.json places '.*mp4' at -7; run prepare again"):
            open_manifest(source)


def test_what_cannot_be_opened_is_said_at_once(server, monkeypatch):
    (server.folder / "shards.json").write_text("<html>log in first</html>")
    with pytest.raises(ValueError, match=r"holds no JSON but b'<html>log in"):
        open_manifest(server.url)
    with pytest.raises(ValueError, match=r"only prepared shards are read from a URL, not layout 'list'"):
        open_manifest(server.url, layout="list")
    with pytest.raises(ValueError, match=r"Protocol not known: nowhere; use s3://, gs://, hf://"):
        open_manifest("nowhere://set")
    for name, text in (("VIDEOMAE_CACHE_GIB", "lots"), ("VIDEOMAE_READ_SECONDS", "-1")):
        with (
            monkeypatch.context() as patch,
            pytest.raises(ValueError, match=f"{name} must be a number .* not '{text}'"),
        ):
            patch.setenv(name, text)
            open_manifest(server.url)


@pytest.mark.parametrize("error", [ConnectionRefusedError, type("EndpointConnectionError", (Exception,), {})])
def test_a_server_that_was_never_reached_is_a_wrong_address_and_later_it_is_waited_for(monkeypatch, error):
    tries = []

    def fail(*args):
        tries.append(args)
        raise error("no way")

    monkeypatch.setattr(remote, "_fetch", fail)
    monkeypatch.setenv("VIDEOMAE_READ_SECONDS", "2.5")
    with pytest.warns(RuntimeWarning, match=TROUBLE), pytest.raises(OSError, match="correct the address, or start the"):
        remote.read_json("memory://set/shards.json", first=True)
    assert len(tries) == 3
    with pytest.warns(RuntimeWarning, match=TROUBLE), pytest.raises(OSError, match="resume the run when the storage"):
        remote.read("memory://set/shard-00000.tar", 0, 1)


def test_a_port_without_a_server_is_refused_within_seconds(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    with pytest.warns(RuntimeWarning, match=TROUBLE), pytest.raises(OSError, match="no server can be reached there"):
        open_manifest(f"http://127.0.0.1:{port}/set")
    assert time.monotonic() - began < 10  # of the 20 that a read may take


@pytest.mark.parametrize("error", ["NoCredentialsError", "OfflineModeIsEnabled"])
def test_errors_that_time_does_not_cure_are_not_tried_again(monkeypatch, error):
    def fail(*args):
        raise type(error, (ConnectionError,), {})("no way")

    monkeypatch.setattr(remote, "_fetch", fail)
    with pytest.raises(OSError, match="no way"), warnings.catch_warnings():
        warnings.simplefilter("error")
        remote.read("memory://set/shards.json")


# ------------------------------------------------------------------------------------------------------ the cache


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_was_read_once_is_not_asked_for_again(server, tmp_path, monkeypatch):
    member = first_of(server)
    video, asked = read_member(member), len(server.asked)
    assert read_member(member) == video and len(server.asked) == asked
    (path,) = files_in(tmp_path / "cache")
    path.write_bytes(path.read_bytes()[:-9] + b"damaged!!")  # as a crash of the machine may leave it
    assert read_member(member) == video and len(server.asked) == asked + 1
    monkeypatch.setenv("VIDEOMAE_CACHE_GIB", "0")
    shutil.rmtree(tmp_path / "cache")
    assert read_member(member) == video and not (tmp_path / "cache").exists()


def test_options_set_the_cache_before_the_environment_does(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEOMAE_CACHE_GIB", "7")
    before = Cache.of_environment()
    remote.use_cache(None, None)
    assert Cache.of_environment() == before
    remote.use_cache(str(tmp_path / "named"), 0.25)
    assert Cache.of_environment() == Cache(tmp_path / "named", 2**28)


@pytest.mark.parametrize("trainer", [PRETRAIN, FINETUNE])
def test_trainings_have_options_for_the_cache(trainer):
    options = read_arguments(trainer, ["--recipe", "tiny", "--cache_dir", "there", "--cache_gib", "0"]).options
    assert (options.cache_dir, options.cache_gib) == ("there", 0.0)
    with pytest.raises(UsageError, match="cache_gib"):
        read_arguments(trainer, ["--recipe", "tiny", "--cache_gib", "-1"])


def test_the_cache_drops_what_was_not_used_for_longest_and_keeps_to_its_limit(tmp_path):
    cache = Cache(tmp_path, limit_bytes=BUCKETS * 1000)
    keys = [key for key in map(str, range(1000)) if cache._path(key).parent == cache._path("0").parent][:4]
    for age, key in enumerate(keys[:3]):
        cache.put(key, bytes(296))
        os.utime(cache._path(key), (1000 + age, 1000 + age))
    assert cache.get(keys[0], 296) == bytes(296)  # now the one used last
    cache.put(keys[3], bytes(296))
    assert [cache.get(key, 296) is not None for key in keys] == [True, False, True, True]
    cache.put("more than a bucket", bytes(997))
    assert cache.get("more than a bucket", 997) is None
    for key in range(2000):
        cache.put(str(key), bytes(range(250)))
        assert sum(path.stat().st_size for path in files_in(cache._path(str(key)).parent)) <= 1000
    assert 32_000 < sum(path.stat().st_size for path in files_in(tmp_path)) <= cache.limit_bytes


def test_a_cache_that_cannot_be_written_is_named_and_done_without(server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("VIDEOMAE_CACHE", str(tmp_path / "file"))
    member = first_of(server)
    with pytest.warns(RuntimeWarning, match=r"the cache .*file takes no more videos.*set VIDEOMAE_CACHE to another"):
        assert len(read_member(member)) == member.size


def test_the_last_part_of_a_disk_stays_free(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(remote.shutil, "disk_usage", lambda _: usage._replace(free=usage.total // 25))
    with pytest.warns(RuntimeWarning, match="stays free for checkpoints"):
        Cache(tmp_path, 2**30).put("key", bytes(10))
    assert not files_in(tmp_path)


FILL = """
import sys
from videomae.data.remote import Cache
from pathlib import Path
cache = Cache(Path(sys.argv[1]), 64 * 400_000)
print("filling", flush=True)
for turn in range(int(sys.argv[2])):
    for key in range(300):
        size = 1000 + 500 * key
        data = cache.get(str(key), size)
        assert data is None or data == bytes([key % 256]) * size
        if data is None or turn % 2:
            cache.put(str(key), bytes([key % 256]) * size)
"""


def start_filling(folder, turns):
    command = [sys.executable, "-c", textwrap.dedent(FILL), str(folder), str(turns)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"filling\n"
    return process


def test_kill_9_and_other_processes_leave_a_sound_cache(tmp_path):
    """Two fill the cache until they are killed, thrice; a third reads and writes all the while, and checks each byte."""
    steady = start_filling(tmp_path, 6)
    for pause in (0.05, 0.15, 0.25):
        victims = [start_filling(tmp_path, 10**6) for _ in range(2)]
        time.sleep(pause)
        for victim in victims:
            victim.send_signal(signal.SIGKILL)
            victim.wait()
    assert steady.wait(60) == 0
    bucket = tmp_path / Cache(tmp_path, 0)._path("7").parent.name
    leftover = bucket / ".killed.tmp"
    leftover.write_bytes(bytes(10_000))
    os.utime(leftover, (1, 1))
    cache, kept = Cache(tmp_path, 64 * 400_000), 0
    for key in range(300):
        size = 1000 + 500 * key
        data = cache.get(str(key), size)
        assert data is None or data == bytes([key % 256]) * size
        kept += data is not None
    assert kept > 150
    cache.put("7", bytes(395_000))
    assert not leftover.exists()  # of all files the oldest
    # One that was killed between writing and removing left its folder too large, until the next entry of it.
    for folder in tmp_path.iterdir():
        cache.put(next(key for key in map(str, itertools.count()) if cache._path(key).parent == folder), bytes(1000))
    assert all(sum(path.stat().st_size for path in files_in(folder)) <= 400_000 for folder in tmp_path.iterdir())
