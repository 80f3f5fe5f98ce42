"""Live video: streams, cameras and pipes, read by a thread that never waits for the model.

Nothing here is reached unless a caller asks for it (`pipe.live`, `--live`): files and URLs are video_source.py's, and FFmpeg
gets no address of theirs. TCP, UDP and pipes are opened here and FFmpeg gets their bytes; only RTSP addresses and
cameras are given to FFmpeg itself. Which frames make a window is video_windows.py's part.
"""

import dataclasses
import os
import select
import socket
import stat
import sys
import threading
import time
import urllib.parse
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np

from .video_packets import to_the_end
from .video_pictures import Damage, upright_rgb, upright_size
from .video_source import DECODER_ERRORS, DEMUXERS, Limits, VideoReadError, av, check_pixels, picture_stream, reason
from .video_windows import Window, regular_windows

Live = str | os.PathLike | BinaryIO

FORMS = "rtsp://HOST/PATH, tcp://HOST:PORT, udp://@:PORT, /dev/video0, or - for standard input"
POLL_SECONDS = 0.2  # how soon a read notices that it should stop
CLOSE_SECONDS = 2.0  # FFmpeg's own waits (RTSP, cameras) end later, in a thread that nobody waits for
FIRST_DELAY, LAST_DELAY = 1.0, 30.0  # seconds between attempts to connect: doubled each time
# Packets may come for so long before the first picture: a decoder that joins a stream waits for its next key frame.
PICTURE_SECONDS = 60.0
READ_BYTES = 1 << 16  # a UDP datagram is never larger
SOCKET_BYTES = 4 << 20  # asked of the system for UDP; it may give less


class _Stopped(Exception):
    """The reader was closed."""


class _Stalled(Exception):
    """Nothing has come for too long."""


@dataclass(frozen=True)
class LiveWindow(Window):
    """A window of a live source; frames and seconds count from the first picture, over all connections."""

    connection: int = 1  # a window never spans two connections
    arrived: float = 0.0  # time.monotonic() when its last frame came out of the decoder
    dropped_frames: int = (
        0  # since the window before: those that no window shows because the reader of windows was late
    )
    dropped_windows: int = 0
    damaged: int = 0  # since the window before: pictures and packets that the decoder marks as damaged or refuses


# ------------------------------------------------------------------------------------------------ where pictures come from


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

    def open(self, stall_seconds: float, stop: threading.Event, on_event: Callable[[str], None]) -> "_Closing":
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


def _of_bytes(data: "LiveBytes", close: Callable[[], None] = lambda: None) -> "_Closing":
    """FFmpeg sees bytes: it cannot follow anything that they name."""
    options = {"format_whitelist": ",".join(DEMUXERS), "protocol_whitelist": "file"}
    return _opened(data, close, options=options, buffer_size=READ_BYTES)


def _opened(source: Any, close: Callable[[], None] = lambda: None, **settings: Any) -> "_Closing":
    try:
        container = av.open(source, "r", metadata_errors="replace", **settings)
    except BaseException:
        close()
        raise
    return _Closing(cast("av.container.InputContainer", container), close)


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
                raise _Stopped
            if time.monotonic() < end:
                continue
            if self._on_stall is None:
                raise _Stalled(f"no data for {self._stall_seconds:g} s")
            self._on_stall()
            end = float("inf")
        if self._stop.is_set():
            raise _Stopped


class _Closing:
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


# ------------------------------------------------------------------------------------------------------- windows of them


class LiveReader:
    """The newest windows of a live source: a thread reads and decodes, and leaves out what nobody takes in time.

        with LiveReader("rtsp://...", num_frames=16, stride_frames=4, hop_frames=32, transform=...) as reader:
            for window in reader: ...

    At most `queue_windows` windows wait; where another one comes, the oldest is dropped and counted. A source that says
    nothing for `stall_seconds`, or ends, is opened again after 1, 2, 4, ... 30 seconds; the first connection must
    succeed. After `reconnect_seconds` without a picture the reader gives up (None: never). A pipe ends with its writer.
    `on_event` gets a sentence when a connection is lost, tried again or back.
    """

    def __init__(
        self,
        source: Live,
        *,
        num_frames: int,
        stride_frames: int,
        hop_frames: int,
        transform: Callable[[np.ndarray], Any] | None = None,
        queue_windows: int = 1,
        stall_seconds: float = 10.0,
        reconnect_seconds: float | None = None,
        limits: Limits | None = None,
        threads: int = 1,
        on_event: Callable[[str], None] = lambda sentence: None,
    ):
        clip = {"num_frames": num_frames, "stride_frames": stride_frames, "hop_frames": hop_frames}
        for name, value in {**clip, "queue_windows": queue_windows, "threads": threads}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if not stall_seconds > 0:
            raise ValueError(f"stall_seconds must be above 0, not {stall_seconds}")
        if reconnect_seconds is not None and not reconnect_seconds >= 0:
            raise ValueError(
                f"reconnect_seconds must be at least 0, or None to go on for ever, not {reconnect_seconds}"
            )
        if av is None:
            raise ImportError("reading videos needs PyAV: pip install av")
        self._source = LiveSource(source)
        self._clip, self._transform, self._queue_windows = clip, transform, queue_windows
        self._stall_seconds, self._reconnect_seconds = stall_seconds, reconnect_seconds
        self._limits, self._threads, self._on_event = limits or Limits(), threads, on_event
        self._stop, self._changed = threading.Event(), threading.Condition()
        self._thread = threading.Thread(target=self._run, name="videomae-live", daemon=True)
        self._queue: deque[LiveWindow] = deque()
        self._done, self._error = False, cast("BaseException | None", None)
        self._frames, self._connections, self._end = 0, 0, 0.0  # the end of the last picture, in seconds
        self._started, self._last_picture = 0.0, 0.0  # by the clock
        # Frames below `_covered` are in a window that was taken, or counted as dropped.
        self._covered, self._dropped_frames, self._dropped_windows, self._damaged = 0, 0, 0, 0
        self._thread.start()

    def __enter__(self) -> "LiveReader":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading. A thread inside one of FFmpeg's own waits is left behind; it ends with its wait."""
        self._stop.set()
        self._thread.join(CLOSE_SECONDS)

    def __iter__(self) -> Iterator[LiveWindow]:
        while (window := self._next()) is not None:
            yield window

    def _next(self) -> LiveWindow | None:
        with self._changed:
            while not self._queue and not self._done:
                self._changed.wait(POLL_SECONDS)
            if not self._queue:
                if self._error is not None:
                    raise self._error
                return None
            window = dataclasses.replace(
                self._queue.popleft(),
                dropped_frames=self._dropped_frames,
                dropped_windows=self._dropped_windows,
                damaged=self._damaged,
            )
            self._dropped_frames = self._dropped_windows = self._damaged = 0
            self._covered = max(self._covered, window.last_frame + 1)
            return window

    # In the thread

    def _run(self) -> None:
        try:
            self._follow()
        except _Stopped:
            pass
        except BaseException as error:
            self._error = error
        with self._changed:
            self._done = True
            self._changed.notify()

    def _follow(self) -> None:
        """Connect, read, and connect again, until the source is over or given up."""
        name, delay = self._source.name, FIRST_DELAY
        while True:
            before = self._frames
            try:
                self._read_once()
                problem = "it has ended"
            except (VideoReadError, _Stalled, *DECODER_ERRORS) as error:
                problem = reason(error)
                if isinstance(error, av.error.ExitError):  # how FFmpeg's own waits end
                    problem = f"no data for {self._stall_seconds:g} s"
            if self._stop.is_set():
                raise _Stopped
            if not self._connections:
                raise VideoReadError(f"{name} cannot be read: {problem}")
            if not self._source.returns:
                self._on_event(f"{name}: {problem}")
                return
            if self._frames > before:
                delay = FIRST_DELAY
            waited = time.monotonic() - self._last_picture
            if self._reconnect_seconds is not None and waited + delay > self._reconnect_seconds:
                raise VideoReadError(
                    f"{name} is lost: {problem}; no picture for {waited:.0f} s, and the next attempt {delay:g} s from now "
                    f"would be later than reconnect_seconds={self._reconnect_seconds:g}"
                )
            self._on_event(f"{name}: {problem}; next attempt in {delay:g} s")
            if self._stop.wait(delay):
                raise _Stopped
            delay = min(2 * delay, LAST_DELAY)

    def _read_once(self) -> None:
        """Read one connection to its end."""
        first_frame = self._frames
        with self._source.open(self._stall_seconds, self._stop, self._on_event) as container:
            windows = regular_windows(
                lambda needed: self._pictures(container, needed),
                transform=self._transform,
                partial="drop",
                **self._clip,
            )
            for window in windows:
                self._offer(
                    LiveWindow(
                        first_frame=first_frame + window.first_frame,
                        last_frame=first_frame + window.last_frame,
                        start_seconds=window.start_seconds,
                        end_seconds=window.end_seconds,
                        frames=window.frames,
                        connection=self._connections,
                        arrived=time.monotonic(),
                    )
                )

    def _pictures(
        self, container: "av.container.InputContainer", needed: Callable[[int], bool]
    ) -> Iterator[tuple[int, float, float, np.ndarray | None]]:
        """As `iter_frames`, but damage is counted, and seconds count from the first connection."""
        name, limits, damage = self._source.name, self._limits, Damage()
        stream = picture_stream(container, name, limits, self._threads)
        scaler = av.video.reformatter.VideoReformatter()
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        index, origin, end = -1, None, 0.0
        last = time.monotonic()  # when something last came out of the decoder
        for packet in to_the_end(container.demux(stream)):
            if self._stop.is_set():
                raise _Stopped
            try:
                frames = packet.decode()
            except DECODER_ERRORS:
                frames = []
                self._count_damage()
            if not frames and time.monotonic() - last > PICTURE_SECONDS:
                raise _Stalled(f"no picture in {PICTURE_SECONDS:g} s of data")
            for frame in frames:
                last = self._last_picture = time.monotonic()
                if index < 0:
                    end = self._connected(last)
                index += 1
                self._frames += 1
                check_pixels(name, frame.width, frame.height, limits)
                damage.see(frame)
                if damage.reaches:
                    self._count_damage()
                if frame.time is not None and origin is None:
                    origin = frame.time - end
                begin = end if frame.time is None else frame.time - origin
                length = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
                end = self._end = begin + (length or 1 / rate)
                picture = upright_rgb(frame, *upright_size(frame), scaler) if needed(index) else None
                yield index, begin, end, picture

    def _connected(self, now: float) -> float:
        """Seconds from the first picture of all to the first one of a new connection; they never go back."""
        self._connections += 1
        if self._connections == 1:
            self._started = now
        else:
            self._on_event(f"{self._source.name}: back")
        return max(now - self._started, self._end)

    def _count_damage(self) -> None:
        with self._changed:
            self._damaged += 1

    def _offer(self, window: LiveWindow) -> None:
        """Put a window where the newest ones wait; count the frames that only a dropped one showed."""
        with self._changed:
            self._queue.append(window)
            if len(self._queue) > self._queue_windows:
                old = self._queue.popleft()
                first, last = max(old.first_frame, self._covered), min(old.last_frame, self._queue[0].first_frame - 1)
                self._dropped_frames += max(last - first + 1, 0)
                self._covered = max(self._covered, last + 1)
                self._dropped_windows += 1
            self._changed.notify()
