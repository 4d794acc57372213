"""The web view's server: six fixed addresses, GET only, and nothing that a client does holds anything up.

    /               the page, with /page.css and /page.js
    /stream.mjpg    pictures, as multipart/x-mixed-replace, which every browser shows in an <img>
    /snapshot.jpg   the next picture
    /results        results, as server-sent events

The standard library's server is enough for this, where it is given limits: it reads no file and no body,
each connection has a thread of its own and serves one request, there are at most `MAX_CONNECTIONS`, a request
has to be there after `REQUEST_S`, and a client that takes longer than `SEND_S` for one picture is let go.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib.resources import files
from time import monotonic
from typing import Any

from edgecnn.camera.web_feed import Feed

__all__ = ["MAX_CONNECTIONS", "WebServer"]

_log = logging.getLogger(__name__)

MAX_CONNECTIONS = 64
REQUEST_S = 10.0
SEND_S = 10.0
SNAPSHOT_S = 5.0
_POLL_S = 0.2
# What the kernel holds for a client that does not keep up is old when it arrives: keep it to a few pictures.
_SEND_BUFFER_BYTES = 256 << 10

_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",  # other sites may not show the picture
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_BOUNDARY = b"edgecnn-frame"


class WebServer(socketserver.TCPServer):
    """Listens as soon as it is made, and answers from threads of its own until it is closed.

    Args:
        family: AF_INET or AF_INET6.
        address: as the family has it; port 0 takes any free one.
        pictures: JPEG files.
        results: JSON objects.

    Raises:
        OSError: it cannot listen there.
    """

    allow_reuse_address = True  # a restart need not wait for the connections of before; no two can listen
    request_queue_size = 32

    def __init__(self, family: socket.AddressFamily, address: Any, pictures: Feed, results: Feed) -> None:
        self.address_family = family
        self.pictures = pictures
        self.results = results
        self._lock = threading.Lock()
        self._threads: dict[socket.socket, threading.Thread] = {}
        self._reading: dict[socket.socket, float] = {}  # connection → when its request has to be there
        super().__init__(address, _Handler)
        self.loopback = ipaddress.ip_address(str(self.server_address[0]).partition("%")[0]).is_loopback
        self._acceptor = threading.Thread(
            target=self.serve_forever, args=(_POLL_S,), name="edgecnn-web", daemon=True
        )
        self._acceptor.start()

    def server_bind(self) -> None:
        """Let an IPv6 socket that listens everywhere do so for IPv4 too."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, unless there are too many."""
        with self._lock:
            if len(self._threads) >= MAX_CONNECTIONS:
                request.settimeout(0)
                with contextlib.suppress(OSError):
                    request.sendall(b"HTTP/1.0 503 Too many viewers\r\nRetry-After: 5\r\n\r\n")
                self.shutdown_request(request)
                return
            thread = threading.Thread(
                target=self._serve, args=(request, client_address), name="edgecnn-web-viewer", daemon=True
            )
            self._threads[request] = thread
            self._reading[request] = monotonic() + REQUEST_S
            thread.start()

    def _serve(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # the client has gone, or was too slow
        except Exception:
            _log.exception("the web view could not answer")
        finally:
            with self._lock:
                self._reading.pop(request, None)
                self._threads.pop(request, None)
            self.shutdown_request(request)

    def request_is_there(self, request: Any) -> None:
        """Said by the handler: from now on, it is about sending."""
        with self._lock:
            self._reading.pop(request, None)

    def service_actions(self) -> None:
        """Let go of those who do not come to the point. Called a few times a second."""
        now = monotonic()
        with self._lock:
            for request in [request for request, due in self._reading.items() if now > due]:
                del self._reading[request]
                _hang_up(request)

    def close(self) -> None:
        """Stop listening, and hang up."""
        self.shutdown()
        self.server_close()
        self.pictures.close()
        self.results.close()
        with self._lock:
            threads = dict(self._threads)
            for request in threads:
                _hang_up(request)
        deadline = monotonic() + 1
        for thread in (self._acceptor, *threads.values()):
            thread.join(max(0.0, deadline - monotonic()))


class _Handler(BaseHTTPRequestHandler):
    server: WebServer
    server_version = "edgecnn"
    sys_version = ""
    timeout = SEND_S
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(code)d %(message)s\n"

    def setup(self) -> None:
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().setup()

    def do_GET(self) -> None:
        self.server.request_is_there(self.request)
        path = self.path.partition("?")[0]
        if self.server.loopback and not _is_loopback(self.headers.get("Host")):
            # Another site's name that was made to point here: what its scripts want to read is not theirs.
            self.send_error(HTTPStatus.FORBIDDEN, "This address serves localhost only")
        elif path in _PAGE:
            name, kind = _PAGE[path]
            self._send_whole(_page_file(name), kind)
        elif path == "/stream.mjpg":
            self._stream_pictures()
        elif path == "/snapshot.jpg":
            self._send_snapshot()
        elif path == "/results":
            self._stream_results()
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _only_get(self) -> None:
        self.server.request_is_there(self.request)
        self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _only_get  # noqa: N815

    def _send_whole(self, data: bytes, kind: str) -> None:
        self._begin(kind, {"Content-Length": str(len(data))})
        self.wfile.write(data)

    def _send_snapshot(self) -> None:
        with contextlib.closing(self.server.pictures.watch(SNAPSHOT_S)) as pictures:  # type: ignore[type-var]
            picture = next(pictures, None)
        if picture is None:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "No picture has come")
        else:
            self._send_whole(picture, "image/jpeg")

    def _stream_pictures(self) -> None:
        self._begin(f"multipart/x-mixed-replace; boundary={_BOUNDARY.decode()}")
        self.wfile.write(b"--" + _BOUNDARY + b"\r\n")
        for picture in self._watch(self.server.pictures):
            if picture is not None:
                # The boundary belongs to the next picture, but browsers show this one when they see it.
                head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(picture)
                self.wfile.write(head + picture + b"\r\n--" + _BOUNDARY + b"\r\n")

    def _stream_results(self) -> None:
        self._begin("text/event-stream; charset=utf-8")
        self.wfile.write(b"retry: 1000\n\n")
        for result in self._watch(self.server.results):
            self.wfile.write(b": still here\n\n" if result is None else b"data: " + result + b"\n\n")

    def _watch(self, feed: Feed) -> Iterator[bytes | None]:
        """Items, until the client hangs up."""
        with contextlib.closing(feed.watch(1.0)) as items:  # type: ignore[type-var]
            for item in items:
                if item is None and select.select([self.request], [], [], 0)[0] and not self._peek():
                    return
                yield item

    def _peek(self) -> bytes:
        data: bytes = self.request.recv(1, socket.MSG_PEEK)
        return data

    def _begin(self, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(HTTPStatus.OK)
        for name, value in {"Content-Type": kind, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def end_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug("%s %s", self.client_address[0], format % args)


@cache
def _page_file(name: str) -> bytes:
    return (files("edgecnn.camera") / "web_page" / name).read_bytes()


def _is_loopback(host: str | None) -> bool:
    """Whether a request's Host header names this machine to itself. A client without one is no browser."""
    if host is None:
        return True
    name = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
    if name.lower().rstrip(".") in ("localhost", ""):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _hang_up(request: socket.socket) -> None:
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)
