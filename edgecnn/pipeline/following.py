"""Tracking in a pipeline: each camera, and each model that finds objects, has a tracker of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgecnn.camera import Frame, Source
from edgecnn.detections import Detections
from edgecnn.errors import SpecError
from edgecnn.results import MultiResult, Result
from edgecnn.spec import ModelSpec
from edgecnn.tracking import Tracker

__all__ = ["Following", "check_followed"]

_FPS = 30  # of files that have no frame rate, such as images
_WITHOUT_OBJECTS = ("anomaly", "classification", "embedding", "raw", "regression", "segmentation")


class Following:
    """Gives objects their ids. Used by one thread, with the frames of each camera in order.

    Args:
        make_tracker: called for each camera and each of the results that are followed.
        sources: the cameras.
    """

    def __init__(self, make_tracker: Callable[[], Tracker], sources: Sequence[Source]) -> None:
        self._make_tracker, self._sources = make_tracker, sources
        self._unused = [make_tracker()]  # what it needs may not be installed: say so before any work
        self._trackers: dict[tuple[int, str], Tracker] = {}
        self._newest = [float("-inf")] * len(sources)

    def follow(self, camera: int, frame: Frame, results: Mapping[str, Result]) -> dict[str, Result]:
        """The results by name, with `track_ids` where they are of objects."""
        seconds = self._seconds(camera, frame)
        return {name: self._with_ids((camera, name), result, seconds) for name, result in results.items()}

    def _seconds(self, camera: int, frame: Frame) -> float:
        """When a frame was captured, by a clock that always goes on.

        A file's frames are captured as fast as they are read, so their time is the video's own.
        """
        source = self._sources[camera]
        if source.live or source.policy == "latest":
            seconds = frame.captured_at
        elif frame.source_time is not None:
            seconds = frame.source_time
        else:
            seconds = frame.index / (source.fps or _FPS)
        if seconds <= self._newest[camera]:  # some videos have no time, or one that stands
            seconds = self._newest[camera] + 1 / (source.fps or _FPS)
        self._newest[camera] = seconds
        return seconds

    def _with_ids(self, key: tuple[int, str], result: Result, seconds: float) -> Result:
        if isinstance(result, MultiResult):
            parts = result.results.items()
            return MultiResult(
                {part: self._with_ids((key[0], f"{key[1]}.{part}"), one, seconds) for part, one in parts}
            )
        if not isinstance(result, Detections):
            return result
        tracker = self._trackers.get(key)
        if tracker is None:
            tracker = self._unused.pop() if self._unused else self._make_tracker()
            self._trackers[key] = tracker
        return tracker.update(result, seconds)


def check_followed(specs: Sequence[ModelSpec]) -> None:
    """Raise SpecError where no model can find an object."""
    tasks: list[Any] = [spec.task for spec in specs]
    for spec in specs:
        if spec.task == "multi_head":
            tasks.remove(spec.task)
            tasks += [part.get("task") for part in spec.head.values()]
    if all(task in _WITHOUT_OBJECTS for task in tasks):
        raise SpecError(
            "there is nothing to track",
            got=", ".join(str(task) for task in tasks),
            expected="a model that finds objects: detection, instance_segmentation, keypoints",
        )
