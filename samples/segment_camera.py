"""Segment: how much of the picture each class takes, and a video in which everything else is blurred.

Works with semantic segmentation (a class for each pixel) and instance segmentation (a mask for each thing).

python samples/segment_camera.py segmenter.onnx 0 --save portrait.mp4
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext, suppress
from typing import Any

import cv2
import numpy as np

import edgecnn
from edgecnn.camera import open_sink
from edgecnn.results import UNSEEN


def areas(result: edgecnn.Result) -> tuple[dict[str, float], Any]:
    """Class → its part of the frame; and (H, W) bool: where there is anything but background, class 0."""
    if isinstance(result, edgecnn.Segmentation):
        found = result.to_dict()
        shares = dict(zip(found["labels"], found["shares"], strict=True))
        return shares, (result.class_map > 0) & (result.class_map != UNSEEN[result.class_map.dtype])
    assert isinstance(result, edgecnn.Detections)
    assert result.masks is not None
    masks = result.masks.dense()  # (N, H, W) bool, made when it is asked for
    by_class: dict[str, float] = {}
    for name, mask in zip(result.class_names, masks, strict=True):
        by_class[name] = by_class.get(name, 0.0) + float(mask.mean())
    return by_class, masks.any(axis=0)


def in_focus(frame: Any, mask: Any) -> Any:
    """The frame, sharp and in colour where the mask is, blurred and grey elsewhere."""
    blurred = cv2.GaussianBlur(frame, (0, 0), max(frame.shape) / 60)
    grey = cv2.cvtColor(cv2.cvtColor(blurred, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.5)[..., None]
    return np.rint(frame * soft + grey * (1 - soft)).astype(np.uint8)


def main() -> None:
    """Segment until the video ends, or until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="a segmenter that edgecnn built")
    parser.add_argument("source", help="camera number, stream, video or image")
    parser.add_argument("--save", help="a video, http://:8080 or another sink for the picture")
    parser.add_argument("--every", type=int, default=30, help="tell the classes every so many frames")
    arguments = parser.parse_args()

    with (
        edgecnn.load(arguments.model) as model,
        edgecnn.open_camera(arguments.source) as source,
        edgecnn.Pipeline(source, model) as pipeline,
        open_sink(arguments.save, fps=source.fps, live=source.live)
        if arguments.save
        else nullcontext() as sink,
    ):
        for output in pipeline:
            shares, mask = areas(output.result)
            if output.frame.index % arguments.every == 0:
                most = sorted(shares.items(), key=lambda entry: -entry[1])
                told = ", ".join(f"{name} {share:.1%}" for name, share in most[:4])
                print(f"frame {output.frame.index}: {told or 'nothing'}")
            if sink is not None:
                sink.write(output.shown_as(in_focus(output.picture, mask)))
        print(f"{pipeline.stats.frames} frames, {pipeline.stats.fps or 0:.0f} per second")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
