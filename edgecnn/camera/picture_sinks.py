"""Annotated pictures: one in a file, or one a frame in a folder. Each appears whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgecnn.camera.opencv import import_cv2, quiet
from edgecnn.camera.sink import BaseSink, refuse_source
from edgecnn.camera.uri import display_path
from edgecnn.errors import OutputError
from edgecnn.files import check_output, write_atomic

if TYPE_CHECKING:
    from edgecnn.pipeline import Output

__all__ = ["PictureSink", "PicturesSink"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_DEFAULT_SUFFIX = ".jpg"


class PictureSink(BaseSink):
    """One picture in a file. A second frame is refused, and the first stays: which to keep, nobody said."""

    def __init__(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        import_cv2()
        self._path = check_output(path, force=force)
        self._force = force
        self.name = display_path(path)
        self._written = False

    def _write(self, output: Output) -> None:
        if self._written:
            raise OutputError(
                f"{self.name} takes one picture, and {output.frame.source} has more frames",
                remedy=f"Use --frames 1, or a folder for one picture a frame: {self._path.with_suffix('')}/",
            )
        refuse_source(self._path, output)
        write_atomic(self._path, _encode(self._path.suffix, output.annotated), force=self._force)
        self._written = True


class PicturesSink(BaseSink):
    """One picture a frame in a folder, which is made if its parent exists.

    A picture has the name of the image that it comes from, or the frame's number in six digits and `.jpg`.
    Images of the same name from different folders get `-1`, `-2` … behind it.
    """

    def __init__(self, folder: str | os.PathLike[str], *, force: bool = False) -> None:
        import_cv2()
        self._folder = Path(folder)
        self._force = force
        self.name = display_path(folder)
        self._names: set[str] = set()
        if self._folder.exists() and not self._folder.is_dir():
            raise OutputError(f"cannot write into {self.name}", got="a file", expected="a folder")
        parent = self._folder if self._folder.is_dir() else self._folder.parent
        if not parent.is_dir():
            raise OutputError(
                f"cannot write into {self.name}", got=f"no folder {parent}", remedy=f"mkdir -p {self._folder}"
            )
        if not os.access(parent, os.W_OK):
            raise OutputError(f"cannot write into {self.name}", got=f"no permission to write in {parent}")

    def _write(self, output: Output) -> None:
        target = self._folder / self._unused_name(output)
        refuse_source(target, output)
        try:
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder {self.name}", got=str(error.strerror)) from error
        write_atomic(target, _encode(target.suffix, output.annotated), force=self._force)

    def _unused_name(self, output: Output) -> str:
        path = output.frame.path
        stem, suffix = (path.stem, path.suffix) if path else (f"{output.frame.index:06d}", _DEFAULT_SUFFIX)
        if suffix.lower() not in _SUFFIXES:
            suffix = _DEFAULT_SUFFIX
        name, copies = f"{stem}{suffix}", 0
        while name in self._names:
            copies += 1
            name = f"{stem}-{copies}{suffix}"
        self._names.add(name)
        return name


def _encode(suffix: str, image_bgr: NDArray[np.uint8]) -> bytes:
    cv2 = import_cv2()
    with quiet():
        done, data = cv2.imencode(
            suffix.lower(), image_bgr, [cv2.IMWRITE_JPEG_QUALITY, 95] if "jp" in suffix.lower() else []
        )
    if not done:
        raise OutputError(f"OpenCV cannot write a {suffix}", got=f"{image_bgr.shape} {image_bgr.dtype}")
    return bytes(data)
