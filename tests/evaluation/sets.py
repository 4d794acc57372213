"""Labelled data sets that the tests write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_tools

from edgecnn.spec import ModelSpec, image_spec

CLASSES = ("cat", "dog", "fish")
FRAME_HW = (120, 160)


def spec_of(task: str, **more: Any) -> ModelSpec:
    head = {"points": 5} if task == "keypoints" else {}
    options: dict[str, Any] = {"labels": CLASSES, "head": head, **more}
    return ModelSpec(task=task, image=image_spec("unit", size_hw=(32, 32)), **options)


def write_image(path: Path, *, hw: tuple[int, int] = FRAME_HW, value: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*hw, 3), value, np.uint8))


def coco_set(folder: Path, *, images: int) -> Path:
    """Rectangles, triangles and one crowd as run lengths; category ids 7, 17, 27; one category unused."""
    random = np.random.default_rng(3)
    annotations: list[dict[str, Any]] = []
    height, width = FRAME_HW
    for image_id in range(1, images + 1):
        write_image(folder / f"image {image_id}.png")
        for _ in range(0 if image_id == 4 else int(random.integers(1, 6))):
            x, y = (float(v) for v in random.uniform(0, 80, 2))
            w, h = float(random.uniform(10, 70)), float(random.uniform(10, 40))
            points = np.concatenate(
                [random.uniform((x, y), (x + w, y + h), (5, 2)), random.integers(0, 3, (5, 1))], axis=1
            )
            polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            if random.random() < 0.3:
                polygon = [[x, y, x + w, y, x + w, y + h], [x, y + h / 2, x + w / 3, y + h, x, y + h]]
            annotations.append(
                {
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": polygon,
                    "category_id": 7 + 10 * int(random.integers(0, 3)),
                    "image_id": image_id,
                    "keypoints": points.ravel().tolist(),
                    "num_keypoints": int((points[:, 2] > 0).sum()),
                }
            )
    dense = np.zeros(FRAME_HW, np.uint8)
    dense[20:70, 30:120] = 1
    runs = mask_tools.encode(np.asfortranarray(dense))
    annotations.append(
        {
            "bbox": [30, 20, 90, 50],
            "area": 4500,
            "iscrowd": 1,
            "category_id": 7,
            "image_id": 2,
            "segmentation": {"size": list(FRAME_HW), "counts": runs["counts"].decode()},
            "keypoints": [0] * 15,
            "num_keypoints": 0,
        }
    )
    content = {
        "info": {"description": "made by a test"},
        "images": [
            {"id": index, "file_name": f"image {index}.png", "width": width, "height": height,
             "coco_url": "http://nowhere.invalid/image.png"}
            for index in range(1, images + 1)
        ],
        "annotations": [{"id": index, **entry} for index, entry in enumerate(annotations, start=1)],
        "categories": [
            {"id": 7, "name": "cat"}, {"id": 17, "name": "Dog"}, {"id": 27, "name": "fish"},
            {"id": 90, "name": "nobody uses this"},
        ],
    }  # fmt: skip
    file = folder / "annotations.json"
    file.write_text(json.dumps(content))
    return file
