"""A resize as a sparse matrix is the resize that OpenCV does on float32."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgecnn.export.resampling import Taps, resize_taps
from edgecnn.geometry import Geometry
from edgecnn.preprocess import ResizePlan

LENGTHS = [
    (7, 7),
    (30, 10),
    (31, 10),
    (1080, 360),
    (1919, 640),
    (640, 224),
    (10, 30),
    (9, 31),
    (1, 5),
    (5, 1),
]
CASES = [
    (length, size, name)
    for length, size in LENGTHS
    for name in ("NEAREST", "NEAREST_EXACT", "LINEAR", "CUBIC", "AREA")
    # no plan asks for these otherwise: INTER_AREA does not average when it enlarges
    if not (name == "AREA" and size > length)
    and not (name == "NEAREST_EXACT" and (length % size or length // size % 2 == 0))
]  # fmt: skip


def plan(length: int, *steps: tuple[int, str], cut: slice | None = None) -> ResizePlan:
    """Resizes of the columns alone."""
    last = steps[-1][0] if steps else length
    cut = cut or slice(0, last)
    live = slice(0, cut.stop - cut.start)
    return ResizePlan(
        geometry=Geometry((1, length), (1, 1), (0, 0)),
        source=(slice(0, 1), slice(0, length)),
        steps=tuple(((1, size), name) for size, name in steps),
        cut=(slice(0, 1), cut),
        live=(slice(0, 1), live),
    )


def apply(taps: Taps, values: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray((taps.weights * values[taps.indices]).sum(axis=1), np.float64)


def opencv(values: NDArray[np.float32], size: int, name: str) -> NDArray[np.float32]:
    resized = cv2.resize(values[None], (size, 1), interpolation=getattr(cv2, f"INTER_{name}"))
    return np.asarray(resized, np.float32).reshape(size)


@pytest.mark.parametrize(("length", "size", "name"), CASES)
def test_one_resize(length: int, size: int, name: str) -> None:
    values = np.random.default_rng(0).uniform(0, 255, length).astype(np.float32)
    taps = resize_taps(plan(length, (size, name)) if size != length else plan(length), 1, size)
    assert taps.indices.min() >= 0
    assert taps.indices.max() < length
    np.testing.assert_allclose(taps.weights.sum(axis=1), 1)
    # OpenCV computes weights in float32: 1e-5 of a pixel's distance, times 255 and the four taps
    np.testing.assert_allclose(apply(taps, values), opencv(values, size, name), atol=0.02)


def test_several_resizes_and_a_cut() -> None:
    values = np.random.default_rng(1).uniform(0, 255, 1000).astype(np.float32)
    steps = ((500, "AREA"), (448, "LINEAR"), (224, "AREA"))
    expected = values
    for size, name in steps:
        expected = opencv(expected, size, name)
    taps = resize_taps(plan(1000, *steps, cut=slice(20, 200)), 1, 180)
    np.testing.assert_allclose(apply(taps, values), expected[20:200], atol=0.02)
    assert taps.weights.shape[1] == 8  # two of 448, which lie between four of 500 at most


def test_a_border_repeats_what_is_next_to_it() -> None:
    letterboxed = ResizePlan(
        geometry=Geometry((1, 4), (1, 1), (2, 0)),
        source=(slice(0, 1), slice(0, 4)),
        steps=(),
        cut=(slice(0, 1), slice(0, 4)),
        live=(slice(0, 1), slice(2, 6)),
    )
    taps = resize_taps(letterboxed, 1, 9)
    assert taps.indices[:, 0].tolist() == [0, 0, 0, 1, 2, 3, 3, 3, 3]
    assert taps.trivial
    assert not taps.is_identity(4)


def test_compact_reads_only_what_is_needed() -> None:
    taps, needed = resize_taps(plan(30, (10, "NEAREST_EXACT")), 1, 10).compact()
    assert needed.tolist() == list(range(1, 30, 3))
    assert taps.is_identity(10)
