"""How long a frame takes to become the network's input, here and elsewhere, on one CPU thread.

    python -m benchmarks.preprocessing [--rounds 200]

Every variant runs once a round, so that whatever else the machine does hits all of them, and medians are
compared. Where a median is far from the best time, the machine was busy: run it again. The frames differ
and together exceed the caches, as a camera's do. Before anything is timed, each variant's result is
compared with ours, in grey levels: the same work is timed.

Two kinds of input:
- letterbox to 640 × 640, linear, RGB in [0, 1]: what the YOLO family takes;
- crop to 224 × 224 of 256, ImageNet's mean and std: what torchvision's and timm's models take.

`floor` is no program: it is the time to read the part of the frame that matters and to write the part of
the tensor that changes, once each, at the bandwidth with which this machine copies memory.

If the package `ultralytics` is there, its own LetterBox and predictor are timed; otherwise the same steps
in our words, and the output says which. Ultralytics is under the AGPL and no dependency of edgecnn, so
give it an environment of its own:

    python -m venv .venv-peers
    .venv-peers/bin/pip install -e . torch opencv-python-headless pillow scikit-image
    .venv-peers/bin/pip install --no-deps ultralytics
    .venv-peers/bin/pip install torchvision pyyaml requests psutil matplotlib  # what importing it needs
    .venv-peers/bin/python -m benchmarks.preprocessing

With scikit-image's photos at hand, the crop is also compared with PIL's (antialiased) on them.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecnn.preprocess import Preprocessor
from edgecnn.spec import ImageSpec, image_spec

Frame = NDArray[np.uint8]
Variant = Callable[[Frame], Any]  # → the input tensor (1, 3, h, w), of NumPy or torch

SIZES_HW = {"1080p": (1080, 1920), "480p": (480, 640)}
RING = 8  # frames that take turns
LETTERBOX = image_spec("yolo")
CROP = image_spec("imagenet")


def main() -> None:
    """Measure, print tables, and the JSON object last."""
    parser = argparse.ArgumentParser(description="Time preprocessing, ours and others', on one CPU thread.")
    parser.add_argument("--rounds", type=int, default=200, help="times that each variant runs")
    rounds = parser.parse_args().rounds
    cv2.setNumThreads(1)
    peer, label = ultralytics_letterbox()
    print(f"{cpu_name()}; OpenCV {cv2.__version__}, NumPy {np.__version__}; Ultralytics: {label}\n")
    bandwidth = copy_bandwidth()
    report: dict[str, Any] = {
        "benchmark": "preprocessing",
        "cpu": cpu_name(),
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "ultralytics": label,
        "threads": 1,
        "rounds": rounds,
        "copy_bandwidth_gb_s": round(bandwidth / 1e9, 1),
        "cases": {},
    }
    for size, (height, width) in SIZES_HW.items():
        frames = [blurred_noise(height, width, seed) for seed in range(RING)]
        for name, spec, variants in (
            (f"{size} letterbox 640", LETTERBOX, letterbox_variants(peer)),
            (f"{size} crop 224", CROP, crop_variants()),
        ):
            floor_ms = bytes_moved(spec, frames[0]) / bandwidth * 1e3
            report["cases"][name] = {
                "floor_ms": round(floor_ms, 3),
                **measure(name, variants, frames, rounds, floor_ms),
            }
    report["crop_photos_levels"] = crop_on_photos()
    letterbox = report["cases"]["1080p letterbox 640"]
    for key, time in (("ratio_to_ultralytics_best", "best_ms"), ("ratio_to_ultralytics", "p50_ms")):
        ratio = letterbox["ours"][time] / letterbox["ultralytics"][time] if peer else None
        report[key] = ratio and round(ratio, 3)
    print(json.dumps(report))


# ---- letterbox ----


def letterbox_variants(ultralytics: Variant | None) -> dict[str, Variant]:
    """The ways to the YOLO family's input."""
    return {
        "ours": ours(LETTERBOX),
        **({"ultralytics": ultralytics} if ultralytics else {}),
        "blobFromImage": lambda frame: cv2.dnn.blobFromImage(letterboxed(frame), 1 / 255, swapRB=True),
        "NumPy": numpy_letterbox,
    }


def ours(spec: ImageSpec) -> Variant:
    """edgecnn's Preprocessor."""
    preprocess = Preprocessor(spec)

    def run(frame: Frame) -> Any:
        preprocess(frame)
        return preprocess.tensor

    return run


def letterboxed(frame: Frame) -> Frame:
    """The frame on a grey canvas of 640 × 640, as everybody writes it."""
    height, width = frame.shape[:2]
    factor = min(640 / height, 640 / width)
    new_height, new_width = round(height * factor), round(width * factor)
    if (height, width) != (new_height, new_width):
        frame = np.asarray(
            cv2.resize(frame, (new_width, new_height), interpolation=cv2.INTER_LINEAR), np.uint8
        )
    top, left = (640 - new_height) // 2, (640 - new_width) // 2
    bottom, right = 640 - new_height - top, 640 - new_width - left
    border = cv2.copyMakeBorder(frame, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(114, 114, 114))
    return np.asarray(border, np.uint8)


def numpy_letterbox(frame: Frame) -> NDArray[np.float32]:
    """As most samples have it."""
    rgb = letterboxed(frame)[:, :, ::-1]
    return np.ascontiguousarray((rgb.astype(np.float32) / 255.0).transpose(2, 0, 1)[None])


def ultralytics_letterbox() -> tuple[Variant | None, str]:
    """Ultralytics' preprocessing of one frame for a model of fixed input size, and which one this is."""
    if importlib.util.find_spec("torch") is None:
        return None, "left out, for want of torch"
    import torch

    torch.set_num_threads(1)
    if importlib.util.find_spec("ultralytics") is None:

        def steps(frame: Frame) -> Any:
            image = torch.from_numpy(letterboxed(frame)).unsqueeze(0)
            image = image.permute(0, 3, 1, 2).contiguous().flip(1)  # to planes, then BGR to RGB
            return image.float().div_(255)

        return steps, "its steps as of 8.4, re-enacted"
    import ultralytics
    from ultralytics.engine.predictor import BasePredictor

    predictor = BasePredictor.__new__(BasePredictor)  # without a model: only what `preprocess` looks at
    predictor.imgsz = (640, 640)
    predictor.device = torch.device("cpu")
    predictor.args = SimpleNamespace(rect=False)
    predictor.scale_fill = False
    predictor.model = SimpleNamespace(format="onnx", dynamic=False, pt=False, fp16=False, stride=32)
    return lambda frame: predictor.preprocess([frame]), f"{ultralytics.__version__}, its own code"


# ---- crop ----


def crop_variants() -> dict[str, Variant]:
    """The ways to ImageNet's input. Ultralytics' own is torchvision's."""
    variants: dict[str, Variant] = {"ours": ours(CROP)}
    for interpolation in ("linear", "cubic"):
        variants[f"ours, {interpolation}"] = ours(image_spec("imagenet", interpolation=interpolation))
    variants["blobFromImage"] = blob_crop
    variants["NumPy, INTER_AREA"] = numpy_crop
    if importlib.util.find_spec("PIL") is not None:
        variants["PIL"] = lambda frame: normalized(pil_crop(frame))
    return {**variants, **torchvision_crop()}


MEAN, STD = np.array(CROP.mean, np.float32), np.array(CROP.std, np.float32)


def normalized(rgb: NDArray[Any]) -> NDArray[np.float32]:
    """(224, 224, 3) uint8 → (1, 3, 224, 224), as everybody writes it."""
    scaled = (rgb.astype(np.float32) / 255.0 - MEAN) / STD
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def scaled_wh(frame: Frame) -> tuple[int, int]:
    """Width and height of the frame when its shorter side is 256, as torchvision's Resize(256)."""
    height, width = frame.shape[:2]
    return (int(256 * width / height), 256) if height <= width else (256, int(256 * height / width))


def cut(image: NDArray[Any]) -> NDArray[Any]:
    """torchvision's CenterCrop(224)."""
    top, left = (round((side - 224) / 2) for side in image.shape[:2])
    return image[top : top + 224, left : left + 224]


def numpy_crop(frame: Frame) -> NDArray[np.float32]:
    """The whole frame averaged, then cut: what `ours` comes to, by the book."""
    return normalized(
        cut(np.asarray(cv2.resize(frame, scaled_wh(frame), interpolation=cv2.INTER_AREA)))[:, :, ::-1]
    )


def blob_crop(frame: Frame) -> Any:
    """OpenCV's blob takes one scale for all channels and no std: that is divided by afterwards."""
    image = np.ascontiguousarray(cut(np.asarray(cv2.resize(frame, scaled_wh(frame)))))
    blob = cv2.dnn.blobFromImage(image, 1 / 255, mean=(MEAN * 255).tolist(), swapRB=True)
    return np.divide(blob, STD[:, None, None], out=blob)


def pil_crop(frame: Frame) -> NDArray[Any]:
    """torchvision's Resize(256) and CenterCrop(224) of a PIL image, antialiased: (224, 224, 3) RGB."""
    from PIL import Image

    image = Image.fromarray(np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8))
    return cut(np.asarray(image.resize(scaled_wh(frame), Image.Resampling.BILINEAR)))


def torchvision_crop() -> dict[str, Variant]:
    """What torchvision's transforms v2 do with a uint8 tensor: torch's own antialiased resize, and so on."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    mean, std = torch.tensor(CROP.mean)[:, None, None], torch.tensor(CROP.std)[:, None, None]

    def run(frame: Frame) -> Any:
        rgb = torch.from_numpy(np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)))
        planes = rgb.permute(2, 0, 1)[None]
        resized = torch.nn.functional.interpolate(
            planes, scaled_wh(frame)[::-1], mode="bilinear", antialias=True, align_corners=False
        )
        top, left = (round((side - 224) / 2) for side in resized.shape[2:])
        image = resized[:, :, top : top + 224, left : left + 224].float().div_(255)
        return image.sub_(mean).div_(std)

    return {"torchvision v2's steps": run}


def crop_on_photos() -> dict[str, Any]:
    """Mean distance of crops from PIL's on scikit-image's photos, in grey levels of 255."""
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None or importlib.util.find_spec("PIL") is None:
        return {}
    names = (
        "astronaut.png",
        "coffee.png",
        "coins.png",
        "rocket.jpg",
        "motorcycle_left.png",
        "page.png",
        "retina.jpg",
    )
    paths = [Path(package.origin).parent / "data" / name for name in names]
    found = [np.asarray(cv2.imread(str(path)), np.uint8) for path in paths if path.exists()]
    distances: dict[str, list[float]] = {}
    for photo in found:
        theirs = pil_crop(photo).astype(np.float64)
        for interpolation in ("nearest", "linear", "cubic", "area"):
            levels = image_spec("imagenet", interpolation=interpolation, scale=1.0, mean=0.0, std=1.0)
            crop = ours(levels)(photo)[0].transpose(1, 2, 0)
            distances.setdefault(interpolation, []).append(float(np.abs(crop - theirs).mean()))
        moved = np.abs(np.diff(theirs, axis=1)).mean()
        distances.setdefault("PIL's own, one pixel off", []).append(float(moved))
    mean = {name: round(float(np.mean(values)), 2) for name, values in distances.items()}
    print(f"crop 224, distance from PIL's on {len(found)} photos, grey levels: {mean}\n")
    return mean


# ---- measuring ----


def measure(
    name: str, variants: dict[str, Variant], frames: list[Frame], rounds: int, floor_ms: float
) -> dict[str, Any]:
    """Time the variants in turns, print a table, and return it."""
    expected = np.array(variants["ours"](frames[0]))
    scale = 255 * (STD.mean() if "crop" in name else 1.0)
    distances = {
        key: float(np.abs(np.asarray(run(frames[0])) - expected).mean() * scale)
        for key, run in variants.items()
    }
    times: dict[str, list[float]] = {key: [] for key in variants}
    for number in range(-5, rounds):
        for key, run in variants.items():
            frame = frames[number % len(frames)]
            start = perf_counter()
            run(frame)
            if number >= 0:  # the first five warm up
                times[key].append((perf_counter() - start) * 1e3)
    print(f"{name:32}  best ms    p50 ms    p99 ms   × ours  × floor   distance from ours, levels")
    print(f"  {'floor':30} {floor_ms:8.3f}")
    results = {}
    for key, values in times.items():
        best, p50, p99 = np.percentile(values, [0, 50, 99])
        results[key] = {
            "best_ms": round(best, 3),
            "p50_ms": round(p50, 3),
            "p99_ms": round(p99, 3),
            "distance_levels": round(distances[key], 2),
        }
        relative = p50 / np.median(times["ours"])
        print(
            f"  {key:30} {best:8.3f}  {p50:8.3f}  {p99:8.3f} {relative:8.2f} {p50 / floor_ms:8.1f}"
            f" {distances[key]:8.2f}"
        )
    print()
    return results


def bytes_moved(spec: ImageSpec, frame: Frame) -> float:
    """Bytes of the frame that lie under the input, and of the tensor that hold the frame."""
    geometry = Preprocessor(spec)(frame)
    frame_wh, input_wh = np.array(frame.shape[1::-1]), np.array(spec.size_hw[::-1])
    read = np.prod(
        geometry.to_frame(input_wh).clip(0, frame_wh) - geometry.to_frame((0, 0)).clip(0, frame_wh)
    )
    written = np.prod(
        geometry.to_input(frame_wh).clip(0, input_wh) - geometry.to_input((0, 0)).clip(0, input_wh)
    )
    return float(read * 3 + written * 3 * 4)


def copy_bandwidth() -> float:
    """Bytes per second, read and written ones together, of copying a large array."""
    source = np.ones(1 << 26, np.uint8)
    target = np.empty_like(source)
    times = []
    for _ in range(10):
        start = perf_counter()
        np.copyto(target, source)
        times.append(perf_counter() - start)
    return 2 * source.nbytes / min(times)


def blurred_noise(height: int, width: int, seed: int) -> Frame:
    """A frame with structures of several pixels, so that a wrong result shows."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 3), np.uint8)


def cpu_name() -> str:
    """The CPU's model as Linux names it."""
    lines: Iterable[str] = []
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
