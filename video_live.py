"""Live video: a thread reads, decodes and keeps the newest windows, and never waits for the model.

Opening a source is video_live_sources.py's part, which frames make a window video_windows.py's.
"""

import dataclasses
import functools
import itertools
import operator
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from .video_live_sources import POLL_SECONDS, Live, LiveSource, Stalled, Stopped
from .video_packets import UNTIMED_DEMUXERS, to_the_end
from .video_pictures import Damage, upright_rgb, upright_size
from .video_source import DECODER_ERRORS, Limits, VideoReadError, av, check_pixels, picture_stream, reason
from .video_windows import Window, regular_windows

CLOSE_SECONDS = 2.0  # FFmpeg's own waits (RTSP, cameras) end later, in a thread that nobody waits for
FIRST_DELAY, LAST_DELAY = 1.0, 30.0  # seconds between attempts to connect: doubled each time
# Packets may come for so long before the first picture: a decoder that joins a stream waits for its next key frame.
PICTURE_SECONDS = 60.0
LATE_SECONDS = 2.0  # a decoder that is so late for so long leaves packets out
WAITED_SECONDS = 0.02  # a read that takes so long has waited for the source: nothing else is there to be read
JUMP_SECONDS = 10.0  # from one packet to the next: the clock of the source was set anew


@dataclass(frozen=True)
class LiveWindow(Window):
    """A window of a live source; frames and seconds count from the first picture, over all connections.

    dropped_frames, dropped_windows: since the window before, left out because the decoder or the model was late; frames that
    another window shows are not dropped. damaged: pictures and packets since then that the decoder marks or refuses.
    """

    connection: int = 1  # a window never spans two connections
    arrived: float = 0.0  # time.monotonic() when its last frame came out of the decoder
    dropped_frames: int = 0
    dropped_windows: int = 0
    damaged: int = 0


class Backlog:
    """Which packets are left out undecoded, so that a decoder that is too slow does not fall behind ever further.

    A packet is late by how much longer it took to come than the most punctual one, by their time stamps. Where packets have
    been late by LATE_SECONDS for as long, they are left out up to a key frame that is in time again, or that had
    to be waited for.
    """

    def __init__(self):
        self._best, self._before, self._in_time = float("inf"), None, 0.0
        self._leaving_out = self._waited = False

    def leaves_out(self, seconds: float | None, is_key: bool, now: float, waited: float) -> bool:
        """Whether to leave out the packet of this time stamp, which was read just `now`, after so many seconds' wait."""
        if seconds is None:
            return self._leaving_out and not is_key
        if self._before is None or not 0 <= seconds - self._before < JUMP_SECONDS:
            self._best, self._in_time = now - seconds, now
        self._before, self._best = seconds, min(self._best, now - seconds)
        late = now - seconds - self._best
        if late <= LATE_SECONDS:
            self._in_time = now
        if not self._leaving_out:
            self._leaving_out, self._waited = now - self._in_time > LATE_SECONDS, False
            return self._leaving_out
        self._waited = self._waited or waited > WAITED_SECONDS
        if is_key and (self._waited or late <= LATE_SECONDS / 2):
            self._leaving_out, self._best, self._in_time = False, now - seconds, now
        return self._leaving_out


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
        except Stopped:
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
            except (VideoReadError, Stalled, *DECODER_ERRORS) as error:
                problem = reason(error)
                if isinstance(error, av.error.ExitError):  # how FFmpeg's own waits end
                    problem = f"no data for {self._stall_seconds:g} s"
            if self._stop.is_set():
                raise Stopped
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
                raise Stopped
            delay = min(2 * delay, LAST_DELAY)

    def _read_once(self) -> None:
        """Read one connection to its end."""
        with self._source.open(self._stall_seconds, self._stop, self._on_event) as container:
            stream = picture_stream(container, self._source.name, self._limits, self._threads)
            scaler = av.video.reformatter.VideoReformatter()
            decoded = self._decoded(container, stream)
            for first_frame, run in itertools.groupby(decoded, key=operator.itemgetter(0)):
                windows = regular_windows(
                    functools.partial(_pictures, run, scaler),
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

    def _decoded(
        self, container: "av.container.InputContainer", stream: "av.VideoStream"
    ) -> Iterator[tuple[int, float, float, "av.VideoFrame"]]:
        """Pictures with their start and end in seconds; first, the number of the first one since something was left out."""
        rate, damage = float(stream.average_rate or stream.guessed_rate or 25), Damage()
        first_frame, origin, end, last = self._frames, None, None, time.monotonic()
        for packet in self._packets(container, stream):
            frames: list[av.VideoFrame] = []
            try:
                if packet is None:
                    stream.codec_context.flush_buffers()
                    first_frame = self._frames
                else:
                    frames = cast("list[av.VideoFrame]", packet.decode())
            except DECODER_ERRORS:
                self._count("_damaged")
            if not frames and time.monotonic() - last > PICTURE_SECONDS:
                raise Stalled(f"no picture in {PICTURE_SECONDS:g} s of data")
            for frame in frames:
                last = self._last_picture = time.monotonic()
                end = self._connected(last) if end is None else end
                check_pixels(self._source.name, frame.width, frame.height, self._limits)
                damage.see(frame)
                if damage.reaches:
                    self._count("_damaged")
                if frame.time is not None and origin is None:
                    origin = frame.time - end
                begin = end if frame.time is None or origin is None else frame.time - origin
                length = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
                end = self._end = begin + (length or 1 / rate)
                self._frames += 1
                yield first_frame, begin, end, frame

    def _packets(
        self, container: "av.container.InputContainer", stream: "av.VideoStream"
    ) -> Iterator["av.Packet | None"]:
        """Packets as they come; None where some were left out and counted, because decoding is late."""
        backlog = None if container.format.name in UNTIMED_DEMUXERS else Backlog()
        left_out, asked = False, time.monotonic()
        for packet in to_the_end(container.demux(stream)):
            if self._stop.is_set():
                raise Stopped
            now = time.monotonic()
            if backlog and packet.size:
                seconds = None if packet.dts is None else float(packet.dts * packet.time_base)
                if backlog.leaves_out(seconds, packet.is_keyframe, now, now - asked):
                    self._frames += 1
                    self._count("_dropped_frames")
                    left_out, asked = True, time.monotonic()
                    continue
            if left_out:
                yield None
            yield packet
            left_out, asked = False, time.monotonic()

    def _connected(self, now: float) -> float:
        """Seconds from the first picture of all to the first one of a new connection; they never go back."""
        self._connections += 1
        if self._connections == 1:
            self._started = now
        else:
            self._on_event(f"{self._source.name}: back")
        return max(now - self._started, self._end)

    def _count(self, what: str) -> None:
        with self._changed:
            setattr(self, what, getattr(self, what) + 1)

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


def _pictures(
    run: Iterator[tuple[int, float, float, "av.VideoFrame"]],
    scaler: "av.video.reformatter.VideoReformatter",
    needed: Callable[[int], bool],
) -> Iterator[tuple[int, float, float, np.ndarray | None]]:
    """As `iter_frames`, each picture at its own size."""
    for index, (_, begin, end, frame) in enumerate(run):
        yield index, begin, end, upright_rgb(frame, *upright_size(frame), scaler) if needed(index) else None
