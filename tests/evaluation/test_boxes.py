"""Average precision against pycocotools' own way: a COCO file, a file of results, `summarize()`."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from edgecnn.detections import Detections
from edgecnn.evaluation import open_labelled
from edgecnn.evaluation.tasks import metric_module
from edgecnn.masks import Masks
from tests.evaluation.sets import CLASSES, FRAME_HW, coco_set, spec_of

KINDS = {
    "detection": {"": "bbox"},
    "instance_segmentation": {"": "bbox", "mask_": "segm"},
    "keypoints": {"": "bbox", "keypoint_": "keypoints"},
}
# where summarize() puts what we call by name
PLACES = {
    "map_50_95": 0,
    "map_50": 1,
    "map_75": 2,
    "map_small": 3,
    "map_medium": 4,
    "map_large": 5,
    "recall": 8,
}
POINT_PLACES = {"map_50_95": 0, "map_50": 1, "map_75": 2, "map_medium": 3, "map_large": 4, "recall": 5}


def noisy(truth: Any, random: np.random.Generator, task: str) -> Detections:
    """What a mediocre model would find: some objects moved, missed, made up, or of another class."""
    kept = random.random(len(truth.class_ids)) > 0.2
    boxes = truth.boxes_xyxy[kept] + random.normal(0, 3, (kept.sum(), 4))
    made_up = random.uniform(0, 60, (3, 2))
    boxes = np.concatenate(
        [boxes, np.concatenate([made_up, made_up + random.uniform(5, 60, (3, 2))], axis=1)]
    )
    boxes = np.concatenate(
        [np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1
    )
    boxes = boxes.clip(0, (FRAME_HW[1], FRAME_HW[0]) * 2)
    classes = np.concatenate([truth.class_ids[kept], random.integers(0, 3, 3)])
    wrong = random.random(len(classes)) < 0.1
    classes[wrong] = random.integers(0, 3, wrong.sum())
    order = np.argsort(-(scores := random.random(len(boxes)).astype(np.float32)), kind="stable")
    masks = None
    points: Any = None
    if task == "instance_segmentation":
        dense = np.zeros((len(boxes), *FRAME_HW), bool)
        for canvas, (x1, y1, x2, y2) in zip(dense, boxes.astype(int), strict=True):
            canvas[y1 : y2 + 1, x1 : x2 + 1] = True
        masks = Masks.from_dense(dense[order])
    if task == "keypoints":
        points = np.ones((len(boxes), 5, 3))
        points[: kept.sum(), :, :2] = truth.keypoints_xyv[kept][..., :2] + random.normal(
            0, 2, (kept.sum(), 5, 2)
        )
        points = points[order]
    return Detections(
        boxes_xyxy=boxes[order], scores=scores[order], class_ids=classes[order], labels=CLASSES,
        masks=masks, keypoints_xys=points,
    )  # fmt: skip


@pytest.mark.parametrize("task", KINDS)
def test_average_precision_is_coco_s(task: str, tmp_path: Path) -> None:
    file = coco_set(tmp_path, images=12)
    spec = spec_of(task)
    labelled = open_labelled(file, spec)
    metric = metric_module(task).create(spec)
    random = np.random.default_rng(5)
    results: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS[task].values()}
    content = json.loads(file.read_text())
    ids = {entry["file_name"]: entry["id"] for entry in content["images"]}
    for frame in labelled:
        found = noisy(frame.truth, random, task)
        metric.add(frame.truth, found)
        for kind, rows in results.items():
            rows += _as_results(found, ids[Path(frame.name).name], kind)
    scores = metric.scores()
    for prefix, kind in KINDS[task].items():
        with contextlib.redirect_stdout(io.StringIO()):
            truth_set = COCO(str(file))
            own = truth_set.loadRes(results[kind])
            run = COCOeval(truth_set, own, kind)
            if kind == "keypoints":
                run.params.kpt_oks_sigmas = np.full(5, 1 / 5)
            run.evaluate()
            run.accumulate()
            run.summarize()
        for name, place in (POINT_PLACES if kind == "keypoints" else PLACES).items():
            assert scores.metrics.get(f"{prefix}{name}", -1.0) == pytest.approx(run.stats[place], abs=1e-9), (
                name
            )
        assert 0.05 < scores.metrics[f"{prefix}map_50"] < 0.95  # neither nothing nor all was found
        low, high = scores.intervals[f"{prefix}map_50"]
        assert low <= scores.metrics[f"{prefix}map_50"] <= high


def _as_results(found: Detections, image_id: int, kind: str) -> list[dict[str, Any]]:
    rows = []
    for index in range(len(found)):
        x1, y1, x2, y2 = found.boxes_xyxy[index].astype(float).tolist()
        row: dict[str, Any] = {
            "image_id": image_id,
            "category_id": int(found.class_ids[index]) * 10 + 7,
            "score": float(found.scores[index]),
        }
        if kind == "segm":
            assert found.masks is not None
            row["segmentation"] = found.masks.to_coco()[index]
        elif kind == "keypoints":
            assert found.keypoints_xys is not None
            row["keypoints"] = found.keypoints_xys[index].astype(float).ravel().tolist()
        else:
            row["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        rows.append(row)
    return rows
