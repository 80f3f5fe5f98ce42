"""Where a video comes from: paths, URLs, bytes and file objects, checked before FFmpeg sees them.

FFmpeg gets a local file or a buffer, never an address: URLs are fetched by video_download.py. What their outermost bytes
say is video_container.py's part, finding and decoding frames video_io.py's.
"""

import io
import os
import stat
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

from .video_container import Outline
from .video_download import DownloadError, fetch

try:
    import av
    import av.container
    import av.error
    import av.sidedata.sidedata
    import av.stream
    import av.video.frame
    import av.video.reformatter
except ImportError:  # decoded frames can be processed without it
    if TYPE_CHECKING:
        raise
    av = None

Source = str | os.PathLike | bytes | bytearray | memoryview | BinaryIO | dict

# Demuxers that hold one file's own pictures. Play lists (hls, dash, concat, image sequences) would let a file name
# other files and hosts, so FFmpeg is not given them.
DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2",
    "matroska,webm",
    "avi,flv,live_flv,mpegts,mpeg,mpegvideo,asf,ogg,gif,apng,nut,mxf,ivf,obu,h264,hevc,m4v,mjpeg,yuv4mpegpipe,dv,rm,vc1",
    "wav,mp3,aac,flac",  # to say "no picture in it" of an audio file
)
DECODER_ERRORS = (OSError,) if av is None else (av.error.FFmpegError, OSError)
TRUNCATE_HINT = 'fetch it again, or pass errors="truncate" to use the frames before the damage'
CORRUPT_HINT = 'fetch it again, or pass errors="truncate" to use it as it is'


class VideoReadError(ValueError):
    """A video that cannot be read as asked; the message names it."""


@dataclass(frozen=True)
class Limits:
    """What a source may ask of this machine; each is checked before memory is taken."""

    max_pixels: int = 8192 * 8192  # of one frame
    max_frames: int = 5_000_000  # in the file
    max_bytes: int = 4 << 30  # of decoded frames asked for at once, or held by one window
    max_download_bytes: int = 1 << 30
    download_seconds: float = 60.0
    decode_seconds: float | None = None  # for one probe or read; for the next frame of a window


def locate(source: Source, limits: Limits, *, stream: bool = False) -> tuple[str | BinaryIO, str]:
    """What FFmpeg may read (a local path or a seekable file object) and what to call it in messages.

    With `stream`, a file object that cannot seek is handed through; else it is read whole, up to the cap.
    """
    if av is None:
        raise ImportError("reading videos needs PyAV: pip install av; or pass decoded frames")
    if isinstance(source, dict):  # a video of `datasets`, cast with decode=False
        if source.get("bytes") is not None:
            return io.BytesIO(source["bytes"]), str(source.get("path") or "the video in memory")
        if source.get("path") is None:
            raise VideoReadError('a video given as a dict needs "bytes" or "path"')
        source = source["path"]
    if isinstance(source, (bytes, bytearray, memoryview)):
        if len(source) == 0:
            raise VideoReadError("the video in memory is empty")
        return io.BytesIO(source), "the video in memory"
    if hasattr(source, "read"):
        name = str(getattr(source, "name", None) or "the open file")
        file = cast(BinaryIO, source)
        if not file.seekable():
            if stream:
                return file, name
            content = file.read(limits.max_download_bytes + 1)
            if len(content) > limits.max_download_bytes:
                raise VideoReadError(f"{name} is longer than max_download_bytes={limits.max_download_bytes}")
            return io.BytesIO(content), name
        file.seek(0)
        return file, name
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            f"a video is a path, an http(s) URL, bytes or a binary file object, not {type(source).__name__}"
        )
    if isinstance(source, str) and "://" in source:
        scheme = source.split("://", 1)[0].lower()
        if scheme in ("http", "https"):
            return io.BytesIO(download(source, limits)), source
        if scheme != "file":
            raise VideoReadError(f"{source}: only http and https URLs and local files are read, not {scheme}://")
        parts = urllib.parse.urlsplit(source)
        if parts.netloc not in ("", "localhost"):
            raise VideoReadError(
                f"{source}: {parts.netloc} is another machine; only local files and http(s) URLs are read"
            )
        source = urllib.request.url2pathname(parts.path)
    path = os.path.abspath(os.fspath(source))
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"no video at {source}: {reason(error)}") from None
    if not stat.S_ISREG(status.st_mode):
        if stat.S_ISDIR(status.st_mode):
            raise VideoReadError(f"{source} is a folder, not a video file; pass a list of its files")
        raise VideoReadError(f"{source} is not a regular file, not a video file")
    if status.st_size == 0:
        raise VideoReadError(f"{source} is empty")
    return path, str(source)


def download(url: str, limits: Limits | None = None) -> bytes:
    """The content of an http(s) URL, up to the size and time of `limits`."""
    limits = limits or Limits()
    try:
        return fetch(url, max_bytes=limits.max_download_bytes, seconds=limits.download_seconds)
    except DownloadError as error:
        raise VideoReadError(f"{url} cannot be fetched: {error}") from None


def open_container(
    file: str | BinaryIO, name: str, limits: Limits, threads: int
) -> "tuple[av.container.InputContainer, av.VideoStream]":
    """The open container and its video stream, ready to decode."""
    options = {"format_whitelist": ",".join(DEMUXERS), "protocol_whitelist": "file"}
    try:
        if isinstance(file, str):
            # Where a table is long, only this ends the opening in time.
            container = av.open(
                f"file:{file}", "r", options=options, metadata_errors="replace", timeout=limits.decode_seconds or None
            )
        else:
            container = av.open(file, "r", options=options, metadata_errors="replace", buffer_size=1 << 18)
    except av.error.ExitError:
        raise VideoReadError(f"{name} is not open after decode_seconds={limits.decode_seconds:g}") from None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoReadError(f"{name} is not a video that can be read: {reason(error)}") from None
    try:
        stream = picture_stream(container, name, limits, threads)
    except BaseException:
        container.close()
        raise
    return container, stream


def picture_stream(
    container: "av.container.InputContainer", name: str, limits: Limits, threads: int
) -> "av.VideoStream":
    """The video stream of an open container, with its decoder set up."""
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
        raise VideoReadError(f"{name} holds no video, only {' and '.join(kinds)}")
    best = container.streams.best("video")  # FFmpeg's choice: the default one, else the one of the highest rate
    stream = next((stream for stream in streams if stream is best), streams[0])
    codec = stream.codec_context
    if codec is None or codec.codec is None:
        raise VideoReadError(f"{name}: there is no decoder for its video")
    check_pixels(name, codec.width, codec.height, limits)
    codec.thread_count = threads
    codec.thread_type = "AUTO" if threads != 1 else "SLICE"
    codec.options = {**codec.options, "max_pixels": str(limits.max_pixels)}
    return stream


class Deadline:
    """Raises once `seconds` have gone since the last restart."""

    def __init__(self, seconds: float | None, name: str):
        self.seconds, self.name = seconds, name
        self.restart()

    def restart(self) -> None:
        self._end = time.monotonic() + self.seconds if self.seconds is not None else None

    def check(self) -> None:
        if self._end is not None and time.monotonic() > self._end:
            raise VideoReadError(f"{self.name} is not decoded after decode_seconds={self.seconds:g}")


def check_outline(name: str, found: Outline, limits: Limits) -> None:
    """Refuse tables that would take more memory than any file within the limits; other tracks have shorter frames."""
    if max(found.frames, found.entries // 8) > limits.max_frames:
        raise VideoReadError(
            f"{name} declares {max(found.frames, found.entries)} frames, more than max_frames={limits.max_frames}; "
            "raise the limit to read it"
        )


def check_bytes(name: str, num_frames: int, width: int, height: int, limits: Limits) -> None:
    size = num_frames * width * height * 3
    if size > limits.max_bytes:
        raise VideoReadError(
            f"{name}: {num_frames} frames of {width}x{height} take {size} bytes, above max_bytes={limits.max_bytes}; "
            "ask for fewer, pass short_side, or raise the limit"
        )


def check_pixels(name: str, width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise VideoReadError(
            f"{name} has frames of {width}x{height}, above max_pixels={limits.max_pixels}; raise the limit to read it"
        )


def reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(getattr(error, "reason", "") or error) or type(error).__name__
