"""A network that is gone: a proxy between a real RTSP server and us that lets nothing through any more."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterator
from time import monotonic

import pytest

from edgecnn.camera import Source, open_camera, read_stamp
from edgecnn.camera import network as network_module
from edgecnn.errors import SourceError
from tests import rtsp_server
from tests.rtsp_server import RtspServer

STALE_S = 1.0

pytestmark = pytest.mark.skipif(rtsp_server.missing() is not None, reason=str(rtsp_server.missing()))


class Network:
    """A way to a server. Gone, it drops what connects and holds back what is sent, as a cable that is out."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._there = threading.Event()
        self._there.set()
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1)
        self.port = self._listener.getsockname()[1]
        self._fillers: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def leave(self) -> None:
        """The cable is pulled."""
        self._there.clear()
        time.sleep(0.2)  # until nobody accepts
        for _ in range(8):  # a full queue: the kernel drops what knocks
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._fillers.append(filler)
        time.sleep(0.2)

    def come_back(self) -> None:
        """It is put back."""
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()
        self._there.set()

    def close(self) -> None:
        self._closed = True
        self.come_back()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed:
            self._there.wait()
            if not select.select([self._listener], [], [], 0.05)[0]:
                continue
            client, _ = self._listener.accept()
            thread = threading.Thread(target=self._forward, args=(client,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _forward(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            other = {client: server, server: client}
            while not self._closed:
                self._there.wait()
                for ready in select.select([client, server], [], [], 0.05)[0]:
                    with contextlib.suppress(OSError):
                        if data := ready.recv(65536):
                            other[ready].sendall(data)
                            continue
                    return


@pytest.fixture
def network() -> Iterator[Network]:
    with RtspServer(width=320, height=240) as server:
        way = Network(server.port)
        yield way
        way.close()


def take(source: Source, count: int) -> None:
    for _ in range(count):
        frame = next(source)
        stamp = read_stamp(frame.image)
        assert stamp is not None
        assert frame.captured_at - stamp.time < STALE_S


def test_a_short_gap_gives_nothing_old(network: Network) -> None:
    with open_camera(f"rtsp://127.0.0.1:{network.port}/stream", stall_s=30) as source:
        take(source, 10)
        network.leave()
        time.sleep(3)
        network.come_back()
        take(source, 20)
        assert source.reconnects == 0
        assert source.dropped > 30  # what had been held back


def test_a_long_one_is_a_loss_and_is_made_good(network: Network) -> None:
    with open_camera(f"rtsp://127.0.0.1:{network.port}/stream", stall_s=1) as source:
        take(source, 5)
        network.leave()
        reasons = []
        source.subscribe(lambda event: reasons.append(event.reason))
        deadline = monotonic() + 30
        while f"no answer from 127.0.0.1 within {network_module.REACH_S:g} s" not in reasons:
            assert monotonic() < deadline
            time.sleep(0.01)
        network.come_back()
        take(source, 5)
        assert source.reconnects == 1


def test_at_first_it_is_an_error_in_words(network: Network) -> None:
    network.leave()
    start = monotonic()
    with pytest.raises(SourceError, match=r"got no answer from 127\.0\.0\.1 within 1\.5 s"):
        open_camera(f"rtsp://127.0.0.1:{network.port}/stream")
    assert monotonic() - start < 10
