"""A stand-in for the Hub's HTTP API on 127.0.0.1: what creating, uploading to and reading a model repository asks, and
what reading a data set's asks, whole or by byte ranges.

`with HubServer() as hub:` serves `hub.endpoint`; `hub.repos[name]` holds the commits and files that arrived.
`hub.cut_after_bytes = n` drops the connection once that much of a large file has come in, as a bad line would.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

TOKEN = "hf_stand_in_token"
# What .gitattributes of a fresh model repository sends to large-file storage.
LARGE_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".npy", ".png", ".mp4", ".parquet"}


@dataclass
class Commit:
    oid: str
    message: str
    files: dict[str, bytes]  # what this commit brought
    deleted: list[str]


@dataclass
class Repo:
    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[Commit] = field(default_factory=list)

    @property
    def head(self) -> str:
        return self.commits[-1].oid if self.commits else "0" * 40


class HubServer:
    def __init__(self, *, user: str = "tester", orgs: tuple[str, ...] = ()):
        self.user, self.orgs = user, orgs
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}  # by sha256, as large-file storage keeps them
        self.xorbs: list[bytes] = []  # the chunks of Xet storage, packed
        self.shards: list[bytes] = []  # what says which chunks make a file, and its sha256
        self.requests: list[tuple[str, str]] = []
        self.ranges: list[str] = []  # what was asked for with a Range header
        self.cut_after_bytes: int | None = None
        self.fail_commit_with: int | None = None
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_for(self))
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add_repo(self, name: str, files: dict[str, bytes]) -> Repo:
        """A repository that is already there."""
        repo = self.repos[name] = Repo()
        self.commit(name, "first", dict(files), [])
        return repo

    def commit(self, name: str, message: str, files: dict[str, bytes], deleted: list[str]) -> Commit:
        repo = self.repos[name]
        oid = hashlib.sha1(f"{name}{len(repo.commits)}".encode()).hexdigest()
        commit = Commit(oid, message, files, deleted)
        repo.commits.append(commit)
        repo.files.update(files)
        for path in deleted:
            repo.files.pop(path, None)
        return commit

    def asked(self, pattern: str) -> int:
        """How many requests matched `METHOD /path`."""
        return sum(bool(re.fullmatch(pattern, f"{method} {path}")) for method, path in self.requests)


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(path: str) -> bool:
    return PurePosixPath(path).suffix in LARGE_SUFFIXES


def as_in_shards(sha256: str) -> bytes:
    """A hash as Xet's shards hold it: four little-endian words of eight bytes."""
    digest = bytes.fromhex(sha256)
    return b"".join(digest[start : start + 8][::-1] for start in range(0, 32, 8))


def _handler_for(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):  # pytest's output is for the tests
            pass

        # The routes, in the order in which an upload meets them: (method, path pattern, needs a token, method below).
        ROUTES = (
            ("GET", r"/api/whoami-v2", True, "whoami"),
            ("POST", r"/api/repos/create", True, "create"),
            ("POST", r"/api/validate-yaml", False, "validate_yaml"),
            ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/[^/]+", True, "preupload"),
            ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", True, "lfs_batch"),
            ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", False, "lfs_put"),
            ("POST", r"/lfs/verify", True, "lfs_verify"),
            ("GET", r"/api/models/[^/]+/[^/]+/xet-write-token/[^/]+", True, "xet_token"),
            ("POST", r"/xet/v1/xorbs/[^/]+/[^/]+", False, "xet_xorb"),
            ("POST", r"/xet/v1/shards", False, "xet_shard"),
            ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/[^/]+", True, "post_commit"),
            ("GET", r"/api/(models|datasets)/(?P<repo>[^/]+/[^/]+)(/revision/[^/]+)?", False, "repo_info"),
            ("GET", r"/api/(models|datasets)/(?P<repo>[^/]+/[^/]+)/tree/[^/]+(/(?P<folder>.*))?", False, "tree"),
            ("GET|HEAD", r"/(datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/[^/]+/(?P<path>.+)", False, "resolve"),
        )

        def handle_any(self):
            path = unquote(urlsplit(self.path).path)
            with hub.lock:
                hub.requests.append((self.command, path))
            for methods, pattern, needs_token, name in self.ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in methods.split("|"):
                    if needs_token and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                        return self.drain_and_answer(401, {"error": "Invalid username or password."})
                    return getattr(self, name)(**match.groupdict())
            return self.drain_and_answer(404, {"error": f"the stand-in has no {self.command} {path}"})

        do_GET = do_POST = do_PUT = do_HEAD = handle_any

        # -- answers --

        def whoami(self):
            orgs = [{"type": "org", "name": name} for name in hub.orgs]
            self.answer(200, {"type": "user", "name": hub.user, "orgs": orgs, "auth": {"type": "access_token"}})

        def create(self):
            asked = self.body_json()
            owner = asked.get("organization") or hub.user
            if owner not in (hub.user, *hub.orgs):
                return self.answer(403, {"error": f"You don't have the rights to create a model under {owner}"})
            name = f"{owner}/{asked['name']}"
            if name in hub.repos:
                return self.answer(
                    409, {"error": "You already created this model repo", "url": f"{hub.endpoint}/{name}"}
                )
            hub.repos[name] = Repo(private=asked.get("visibility") == "private")
            return self.answer(200, {"url": f"{hub.endpoint}/{name}", "name": name, "id": name})

        def validate_yaml(self):
            self.body_json()
            self.answer(200, {"errors": [], "warnings": []})

        def preupload(self, repo):
            if repo not in hub.repos:
                return self.missing_repo()
            here = hub.repos[repo].files
            answer = []
            for file in self.body_json()["files"]:
                path, large = file["path"], is_large(file["path"])
                oid = None
                if path in here:
                    oid = hashlib.sha256(here[path]).hexdigest() if large else git_oid(here[path])
                mode = "lfs" if large else "regular"
                answer.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            return self.answer(200, {"files": answer})

        def lfs_batch(self, repo):
            objects = []
            for wanted in self.body_json()["objects"]:
                objects.append({"oid": wanted["oid"], "size": wanted["size"]})
                if wanted["oid"] not in hub.blobs:  # what is stored already is not asked for again: the upload resumes
                    upload = {"href": f"{hub.endpoint}/lfs/{wanted['oid']}"}
                    objects[-1]["actions"] = {"upload": upload, "verify": {"href": f"{hub.endpoint}/lfs/verify"}}
            self.answer(200, {"transfer": "basic", "objects": objects})

        def lfs_put(self, oid):
            size = int(self.headers["Content-Length"])
            if hub.cut_after_bytes is not None and size > hub.cut_after_bytes:
                self.rfile.read(hub.cut_after_bytes)
                self.close_connection = True
                return self.connection.shutdown(2)
            content = self.rfile.read(size)
            if hashlib.sha256(content).hexdigest() != oid:
                return self.answer(400, {"error": "the content is not what its name says"})
            hub.blobs[oid] = content
            return self.answer(200, {})

        def lfs_verify(self):
            known = self.body_json()["oid"] in hub.blobs
            self.answer(200 if known else 404, {})

        # Xet storage keeps chunks; the stand-in keeps what came, and takes the client's word for what is in it.

        def xet_token(self):
            expires = int(time.time()) + 3600
            self.answer(200, {"casUrl": f"{hub.endpoint}/xet", "accessToken": "for the chunks", "exp": expires})

        def xet_xorb(self):
            hub.xorbs.append(self.body())
            self.answer(200, {"was_inserted": True})

        def xet_shard(self):
            hub.shards.append(self.body())
            self.answer(200, {"result": 1})

        def post_commit(self, repo):
            lines = [json.loads(line) for line in self.body().splitlines()]
            if repo not in hub.repos:
                return self.missing_repo()
            if hub.fail_commit_with is not None:
                return self.answer(hub.fail_commit_with, {"error": "the stand-in was told to refuse commits"})
            message, files, deleted = "", {}, []
            for line in lines:
                key, value = line["key"], line["value"]
                if key == "header":
                    message = value["summary"]
                elif key == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif key == "lfsFile":
                    in_xet = any(as_in_shards(value["oid"]) in shard for shard in hub.shards)
                    if value["oid"] not in hub.blobs and not in_xet:
                        return self.answer(400, {"error": f"{value['path']} was never uploaded"})
                    files[value["path"]] = hub.blobs.get(value["oid"], b"in Xet storage")
                elif key == "deletedFile":
                    deleted.append(value["path"])
                else:
                    return self.answer(400, {"error": f"the stand-in has no {key}"})
            with hub.lock:
                commit = hub.commit(repo, message, files, deleted)
            return self.answer(
                200, {"commitUrl": f"{hub.endpoint}/{repo}/commit/{commit.oid}", "commitOid": commit.oid}
            )

        def repo_info(self, repo):
            if repo not in hub.repos:
                return self.missing_repo()
            there = hub.repos[repo]
            siblings = [{"rfilename": path} for path in there.files]
            return self.answer(200, {"id": repo, "modelId": repo, "sha": there.head, "siblings": siblings, "tags": []})

        def tree(self, repo, folder):
            if repo not in hub.repos:
                return self.missing_repo()
            inside = f"{folder}/" if folder else ""
            files = [(path, data) for path, data in hub.repos[repo].files.items() if path.startswith(inside)]
            return self.answer(
                200, [{"type": "file", "path": path, "size": len(data), "oid": git_oid(data)} for path, data in files]
            )

        def resolve(self, repo, path):
            if repo not in hub.repos:
                return self.missing_repo()
            there = hub.repos[repo]
            if path not in there.files:
                return self.answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            content = there.files[path]
            headers = {"ETag": f'"{git_oid(content)}"', "X-Repo-Commit": there.head, "Accept-Ranges": "bytes"}
            limits = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if limits is None:
                return self.answer(200, content, headers)
            hub.ranges.append(limits[0])
            part = content[int(limits[1]) : int(limits[2]) + 1]
            last = int(limits[1]) + len(part) - 1
            return self.answer(206, part, {**headers, "Content-Range": f"bytes {limits[1]}-{last}/{len(content)}"})

        def missing_repo(self):
            self.drain_and_answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

        # -- plumbing --

        def body(self) -> bytes:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def body_json(self) -> dict:
            return json.loads(self.body())

        def drain_and_answer(self, *args):
            self.body()
            self.answer(*args)

        def answer(self, status: int, content: dict | list | bytes, headers: dict[str, str] | None = None):
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(status)
                for key, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
                    self.send_header(key, value)
                if isinstance(content, dict) and "error" in content:
                    self.send_header("X-Error-Message", content["error"])
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

    return Handler
