"""Model = spec + preprocessing + backend + task.

One model serves any number of threads: each call takes an input tensor from a pool that grows to the
number of calls under way at once, so nothing is shared and, in steady state, nothing large is allocated.
A tensor with more rows than a call has frames serves it too, so there is one for all sizes of batches.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import Backend, TensorInfo, check_feeds, open_backend
from edgecnn.camera_input import CameraInput, RawFrames
from edgecnn.errors import ClosedError, InputError, SpecError
from edgecnn.geometry import Geometry
from edgecnn.metadata import BUILD_KEY, read_json
from edgecnn.preprocess import Preprocessor
from edgecnn.results import Result
from edgecnn.spec import ModelSpec
from edgecnn.tasks import Task, create_task

__all__ = ["Model", "StageTimes", "load"]

_log = logging.getLogger(__name__)


class StageTimes(NamedTuple):
    """How long the stages of one call took, in milliseconds."""

    preprocess_ms: float
    infer_ms: float
    postprocess_ms: float


def load(
    path: str | os.PathLike[str],
    *,
    backend: str = "auto",
    spec: ModelSpec | None = None,
    threads: int | None = None,
) -> Model:
    """Load a model.

    Args:
        path: an ONNX file: exported, calibrated or built.
        backend: `auto` or `onnxruntime`; an explicit choice never falls back.
        spec: used instead of the one in the file; needed for a file that has none.
        threads: CPU threads of one inference; the library's own choice where None.

    Raises:
        ModelNotFoundError, ModelFormatError: no file there, or none that can be read.
        SpecError: no spec in the file and none given, or one that does not fit the graph.
        BackendUnavailableError: the backend's library is not installed.
    """
    opened, reason = open_backend(path, backend=backend, threads=threads)
    _log.info("%s: %s on %s (%s)", path, opened.name, opened.device, reason)
    try:
        return Model(opened, spec, name=Path(path).name, backend_reason=reason)
    except BaseException:
        opened.close()
        raise


class Model:
    """A loaded model: frames in, typed results out. Safe from any thread; close it or use it in a `with`.

    Attributes:
        spec: what the model says of itself.
        backend: the library that runs it; `backend_reason` says why that one.
        camera: the frames that the graph prepares itself, or None where the CPU does it.
        task: decodes its outputs and draws its results.
        precision: `fp32`, `fp16` or `int8` as built by edgecnn; `as in the file` for any other model.
    """

    def __init__(
        self,
        backend: Backend,
        spec: ModelSpec | None = None,
        *,
        name: str = "model",
        backend_reason: str = "given",
    ) -> None:
        if spec is None:
            spec = ModelSpec.from_metadata(backend.metadata)
        elif not isinstance(spec, ModelSpec):
            raise SpecError(
                "spec is wrong",
                got=type(spec).__name__,
                expected="a ModelSpec",
                remedy="ModelSpec(task='classification', image=image_spec('imagenet'))",
            )
        if spec is None:
            raise SpecError(
                f"{name} does not say how to use it",
                got="no edgecnn.spec in its metadata",
                expected="a task and preprocessing",
                remedy="Give them: --task classification --preset imagenet (in Python, spec=)",
            )
        self.name = name
        self.spec = spec
        self.backend = backend
        self.backend_reason = backend_reason
        self.camera = _camera_input(backend.metadata, spec)
        self.input, self._batch = _image_input(backend.inputs, spec, self.camera)
        self.task: Task = create_task(spec, backend.outputs)
        build = read_json(backend.metadata, BUILD_KEY) or {}
        self.precision = str(build.get("precision", "as in the file"))
        self._pool: list[Preprocessor | RawFrames] = []
        self._lock = threading.Lock()
        self._closed = False

    def __call__(self, frame_bgr: NDArray[np.uint8]) -> Result:
        """Classify, detect … one frame.

        Args:
            frame_bgr: (H, W, 3) uint8 in OpenCV's order; (H, W, 4) BGRA and (H, W) grey are taken too. A
                model that was built for a camera takes only the frames that `camera` describes.

        Raises:
            InputError: not such a frame.
            InferenceError: the backend failed.
            ClosedError: the model is closed.
        """
        return self.timed(frame_bgr)[0]

    def timed(self, frame_bgr: NDArray[np.uint8]) -> tuple[Result, StageTimes]:
        """As calling the model, with the time that each stage took."""
        results, times = self._run([frame_bgr], self._batch or 1)
        return results[0], times

    def batch(self, frames_bgr: Sequence[NDArray[np.uint8]]) -> list[Result]:
        """One result a frame, in order; the frames may differ in size.

        A model with a free batch axis runs them at once, which takes memory for all of them; one with a fixed
        batch runs them in portions of it. Raises as calling the model; there are no results then.
        """
        self._check_open()
        portion = self._batch or max(1, len(frames_bgr))
        results: list[Result] = []
        for start in range(0, len(frames_bgr), portion):
            results += self._run(frames_bgr[start : start + portion], portion)[0]
        return results

    def infer(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Tensors in, tensors out, without preprocessing or decoding.

        Args:
            feeds: input name → array of the shape and dtype in `backend.inputs`; need not be contiguous.

        Raises:
            InputError: not such arrays.
            InferenceError: the backend failed.
            ClosedError: the model is closed.
        """
        self._check_open()
        for name, array in feeds.items():
            if not isinstance(array, np.ndarray):
                raise InputError(f"wrong input {name}", got=type(array).__name__, expected="a NumPy array")
        check_feeds(self.backend.inputs, feeds)
        return self.backend.run({name: np.asarray(array, order="C") for name, array in feeds.items()})

    def close(self) -> None:
        """Free the backend and the buffers. A second call does nothing."""
        with self._lock:
            self._closed = True
            self._pool.clear()
        self.backend.close()

    def __enter__(self) -> Model:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        height, width = self.spec.image.size_hw
        return (
            f"<Model {self.name}: {self.spec.task}, {height}x{width}, {self.precision}, {self.backend.name}>"
        )

    def _run(self, frames: Sequence[NDArray[np.uint8]], batch: int) -> tuple[list[Result], StageTimes]:
        self._check_open()
        preprocess = self._take(batch)
        try:
            start = perf_counter()
            geometries: list[Geometry] = [preprocess(frame, index) for index, frame in enumerate(frames)]
            preprocessed = perf_counter()
            outputs = self.backend.run({self.input.name: preprocess.tensor[:batch]})
            inferred = perf_counter()
            results = self.task.decode(outputs, geometries)
            end = perf_counter()
        finally:
            self._give_back(preprocess)
        seconds = (preprocessed - start, inferred - preprocessed, end - inferred)
        return results, StageTimes(*(1e3 * value for value in seconds))

    def _take(self, batch: int) -> Preprocessor | RawFrames:
        """A preprocessor for `batch` frames or more; one that is too small is let go for a larger one."""
        with self._lock:
            preprocess = self._pool.pop() if self._pool else None
        if preprocess is None or len(preprocess.tensor) < batch:
            if self.camera is None:
                preprocess = Preprocessor(self.spec.image, batch=batch)
            else:
                preprocess = RawFrames(self.spec.image, self.camera, batch=batch)
        return preprocess

    def _give_back(self, preprocess: Preprocessor | RawFrames) -> None:
        with self._lock:
            if not self._closed:
                self._pool.append(preprocess)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self.name} is closed", remedy="Load it again")


def _camera_input(metadata: Mapping[str, str], spec: ModelSpec) -> CameraInput | None:
    """The camera that the graph was built for; its spec's image is in the graph and cannot be another's."""
    camera = CameraInput.from_metadata(metadata)
    own = None if camera is None else ModelSpec.from_metadata(metadata)
    if own is not None and own.image != spec.image:
        raise SpecError(
            "the spec does not fit a model that prepares its frames itself",
            got="another preprocessing than the one in its graph",
            expected="the one in its metadata",
            remedy="Give that spec's image, or build the model again with the options that are wanted",
        )
    return camera


def _image_input(
    inputs: Sequence[TensorInfo], spec: ModelSpec, camera: CameraInput | None
) -> tuple[TensorInfo, int | None]:
    """The one image input and its batch (None where free), checked against the spec or the camera."""
    if len(inputs) != 1:
        names = ", ".join(info.name for info in inputs)
        raise SpecError("the model does not take one image", got=f"{len(inputs)} inputs: {names}")
    image = inputs[0]
    dtype, shape = ("float32", spec.image.shape) if camera is None else ("uint8", camera.shape)
    if image.dtype != dtype:
        raise SpecError(
            f"the model's input {image.name} is {image.dtype}",
            expected=dtype,
            remedy=f"Export the model again with a {dtype} input" if camera is None else "Build it again",
        )
    fits = len(image.shape) == 4 and all(
        side in (None, wanted) for side, wanted in zip(image.shape[1:], shape, strict=True)
    )
    if not fits:
        layout = spec.image.layout if camera is None else camera.pixel_format
        raise SpecError(
            f"the spec does not fit the model's input {image.name}",
            got=f"{layout} {_sides((None, *shape))} in the spec",
            expected=f"{_sides(image.shape)} in the graph",
            remedy="Correct --input-size, --color or --layout" if camera is None else "Build it again",
        )
    return image, image.shape[0]


def _sides(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join('N' if side is None else str(side) for side in shape)})"
