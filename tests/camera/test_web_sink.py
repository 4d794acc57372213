from __future__ import annotations

import http.client
import itertools
import json
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator
from time import monotonic, sleep
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgecnn.camera import Frame, open_sink, web_server
from edgecnn.camera.web_sink import WebSink
from edgecnn.errors import OutputError
from edgecnn.pipeline import Latency, Output
from edgecnn.results import Classification
from tests.browser import CHROMIUM, Browser, eventually
from tests.colours import colour_of, solid
from tests.outputs import fresh, output


@pytest.fixture
def sink() -> Iterator[WebSink]:
    with WebSink("http://:0") as opened:
        yield opened


def port_of(sink: WebSink) -> int:
    return int(sink.name.rstrip("/").rpartition(":")[2])


class Writing:
    """A camera's frames into a sink, as fast as asked, until the end of the `with`."""

    def __init__(self, sink: WebSink, make: Callable[[int], Output], fps: float = 30) -> None:
        self._sink, self._make, self._pause_s = sink, make, 1 / fps
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.written = 0

    def _run(self) -> None:
        while not self._stop.wait(self._pause_s):
            self._sink.write(self._make(self.written))
            self.written += 1

    def __enter__(self) -> Writing:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


def get(
    sink: WebSink, path: str, *, method: str = "GET", host: str | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(sink), timeout=30)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    found = answer.status, answer.headers, answer.read()
    connection.close()
    return found


def raw(sink: WebSink, request: bytes) -> bytes:
    """What the server says to these bytes until it hangs up."""
    with socket.create_connection(("127.0.0.1", port_of(sink)), timeout=30) as client:
        try:
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has heard enough
        answer = b""
        try:
            while part := client.recv(65536):
                answer += part
        except ConnectionResetError:
            pass
        return answer


def pictures(client: socket.socket) -> Iterator[NDArray[np.uint8]]:
    """The pictures of /stream.mjpg."""
    stream = client.makefile("rb")
    stream.readline()
    head: dict[bytes, bytes] = {}
    while (line := stream.readline().strip()) or not head:
        name, _, value = line.partition(b":")
        head[name.lower()] = value.strip()
    boundary = re.fullmatch(rb"multipart/x-mixed-replace; boundary=(.+)", head[b"content-type"])
    assert boundary
    assert stream.readline() == b"--" + boundary[1] + b"\r\n"
    while stream.readline() == b"Content-Type: image/jpeg\r\n":
        size = int(stream.readline().removeprefix(b"Content-Length: "))
        assert stream.readline() == b"\r\n"
        yield np.asarray(cv2.imdecode(np.frombuffer(stream.read(size), np.uint8), cv2.IMREAD_COLOR), np.uint8)
        assert stream.readline() == b"\r\n"
        assert stream.readline() == b"--" + boundary[1] + b"\r\n"


def watch(sink: WebSink, path: str = "/stream.mjpg", *, receive_buffer: int | None = None) -> socket.socket:
    client = socket.socket()
    client.settimeout(30)
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.connect(("127.0.0.1", port_of(sink)))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return client


def viewers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("edgecnn-web")]


# what is served -------------------------------------------------------------------------------------------


def test_pictures_and_results(sink: WebSink) -> None:
    make = itertools.cycle(["red", "green", "blue"])
    with (
        Writing(sink, lambda index: fresh(solid(next(make)), index)),
        watch(sink) as client,
        watch(sink, "/results") as events,
    ):
        seen = [colour_of(picture) for picture in itertools.islice(pictures(client), 30)]
        assert set(seen) == {"red", "green", "blue"}
        lines = (line for line in events.makefile("rb") if line.startswith(b"data: "))
        found = [json.loads(line.removeprefix(b"data: ")) for line in itertools.islice(lines, 20)]
    assert [frame["index"] for frame in found] == sorted({frame["index"] for frame in found})
    assert found[-1]["result"] == {
        "classes": [{"id": 0, "label": "cat", "score": 0.5}, {"id": 1, "label": "dog", "score": 0.5}]
    }
    assert found[-1]["size_wh"] == [64, 48]
    assert 1 < found[-1]["fps"] < 60
    status, headers, jpeg = 0, http.client.HTTPMessage(), b""
    with Writing(sink, lambda index: fresh(solid("blue"), index)):
        status, headers, jpeg = get(sink, "/snapshot.jpg")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    picture = np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), np.uint8)
    assert colour_of(picture) == "blue"


def test_the_page_needs_nothing_from_elsewhere(sink: WebSink) -> None:
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js?x=1", "text/javascript")):
        status, headers, body = get(sink, path)
        assert (status, headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
        assert headers["Content-Security-Policy"].startswith("default-src 'self';")
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in headers
        assert b"://" not in body  # no address of another machine


def test_no_picture_in_time(sink: WebSink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "SNAPSHOT_S", 0.05)
    assert get(sink, "/snapshot.jpg")[0] == 503


def test_wider_pictures_are_scaled_and_rare_ones_stay_rare() -> None:
    with (
        WebSink("http://:0?width=32&fps=5") as sink,
        Writing(sink, lambda index: fresh(solid("red"), index), fps=100) as writing,
        watch(sink) as client,
    ):
        stream = pictures(client)
        assert next(stream).shape == (24, 32, 3)
        before = writing.written
        for _ in range(4):
            next(stream)
        assert writing.written - before > 40  # at most one in twenty


def test_one_of_several_cameras() -> None:
    def of_camera(number: int) -> Output:
        made = fresh(solid(("red", "green", "blue")[number % 3]))
        return Output(made.result, made.frame, made.latency, camera=number % 3)

    with WebSink("http://:0?camera=1") as sink, Writing(sink, of_camera, fps=90), watch(sink) as client:
        assert {colour_of(picture) for picture in itertools.islice(pictures(client), 10)} == {"green"}


def test_a_picture_is_encoded_once_and_only_for_someone(
    sink: WebSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = cv2.imencode

    def counted(*arguments: Any) -> Any:
        encoded.append(1)
        return encode(*arguments)

    monkeypatch.setattr(cv2, "imencode", counted)
    for index in range(5):
        made = fresh(solid("red"), index)
        sink.write(made)
        assert made._drawn == []
    assert encoded == []
    clients = [watch(sink) for _ in range(5)]
    eventually(lambda: sink._pictures._watchers == 5)
    sleep(1 / 30)
    sink.write(fresh(solid("blue"), 6))
    for client in clients:
        assert colour_of(next(pictures(client))) == "blue"
        client.close()
    assert encoded == [1]


# the browser ----------------------------------------------------------------------------------------------


def moving(index: int) -> Output:
    """A blue square that moves over a black picture, with a green frame drawn around it as a result."""
    image = np.zeros((240, 320, 3), np.uint8)
    left = index * 4 % 260
    image[100:140, left : left + 40] = (255, 0, 0)

    def draw(picture: NDArray[np.uint8], result: Any) -> None:
        cv2.rectangle(picture, (left - 8, 92), (left + 48, 148), (0, 255, 0), 8)

    frame = Frame(image, index, monotonic(), "the <b>camera</b>")
    scores = Classification(np.array([0.75, 0.25], np.float32), ("tabby", "<i>not markup</i>"))
    return Output(scores, frame, Latency(1, 2, 3, 4, 10.25), draw)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium")
@pytest.mark.parametrize(("size_wh", "dark"), [((1280, 800), False), ((390, 844), True)])
def test_a_browser_shows_the_moving_picture_and_what_was_found(size_wh: tuple[int, int], dark: bool) -> None:
    def places() -> tuple[int, int]:
        """Columns in the middle of the blue square and of the green frame, on the screen."""
        shot = browser.screenshot().astype(int)
        blue = (shot[:, :, 0] > 200) & (shot[:, :, 1:].max(2) < 60)
        green = (shot[:, :, 1] > 200) & (shot[:, :, ::2].max(2) < 60)
        if min(blue.sum(), green.sum()) < 100:
            return 0, 0
        return int(np.nonzero(blue)[1].mean()), int(np.nonzero(green)[1].mean())

    def text(identifier: str) -> str:
        return str(browser.run(f"document.getElementById('{identifier}').innerText"))

    with WebSink("http://:0") as sink, Browser(size_wh, dark=dark) as browser:
        with Writing(sink, moving):
            browser.open(sink.name.replace("127.0.0.1", "localhost"))
            blue, green = eventually(lambda: any(places()) and places())
            assert abs(blue - green) < size_wh[0] / 20
            eventually(lambda: abs(places()[0] - blue) > size_wh[0] / 20)
            assert text("state") == "live"
            assert text("source") == "the <b>camera</b>"
            assert text("found").split("\n") == ["tabby", "75.0 %", "<i>not markup</i>", "25.0 %"]
            assert browser.run("document.documentElement.scrollWidth") <= size_wh[0]
            background = browser.screenshot()[-2, -2]
            assert (background.max() < 60) if dark else (background.min() > 200)
        eventually(lambda: text("state").startswith("no picture for"))
        port = port_of(sink)
        sink.close()
        eventually(lambda: text("state") == "no connection")
        with WebSink(f"http://:{port}") as again, Writing(again, moving):
            eventually(lambda: text("state") == "live" and any(places()))


# viewers that misbehave -----------------------------------------------------------------------------------


def test_a_viewer_that_never_reads_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server._Handler, "timeout", 1.0)
    noise = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)  # 1 MB as JPEG
    with WebSink("http://:0?fps=60") as sink:
        stuck = [watch(sink, receive_buffer=4096) for _ in range(3)]
        with watch(sink) as client, Writing(sink, lambda index: fresh(noise, index), fps=60):
            eventually(lambda: sink._pictures._watchers == 4)
            stream = pictures(client)
            for _ in range(10):
                next(stream)
            while sink._pictures._watchers > 1:  # until the others are let go
                assert next(stream).shape == (720, 1280, 3)
        for other in stuck:
            other.close()


def test_a_viewer_that_has_left_is_noticed_without_a_picture(sink: WebSink) -> None:
    for path in ("/stream.mjpg", "/results"):
        client = watch(sink, path)
        eventually(lambda: sink._pictures._watchers + sink._results._watchers == 1)
        client.close()
        eventually(lambda: sink._pictures._watchers + sink._results._watchers == 0)
    eventually(lambda: len(viewers()) == 1)


def test_a_request_that_never_ends_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "REQUEST_S", 0.3)
    with WebSink("http://:0") as sink, socket.create_connection(("127.0.0.1", port_of(sink))) as client:
        client.settimeout(30)
        client.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(OSError):  # noqa: PT012 (sending notices it later than the server hangs up)
            for _ in range(1000):
                client.sendall(b"X-Slow: 1\r\n")
                sleep(0.02)
            assert client.recv(1) == b"", "still connected"


def test_too_many_viewers_are_told_so(sink: WebSink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "MAX_CONNECTIONS", 3)
    clients = [watch(sink) for _ in range(3)]
    eventually(lambda: sink._pictures._watchers == 3)
    assert raw(sink, b"").startswith(b"HTTP/1.0 503")
    for client in clients:
        client.close()
    eventually(lambda: sink._pictures._watchers == 0)
    eventually(lambda: get(sink, "/")[0] == 200)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /../../../etc/passwd HTTP/1.1\r\n\r\n", 404),
        (b"GET /page.css/../../web_sink.py HTTP/1.1\r\n\r\n", 404),
        (b"GET /%2e%2e/web_sink.py HTTP/1.1\r\n\r\n", 404),
        (b"GET http://elsewhere/ HTTP/1.1\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
        (b"GET /results HTTP/1.1\r\nHost: 192.168.0.9:80\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 200),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 405),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", 405),
        (b"HEAD / HTTP/1.1\r\n\r\n", 405),
        (b"BREW / HTTP/1.1\r\n\r\n", 501),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * 100_000 + b" HTTP/1.1\r\n\r\n", 414),
    ],
)
def test_odd_requests(sink: WebSink, request_bytes: bytes, status: int) -> None:
    answer = raw(sink, request_bytes)
    assert re.match(rb"HTTP/1.0 (\d+)|.*Error code: (\d+)|(\d+) ", answer, re.DOTALL), answer[:200]
    assert str(status).encode() in answer.split(b"\n")[0], answer[:200]
    assert get(sink, "/")[0] == 200


def test_noise_does_not_hurt(sink: WebSink, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    for size in (0, 1, 10, 1000, 100_000):
        raw(sink, rng.bytes(size))
        raw(sink, rng.bytes(size) + b"\r\n\r\n")
    assert get(sink, "/")[0] == 200
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


# where it listens -----------------------------------------------------------------------------------------


def test_closing_hangs_up_and_frees_the_port() -> None:
    before = threading.active_count()
    sink = WebSink("http://:0")
    clients = [watch(sink, path) for path in ("/stream.mjpg", "/results", "/stream.mjpg")]
    eventually(lambda: sink._pictures._watchers + sink._results._watchers == 3)
    idle = socket.create_connection(("127.0.0.1", port_of(sink)))
    eventually(lambda: len(viewers()) == 5)
    sink.close()
    assert threading.active_count() == before
    for client in clients:
        while client.recv(65536):
            pass  # ends
        client.close()
    idle.close()
    with WebSink(sink.name):
        pass


def test_only_this_machine_unless_told_otherwise(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), WebSink("http://:0") as sink:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", sink.name)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    caplog.clear()
    with caplog.at_level(logging.INFO), WebSink("http://0.0.0.0:0") as sink:
        assert get(sink, "/", host="robot.local")[0] == 200
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "anyone who reaches this port sees the picture" in caplog.text


@pytest.mark.parametrize("host", ["[::1]", "[::]"])
def test_ipv6(host: str) -> None:
    try:
        sink = WebSink(f"http://{host}:0")
    except OutputError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with sink:
        assert sink.name.startswith(f"http://{host}:")
        connection = http.client.HTTPConnection("::1", port_of(sink), timeout=30)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        connection.close()
        if host == "[::]":
            assert get(sink, "/")[0] == 200  # IPv4 too


def test_a_port_that_is_taken(sink: WebSink) -> None:
    port = port_of(sink)
    with pytest.raises(
        OutputError, match=rf"port {port} is in use by another program. Take another, as http://.*:{port + 1}"
    ):
        open_sink(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://192.0.2.1:0", "192.0.2.1 is no address of this machine. http://0.0.0.0:0 takes all"),
        ("http://no.such.host.invalid:0", "no address for no.such.host.invalid"),
        ("http://:99999", "Port out of range"),
        ("http://:0/live", r"got a path, expected http://HOST:PORT"),
        ("http://me:secret@:0", r"http://\*\*\*@:0: got a user name, and the web view has no log-in"),
        ("http://:0?fps=0", "got fps=0, expected a number from 0.1 to 60"),
        ("http://:0?fps=x", "got fps=x"),
        ("http://:0?widht=3", "got the option widht, expected fps or width or camera"),
    ],
)
def test_addresses_that_cannot_be(uri: str, message: str) -> None:
    with pytest.raises(OutputError, match=message) as caught:
        open_sink(uri)
    assert "secret" not in str(caught.value)


def test_it_is_a_sink_that_may_miss_frames(sink: WebSink) -> None:
    assert sink.lossy
    sink.write(output())
