"""What is done to frames, apart from who does it when: prepare, infer, decode; with one model or several."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgecnn.camera import Frame, Source
from edgecnn.errors import SpecError
from edgecnn.geometry import Geometry
from edgecnn.pipeline.cascade import Cascade
from edgecnn.pipeline.following import Following
from edgecnn.pipeline.output import Latency, Output, as_bgr
from edgecnn.results import Result
from edgecnn.tiling import AnyModel

__all__ = ["BatchSize", "Captured", "Job", "Work", "check_frames", "checked_models"]


def checked_models(model: AnyModel | Mapping[str, AnyModel | Cascade]) -> dict[str, AnyModel | Cascade]:
    """The models by name.

    Raises:
        SpecError: no model, models that take different bytes of the camera, or a Cascade that does not stand
            after what it looks closer at.
    """
    if not isinstance(model, Mapping):
        return {model.name: model}
    models = dict(model)
    if all(isinstance(one, Cascade) for one in models.values()):
        raise SpecError("a pipeline needs a model", got=", ".join(models) or "none")
    formats = {
        name: one.camera.pixel_format if one.camera is not None else "bgr"
        for name, one in models.items()
        if not isinstance(one, Cascade)
    }
    if len(set(formats.values())) > 1:
        raise SpecError(
            "one camera cannot serve these models",
            got=", ".join(f"{pixel_format} for {name}" for name, pixel_format in formats.items()),
            expected="models that take the same frames",
        )
    for index, (name, one) in enumerate(models.items()):
        before = list(models)[:index]
        if isinstance(one, Cascade) and one.of not in before:
            raise SpecError(
                f"{name} looks at regions of an unknown model",
                got=one.of,
                expected="one of " + ", ".join(before) if before else "a model before it",
            )
    return models


def check_frames(source: Source, model: AnyModel) -> None:
    """Raise SpecError where a source's bytes are known to be others than the model takes."""
    wanted = ("bgr", "gray") if model.camera is None else (model.camera.pixel_format,)
    given = source.pixel_format
    if given is None or given in wanted or (given == "raw" and model.camera is not None):
        return
    raise SpecError(
        f"the model {model.name} does not take the frames of {source.name}",
        got=given,
        expected=" or ".join(wanted),
        remedy="Leave raw= and format= out of the source, or build the model with --camera for these bytes",
    )


class Captured(NamedTuple):
    """A frame, which of the sources it is from, and how long it took to come."""

    camera: int
    frame: Frame
    capture_ms: float


@dataclass(eq=False)
class Job:
    """Some frames on their way through the models, at least one. Lists by model hold one entry a model."""

    taken: list[Captured]
    slots: list[Any]  # the models' own: InputSlot, or another one for tiles
    geometries: list[list[Geometry]]  # by model, then by frame
    preprocess_ms: float
    infer_ms: float = 0.0
    outputs: list[Any] = field(default_factory=list)
    error: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def frames(self) -> list[Frame]:
        """The frames."""
        return [captured.frame for captured in self.taken]


class Work:
    """Prepares, infers and decodes. Jobs are prepared by one thread and decoded by one; any number infers.

    Args:
        models: as `checked_models` gives them.
        cameras: how many sources share them.
        at_once: jobs whose tensors are in use at the same time.
        concurrency: jobs that are inferred at the same time.
        following: gives objects their ids; none where None.
    """

    def __init__(
        self,
        models: Mapping[str, AnyModel | Cascade],
        *,
        cameras: int,
        at_once: int,
        concurrency: int,
        following: Following | None = None,
    ) -> None:
        self._following = following
        self._models = {name: one for name, one in models.items() if not isinstance(one, Cascade)}
        self._camera = next(iter(self._models.values())).camera
        self._cascades = {name: model for name, model in models.items() if isinstance(model, Cascade)}
        self.batch = BatchSize([model.batch_size for model in self._models.values()], cameras)
        slots: list[list[Any]] = [
            model.input_slots(at_once, model.batch_size or self.batch.largest)
            for model in self._models.values()
        ]
        self._slots = deque(list(together) for together in zip(*slots, strict=True))
        self._others: ThreadPoolExecutor | None = None
        if len(self._models) > 1:
            self._others = ThreadPoolExecutor(concurrency * (len(self._models) - 1), "edgecnn-model")

    def prepare(self, taken: list[Captured]) -> Job:
        """Preprocess frames for all models. Raises InputError: a frame that one of them does not take."""
        slots = self._slots.pop()
        start = perf_counter()
        geometries = [
            [slot.fill(index, captured.frame.image) for index, captured in enumerate(taken)] for slot in slots
        ]
        return Job(taken, slots, geometries, (perf_counter() - start) * 1e3)

    def release(self, job: Job) -> None:
        """Take the job's tensors back."""
        self._slots.append(job.slots)

    def infer(self, job: Job) -> None:
        """Run all models on the job's tensors, at the same time. Raises InferenceError."""
        start = perf_counter()
        calls = [
            functools.partial(model.run_slot, slot, len(job.taken))
            for model, slot in zip(self._models.values(), job.slots, strict=True)
        ]
        if self._others is None:
            job.outputs = [run() for run in calls]
        else:
            futures = [self._others.submit(run) for run in calls[1:]]
            try:
                first = calls[0]()
            finally:  # the tensors are in use until then
                errors = [future.exception() for future in futures]
            for error in filter(None, errors):
                raise error
            job.outputs = [first, *(future.result() for future in futures)]
        seconds = perf_counter() - start
        job.infer_ms = seconds * 1e3
        self.batch.record(len(job.taken), seconds)

    def decode(self, job: Job) -> list[Output]:
        """One output a frame. Raises InferenceError, and what the callable of a Cascade raises."""
        start = perf_counter()
        decoded = [
            model.decode(outputs, geometries)
            for model, outputs, geometries in zip(
                self._models.values(), job.outputs, job.geometries, strict=True
            )
        ]
        found: list[dict[str, Result]] = []
        for captured, *results in zip(job.taken, *decoded, strict=True):
            named: dict[str, Result] = dict(zip(self._models, results, strict=True))
            if self._following is not None:
                named = self._following.follow(captured.camera, captured.frame, named)
            if self._cascades:
                image = captured.frame.image
                picture = image if self._camera is None else self._camera.to_bgr(image)
            for name, cascade in self._cascades.items():
                named[name] = cascade.run(named[cascade.of], captured.frame, picture)
            found.append(named)
        postprocess_ms = (perf_counter() - start) * 1e3
        several = len(self._models) + len(self._cascades) > 1
        first, model = next(iter(self._models.items()))
        to_bgr = as_bgr if self._camera is None else self._camera.to_bgr
        return [
            Output(
                named[first],
                frame,
                Latency(capture_ms, job.preprocess_ms, job.infer_ms, postprocess_ms, frame.age_ms),
                self._drawing(named) if several else model.task.draw,
                named if several else {},
                camera,
                to_bgr,
            )
            for (camera, frame, capture_ms), named in zip(job.taken, found, strict=True)
        ]

    def close(self, *, wait: bool) -> None:
        """End the threads of further models, once they are done."""
        if self._others is not None:
            self._others.shutdown(wait=wait)

    def _drawing(self, named: Mapping[str, Result]) -> Callable[[NDArray[np.uint8], Result], None]:
        """Draws all results of a frame."""

        def draw(picture: NDArray[np.uint8], _: Result) -> None:
            for name, model in self._models.items():
                model.task.draw(picture, named[name])
            for name, cascade in self._cascades.items():
                cascade.draw(picture, named[name])

        return draw


class BatchSize:
    """How many frames are inferred at once.

    A fixed batch is filled as far as frames wait: it costs the same. Where the batch is free and several
    cameras share the model, both one and all at once are tried in the first runs, and what is faster stays.

    Attributes:
        largest: most frames that there will be.
    """

    TRIALS = 5
    WORTH = 0.95  # of the time for a frame: more at once means waiting for them all

    def __init__(self, batches: Sequence[int | None], cameras: int) -> None:
        fixed = [batch for batch in batches if batch is not None]
        self.largest = min(fixed) if fixed else cameras
        self._times: dict[int, list[float]] = {} if fixed or cameras == 1 else {1: [], cameras: []}
        self._chosen = self.largest

    def choose(self) -> int:
        """How many to take next."""
        for size, seconds in self._times.items():
            if len(seconds) < self.TRIALS:
                return size
        return self._chosen

    def record(self, size: int, seconds: float) -> None:
        """Take note of how long so many took."""
        seen = self._times.get(size)
        if seen is None or len(seen) >= self.TRIALS:
            return
        seen.append(seconds / size)
        if all(len(times) >= self.TRIALS for times in self._times.values()):
            one, many = (median(times) for times in self._times.values())
            self._chosen = self.largest if many < self.WORTH * one else 1
