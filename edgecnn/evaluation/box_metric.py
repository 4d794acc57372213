"""Average precision of boxes, masks and keypoints: COCO's, by COCO's own code (pycocotools).

    map_50_95     AP: mean over IoU 0.50, 0.55 … 0.95, over 101 recalls and over classes
    map_50, map_75    at one IoU; map_small, map_medium, map_large by the labels' area (32², 96² pixels)
    recall        AR: the share of labels found, mean over the same IoU and classes
    f1            the best of 2PR / (P + R) over all thresholds of the score, IoU 0.5, mean over classes

All scores count, so the threshold that the model's own head sets is taken away for the metric. The
surest 100 objects of a frame are taken (20 for keypoints, as COCO has it). The confusion matrix is of those
that the head's own threshold leaves.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from edgecnn.detections import Detections
from edgecnn.errors import DataError
from edgecnn.evaluation.box_confusion import count_pairs
from edgecnn.evaluation.objects import Objects, mask_tools
from edgecnn.evaluation.scores import Confusion, Curve, Scores, interval, resamples
from edgecnn.results import Result
from edgecnn.spec import ModelSpec

__all__ = ["BoxMetric", "every_score"]

Kind = Literal["bbox", "segm", "keypoints"]

PREFIXES: dict[Kind, str] = {"bbox": "", "segm": "mask_", "keypoints": "keypoint_"}
MOST = 100  # objects a frame
LOWEST_SCORE = 0.001
CHEAP = 4000  # images times classes: beyond, an interval takes longer than it is worth
BOOTSTRAPS = 100
SHOWN_CURVES = 20
COCO_POINTS = 17  # of a person; their sigmas are COCO's
_AREAS = {"all": 0, "small": 1, "medium": 2, "large": 3}


def every_score(head: Mapping[str, Any]) -> dict[str, Any]:
    """A head of boxes that keeps all but what scores next to nothing."""
    if head.get("format") == "heatmaps":  # its threshold is of points, and belongs to how a box is made
        return dict(head)
    return {**head, "min_score": LOWEST_SCORE, "class_min_scores": {}}


class _Found(NamedTuple):
    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    runs: list[dict[str, Any]] | None
    keypoints_xys: NDArray[np.float32] | None


class BoxMetric:
    """Keeps labels and results without their frames.

    Args:
        spec: the model's.
        kinds: what is compared.
        default_min_score: the threshold of a head that sets none.
    """

    def __init__(self, spec: ModelSpec, kinds: tuple[Kind, ...], default_min_score: float = 0.25) -> None:
        mask_tools()  # now, rather than after all frames
        self.labels = spec.labels
        self.kinds = kinds
        self._min_score = float(spec.head.get("min_score", default_min_score))
        own = spec.head.get("class_min_scores") or {}
        self._class_min_scores = {
            spec.labels.index(name) if name in spec.labels else int(name): float(score)
            for name, score in own.items()
        }
        self._frames: list[tuple[Objects, _Found, tuple[int, int]]] = []

    def add(self, truth: Objects, result: Result) -> None:
        """See `Metric.add`."""
        found = cast("Detections", result)[:MOST]
        kept = _Found(
            found.boxes_xyxy,
            found.scores,
            found.class_ids,
            found.masks.to_coco() if found.masks is not None and "segm" in self.kinds else None,
            found.keypoints_xys,
        )
        self._check(truth, kept)
        size = (0, 0) if found.masks is None else found.masks.frame_hw
        self._frames.append((truth, kept, size))

    def scores(self) -> Scores:
        """See `Metric.scores`."""
        if not any(len(truth.class_ids) for truth, _, _ in self._frames):
            raise DataError("there is nothing to be found", got="labels without any object")
        metrics: dict[str, float] = {}
        intervals: dict[str, tuple[float, float]] = {}
        per_class: dict[str, dict[str, float]] = {}
        curves = []
        for kind in self.kinds:
            run = self._run(kind)
            prefix = PREFIXES[kind]
            metrics |= {f"{prefix}{name}": value for name, value in _summary(run).items()}
            intervals |= {f"{prefix}{name}": ends for name, ends in _intervals(run, kind).items()}
            for index, class_id in enumerate(run.params.catIds):
                aps = run.eval["precision"][:, :, index, 0, -1]
                if (aps > -1).any():
                    own = per_class.setdefault(self._name(class_id), {})
                    own[f"{prefix}ap_50_95"] = float(aps[aps > -1].mean())
                    own[f"{prefix}ap_50"] = float(aps[0][aps[0] > -1].mean())
            curves.append(self._curve(run, f"{prefix}pr_curve"))
        labelled = np.concatenate([truth.class_ids[~truth.crowd] for truth, _, _ in self._frames])
        for class_id, count in zip(*np.unique(labelled, return_counts=True), strict=True):
            per_class.setdefault(self._name(int(class_id)), {})["objects"] = float(count)
        return Scores(
            metrics=metrics,
            intervals=intervals,
            per_class=per_class,
            confusion=self._confusion(sorted(set(labelled.tolist()))),
            curves=tuple(curves),
        )

    def _name(self, class_id: int) -> str:
        return self.labels[class_id] if 0 <= class_id < len(self.labels) else str(class_id)

    def _check(self, truth: Objects, found: _Found) -> None:
        if "segm" in self.kinds and truth.runs is None:
            raise DataError("a label has no masks", expected="a polygon or run lengths for each object")
        if "keypoints" not in self.kinds:
            return
        if truth.keypoints_xyv is None:
            raise DataError("a label has no keypoints", expected="keypoints for each object")
        theirs = found.keypoints_xys
        if theirs is not None and len(theirs) and len(truth.class_ids):
            points = truth.keypoints_xyv.shape[1]
            if points != theirs.shape[1]:
                raise DataError(
                    "labels have another number of keypoints than the model",
                    got=str(points),
                    expected=str(theirs.shape[1]),
                )

    def _run(self, kind: Kind) -> Any:
        """A COCOeval that has run."""
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        labels: list[dict[str, Any]] = []
        results: list[dict[str, Any]] = []
        classes: set[int] = set()
        for image_id, (truth, found, _) in enumerate(self._frames, start=1):
            labels += list(_labels(truth, image_id, len(labels) + 1, kind))
            results += list(_results(found, image_id, kind))
            classes |= {*truth.class_ids.tolist(), *found.class_ids.tolist()}
        images = [
            {"id": index, "height": size[0], "width": size[1]}
            for index, (_, _, size) in enumerate(self._frames, start=1)
        ]
        categories = [{"id": index} for index in sorted(classes)]
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
            truth_set = COCO()
            truth_set.dataset = {
                "info": {}, "images": images, "annotations": labels, "categories": categories,
            }  # fmt: skip
            truth_set.createIndex()
            result_set = truth_set.loadRes(results) if results else COCO()
            run = COCOeval(truth_set, result_set, kind)
            if kind == "keypoints":
                points = next(
                    t.keypoints_xyv.shape[1]
                    for t, _, _ in self._frames
                    if t.keypoints_xyv is not None and len(t.class_ids)
                )
                if points != COCO_POINTS:
                    run.params.kpt_oks_sigmas = np.full(points, 1 / points)
            run.evaluate()
            run.accumulate()
        return run

    def _curve(self, run: Any, name: str) -> Curve:
        recalls = np.asarray(run.params.recThrs, np.float64)
        precision = run.eval["precision"][0, :, :, 0, -1]  # IoU 0.5: (101, classes)
        there = np.flatnonzero((precision > -1).all(axis=0))
        series = {"all classes": (recalls, precision[:, there].mean(axis=1))} if len(there) else {}
        if 1 < len(there) <= SHOWN_CURVES:
            series |= {self._name(run.params.catIds[k]): (recalls, precision[:, k]) for k in there}
        return Curve(name=name, x_label="recall", y_label="precision", series=series)

    def _confusion(self, classes: list[int]) -> Confusion:
        counts = np.zeros((len(classes) + 1, len(classes) + 1), np.int64)
        for truth, found, _ in self._frames:
            least = np.array(
                [self._class_min_scores.get(c, self._min_score) for c in found.class_ids.tolist()]
            )
            shown = found.scores > least
            counts += count_pairs(truth, found.boxes_xyxy[shown], found.class_ids[shown], classes)
        names = (*(self._name(index) for index in classes), "background")
        return Confusion(labels=names, counts=counts, of="objects")


def _labels(truth: Objects, image_id: int, first_id: int, kind: Kind) -> Iterator[dict[str, Any]]:
    for index, (x1, y1, x2, y2) in enumerate(truth.boxes_xyxy.tolist()):
        label: dict[str, Any] = {
            "id": first_id + index, "image_id": image_id, "category_id": int(truth.class_ids[index]),
            "bbox": [x1, y1, x2 - x1, y2 - y1], "area": float(truth.areas_px[index]),
            "iscrowd": int(truth.crowd[index]),
        }  # fmt: skip
        if kind == "segm" and truth.runs is not None:
            label["segmentation"] = dict(truth.runs[index])
        if kind == "keypoints" and truth.keypoints_xyv is not None:
            points = truth.keypoints_xyv[index]
            label["keypoints"] = points.ravel().tolist()
            label["num_keypoints"] = int((points[:, 2] > 0).sum())
        yield label


def _results(found: _Found, image_id: int, kind: Kind) -> Iterator[dict[str, Any]]:
    for index, (x1, y1, x2, y2) in enumerate(found.boxes_xyxy.astype(np.float64).tolist()):
        result: dict[str, Any] = {
            "image_id": image_id, "category_id": int(found.class_ids[index]),
            "score": float(found.scores[index]),
        }  # fmt: skip
        if kind == "segm":
            result["segmentation"] = found.runs[index]  # type: ignore[index]  # masks are checked by the task
        elif kind == "keypoints":
            result["keypoints"] = found.keypoints_xys[index].astype(np.float64).ravel().tolist()  # type: ignore[index]
        else:
            result["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        yield result


def _summary(run: Any) -> dict[str, float]:
    precision, recall = run.eval["precision"], run.eval["recall"]
    metrics = {"map_50_95": _mean(precision[:, :, :, 0, -1]), "map_50": _mean(precision[0, :, :, 0, -1])}
    metrics["map_75"] = _mean(precision[5, :, :, 0, -1])
    for name in ("small", "medium", "large"):
        if name in run.params.areaRngLbl:
            metrics[f"map_{name}"] = _mean(precision[:, :, :, run.params.areaRngLbl.index(name), -1])
    metrics["recall"] = _mean(recall[:, :, 0, -1])
    at_half = precision[0, :, :, 0, -1]
    recalls = np.asarray(run.params.recThrs)[:, None]
    f1 = 2 * at_half * recalls / np.maximum(at_half + recalls, 1e-12)
    metrics["f1"] = _mean(np.where(at_half > -1, f1, -1).max(axis=0))
    return {name: value for name, value in metrics.items() if value > -1}


def _mean(values: NDArray[Any]) -> float:
    """COCO's: -1 stands for what no label is there for."""
    there = values[values > -1]
    return float(there.mean()) if there.size else -1.0


def _intervals(run: Any, kind: Kind) -> dict[str, tuple[float, float]]:
    """By COCO's own summing up, over images drawn with replacement."""
    from pycocotools.cocoeval import COCOeval

    images, classes, areas = len(run.params.imgIds), len(run.params.catIds), len(run.params.areaRng)
    if images < 2 or images * classes > CHEAP:
        return {}
    again = COCOeval(iouType=kind)
    again.params = copy.deepcopy(run.params)
    again.params.areaRng, again.params.areaRngLbl = run.params.areaRng[:1], ["all"]
    again.params.maxDets = run.params.maxDets[-1:]
    again.params.imgIds = list(range(images))
    again._paramsEval = copy.deepcopy(again.params)  # what accumulate() compares its parameters with
    found: dict[str, list[float]] = {"map_50_95": [], "map_50": []}
    with contextlib.redirect_stdout(io.StringIO()):
        for drawn in resamples(images, BOOTSTRAPS):
            again.evalImgs = [
                run.evalImgs[index * areas * images + image]
                for index in range(classes)
                for image in drawn.tolist()
            ]
            again.accumulate()
            precision = again.eval["precision"]
            for name, value in (("map_50_95", _mean(precision)), ("map_50", _mean(precision[0]))):
                if value > -1:
                    found[name].append(value)
    return {name: interval(values) for name, values in found.items() if values}
