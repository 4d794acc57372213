"""Times what happens behind the network: decoding and NMS of a YOLO head, assembling masks, class maps.

Decoding is that of one frame of a head (1, 84, 8400), with 50, 300 and 1000 boxes above the threshold, placed
in clusters as a network places them. It is compared, in turns in one run, with `non_max_suppression` of
Ultralytics, which is under the AGPL and no dependency: give it an environment of its own, as
`benchmarks/preprocessing.py` says. Without it the same steps are done with torch as its documentation
describes them – threshold, argmax, classes moved apart, NMS – with torchvision's NMS where its compiled
operators work, else with the greedy definition in torch; the output says which.

Masks: 20 instances of 1080p from 32 prototypes (160, 160), made and enlarged. Class maps: 21 classes of
520 × 520 to 1080p, scores or ids.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from time import perf_counter
from typing import Any

import cv2
import numpy as np

from edgecnn.backends import TensorInfo
from edgecnn.geometry import Geometry
from edgecnn.preprocess import plan_resize
from edgecnn.spec import ModelSpec, image_spec
from edgecnn.tasks import create_task

PLACES = 8400
CLASSES = 80
FRAME_HW = (1080, 1920)
MIN_SCORE, NMS_IOU = 0.25, 0.45


def main() -> None:
    """Measure, print a table, and the JSON object last."""
    parser = argparse.ArgumentParser(description="Time decoding, ours and others', on one CPU thread.")
    parser.add_argument("--rounds", type=int, default=100, help="times that each variant runs")
    rounds = parser.parse_args().rounds
    cv2.setNumThreads(1)
    image = image_spec("yolo")
    geometry = plan_resize(image, FRAME_HW).geometry
    peer, label = ultralytics()
    report: dict[str, Any] = {
        "benchmark": "decoding",
        "machine": platform.processor() or platform.machine(),
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "peer": label,
        "rounds": rounds,
        "cases": {},
    }
    print(f"OpenCV {cv2.__version__}, NumPy {np.__version__}; peer: {label}\n")
    for survivors in (50, 300, 1000):
        output = yolo_head(survivors)
        variants: dict[str, Callable[[], Any]] = {"ours": decoder(output, geometry)}
        if peer is not None:
            variants["peer"] = peer(output)
        show(report, f"{survivors} survivors", measure(variants, rounds))
    show(report, "20 masks at 1080p", measure({"ours": mask_maker(geometry)}, rounds))
    show(report, "21 classes, scores", measure({"ours": segmenter(geometry, scores=True)}, rounds))
    show(report, "21 classes, ids", measure({"ours": segmenter(geometry, scores=False)}, rounds))
    print(json.dumps(report))


def yolo_head(survivors: int, seed: int = 0) -> Any:
    """(1, 84, 8400) float32; clusters of about ten boxes an object."""
    random = np.random.default_rng(seed)
    output = np.empty((1, 4 + CLASSES, PLACES), np.float32)
    output[0, :2] = random.uniform(0, 640, (2, PLACES))
    output[0, 2:4] = random.uniform(10, 200, (2, PLACES))
    output[0, 4:] = random.uniform(0, 0.05, (CLASSES, PLACES))
    chosen = random.choice(PLACES, survivors, replace=False)
    objects = random.integers(0, max(1, survivors // 10), survivors)
    centres, sizes = random.uniform(50, 590, (survivors, 2)), random.uniform(30, 150, (survivors, 2))
    classes = random.integers(0, CLASSES, survivors)
    output[0, :2, chosen] = centres[objects] + random.normal(0, 3, (survivors, 2))
    output[0, 2:4, chosen] = sizes[objects] * random.uniform(0.95, 1.05, (survivors, 2))
    output[0, 4 + classes[objects], chosen] = random.uniform(MIN_SCORE + 0.01, 0.95, survivors)
    return output


def decoder(output: Any, geometry: Geometry) -> Callable[[], Any]:
    """Head → Detections in frame pixels."""
    spec = ModelSpec(
        task="detection",
        image=image_spec("yolo"),
        head={"format": "yolo", "objectness": False, "min_score": MIN_SCORE, "nms_iou": NMS_IOU},
    )
    task = create_task(spec, [TensorInfo("output0", output.shape, "float32")])
    return lambda: task.decode({"output0": output}, [geometry])


def mask_maker(geometry: Geometry, instances: int = 20) -> Callable[[], Any]:
    """Finished rows and prototypes → 20 masks at the frame's resolution, each made anew."""
    random = np.random.default_rng(0)
    first = random.uniform(0, 420, (instances, 2))
    rows = np.zeros((1, 300, 6 + 32), np.float32)
    rows[0, :instances, :2], rows[0, :instances, 2:4] = first, first + random.uniform(60, 160, (instances, 2))
    rows[0, :instances, 4] = 0.9
    rows[0, :instances, 5] = np.arange(instances)
    rows[0, :instances, 6:] = random.normal(0, 1, (instances, 32))
    prototypes = random.normal(0, 1, (1, 32, 160, 160)).astype(np.float32)
    outputs = {"output0": rows, "output1": prototypes}
    spec = ModelSpec(task="instance_segmentation", image=image_spec("yolo"), head={"format": "end_to_end"})
    task = create_task(spec, [TensorInfo(name, value.shape, "float32") for name, value in outputs.items()])

    def make() -> Any:
        (found,) = task.decode(outputs, [geometry])
        return [crop.mask for crop in found.masks]  # type: ignore[attr-defined]

    return make


def segmenter(geometry: Geometry, *, scores: bool) -> Callable[[], Any]:
    """Scores or ids of 21 classes → a class map of the frame."""
    image = image_spec("yolo", size_hw=(520, 520))
    placed = plan_resize(image, FRAME_HW).geometry
    random = np.random.default_rng(0)
    values: Any = random.normal(0, 1, (1, 21, 520, 520)).astype(np.float32)
    values = values if scores else values.argmax(axis=1)
    task = create_task(
        ModelSpec(task="segmentation", image=image), [TensorInfo("out", values.shape, str(values.dtype))]
    )
    return lambda: task.decode({"out": values}, [placed])


def ultralytics() -> tuple[Callable[[Any], Callable[[], Any]] | None, str]:
    """Head → a function that runs their NMS on it; and what it is."""
    try:
        import torch
    except ImportError:
        return None, "none (no torch)"
    torch.set_num_threads(1)
    try:
        import ultralytics as package
        from ultralytics.utils.nms import non_max_suppression

        def theirs(output: Any) -> Callable[[], Any]:
            tensor = torch.from_numpy(output)
            return lambda: non_max_suppression(tensor, MIN_SCORE, NMS_IOU)

        return theirs, f"ultralytics {package.__version__}"
    except ImportError:
        pass
    nms, kind = torch_nms(torch)

    def steps(output: Any) -> Callable[[], Any]:
        tensor = torch.from_numpy(output)

        def run() -> Any:
            above = tensor[:, 4:].amax(1) > MIN_SCORE
            rows = tensor.transpose(-1, -2)
            half = rows[..., 2:4] / 2
            rows = torch.cat((rows[..., :2] - half, rows[..., :2] + half, rows[..., 4:]), dim=-1)
            kept = rows[0][above[0]]
            scores, ids = kept[:, 4:].max(1, keepdim=True)
            found = torch.cat((kept[:, :4], scores, ids.float()), 1)[scores.view(-1) > MIN_SCORE]
            found = found[found[:, 4].argsort(descending=True)]
            chosen = nms(found[:, :4] + found[:, 5:6] * 7680, found[:, 4], NMS_IOU)
            return found[chosen[:300]]

        return run

    return steps, f"the same steps with torch {torch.__version__}, {kind}"


def torch_nms(torch: Any) -> tuple[Any, str]:
    """torchvision's compiled NMS, or the greedy definition."""
    try:
        import torchvision

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
        return torchvision.ops.nms, f"torchvision {torchvision.__version__}"
    except (ImportError, RuntimeError):
        pass

    def nms(boxes: Any, scores: Any, limit: float) -> Any:
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        order, kept = torch.arange(len(boxes)), []
        while len(order):
            first, order = order[0], order[1:]
            kept.append(int(first))
            sides = torch.minimum(boxes[first, 2:], boxes[order, 2:]) - torch.maximum(
                boxes[first, :2], boxes[order, :2]
            )
            both = sides.clamp(min=0).prod(1)
            order = order[both <= limit * (areas[first] + areas[order] - both)]
        return torch.tensor(kept)

    return nms, "greedy NMS in torch"


def measure(variants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each variant; they take turns, so that what disturbs one disturbs all."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for index in range(rounds + 5):
        for name, run in variants.items():
            start = perf_counter()
            run()
            if index >= 5:  # the first ones warm up
                times[name].append(1e3 * (perf_counter() - start))
    return times


def show(report: dict[str, Any], case: str, times: dict[str, list[float]]) -> None:
    """Print and keep median, best and 99th percentile."""
    found = {
        name: {
            "p50_ms": round(float(np.median(values)), 4),
            "best_ms": round(min(values), 4),
            "p99_ms": round(float(np.percentile(values, 99)), 4),
        }
        for name, values in times.items()
    }
    line = "   ".join(
        f"{name} {row['p50_ms']:.3f} (best {row['best_ms']:.3f}) ms" for name, row in found.items()
    )
    if "peer" in found:
        ratio = found["ours"]["p50_ms"] / found["peer"]["p50_ms"]
        best = found["ours"]["best_ms"] / found["peer"]["best_ms"]
        found["ratio"] = {"p50": round(ratio, 3), "best": round(best, 3)}
        line += f"   ratio {ratio:.2f} (best {best:.2f})"
    report["cases"][case] = found
    print(f"{case:<20} {line}")


if __name__ == "__main__":
    main()
