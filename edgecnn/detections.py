"""Objects found in a frame: boxes, and with them masks, keypoints, oriented boxes or tracks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import BackendUnavailableError, InputError
from edgecnn.masks import Masks

if TYPE_CHECKING:
    import supervision

__all__ = ["Detections"]

# Shape behind the first axis, and dtype, of what is an array. (None: any length.)
_ARRAYS: dict[str, tuple[tuple[int | None, ...], type]] = {
    "boxes_xyxy": ((4,), np.float32),
    "scores": ((), np.float32),
    "class_ids": ((), np.int64),
    "keypoints_xys": ((None, 3), np.float32),
    "corners_xy": ((4, 2), np.float32),
    "track_ids": ((), np.int64),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Detections:
    """N objects, the surest first. Coordinates are continuous, in pixels of the frame.

    Attributes:
        boxes_xyxy: (N, 4) float32: left, top, right, bottom; inside the frame.
        scores: (N,) float32 in [0, 1].
        class_ids: (N,) int64.
        labels: class names by class id, or empty.
        masks: one mask each, at the frame's resolution.
        keypoints_xys: (N, K, 3) float32: x, y, and how sure the point is, in [0, 1].
        corners_xy: (N, 4, 2) float32, of oriented boxes, clockwise; they may lie outside the frame.
        track_ids: (N,) int64: the same object has the same id in every frame; -1 where it has none.

    Raises:
        InputError: arrays of different lengths or of wrong shapes.
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    labels: tuple[str, ...] = ()
    masks: Masks | None = None
    keypoints_xys: NDArray[np.float32] | None = None
    corners_xy: NDArray[np.float32] | None = None
    track_ids: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        count = len(self.boxes_xyxy)
        for name, (shape, dtype) in _ARRAYS.items():
            value = getattr(self, name)
            if value is None:
                continue
            array: NDArray[Any] = np.asarray(value, dtype)
            fits = array.ndim == 1 + len(shape) and all(
                want in (None, side) for side, want in zip(array.shape[1:], shape, strict=True)
            )
            if count == 0 and array.size == 0:
                array, fits = array.reshape(0, *(side or 0 for side in shape)), True
            if not fits or len(array) != count:
                sides = ", ".join("K" if side is None else str(side) for side in (count, *shape))
                raise InputError(f"{name} does not fit", got=str(array.shape), expected=f"({sides})")
            object.__setattr__(self, name, array)
        if self.masks is not None and len(self.masks) != count:
            raise InputError("masks do not fit", got=str(len(self.masks)), expected=f"{count}, one a box")

    @classmethod
    def empty(cls, labels: tuple[str, ...] = ()) -> Detections:
        """Nothing found."""
        none = np.zeros(0)
        return cls(boxes_xyxy=none.reshape(0, 4), scores=none, class_ids=none, labels=labels)  # type: ignore[arg-type]  # converted

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Any) -> Detections:
        """Those that an index, a slice, a mask or an array of indices selects, as in NumPy.

        `detections[detections.scores > 0.5]`, `detections[:3]`; a single number gives one detection.
        """
        chosen = np.atleast_1d(np.arange(len(self))[index])
        parts = {name: getattr(self, name) for name in (*_ARRAYS, "masks")}
        return replace(self, **{name: value[chosen] for name, value in parts.items() if value is not None})

    def filter(
        self,
        *,
        min_score: float | None = None,
        class_ids: Iterable[int] | None = None,
        class_names: Iterable[str] | None = None,
        min_side_px: float | None = None,
    ) -> Detections:
        """Those that meet every condition that is given.

        Args:
            min_score: at least this sure.
            class_ids, class_names: of one of these classes.
            min_side_px: width and height of the box are at least this.

        Raises:
            InputError: a class name that the model does not have.
        """
        keep = np.ones(len(self), bool)
        if min_score is not None:
            keep &= self.scores >= min_score
        if class_names is not None:
            names = list(class_names)
            unknown = [name for name in names if name not in self.labels]
            if unknown:
                raise InputError(
                    "no such class", got=", ".join(unknown), expected="one of the model's labels"
                )
            class_ids = [*(class_ids or ()), *(self.labels.index(name) for name in names)]
        if class_ids is not None:
            keep &= np.isin(self.class_ids, list(class_ids))
        if min_side_px is not None:
            sides = self.boxes_xyxy[:, 2:] - self.boxes_xyxy[:, :2]
            keep &= (sides >= min_side_px).all(axis=1)
        return self[keep]

    @property
    def class_names(self) -> list[str]:
        """Of each, the name of its class; the class id as text where the model has no labels."""
        return [
            self.labels[index] if 0 <= index < len(self.labels) else str(index)
            for index in self.class_ids.tolist()
        ]

    def to_dict(self) -> dict[str, Any]:
        """`{"boxes_xyxy", "scores", "class_ids", "labels"}`, and of the others what there is.

        Coordinates are rounded to 1/100 pixel and scores to 1/10,000; masks are COCO's run lengths.
        """
        found = {
            "boxes_xyxy": _rounded(self.boxes_xyxy, 2),
            "scores": _rounded(self.scores, 4),
            "class_ids": self.class_ids.tolist(),
            "labels": self.class_names,
        }
        if self.masks is not None:
            found["masks"] = self.masks.to_coco()
        if self.keypoints_xys is not None:
            places, scores = _rounded(self.keypoints_xys[..., :2], 2), _rounded(self.keypoints_xys[..., 2], 4)
            found["keypoints_xys"] = [
                [[x, y, score] for (x, y), score in zip(*of_one, strict=True)]
                for of_one in zip(places, scores, strict=True)
            ]
        if self.corners_xy is not None:
            found["corners_xy"] = _rounded(self.corners_xy, 2)
        if self.track_ids is not None:
            found["track_ids"] = self.track_ids.tolist()
        return found

    def to_supervision(self) -> supervision.Detections:
        """As `supervision.Detections`, for that library's annotators, trackers and metrics.

        Class names go into `data["class_name"]`, corners into `data["xyxyxyxy"]`, keypoints into
        `data["keypoints_xys"]`. Raises BackendUnavailableError where supervision is not installed.
        """
        library = _supervision()
        data: dict[str, Any] = {"class_name": np.array(self.class_names, dtype=str)}
        if self.corners_xy is not None:
            data["xyxyxyxy"] = self.corners_xy
        if self.keypoints_xys is not None:
            data["keypoints_xys"] = self.keypoints_xys
        converted: supervision.Detections = library.Detections(
            xyxy=self.boxes_xyxy,
            mask=None if self.masks is None else self.masks.dense(),
            confidence=self.scores,
            class_id=self.class_ids,
            tracker_id=self.track_ids,
            data=data,
        )
        return converted

    @classmethod
    def from_supervision(cls, detections: supervision.Detections, labels: tuple[str, ...] = ()) -> Detections:
        """What `to_supervision` gave, perhaps fewer, in another order, or with the ids of a tracker.

        Args:
            detections: scores that are missing are 1, classes that are missing 0.
            labels: class names by class id.
        """
        count = len(detections.xyxy)
        mask = detections.mask
        scores = np.ones(count) if detections.confidence is None else detections.confidence
        ids = np.zeros(count) if detections.class_id is None else detections.class_id
        more: dict[str, Any] = detections.data
        return cls(
            boxes_xyxy=np.asarray(detections.xyxy, np.float32),
            scores=np.asarray(scores, np.float32),
            class_ids=np.asarray(ids, np.int64),
            labels=labels,
            masks=None if mask is None else Masks.from_dense(np.asarray(mask)),
            keypoints_xys=more.get("keypoints_xys"),
            corners_xy=more.get("xyxyxyxy"),
            track_ids=None if detections.tracker_id is None else np.asarray(detections.tracker_id, np.int64),
        )


def _rounded(array: NDArray[np.float32], digits: int) -> Any:
    """As lists of numbers that are short in JSON: rounded as float64, as float32 they would not be."""
    return np.round(array.astype(np.float64), digits).tolist()


def _supervision() -> Any:
    try:
        import supervision
    except ImportError as error:
        raise BackendUnavailableError(
            "supervision is not usable", got=str(error), remedy="pip install 'edgecnn[supervision]'"
        ) from error
    return supervision
