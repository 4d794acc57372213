"""H.264 over the network: pushed to an RTSP server, or as MPEG-TS over UDP. GStreamer's command does it.

Not through OpenCV: pip's has no GStreamer, and none says that a server has gone. `gst-launch-1.0` says so,
works beside any OpenCV, and can be ended when it hangs.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import numpy as np

from edgecnn.camera.opencv import import_cv2
from edgecnn.camera.pacing import Places
from edgecnn.camera.picture_process import PictureProcess
from edgecnn.camera.sink import BaseSink
from edgecnn.camera.sink_address import parse_address
from edgecnn.camera.video_sink import DEFAULT_FPS, fit
from edgecnn.errors import OutputError

if TYPE_CHECKING:
    from edgecnn.pipeline import Output

__all__ = ["StreamSink"]

_SEND_S = 5.0
_KBPS_PER_PIXEL = 1e-4  # per second: 2.8 Mbit/s for 720p at 30 fps
# Elements of GStreamer, and the Debian package that has each.
_PACKAGES = {
    "fdsrc": "gstreamer1.0-tools",
    "rawvideoparse": "gstreamer1.0-plugins-bad",
    "videoconvert": "gstreamer1.0-plugins-base",
    "x264enc": "gstreamer1.0-plugins-ugly",
    "h264parse": "gstreamer1.0-plugins-bad",
}
_MORE = {
    "udp": {"mpegtsmux": "gstreamer1.0-plugins-bad", "udpsink": "gstreamer1.0-plugins-good"},
    "rtsp": {"rtspclientsink": "gstreamer1.0-rtsp"},
}


class StreamSink(BaseSink):
    """Streams annotated frames at an even rate: a frame is repeated until the next one is there.

    Frames of another size than the first are scaled to fit. Who comes late sees a picture after a second.

    Args:
        uri: `rtsp://host:port/path` of a server that takes streams (RECORD), or `udp://host:port`. Option:
            `kbps`, the bit rate.
        fps: frames a second; `DEFAULT_FPS` where the source has none.

    Raises:
        OutputError: a wrong address, or no GStreamer. From `write`: no server, or it has gone.
    """

    lossy = True

    def __init__(self, uri: str, *, fps: float | None = None) -> None:
        import_cv2()
        address = parse_address(uri, options=("kbps",))
        self.name = address.name
        if not address.host or (address.scheme == "udp" and (address.port is None or address.path)):
            raise OutputError(
                f"cannot use {self.name}",
                expected="udp://host:port" if address.scheme == "udp" else "rtsp://host:port/path",
            )
        _check_gstreamer(self.name, address.scheme)
        self._kbps = address.number("kbps", 0, low=50, high=100_000)
        self._fps = max(1, round(fps or DEFAULT_FPS))  # an encoder takes no frame every few seconds
        self._places = Places(self._fps)
        if address.scheme == "udp":
            self._target = ["mpegtsmux", "alignment=7", "!", "udpsink", "sync=false"]
            self._target += [f"host={address.host}", f"port={address.port}"]
        else:
            location = uri.partition("?")[0]
            self._target = ["rtspclientsink", f"location={location}", "protocols=tcp", "latency=0"]
        self._process: PictureProcess | None = None
        self._size_hw = (0, 0)
        self._last = np.empty(0, np.uint8)

    def _write(self, output: Output) -> None:
        image = output.annotated
        if self._process is None:
            self._size_hw = (max(2, image.shape[0] // 2 * 2), max(2, image.shape[1] // 2 * 2))
            self._process = PictureProcess(self._command())
            self._places.until(output.frame.captured_at)
            count = 1
        else:
            count = self._places.until(output.frame.captured_at)
        if count:  # else there is a frame in this place already
            for _ in range(count - 1):
                self._send(self._process)
            self._last = fit(image, self._size_hw)
            self._send(self._process)

    def _send(self, process: PictureProcess) -> None:
        try:
            process.send(self._last.data.cast("B"), within_s=_SEND_S)
        except TimeoutError:
            raise self._failure(f"nothing taken for {_SEND_S:g} s") from None
        except BrokenPipeError:
            raise self._failure(process.last_words("Failed", "ailed to")) from None

    def _failure(self, got: str) -> OutputError:
        return OutputError(f"cannot stream to {self.name}", got=got)

    def _command(self) -> list[str]:
        height, width = self._size_hw
        kbps = round(self._kbps or max(200.0, height * width * self._fps * _KBPS_PER_PIXEL))
        return [
            *["gst-launch-1.0", "-q", "fdsrc", "fd=0", f"blocksize={height * width * 3}", "!"],
            *[
                "rawvideoparse",
                "format=bgr",
                f"width={width}",
                f"height={height}",
                f"framerate={self._fps}/1",
            ],
            *["!", "videoconvert", "!", "video/x-raw,format=I420", "!"],
            *["x264enc", "tune=zerolatency", "speed-preset=ultrafast", f"key-int-max={self._fps}"],
            *[f"bitrate={kbps}", "!", "h264parse", "config-interval=-1", "!", *self._target],
        ]

    def _finish(self) -> None:
        if self._process is not None:
            self._process.close()

    def _abandon(self, error: OSError) -> None:
        self._finish()


def _check_gstreamer(name: str, scheme: str) -> None:
    elements = {**_PACKAGES, **_MORE[scheme]}
    inspect = shutil.which("gst-inspect-1.0")
    if inspect is None or shutil.which("gst-launch-1.0") is None:
        missing = dict.fromkeys(elements.values())
    else:
        missing = dict.fromkeys(
            package
            for element, package in elements.items()
            if subprocess.run([inspect, "--exists", element], check=False).returncode != 0
        )
    if missing:
        raise OutputError(
            f"cannot stream to {name}",
            got="no GStreamer" if inspect is None else "a GStreamer that lacks a part",
            remedy=f"apt install {' '.join(missing)}; or http://:8080, which needs none",
        )
