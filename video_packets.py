"""The packets of a video in the order of the file, and what they show of its frames before anything is decoded.

One packet holds one coded picture, nearly always; here is what is known of the exceptions. video_io.py makes frame
numbers of all this.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .video_source import DECODER_ERRORS, Deadline, Limits, VideoReadError, av, reason

# Containers that store no presentation times. FFmpeg then makes some up, wrongly where pictures are reordered.
UNTIMED_DEMUXERS = frozenset(("avi", "h264", "hevc", "m4v", "mpegvideo", "mjpeg", "obu", "vc1"))
# A packet of no more bytes may stand for no picture: Xvid and DivX write such fillers into AVI, of 1 byte where their
# encoder was not ready yet, of 6 to 19 where the packet before holds two pictures ("packed bitstream").
FILLER_BYTES = 19
# The mark of an incomplete packet reaches us up to so many packets before the place that it is about.
MARK_PACKETS = 2
FIELD_SHARE = 0.75  # of the time of a frame: a packet that is shown for less may hold one field of it


@dataclass
class Packets:
    """Numbered in decode order, which is that of the file; each list but the last two has one entry a packet."""

    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)  # numbers of key frames
    shown: list[int] = field(default_factory=list)  # numbers of packets whose picture is meant to be seen
    last_duration: int = 0
    shortest: int = 0  # duration of a packet, 0 if none is known
    joints: list[int] = field(default_factory=list)  # where another recording was appended

    def keep(self, count: int) -> None:
        """Forget the packets from number `count` on."""
        for column in (self.pts, self.dts, self.sizes):
            del column[count:]
        self.keys = [number for number in self.keys if number < count]
        self.shown = [number for number in self.shown if number < count]


def list_packets(
    name: str, container: "av.container.InputContainer", stream: "av.VideoStream", limits: Limits, deadline: Deadline
) -> tuple[Packets, str | None]:
    """All packets of a freshly opened file, up to damage, and what the damage is."""
    found, is_vp8, suspect = Packets(), stream.codec_context.name == "vp8", None
    try:
        for packet in pictures(container.demux(stream)):
            number = len(found.sizes)
            if number % 256 == 0:
                deadline.check()
            if number >= limits.max_frames:
                raise VideoReadError(f"{name} has more than max_frames={number} frames; raise the limit")
            if suspect is not None:  # packets were lost, unless another recording begins here: clocks do not go back
                before, now = found.dts[-1], packet.dts
                if packet.is_keyframe and before is not None and now is not None and now < before:
                    found.joints.append(number)
                    suspect = None
                elif number - suspect >= MARK_PACKETS:
                    break
            if packet.is_corrupt and suspect is None:
                suspect = number
            found.pts.append(packet.pts)
            found.dts.append(packet.dts)
            found.sizes.append(packet.size)
            if packet.is_keyframe:
                found.keys.append(number)
            if packet.duration:
                found.shortest = min(packet.duration, found.shortest or packet.duration)
            if not packet.is_discard and not (is_vp8 and _vp8_is_hidden(packet)):
                found.shown.append(number)
                found.last_duration = packet.duration or found.last_duration
    except DECODER_ERRORS as error:
        return found, reason(error)
    if suspect is None:
        return found, None
    found.keep(suspect)
    return found, f"packet {suspect} is incomplete"


def pictures(packets: Iterator["av.Packet"]) -> Iterator["av.Packet"]:
    """Without the empty packets, which hold no picture; one ends every file."""
    return (packet for packet in to_the_end(packets) if packet.size)


def to_the_end(items: Iterator[Any]) -> Iterator[Any]:
    """PyAV fails behind the last packet where a stream has appeared that was not there when the file was opened."""
    with contextlib.suppress(IndexError):
        yield from items


def may_be_fields(stream: "av.VideoStream", shortest: int) -> bool:
    """Whether some packets are shown for less than a frame, as those of interlaced H.264 with one field each are."""
    codec = stream.codec_context
    if codec.name != "h264" or not codec.framerate or not stream.time_base or not shortest:
        return False
    return shortest * stream.time_base * codec.framerate < FIELD_SHARE


def _vp8_is_hidden(packet: "av.Packet") -> bool:
    """VP8 keeps pictures that are only referred to in packets of their own, with this bit unset."""
    return not memoryview(packet)[0] & 0x10
