"""Streams to real receivers: FFmpeg, and GStreamer's RTSP server."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgecnn.camera import open_sink
from edgecnn.camera.sink import Sink
from edgecnn.errors import ClosedError, OutputError
from tests.browser import eventually
from tests.colours import colour_of, solid
from tests.outputs import fresh, output

FFMPEG = shutil.which("ffmpeg")
SIZE = 48 * 64 * 3

SERVER = """
import sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer, GLib
Gst.init(None)
server = GstRtspServer.RTSPServer(); server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory()
factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
factory.set_latency(0)
factory.set_launch("( rtph264depay name=depay0 ! h264parse ! avdec_h264 ! videoconvert "
    "! video/x-raw,format=BGR ! filesink sync=false buffer-mode=2 location=%s )" % sys.argv[2])
server.get_mount_points().add_factory("/live", factory)
server.attach(None); print("there", flush=True); GLib.MainLoop().run()
"""


def has_gstreamer(*elements: str) -> bool:
    return all(
        shutil.which("gst-inspect-1.0")
        and subprocess.run(["gst-inspect-1.0", "--exists", element], check=False).returncode == 0
        for element in ("x264enc", *elements)
    )


def has_server() -> bool:
    check = "import gi; gi.require_version('GstRtspServer', '1.0')"
    return subprocess.run(["/usr/bin/python3", "-c", check], capture_output=True, check=False).returncode == 0


needs_gstreamer = pytest.mark.skipif(not has_gstreamer("mpegtsmux"), reason="no GStreamer with x264enc")
needs_server = pytest.mark.skipif(
    not (has_gstreamer("rtspclientsink", "avdec_h264") and has_server()),
    reason="no RTSP server: apt install gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-rtsp",
)


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(type=kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def received(path: Path) -> list[str]:
    """Colours of the frames that a receiver has written so far."""
    data = path.read_bytes() if path.exists() else b""
    frames = np.frombuffer(data[: len(data) // SIZE * SIZE], np.uint8).reshape(-1, 48, 64, 3)
    return [colour_of(frame) for frame in frames]


@contextlib.contextmanager
def streaming(sink: Sink) -> Iterator[None]:
    """Red, green, blue, a third of a second each, until the end of the `with`."""
    stop = threading.Event()

    def run() -> None:
        index = 0
        while not stop.wait(1 / 30):
            sink.write(fresh(solid(("red", "green", "blue")[index // 10 % 3]), index))
            index += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@needs_gstreamer
@pytest.mark.skipif(FFMPEG is None, reason="no ffmpeg: apt install ffmpeg")
def test_udp(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    target = tmp_path / "frames"
    receiver = subprocess.Popen(
        [str(FFMPEG), "-v", "quiet", "-probesize", "100000", "-i", f"udp://127.0.0.1:{port}",
         "-f", "rawvideo", "-pix_fmt", "bgr24", "-flush_packets", "1", target],
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with open_sink(f"udp://127.0.0.1:{port}", fps=30) as sink, streaming(sink):
            assert sink.lossy
            eventually(lambda: set(received(target)) == {"red", "green", "blue"})
    finally:
        receiver.kill()
        receiver.wait()
    with pytest.raises(ClosedError):
        sink.write(output())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    port, target = free_port(socket.SOCK_STREAM), tmp_path / "frames"
    process = subprocess.Popen(
        ["/usr/bin/python3", "-c", SERVER, str(port), str(target)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        yield process, port, target
        process.kill()


@needs_server
def test_rtsp(server: tuple[subprocess.Popen[str], int, Path]) -> None:
    process, port, target = server
    with open_sink(f"rtsp://127.0.0.1:{port}/live?kbps=500", fps=30) as sink:
        with streaming(sink):
            eventually(lambda: set(received(target)) == {"red", "green", "blue"})
        process.kill()
        with pytest.raises(OutputError, match=r"cannot stream to rtsp://127.0.0.1:\d+/live.*: got Could not"):
            eventually(lambda: sink.write(fresh(solid("red"))))


@needs_server
def test_closing_does_not_wait_for_a_server_that_hangs(
    server: tuple[subprocess.Popen[str], int, Path],
) -> None:
    process, port, target = server
    with open_sink(f"rtsp://127.0.0.1:{port}/live", fps=30) as sink:
        with streaming(sink):
            eventually(lambda: received(target))
        process.send_signal(signal.SIGSTOP)
        sink.write(fresh(solid("red")))
    process.send_signal(signal.SIGCONT)


@needs_server
def test_no_server() -> None:
    sink = open_sink(f"rtsp://me:secret@127.0.0.1:{free_port(socket.SOCK_STREAM)}/live")
    with pytest.raises(OutputError, match=r"cannot stream to .*: got Failed to connect") as caught:
        eventually(lambda: sink.write(fresh(solid("red"))))
    assert "secret" not in str(caught.value)


def test_without_gstreamer_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(OutputError, match=r"no GStreamer. apt install .*gstreamer1.0-rtsp; or http://:8080"):
        open_sink("rtsp://server/live")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("udp://127.0.0.1", "expected udp://host:port"),
        ("udp://:5000", "expected udp://host:port"),
        ("rtsp:///live", "expected rtsp://host:port/path"),
        ("udp://127.0.0.1:5000?kbps=1", "got kbps=1, expected a number from 50"),
    ],
)
def test_addresses_that_cannot_be(uri: str, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        open_sink(uri)
