"""Downloads from servers that keep to no rule: each ends in time, takes no memory, and nothing they say is repeated."""

import itertools
import socket
import threading
import time

import pytest

from videomae.video_io import Limits, VideoReadError, probe
from videomae.video_source import download

SECONDS = 0.6
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def drip(text):
    """One byte at a time, each well within any limit for a single receive."""
    for value in text:
        yield bytes([value])
        time.sleep(0.05)


def endless(block, pause=0.0):
    for _ in itertools.count():
        yield block
        time.sleep(pause)


# path: what is sent to whoever asks for it
ANSWERS = {
    "/ok": lambda: [HEAD + b"Content-Length: 4\r\n\r\nfine"],
    "http://elsewhere.invalid/ok": lambda: [HEAD + b"Content-Length: 4\r\n\r\nfine"],  # as a proxy is asked
    "/chunked": lambda: [CHUNKED, b"2\r\nfi\r\n2;name=value\r\nne\r\n0\r\nTrailer: x\r\n\r\n"],
    "/redirect_with_body": lambda: itertools.chain(
        [b"HTTP/1.1 302 Found\r\nLocation: /ok\r\n\r\n"], endless(bytes(1 << 16))
    ),
    "/around": lambda: [b"HTTP/1.1 302 Found\r\nLocation: /around\r\nContent-Length: 0\r\n\r\n"],
    "/to_a_file": lambda: [b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"],
    "/silent": lambda: endless(b"", 0.1),
    "/drip_status": lambda: drip(HEAD * 100),
    "/drip_header": lambda: itertools.chain([HEAD], drip(b"X: " + b"a" * 1000)),
    "/header_lines": lambda: itertools.chain([HEAD], endless(b"X-A: b\r\n", 0.02)),
    "/drip_body": lambda: itertools.chain([HEAD + b"\r\n"], drip(bytes(1000))),
    "/drip_chunk_length": lambda: itertools.chain([CHUNKED], drip(b"0" * 1000)),
    "/drip_trailers": lambda: itertools.chain([CHUNKED, b"4\r\nfine\r\n0\r\n"], endless(b"X: y\r\n", 0.02)),
    "/fast_trailers": lambda: itertools.chain([CHUNKED, b"4\r\nfine\r\n0\r\n"], endless(b"X: y\r\n" * 1000)),
    "/continue": lambda: endless(b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
    "/fast_continue": lambda: endless(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "/large_chunk": lambda: itertools.chain([CHUNKED, b"FFFFFFFFFFFF\r\n"], endless(bytes(1 << 16))),
    "/negative_chunk": lambda: itertools.chain([CHUNKED, b"-5\r\n"], endless(bytes(1 << 16))),
    "/endless": lambda: itertools.chain([HEAD + b"\r\n"], endless(bytes(1 << 16))),
    "/garbage": lambda: [b"\x1b[2J\x07SECRET \xff\xfe\r\n\r\n"],
    "/bad_chunk": lambda: [CHUNKED, b"SECRET\x1b\r\nfine\r\n0\r\n\r\n"],
    "/bad_length": lambda: [HEAD + b"Content-Length: SECRET\x1b\r\n\r\nfine"],
    "/huge_length": lambda: [HEAD + b"Content-Length: 99999999999999999999999\r\n\r\nfine"],
    "/bad_phrase": lambda: [b"HTTP/1.1 404 SECRET\x1b[2J\r\n\r\n"],
    "/bad_address": lambda: [b"HTTP/1.1 302 Found\r\nLocation: http://SECRET\x01/\r\nContent-Length: 0\r\n\r\n"],
    "/cut": lambda: [HEAD + b"Content-Length: 40\r\n\r\nfine"],
    "/nothing": lambda: [],
}
ANSWERS |= {
    f"/slow_redirect_{number}": lambda number=number: itertools.chain(
        drip(b"HTTP/1.1 "),
        [f"302 Found\r\nLocation: /slow_redirect_{number + 1}\r\nContent-Length: 0\r\n\r\n".encode()],
    )
    for number in range(12)
}


class Server:
    def __init__(self):
        self.sent, self.open = 0, True
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while self.open:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection):
        with connection:
            try:
                request = b""
                while b"\r\n\r\n" not in request:
                    request += connection.recv(4096)
                for block in ANSWERS[request.split()[1].decode()]():
                    if not self.open:
                        return
                    connection.sendall(block)
                    self.sent += len(block)
            except OSError:
                pass


@pytest.fixture
def server():
    server = Server()
    yield server
    server.open = False
    server.listener.close()


@pytest.mark.parametrize("path", ["/ok", "/chunked"])
def test_a_file_is_fetched(server, path):
    assert download(server.address + path) == b"fine"


def test_the_proxy_of_the_environment_is_used(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.address)
    assert download("http://elsewhere.invalid/ok") == b"fine"


def test_the_body_of_a_redirect_is_never_read(server):
    begin = time.monotonic()
    assert download(server.address + "/redirect_with_body", Limits(download_seconds=5)) == b"fine"
    assert time.monotonic() - begin < 2
    assert server.sent < 16 << 20  # what the system's buffers take, not what the library would


@pytest.mark.parametrize(
    "path",
    ["/silent", "/drip_status", "/drip_header", "/header_lines", "/drip_body", "/drip_chunk_length", "/drip_trailers"]
    + ["/fast_trailers", "/continue", "/fast_continue", "/slow_redirect_0"],
)
def test_one_deadline_holds_for_everything_that_a_server_sends(server, path):
    begin = time.monotonic()
    message = "not done after download_seconds=0.6|headers of the answer are not valid"  # more than a hundred of them
    with pytest.raises(VideoReadError, match=message):
        download(server.address + path, Limits(download_seconds=SECONDS))
    assert time.monotonic() - begin < 1.5 * SECONDS


@pytest.mark.parametrize("path", ["/endless", "/large_chunk", "/negative_chunk"])
def test_content_beyond_the_limit_is_not_taken(server, path):
    with pytest.raises(VideoReadError, match=r"cannot be fetched: it is longer than max_download_bytes=1000000; raise"):
        download(server.address + path, Limits(max_download_bytes=1_000_000, download_seconds=5))
    assert server.sent < 32 << 20


@pytest.mark.parametrize(
    "path, message",
    [
        ("/garbage", "the answer is not HTTP"),
        ("/bad_chunk", "the answer is not HTTP|closed the connection before the end"),
        ("/bad_length", "headers of the answer are not valid"),
        ("/huge_length", "headers of the answer are not valid"),
        ("/bad_phrase", "the server answers 404 Not Found"),
        ("/bad_address", "the address is not valid|a redirect that is not followed"),
        ("/around", "the server answers 302 Found, a redirect that is not followed"),
        ("/to_a_file", "the server answers 302 Found, a redirect that is not followed"),
        ("/cut", r"it ended after 4 of 40 bytes|closed the connection before the end"),
        ("/nothing", "the server closed the connection without an answer"),
    ],
)
def test_messages_are_in_our_words(server, path, message):
    with pytest.raises(VideoReadError, match=f"cannot be fetched: .*({message})") as refused:
        probe(server.address + path, limits=Limits(download_seconds=5))
    assert "SECRET" not in str(refused.value) and str(refused.value).isprintable()


def test_a_machine_that_does_not_listen_is_named_with_the_reason():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(VideoReadError, match=rf"http://127\.0\.0\.1:{port}/a cannot be fetched: Connection refused"):
        download(f"http://127.0.0.1:{port}/a", Limits(download_seconds=5))
