"""Streams other than RTSP: motion JPEG and files from a real HTTP server, MPEG-TS over UDP from FFmpeg."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic

import cv2
import numpy as np
import pytest

from edgecnn.camera import Frame, Source, Stamp, open_camera, read_stamp
from edgecnn.camera.network import _transport
from edgecnn.camera.pattern import PatternReader
from edgecnn.errors import SourceError
from tests.colours import colour_cycle, write_video

STALE_S = 1.0


class Camera(BaseHTTPRequestHandler):
    """What a network camera's own web server does: `/video` is motion JPEG, `/clip.mp4` a recording."""

    clip: Path
    requests: list[str]
    credentials: str | None = None
    frames: int = 10**9
    share: float = 1.0

    def do_GET(self) -> None:
        self.requests.append(self.path)
        token = base64.b64encode((self.credentials or "").encode()).decode()
        if self.credentials is not None and self.headers["Authorization"] != f"Basic {token}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.end_headers()
        elif self.path.startswith("/video"):
            self._motion_jpeg()
        elif self.path == f"/{self.clip.name}":
            data = self.clip.read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", "video/mp4")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: round(len(data) * self.share)])
        else:
            self.send_error(404)

    def _motion_jpeg(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        reader = PatternReader(width=320, height=240, fps=25)
        for _ in range(self.frames):
            capture = reader.read()
            assert capture is not None
            data = cv2.imencode(".jpg", capture.image)[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + data + b"\r\n")
            except OSError:
                return

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, type[Camera]]]:
    """The server's address, and its handler, whose attributes say what it does."""

    class Handler(Camera):
        clip = write_video(tmp_path / "clip.mp4", colour_cycle(9), fps=25)
        requests: list[str] = []  # noqa: RUF012 (one for each test's class)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}", Handler
    server.shutdown()
    server.server_close()
    thread.join()


def stamp_of(frame: Frame) -> Stamp:
    stamp = read_stamp(frame.image)
    assert stamp is not None
    assert frame.captured_at - stamp.time < STALE_S
    return stamp


def take(source: Source, count: int) -> list[Stamp]:
    return [stamp_of(next(source)) for _ in range(count)]


def test_motion_jpeg(web: tuple[str, type[Camera]]) -> None:
    address, handler = web
    with open_camera(f"http://{address}/video?camera=2&policy=all&quality=80") as source:
        assert (source.live, source.policy, source.frame_count) == (True, "all", None)
        numbers = [stamp.number for stamp in take(source, 10)]
        assert numbers == list(range(numbers[0], numbers[0] + 10))
    assert handler.requests[0] == "/video?camera=2&quality=80"  # what is not ours is passed on as it was


def test_motion_jpeg_that_ends_is_connected_to_again(web: tuple[str, type[Camera]]) -> None:
    address, handler = web
    handler.frames = 60
    with open_camera(f"http://{address}/video") as source:
        for frame in source:
            stamp_of(frame)
            if source.reconnects == 2:
                break


def test_a_file_over_http_is_a_file(web: tuple[str, type[Camera]]) -> None:
    address, _ = web
    with open_camera(f"http://{address}/clip.mp4") as source:
        assert (source.live, source.policy, source.frame_count, source.fps) == (False, "all", 9, 25)
        assert len(list(source)) == 9
        assert source.state == "closed"


def test_a_file_over_http_that_breaks_off_is_no_whole_one(
    web: tuple[str, type[Camera]], tmp_path: Path
) -> None:
    address, handler = web
    pictures = list(np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8))
    handler.clip = write_video(tmp_path / "noise.avi", pictures, codec="MJPG")
    handler.share = 0.5
    with open_camera(f"http://{address}/noise.avi") as source:
        assert source.frame_count == 40
        with pytest.raises(SourceError, match=r"ends early: got \d+ of 40 frames, then the connection ended"):
            list(source)


def test_password_and_errors(web: tuple[str, type[Camera]]) -> None:
    address, handler = web
    handler.credentials = "admin:s3cr&t/@x"
    with pytest.raises(SourceError, match="the server asks for user and password"):
        open_camera(f"http://{address}/video")
    with pytest.raises(SourceError, match="user or password are wrong") as caught:
        open_camera(f"http://admin:wr0ng@{address}/video")
    assert "wr0ng" not in str(caught.value)
    with open_camera(f"http://admin:s3cr&t/@x@{address}/video") as source:  # unescaped, as people write it
        assert "s3cr" not in source.name + repr(source) + next(source).source
    handler.credentials = None
    with pytest.raises(SourceError, match="404 Not Found from the server"):
        open_camera(f"http://{address}/nothing")
    with pytest.raises(SourceError, match="got no host, expected http://host"):
        open_camera("http:///video")


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg")
def test_mpeg_ts_over_udp(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["ffmpeg", "-v", "error", "-re", "-f", "lavfi", "-i", "testsrc=size=320x240:rate=25"]
    command += ["-c:v", "mpeg2video", "-g", "10", "-f", "mpegts", f"udp://127.0.0.1:{port}"]

    def send() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL)

    sender = send()
    try:
        with open_camera(f"udp://127.0.0.1:{port}", stall_s=1.0) as source:
            assert source.live
            assert next(source).image.shape == (240, 320, 3)
            sender.kill()
            sender.wait()
            while source.state != "reconnecting":
                time.sleep(0.01)
            sender = send()
            while source.reconnects == 0:
                next(source)
    finally:
        sender.kill()
        sender.wait()


@pytest.mark.parametrize("address", ["udp://127.0.0.1:{port}", "udp://@:{port}"])
def test_udp_that_nobody_sends(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = monotonic()
    with pytest.raises(SourceError, match=r"nothing within 0\.5 s"):
        open_camera(address.format(port=port), open_s=0.5)
    assert monotonic() - start < 5


def test_one_transport_at_a_time_and_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_transport.VARIABLE, "reorder_queue_size;0")
    together, alone = threading.Barrier(2), threading.Event()
    seen: list[str | None] = []

    def open_one(transport: str | None) -> None:
        with _transport.of(transport):
            if transport == "udp":
                together.wait(30)  # both at the same time
                assert not alone.wait(0.2)
            else:
                alone.set()
            seen.append(os.environ.get(_transport.VARIABLE))

    threads = [threading.Thread(target=open_one, args=("udp",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    while together.n_waiting == 0 and all(thread.is_alive() for thread in threads):
        time.sleep(0.001)
    other = threading.Thread(target=open_one, args=(None,))
    other.start()
    for thread in (*threads, other):
        thread.join(30)
    ours = "rtsp_transport;udp|reorder_queue_size;0"
    assert seen == [ours, ours, "reorder_queue_size;0"]
    assert os.environ[_transport.VARIABLE] == "reorder_queue_size;0"


def test_a_recording_at_its_own_speed_stands_in_for_a_camera(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", colour_cycle(20), fps=50)
    with open_camera(clip, policy="latest") as source:
        start = monotonic()
        frames = []
        for frame in source:
            frames.append(frame)
            time.sleep(0.05)
        assert monotonic() - start > 0.3
        assert source.dropped > 5
        assert frames[-1].index == 19
    with open_camera(clip, policy="queue=3") as source:
        assert [frame.index for frame in source] == list(range(20))
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", colour_cycle(1)[0])[1].tobytes())
    with pytest.raises(SourceError, match=r"has no frame rate: got policy latest, expected policy all"):
        open_camera(tmp_path, policy="latest")
