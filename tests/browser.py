"""A real browser: Chromium without a window, told what to do through its DevTools protocol.

The protocol is JSON over a WebSocket; the little of RFC 6455 that a client on the same machine needs is here.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def eventually(condition: Callable[[], Any], within_s: float = 30.0) -> Any:
    """Wait until something is true, and give it back."""
    deadline = monotonic() + within_s
    while not (value := condition()):
        if monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s")
        sleep(0.02)
    return value


class Browser:
    """One page of a Chromium."""

    def __init__(self, size_wh: tuple[int, int] = (1280, 800), *, dark: bool = False) -> None:
        self._profile = tempfile.mkdtemp(prefix="edgecnn-chromium-")
        options = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-dev-shm-usage",
        ]
        options += ["--remote-debugging-port=0", f"--user-data-dir={self._profile}", "about:blank"]
        self._process = subprocess.Popen(
            [str(CHROMIUM), *options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self._number = 0
        self._socket: socket.socket | None = None
        try:
            port_file = Path(self._profile) / "DevToolsActivePort"
            eventually(lambda: port_file.exists() and port_file.read_text().count("\n"))
            port = port_file.read_text().split("\n")[0]
            self._connect(eventually(lambda: _page_address(port)))
            self.call(
                "Emulation.setDeviceMetricsOverride",
                width=size_wh[0], height=size_wh[1], deviceScaleFactor=1, mobile=size_wh[0] < 600,
            )  # fmt: skip
            if dark:
                features = [{"name": "prefers-color-scheme", "value": "dark"}]
                self.call("Emulation.setEmulatedMedia", features=features)
        except BaseException:
            self.close()
            raise

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its answer."""
        self._number += 1
        self._send(json.dumps({"id": self._number, "method": method, "params": parameters}).encode())
        while True:
            message = json.loads(self._receive())
            if message.get("id") == self._number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    def open(self, address: str) -> None:
        """Go there, and wait for the page."""
        self.call("Page.navigate", url=address)
        eventually(lambda: self.run("location.protocol != 'about:' && document.readyState != 'loading'"))

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression on the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: Path | None = None) -> NDArray[np.uint8]:
        """(H, W, 3) BGR of what the page looks like; also as a PNG file where a path is given."""
        png = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if path is not None:
            path.write_bytes(png)
        return np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR), np.uint8)

    def close(self) -> None:
        """End the browser and all of its processes."""
        if self._socket is not None:
            self._socket.close()
        os.killpg(self._process.pid, 9)
        self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _connect(self, address: str) -> None:
        parts = urlsplit(address)
        self._socket = socket.create_connection((str(parts.hostname), parts.port or 0), timeout=60)
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Upgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._exactly(1)
        assert b" 101 " in head, head

    def _send(self, text: bytes) -> None:
        assert self._socket is not None
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(text))
        size = len(text)
        length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + struct.pack(">H", size)
        self._socket.sendall(b"\x81" + length + mask + masked)

    def _receive(self) -> bytes:
        """One message; it may come in several parts."""
        message = b""
        while True:
            first, size = self._exactly(2)
            if size == 126:
                (size,) = struct.unpack(">H", self._exactly(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", self._exactly(8))
            payload = self._exactly(size)
            if first & 0x0F in (0, 1):
                message += payload
                if first & 0x80:
                    return message

    def _exactly(self, count: int) -> bytes:
        assert self._socket is not None
        data = bytearray()
        while len(data) < count:
            part = self._socket.recv(count - len(data))
            assert part, "Chromium hung up"
            data += part
        return bytes(data)


def _page_address(port: str) -> str | None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=10) as answer:
        pages = [target for target in json.load(answer) if target["type"] == "page"]
    return pages[0]["webSocketDebuggerUrl"] if pages else None
