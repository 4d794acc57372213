"""A model whose graph takes the camera's own bytes: what bytes, and how they are handed over.

`edgecnn.export.camera_front` compiles resize, colours, normalization and layout into a graph. The model's
spec stays what it was, since it still says how a frame becomes the network's tensor; beside it, under the
metadata key `edgecnn.camera`, stands what the graph's input is now:

    pixel_format    input (N, rows, columns, bytes)    of a frame of H × W
    bgr, rgb        (N, H, W, 3)
    bgrx            (N, H, W, 4)                       BGR and a byte that is ignored
    gray            (N, H, W, 1)
    nv12            (N, H · 3/2, W, 1)                 H rows of Y, then H/2 rows of U V U V …
    yuyv            (N, H, W, 2)                       Y U Y V …

all uint8. `matrix` and `full_range` say what Y, U and V mean; the default, BT.601 with Y from 16 to 235, is
what OpenCV's COLOR_YUV2BGR_NV12 and COLOR_YUV2BGR_YUYV take them for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import InputError, ModelFormatError, SpecError
from edgecnn.geometry import Geometry
from edgecnn.metadata import CAMERA_KEY, read_json
from edgecnn.preprocess import plan_resize
from edgecnn.spec import MAX_SIDE_PX, ImageSpec
from edgecnn.values import check, wholes

__all__ = ["CameraInput", "PixelFormat", "RawFrames", "YuvMatrix"]

PixelFormat = Literal["bgr", "rgb", "bgrx", "gray", "nv12", "yuyv"]
YuvMatrix = Literal["bt601", "bt709"]

_BYTES = {"bgr": 3, "rgb": 3, "bgrx": 4, "gray": 1, "nv12": 1, "yuyv": 2}
_CODES = {"bgr": "BGR", "rgb": "RGB", "bgrx": "BGRx", "gray": "grey", "nv12": "NV12", "yuyv": "YUYV"}


@dataclass(frozen=True, kw_only=True)
class CameraInput:
    """The camera's frames that a graph takes.

    Attributes:
        frame_hw: height and width of the picture, in pixels.
        pixel_format: see the module's docstring.
        matrix: which standard's luma YUV bytes hold: `bt601`, or `bt709` as most HD cameras and files.
        full_range: whether Y, U and V use 0 … 255, as JPEG does, instead of 16 … 235 and 16 … 240.

    Raises:
        SpecError: a value is of the wrong kind or out of range; or the side is odd along which the format
            shares U and V between two pixels.
    """

    frame_hw: tuple[int, int]
    pixel_format: PixelFormat
    matrix: YuvMatrix = "bt601"
    full_range: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("pixel_format", PixelFormat), ("matrix", YuvMatrix)):
            value, choices = getattr(self, name), get_args(kind)
            check(name, value, isinstance(value, str) and value in choices, "one of " + ", ".join(choices))
        check("full_range", self.full_range, isinstance(self.full_range, bool), "true or false")
        sides = wholes(self.frame_hw)
        in_range = len(sides) == 2 and all(1 <= side <= MAX_SIDE_PX for side in sides)
        check("frame_hw", self.frame_hw, in_range, f"two whole numbers from 1 to {MAX_SIDE_PX}")
        object.__setattr__(self, "frame_hw", sides)
        odd = [
            name
            for name, side, even in zip(
                ("height", "width"), sides, _even_sides(self.pixel_format), strict=True
            )
            if even and side % 2
        ]
        if odd:
            raise SpecError(
                f"a frame of {sides[1]}x{sides[0]} cannot be {_CODES[self.pixel_format]}",
                got=f"an odd {' and '.join(odd)}",
                expected="an even one, since two neighbours share one U and V",
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns and bytes of one frame as the graph takes it, without the batch axis."""
        height, width = self.frame_hw
        rows = height * 3 // 2 if self.pixel_format == "nv12" else height
        return rows, width, _BYTES[self.pixel_format]

    def to_json(self) -> str:
        """One JSON object; the same value gives the same text."""
        import msgspec

        return msgspec.json.encode(asdict(self), order="sorted").decode()

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> CameraInput | None:
        """What `to_json` wrote under `edgecnn.camera`, or None for a graph that takes a prepared tensor.

        Raises:
            ModelFormatError: something else stands there.
        """
        stored = read_json(metadata, CAMERA_KEY)
        if stored is None:
            return None
        try:
            return cls(**stored)
        except (SpecError, TypeError) as error:  # TypeError: a key that this version does not know
            raise ModelFormatError(
                f"the model's metadata {CAMERA_KEY} cannot be read",
                got=str(error),
                remedy="Build the model again with this version of edgecnn",
            ) from error

    def as_input(self, frame: Any) -> NDArray[np.uint8]:
        """A frame in the shape that the graph takes; a view of it where it is contiguous.

        Args:
            frame: uint8 of `shape`; one byte a pixel may come without the last axis, as OpenCV gives it.

        Raises:
            InputError: anything else. The graph was compiled for this size and format alone.
        """
        array = frame if isinstance(frame, np.ndarray) else np.empty(0)
        accepted = {self.shape, self.shape[:2]} if self.shape[2] == 1 else {self.shape}
        if array.dtype != np.uint8 or array.shape not in accepted:
            got = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            height, width = self.frame_hw
            raise InputError(
                "not a frame of the camera that this model was built for",
                got=got,
                expected=f"uint8 {self.shape}, {width}x{height} {_CODES[self.pixel_format]}",
                remedy="Open the camera like this, or build the model without --camera",
            )
        return np.ascontiguousarray(array).reshape(self.shape)

    def to_bgr(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A frame as a picture to look at and draw on: (H, W, 3) uint8 BGR, a copy.

        OpenCV's conversion: YUV as BT.601 from 16 to 235, whatever `matrix` and `full_range` say.
        """
        raw = self.as_input(frame)
        if self.pixel_format == "gray":
            return np.repeat(raw, 3, axis=2)
        if self.pixel_format in ("nv12", "yuyv"):
            import cv2

            code = cv2.COLOR_YUV2BGR_NV12 if self.pixel_format == "nv12" else cv2.COLOR_YUV2BGR_YUYV
            return np.asarray(cv2.cvtColor(raw, code), np.uint8)
        return np.array(raw[:, :, ::-1] if self.pixel_format == "rgb" else raw[:, :, :3], order="C")


class RawFrames:
    """Hands frames over as they are; takes a Preprocessor's place for a graph that takes the camera's bytes.

    Args:
        spec: how the graph prepares a frame; gives the geometry.
        camera: what the graph takes.
        batch: frames in the tensor.

    Attributes:
        tensor: (batch, rows, columns, bytes) uint8. With a batch of one it is the last frame itself, not a
            copy of it.
    """

    def __init__(self, spec: ImageSpec, camera: CameraInput, *, batch: int = 1) -> None:
        self.camera = camera
        self.tensor: NDArray[np.uint8] = np.zeros((batch, *camera.shape), np.uint8)
        self._geometry = plan_resize(spec, camera.frame_hw).geometry

    def __call__(self, frame: NDArray[np.uint8], index: int = 0) -> Geometry:
        """Take a frame as row `index`. Raises InputError, as `CameraInput.as_input`."""
        raw = self.camera.as_input(frame)
        if len(self.tensor) == 1:
            self.tensor = raw[None]
        else:
            self.tensor[index] = raw
        return self._geometry


def _even_sides(pixel_format: PixelFormat) -> tuple[bool, bool]:
    """Whether height and width must be even."""
    return pixel_format == "nv12", pixel_format in ("nv12", "yuyv")
