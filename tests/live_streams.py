"""Streams on this machine for tests: MPEG-TS over TCP and UDP, sent as fast as pictures are shown, or at once."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable

PACKET = 188  # bytes of a packet of MPEG-TS
DATAGRAM = 7 * PACKET


def send_paced(send: Callable[[bytes], object], data: bytes, seconds: float) -> None:
    """Send whole packets evenly over so many seconds."""
    start, sent = time.monotonic(), 0
    while sent < len(data):
        time.sleep(0.01)
        share = min((time.monotonic() - start) / seconds, 1.0) if seconds else 1.0
        end = len(data) if share == 1.0 else int(len(data) * share) // PACKET * PACKET
        while sent < end:
            send(data[sent : min(sent + DATAGRAM, end)])
            sent = min(sent + DATAGRAM, end)


class TcpStreams:
    """A server of which connection k is given to `scripts[k]`, a function of the socket; then it listens no more."""

    def __init__(self, *scripts: Callable[[socket.socket], object]):
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(30)
        self.url = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self._scripts = scripts
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with self._server:
            for script in self._scripts:
                connection, _ = self._server.accept()
                with connection, contextlib.suppress(OSError):  # the other side may leave first
                    connection.settimeout(30)
                    script(connection)


def stall(connection: socket.socket) -> None:
    """Say nothing until the other side leaves."""
    connection.recv(1)


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def send_udp(port: int, data: bytes, seconds: float, stop: threading.Event) -> None:
    """Send a stream again and again, in a thread, until stopped."""

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not stop.is_set():
                send_paced(lambda piece: sender.sendto(piece, ("127.0.0.1", port)), data, seconds)

    threading.Thread(target=send, daemon=True).start()


def pipe_of(data: bytes):
    """The reading end of a pipe into which another thread writes."""
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(data)

    threading.Thread(target=write, daemon=True).start()
    return os.fdopen(reading, "rb")
