"""The web view: a page with the annotated picture and the newest result, to watch from another machine."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

from edgecnn.camera.opencv import import_cv2
from edgecnn.camera.sink import BaseSink
from edgecnn.camera.sink_address import Address, parse_address
from edgecnn.camera.web_feed import Feed
from edgecnn.camera.web_server import WebServer
from edgecnn.errors import OutputError

if TYPE_CHECKING:
    from edgecnn.pipeline import Output

__all__ = ["WebSink"]

_log = logging.getLogger(__name__)

DEFAULT_PORT = 8080
_QUALITY = 80
_MAX_FPS = 60.0
_DEFAULT_FPS = 30.0
_RATE_WINDOW = 30


class WebSink(BaseSink):
    """Serves the newest output over HTTP to any number of viewers.

    Pictures are encoded once for all of them, and only while someone watches. A viewer that is slow sees
    fewer pictures; one that never reads is let go. Neither holds anything up.

    Args:
        uri: `http://HOST:PORT`. Without a host it listens on 127.0.0.1, which only this machine reaches; port
            0 takes a free one, which `name` then says. Options: `fps`, how many pictures a second at most
            (30); `width`, to which wider pictures are scaled; `camera`, the number of the only one to show.

    Raises:
        OutputError: the port is taken or not allowed, or the host is not this machine.
    """

    lossy = True

    def __init__(self, uri: str) -> None:
        import_cv2()
        address = parse_address(uri, options=("fps", "width", "camera"))
        if address.path or address.user is not None:
            raise OutputError(
                f"cannot serve {address.name}",
                got="a path" if address.path else "a user name, and the web view has no log-in",
                expected="http://HOST:PORT",
            )
        self._pause_s = 1 / address.number("fps", _DEFAULT_FPS, low=0.1, high=_MAX_FPS)
        self._width = int(address.number("width", 0, low=16, high=16384))
        self._camera = int(address.number("camera", -1, low=0, high=1000))
        self._pictures, self._results = Feed(), Feed()
        self._server = _listen(address, self._pictures, self._results)
        host, port = self._server.server_address[:2]
        self.name = f"http://{f'[{host!s}]' if ':' in str(host) else host!s}:{port}/"
        self._next = 0.0
        self._written: deque[float] = deque(maxlen=_RATE_WINDOW)
        if self._server.loopback:
            _log.info("web view at %s, for this machine only", self.name)
        else:
            _log.warning("web view at %s: anyone who reaches this port sees the picture", self.name)

    def _write(self, output: Output) -> None:
        if self._camera not in (-1, output.camera):
            return
        now = monotonic()
        self._written.append(now)
        if now < self._next:
            return
        # A frame that comes a little early counts as on time: 30 fps are not to become 15.
        self._next = max(self._next, now - self._pause_s / 2) + self._pause_s
        if self._pictures.watched:
            self._pictures.put(self._encode(output))
        if self._results.watched:
            self._results.put(self._describe(output, now))

    def _encode(self, output: Output) -> bytes:
        cv2 = import_cv2()
        image = output.annotated
        if 0 < self._width < image.shape[1]:
            height = max(1, round(image.shape[0] * self._width / image.shape[1]))
            image = cv2.resize(image, (self._width, height), interpolation=cv2.INTER_AREA)
        try:
            _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        except cv2.error as error:
            raise OutputError(
                f"cannot serve {self.name}", got=f"a picture that is no JPEG: {error.err}"
            ) from error
        return bytes(data)

    def _describe(self, output: Output, now: float) -> bytes:
        import msgspec

        span = now - self._written[0]
        fps = round((len(self._written) - 1) / span, 1) if span > 0 else None
        height, width = output.annotated.shape[:2]
        return msgspec.json.encode({**output.to_dict(), "fps": fps, "size_wh": [width, height]})

    def _finish(self) -> None:
        self._server.close()

    def _abandon(self, error: OSError) -> None:
        self._server.close()


def _listen(address: Address, pictures: Feed, results: Feed) -> WebServer:
    host, port = address.host or "127.0.0.1", DEFAULT_PORT if address.port is None else address.port
    try:
        family, _, _, _, target = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return WebServer(family, target, pictures, results)
    except socket.gaierror as error:
        raise OutputError(
            f"cannot serve {address.name}",
            got=f"no address for {host}",
            expected="an address of this machine",
        ) from error
    except OSError as error:
        raise OutputError(f"cannot serve {address.name}", **_why_not(error, host, port)) from error


def _why_not(error: OSError, host: str, port: int) -> dict[str, Any]:
    if error.errno == errno.EADDRINUSE:
        return {
            "got": f"port {port} is in use by another program",
            "remedy": f"Take another, as {_uri(host, port + 1)}; ss -ltnp 'sport = {port}' says which it is",
        }
    if error.errno == errno.EACCES:
        return {
            "got": f"no permission to listen on port {port}",
            "remedy": f"Ports from 1024 need none: {_uri(host, DEFAULT_PORT)}",
        }
    if error.errno == errno.EADDRNOTAVAIL:
        return {
            "got": f"{host} is no address of this machine",
            "remedy": f"{_uri('0.0.0.0', port)} takes all that it has",
        }
    return {"got": os.strerror(error.errno or 0)}


def _uri(host: str, port: int) -> str:
    try:
        if ipaddress.ip_address(host).version == 6:
            host = f"[{host}]"
    except ValueError:
        pass  # a name
    return f"http://{host}:{port}"
