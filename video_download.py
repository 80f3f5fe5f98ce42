"""Fetch an http(s) URL up to a size and a time, from a server that may wish us harm.

One deadline holds for everything: every receive waits only for what is left of it, be it a header, the length of a
chunk, a trailer or the next redirect. Nothing that the server wrote goes into a message.
"""

import functools
import http
import http.client
import io
import socket
import time
import urllib.error
import urllib.request
from typing import cast

CHUNK = 1 << 16


class DownloadError(Exception):
    """Why a URL cannot be fetched, in our own words."""


def fetch(url: str, *, max_bytes: int, seconds: float) -> bytes:
    """The content of an http(s) URL; redirects are followed to http(s) only, ten at most."""
    end = time.monotonic() + seconds
    # An opener of our own: the default one would also follow ftp, file and data URLs.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _HTTPHandler(end),
        _HTTPSHandler(end),
        _Redirects(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    content = bytearray()
    try:
        with opener.open(url, timeout=seconds) as response:
            declared = _declared(response)
            while declared <= max_bytes and (block := response.read1(CHUNK)):
                content += block
                declared = max(declared, len(content))
    except TimeoutError:
        raise DownloadError(f"not done after download_seconds={seconds:g}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        if time.monotonic() >= end:
            raise DownloadError(f"not done after download_seconds={seconds:g}") from None
        raise DownloadError(_in_our_words(error)) from None
    if declared > max_bytes:
        raise DownloadError(f"it is longer than max_download_bytes={max_bytes}; raise the limit")
    if len(content) < declared:
        raise DownloadError(f"it ended after {len(content)} of {declared} bytes")
    if not content:
        raise DownloadError("it is empty")
    return bytes(content)


def _declared(response: http.client.HTTPResponse) -> int:
    text = response.headers.get("Content-Length", "0").strip()
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise http.client.HTTPException("the length that the server declares is not a number")
    return int(text)


def _in_our_words(error: Exception) -> str:
    """Library errors quote what the server sent; this does not."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        status = http.HTTPStatus(error.code) if error.code in _STATUSES else None
        words = f"the server answers {error.code}" + (f" {status.phrase}" if status else "")
        is_redirect = error.code in _Redirects.STATUSES
        return words + (", a redirect that is not followed (to http(s) only, ten at most)" if is_redirect else "")
    if isinstance(error, urllib.error.URLError):
        error = error.reason if isinstance(error.reason, Exception) else error
    for kind, words in _WORDS:
        if isinstance(error, kind):
            return words
    if isinstance(error, OSError) and error.strerror:  # the system's own words
        return error.strerror
    return f"{type(error).__name__}"


_STATUSES = frozenset(status.value for status in http.HTTPStatus)
_WORDS = (
    (http.client.RemoteDisconnected, "the server closed the connection without an answer"),
    (http.client.IncompleteRead, "the server closed the connection before the end"),
    (http.client.BadStatusLine, "the answer is not HTTP"),
    (http.client.LineTooLong, "the answer has a line that is too long"),
    (http.client.UnknownProtocol, "the answer is of another version of HTTP"),
    (http.client.InvalidURL, "the address is not valid"),
    (http.client.HTTPException, "the headers of the answer are not valid"),
    (UnicodeError, "the address is not valid"),
    (urllib.error.URLError, "only http and https URLs are fetched"),
    (ValueError, "the answer is not HTTP"),  # a chunk length that is no number
)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects whose body is never read: the library would take all of it into memory."""

    STATUSES = frozenset((301, 302, 303, 307, 308))
    max_redirections = 10

    def http_error_302(self, req, fp, code, msg, headers):
        fp.close()
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


# The way down: handler -> connection -> response -> socket, each of which takes the deadline along.


class _HTTPHandler(urllib.request.HTTPHandler):
    def __init__(self, end: float):
        super().__init__()
        self.end = end

    def http_open(self, req):
        return self.do_open(functools.partial(_HTTPConnection, end=self.end), req)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def __init__(self, end: float):
        super().__init__()
        self.end = end

    def https_open(self, req):
        return self.do_open(
            functools.partial(_HTTPSConnection, end=self.end), req, context=getattr(self, "_context", None)
        )


class _UpToADeadline:
    def __init__(self, *arguments, end: float, **options):
        super().__init__(*arguments, **options)
        self.response_class = functools.partial(_Response, end=end)
        self._create_connection = functools.partial(_connect, end=end)


class _HTTPConnection(_UpToADeadline, http.client.HTTPConnection):
    pass


class _HTTPSConnection(_UpToADeadline, http.client.HTTPSConnection):
    pass


class _Response(http.client.HTTPResponse):
    def __init__(self, sock, *arguments, end: float, **options):
        super().__init__(cast(socket.socket, _Readable(sock, end)), *arguments, **options)


class _Readable:
    """What a response wants of a socket: a file to read from."""

    def __init__(self, sock: socket.socket, end: float):
        self.sock, self.end = sock, end

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Receiver(self.sock, self.end))


class _Receiver(io.RawIOBase):
    def __init__(self, sock: socket.socket, end: float):
        self._sock, self._file, self._end = sock, sock.makefile("rb", buffering=0), end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int | None:
        self._sock.settimeout(_left(self._end))
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def _connect(address: tuple[str, int], timeout=None, source_address=None, *, end: float) -> socket.socket:
    """As socket.create_connection, with one deadline for all addresses of a name, and for the request that follows."""
    failure: OSError = OSError("the name has no address")
    for family, kind, protocol, _, place in socket.getaddrinfo(*address, 0, socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_left(end))
            sock.connect(place)
            sock.settimeout(_left(end))
            return sock
        except OSError as error:
            sock.close()
            failure = error
            if isinstance(error, TimeoutError):
                break
    raise failure


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
