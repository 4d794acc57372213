"""Faces with five landmarks, by three networks (MTCNN): each looks closer at what the one before has found.

Proposals come from the whole frame; a second network corrects each in 24 pixels, a third in 48.

python samples/face_cascade.py proposals.onnx refine.onnx landmarks.onnx 0 --save faces.mp4
"""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

import edgecnn
from edgecnn.camera import open_sink

MIN_SCORE = 0.7  # of the second and the third network
Array = np.ndarray[Any, Any]


def squares(boxes: Array) -> Array:
    """(n, 4) boxes → squares around the same middles, as wide as the longer side."""
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.concatenate([middles - half, middles + half], axis=1, dtype=np.float64)


def crops_of(frame_bgr: Array, boxes: Array) -> tuple[Array, list[Array]]:
    """The boxes that lie on the frame, and what they show. MTCNN counts from one, the last included."""
    whole = np.trunc(boxes).astype(int)
    first, last = whole[:, :2].clip(1) - 1, whole[:, 2:].clip(None, frame_bgr.shape[1::-1])
    there = (last > first).all(axis=1)
    places = np.concatenate([first, last], axis=1)[there].tolist()
    return boxes[there], [frame_bgr[y1:y2, x1:x2] for x1, y1, x2, y2 in places]


def look_closer(model: Any, frame: Array, boxes: Array) -> tuple[Array, dict[str, Array]]:
    """The squares around boxes in which the network sees a face, and its outputs for each."""
    around, crops = crops_of(frame, squares(boxes))
    rows = [result.tensors for result in model.batch(crops)]
    if not rows:
        return around, {}
    outputs = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    sure = outputs["score"][:, 0] > MIN_SCORE
    return around[sure], {name: values[sure] for name, values in outputs.items()}


def corrected(boxes: Array, offsets: Array) -> Array:
    """Boxes with their edges moved by parts of their size."""
    return np.asarray(boxes + offsets * np.tile(boxes[:, 2:] - boxes[:, :2] + 1, 2))


def distinct(boxes: Array, scores: Array, *, nested: bool) -> list[int]:
    """The surest first, without those that share 70 % with a surer one: of the union, or of the smaller."""
    kept: list[int] = []
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for index in np.argsort(-scores, kind="stable").tolist():
        inner = np.minimum(boxes[kept, 2:], boxes[index, 2:]) - np.maximum(boxes[kept, :2], boxes[index, :2])
        shared = inner.clip(0).prod(axis=1)
        whole = np.minimum(areas[kept], areas[index]) if nested else areas[kept] + areas[index] - shared
        if (shared <= 0.7 * whole).all():
            kept.append(index)
    return kept


def refined(proposals: Any, frame: Array, refine: Any, landmarks: Any) -> edgecnn.Detections:
    """Proposals of the first network → faces, each with eyes, nose and corners of the mouth."""
    nothing: edgecnn.Detections = proposals[:0]
    around, seen = look_closer(refine, frame, proposals.boxes_xyxy)
    if len(around):
        kept = distinct(around, seen["score"][:, 0], nested=False)
        around, seen = look_closer(landmarks, frame, corrected(around, seen["offsets"])[kept])
    if not len(around):
        return nothing
    scores, boxes = seen["score"][:, 0], corrected(around, seen["offsets"])
    sides = around[:, None, 2:] - around[:, None, :2] + 1
    points = seen["points"].reshape(-1, 2, 5).transpose(0, 2, 1) * sides + around[:, None, :2] - 1
    points = np.concatenate([points, scores[:, None, None].repeat(5, 1)], axis=2).astype(np.float32)
    boxes = boxes.clip(0, frame.shape[1::-1] * 2).astype(np.float32)
    classes = np.zeros(len(boxes), np.int64)
    faces = replace(nothing, boxes_xyxy=boxes, scores=scores, class_ids=classes, keypoints_xys=points)
    return faces[distinct(boxes, scores, nested=True)]


def main() -> None:
    """Say what faces each frame shows, as lines of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name in ("proposals", "refine", "landmarks"):
        parser.add_argument(name, help="one of the three networks, built by edgecnn")
    parser.add_argument("source", help="camera number, video, picture or folder of pictures")
    parser.add_argument("--save", help="a video, a picture, http://:8080 or another sink for the picture")
    arguments = parser.parse_args()
    with (
        edgecnn.load(arguments.proposals) as first,
        edgecnn.load(arguments.refine) as second,
        edgecnn.load(arguments.landmarks) as third,
        edgecnn.Pipeline(arguments.source, first) as pipeline,
        open_sink(arguments.save) if arguments.save else nullcontext() as sink,
    ):
        for output in pipeline:
            faces = refined(output.result, output.frame.image, second, third)
            print(json.dumps({"frame": output.frame.index, **faces.to_dict()}))
            if sink is not None:
                picture = output.frame.image.copy()
                first.task.draw(picture, faces)
                points = np.zeros((0, 5, 3)) if faces.keypoints_xys is None else faces.keypoints_xys
                for x, y in points[..., :2].reshape(-1, 2).round().astype(int).tolist():
                    cv2.circle(picture, (x, y), 2, (0, 255, 0), -1, cv2.LINE_AA)
                sink.write(output.shown_as(picture))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
