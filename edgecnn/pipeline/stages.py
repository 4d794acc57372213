"""The threads of a pipeline, and the channels between them.

    source ─▶ capture ─┐ frames             ready              inferred                outputs
    source ─▶ capture ─┴──────▶ preprocess ───────▶ infer × n ──────────▶ postprocess ─────────▶ caller

Each channel holds one item, so what is under way is bounded, and as fresh as can be. A source that keeps the
newest frame makes its channels do so: the preprocessed frame is replaced by a newer one of the same camera
for as long as inference is busy with the one before. A source that keeps all makes them wait.

The tensors that frames are preprocessed into rotate: as many as there are threads that infer, one that is
ready, and one that is being filled. Nothing large is allocated for a frame.

What ends a stage travels through its channel behind what came before it, so the caller gets every result that
there is and then the error. `halt` ends all stages at once.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from time import monotonic, perf_counter

from edgecnn.camera import Frame, Source
from edgecnn.channel import Channel, Ended, Keep
from edgecnn.pipeline.cascade import Cascade
from edgecnn.pipeline.delivery import Failures
from edgecnn.pipeline.following import Following
from edgecnn.pipeline.lanes import Lanes
from edgecnn.pipeline.output import Output
from edgecnn.pipeline.statistics import Rate
from edgecnn.pipeline.work import Captured, Job, Work
from edgecnn.pipeline.worker import Worker
from edgecnn.tiling import AnyModel

__all__ = ["Stages", "keep_of"]


def keep_of(source: Source) -> Keep:
    """What is kept of a source's frames where they come faster than they are used."""
    return "newest" if source.policy == "latest" else "all"


class Stages:
    """Captures, preprocesses, infers and decodes, each in its thread.

    Args:
        sources: where frames come from; not closed here.
        models: as `checked_models` gives them.
        deadline_ms: age at which a frame is dropped, wherever it is; none where None.
        failures: where to report a source that failed while others go on.
        following: gives objects their ids; none where None.

    Attributes:
        outputs: what comes out, a lane a source.
        captured: one Rate a source.
        late: frames that were dropped for their age, by the stage that did.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        models: Mapping[str, AnyModel | Cascade],
        *,
        deadline_ms: float | None,
        failures: Failures,
        following: Following | None = None,
    ) -> None:
        self._sources = sources
        self._deadline_s = None if deadline_ms is None else deadline_ms / 1e3
        self._failures = failures
        self._concurrency = min(
            model.backend.concurrency for model in models.values() if not isinstance(model, Cascade)
        )
        self._work = Work(
            models,
            cameras=len(sources),
            at_once=self._concurrency + 2,
            concurrency=self._concurrency,
            following=following,
        )
        self._keeps = [keep_of(source) for source in sources]
        sizes = [self._work.batch.largest if keep == "all" else 1 for keep in self._keeps]
        self._frames: Lanes[Captured] = Lanes(self._keeps, sizes)
        self._ready: Channel[Job] = Channel(1, keep="newest" if "newest" in self._keeps else "all")
        self._inferred: Channel[Job] = Channel(self._concurrency)
        self.outputs: Lanes[Output] = Lanes(self._keeps)
        self._last: Job | None = None  # that was made ready
        self._taking = threading.Lock()
        self._replaced = 0
        self.captured = [Rate() for _ in sources]
        self.late = {"preprocess": 0, "infer": 0, "postprocess": 0, "deliver": 0}
        self._halted = False
        self._workers: list[Worker] = []
        self._captures: list[Worker] = []

    @property
    def dropped(self) -> int:
        """Frames that made room for newer ones."""
        return self._frames.dropped + self._replaced + self.outputs.dropped

    def start(self) -> None:
        """Start the threads."""
        self._workers = [
            *(Worker(f"infer-{index}", self._infer) for index in range(self._concurrency)),
            Worker("preprocess", self._preprocess),
            Worker("postprocess", self._postprocess),
        ]
        self._captures = [
            Worker(f"capture-{camera}", self._capture, camera) for camera in range(len(self._sources))
        ]
        for worker in self._workers + self._captures:
            worker.start()

    def halt(self) -> None:
        """End all stages; what is under way is let go. From any thread, any number of times."""
        self._halted = True
        self._frames.close()
        self._ready.close()
        self._inferred.close()
        self.outputs.close()

    def join(self, timeout: float, *, capture_s: float) -> bool:
        """Wait for the threads, for so many seconds, and for those that capture; whether all have ended."""
        ended = True
        for workers, seconds in ((self._workers, timeout), (self._captures, capture_s)):
            deadline = monotonic() + seconds
            for worker in workers:
                ended &= worker.wait(deadline - monotonic())
        self._work.close(wait=ended)
        return ended

    def too_late(self, frames: Sequence[Frame], stage: str) -> bool:
        """Whether all of some frames are too old to be worth more work; counts them if so."""
        oldest_s = None if self._deadline_s is None else monotonic() - self._deadline_s
        if oldest_s is None or any(frame.captured_at >= oldest_s for frame in frames):
            return False
        self.late[stage] += len(frames)
        return True

    # --- one method a thread

    def _capture(self, camera: int) -> None:
        source, rate = self._sources[camera], self.captured[camera]
        try:
            while True:
                asked = perf_counter()
                frame = next(source, None)
                if frame is None:
                    break
                rate.tick()
                self._frames.put(camera, Captured(camera, frame, (perf_counter() - asked) * 1e3))
            self._frames.end(camera)
        except Ended:
            pass
        except BaseException as error:
            if len(self._sources) > 1 and not self._halted:  # then it is closed between two frames
                self._failures.report(source.name, error)
            self._frames.end(camera, error)

    def _preprocess(self) -> None:
        try:
            while True:
                taken = self._take_frames()
                if not taken:
                    continue
                self._last = self._work.prepare(taken)
                replaced = self._ready.put(self._last)
                if replaced is not None:
                    self._replaced += len(replaced.taken)
                    self._work.release(replaced)
        except Ended:
            self._ready.end()
        except BaseException as error:
            self._ready.end(error)

    def _take_frames(self) -> list[Captured]:
        """The frames that are to be inferred next: as many as wait and pay, at least one, in turns."""
        taken = [self._frames.get(among=self._lanes_to_take)[1]]
        wanted = self._work.batch.choose()
        try:
            while len(taken) < wanted:
                taken.append(self._frames.get(timeout=0)[1])
        except Exception:  # none waits, or what ended the lane, which the next call says again
            pass
        return [captured for captured in taken if not self.too_late([captured.frame], "preprocess")]

    def _lanes_to_take(self) -> Collection[int]:
        """With several cameras: whose frame may be made ready now.

        While a job waits for inference, only a newer frame of its own camera may take its place: any other
        would take that camera's turn.
        """
        if not len(self._ready) or self._last is None:
            return range(len(self._sources))
        waiting = self._last.taken
        if len(waiting) == 1 and self._keeps[waiting[0].camera] == "newest":
            return (waiting[0].camera,)
        return ()

    def _infer(self) -> None:
        try:
            while True:
                with self._taking:  # with several threads, results leave in the order of taking
                    job = self._ready.get()
                    self._frames.wake()
                    if self.too_late(job.frames, "infer"):
                        self._work.release(job)
                        continue
                    if self._concurrency > 1:
                        self._inferred.put(job)
                try:
                    self._work.infer(job)
                except BaseException as error:
                    job.error = error
                self._work.release(job)
                job.done.set()
                if self._concurrency == 1:
                    self._inferred.put(job)
        except Ended:
            self._inferred.end()
        except BaseException as error:
            self._inferred.end(error)

    def _postprocess(self) -> None:
        try:
            while True:
                job = self._inferred.get()
                job.done.wait()
                if job.error is not None:
                    raise job.error
                if not self.too_late(job.frames, "postprocess"):
                    for output in self._work.decode(job):
                        self.outputs.put(output.camera, output)
        except Ended:
            self.outputs.end()
        except BaseException as error:
            self.outputs.end(error=error)
        self._frames.close()  # nobody takes what the others would give
        self._ready.close()
        self._inferred.close()
