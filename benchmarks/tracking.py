"""What tracking costs, and what the time between frames brings: ids that change, with frames dropped.

    python benchmarks/tracking.py

Boxes move at steady speeds and turn at the borders; where they cross, ids may be exchanged. A third of the
frames is dropped at random, and three times ten in a row. `time` is as a pipeline does it; `frames` numbers
the frames that are left, as trackers do that are not told; `overlap` is the library's plain IoU instead of
the buffered one. The last line is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from time import perf_counter
from typing import Any

import numpy as np

from edgecnn.detections import Detections
from edgecnn.tracking import ByteTrack

HW = (480, 640)
FPS, SECONDS = 30, 10
SIDE = 36
SEEDS = range(4)


def moving_boxes(count: int, fastest: float, seed: int) -> Iterator[tuple[int, Any]]:
    """Number of a frame that was kept, and (count, 4) boxes, each a pixel or so off."""
    random = np.random.default_rng(seed)
    low, high = np.full(2, SIDE / 2), np.array(HW[::-1]) - SIDE / 2
    centres, speeds = random.uniform(low, high, (count, 2)), random.uniform(-fastest, fastest, (count, 2))
    kept = random.random(FPS * SECONDS) > 1 / 3
    for start in (60, 150, 220):
        kept[start : start + 10] = False
    for number in range(FPS * SECONDS):
        centres += speeds / FPS
        speeds[(centres < low) | (centres > high)] *= -1
        centres = centres.clip(low, high)
        if kept[number]:
            boxes = np.concatenate([centres - SIDE / 2, centres + SIDE / 2], axis=1)
            yield number, boxes + random.normal(0, 1, boxes.shape)


def run(way: str, count: int, fastest: float, seed: int) -> tuple[int, int, float]:
    """Changes of id, boxes, and seconds."""
    tracker = ByteTrack()
    if way == "overlap":
        from trackers import IoU

        tracker._tracker.iou = IoU()
    ids, changes, boxes, spent = np.full(count, -1), 0, 0, 0.0
    for step, (number, places) in enumerate(moving_boxes(count, fastest, seed)):
        found = Detections(
            boxes_xyxy=places.astype(np.float32),
            scores=np.full(count, 0.8, np.float32),
            class_ids=np.zeros(count, np.int64),
        )
        start = perf_counter()
        tracks: Any = tracker.update(found, (step if way == "frames" else number) / FPS).track_ids
        spent += perf_counter() - start
        known = tracks >= 0
        changes += int((known & (ids >= 0) & (ids != tracks)).sum())
        ids[known] = tracks[known]
        boxes += count
    return changes, boxes, spent


def main() -> None:
    """Run all, print a table and the JSON."""
    report = {}
    for count, fastest in ((5, 150), (5, 300), (20, 150), (100, 60)):
        for way in ("time", "overlap", "frames"):
            results = [run(way, count, fastest, seed) for seed in SEEDS]
            changes, boxes, seconds = (sum(column) for column in zip(*results, strict=True))
            frames = boxes / count
            name = f"{count} objects, {fastest} px/s, {way}"
            report[name] = {"changes_per_1000": 1000 * changes / boxes, "ms": 1e3 * seconds / frames}
            print(f"{name:32} {changes:5} changes of {boxes} boxes, {1e3 * seconds / frames:.2f} ms a frame")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
