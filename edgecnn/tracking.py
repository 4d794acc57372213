"""Tracking: the same object keeps the same id from frame to frame, frames that were dropped included.

    with edgecnn.Pipeline(0, detector, tracker=ByteTrack) as pipeline:
        for output in pipeline:
            output.result.track_ids

A tracker predicts where each object should be by now, and gives its id to the box that is found there. So it
must know how much time has passed: a tracker that counts frames takes a gap of ten dropped frames for one
step, looks in the wrong place, and the ids change. Here it is told the time at which each frame was captured.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from edgecnn.detections import Detections
from edgecnn.errors import BackendUnavailableError, InputError

__all__ = ["ByteTrack", "Tracker"]


class Tracker(Protocol):
    """Follows the objects of one camera. Called by one thread at a time."""

    def update(self, detections: Detections, seconds: float) -> Detections:
        """The same detections, in the same order, with `track_ids`.

        Args:
            detections: of the next frame; may be empty.
            seconds: when it was captured, from wherever the clock begins; later than the frame before.
        """


class ByteTrack:
    """ByteTrack (Zhang et al. 2022), of Roboflow's `trackers`, by time instead of frames.

    Each object moves on at a steady speed (a Kalman filter); boxes are matched with where the objects should
    be, first the sure ones, then the others. Boxes are made larger by half a side before their overlap is
    taken (buffered IoU, Yang et al. 2023), so that small and fast objects are found again. Classes are not
    looked at: an object whose class is in doubt keeps its id. Ids count from 0, and start with the second
    frame that shows an object; before, it has -1.

    Args:
        min_score: boxes that score less continue an object, and never begin one. Let the model give such
            boxes (`min_score` of its head below this) for objects that are half hidden.
        lost_s: an object that was not seen for so long is forgotten; when it comes back, it is a new one.
        min_overlap: of the larger boxes, intersection / union from which on they may be the same object.

    Raises:
        BackendUnavailableError: `trackers` is not installed.
        InputError: a number that is out of range.
    """

    def __init__(self, *, min_score: float = 0.25, lost_s: float = 1.0, min_overlap: float = 0.1) -> None:
        for name, value, fits in (
            ("min_score", min_score, 0 <= min_score <= 1),
            ("lost_s", lost_s, 0 < lost_s < float("inf")),
            ("min_overlap", min_overlap, 0 < min_overlap <= 1),
        ):
            if not fits:
                expected = "more than 0" if name == "lost_s" else "0 to 1"
                raise InputError(f"{name} is wrong", got=str(value), expected=expected)
        try:
            from trackers import BIoU, ByteTrackTracker
        except ImportError as error:
            raise BackendUnavailableError(
                "no tracker is installed", got=str(error), remedy="pip install 'edgecnn[track]'"
            ) from error
        self._tracker: Any = ByteTrackTracker(
            lost_track_buffer=max(1, round(lost_s * 30)),  # it counts thirtieths of a second
            track_activation_threshold=min_score,
            high_conf_det_threshold=min_score,
            minimum_iou_threshold=min_overlap,
            iou=BIoU(0.5),
        )
        self._seconds = -np.inf

    def update(self, detections: Detections, seconds: float) -> Detections:
        """See `Tracker.update`."""
        import supervision

        if not seconds > self._seconds:  # the library would warn, and match nothing
            raise InputError("the clock stands", got=f"{seconds} s", expected=f"more than {self._seconds} s")
        self._seconds = seconds
        order = np.arange(len(detections))
        found = self._tracker.update(
            supervision.Detections(
                xyxy=detections.boxes_xyxy, confidence=detections.scores, data={"order": order}
            ),
            timestamp=seconds,
        )
        ids = np.full(len(detections), -1)
        ids[found.data.get("order", [])] = found.tracker_id  # in another order, and without data where empty
        return replace(detections, track_ids=ids)
