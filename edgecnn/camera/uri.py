"""What a source's URI means: the one place where that is decided.

    0                            camera number 0 (/dev/video0)
    /dev/video0                  the same; also /dev/v4l/by-id/…, which stays when cameras change places
    v4l2:///dev/video0?width=1280&height=720&fps=30&format=MJPG
    csi://0?width=1920&height=1080&fps=30&flip=2      a Jetson's own camera
    rtsp://user:password@camera/stream?transport=tcp&latency=100
    http://camera/video.mjpg     motion JPEG, or a video file, over HTTP; also https://
    udp://@:5000                 MPEG-TS that is sent here, or to a multicast group
    gst:v4l2src ! videoconvert   a GStreamer pipeline
    test://?width=640&height=480&fps=30&frames=100    a moving picture with its number and time in it
    photo.jpg                    one image
    photos/                      the images in a folder, in natural order, without those in its folders
    'photos/**/*.png'            the images that match a pattern
    clip.mp4                     a video file
    file:///data/clip.mp4        any of the files above

PARAMETERS lists what may stand behind the `?`. Of `rtsp`, `http` and `udp` only these are taken off: what
else stands there is the camera's own, and is passed on as it is. A file whose name looks like a number or a
pattern is reached as `./0` or `file://`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from edgecnn.camera.credentials import escape_credentials, mask_credentials
from edgecnn.camera.parameters import PARAMETERS, read_parameters
from edgecnn.errors import SourceError

__all__ = ["SCHEMES", "SourceUri", "display_path", "mask_credentials", "parse_source"]

Kind = Literal["device", "csi", "rtsp", "http", "udp", "gst", "test", "folder", "pattern", "file"]

_KINDS: dict[str, Kind] = {
    "file": "file",
    "v4l2": "device",
    "csi": "csi",
    "rtsp": "rtsp",
    "rtsps": "rtsp",
    "http": "http",
    "https": "http",
    "udp": "udp",
    "test": "test",
}
SCHEMES = tuple(_KINDS)
"""URI schemes that sources of this version read; beside them `gst:`."""

_EXPECTED = "a camera's number, an image, a folder or pattern of images, a video file"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_DEVICE = re.compile(r"/dev/video[0-9]+|/dev/v4l/by-(id|path)/[^/]+")


_RAW_FORMATS = {"NV12": "nv12", "YUYV": "yuyv", "GREY": "gray"}  # by Video4Linux's letters


@dataclass(frozen=True)
class SourceUri:
    """A source's URI, understood.

    Attributes:
        kind: what is there.
        target: device path, CSI sensor's number, address, pipeline, folder, pattern or file, as what opens
            it takes it. May hold credentials, and is therefore not shown.
        name: the URI for people and logs: no credentials, always valid Unicode.
        parameters: those of PARAMETERS that were given, converted.
    """

    kind: Kind
    target: str = field(repr=False)
    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_stored(self) -> bool:
        """Whether it is files, which can be read again, and not a camera or a stream."""
        return self.kind in ("folder", "pattern", "file")

    @property
    def pixel_format(self) -> str | None:
        """What its frames' bytes are; see `edgecnn.camera.source.Source`."""
        if self.kind == "gst":
            return None  # the pipeline's own business
        if self.kind == "test":
            return str(self.parameters.get("format", "bgr"))
        if not self.parameters.get("raw"):
            return "bgr"
        return "nv12" if self.kind == "csi" else _RAW_FORMATS.get(self.parameters.get("format", ""), "raw")


def parse_source(uri: str | os.PathLike[str] | int) -> SourceUri:
    """Say what a source's URI means. Looks at the disk to tell a folder from a file, and reads nothing.

    Raises:
        SourceError: a scheme or parameter that this version does not read, or no such file.
    """
    text = uri if isinstance(uri, str) else str(uri) if isinstance(uri, int) else os.fspath(uri)
    name = mask_credentials(display_path(text))
    if re.fullmatch(r"[0-9]+", text, re.ASCII):
        return SourceUri("device", f"/dev/video{int(text)}", name)
    if text.startswith("gst:") and not os.path.lexists(text):
        return SourceUri("gst", text.removeprefix("gst:").strip(), name)
    literal = False
    if (match := _SCHEME.match(text)) and not os.path.lexists(text):
        scheme, rest = match[1].lower(), text[match.end() :]
        if scheme not in _KINDS:
            schemes = ", ".join(f"{known}://" for known in SCHEMES)
            raise SourceError(
                f"cannot open {name}", got=f"{scheme}://", expected=f"{_EXPECTED}, {schemes} or gst:"
            )
        if scheme != "file":
            return _with_parameters(_KINDS[scheme], scheme, rest, name)
        text, literal = _local_path(rest, name), True
    if _DEVICE.fullmatch(text):
        return SourceUri("device", text, name)
    path = Path(text)
    if text and path.is_dir():
        return SourceUri("folder", text, name)
    if text and path.exists():
        return SourceUri("file", text, name)
    if not literal and re.search(r"[*?[]", text):
        return SourceUri("pattern", text, name)
    raise SourceError(f"{name or 'the source'} does not exist", expected=_EXPECTED)


def display_path(path: str | os.PathLike[str]) -> str:
    """A path as valid Unicode, for messages and JSON; bytes that are not UTF-8 become `\\ufffd`."""
    return os.fsencode(path).decode("utf-8", "replace")


def _local_path(rest: str, name: str) -> str:
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise SourceError(f"cannot open {name}", expected="file:///absolute/path")
    return f"/{unquote(path)}"


def _with_parameters(kind: Kind, scheme: str, rest: str, name: str) -> SourceUri:
    address, mark, query = rest.partition("?")
    parameters, others = read_parameters(kind, query, name)
    if kind in ("rtsp", "http", "udp"):
        if not address.rpartition("@")[2].partition("/")[0]:
            raise SourceError(f"cannot open {name}", got="no host", expected=f"{scheme}://host[:port]/…")
        _check_address(f"{scheme}://{address}", name)
        return SourceUri(kind, f"{scheme}://{address}{mark if others else ''}{others}", name, parameters)
    target = unquote(address)
    if kind == "device" and not _DEVICE.fullmatch(target):
        raise SourceError(f"cannot open {name}", expected="v4l2:///dev/videoN")
    if kind == "csi" and not re.fullmatch(r"[0-9]{1,2}", target, re.ASCII):
        raise SourceError(f"cannot open {name}", expected="csi://N with the sensor's number, from 0")
    if kind == "test" and target:
        raise SourceError(f"cannot open {name}", expected=f"test://?{'&'.join(PARAMETERS['test'])}")
    return SourceUri(kind, target, name, parameters)


def _check_address(address: str, name: str) -> None:
    """Raise SourceError for one that no library takes apart: what these say of it may hold a password."""
    wrong = "a bad host"
    try:
        parts = urlsplit(escape_credentials(address))
        wrong = "a bad port"
        _ = parts.port
    except ValueError:
        raise SourceError(f"cannot open {name}", got=wrong) from None
