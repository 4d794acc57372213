"""From a source's URI to an open source."""

from __future__ import annotations

import os
from pathlib import Path

from edgecnn.camera.device import DeviceReader
from edgecnn.camera.images import ImagesReader, image_files, is_image_name
from edgecnn.camera.source import Reader, Source
from edgecnn.camera.uri import SourceUri, parse_source
from edgecnn.camera.video import VideoReader

__all__ = ["open_camera"]


def open_camera(uri: str | os.PathLike[str] | int) -> Source:
    """Open a camera, a video, or images.

        for frame in open_camera("photos/"):
            print(frame.index, frame.path, frame.image.shape)

    Args:
        uri: what `edgecnn.camera.uri` lists: `0`, `photo.jpg`, `photos/`, `'photos/**/*.png'`, `clip.mp4`.

    Raises:
        SourceError: nothing there, nothing readable there, or a scheme that this version does not read.
        BackendUnavailableError: OpenCV is not installed.
    """
    return Source(_reader(parse_source(uri)))


def _reader(uri: SourceUri) -> Reader:
    if uri.kind == "device":
        return DeviceReader(uri.target, name=uri.name)
    if uri.kind in ("folder", "pattern"):
        return ImagesReader(image_files(uri.target), name=uri.name)
    if is_image_name(uri.target) or _starts_like_image(uri.target):
        return ImagesReader([Path(uri.target)], name=uri.name)
    return VideoReader(uri.target, name=uri.name)


_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"BM", b"II*\0", b"MM\0*")


def _starts_like_image(path: str) -> bool:
    """Whether a file without an image's name is one: a download without an ending."""
    try:
        with Path(path).open("rb") as file:
            return file.read(8).startswith(_IMAGE_STARTS)
    except OSError:
        return False  # the reader says what is wrong with it
