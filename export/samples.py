"""The inputs on which an export is checked: made from nothing but the spec, the same on every machine.

An image that a camera could have given is eight-bit, so every sample is: pixel values 0 … 255, normalized
by the spec's own formula `(pixel · scale − mean) / std`. Noise excites every channel, smooth gradients are
what pooling and wide kernels see in photos, flat, black and white images reach the borders (padding) and
the extremes of the normalized range.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgecnn.spec import ImageSpec

__all__ = ["KINDS", "sample_batches"]

_Pixels = NDArray[np.float64]
_SEED = 20240229


def sample_batches(spec: ImageSpec, batches: tuple[int, ...]) -> list[NDArray[np.float32]]:
    """Input tensors for the check.

    Args:
        spec: gives size, layout and normalization.
        batches: the batch sizes to try, each at least once; every kind of image occurs at least once.

    Returns:
        Tensors (N, C, H, W) or (N, H, W, C) float32, as the spec's layout says.
    """
    sizes = list(batches)
    while sum(sizes) < len(KINDS):
        sizes.append(batches[len(sizes) % len(batches)])
    kinds = list(KINDS.values())
    rng = np.random.default_rng(_SEED)
    tensors: list[NDArray[np.float32]] = []
    made = 0
    for size in sizes:
        pixels = np.stack(
            [kinds[(made + index) % len(kinds)](spec, rng) for index in range(size)]
        )  # (N, H, W, C)
        made += size
        normalized = (pixels * spec.scale - np.array(spec.mean)) / np.array(spec.std)
        if spec.layout == "NCHW":
            normalized = normalized.transpose(0, 3, 1, 2)
        tensors.append(np.ascontiguousarray(normalized, np.float32))
    return tensors


def _noise(spec: ImageSpec, rng: np.random.Generator) -> _Pixels:
    return rng.integers(0, 256, (*spec.size_hw, spec.channels)).astype(np.float64)


def _gradient(spec: ImageSpec, rng: np.random.Generator) -> _Pixels:
    """Slow waves with a direction and phase of their own in each channel."""
    height, width = spec.size_hw
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = [
        np.sin(2 * np.pi * (rng.uniform(-2, 2) * x + rng.uniform(-2, 2) * y + rng.uniform()))
        for _ in range(spec.channels)
    ]
    return np.round(127.5 + 127.5 * np.stack(waves, axis=-1))


def _blocks(spec: ImageSpec, rng: np.random.Generator) -> _Pixels:
    """A mosaic of flat squares: edges in between, nothing inside."""
    height, width = spec.size_hw
    side = max(1, min(height, width) // 7)
    coarse = rng.integers(0, 256, (-(-height // side), -(-width // side), spec.channels))
    return coarse.repeat(side, axis=0).repeat(side, axis=1)[:height, :width].astype(np.float64)


def _flat(value: int) -> Callable[[ImageSpec, np.random.Generator], _Pixels]:
    return lambda spec, rng: np.full((*spec.size_hw, spec.channels), float(value))


KINDS: dict[str, Callable[[ImageSpec, np.random.Generator], _Pixels]] = {
    "noise": _noise,
    "gradient": _gradient,
    "blocks": _blocks,
    "grey": _flat(127),
    "black": _flat(0),
    "white": _flat(255),
}
"""Name → function that makes an image (H, W, C) of whole pixel values 0 … 255."""
