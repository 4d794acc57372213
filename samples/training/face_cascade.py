"""Faces with five landmarks, by three networks (MTCNN): each looks closer at what the one before has found.

Proposals come from the whole frame; a second network looks at each in 24 pixels, a third in 48. Both correct
the box, and the third says where eyes, nose and mouth are.

python samples/training/face_cascade.py proposals.onnx refine.onnx landmarks.onnx 0 --save faces.mp4
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import edgecnn
from edgecnn.camera import open_sink
from edgecnn.detections import Detections

MIN_SCORES = (0.7, 0.7)  # of the second and the third network


def squares(boxes_xyxy: NDArray[Any]) -> NDArray[np.float64]:
    """(n, 4) boxes → squares around the same middles, as wide as the longer side."""
    boxes = boxes_xyxy.astype(np.float64)
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.concatenate([middles - half, middles + half], axis=1)


def crops_of(
    frame_bgr: NDArray[np.uint8], boxes: NDArray[Any]
) -> tuple[NDArray[Any], list[NDArray[np.uint8]]]:
    """The boxes that lie on the frame, and what they show. MTCNN counts from one, the last included."""
    height, width = frame_bgr.shape[:2]
    whole = np.trunc(boxes).astype(int)
    first, last = whole[:, :2].clip(1) - 1, whole[:, 2:].clip(None, (width, height))
    there = (last > first).all(axis=1)
    places = np.concatenate([first, last], axis=1)[there].tolist()
    return boxes[there], [frame_bgr[y1:y2, x1:x2] for x1, y1, x2, y2 in places]


def look_closer(model: Any, frame: Any, boxes: NDArray[Any], min_score: float) -> tuple[Any, dict[str, Any]]:
    """The squares around boxes in which the network sees a face, and its outputs for each."""
    around, crops = crops_of(frame, squares(boxes))
    rows = [result.tensors for result in model.batch(crops)]
    if not rows:
        return around[:0], {}
    outputs = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    sure = outputs["score"][:, 0] > min_score
    return around[sure], {name: values[sure] for name, values in outputs.items()}


def corrected(boxes: NDArray[np.float64], offsets: NDArray[Any]) -> NDArray[np.float64]:
    """Boxes with their edges moved by parts of their size."""
    moved: NDArray[np.float64] = boxes + offsets * np.tile(boxes[:, 2:] - boxes[:, :2] + 1, 2)
    return moved


def distinct(boxes: NDArray[np.float64], scores: NDArray[Any], *, nested: bool) -> list[int]:
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


def refined(proposals: Detections, frame: NDArray[np.uint8], refine: Any, landmarks: Any) -> Detections:
    """Proposals of the first network → faces, each with eyes, nose and corners of the mouth."""
    around, seen = look_closer(refine, frame, proposals.boxes_xyxy, MIN_SCORES[0])
    if not len(around):
        return proposals[:0]
    kept = distinct(around, seen["score"][:, 0], nested=False)
    around, seen = look_closer(landmarks, frame, corrected(around, seen["offsets"])[kept], MIN_SCORES[1])
    if not len(around):
        return proposals[:0]
    scores = seen["score"][:, 0]
    sides = around[:, None, 2:] - around[:, None, :2] + 1
    points = seen["points"].reshape(-1, 2, 5).transpose(0, 2, 1) * sides + around[:, None, :2] - 1
    points_xys = np.concatenate([points, scores[:, None, None].repeat(5, 1)], axis=2).astype(np.float32)
    boxes = corrected(around, seen["offsets"])
    kept = distinct(boxes, scores, nested=True)
    return replace(
        proposals[:0],
        boxes_xyxy=boxes.clip(0, frame.shape[1::-1] * 2).astype(np.float32)[kept],
        scores=scores[kept],
        class_ids=np.zeros(len(kept), np.int64),
        keypoints_xys=points_xys[kept],
    )


def find_faces(frame: NDArray[np.uint8], proposals: Any, refine: Any, landmarks: Any) -> Detections:
    """All three networks on one frame (H, W, 3) BGR."""
    return refined(proposals(frame), frame, refine, landmarks)


def main() -> None:
    """Say what faces each frame shows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name in ("proposals", "refine", "landmarks"):
        parser.add_argument(name, help="one of the three networks, built by edgecnn")
    parser.add_argument("source", help="camera number, video, picture or folder of pictures")
    parser.add_argument("--save", help="a video, http://:8080 or another sink for the picture")
    arguments = parser.parse_args()
    with (
        edgecnn.load(arguments.proposals) as first,
        edgecnn.load(arguments.refine) as second,
        edgecnn.load(arguments.landmarks) as third,
        edgecnn.Pipeline(arguments.source, first) as pipeline,
        open_sink(arguments.save) if arguments.save else nullcontext() as sink,
    ):
        for output in pipeline:
            assert isinstance(output.result, Detections)
            faces = refined(output.result, output.frame.image, second, third)
            print(f"frame {output.frame.index}: {len(faces)} faces {faces.boxes_xyxy.round().tolist()}")
            if sink is not None:
                picture = output.frame.image.copy()
                first.task.draw(picture, faces)
                points = np.zeros((0, 5, 3)) if faces.keypoints_xys is None else faces.keypoints_xys
                for x, y in points[..., :2].reshape(-1, 2).round().astype(int).tolist():
                    cv2.circle(picture, (x, y), 2, (0, 255, 0), -1, cv2.LINE_AA)
                sink.write(output.shown_as(picture))


if __name__ == "__main__":
    main()
