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
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import PLAN_SUFFIXES, Backend, TensorInfo, check_feeds, open_backend
from edgecnn.camera_input import CameraInput, RawFrames
from edgecnn.errors import (
    BuildError,
    ClosedError,
    InputError,
    ModelFormatError,
    ModelNotFoundError,
    SpecError,
)
from edgecnn.geometry import Geometry
from edgecnn.metadata import BUILD_KEY, read_json
from edgecnn.preprocess import Preprocessor
from edgecnn.progress import Progress, no_progress
from edgecnn.results import Result
from edgecnn.spec import ModelSpec
from edgecnn.tasks import Task, create_task

__all__ = ["Model", "StageTimes", "load", "open_for"]

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
    precision: str | None = None,
    options: Mapping[str, Any] | None = None,
    spec: ModelSpec | None = None,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> Model:
    """Load a model.

    With `precision`, an exported or calibrated model is first built for this machine: once, into the user's
    cache folder (`edgecnn.engine_cache`), from where it comes at once afterwards. It is built again when the
    model, an option, edgecnn, the library or the GPU is another one.

    Args:
        path: an ONNX file: exported, calibrated or built; or a TensorRT plan.
        backend: `auto`, `onnxruntime`, `tensorrt` or `tensorrt_rtx`; an explicit choice never falls back.
        precision: `fp32`, `fp16` or `int8`; None for a file as it is. With it, `auto` takes TensorRT where a
            GPU and its libraries are there.
        options: with `precision`, for TensorRT: fields of `edgecnn.export.CompileOptions`.
        spec: used instead of the one in the file; needed for a file that has none.
        threads: CPU threads of one inference; the library's own choice where None.
        progress: hears of a build that takes a while.

    Raises:
        ModelNotFoundError, ModelFormatError: no file there, or none that can be read.
        SpecError: no spec in the file and none given, or one that does not fit the graph.
        BackendUnavailableError: a library that this needs is not installed, or there is no GPU for it.
        BuildError: the model cannot be built in this precision.
        OutputError: the cache folder cannot be written.
    """
    opened, reason = open_for(
        path,
        backend=backend,
        precision=precision,
        options=options,
        spec=spec,
        threads=threads,
        progress=progress,
    )
    _log.info("%s: %s on %s (%s)", path, opened.name, opened.device, reason)
    try:
        return Model(opened, spec, name=Path(path).name, backend_reason=reason)
    except BaseException:
        opened.close()
        raise


def open_for(
    path: str | os.PathLike[str],
    *,
    backend: str = "auto",
    precision: str | None = None,
    options: Mapping[str, Any] | None = None,
    spec: ModelSpec | None = None,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> tuple[Backend, str]:
    """The backend of `load`, and why it was chosen. Arguments and errors are those of `load`."""
    if precision is None:
        if options:
            raise BuildError("options are for a model that is built", expected="a precision with them")
        if backend in ("tensorrt", "tensorrt_rtx") and Path(path).suffix == ".onnx":
            raise BuildError(
                f"TensorRT runs what was built of {path}",
                got="no precision to build it in",
                remedy='Give one: precision="fp16", or with the command line --precision fp16',
            )
        return open_backend(path, backend=backend, threads=threads)
    from edgecnn.build_once import choose_library, make_recipe
    from edgecnn.engine_cache import EngineCache

    library, gpu = choose_library(backend)
    if threads is not None and gpu is not None:
        raise BuildError("threads cannot be honoured", got=f"{library}, which runs on the GPU")
    recipe = make_recipe(path, library=library, precision=precision, options=options, spec=spec, gpu=gpu)
    cache = EngineCache()
    built = recipe.fetch(cache, progress=progress)
    try:
        opened, _ = open_backend(built, backend=library, threads=threads)
    except (ModelFormatError, ModelNotFoundError):
        # it is as it was written, and is refused; or another process has just removed it to make room
        cache.discard(recipe.key)
        built = recipe.fetch(cache, progress=progress)
        opened, _ = open_backend(built, backend=library, threads=threads)
    reason = "asked for" if backend != "auto" else "a GPU is here" if gpu else "no GPU with TensorRT is here"
    return opened, f"{reason}; built in {precision}"


@dataclass(frozen=True, eq=False)
class InputSlot:
    """Input memory for some frames, for whoever prepares the next frames while the last ones are inferred.

    Attributes:
        first, rows: which rows of `prepare.tensor` are the slot's.
    """

    prepare: Preprocessor | RawFrames
    first: int
    rows: int

    def fill(self, index: int, frame: NDArray[np.uint8]) -> Geometry:
        """Prepare a frame as row `index`. Raises InputError: not a frame that the model takes."""
        return self.prepare(frame, self.first + index)

    @property
    def tensor(self) -> NDArray[Any]:
        """(rows, …), C-contiguous: what the backend is given."""
        return self.prepare.tensor[self.first : self.first + self.rows]


class Model:
    """A loaded model: frames in, typed results out. Safe from any thread; close it or use it in a `with`.

    Attributes:
        spec: what the model says of itself.
        backend: the library that runs it; `backend_reason` says why that one.
        camera: the frames that the graph prepares itself, or None where the CPU does it.
        task: decodes its outputs and draws its results.
        input: the one input; `batch_size` is how many frames it takes, None where that is free.
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
            remedy = "Give them: --task classification --preset imagenet (in Python, spec=)"
            if Path(name).suffix in PLAN_SUFFIXES:
                remedy = f"Copy {Path(name).stem}.engine.json, written with it, to its folder. {remedy}"
            raise SpecError(
                f"{name} does not say how to use it",
                got="no edgecnn.spec in its metadata",
                expected="a task and preprocessing",
                remedy=remedy,
            )
        self.name = name
        self.spec = spec
        self.backend = backend
        self.backend_reason = backend_reason
        self.camera = _camera_input(backend.metadata, spec)
        self.input, self.batch_size = _image_input(backend.inputs, spec, self.camera)
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
        results, times = self._run([frame_bgr], self.batch_size or 1)
        return results[0], times

    def batch(self, frames_bgr: Sequence[NDArray[np.uint8]]) -> list[Result]:
        """One result a frame, in order; the frames may differ in size.

        A model with a free batch axis runs them at once, which takes memory for all of them; one with a fixed
        batch runs them in portions of it. Raises as calling the model; there are no results then.
        """
        self._check_open()
        portion = self.batch_size or max(1, len(frames_bgr))
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

    def with_head(self, head: Mapping[str, Any]) -> Model:
        """The same network, whose outputs are read as this head says.

        The backend is shared: closing one of the two closes both. Raises SpecError, ClosedError.
        """
        self._check_open()
        return Model(
            self.backend,
            replace(self.spec, head=head),
            name=self.name,
            backend_reason=self.backend_reason,
        )

    def input_slots(self, count: int, rows: int) -> list[InputSlot]:
        """Input memory for `count` calls under way at once, of `rows` frames each. One thread fills them."""
        if self.camera is not None:
            camera = self.camera
            return [InputSlot(RawFrames(self.spec.image, camera, batch=rows), 0, rows) for _ in range(count)]
        shared = Preprocessor(self.spec.image, batch=count * rows)
        return [InputSlot(shared, index * rows, rows) for index in range(count)]

    def run_slot(self, slot: InputSlot, count: int) -> dict[str, NDArray[Any]]:
        """Infer the first `count` frames of a slot. Raises InferenceError, ClosedError."""
        return self.backend.run({self.input.name: slot.tensor[: self.batch_size or count]})

    def decode(self, outputs: Mapping[str, NDArray[Any]], geometries: Sequence[Geometry]) -> list[Result]:
        """What `run_slot` gave → one result a frame. Raises InferenceError."""
        return self.task.decode(outputs, geometries)

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
