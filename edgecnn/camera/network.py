"""Streams from the network, through OpenCV's FFmpeg: RTSP, HTTP, UDP.

OpenCV says only that it could not open an address. So whether anybody is there is asked first, with a
time-out of its own, and after a failure the server is asked why. Each decoder thread holds a frame back, and
open and read time-outs count only as parameters of open (docs/cameras.md).
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import urllib.request
from collections.abc import Iterator
from time import monotonic
from urllib.parse import SplitResult, urlsplit

from edgecnn.camera.capture import CaptureReader
from edgecnn.camera.credentials import escape_credentials
from edgecnn.camera.opencv import import_cv2, open_capture, positive_number
from edgecnn.camera.uri import SourceUri
from edgecnn.errors import BackendUnavailableError, SourceError

__all__ = ["check_reachable", "open_stream", "why"]

_log = logging.getLogger(__name__)

REACH_S = 1.5
"""How long the way to a server may take: a packet that is lost is sent again after one second."""

READ_SPARE_S = 0.5  # FFmpeg's own time-out comes after the watchdog's: it ends threads that were left behind
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}


def open_stream(uri: SourceUri, *, stall_s: float, open_s: float) -> CaptureReader:
    """Connect to the address of an `rtsp`, `http` or `udp` source.

    Raises:
        SourceError: nobody answers there, or not with a video.
        BackendUnavailableError: OpenCV has no FFmpeg.
    """
    cv2 = import_cv2()
    if not cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG):
        raise BackendUnavailableError(
            f"cannot open {uri.name}",
            got=f"an OpenCV {cv2.__version__} without FFmpeg",
            remedy="edgecnn doctor lists what it has",
        )
    address = escape_credentials(uri.target)
    if uri.kind != "udp":
        check_reachable(address, uri.name)
    parameters = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(open_s * 1e3)]
    parameters += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, round((stall_s + READ_SPARE_S) * 1e3)]
    if hasattr(cv2, "CAP_PROP_N_THREADS"):  # OpenCV 4.8
        parameters += [cv2.CAP_PROP_N_THREADS, 1]
    started = monotonic()
    with _transport.of(uri.parameters.get("transport")):
        capture = open_capture(address, cv2.CAP_FFMPEG, parameters, name=uri.name)
    if capture is None:
        waited = monotonic() - started
        got = f"nothing within {open_s:g} s" if waited > 0.9 * open_s else why(address)
        raise SourceError(f"cannot open {uri.name}", got=got, expected="a video that OpenCV's FFmpeg reads")
    _log.info("%s: open, through FFmpeg", uri.name)
    count = positive_number(capture.get(cv2.CAP_PROP_FRAME_COUNT), at_most=1e9)
    stored = uri.kind == "http" and count is not None
    reader = CaptureReader(
        capture,
        name=uri.name,
        lost="the connection ended",
        live=not stored,
        frame_count=round(count) if stored and count is not None else None,
    )
    if not stored:
        reader.drain()
    return reader


def check_reachable(address: str, name: str) -> None:
    """Raise SourceError where nobody takes connections at an address: in words, and within REACH_S."""
    parts = urlsplit(address)
    if parts.scheme.startswith("http") and parts.scheme in urllib.request.getproxies():
        return  # the proxy knows
    try:
        _connect(parts).close()
    except socket.gaierror as error:
        raise SourceError(
            f"cannot open {name}", got=f"no host {parts.hostname!r}: {error.strerror}"
        ) from None
    except TimeoutError:
        raise SourceError(
            f"cannot open {name}", got=f"no answer from {parts.hostname} within {REACH_S:g} s"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: what cannot be a host's name
        reason = error.strerror if isinstance(error, OSError) else "a bad host"
        raise SourceError(f"cannot open {name}", got=reason or type(error).__name__) from None


def _connect(parts: SplitResult) -> socket.socket:
    return socket.create_connection((parts.hostname or "", parts.port or _PORTS[parts.scheme]), REACH_S)


def why(address: str) -> str:
    """What a server answers to somebody without a password; the best there is to say about a failure."""
    parts = urlsplit(address)
    unknown = "OpenCV cannot open it"
    if parts.scheme not in ("rtsp", "http"):
        return unknown
    host = f"{parts.hostname}:{parts.port or _PORTS[parts.scheme]}"
    path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    if parts.scheme == "rtsp":
        request = f"DESCRIBE rtsp://{host}{path} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n"
    else:
        request = f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n"
    try:
        with _connect(parts) as connection:
            connection.sendall(request.encode())
            protocol, _, status = connection.recv(256).partition(b"\r\n")[0].partition(b" ")
    except OSError:
        return unknown
    if not protocol.startswith((b"RTSP/", b"HTTP/")):
        return unknown
    if not status.startswith(b"401"):
        return f"{status.decode('ascii', 'replace')} from the server"
    return "user or password are wrong" if parts.username else "the server asks for user and password"


class _Transport:
    """Has FFmpeg use a transport for what is opened meanwhile: `with _transport.of("udp"): …`.

    OpenCV takes it from the environment alone, which belongs to the process: opening with one transport
    therefore waits for opening with another. Without a wish, OpenCV's own default is used, TCP.
    """

    VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users = 0
        self._now: str | None = None
        self._before: str | None = None

    @contextlib.contextmanager
    def of(self, transport: str | None) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._users == 0 or self._now == transport)
            if self._users == 0 and transport is not None:
                self._before = os.environ.get(self.VARIABLE)
                others = f"|{self._before}" if self._before else ""
                os.environ[self.VARIABLE] = f"rtsp_transport;{transport}{others}"
            self._now = transport
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                if self._users == 0 and transport is not None:
                    if self._before is None:
                        del os.environ[self.VARIABLE]
                    else:
                        os.environ[self.VARIABLE] = self._before
                self._changed.notify_all()


_transport = _Transport()
