"""Annotated video, encoded by OpenCV's FFmpeg.

OpenCV hardly says when a video cannot be written: `write` is silent in 4.x, `release` always, and what a
full disk leaves has no index. So recording ends while there is still room to finish the file, and a
finished file is opened again before it gets its name.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.camera.opencv import import_cv2, open_capture, quiet
from edgecnn.camera.pacing import Places
from edgecnn.camera.sink import BaseSink, refuse_source
from edgecnn.camera.uri import display_path
from edgecnn.errors import OutputError
from edgecnn.files import atomic_output, check_output

if TYPE_CHECKING:
    from edgecnn.pipeline import Output

__all__ = ["DEFAULT_FPS", "VideoSink", "fit"]

DEFAULT_FPS = 25.0
"""For sources that have no frame rate: image files."""

# By ending, best first. Browsers play H.264, but OpenCV's wheels have no encoder for it; MPEG-4 they have.
_CODECS = {".mp4": ("avc1", "mp4v"), ".mkv": ("avc1", "mp4v"), ".avi": ("XVID", "MJPG")}
# Room for what FFmpeg holds back until the end: a Matroska cluster of 5 MB, and an index of so much a frame.
RESERVE_BYTES = 16 << 20
INDEX_BYTES = 16


class VideoSink(BaseSink):
    """A video file, which gets its name when it is closed and can be played.

    Where the disk fills up, recording ends with OutputError and the video so far is kept; any other failure
    leaves nothing, since a video without its end cannot be played.

    The first frame sets the size (its sides rounded down to even numbers, as the codecs want). Later frames
    of another size are scaled to fit, with black bars.

    A camera's frames do not come at an even rate, and fewer come than it announces where the model is slow.
    A video file has one rate. So a live frame stands in the video from the moment when it was captured:
    it is repeated until the next one, and left out where the next one falls into the same place.

    Args:
        path: ends in .mp4, .mkv or .avi.
        fps: frames per second; `DEFAULT_FPS` where the source has none.
        live: frames have the places of their `captured_at`; else each one has a place, whenever it comes.
        force: write over what is there.
        codecs: FOURCCs to try, best first; those usual for the ending where None.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fps: float | None = None,
        live: bool = False,
        force: bool = False,
        codecs: Sequence[str] | None = None,
    ) -> None:
        cv2 = import_cv2()
        self._path = check_output(path, force=force)
        self._force = force
        self.name = display_path(path)
        self._fps = fps or DEFAULT_FPS
        self._places = Places(self._fps) if live else None
        self._codecs = tuple(codecs or _CODECS[self._path.suffix.lower()])
        if not cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG):
            raise OutputError(
                f"cannot write {self.name}",
                got=f"an OpenCV {cv2.__version__} without FFmpeg",
                remedy="A folder/ takes pictures instead",
            )
        self._file = contextlib.ExitStack()  # holds the temporary file; closed with success it gets its name
        self._temporary = Path()
        self._writer: Any = None
        self._size_hw = (0, 0)
        self._frames = 0
        self._last = np.empty(0, np.uint8)  # live: the frame that the next place will show

    def _write(self, output: Output) -> None:
        image = output.annotated
        if self._writer is None:
            refuse_source(self._path, output)
            self._open(image.shape[0], image.shape[1])
        fitted = fit(image, self._size_hw)
        if self._places is None:
            self._append(fitted)
        else:
            for _ in range(self._places.until(output.frame.captured_at)):
                self._append(self._last)
            self._last = fitted
        if free_bytes(self._path) < (reserve := RESERVE_BYTES + INDEX_BYTES * self._frames):
            self._finish()
            raise OutputError(
                f"recording {self.name} ended",
                got=f"less than {reserve >> 20} MB left on the disk",
                remedy=f"It holds the first {self._frames} frames",
            )

    def _append(self, image: NDArray[np.uint8]) -> None:
        cv2 = import_cv2()
        with quiet():
            try:
                written = self._writer.write(image)  # None in OpenCV 4; in 5, whether it worked
            except cv2.error as error:
                raise OutputError(f"cannot write {self.name}", got=f"OpenCV: {error.err}") from error
        if written is False:
            raise self._failure()
        self._frames += 1

    def _finish(self) -> None:
        if self._writer is None:
            return
        if self._places is not None:
            self._append(self._last)
        self._release()
        if not self._is_playable():
            error = self._failure()
            self._abandon(error)
            raise error
        self._file.close()

    def _abandon(self, error: OSError) -> None:
        self._release()
        # Given the error, the context manager removes the temporary file instead of naming it, and raises
        # the error again, as our caller does. After _finish there is none any more.
        with contextlib.suppress(type(error)):
            self._file.__exit__(type(error), error, error.__traceback__)

    def _open(self, height: int, width: int) -> None:
        cv2 = import_cv2()
        self._size_hw = (max(2, height // 2 * 2), max(2, width // 2 * 2))
        self._temporary = self._file.enter_context(atomic_output(self._path, force=self._force)).absolute()
        for codec in self._codecs:
            with quiet():
                try:
                    writer = cv2.VideoWriter(
                        os.fspath(self._temporary),
                        cv2.CAP_FFMPEG,
                        cv2.VideoWriter.fourcc(*codec),
                        self._fps,
                        self._size_hw[::-1],
                    )
                except (cv2.error, UnicodeEncodeError) as error:
                    raise OutputError(f"cannot write {self.name}", got=str(error).splitlines()[0]) from error
            if writer.isOpened():
                self._writer = writer
                return
            writer.release()
        raise OutputError(
            f"OpenCV cannot write {self.name}",
            got=f"{width}x{height} at {self._fps:g} fps, codecs {', '.join(self._codecs)}",
            remedy="A folder/ takes pictures instead",
        )

    def _is_playable(self) -> bool:
        """Whether the file opens and has its frames.

        MP4 does not open without its end. The others may open and announce frames that are missing, so
        where the file could not have grown any further, they are counted.
        """
        cv2 = import_cv2()
        capture = open_capture(os.fspath(self._temporary), cv2.CAP_FFMPEG)
        if capture is None:
            return False
        try:
            if _can_grow(self._temporary):
                # some containers hold a duration, which OpenCV multiplies by the rate
                return bool(capture.get(cv2.CAP_PROP_FRAME_COUNT) >= 0.9 * self._frames)
            with quiet():
                return sum(1 for _ in iter(capture.grab, False)) == self._frames
        finally:
            capture.release()

    def _failure(self) -> OutputError:
        return OutputError(
            f"cannot write {self.name}",
            got=f"a failed write after {self._frames} frames (a full disk, a quota, a limit on file sizes)",
            remedy="Nothing was left behind",
        )

    def _release(self) -> None:
        if self._writer is not None:
            with quiet():
                self._writer.release()
            self._writer = None


def fit(image: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Bring an image (H, W, 3) to a size, keeping its aspect ratio, centred on black.

    An image that is one row or column too large for even sides loses that instead of being scaled.
    """
    height, width = size_hw
    if 0 <= image.shape[0] - height <= 1 and 0 <= image.shape[1] - width <= 1:
        return np.ascontiguousarray(image[:height, :width])
    cv2 = import_cv2()
    scale = min(height / image.shape[0], width / image.shape[1])
    inner_h, inner_w = max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))
    top, left = (height - inner_h) // 2, (width - inner_w) // 2
    canvas = np.zeros((height, width, 3), np.uint8)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas[top : top + inner_h, left : left + inner_w] = cv2.resize(
        image, (inner_w, inner_h), interpolation=interpolation
    )
    return canvas


def free_bytes(path: Path) -> int:
    state = os.statvfs(path.parent)
    return state.f_bavail * state.f_frsize


def _can_grow(path: Path) -> bool:
    """Whether the file system would have taken more bytes at the end of a file; it is left as it is."""
    size = path.stat().st_size
    with path.open("rb+") as file:
        try:
            os.posix_fallocate(file.fileno(), size, 1 << 16)
        except OSError:
            return False
        finally:
            os.ftruncate(file.fileno(), size)
    return True
