"""A real RTSP server in a process of its own, which tests can kill, freeze and start again.

    with RtspServer(width=320, height=240) as server:
        open_camera(server.url)
        server.freeze()

It shows the picture of `edgecnn.camera.pattern`, H.264 by x264 without delay, and each client gets an encoder
of its own. Runs in Debian's Python, which has GStreamer's bindings; see scripts/install_test_packages.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

PYTHON = "/usr/bin/python3"
ROOT = Path(__file__).resolve().parents[1]
_NEEDED = """
import gi, numpy
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
missing = [name for name in ("appsrc", "x264enc", "rtph264pay") if Gst.ElementFactory.find(name) is None]
raise SystemExit(f"GStreamer has no {missing}" if missing else 0)
"""


@functools.cache
def missing() -> str | None:
    """Why there cannot be a server here, or None where there can."""
    if not Path(PYTHON).exists():
        return f"no {PYTHON}"
    result = subprocess.run([PYTHON, "-c", _NEEDED], capture_output=True, text=True, timeout=60)
    if result.returncode == 0:
        return None
    return f"no RTSP server in {PYTHON}: {result.stderr.strip().splitlines()[-1]}"


class RtspServer:
    """Starts a server; see the module's docstring.

    Args:
        width, height, fps: of the picture.
        user, password: asked of clients, where given.
        port: 0 for any that is free.

    Attributes:
        port: where it listens; stays when it is started again.
        url: rtsp://…, without user and password.
    """

    def __init__(
        self,
        *,
        width: int = 640,
        height: int = 480,
        fps: int = 30,
        user: str | None = None,
        password: str | None = None,
        port: int = 0,
    ) -> None:
        self.port = port
        self._credentials = [] if user is None else [f"--user={user}", f"--password={password}"]
        self._process: subprocess.Popen[str] | None = None
        self.start(width=width, height=height, fps=fps)

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/stream"

    def start(self, *, width: int = 640, height: int = 480, fps: int = 30) -> None:
        """Start it, where it listened before."""
        options = [f"--width={width}", f"--height={height}", f"--fps={fps}", f"--port={self.port}"]
        self._process = subprocess.Popen(
            [PYTHON, str(Path(__file__).resolve()), *options, *self._credentials],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("ready "), line
        self.port = int(line.split()[1])

    def kill(self) -> None:
        """As if its power were cut."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.communicate()
        self._process = None

    def freeze(self) -> None:
        """Its connections stay open, and nothing comes."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def __enter__(self) -> RtspServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.kill()


def _serve(options: argparse.Namespace) -> None:
    """The server itself, in Debian's Python."""
    import gi  # type: ignore[import-not-found, unused-ignore]

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer  # type: ignore[import-not-found, unused-ignore]

    Gst.init(None)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        "( appsrc name=source is-live=true do-timestamp=true format=time caps=video/x-raw,format=NV12,"
        f"width={options.width},height={options.height},framerate={options.fps}/1"
        f" ! x264enc tune=zerolatency speed-preset=ultrafast threads=1 key-int-max={options.fps} bitrate=2000"
        " ! rtph264pay name=pay0 pt=96 )"
    )
    factory.set_shared(False)

    def configure(factory: Any, media: Any) -> None:
        source = media.get_element().get_by_name_recurse_up("source")
        threading.Thread(target=_feed, args=(Gst, source, options), daemon=True).start()

    factory.connect("media-configure", configure)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(options.port))
    server.get_mount_points().add_factory("/stream", factory)
    if options.user is not None:
        auth = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "user")
        basic = GstRtspServer.RTSPAuth.make_basic(options.user, options.password)
        auth.add_basic(basic, token)
        server.set_auth(auth)
        permissions = GstRtspServer.RTSPPermissions()
        permissions.add_permission_for_role("user", "media.factory.access", True)
        permissions.add_permission_for_role("user", "media.factory.construct", True)
        factory.set_permissions(permissions)
    server.attach(None)
    print("ready", server.get_bound_port(), flush=True)  # noqa: T201
    GLib.MainLoop().run()


def _feed(gst: Any, source: Any, options: argparse.Namespace) -> None:
    """Push pictures at their rate until the client is gone; after a freeze, no faster than before."""
    from edgecnn.camera.pattern import PatternReader

    reader = PatternReader(width=options.width, height=options.height, fps=1000, pixel_format="nv12")
    while True:
        started = time.monotonic()
        capture = reader.read()
        assert capture is not None
        buffer = gst.Buffer.new_wrapped(capture.image.tobytes())
        if source.emit("push-buffer", buffer) != gst.FlowReturn.OK:
            return
        time.sleep(max(0.0, started + 1 / options.fps - time.monotonic()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("width", "height", "fps", "port"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--user")
    parser.add_argument("--password")
    _serve(parser.parse_args())
