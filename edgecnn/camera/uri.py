"""What a source's URI means: the one place where that is decided.

    0                       camera number 0 (/dev/video0)
    /dev/video0             the same; also v4l2:///dev/video0
    photo.jpg               one image
    photos/                 the images in a folder, in natural order, without those in its folders
    'photos/**/*.png'       the images that match a pattern
    clip.mp4                a video file
    file:///data/clip.mp4   any of the files above

A file whose name looks like a number or a pattern is reached as `./0` or `file://`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from edgecnn.errors import SourceError

__all__ = ["SCHEMES", "SourceUri", "display_path", "mask_credentials", "parse_source"]

Kind = Literal["device", "folder", "pattern", "file"]

SCHEMES = ("file", "v4l2")
"""URI schemes that sources of this version read."""

_EXPECTED = "a camera's number, an image, a folder or pattern of images, a video file"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_DEVICE = re.compile(r"/dev/video([0-9]+)")


@dataclass(frozen=True)
class SourceUri:
    """A source's URI, understood.

    Attributes:
        kind: what is there.
        target: device path, folder, pattern or file, as the operating system takes it.
        name: the same for people and logs: no credentials, always valid Unicode.
    """

    kind: Kind
    target: str
    name: str


def parse_source(uri: str | os.PathLike[str] | int) -> SourceUri:
    """Say what a source's URI means. Looks at the disk to tell a folder from a file, and reads nothing.

    Raises:
        SourceError: a scheme that this version does not read, or nothing there.
    """
    text = uri if isinstance(uri, str) else str(uri) if isinstance(uri, int) else os.fspath(uri)
    name = mask_credentials(display_path(text))
    if re.fullmatch(r"[0-9]+", text):
        return SourceUri("device", f"/dev/video{int(text)}", name)
    literal = False
    if (match := _SCHEME.match(text)) and not os.path.lexists(text):
        scheme, rest = match[1].lower(), text[match.end() :]
        if scheme not in SCHEMES:
            schemes = ", ".join(f"{known}://" for known in SCHEMES)
            raise SourceError(
                f"cannot open {name}", got=f"{scheme}://", expected=f"{_EXPECTED}, or {schemes}"
            )
        text, literal = _local_path(scheme, rest, name), True
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


def mask_credentials(uri: str) -> str:
    """The URI with `user:password@` replaced by `***@`. Text that is no URI comes back as it is.

    People leave `/` and `@` in passwords unescaped, which then end the authority too early. So unless it
    begins with a plain host or host:port, everything up to the last `@` is taken for credentials.
    """
    match = _SCHEME.match(uri)
    if match is None or "@" not in uri:
        return uri
    rest = uri[match.end() :]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:@]*)(:[0-9]*)?", authority):
        return uri  # the @ belongs to the path
    return f"{match[0]}***@{rest[rest.rindex('@') + 1 :]}"


def display_path(path: str | os.PathLike[str]) -> str:
    """A path as valid Unicode, for messages and JSON; bytes that are not UTF-8 become `\\ufffd`."""
    return os.fsencode(path).decode("utf-8", "replace")


def _local_path(scheme: str, rest: str, name: str) -> str:
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise SourceError(f"cannot open {name}", expected=f"{scheme}:///absolute/path")
    if scheme == "v4l2" and not _DEVICE.fullmatch(f"/{path}"):
        raise SourceError(f"cannot open {name}", expected="v4l2:///dev/videoN")
    return f"/{unquote(path)}"
