"""A moving test picture that carries its own number and the time at which it was made.

Both are drawn as black and white cells, 24 × 4 of them over the upper quarter of the picture, large enough to
survive JPEG, H.264 and scaling. Whoever has the picture, wherever it went meanwhile, reads them back:

    stamp = read_stamp(frame.image)
    if stamp is not None:
        age_s = monotonic() - stamp.time

The 96 bits, row by row, most significant first: 0xE5, the number (32 bits), the time in units of 0.1 ms of
`time.monotonic()` (40 bits), and CRC-16/CCITT of these ten bytes.
"""

from __future__ import annotations

import binascii
import math
import time
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from edgecnn.camera.pool import FramePool
from edgecnn.camera.source import Capture, Skipped

__all__ = ["PatternFormat", "PatternReader", "Stamp", "draw_stamp", "read_stamp"]

COLUMNS, ROWS = 24, 4
SHARE = 4  # the stamp's part of the height: a quarter
_MARK = 0xE5
_TICKS_S = 1e4

PatternFormat = Literal["bgr", "gray", "nv12", "yuyv"]
PATTERN_FORMATS: tuple[PatternFormat, ...] = get_args(PatternFormat)


class Stamp(NamedTuple):
    """What a test picture says of itself: its number, and when it was made by `time.monotonic()`."""

    number: int
    time: float


def draw_stamp(image: NDArray[np.uint8], number: int, at: float) -> None:
    """Draw number and time over the upper quarter of a picture, in place.

    Args:
        image: (H, W) or (H, W, C) uint8, at least 96 × 64 pixels.
        number: from 0 to 2³² - 1.
        at: seconds of `time.monotonic()`, to 0.1 ms.
    """
    body = bytes([_MARK]) + number.to_bytes(4, "big") + round(at * _TICKS_S).to_bytes(5, "big")
    code = np.frombuffer(body + binascii.crc_hqx(body, 0xFFFF).to_bytes(2, "big"), np.uint8)
    cells = np.unpackbits(code).reshape(ROWS, COLUMNS) * np.uint8(255)
    height, width = image.shape[0] // SHARE, image.shape[1]
    rows, columns = np.arange(height) * ROWS // height, np.arange(width) * COLUMNS // width
    strip = cells[:, columns][rows]
    image[:height] = strip if image.ndim == 2 else strip[:, :, np.newaxis]


def read_stamp(image: NDArray[np.uint8]) -> Stamp | None:
    """Number and time of a test picture; None where it carries none, or a damaged one.

    Args:
        image: (H, W) or (H, W, C) uint8, of any size that still shows the cells.
    """
    height, width = image.shape[0] / SHARE, image.shape[1]
    if height < ROWS or width < COLUMNS:
        return None
    rows = ((np.arange(ROWS) + 0.5) * height / ROWS).astype(int)
    columns = ((np.arange(COLUMNS) + 0.5) * width / COLUMNS).astype(int)
    # the middle of each cell, 3 × 3 pixels where it has as many
    reach = [-1, 0, 1] if height >= 3 * ROWS and width >= 3 * COLUMNS else [0]
    level = np.mean(
        [image[np.ix_(rows + down, columns + right)] for down in reach for right in reach],
        axis=0 if image.ndim == 2 else (0, 3),
    )
    code = np.packbits(level.reshape(-1) > 127).tobytes()
    body, check = code[:10], code[10:]
    if body[0] != _MARK or binascii.crc_hqx(body, 0xFFFF).to_bytes(2, "big") != check:
        return None
    return Stamp(int.from_bytes(body[1:5], "big"), int.from_bytes(body[5:], "big") / _TICKS_S)


class PatternReader:
    """A camera that shows the test picture; see `edgecnn.camera.source.Reader`.

    It keeps to its rate by the clock, as cameras do: read late, the next frame is there at once.

    Args:
        width, height: of the picture, in pixels; at least 96 × 64, and even.
        fps: frames per second.
        frames: it ends after so many; None: it does not end.
        pixel_format: the frame's bytes: `bgr`, or one that `edgecnn.camera_input` describes.
        name: what the user called it.
    """

    live = True

    def __init__(
        self,
        *,
        width: int = 640,
        height: int = 480,
        fps: float = 30.0,
        frames: int | None = None,
        pixel_format: PatternFormat = "bgr",
        name: str = "test://",
    ) -> None:
        self.name = name
        self.fps: float | None = fps
        self.frame_count = frames
        self.skipped: tuple[Skipped, ...] = ()
        self._period = 1 / fps
        self._format = pixel_format
        self._hw = height, width
        self._background = _background(height, width, pixel_format)
        self._number = 0
        self._start = time.monotonic()
        self._pool = FramePool()

    def read(self) -> Capture | None:
        """See `Reader.read`."""
        if self.frame_count is not None and self._number >= self.frame_count:
            return None
        due = self._start + self._number * self._period
        time.sleep(max(0.0, due - time.monotonic()))
        now = time.monotonic()
        image = self._picture(now)
        self._number += 1
        return Capture(image, time.monotonic(), self.name, source_time=due - self._start)

    def close(self) -> None:
        """Nothing to let go of."""

    def _picture(self, now: float) -> NDArray[np.uint8]:
        height, width = self._hw
        left = self._number * 4 % width  # even: two neighbours share their colour
        window = self._background[:, left : left + width]
        image = self._pool.take()
        if image is None:
            self._pool.remember(image := np.empty_like(window))
        image[:] = window
        luma = image[..., 0] if self._format == "yuyv" else image[:height]
        draw_stamp(luma, self._number, now)
        if self._format == "nv12":
            image[height : height + height // SHARE // 2] = 128  # no colour under the stamp
        elif self._format == "yuyv":
            image[: height // SHARE, :, 1] = 128
        return image


def _background(height: int, width: int, pixel_format: PatternFormat) -> NDArray[np.uint8]:
    """Two periods of a picture, side by side: a window that moves over them never meets an edge."""
    across, down = np.arange(2 * width) * 2 * math.pi / width, np.linspace(0, 2 * math.pi, height)
    waves = [
        127.5 + 100 * np.sin(across * (plane + 1) + down[:, np.newaxis] * (3 - plane)) for plane in range(3)
    ]
    planes = np.stack(waves, axis=2).astype(np.uint8)
    if pixel_format == "bgr":
        return planes
    if pixel_format == "gray":
        return np.array(planes[:, :, 0])
    colour = planes[:, : 2 * width, 1].copy()
    if pixel_format == "yuyv":  # Y U Y V …
        return np.stack([planes[:, :, 0], colour], axis=2)
    return np.concatenate([planes[:, :, 0], colour[: height // 2]])
