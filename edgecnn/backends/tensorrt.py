"""TensorRT and TensorRT for RTX: a plan on the GPU. One class, since both have the same Python API.

    plan ─ sidecar checked ─ TensorRT ─▶ engine ─▶ worker · worker     each: context, stream, buffers, graph
                                                    ▲ run() takes a free one

A run copies the inputs to page-locked memory, gives upload, inference and download to the worker's stream, by
a CUDA graph where shapes are fixed, waits for that stream alone and copies the outputs. Two workers let the
upload of one frame run beside the inference of another.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgecnn.backends import TensorInfo, check_feeds
from edgecnn.backends.cuda import CudaContext
from edgecnn.backends.lifetime import keep_for_ever, watch
from edgecnn.backends.tensorrt_library import FLAVOURS, Messages, import_libraries, make_logger
from edgecnn.backends.tensorrt_worker import Worker, read_profiles, read_tensors
from edgecnn.engine import (
    EngineInfo,
    check_compatible,
    describe_here,
    read_engine_info,
    sidecar_path,
)
from edgecnn.errors import (
    BackendUnavailableError,
    ClosedError,
    DeviceLostError,
    InferenceError,
    ModelFormatError,
)
from edgecnn.gpu import read_gpu
from edgecnn.metadata import ACCURACY_KEY, BUILD_KEY, CAMERA_KEY, SPEC_KEY

__all__ = ["TensorRTBackend"]

_log = logging.getLogger(__name__)

WORKERS = 2
"""One that runs and one that is given its frame meanwhile; more would wait for the same GPU."""

# Held while an engine is loaded or freed. Loading captures graphs; a wait for the whole GPU on any thread, as
# TensorRT may do when it loads and frees, would fail then and spoil the capture.
_captures = threading.RLock()  # what is collected during a load is freed on that thread


class TensorRTBackend:
    """A plan in TensorRT; see `edgecnn.backends.Backend`.

    Args:
        plan: the file that `edgecnn build` wrote, its sidecar beside it; or any plan, which then says nothing
            of its preprocessing and is checked by nobody but TensorRT.
        flavour: `tensorrt` or `tensorrt_rtx`; by default the one that built it, without a sidecar the first
            one installed that takes it.
        workers: how many runs at once, at most; fewer where the memory does not suffice.

    Attributes:
        concurrency: how many runs at once pay: the number of workers.
        graph: `on`, or `off: ` and why, of CUDA graphs.

    Raises:
        ModelNotFoundError, ModelFormatError: no plan, or one that does not fit this machine or its sidecar.
        BackendUnavailableError: TensorRT, PyCUDA, the driver or a GPU is missing.
        InferenceError: not enough memory.
    """

    def __init__(
        self, plan: str | os.PathLike[str], *, flavour: str | None = None, workers: int = WORKERS
    ) -> None:
        path = Path(plan)
        info = _sidecar(path)
        if info is not None and flavour not in (None, info.flavour):
            raise ModelFormatError(
                f"{path} was built by another library",
                got=info.flavour,
                expected=str(flavour),
                remedy=f"--backend {info.flavour}, or {info.rebuild_command(path)}",
            )
        libraries = import_libraries((info.flavour,) if info else (flavour,) if flavour else FLAVOURS)
        gpu = read_gpu()
        if gpu is None:
            raise BackendUnavailableError(
                f"{path} needs an NVIDIA GPU",
                got="none here, or no driver for it",
                remedy="`edgecnn doctor` says what this machine has; ONNX Runtime runs the .onnx file",
            )
        if info is not None:
            here = describe_here(path, flavour=info.flavour, library=str(libraries[0].__version__))
            for warning in check_compatible(info, here, plan=path):
                _log.warning("%s", warning)
        self.metadata: Mapping[str, str] = _metadata(info)
        self._lost: str | None = None
        self._turn = itertools.count()
        self._closing = threading.Lock()
        self._workers: list[Worker] = []
        self._engine: Any = None
        self._runtime: Any = None
        self._messages = Messages()
        self._logger: Any = None
        self._cuda = CudaContext()
        self._closed = self._forked = False
        try:
            with _captures:
                self._cuda.call(_without_frames, self._load, path, info, libraries, workers)
        except BaseException:
            self.close()
            raise
        self.concurrency = len(self._workers)
        self.graph = self._workers[0].graph
        self.device = gpu.name if self.graph == "on" else f"{gpu.name}, CUDA graph {self.graph}"
        watch(self)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Backend.run`.

        Raises:
            InputError: a shape or type that the engine was not built for.
            InferenceError: TensorRT or CUDA failed.
            DeviceLostError: the GPU's context is gone; this backend then only says so until it is closed.
            ClosedError: it is closed.
        """
        self._check_usable()  # before the locks, which somebody holds for ever where the process was forked
        check_feeds(self.inputs, feeds)
        workers = self._workers
        free = (worker for worker in workers if not worker.lock.locked())
        worker = next(free, None) or workers[next(self._turn) % len(workers)]
        # A `with` of a lock is safe from Ctrl-C, which taking from a pool and giving back would not be:
        # `close` would wait for ever for a worker that was lost between the two.
        with worker.lock:
            self._check_usable()
            try:
                return self._cuda.call(worker.run, feeds)
            except DeviceLostError as error:
                self._lost = str(error)
                raise

    def close(self) -> None:
        """Wait for what runs, then free the engine and all memory. A second call does nothing."""
        self.finish(None)

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):  # one that could not be opened has closed itself
            self.finish(None)

    def forsake(self) -> None:
        """Free nothing any more: this process was forked from the one that did all this."""
        self._forked = True
        keep_for_ever(self)

    def finish(self, timeout_s: float | None) -> None:
        """As `close`, but what still runs after this time is left to the end of the process."""
        if self._forked:
            self._closed = True
            return
        with self._closing:
            if self._closed:
                return
            self._closed = True  # who waits for a worker from here on is told so
        with contextlib.ExitStack() as held:
            for worker in self._workers:
                if not worker.lock.acquire(timeout=-1 if timeout_s is None else timeout_s):
                    keep_for_ever(self)  # it still runs, and the process ends: the system frees it
                    return
                held.callback(worker.lock.release)
            if _captures.acquire(timeout=-1 if timeout_s is None else timeout_s):
                held.callback(_captures.release)
            try:
                if self._lost is None:
                    self._cuda.call(self._free)
            except DeviceLostError as error:
                self._lost = str(error)
            except ClosedError:  # the context could not be opened: there is nothing
                pass
            if self._lost is not None:
                self._free_lost()
            self._cuda.close()
            for worker in self._workers:
                worker.free()  # nothing is left, unless the device was lost: PyCUDA's objects, dead by now

    def _free(self) -> None:
        for worker in self._workers:
            worker.free()
        self._free_engine()

    def _free_engine(self) -> None:
        self._engine = None
        self._runtime = None
        self._logger = None

    def _free_lost(self) -> None:
        """Nothing can be freed one by one on a lost device: PyCUDA would complain of each on stderr.

        TensorRT goes while there is a context, since it would make another one; PyCUDA's objects go after it.
        """

        def free() -> None:
            for worker in self._workers:
                worker.free_context()
            self._free_engine()

        with contextlib.suppress(InferenceError):
            self._cuda.call(free)
        free()

    def _check_usable(self) -> None:
        if self._forked:
            raise InferenceError(
                "the model was loaded before this process was forked",
                got="CUDA does not work across a fork",
                remedy="Load it in this process, started by multiprocessing's spawn",
            )
        if self._closed:
            raise ClosedError("the model is closed", remedy="Load it again")
        if self._lost is not None:
            raise DeviceLostError("the GPU was lost before", got=self._lost)

    def _load(self, path: Path, info: EngineInfo | None, libraries: list[Any], workers: int) -> None:
        trt = self._deserialize(path, info, libraries)
        self.name: str = info.flavour if info else trt.__name__
        self.inputs: tuple[TensorInfo, ...]
        self.outputs: tuple[TensorInfo, ...]
        self.inputs, self.outputs = read_tensors(trt, self._engine)
        profiles = read_profiles(self._engine, self.inputs)
        for index in range(max(1, workers)):
            try:
                worker = Worker(
                    self._cuda, trt, self._engine,
                    inputs=self.inputs, outputs=self.outputs, profiles=profiles, failed=self._failed,
                )  # fmt: skip
            except (DeviceLostError, BackendUnavailableError):
                raise
            except InferenceError as error:
                if index == 0:
                    raise
                words = "%s: %d of %d workers, one frame at a time: %s"
                _log.warning(words, path, index, workers, str(error))
                break
            self._workers.append(worker)
        self._messages.take()  # of a library that refused the plan, or of a capture: no later failure's cause

    def _deserialize(self, path: Path, info: EngineInfo | None, libraries: list[Any]) -> Any:
        """Make the engine; returns the library that takes the plan."""
        plan = path.read_bytes()
        for trt in libraries:
            self._logger = make_logger(trt, self._messages)
            try:
                self._runtime = runtime = trt.Runtime(self._logger)
            except TypeError as error:  # the binding's answer where CUDA does not start for it
                raise self._failed(f"{trt.__name__} cannot start") from error
            if info is not None and info.dla_core is not None:
                runtime.DLA_core = info.dla_core
            if info is not None and info.version_compatible:
                runtime.engine_host_code_allowed = True  # such a plan brings its runtime along; it is our own
            self._engine = runtime.deserialize_cuda_engine(plan)
            if self._engine is not None:
                return trt
        failure = self._failed(f"{path} cannot be loaded")
        if type(failure) is not InferenceError or "out of GPU memory" in str(failure):
            raise failure
        remedy = "Build it again here" + (f": {info.rebuild_command(path)}" if info else "")
        raise ModelFormatError(f"TensorRT does not accept {path}", got=failure.got, remedy=remedy)

    def _failed(self, what: str) -> Exception:
        said = self._messages.take() or "TensorRT did not say why"
        code = self._cuda.driver.code_in(said)
        return self._cuda.driver.error(what, code, said, self._cuda.memory_bytes() if code == 2 else None)


def _without_frames(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function; what it raises keeps none of its variables alive."""
    try:
        function(*arguments)
    except BaseException as error:
        _forget_frames(error)
        raise


def _forget_frames(error: BaseException | None) -> None:
    """A traceback holds TensorRT's objects; who keeps it would have them destroyed without a CUDA context."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _sidecar(path: Path) -> EngineInfo | None:
    """The sidecar of a plan; None, with a warning, where there is none."""
    if path.is_file() and not sidecar_path(path).exists():
        _log.warning(
            "%s has no %s beside it: its preprocessing must be given, and only TensorRT checks whether it "
            "fits this machine",
            path,
            sidecar_path(path).name,
        )
        return None
    return read_engine_info(path)


def _metadata(info: EngineInfo | None) -> dict[str, str]:
    """What an ONNX file would carry in its metadata, from the sidecar."""
    if info is None:
        return {}
    import msgspec

    found = max(info.convolutions, key=lambda name: info.convolutions[name], default=info.precision)
    build = {
        "precision": found,
        "asked": info.precision,
        "target": info.flavour.replace("_", "-"),
        "convolutions": dict(info.convolutions),
        "source_sha256": info.source_sha256,
    }
    metadata = {BUILD_KEY: msgspec.json.encode(build).decode()}
    if info.accuracy is not None:
        metadata[ACCURACY_KEY] = msgspec.json.encode(info.accuracy).decode()
    if info.spec is not None:
        metadata[SPEC_KEY] = info.spec.to_json()
    if info.camera is not None:
        metadata[CAMERA_KEY] = info.camera.to_json()
    return metadata
