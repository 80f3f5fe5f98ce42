"""Where live pictures come from: streams, cameras and pipes, checked by name and opened only on a caller's explicit wish.

Nothing here is reached unless a caller asks for it (`pipe.live`, `--live`): files and URLs are video_source.py's, and FFmpeg
gets no address of theirs. TCP, UDP and pipes are opened here and FFmpeg gets their bytes; only RTSP addresses and
cameras are given to FFmpeg itself. Reading on and making windows is video_live.py's part.
"""

import os
import select
import socket
import stat
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from .video_source import DEMUXERS, VideoReadError, av, reason

Live = str | os.PathLike | BinaryIO

FORMS = "rtsp://HOST/PATH, tcp://HOST:PORT, udp://@:PORT, /dev/video0, or - for standard input"
POLL_SECONDS = 0.2  # how soon a read notices that it should stop
READ_BYTES = 1 << 16  # a UDP datagram is never larger
SOCKET_BYTES = 4 << 20  # asked of the system for UDP; it may give less


class Stopped(Exception):
    """The reader was closed."""


class Stalled(Exception):
    """Nothing has come for too long."""


class LiveSource:
    """What `source` names, checked but not opened. `name` is for messages and has no password."""

    def __init__(self, source: Live):
        self.returns = True  # whether it can be opened again
        if source == "-":
            if sys.stdin is None or sys.stdin.isatty():
                raise VideoReadError("- is standard input, which is a terminal; pipe a stream into it")
            source = sys.stdin.buffer
            self.name, self.returns, self._open = "standard input", False, self._open_pipe
        elif hasattr(source, "fileno"):
            name = getattr(source, "name", None)  # of a pipe mostly its number
            self.name = name if isinstance(name, str) else "the pipe"
            self.returns, self._open = False, self._open_pipe
        elif isinstance(source, (str, os.PathLike)):
            source = os.fspath(source)
            self.name, self._open = source, self._open_camera
            if "://" in source:
                self._check_address(source)
            else:
                self._check_device(source)
        else:
            raise TypeError(f"a live source is {FORMS}, or an open pipe, not {type(source).__name__}")
        self._source: Any = source

    def open(self, stall_seconds: float, stop: threading.Event, on_event: Callable[[str], None]) -> "OpenSource":
        """A container that FFmpeg has opened."""
        return self._open(stall_seconds, stop, on_event)

    def _check_address(self, address: str) -> None:
        parts = urllib.parse.urlsplit(address)
        scheme = parts.scheme.lower()
        self.name = address.replace(parts.netloc, parts.netloc.rpartition("@")[2], 1) if parts.netloc else address
        if scheme in ("http", "https", "file"):
            raise VideoReadError(
                f"{self.name} is read as a file: leave live out, or let FFmpeg pipe it: ffmpeg -i {self.name} -c copy -f mpegts - | ... -"
            )
        if scheme not in ("rtsp", "rtsps", "tcp", "udp"):
            raise VideoReadError(f"{self.name}: a live source is {FORMS}, not {scheme}://")
        try:
            port = parts.port
        except ValueError:
            raise VideoReadError(f"{self.name}: its port is not a number from 0 to 65535") from None
        if scheme in ("rtsp", "rtsps"):
            if not parts.hostname:
                raise VideoReadError(f"{self.name} names no host; an RTSP address is rtsp://HOST/PATH")
            self._open = self._open_rtsp
            return
        if not port or (scheme == "tcp" and not parts.hostname):
            raise VideoReadError(
                f"{self.name} needs a port; the form is {'tcp://HOST' if scheme == 'tcp' else 'udp://@'}:PORT"
            )
        if parts.query or parts.path.strip("/"):
            raise VideoReadError(f"{self.name}: nothing may follow the port; FFmpeg's options are not read")
        self._open = self._open_tcp if scheme == "tcp" else self._open_udp

    def _check_device(self, path: str) -> None:
        try:
            mode = os.stat(path).st_mode
        except (OSError, ValueError) as error:
            raise FileNotFoundError(f"no camera at {path}: {reason(error)}; a live source is {FORMS}") from None
        if stat.S_ISREG(mode):
            raise VideoReadError(f"{path} is a file, not a live source; leave live out")
        if not stat.S_ISCHR(mode):
            raise VideoReadError(f"{path} is not a camera; a live source is {FORMS}")

    def _open_tcp(self, stall_seconds, stop, on_event):
        host, port = _host_and_port(self._source)
        sock = socket.create_connection((host, port), timeout=stall_seconds)
        return _of_bytes(LiveBytes(sock, sock.recv, stall_seconds, stop), sock.close)

    def _open_udp(self, stall_seconds, stop, on_event):
        sock = _listening(*_host_and_port(self._source), self.name)
        return _of_bytes(LiveBytes(sock, sock.recv, stall_seconds, stop), sock.close)

    def _open_pipe(self, stall_seconds, stop, on_event):
        number = self._source.fileno()
        waiting = lambda: on_event(f"{self.name}: no data for {stall_seconds:g} s; waiting")  # noqa: E731
        return _of_bytes(LiveBytes(number, lambda size: os.read(number, size), stall_seconds, stop, waiting))

    def _open_rtsp(self, stall_seconds, stop, on_event):
        options = {
            "rtsp_transport": "tcp",  # nothing is lost on the way, and no port has to be opened for the camera
            "allowed_media_types": "video",
            "protocol_whitelist": "rtsp,rtsps,tcp,tls,rtp",
        }
        return _opened(self._source, format="rtsp", options=options, timeout=stall_seconds)

    def _open_camera(self, stall_seconds, stop, on_event):
        if not any("v4l2" in name for name in av.formats_available):
            raise VideoReadError(
                f"{self.name}: this PyAV reads no cameras (those of Linux only); let another program pipe it into -"
            )
        return _opened(self._source, format="v4l2", timeout=stall_seconds)


def _of_bytes(data: "LiveBytes", close: Callable[[], None] = lambda: None) -> "OpenSource":
    """FFmpeg sees bytes: it cannot follow anything that they name."""
    options = {"format_whitelist": ",".join(DEMUXERS), "protocol_whitelist": "file"}
    return _opened(data, close, options=options, buffer_size=READ_BYTES)


def _opened(source: Any, close: Callable[[], None] = lambda: None, **settings: Any) -> "OpenSource":
    try:
        container = av.open(source, "r", metadata_errors="replace", **settings)
    except BaseException:
        close()
        raise
    return OpenSource(cast("av.container.InputContainer", container), close)


class LiveBytes:
    """The bytes of a socket or pipe, as FFmpeg reads them. A read ends when something is there, on a stall or a stop."""

    def __init__(
        self,
        handle: Any,
        receive: Callable[[int], bytes],
        stall_seconds: float,
        stop: threading.Event,
        on_stall: Callable[[], None] | None = None,
    ):
        self._handle, self._receive, self._stop = handle, receive, stop
        self._stall_seconds, self._on_stall = stall_seconds, on_stall
        self._rest = b""
        # Windows can wait for sockets only; a pipe's read then waits by itself.
        self._waits = os.name != "nt" or isinstance(handle, socket.socket)

    def seekable(self) -> bool:
        return False

    def read(self, size: int) -> bytes:
        """At most `size` bytes, as soon as there are any; none at the end of the source."""
        if not self._rest:
            self._wait()
            self._rest = self._receive(max(size, READ_BYTES))  # a datagram that is not taken whole is lost
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def _wait(self) -> None:
        end = time.monotonic() + self._stall_seconds
        while self._waits and not select.select([self._handle], [], [], POLL_SECONDS)[0]:
            if self._stop.is_set():
                raise Stopped
            if time.monotonic() < end:
                continue
            if self._on_stall is None:
                raise Stalled(f"no data for {self._stall_seconds:g} s")
            self._on_stall()
            end = float("inf")
        if self._stop.is_set():
            raise Stopped


class OpenSource:
    """A container, and what has to be closed after it."""

    def __init__(self, container: "av.container.InputContainer", close: Callable[[], None] = lambda: None):
        self.container, self._close = container, close

    def __enter__(self) -> "av.container.InputContainer":
        return self.container

    def __exit__(self, *error) -> None:
        try:
            self.container.close()
        finally:
            self._close()


def _host_and_port(address: str) -> tuple[str, int]:
    parts = urllib.parse.urlsplit(address)
    return parts.hostname or "", cast(int, parts.port)


def _listening(host: str, port: int, name: str) -> socket.socket:
    """A socket that gets what is sent to this port: of all addresses of this machine, of one, or of a multicast group."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise VideoReadError(f"{name}: {reason(error)}") from None
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
        bytes_of_host = socket.inet_aton(str(address[0])) if family == socket.AF_INET else b"\0"
        if 224 <= bytes_of_host[0] <= 239:
            group = bytes_of_host + socket.inet_aton("0.0.0.0")
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise VideoReadError(
            f"{name} cannot be listened to: {reason(error)}; the host must be an address of this machine, a multicast "
            "group of IPv4, or left out as in udp://@:PORT"
        ) from None
    return sock
