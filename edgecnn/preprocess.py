"""From a camera's frame to the network's input tensor, as the model's ImageSpec says.

A Preprocessor owns the input tensor and fills it in place. For each frame shape it compiles a plan once:
which region of the frame is read, through which buffers it goes, which part of the tensor is written.

    frame[source] ─▶ resize … ─▶ [cut] ─▶ colours ─▶ 256-entry tables ─▶ tensor[index][live]

The tables hold `(pixel · scale − mean) / std`, computed in float64 and rounded once. Letterbox borders are
filled when a row's live part changes, not with every frame. Colours are converted after the resize, where
there are fewer pixels: a grey frame serves every channel, and a colour frame becomes grey as OpenCV's
BGR2GRAY does it.

**Crop** means torchvision's: resize the whole frame, then cut. Only the region of the frame under the cut
is resized, but OpenCV reads whole pixels, and a region rounded to the nearest pixel moves and stretches
the picture by up to half a pixel. So the region grows, by REACH_PX at most, until each end lies where a
border between pixels of the frame falls on a border between pixels of the resized frame, to TOLERANCE_PX:
it is then resized by the frame's own factor, in phase, and the exact cut taken out of it. Mean distance
from resizing 46 photos whole, at 256 → 224 and 342 → 299: 0.02 and 0.13 grey levels; of rounded regions
0.6 and 2.7; of a cut that is one pixel off 9 and 8.

**Area** averages, made of two things that OpenCV does fast: halving (2 × 2 averages) and linear
interpolation near the same size. The frame is halved while it is HALVE_FROM times larger than the input,
then brought to just twice the input's size, and halved for the last time. INTER_AREA takes two to four
times as long and is further from PIL's antialiased resize: by 1.9 and 0.9 levels on those photos, this by
1.8 and 0.5. A side that grows is INTER_LINEAR, since INTER_AREA does not interpolate there.

**Linear and cubic** by odd whole factors, as from 1080p to 640, take the middle pixel of each block and
nothing else: so does INTER_NEAREST_EXACT, to the same bits in half the time.

`benchmarks/preprocessing.py` measures it; what else was tried stands in `benchmarks/LOG.md`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import BackendUnavailableError, InputError
from edgecnn.geometry import Geometry
from edgecnn.interrupts import interrupts_deferred
from edgecnn.spec import ImageSpec

__all__ = ["Preprocessor", "ResizePlan", "check_frame", "plan_resize"]

CACHED_PLANS = 8  # frame shapes remembered with their buffers; a stream of ever new sizes does not grow
TOLERANCE_PX = 1 / 64  # how far a crop may be out of phase, in input pixels
REACH_PX = 1024  # how far its region may grow to avoid that, in input pixels at each end
SUPPORT_PX = 2  # frame pixels that INTER_CUBIC reads beyond the region under the cut
HALVE_FROM = 2.25  # leaves a factor of 1.125 to 2.25 for the last linear step and halving


def check_frame(frame: Any) -> None:
    """Refuse with InputError what is no frame: uint8 (H, W), (H, W, 1), (H, W, 3) BGR or (H, W, 4) BGRA."""
    expected = "uint8 (H, W, 3) BGR, (H, W, 4) BGRA or (H, W) grey"
    if not isinstance(frame, np.ndarray):
        raise InputError("not a frame", got=type(frame).__name__, expected=f"a NumPy array, {expected}")
    shaped = frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] in (1, 3, 4))
    if frame.dtype != np.uint8 or not shaped or frame.size == 0:
        raise InputError("not a frame", got=f"{frame.dtype} {frame.shape}", expected=expected)


class Preprocessor:
    """Fills one input tensor from frames. Not safe from two threads at once: each takes its own.

    Args:
        spec: what the network expects.
        batch: frames in the tensor.

    Attributes:
        tensor: (batch, C, H, W) or (batch, H, W, C) float32, C-contiguous; always the same memory.

    Raises:
        BackendUnavailableError: OpenCV is not installed.
    """

    def __init__(self, spec: ImageSpec, *, batch: int = 1) -> None:
        _require_opencv()
        self.spec = spec
        self.tensor: NDArray[np.float32] = np.zeros((batch, *spec.shape), np.float32)
        levels = np.arange(256.0)[:, None]
        table = ((levels * spec.scale - spec.mean) / spec.std).astype(np.float32)  # (256, C)
        self._pad: NDArray[np.float32] = table[spec.pad_value]
        self._tables = [table[None]]  # one for all channels of (H, W, C)
        if spec.layout == "NCHW":
            self._pad = self._pad[:, None, None]
            self._tables = [np.ascontiguousarray(column) for column in table.T]
        self._live: list[tuple[slice, slice] | None] = [None] * batch  # what each row's border surrounds
        self._plan: Callable[[tuple[int, ...]], _Plan] = lru_cache(CACHED_PLANS)(partial(_compile, spec))

    def __call__(self, frame: NDArray[np.uint8], index: int = 0) -> Geometry:
        """Write a frame to `tensor[index]`.

        Args:
            frame: (H, W, 3) BGR, (H, W, 4) BGRA, or (H, W) grey, uint8; need not be contiguous.

        Returns:
            Where the frame lies in the input.

        Raises:
            InputError: not such a frame.
        """
        import cv2

        check_frame(frame)
        if frame.ndim == 3 and frame.shape[2] == 1:
            frame = frame[:, :, 0]
        plan = self._plan(frame.shape)
        row = self.tensor[index]
        if self._live[index] != plan.live:
            row[...] = self._pad
            self._live[index] = plan.live
        image: Any = frame[plan.source]
        for buffer, interpolation in plan.resizes:
            image = cv2.resize(image, buffer.shape[1::-1], buffer, interpolation=interpolation)
        image = image[plan.cut]
        if plan.color_code is not None:
            image = cv2.cvtColor(image, plan.color_code, plan.converted)
        # each dst has the shape and type that OpenCV gives the result, so it is written in place
        if self.spec.layout == "NHWC":
            cv2.LUT(image, self._tables[0], row[plan.live])
            return plan.geometry
        planes = [image] * self.spec.channels if image.ndim == 2 else cv2.split(image, plan.planes)
        planes = planes[2::-1] if self.spec.color == "RGB" else planes[:3]  # without the A of BGRA
        for plane, table, channel in zip(planes, self._tables, row, strict=True):
            cv2.LUT(plane, table, channel[plan.live])
        return plan.geometry


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is done to every frame of one shape.

    Attributes:
        geometry: where the frame lies in the input.
        source, cut, live: rows and columns, as in `_Axis`.
        resizes: buffer and OpenCV's interpolation of each resize; none where the size fits already.
        color_code, converted: OpenCV's colour conversion and its buffer, where one is needed.
        planes: buffers for the colour planes that an NCHW network takes.
    """

    geometry: Geometry
    source: tuple[slice, slice]
    cut: tuple[slice, slice]
    live: tuple[slice, slice]
    resizes: list[tuple[NDArray[np.uint8], int]]
    color_code: int | None
    converted: NDArray[np.uint8]
    planes: list[NDArray[np.uint8]]


def _compile(spec: ImageSpec, frame_shape: tuple[int, ...]) -> _Plan:
    import cv2

    height, width, *channels = frame_shape
    plan = plan_resize(spec, (height, width))
    live_h, live_w = (_length(part) for part in plan.live)
    color = ("BGR", "BGRA")[channels[0] - 3] if channels else "GRAY"
    convert = color != spec.color and (spec.layout == "NHWC" or spec.color == "GRAY")
    return _Plan(
        geometry=plan.geometry,
        source=plan.source,
        cut=plan.cut,
        live=plan.live,
        resizes=[
            (np.empty((*hw, *channels), np.uint8), int(getattr(cv2, f"INTER_{interpolation}")))
            for hw, interpolation in plan.steps
        ],
        color_code=int(getattr(cv2, f"COLOR_{color}2{spec.color}")) if convert else None,
        converted=np.empty((live_h, live_w, spec.channels)[: 3 if spec.channels > 1 else 2], np.uint8),
        planes=[np.empty((live_h, live_w), np.uint8) for _ in range(sum(channels))],
    )


@dataclass(frozen=True)
class ResizePlan:
    """Which pixels of a frame become which of the input, without colours; needs no OpenCV.

    Attributes:
        geometry: where the frame lies in the input.
        source: rows and columns of the frame that are read.
        steps: for each resize the size that it leads to, and OpenCV's name of its interpolation: `NEAREST`,
            `NEAREST_EXACT`, `LINEAR`, `CUBIC` or `AREA`. None where the size fits already.
        cut: rows and columns of the last of these sizes that go into the input.
        live: rows and columns of the input that they fill.
    """

    geometry: Geometry
    source: tuple[slice, slice]
    steps: tuple[tuple[tuple[int, int], str], ...]
    cut: tuple[slice, slice]
    live: tuple[slice, slice]


def plan_resize(spec: ImageSpec, frame_hw: tuple[int, int]) -> ResizePlan:
    """What the resize policy and the interpolation mean for frames of one size, in pixels."""
    height, width = frame_hw
    scaled_h, scaled_w = _scaled_hw(spec, height, width)
    step = 1  # a crop's region that starts and ends on multiples of this stays even while it is halved
    while spec.interpolation == "area" and min(height / scaled_h, width / scaled_w) >= HALVE_FROM * step:
        step *= 2
    y = _axis(height, scaled_h, spec.size_hw[0], step)
    x = _axis(width, scaled_w, spec.size_hw[1], step)
    steps = _resizes((_length(y.source), _length(x.source)), (y.resized, x.resized), spec.interpolation)
    return ResizePlan(
        geometry=Geometry((height, width), (x.scale, y.scale), (x.offset, y.offset)),
        source=(y.source, x.source),
        steps=tuple(steps),
        cut=(y.cut, x.cut),
        live=(y.live, x.live),
    )


def _scaled_hw(spec: ImageSpec, height: int, width: int) -> tuple[int, int]:
    """Size of the whole frame after scaling, before any cut or border."""
    wanted_h, wanted_w = spec.resize_hw or spec.size_hw
    if spec.resize == "crop":  # the longer side is rounded down, as torchvision's Resize does
        if wanted_h * width >= wanted_w * height:
            return wanted_h, wanted_h * width // height
        return wanted_w * height // width, wanted_w
    if spec.resize == "letterbox":
        factor = min(wanted_h / height, wanted_w / width)
        return max(1, round(height * factor)), max(1, round(width * factor))
    return wanted_h, wanted_w


class _Axis(NamedTuple):
    """How a side of the frame comes to lie along the same side of the input, in whole pixels.

    Attributes:
        source: the part of the frame that is read.
        resized: its length after the resize.
        cut: the part of the resized pixels that goes into the input.
        live: the part of the input that they fill.
    """

    source: slice
    resized: int
    cut: slice
    live: slice

    @property
    def scale(self) -> float:
        return self.resized / _length(self.source)

    @property
    def offset(self) -> float:
        return float(self.live.start - self.cut.start - self.source.start * self.scale)


def _axis(length: int, scaled: int, size: int, step: int) -> _Axis:
    """Place a side of `length` pixels, scaled to `scaled`, in the middle of an input of `size`."""
    live = min(scaled, size)
    border = (size - live) // 2
    start = round((scaled - live) / 2)  # of the cut; Python's round, as torchvision's CenterCrop

    def misfit(edge: int) -> int:  # distance to a border between scaled pixels, in 1 / length of one
        return min(edge * scaled % length, -edge * scaled % length)

    def nearest(edges: range) -> int:
        usable = [edge for edge in edges if edge % step == 0 or edge == length]
        fitting = [edge for edge in usable if misfit(edge) <= TOLERANCE_PX * length]
        return fitting[0] if fitting else min(usable, key=misfit)

    reach = math.ceil(REACH_PX * length / scaled)
    low = max(0, start * length // scaled - SUPPORT_PX)
    high = min(length, -(-(start + live) * length // scaled) + SUPPORT_PX)
    first = nearest(range(low, max(0, low - reach) - 1, -1))
    last = nearest(range(high, min(length, high + reach) + 1))
    scaled_first, scaled_last = round(first * scaled / length), round(last * scaled / length)
    return _Axis(
        source=slice(first, last),
        resized=scaled_last - scaled_first,
        cut=slice(start - scaled_first, start - scaled_first + live),
        live=slice(border, border + live),
    )


def _resizes(
    source_hw: tuple[int, int], target_hw: tuple[int, int], interpolation: str
) -> list[tuple[tuple[int, int], str]]:
    """The sizes that lead from one size to another, each with OpenCV's name of the interpolation to it."""
    if interpolation == "area":
        steps = _averaging(source_hw, target_hw)
    elif interpolation != "nearest" and all(
        side % target == 0 and side // target % 2 for side, target in zip(source_hw, target_hw, strict=True)
    ):
        steps = [(target_hw, "NEAREST_EXACT")]
    else:
        steps = [(target_hw, interpolation.upper())]
    sizes = [source_hw, *(size for size, _ in steps)]
    return [step for step, before in zip(steps, sizes, strict=False) if step[0] != before]


def _averaging(source_hw: tuple[int, int], target_hw: tuple[int, int]) -> list[tuple[tuple[int, int], str]]:
    """The steps of `area`, some of them perhaps to the size that is there already."""
    (height, width), (target_h, target_w) = source_hw, target_hw
    steps = []
    while height % 2 == width % 2 == 0 and min(height / target_h, width / target_w) >= HALVE_FROM:
        height, width = height // 2, width // 2
        steps.append(((height, width), "AREA"))
    finer_h = 2 * target_h if height > target_h else target_h
    finer_w = 2 * target_w if width > target_w else target_w
    if max(height / finer_h, width / finer_w) > HALVE_FROM / 2:  # an odd side, or a far longer one
        steps.append(((min(height, finer_h), min(width, finer_w)), "AREA"))
    return [*steps, ((finer_h, finer_w), "LINEAR"), (target_hw, "AREA")]


def _length(part: slice) -> int:
    return int(part.stop - part.start)


def _require_opencv() -> None:
    try:
        with interrupts_deferred():
            import cv2  # noqa: F401
    except ImportError as error:
        raise BackendUnavailableError(
            "OpenCV is not usable",
            got=str(error),
            expected="OpenCV 4.8 or newer",
            remedy="pip install 'edgecnn[cpu]'; on a Jetson use JetPack's own build instead, from a virtual "
            "environment made with --system-site-packages",
        ) from error
