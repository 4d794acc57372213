"""Each format of boxes against a plain reading of its definition."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edgecnn.errors import InferenceError, SpecError
from edgecnn.spec import Resize
from tests.tasks.boxes import (
    SIZE_HW,
    check,
    corners_of,
    detect,
    expected,
    f32,
    geometry_of,
    make,
    random_boxes,
)

HEIGHT, WIDTH = SIZE_HW
PLACES = 16 * 20 + 8 * 10 + 4 * 5  # strides 8, 16, 32
LABELS = ("a", "b", "c")


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def softmax(x: Any) -> Any:
    e = np.exp(np.asarray(x, np.float64) - np.max(x, axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def rows(random: np.random.Generator, count: int, classes: int, *, objectness: bool = False) -> Any:
    """(count, 4 [+ 1] + classes) float32 in YOLO's order."""
    scores = random.uniform(0, 1, (count, classes + objectness)) ** 2
    return np.concatenate([random_boxes(random, count), scores], axis=1).astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("objectness", [False, True])
@pytest.mark.parametrize("rows_first", [False, True])
@pytest.mark.parametrize("agnostic", [False, True])
def test_yolo(seed: int, objectness: bool, rows_first: bool, agnostic: bool) -> None:
    random = np.random.default_rng(seed)
    table = rows(random, PLACES, 3, objectness=objectness)
    output = table[None] if rows_first else table.T[None]
    geometry = geometry_of((90, 200), "letterbox")
    found = detect(
        {"out": np.ascontiguousarray(output)},
        geometry=geometry,
        labels=LABELS,
        min_score=0.4,
        nms_iou=0.5,
        class_agnostic=agnostic,
        max_detections=10_000,
    )
    candidates = []
    for row in table:
        classes = row[5:] * row[4] if objectness else row[4:]
        if classes.max() > 0.4:
            candidates.append((corners_of(row[None, :4])[0], classes.max(), classes.argmax()))
    check(found, *expected(*zip(*candidates, strict=True), limit=0.5, geometry=geometry, agnostic=agnostic))
    assert found.class_names == [LABELS[index] for index in found.class_ids]


@pytest.mark.parametrize("resize", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize("frame_hw", [(128, 160), (90, 200), (1080, 1920), (333, 77)])
def test_boxes_come_back_to_their_place_in_the_frame(resize: Resize, frame_hw: tuple[int, int]) -> None:
    """What is drawn at a known place of a frame, and lies at that place of the input, is found there."""
    geometry = geometry_of(frame_hw, resize)
    height, width = frame_hw
    random = np.random.default_rng(0)
    first = random.uniform(0.3, 0.5, (50, 2)) * [width, height]
    placed = np.concatenate([first, first + random.uniform(0.05, 0.15, (50, 2)) * [width, height]], axis=1)
    inside = geometry.to_input(placed.reshape(-1, 2, 2)).reshape(-1, 4)
    output = np.concatenate([inside, np.linspace(0.9, 0.5, 50)[:, None], np.zeros((50, 1))], axis=1)[None]
    found = detect({"out": output}, geometry=geometry, resize=resize, format="end_to_end")
    np.testing.assert_allclose(found.boxes_xyxy, placed, atol=1e-6 * max(frame_hw))  # float32's rounding


def test_end_to_end_rows_are_taken_as_they_are() -> None:
    random = np.random.default_rng(0)
    boxes = corners_of(random_boxes(random, 300))
    scores = np.sort(random.uniform(0, 1, 300))[::-1]
    classes = random.integers(0, 3, 300)
    output = np.concatenate([boxes, scores[:, None], classes[:, None]], axis=1)[None].astype(np.float32)
    found = detect({"out": output}, labels=LABELS)  # the only format with a few hundred rows of six
    sure = scores > 0.25
    check(found, *expected(boxes[sure], scores[sure], classes[sure], limit=None))


@pytest.mark.parametrize("softmax_last", [False, True])
def test_detr(softmax_last: bool) -> None:
    random = np.random.default_rng(1)
    boxes, logits = random_boxes(random, 100) / [WIDTH, HEIGHT, WIDTH, HEIGHT], random.normal(0, 2, (100, 4))
    options: dict[str, Any] = {"activation": "softmax", "background": "last"} if softmax_last else {}
    found = detect(
        {"pred_logits": f32(logits)[None], "pred_boxes": f32(boxes)[None]}, format="detr", min_score=0.5,
        **options,
    )  # fmt: skip
    scores = softmax(logits)[:, :-1] if softmax_last else sigmoid(logits)
    best = scores.max(axis=1)
    sure = best > 0.5
    pixels = corners_of(boxes * [WIDTH, HEIGHT, WIDTH, HEIGHT])
    check(found, *expected(pixels[sure], best[sure], scores.argmax(axis=1)[sure], limit=None))


def test_boxes_and_scores() -> None:
    random = np.random.default_rng(2)
    boxes, scores = corners_of(random_boxes(random, 2000)), random.uniform(0, 1, (2000, 3)).astype(np.float32)
    outputs = {"boxes": f32(boxes)[None], "scores": scores[None]}
    found = detect(outputs, labels=LABELS, min_score=0.9, format="boxes_scores", max_detections=2000)
    best, ids = scores.max(axis=1), scores.argmax(axis=1)
    check(found, *expected(boxes[best > 0.9], best[best > 0.9], ids[best > 0.9], limit=0.45))


@pytest.mark.parametrize("batched", [False, True])
def test_boxes_scores_and_labels_as_torchvision_gives_them(batched: bool) -> None:
    random = np.random.default_rng(3)
    boxes = corners_of(random_boxes(random, 60)).astype(np.float32)
    scores, labels = random.uniform(0, 1, 60).astype(np.float32), random.integers(1, 4, 60)
    outputs = {"output_0_boxes": boxes, "output_0_labels": labels, "output_0_scores": scores}
    if batched:
        outputs = {name: array[None] for name, array in outputs.items()}
    found = detect(outputs, labels=("__background__", *LABELS), nms_iou=None)
    sure = scores > 0.25
    check(found, *expected(boxes[sure], scores[sure], labels[sure], limit=None))


def test_only_as_many_boxes_count_as_the_network_says() -> None:
    outputs = {
        "boxes": np.tile(f32([10, 10, 30, 30]), (1, 5, 1)),
        "scores": np.full((1, 5), 0.9, np.float32),
        "classes": np.arange(5)[None],
        "number": np.array([[2]]),
    }
    names: dict[str, Any] = {"boxes_output": "boxes", "scores_output": "scores", "labels_output": "classes"}
    found = detect(outputs, format="boxes_scores", count_output="number", **names)
    assert found.class_ids.tolist() == [0, 1]


LEVELS = [
    {"grid_hw": [4, 5], "step_xy": [32, 32], "sizes_wh": [[20, 30], [40, 40]]},
    {"grid_hw": [2, 3], "step_xy": [160 / 3, 64], "sizes_wh": [[60, 90]], "offset": 0},
]


def anchors() -> Any:
    found = []
    for y in range(4):
        for x in range(5):
            found += [((x + 0.5) * 32, (y + 0.5) * 32, w, h) for w, h in ((20, 30), (40, 40))]
    for y in range(2):
        found += [(x * 160 / 3, y * 64, 60, 90) for x in range(3)]
    return np.array(found)


@pytest.mark.parametrize(("activation", "background"), [("softmax", "first"), ("sigmoid", None)])
@pytest.mark.parametrize("explicit", [False, True])
def test_anchors(activation: str, background: str | None, explicit: bool) -> None:
    random = np.random.default_rng(4)
    places = anchors()
    offsets, logits = random.normal(0, 1.5, (len(places), 4)), random.normal(0, 2, (len(places), 4))
    offsets[0, 2] = 500  # would be a box of 1e217 pixels
    where: dict[str, Any] = {"anchors_cxcywh": places.tolist()} if explicit else {"levels": LEVELS}
    found = detect(
        {"scores": f32(logits)[None], "boxes": f32(offsets)[None]},
        format="anchors", boxes_output="boxes", scores_output="scores", weights=[10, 10, 5, 5],
        activation=activation, background=background, min_score=0.3, **where,
    )  # fmt: skip
    candidates = []
    scores = softmax(logits) if activation == "softmax" else sigmoid(logits)
    for (xa, ya, wa, ha), (dx, dy, dw, dh), row in zip(places, offsets, scores, strict=True):
        x, y = xa + dx / 10 * wa, ya + dy / 10 * ha
        w, h = wa * np.exp(min(dw / 5, np.log(62.5))), ha * np.exp(min(dh / 5, np.log(62.5)))
        box = np.clip(corners_of([[x, y, w, h]])[0], 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
        first = 1 if background else 0
        candidates += [(box, row[c], c) for c in range(first, 4) if row[c] > 0.3]
    check(found, *expected(*zip(*candidates, strict=True), limit=0.45))


def test_fcos() -> None:
    random = np.random.default_rng(5)
    levels = [{"grid_hw": [16, 20], "step_xy": [8, 8], "sizes_wh": [[8, 8]], "offset": 0}]
    away, logits = random.uniform(0, 4, (320, 4)), random.normal(0, 2, (320, 3))
    centerness = random.normal(1, 1, (320, 1))
    outputs = {
        name: f32(array)[None]
        for name, array in {"cls_logits": logits, "bbox_regression": away, "bbox_ctrness": centerness}.items()
    }
    found = detect(outputs, format="fcos", levels=levels, min_score=0.8, labels=LABELS)
    candidates = []
    scores = np.sqrt(sigmoid(logits) * sigmoid(centerness))
    for index, (left, up, right, down) in enumerate(away * 8):
        x, y = index % 20 * 8, index // 20 * 8
        box = np.clip([x - left, y - up, x + right, y + down], 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
        candidates += [(box, scores[index, c], c) for c in range(3) if scores[index, c] > 0.8]
    check(found, *expected(*zip(*candidates, strict=True), limit=0.45))


def test_centernet() -> None:
    random = np.random.default_rng(6)
    heat, size = random.normal(-2, 2, (3, 32, 40)), random.uniform(1, 9, (2, 32, 40))
    offset = random.uniform(0, 1, (2, 32, 40))
    outputs = {name: f32(a)[None] for name, a in {"hm": heat, "wh": size, "reg": offset}.items()}
    found = detect(outputs, activation="sigmoid", min_score=0.7, labels=LABELS)
    candidates = []
    for c in range(3):
        for y in range(32):
            for x in range(40):
                around = heat[c, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
                if heat[c, y, x] == around.max() and sigmoid(heat[c, y, x]) > 0.7:
                    cx, cy = x + offset[0, y, x], y + offset[1, y, x]
                    box = corners_of([[cx * 4, cy * 4, size[0, y, x] * 4, size[1, y, x] * 4]])[0]
                    candidates.append((box, sigmoid(heat[c, y, x]), c))
    check(found, *expected(*zip(*candidates, strict=True), limit=None))


def test_oriented_boxes() -> None:
    """A box of 40 × 20 turned by 30°, its twin by 35°, one by 120°, and one of another class."""
    angle = np.radians([30, 35, 120, 30])
    table = np.zeros((PLACES, 4 + 2 + 1), np.float32)
    table[:4, :4] = [80, 64, 40, 20]
    table[:4, 4:6] = [[0.9, 0], [0.8, 0], [0.7, 0], [0, 0.6]]
    table[:4, 6] = angle
    geometry = geometry_of((256, 320), "letterbox")  # twice the size of the input
    for rotated in (table[None], np.ascontiguousarray(table.T[None])):
        found = detect({"out": rotated}, geometry=geometry, format="yolo", objectness=False, angle=True)
        assert found.class_ids.tolist() == [0, 0, 1]
        np.testing.assert_allclose(found.scores, [0.9, 0.7, 0.6])
        assert found.corners_xy is not None
        c, s = np.cos(angle[0]), np.sin(angle[0])
        around = [(-20, -10), (20, -10), (20, 10), (-20, 10)]
        corners = np.array([(80 + x * c - y * s, 64 + x * s + y * c) for x, y in around]) * 2
        np.testing.assert_allclose(found.corners_xy[0], corners, atol=1e-3)
        np.testing.assert_allclose(
            found.boxes_xyxy[0], [*corners.min(axis=0), *corners.max(axis=0)], atol=1e-3
        )
    agnostic = detect(
        {"out": table[None]},
        format="yolo",
        objectness=False,
        angle=True,
        class_agnostic=True,
        geometry=geometry,
    )
    assert agnostic.scores.tolist() == pytest.approx([0.9, 0.7])


def test_thresholds_by_class_and_small_boxes() -> None:
    output = f32([[[10, 10, 40, 40, 0.6, 0], [60, 10, 90, 40, 0.6, 1], [99, 99, 102, 120, 0.9, 2]]])
    one = {"a": 0.7, "1": 0.5}
    assert detect({"out": output}, labels=LABELS, class_min_scores=one).class_ids.tolist() == [2, 1]
    assert detect({"out": output}, labels=LABELS, min_side_px=4).class_ids.tolist() == [0, 1]
    assert detect({"out": output}, labels=LABELS, max_detections=1).class_ids.tolist() == [2]
    assert detect({"out": output}, labels=LABELS, min_score=0.6).class_ids.tolist() == [2]  # above, not at
    low = detect({"out": output}, labels=LABELS, min_score=0.95, class_min_scores={"b": 0.1})
    assert low.class_ids.tolist() == [1]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_types_of_numbers(dtype: Any) -> None:
    table = np.zeros((1, PLACES, 7), dtype)
    table[0, 3] = [50, 50, 20, 30, 0, 0.75, 0.25]
    found = detect({"out": table}, labels=LABELS)
    assert found.to_dict()["boxes_xyxy"] == [[40, 35, 60, 65]]
    assert found.scores.tolist() == [0.75]
    assert found.scores.dtype == np.float32


def test_nothing_found_is_a_result() -> None:
    found = detect({"out": np.zeros((1, 7, PLACES), np.float32)}, labels=LABELS)
    assert len(found) == 0
    assert found.to_dict() == {"boxes_xyxy": [], "scores": [], "class_ids": [], "labels": []}
    assert len(detect({"out": np.zeros((1, 0, 6), np.float32)}, format="end_to_end")) == 0


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("place", [(0, 2, 5), (0, 5, 5)])  # a coordinate, a class
def test_what_is_no_number_is_no_result(wrong: float, place: tuple[int, int, int]) -> None:
    output = np.full((1, 7, PLACES), 0.5, np.float32)
    output[place] = wrong
    with pytest.raises(InferenceError, match=r"infinite or NaN.*--precision fp32"):
        detect({"out": output}, labels=LABELS)
    finished = np.full((1, 3, 6), 0.5, np.float32)
    finished[0, 0, 2 if place[1] == 2 else 4] = wrong
    with pytest.raises(InferenceError, match="infinite or NaN"):
        detect({"out": finished})


def test_nan_in_objectness_is_not_lost() -> None:
    output = np.full((1, 3 * PLACES, 8), 0.9, np.float32)
    output[0, 7, 4] = np.nan
    with pytest.raises(InferenceError, match="infinite or NaN"):
        detect({"out": output}, labels=LABELS)


def test_huge_boxes_and_boxes_outside_do_not_disturb_the_others() -> None:
    """Sums with 1e30 would swallow every other coordinate, and with it what NMS compares."""
    table = np.zeros((PLACES, 7), np.float32)
    table[:6, 4] = [0.9, 0.8, 0.7, 0.65, 0.6, 0.55]
    table[:6, :4] = [
        (20, 20, 20, 20), (21, 20, 20, 20), (100, 100, 20, 20),
        (0, 0, 1e30, 1e30), (-1e20, 5, 9, 9), (70, 20, 0, 9),
    ]  # fmt: skip
    found = detect({"out": table[None]}, labels=LABELS)
    expected_boxes = [[10, 10, 30, 30], [90, 90, 110, 110], [0, 0, WIDTH, HEIGHT]]
    np.testing.assert_allclose(found.boxes_xyxy, expected_boxes, atol=1e-3)


def test_classes_with_negative_coordinates_do_not_meet() -> None:
    """OpenCV keeps classes apart by moving them by the largest coordinate."""
    boxes = [(-150, -150, -50, -50), (20, 20, 110, 110), (21, 20, 110, 110)]
    output = f32(
        [[(*box, score, c) for box, score, c in zip(boxes, (0.9, 0.8, 0.7), (1, 0, 1), strict=True)]]
    )
    found = detect({"out": output}, format="end_to_end", nms_iou=0.3)
    assert found.class_ids.tolist() == [0, 1]


def test_ten_thousand_boxes() -> None:
    random = np.random.default_rng(7)
    boxes = corners_of(random_boxes(random, 12_000))
    outputs = {"boxes": f32(boxes)[None], "scores": f32(random.uniform(0.5, 1, (1, 12_000, 3)))}
    found = detect(outputs, format="boxes_scores", max_detections=100)
    assert len(found) == 100
    assert (np.diff(found.scores) <= 0).all()


def test_frames_of_a_batch_are_apart_and_rows_behind_them_are_left_out() -> None:
    output = np.zeros((3, 1, 6), np.float32)
    output[0] = [10, 10, 20, 20, 0.9, 1]
    output[1] = [30, 30, 50, 50, 0.8, 2]
    output[2] = np.nan
    geometries = [geometry_of((128, 160), "letterbox"), geometry_of((256, 320), "letterbox")]
    one, two = make({"out": output}).decode({"out": output}, geometries)
    assert one.to_dict()["boxes_xyxy"] == [[10, 10, 20, 20]]
    assert two.to_dict()["boxes_xyxy"] == [[60, 60, 100, 100]]
    assert json.loads(json.dumps(two.to_dict()))["labels"] == ["2"]


def out(*shape: int) -> dict[str, Any]:
    return {"out": np.zeros((1, *shape), np.float32)}


@pytest.mark.parametrize(
    ("outputs", "options", "message"),
    [
        (out(PLACES, 7), {}, r"does output out say whether there is an object.*objectness=true \(YOLOv5"),
        (out(7, PLACES), {"labels": "abcde"}, "does output out say"),
        (out(7, PLACES), {"objectness": False, "format": "yolo", "labels": "ab"}, "got 2 labels, expected 3"),
        (out(84, 8400), {}, r"none of the formats of boxes.*got out \(1, 84, 8400\).*--head format=NAME"),
        (out(3, 7, 7), {}, "none of the formats"),
        (
            {"a": np.zeros((1, 100, 4)), "b": np.zeros((1, 100, 9))},
            {},
            r"leave open how boxes.*expected boxes_scores or detr. Say which: --head format=",
        ),
        (out(300, 6), {"format": "ssd"}, "unknown format of boxes: got ssd, expected anchors, "),
        (out(300, 6), {"treshold": 1}, r"unknown option of the detection head \(end_to_end\): got treshold"),
        (out(300, 6), {"min_score": 2}, "min_score is wrong.*expected 0 to 1"),
        (out(300, 6), {"nms_iou": "x"}, "head .end_to_end. is wrong"),
        (out(300, 6), {"max_detections": 0}, "max_detections is wrong"),
        (out(300, 6), {"labels": "ab", "class_min_scores": {"c": 0.5}}, "class_min_scores is wrong: got c"),
        (out(300, 7), {"format": "end_to_end"}, r"expected \(N, K, 6\)"),
        (out(300, 6), {"output": "x"}, "no such output for output: got x, expected out"),
        (out(4, PLACES), {"format": "yolo", "objectness": False}, "too few numbers a row"),
        (
            {"boxes": np.zeros((1, 9, 4)), "scores": np.zeros((1, 9, 2))},
            {"format": "anchors", "levels": LEVELS},
            "anchors do not fit the network: got 46 anchors, expected 9, one a box. Give the levels",
        ),
        (
            {"boxes": np.zeros((1, 9, 4)), "scores": np.zeros((1, 8, 2))},
            {"format": "boxes_scores"},
            "different numbers of boxes",
        ),
        ({"hm": np.zeros((1, 3, 8, 8))}, {"format": "centernet"}, "which outputs hold the heat"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_when_the_model_is_loaded(
    outputs: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        make(outputs, **options)


def test_agreement_counts_boxes_that_have_their_like() -> None:
    task = make(out(300, 6))
    first = detect({"out": f32([[[10, 10, 30, 30, 0.9, 1], [50, 50, 80, 80, 0.8, 0]]])})
    moved = detect({"out": f32([[[12, 10, 32, 30, 0.7, 1], [50, 50, 80, 80, 0.8, 2]]])})
    assert task.agreement(first, first) == {"box_agreement": 1.0}
    assert task.agreement(first, moved) == {"box_agreement": 0.5}  # one is of another class
    assert task.agreement(first, first[:1]) == {"box_agreement": pytest.approx(2 / 3)}
    assert task.agreement(first[:0], first[:0]) == {"box_agreement": 1.0}
    assert task.agreement(first[:0], first) == {"box_agreement": 0.0}


def test_a_detection_is_drawn_where_it_is() -> None:
    frame = np.full((*SIZE_HW, 3), 100, np.uint8)
    task = make(out(300, 6))
    task.draw(frame, detect({"out": f32([[[60, 60, 100, 100, 0.9, 1]]])}))
    changed = (frame != 100).any(axis=2)
    assert changed[60, 60:100].all()
    assert changed[60:100, 99].all()
    assert not changed[65:95, 65:95].any()
