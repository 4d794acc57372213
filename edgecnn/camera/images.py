"""Image files: which ones a folder holds, and reading one so that every OpenCV gives the same."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from edgecnn.camera.opencv import import_cv2, quiet
from edgecnn.camera.source import Capture, Skipped
from edgecnn.camera.uri import display_path
from edgecnn.errors import SourceError

__all__ = ["IMAGE_SUFFIXES", "ImagesReader", "image_files", "is_image_name", "natural_key", "read_image"]

_log = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".png",
        ".bmp",
        ".dib",
        ".webp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
    }
    | {".jp2", ".exr", ".hdr", ".avif", ".heic", ".heif"}  # not in every OpenCV, some in none
)
"""Endings of what is taken for an image; one that OpenCV does not read is reported rather than overlooked."""


def is_image_name(path: str | os.PathLike[str]) -> bool:
    """Whether the name is an image's. Hidden files are not: macOS leaves `._photo.jpg` beside its photos."""
    name = Path(path).name
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES


def natural_key(path: str | os.PathLike[str]) -> list[tuple[list[str | int], str]]:
    """Sort key in which `img2` comes before `img10`, in each part of the path."""
    return [
        ([int(piece) if piece.isdecimal() else piece.casefold() for piece in re.split(r"(\d+)", part)], part)
        for part in Path(path).parts
    ]


def image_files(path: str | os.PathLike[str]) -> list[Path]:
    """The image files that a path means, in natural order.

    Args:
        path: one file (taken as an image whatever it is called), a folder (without its folders), or a
            pattern such as `photos/**/*.jpg`.

    Raises:
        SourceError: nothing there, or no images among it.
    """
    target = Path(path)
    name = display_path(target)
    if target.is_dir():
        try:
            with os.scandir(target) as entries:
                found = [
                    entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file()
                ]
        except OSError as error:
            raise SourceError(f"cannot read the folder {name}", got=str(error.strerror)) from error
        files = [target / entry for entry in found if is_image_name(entry)]
        others = f"{len(found)} other files" if found else "no files"
        remedy = f"For those in its folders: '{name}/**/*.jpg'"
    elif target.exists():
        return [target]
    else:
        matches = [Path(match) for match in glob.glob(os.fspath(path), recursive=True)]  # noqa: PTH207 (absolute patterns too)
        files = [match for match in matches if is_image_name(match) and match.is_file()]
        others = f"{len(matches)} other matches" if matches else "no match"
        remedy = None
    if not files:
        raise SourceError(
            f"no images in {name}", got=others, expected="files such as .jpg and .png", remedy=remedy
        )
    return sorted(files, key=natural_key)


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read one image, turned as its EXIF orientation says.

    Returns:
        (H, W, 3) uint8 BGR. Transparency is left out and 16 bits become their upper 8, as `cv2.imread` does.

    Raises:
        SourceError: the file cannot be read or decoded, is cut off, or its pixels are neither 8 nor 16 bits
            (floating-point pixels have no agreed white).
        BackendUnavailableError: OpenCV is not installed.
    """
    cv2 = import_cv2()
    what = f"cannot read the image {display_path(path)}"
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise SourceError(what, got=str(error.strerror)) from error
    if not data:
        raise SourceError(what, got="an empty file")
    if _is_cut_jpeg(data):
        raise SourceError(what, got=f"a JPEG that is cut off after {len(data)} bytes")
    with quiet():
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        except cv2.error as error:
            raise SourceError(what, got=f"OpenCV: {error.err}") from error
    if image is None:
        raise SourceError(
            what,
            got=f"{len(data)} bytes that start with {data[:4]!r}",
            expected="an image that OpenCV decodes",
        )
    if image.dtype == np.uint16:
        return (image >> 8).astype(np.uint8)  # type: ignore[no-any-return]  # cv2 is Any
    if image.dtype != np.uint8:
        raise SourceError(
            what, got=f"{image.dtype} pixels", expected="8 or 16 bits", remedy="Convert it to 8 bits first"
        )
    return image  # type: ignore[no-any-return]


class ImagesReader:
    """Image files, one after the other; see `edgecnn.camera.source.Reader`.

    A file that cannot be read is logged, remembered in `skipped`, and skipped.

    Args:
        files: the files.
        name: what they are together.
    """

    live = False
    fps = None

    def __init__(self, files: Iterable[Path], *, name: str) -> None:
        import_cv2()  # now, rather than with the first image
        self.name = name
        self._files = list(files)
        self.frame_count: int | None = len(self._files)
        self.skipped: list[Skipped] = []
        self._position = 0

    def read(self) -> Capture | None:
        """See `Reader.read`. Raises SourceError at the end where not one of the files could be read."""
        while self._position < len(self._files):
            path = self._files[self._position]
            self._position += 1
            try:
                image = read_image(path)
            except SourceError as error:
                if len(self._files) == 1:
                    raise
                self.skipped.append(Skipped(path, error.got or error.what))
                _log.warning("skipped: %s", error)
                continue
            return Capture(image, monotonic(), display_path(path), path)
        if len(self.skipped) == len(self._files):
            first = self.skipped[0]
            raise SourceError(
                f"none of the {len(self._files)} images in {self.name} can be read",
                got=f"{display_path(first.path)}: {first.reason}",
            )
        return None

    def close(self) -> None:
        """Nothing is open between two images."""


def _is_cut_jpeg(data: bytes) -> bool:
    """Whether a JPEG ends within its picture, which OpenCV 4 fills up with grey and does not mention.

    Its last start-of-scan must be followed by an end-of-image. Inside a scan 0xFF is always escaped, so
    neither marker can appear there by chance.
    """
    return data[:2] == b"\xff\xd8" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
