"""What calibration takes: its ranges beside plain inferences, and its memory with many large frames.

    python -m benchmarks.calibration [--frames N]

ResNet-18 with 128 frames: running the float model alone, and observing all tensors without and with
histograms, each with preprocessing and in this process. A 640-pixel detector with 500 frames: the plain
way and the default recipe, each whole and in a process of its own, with its peak memory. Weights are
random: time and memory do not depend on them. Last line: JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2

from benchmarks.detector import detector
from benchmarks.networks import resnet18
from benchmarks.quantization_tools import RECIPES, quantize_with
from edgecnn.backends.onnxruntime import create_session
from edgecnn.bench import synthetic_frames
from edgecnn.calibration.observation import observe_activations
from edgecnn.export import export_onnx
from edgecnn.export.graph import load_graph, to_bytes
from edgecnn.preprocess import Preprocessor
from edgecnn.spec import ModelSpec, image_spec

IMAGES = 128
SIDE = 640


def main() -> None:
    """Measure both and print what they take."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=500, help="for the detector (%(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        report = {"resnet18": ranges(Path(name)), "detector": memory(Path(name), arguments.frames)}
    print(json.dumps(report))


def ranges(folder: Path) -> dict[str, float]:
    """Seconds of 128 inferences of ResNet-18, and of observing them."""
    image = image_spec("imagenet")
    export_onnx(resnet18(), ModelSpec(task="classification", image=image), folder / "resnet18.onnx")
    model, frames = load_graph(folder / "resnet18.onnx"), synthetic_frames(IMAGES, size_hw=(256, 256))
    preprocess = Preprocessor(image)
    session = create_session(to_bytes(model))
    input_name = session.get_inputs()[0].name

    def inferences() -> None:
        for frame in frames:
            preprocess(frame)
            session.run(None, {input_name: preprocess.tensor})

    took = {}
    for label, work in (
        ("inferences", inferences),
        ("ranges", lambda: observe_activations(model, image, frames, histograms=False)),
        ("ranges_with_histograms", lambda: observe_activations(model, image, frames)),
    ):
        started = time.perf_counter()
        work()
        took[label] = round(time.perf_counter() - started, 2)
    print(f"ResNet-18, {IMAGES} frames: {took} s; the goal is {1.2 * took['inferences'] + 5:.1f}", flush=True)
    return took


def memory(folder: Path, count: int) -> dict[str, Any]:
    """Seconds, CPU seconds and peak memory of two recipes on a detector."""
    head = {"format": "yolo", "objectness": False, "min_score": 0.05}
    spec = ModelSpec(task="detection", image=image_spec("yolo", size_hw=(SIDE, SIDE)), head=head)
    export_onnx(detector(side=SIDE), spec, folder / "detector.onnx")
    (folder / "frames").mkdir()
    for number in range(count):
        (frame,) = synthetic_frames(1, size_hw=(SIDE, SIDE), seed=number)
        cv2.imwrite(str(folder / "frames" / f"{number:04}.jpg"), frame)
    took = {}
    for label in ("ours, plain", "ours"):
        files = [folder / "detector.onnx", folder / "frames", folder / "calibrated.onnx"]
        took[label] = quantize_with(RECIPES[label], "", files)
        print(f"{SIDE}-pixel detector, {count} frames, {label}: {took[label]}", flush=True)
    return took


if __name__ == "__main__":
    main()
