"""A camera whose every frame is up to the test, and models that wait to be told."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import FunctionBackend, TensorInfo
from edgecnn.camera import Capture, Frame, Skipped, Source
from edgecnn.channel import Channel, Ended
from edgecnn.model import Model
from edgecnn.pipeline import Output
from edgecnn.results import RawOutputs
from edgecnn.spec import ModelSpec, image_spec

WAIT_S = 60  # for what must happen; generous, since only a failure waits that long
SIDE = 8
SPEC = ModelSpec(task="raw", image=image_spec("unit", size_hw=(SIDE, SIDE)))


class Camera:
    """A live camera: `show` is the moment at which the next frame is there.

    Args:
        policy: `latest`, as cameras, or `all`.
    """

    live = True
    fps = None
    frame_count = None
    skipped: tuple[Skipped, ...] = ()

    def __init__(self, name: str = "camera", *, policy: str = "latest") -> None:
        self.name = name
        self.taken: Channel[int] = Channel(10_000)  # levels, as the pipeline takes them
        self._frames: Channel[Capture] = Channel(10_000)
        self.source = Source(self, policy=policy, interrupt=self._frames.close)

    def show(self, level: int, *, age_s: float = 0.0) -> None:
        """A frame of one grey level, captured so long ago."""
        self._frames.put(Capture(grey(level), monotonic() - age_s, self.name))

    def show_and_wait(self, *levels: int) -> None:
        """Frames one by one, the next when the pipeline has taken the one before."""
        for level in levels:
            self.show(level)
            assert self.taken.get(WAIT_S) == level

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more comes, for that reason."""
        self._frames.end(error)

    def read(self) -> Capture | None:
        """See `Reader.read`."""
        try:
            capture = self._frames.get()
        except Ended:
            return None
        self.taken.put(int(capture.image[0, 0, 0]))
        return capture

    def close(self) -> None:
        """See `Reader.close`."""


class Gate:
    """A network of one number, the frame's level, that says when it begins and ends when it is let.

    Attributes:
        begun: what each run began with, by level.
        rows: how many frames each run had.
    """

    def __init__(self, *, batch: int | None = None, concurrency: int = 1, open: bool = False) -> None:
        self.begun: Channel[list[int]] = Channel(10_000)
        self.rows: list[int] = []
        self.error: BaseException | None = None
        self._passes = threading.Semaphore(0)
        self._open = open
        backend = FunctionBackend(
            self._run,
            inputs=(TensorInfo("image", (batch, 3, SIDE, SIDE), "float32"),),
            outputs=(TensorInfo("level", (batch, 1), "float32"),),
        )
        backend.concurrency = concurrency
        self.model = Model(backend, SPEC, name="gate")

    def let(self, count: int = 1) -> None:
        """Let so many runs end."""
        self._passes.release(count)

    def open(self) -> None:
        """Let all runs end, from now on."""
        self._open = True
        self._passes.release(1000)

    def _run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        levels = feeds["image"].mean((1, 2, 3))[:, None] * 255
        self.rows.append(len(levels))
        self.begun.put([round(float(level)) for level in levels[:, 0]])
        if not self._open:
            assert self._passes.acquire(timeout=WAIT_S)
        if self.error is not None:
            raise self.error
        return {"level": levels.astype(np.float32)}


def grey(level: int) -> NDArray[np.uint8]:
    """A frame of one level."""
    return np.full((2 * SIDE, 2 * SIDE, 3), level, np.uint8)


def level_of(output: Output) -> int:
    """What the network says the frame's level is; the frame's own is checked against it."""
    assert isinstance(output.result, RawOutputs)
    level = round(float(output.result.tensors["level"][0]))
    assert level == level_of_frame(output.frame)
    return level


def level_of_frame(frame: Frame) -> int:
    """The frame's level."""
    return int(frame.image[0, 0, 0])


def pipeline_threads() -> list[str]:
    """Names of the threads of pipelines that live."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("edgecnn-")]
