"""Labels with a value for each pixel: PNG masks of class ids, maps of numbers as `.npy` or 16-bit PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import BackendUnavailableError, DataError
from edgecnn.evaluation.reading import read_bytes

__all__ = ["check_size", "read_mask", "read_values"]

LARGEST_BYTES = 1 << 28
PALETTE = 3  # PNG's colour type
PNG_UNIT = 0.001


def read_mask(path: Path) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """(H, W) numbers as they are in the file; of a PNG with a palette, the indices.

    Raises:
        DataError: no image, or one of colours.
        BackendUnavailableError: a palette, and Pillow is not installed.
    """
    data = read_bytes(path, most=LARGEST_BYTES)
    if data[:4] == b"\x89PNG" and data[25:26] == bytes([PALETTE]):
        return _indices(data, path)
    from edgecnn.camera.opencv import import_cv2, quiet

    cv2 = import_cv2()
    with quiet():
        try:
            image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
        except cv2.error as error:
            raise DataError(f"cannot read the mask {path}", got=f"OpenCV: {error.err}") from error
    if image is None or image.ndim != 2 or image.dtype not in (np.uint8, np.uint16):
        got = "no image" if image is None else f"{image.dtype} {image.shape}"
        raise DataError(
            f"{path} is no mask", got=got, expected="a PNG of one channel of 8 or 16 bits, or with a palette"
        )
    mask: NDArray[np.uint8] = image
    return mask


def _indices(data: bytes, path: Path) -> NDArray[np.uint8]:
    import io
    import warnings

    try:
        from PIL import Image
    except ImportError as error:
        raise BackendUnavailableError(
            f"{path} has a palette, which needs Pillow",
            got=str(error),
            remedy="pip install 'edgecnn[evaluate]'",
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                return np.array(image, np.uint8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning) as error:
        raise DataError(f"cannot read the mask {path}", got=str(error)) from error


def read_values(path: Path, frame_hw: tuple[int, int]) -> NDArray[np.float32]:
    """(H, W) float32, NaN where nothing is known.

    A `.npy` holds numbers of the model's unit, NaN or infinity for unknown; a PNG holds thousandths of it, 0
    for unknown, as depth cameras save millimetres. Raises DataError.
    """
    if path.suffix != ".npy":
        thousandths = read_mask(path)
        check_size(thousandths, frame_hw, path)
        values: NDArray[np.float32] = thousandths.astype(np.float32) * np.float32(PNG_UNIT)
        values[thousandths == 0] = np.nan
        return values
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")  # its size is known before it is read
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"cannot read the map {path}", got=str(error), expected="a .npy of numbers"
        ) from error
    check_size(array, frame_hw, path)
    if array.dtype.kind not in "fiu":
        raise DataError(f"{path} is no map of numbers", got=str(array.dtype))
    with np.errstate(over="ignore"):
        values = np.array(array, np.float32)
    values[~np.isfinite(values)] = np.nan
    return values


def check_size(values: NDArray[Any], frame_hw: tuple[int, int], path: Path) -> None:
    """Raise DataError for a label of another size than its image."""
    if values.shape != frame_hw:
        raise DataError(
            f"{path} is of another size than its image", got=str(values.shape), expected=str(frame_hw)
        )
