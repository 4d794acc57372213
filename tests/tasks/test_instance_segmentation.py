from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgecnn.errors import InferenceError, SpecError
from edgecnn.geometry import Geometry
from edgecnn.masks import Masks
from edgecnn.spec import Resize
from tests.tasks.boxes import SIZE_HW, detect, f32, geometry_of, make

HEIGHT, WIDTH = SIZE_HW
PLACES = 420
COUNT = 6  # prototypes


def outputs_for(
    random: np.random.Generator, boxes: Any, *, finished: bool
) -> tuple[dict[str, Any], Any, Any]:
    """(outputs, prototypes (K, h, w), coefficients): smooth prototypes, a fourth of the input's size."""
    import cv2

    coarse = random.normal(0, 1, (COUNT, 5, 6)).astype(np.float32)
    prototypes = np.stack([cv2.resize(plane, (WIDTH // 4, HEIGHT // 4)) for plane in coarse])
    coefficients = random.normal(0, 1, (len(boxes), COUNT)).astype(np.float32)
    scores = np.linspace(0.9, 0.6, len(boxes))[:, None]
    if finished:
        table = np.concatenate([boxes, scores, np.zeros((len(boxes), 1)), coefficients], axis=1)[None]
    else:
        sizes = boxes[:, 2:] - boxes[:, :2]
        rows = np.concatenate(
            [boxes[:, :2] + sizes / 2, sizes, scores, np.zeros_like(scores), coefficients], axis=1
        )
        table = np.zeros((1, 4 + 2 + COUNT, PLACES))
        table[0, :, : len(boxes)] = rows.T
    return {"output0": f32(table), "output1": prototypes[None]}, prototypes, coefficients


def reference(logits: Any, geometry: Geometry, box: Any) -> Any:
    """(H, W) float64: the logits (h, w) at each pixel's centre, bilinear; -inf outside the box."""
    rows, columns = logits.shape
    height, width = geometry.frame_hw
    x = (np.arange(width) + 0.5) * geometry.scale_xy[0] + geometry.offset_xy[0]
    y = (np.arange(height) + 0.5) * geometry.scale_xy[1] + geometry.offset_xy[1]
    u = np.clip(x * columns / WIDTH - 0.5, 0, columns - 1)
    v = np.clip(y * rows / HEIGHT - 0.5, 0, rows - 1)
    left, top = np.minimum(u.astype(int), columns - 2), np.minimum(v.astype(int), rows - 2)
    a, b = u - left, (v - top)[:, None]
    values = (
        logits[np.ix_(top, left)] * (1 - a) * (1 - b) + logits[np.ix_(top, left + 1)] * a * (1 - b)
        + logits[np.ix_(top + 1, left)] * (1 - a) * b + logits[np.ix_(top + 1, left + 1)] * a * b
    )  # fmt: skip
    centres_x, centres_y = np.arange(width) + 0.5, np.arange(height) + 0.5
    inside = (centres_x >= box[0]) & (centres_x < box[2])
    inside = inside & ((centres_y >= box[1]) & (centres_y < box[3]))[:, None]
    return np.where(inside, values, -np.inf)


@pytest.mark.parametrize("resize", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("frame_hw", [(128, 160), (200, 333), (61, 47)])
def test_masks(resize: Resize, finished: bool, frame_hw: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    geometry = geometry_of(frame_hw, resize)
    first = random.uniform(-20, 100, (8, 2))
    boxes = np.concatenate([first, first + random.uniform(3, 60, (8, 2))], axis=1)
    outputs, prototypes, coefficients = outputs_for(random, boxes, finished=finished)
    found = detect(
        outputs, task="instance_segmentation", geometry=geometry, resize=resize, nms_iou=None, labels="ab"
    )
    assert found.masks is not None
    assert 5 <= len(found) == len(found.masks) <= 8
    checked = inside = 0
    for mask, box, score in zip(found.masks.dense(), found.boxes_xyxy, found.scores, strict=True):
        index = int(np.argmin(abs(np.linspace(0.9, 0.6, 8) - score)))
        logits = np.tensordot(coefficients[index].astype(float), prototypes.astype(float), axes=1)
        values = reference(logits, geometry, box)
        clear = np.abs(values) > 0.05  # OpenCV before 5 rounds to 1/32 of a cell
        inside += int(np.isfinite(values).sum())
        checked += int((clear & np.isfinite(values)).sum())
        np.testing.assert_array_equal(mask[clear], values[clear] > 0)
    assert checked > 0.9 * inside


def test_masks_follow_their_boxes() -> None:
    random = np.random.default_rng(1)
    boxes = f32([[10, 10, 60, 60], [70, 20, 120, 90], [20, 70, 50, 120]])
    found = detect(outputs_for(random, boxes, finished=True)[0], task="instance_segmentation")
    assert found.masks is not None
    dense = found.masks.dense()
    chosen = found[[2, 0]]
    assert chosen.masks is not None
    np.testing.assert_array_equal(chosen.masks.dense(), dense[[2, 0]])
    assert len(found.to_dict()["masks"]) == 3
    back = Masks.from_coco(found.to_dict()["masks"], (HEIGHT, WIDTH))
    np.testing.assert_array_equal(back.dense(), dense)
    assert found.masks.areas_px().tolist() == dense.sum(axis=(1, 2)).tolist()


def test_agreement() -> None:
    random = np.random.default_rng(1)
    outputs, _, _ = outputs_for(random, f32([[10, 10, 60, 60], [70, 20, 120, 90]]), finished=True)
    task = make(outputs, task="instance_segmentation")
    first = detect(outputs, task="instance_segmentation")
    assert task.agreement(first, first) == {"box_agreement": 1, "mask_agreement": 1}
    inverted = detect({**outputs, "output1": -outputs["output1"]}, task="instance_segmentation")
    assert task.agreement(first, inverted)["mask_agreement"] < 0.01
    assert task.agreement(first, first[:0]) == {"box_agreement": 0, "mask_agreement": 0}


def test_prototypes_that_are_no_numbers() -> None:
    outputs, _, _ = outputs_for(np.random.default_rng(1), f32([[10, 10, 60, 60]]), finished=True)
    outputs["output1"][0, 2] = np.nan
    with pytest.raises(InferenceError, match="output1 is infinite or NaN"):
        detect(outputs, task="instance_segmentation")


@pytest.mark.parametrize(
    ("outputs", "options", "message"),
    [
        ({"a": np.zeros((1, 300, 12))}, {}, "which output holds prototypes_output"),
        (
            {"a": np.zeros((1, 300, 11)), "b": np.zeros((1, 6, 32, 40))},
            {"format": "end_to_end"},
            r"expected \(N, K, 12\): box, score, class and 6 more",
        ),
        (
            {"a": np.zeros((1, 300, 4)), "b": np.zeros((1, 6, 32, 40)), "c": np.zeros((1, 300, 2))},
            {"format": "detr"},
            "format detr has nothing behind its boxes",
        ),
    ],
)
def test_what_does_not_fit_is_refused(outputs: dict[str, Any], options: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make(outputs, task="instance_segmentation", **options)


def test_masks_are_drawn() -> None:
    outputs, _, _ = outputs_for(np.random.default_rng(1), f32([[40, 40, 90, 90]]), finished=True)
    frame = np.full((*SIZE_HW, 3), 100, np.uint8)
    found = detect(outputs, task="instance_segmentation")
    make(outputs, task="instance_segmentation").draw(frame, found)
    assert found.masks is not None
    mask = found.masks.dense()[0]
    mask[:, :42] = mask[:, 88:] = mask[:42] = mask[88:] = False
    assert mask.any()
    assert (frame[mask] != 100).any(axis=1).all()
