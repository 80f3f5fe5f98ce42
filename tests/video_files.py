"""Small videos for tests, made with PyAV: every frame carries its own number as a pattern that survives compression."""

import contextlib
import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

os.environ.setdefault("SVT_LOG", "1")  # else the AV1 encoder tells its settings on every use
GRID = 4  # cells along a side: three corners mark the orientation, the other 12 cells are the bits of the number


def numbered_frame(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """An RGB frame (height, width, 3) that shows `number` (below 4096) in black and white cells, over a moving tint."""
    bits = [(number >> bit) & 1 for bit in range(12)]
    cells = np.array([1, *bits[:2], 0, *bits[2:10], 0, *bits[10:], 0], dtype=np.float64)
    rows, columns = np.arange(height) * GRID // height, np.arange(width) * GRID // width
    light = 40 + 170 * cells.reshape(GRID, GRID)[np.ix_(rows, columns)]
    tint = 12 * np.sin((np.arange(width) + 3 * number) / 9)[None, :, None] * np.array([1.0, 0.0, -1.0])
    return np.clip(light[..., None] + tint, 0, 255).astype(np.uint8)


def number_in(frame: np.ndarray) -> int:
    """The number that a decoded frame shows; ValueError where the corners say that it is not upright."""
    frame = np.asarray(frame, dtype=np.float64)
    height, width = frame.shape[:2]
    cells = np.empty((GRID, GRID))
    for row in range(GRID):
        for column in range(GRID):
            top, left = (row + 0.3) * height / GRID, (column + 0.3) * width / GRID
            bottom, right = (row + 0.7) * height / GRID, (column + 0.7) * width / GRID
            cells[row, column] = frame[int(top) : int(bottom) + 1, int(left) : int(right) + 1].mean()
    cells = (cells > 125).astype(int).ravel().tolist()
    if [cells[0], cells[3], cells[12], cells[15]] != [1, 0, 0, 0]:
        raise ValueError(
            f"the corners read {[cells[0], cells[3], cells[12], cells[15]]}: not an upright numbered frame"
        )
    bits = cells[1:3] + cells[4:12] + cells[13:15]
    return sum(bit << place for place, bit in enumerate(bits))


def numbers_in(frames) -> list[int]:
    return [number_in(frame) for frame in frames]


def write_video(
    path: str | Path,
    num_frames: int = 48,
    *,
    width: int = 96,
    height: int = 64,
    fps: int | Fraction = 30,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    gop: int = 12,
    options: dict[str, str] | None = None,
    start_seconds: float = 0.0,
    variable_rate: bool = False,
    rotation: int = 0,
    audio: bool = False,
    container_options: dict[str, str] | None = None,
    frames=None,
) -> Path:
    """Encode numbered frames (or `frames`, RGB arrays) into `path`; its suffix chooses the container.

    `rotation` stores the picture turned and asks the player to turn it back, as phones do. `variable_rate` shows
    every third frame four times as long.
    """
    path = Path(path)
    time_base = Fraction(1, 90000)
    with same_scheduling(), av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.pix_fmt, stream.options = pix_fmt, options or {}
        stream.codec_context.gop_size = gop
        sideways = rotation % 180 != 0
        stream.width, stream.height = (height, width) if sideways else (width, height)
        if variable_rate or start_seconds:
            stream.codec_context.time_base = time_base
        if rotation:
            stream.set_display_rotation(rotation)
        sound = container.add_stream("aac", rate=16000) if audio else None
        tick = start_seconds
        for index in range(num_frames):
            picture = numbered_frame(index, width, height) if frames is None else frames[index]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.rot90(picture, -rotation // 90)), "rgb24")
            if variable_rate or start_seconds:
                frame.pts, frame.time_base = round(tick / time_base), time_base
                tick += (4 if variable_rate and index % 3 == 0 else 1) / float(fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
            silence.sample_rate = 16000
            container.mux(sound.encode(silence))
            container.mux(sound.encode())
    return path


@contextlib.contextmanager
def same_scheduling() -> Iterator[None]:
    """SVT-AV1, run by root, makes the calling thread a real-time one, which then starves everything else on its core."""
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    before, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, before, parameters)


def write_audio(path: str | Path) -> Path:
    """A second of silence without any picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        silence.sample_rate = 16000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    return Path(path)


# One of each kind of file that people bring: file name and the arguments of write_video.
VIDEO_KINDS = {
    "h264": ("a.mp4", dict()),
    "h264_b_frames": ("a.mp4", dict(options={"bf": "3", "b-pyramid": "normal"})),
    "h264_long_gop": ("a.mp4", dict(gop=1000, options={"sc_threshold": "0"})),
    "h264_open_gop": ("a.mp4", dict(gop=10, options={"bf": "3", "x264-params": "open-gop=1:scenecut=0"})),
    "h264_intra_refresh": ("a.mp4", dict(gop=16, options={"x264-params": "intra-refresh=1"})),
    "h264_mkv": ("a.mkv", dict(options={"bf": "2"})),
    "h264_mov": ("a.mov", dict()),
    "h264_transport_stream": ("a.ts", dict()),
    "h264_elementary_stream": ("a.h264", dict()),
    "h264_avi": ("a.avi", dict()),
    "h264_flv": ("a.flv", dict(options={"bf": "2"})),
    "h264_fragmented": ("a.mp4", dict(container_options={"movflags": "frag_keyframe+empty_moov"})),
    "h264_sound": ("a.mp4", dict(audio=True)),
    "h264_10_bit": ("a.mp4", dict(pix_fmt="yuv420p10le")),
    "h264_444": ("a.mp4", dict(pix_fmt="yuv444p")),
    "h264_odd_size": ("a.mp4", dict(width=99, height=67, pix_fmt="yuv444p")),
    "h264_not_multiple_of_16": ("a.mp4", dict(width=90, height=70)),
    "h264_variable_rate": ("a.mp4", dict(variable_rate=True, options={"bf": "2"})),
    "h264_late_start": ("a.mp4", dict(start_seconds=1.5)),
    "h264_late_start_mkv": ("a.mkv", dict(start_seconds=12.5)),
    "h264_rotated_90": ("a.mp4", dict(rotation=90)),
    "h264_rotated_180": ("a.mp4", dict(rotation=180)),
    "h264_rotated_270": ("a.mp4", dict(rotation=270)),
    "hevc": ("a.mp4", dict(codec="libx265", options={"x265-params": "log-level=none:pools=1:frame-threads=1"})),
    "hevc_open_gop_10_bit": (
        "a.mkv",
        dict(
            codec="libx265",
            pix_fmt="yuv420p10le",
            gop=10,
            options={"x265-params": "log-level=none:open-gop=1:keyint=10:bframes=4:pools=1:frame-threads=1"},
        ),
    ),
    "vp9": ("a.webm", dict(codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"})),
    "vp9_alpha": (
        "a.webm",
        dict(
            codec="libvpx-vp9",
            pix_fmt="yuva420p",
            options={"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "0"},
        ),
    ),
    "vp9_hidden_frames": (
        "a.webm",
        dict(codec="libvpx-vp9", options={"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"}),
    ),
    "av1": ("a.mp4", dict(codec="libsvtav1", options={"preset": "12", "svtav1-params": "lp=1"})),
    "mpeg4_avi": ("a.avi", dict(codec="mpeg4")),
    "mpeg4_avi_b_frames": ("a.avi", dict(codec="mpeg4", options={"bf": "2"})),
    "mjpeg_avi": ("a.avi", dict(codec="mjpeg", pix_fmt="yuvj420p")),
    "mpeg2_transport_stream": ("a.ts", dict(codec="mpeg2video", options={"bf": "2"})),
    "mpeg2_mxf": ("a.mxf", dict(codec="mpeg2video")),
    "vp8": ("a.webm", dict(codec="libvpx", options={"deadline": "realtime", "cpu-used": "8"})),
    "vp8_hidden_frames": (
        "a.webm",
        dict(codec="libvpx", options={"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"}),
    ),
    "wmv2_asf": ("a.wmv", dict(codec="wmv2")),
    "msmpeg4_avi": ("a.avi", dict(codec="msmpeg4")),
    "huffyuv_avi": ("a.avi", dict(codec="huffyuv", pix_fmt="rgb24")),
    "apng": ("a.apng", dict(codec="apng", pix_fmt="rgb24")),
    "ffv1_grey": ("a.mkv", dict(codec="ffv1", pix_fmt="gray")),
    "ffv1_alpha": ("a.mkv", dict(codec="ffv1", pix_fmt="bgra")),
    "mpeg4_mkv": ("a.mkv", dict(codec="mpeg4", gop=5)),
    "prores": ("a.mov", dict(codec="prores_ks", pix_fmt="yuv422p10le")),
    "gif": ("a.gif", dict(codec="gif", pix_fmt="rgb8", fps=10)),
    "single_frame": ("a.mp4", dict(num_frames=1)),
    "two_frames": ("a.mp4", dict(num_frames=2)),
}


def make_kind(kind: str, folder: Path) -> Path:
    """The file of one entry of VIDEO_KINDS, written into `folder` under a name of its own."""
    name, arguments = VIDEO_KINDS[kind]
    return write_video(Path(folder) / f"{kind}{Path(name).suffix}", **arguments)


def mp4_rotation_matrix(path: str | Path) -> tuple[int, ...]:
    """a, b, c, d of the first track header's matrix, read from the boxes: (1, 0) goes to (a, b), (0, 1) to (c, d)."""
    data = Path(path).read_bytes()
    at = data.index(b"tkhd") + 4
    version = data[at]
    matrix = struct.unpack(">9i", data[at + (52 if version else 40) :][:36])
    return tuple(round(matrix[i] / 65536) for i in (0, 1, 3, 4))


def remux(source: str | Path, path: str | Path, change=lambda number, data: [data]) -> Path:
    """The coded pictures of `source` in another container; `change` gives the packets to write in place of each one."""
    time = 0
    with av.open(str(source)) as opened, av.open(str(path), "w") as container:
        kept = opened.streams.video[0]
        rate = kept.average_rate
        stream = container.add_stream_from_template(kept)
        for number, packet in enumerate(packet for packet in opened.demux(kept) if packet.size):
            for data in change(number, bytes(packet)):
                made = av.Packet(data)
                made.is_keyframe = packet.is_keyframe
                made.pts = made.dts = time
                made.time_base, made.stream = 1 / rate, stream
                time += 1
                container.mux(made)
    return Path(path)


# An MPEG-4 picture header that says "not coded", at 30 frames a second: a filler of packed AVIs.
NOT_CODED = b"\x00\x00\x01\xb6\x50\x2f"


def write_xvid(path: str | Path, num_frames: int = 48, *, packed: bool, b_frames: bool = True) -> Path:
    """An AVI as Xvid writes it: two packets of one byte after the first picture.

    Packed, a picture that is shown later shares a packet with the B-frame before it, and a filler follows.
    """
    arguments = dict(codec="mpeg4", options={"bf": "1", "b_strategy": "0", "sc_threshold": "1000000000"})
    plain = write_video(
        Path(path).with_suffix(".plain.avi"), num_frames, **(arguments if b_frames else dict(codec="mpeg4"))
    )
    with av.open(str(plain)) as container:
        pictures = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    kinds = [picture[picture.index(b"\x00\x00\x01\xb6") + 4] >> 6 for picture in pictures]  # 0 I, 1 P, 2 B

    def change(number: int, data: bytes) -> list[bytes]:
        fillers = [b"\x7f"] * 2 if number == 0 else []
        if number == 0:  # the encoder's name, without which such packets are errors
            at = data.index(b"\x00\x00\x01\xb6")
            data = data[:at] + b"\x00\x00\x01\xb2DivX503b1393" + (b"p\x00" if packed else b"n\x00") + data[at:]
        if packed and kinds[number] == 2:
            return [NOT_CODED]
        if packed and kinds[number + 1 : number + 2] == [2]:
            data += pictures[number + 1]
        return [data, *fillers]

    remux(plain, path, change)
    plain.unlink()
    return Path(path)


def write_trimmed(source: str | Path, path: str | Path, seconds: float) -> Path:
    """A copy of which an edit list leaves out the first `seconds`, as phones trim: the pictures stay in the file."""
    with av.open(str(source)) as opened, av.open(str(path), "w") as container:
        kept = opened.streams.video[0]
        stream = container.add_stream_from_template(kept)
        for packet in opened.demux(kept):
            if packet.size:
                packet.pts -= round(seconds / packet.time_base)
                packet.dts -= round(seconds / packet.time_base)
                packet.stream = stream
                container.mux(packet)
    return Path(path)


class _Bits:
    """The bits of an H.264 unit: fixed lengths, and the codes of ITU-T H.264, 9.1."""

    def __init__(self):
        self.text = ""

    def fixed(self, *values_and_widths: tuple[int, int]) -> "_Bits":
        self.text += "".join(format(value, f"0{width}b") for value, width in values_and_widths)
        return self

    def codes(self, *values: int) -> "_Bits":
        for value in values:
            digits = format(value + 1, "b")
            self.text += "0" * (len(digits) - 1) + digits
        return self

    def raw(self, data: bytes) -> "_Bits":
        """Bytes at the next byte border."""
        self.text += "0" * (-len(self.text) % 8) + "".join(format(value, "08b") for value in data)
        return self

    def unit(self, header: int) -> bytes:
        text = self.text + "1" + "0" * (-(len(self.text) + 1) % 8)
        data, out = int(text, 2).to_bytes(len(text) // 8, "big"), bytearray()
        for value in data:
            if value <= 3 and out[-2:] == b"\0\0":
                out.append(3)
            out.append(value)
        return b"\0\0\0\1" + bytes([header]) + bytes(out)


def write_field_coded(path: str | Path, num_frames: int = 12, *, gop: int = 4, fps: int = 25) -> Path:
    """H.264 whose frames are coded as two fields, each in a packet of its own, as camcorders do and x264 does not.

    Every macroblock is stored as plain samples (I_PCM), so that this needs no encoder.
    """
    width, height = 96, 64
    sequence = _Bits().fixed((77, 8), (0, 8), (30, 8)).codes(0, 0, 2, 1).fixed((0, 1))
    sequence.codes(width // 16 - 1, height // 32 - 1).fixed((0, 1), (0, 1), (1, 1), (0, 1))  # not frames alone
    sequence.fixed((1, 1), (0, 4), (1, 1), (1, 32), (2 * fps, 32), (1, 1), (0, 3), (1, 1), (1, 1))  # times
    sequence.codes(0, 0, 16, 16, 0, 1)  # nothing is shown later than it is coded
    parameters = _Bits().codes(0, 0).fixed((0, 2)).codes(0, 0, 0).fixed((0, 3)).codes(0, 0, 0).fixed((1, 1), (0, 2))
    stream = b""
    for number in range(num_frames):
        picture = av.VideoFrame.from_ndarray(numbered_frame(number, width, height), "rgb24").reformat(format="yuv420p")
        planes = [picture.to_ndarray()[:height]]
        planes += list(picture.to_ndarray()[height:].reshape(2, height // 2, width // 2))
        for bottom in (0, 1):
            starts = number % gop == 0 and not bottom
            field = _Bits().codes(0, 7, 0).fixed((number % gop, 4), (1, 1), (bottom, 1))
            if starts:
                field.codes(number // gop % 2).fixed((0, 2))
                stream += sequence.unit(0x67) + parameters.unit(0x68)
            else:
                field.fixed((0, 1))
            field.codes(0, 1)
            y, u, v = (plane[bottom::2] for plane in planes)
            for row in range(height // 32):
                for column in range(width // 16):
                    block = y[16 * row : 16 * row + 16, 16 * column : 16 * column + 16].tobytes()
                    for chroma in (u, v):
                        block += chroma[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].tobytes()
                    field.codes(25).raw(block)
            stream += field.unit(0x65 if starts else 0x61)
    raw = Path(path).with_suffix(".h264")
    raw.write_bytes(stream)
    if raw == Path(path):
        return raw
    # Muxers want times, which a raw stream has not: one field after the other.
    time = 0
    with av.open(str(raw)) as opened, av.open(str(path), "w") as container:
        kept = container.add_stream_from_template(opened.streams.video[0])
        for packet in opened.demux(video=0):
            if packet.size:
                packet.time_base, packet.pts, packet.dts, packet.duration = Fraction(1, 2 * fps), time, time, 1
                packet.stream = kept
                time += 1
                container.mux(packet)
    raw.unlink()
    return Path(path)
