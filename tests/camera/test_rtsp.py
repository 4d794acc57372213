"""Against a real RTSP server, which is killed, frozen and started again."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import pytest

from edgecnn.camera import Source, SourceEvent, Stamp, open_camera, read_stamp
from edgecnn.errors import SourceError
from tests import rtsp_server
from tests.rtsp_server import RtspServer

DEADLINE_S = 60.0
STALE_S = 1.0
"""A picture may take that long from the server to the test on a busy machine. Each freeze is longer."""

pytestmark = pytest.mark.skipif(rtsp_server.missing() is not None, reason=str(rtsp_server.missing()))


@pytest.fixture
def server() -> Iterator[RtspServer]:
    with RtspServer(width=320, height=240) as running:
        yield running


def take(source: Source, count: int) -> list[Stamp]:
    """What frames say of themselves; none is older than it looks."""
    stamps = []
    for _ in range(count):
        frame = next(source)
        stamp = read_stamp(frame.image)
        assert stamp is not None
        assert frame.captured_at - stamp.time < STALE_S
        stamps.append(stamp)
    return stamps


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + DEADLINE_S
    while not condition():
        assert monotonic() < deadline
        time.sleep(0.01)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_frames_and_what_is_known_of_them(server: RtspServer) -> None:
    with open_camera(server.url) as source:
        assert (source.live, source.policy, source.frame_count, source.name) == (
            True, "latest", None, server.url,
        )  # fmt: skip
        assert source.fps == pytest.approx(30, rel=0.1)
        first = next(source)
        assert first.image.shape == (240, 320, 3)
        assert first.source_time is not None
        stamps = take(source, 20)
        last = next(source)
        assert last.source_time is not None
        stamp = read_stamp(last.image)
        assert stamp is not None
        # the server's clock goes as ours
        assert last.source_time - first.source_time == pytest.approx(stamp.time - stamps[0].time, abs=0.5)
    numbers = [stamp.number for stamp in stamps]
    assert numbers == sorted(set(numbers))


def test_latest_never_falls_behind_and_all_gives_everything(server: RtspServer) -> None:
    with open_camera(server.url) as source:
        for _ in range(8):
            time.sleep(0.2)
            take(source, 1)
        assert source.dropped > 8
    with open_camera(f"{server.url}?policy=all") as source:
        numbers = [stamp.number for stamp in take(source, 40)]
    assert numbers == list(range(numbers[0], numbers[0] + 40))


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_server_that_is_gone_and_comes_back(
    server: RtspServer, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[SourceEvent] = []
    with open_camera(server.url, stall_s=1.0, on_event=events.append) as source:
        take(source, 3)
        server.kill() if how == "killed" else server.freeze()
        wait_for(lambda: source.state == "reconnecting")
        time.sleep(STALE_S)
        server.start(width=640, height=480) if how == "killed" else server.thaw()
        back = monotonic()
        stamps = take(source, 3)
        assert stamps[0].time > back - 0.5  # made since
        assert next(source).image.shape == ((480, 640, 3) if how == "killed" else (240, 320, 3))
        assert source.reconnects == 1
        assert source.state == "streaming"
    states = [event.state for event in events]
    lost = ["reconnecting"] if how == "killed" else ["stalled", "reconnecting"]
    assert [state for state, before in zip(states, [None, *states], strict=False) if state != before] == [
        "connecting", "streaming", *lost, "streaming", "closed",
    ]  # fmt: skip
    if how == "killed":
        assert events[-2].reason == "640x480, 30 fps, was 320x240"
    # once per loss, however many tries
    assert [record.levelno for record in caplog.records].count(logging.WARNING) == 1


def test_a_short_freeze_is_no_loss_and_gives_nothing_old(server: RtspServer) -> None:
    with open_camera(server.url, stall_s=30) as source:
        take(source, 10)
        server.freeze()
        time.sleep(2 * STALE_S)
        server.thaw()
        take(source, 10)
        assert source.reconnects == 0


def test_closing_while_the_server_is_frozen(server: RtspServer) -> None:
    threads = set(threading.enumerate())
    source = open_camera(server.url, stall_s=2.0)
    take(source, 1)
    before = open_files()
    server.freeze()
    time.sleep(0.3)  # what is on its way
    waiting = threading.Thread(target=lambda: list(source))
    waiting.start()
    start = monotonic()
    source.close()
    assert monotonic() - start < 1
    waiting.join(DEADLINE_S)
    assert not waiting.is_alive()
    wait_for(lambda: set(threading.enumerate()) <= threads)  # FFmpeg's read returns at its time-out
    assert open_files() < before


def test_closing_while_it_connects_to_a_frozen_server(server: RtspServer) -> None:
    threads = set(threading.enumerate())
    source = open_camera(server.url, stall_s=0.5, open_s=3.0)
    take(source, 1)
    server.freeze()
    wait_for(lambda: source.state == "reconnecting")
    time.sleep(0.5)  # within the next connection
    start = monotonic()
    source.close()
    assert monotonic() - start < 1
    wait_for(lambda: set(threading.enumerate()) <= threads)


@pytest.mark.slow
def test_rounds_leave_nothing_behind(server: RtspServer) -> None:
    """Three here; benchmarks/rtsp.py does ten and measures."""
    threads = set(threading.enumerate())
    files = open_files()
    with open_camera(server.url, stall_s=0.5) as source:
        take(source, 3)
        within = open_files()
        for size in ((640, 480), (160, 120), (320, 240)):
            server.kill()
            server.start(width=size[0], height=size[1])
            take(source, 2)
            server.freeze()
            wait_for(lambda: source.state == "reconnecting")
            server.thaw()
            take(source, 2)
        wait_for(lambda: len(set(threading.enumerate()) - threads) == 2)
        wait_for(lambda: open_files() <= within)
    wait_for(lambda: set(threading.enumerate()) <= threads and open_files() <= files)


def test_udp(server: RtspServer) -> None:
    with open_camera(f"{server.url}?transport=udp") as source:
        take(source, 5)
        inodes = {line.split()[9] for line in Path("/proc/self/net/udp").read_text().splitlines()[1:]}
        ours = {str(file.readlink()) for file in Path("/proc/self/fd").iterdir() if file.is_socket()}
        assert {f"socket:[{inode}]" for inode in inodes} & ours
    assert "OPENCV_FFMPEG_CAPTURE_OPTIONS" not in os.environ


def test_a_password_shows_nowhere(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    events: list[SourceEvent] = []
    with RtspServer(width=320, height=240, user="u5er", password="s3cr/t") as server:
        address = server.url.removeprefix("rtsp://")
        with open_camera(f"rtsp://u5er:s3cr/t@{address}", on_event=events.append) as source:
            take(source, 1)
            server.kill()
            wait_for(lambda: source.state == "reconnecting")
            server.start()
            take(source, 1)
            shown = [repr(source), source.name, next(source).source, *map(str, events)]
        with pytest.raises(SourceError, match="user or password are wrong") as wrong:
            open_camera(f"rtsp://u5er:wr0ng@{address}")
        with pytest.raises(SourceError, match="the server asks for user and password"):
            open_camera(server.url)
    shown += [str(wrong.value.to_dict()), repr(wrong.value.__cause__), caplog.text, *capfd.readouterr()]
    assert not [text for text in shown if "u5er" in text or "s3cr" in text or "wr0ng" in text]
    assert f"rtsp://***@{address}" in caplog.text


# What goes wrong at once, in words


def test_nobody_there() -> None:
    with pytest.raises(SourceError, match=r"cannot open rtsp://127.0.0.1:9/x: got Connection refused"):
        open_camera("rtsp://127.0.0.1:9/x")
    with pytest.raises(SourceError, match=r"got no host 'nowhere.invalid'"):
        open_camera("rtsp://nowhere.invalid/x")
    with pytest.raises(SourceError, match=r"got a bad port"):
        open_camera("rtsp://127.0.0.1:port/x")


def test_no_such_stream(server: RtspServer) -> None:
    with pytest.raises(SourceError, match="got 404 Not Found from the server"):
        open_camera(server.url + "s")


def test_a_server_that_says_nothing() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(SourceError, match=r"got nothing within 0\.8 s"):
            open_camera(f"rtsp://127.0.0.1:{port}/x", open_s=0.8)
