"""What the overlapped pipeline gains, how fair it is, how fresh, and whether it stays as it began.

    python -m benchmarks.pipeline [--only overlap cameras age soak] [--rounds 5] [--seconds 60]

overlap   ResNet-18 at three sizes on 1080p frames, one thread of inference: a serial loop (`model(frame)` for
          each) and the pipeline, in turns. "Of the slowest stage" is the pipeline's frame rate over what its
          slowest stage alone could do: 1 is perfect. And the same with stages that only wait (4 ms for a
          frame, 5 ms for the network), as beside a GPU: what is lost there is lost in handing over.
cameras   eight cameras of 30 frames a second on a model that is not that fast, against a single one of 240.
age       a camera of 30 frames a second, and a model that takes 100 ms; and a consumer that takes 100 ms.
soak      200 000 frames of a network of nothing as fast as they go, in a process of its own: memory, threads
          and descriptors, in tenths.

Frames are in memory: decoding is the source's. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgecnn
from edgecnn.bench import synthetic_frames
from edgecnn.camera import MemoryReader, Source
from edgecnn.device import read_device, read_state
from edgecnn.model import Model
from edgecnn.pipeline import Pipeline
from edgecnn.pipeline.statistics import rss_mb
from edgecnn.spec import ModelSpec, image_spec
from edgecnn.timing import percentiles_ms
from tests.colours import colour_cycle, function_model, write_colour_onnx

SIDES = (64, 128, 224)
DISTINCT = 24  # 150 MB: no frame is in a cache when it comes round again
ROUND_S = 1.0  # how long each variant runs in a round, about
FPS = 30
CAMERAS = 8
PARTS = 10


def main() -> None:
    """Measure, print, and the same as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sections = ("overlap", "cameras", "age", "soak")
    parser.add_argument("--only", nargs="+", choices=sections, default=sections)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement of ages")
    parser.add_argument("--frames", type=int, default=200_000, help="of the soak")
    options = parser.parse_args()
    report: dict[str, Any] = {"benchmark": "pipeline", "load_average": round(os.getloadavg()[0], 1)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if {"overlap", "cameras"} & set(options.only):
            models = {side: exported(folder, side) for side in SIDES}
            images = synthetic_frames(DISTINCT)
        if "overlap" in options.only:
            report["overlap"] = overlap(models, images, options.rounds)
        if "cameras" in options.only:
            report["cameras"] = cameras(models[128], images, options.rounds)
        if "age" in options.only:
            report["age_ms"] = ages(options.seconds)
        if options.only == ["soak"]:
            report["soak"] = soak(folder, options.frames)
        elif "soak" in options.only:
            command = [sys.executable, "-m", "benchmarks.pipeline", "--only", "soak"]
            command += ["--frames", str(options.frames)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            *lines, last = done.stdout.splitlines()
            print(*lines, sep="\n")
            report["soak"] = json.loads(last)["soak"]
    device = read_device()
    report["device"] = {**device.to_dict(), "frequency_mhz": read_state().frequency_mhz}
    print(json.dumps(report))


def exported(folder: Path, side: int) -> Model:
    """ResNet-18 at a size, with one thread."""
    from benchmarks.networks import resnet18  # here: the soak's process has no use for torch
    from edgecnn.export import export_onnx

    path = folder / f"resnet18-{side}.onnx"
    spec = ModelSpec(task="classification", image=image_spec("imagenet", size_hw=(side, side)))
    export_onnx(resnet18(), spec, path)
    return edgecnn.load(path, threads=1)


# --- overlap


def overlap(models: dict[int, Model], images: list[NDArray[np.uint8]], rounds: int) -> dict[str, Any]:
    """For each size, and for stages that wait: the serial loop and the pipeline in turns."""

    def wait(image: NDArray[np.float32]) -> NDArray[np.float32]:
        time.sleep(0.005)
        return np.zeros((len(image), 3), np.float32)

    variants: dict[str, tuple[Model, float]] = {
        **{f"ResNet-18, {side}": (model, 0.0) for side, model in models.items()},
        "stages that wait": (function_model(wait), 0.004),
    }
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, (model, capture_s) in variants.items():
            start = perf_counter()
            for image in images[:5]:
                model(image)
            count = max(20, round(ROUND_S / (capture_s + (perf_counter() - start) / 5)))
            rows[name].append(one_round(model, images, count, capture_s))
    found = {}
    columns = f"{'serial fps':>12}{'pipeline fps':>14}{'ratio':>8}{'of slowest':>12}"
    print(f"{'median (and best) of the rounds':32}{columns}")
    for name, values in rows.items():
        middle = {key: statistics.median(row[key] for row in values) for key in values[0]}
        best = max(row["of_slowest_stage"] for row in values)
        found[name] = {key: round(value, 3) for key, value in middle.items()} | {"best": round(best, 3)}
        print(
            f"{name:32}{middle['serial_fps']:12.1f}{middle['pipeline_fps']:14.1f}{middle['ratio']:8.2f}"
            f"{middle['of_slowest_stage']:11.3f} ({best:.3f})"
        )
    return found


def one_round(
    model: Model, images: list[NDArray[np.uint8]], count: int, capture_s: float
) -> dict[str, float]:
    """The same frames through a loop and through the pipeline."""
    start = perf_counter()
    for frame in Source(MemoryReader(some(images, count, capture_s))):
        model(frame.image)
    serial_s = perf_counter() - start
    source = Source(MemoryReader(some(images, count, capture_s)))
    with Pipeline(source, model) as pipeline:
        first = next(pipeline)  # the pipe is filled then
        assert first.frame.index == 0
        start = perf_counter()
        done = sum(1 for _ in pipeline)
        pipeline_s = (perf_counter() - start) / done * count
    stages_ms = pipeline.stats.stages_ms
    slowest_ms = max(stages_ms[name]["mean"] for name in ("capture", "preprocess", "infer", "postprocess"))
    return {
        "serial_fps": count / serial_s,
        "pipeline_fps": count / pipeline_s,
        "ratio": serial_s / pipeline_s,
        "of_slowest_stage": count / pipeline_s * slowest_ms / 1e3,
    }


def some(images: list[NDArray[np.uint8]], count: int, wait_s: float) -> Iterator[NDArray[np.uint8]]:
    """Frames, each after a while."""
    for image in itertools.islice(itertools.cycle(images), count):
        if wait_s:
            time.sleep(wait_s)
        yield image


# --- several cameras, and ages


def camera(images: Iterable[NDArray[np.uint8]], fps: float, name: str) -> Source:
    """A camera that gives frames at a rate, whether anybody takes them or not."""

    def paced() -> Iterator[NDArray[np.uint8]]:
        due = monotonic()
        for image in itertools.cycle(images):
            due = max(due + 1 / fps, monotonic() - 1 / fps)
            time.sleep(max(0.0, due - monotonic()))
            yield image

    return Source(MemoryReader(paced(), name=name, fps=fps, live=True), policy="latest")


def cameras(model: Model, images: list[NDArray[np.uint8]], rounds: int) -> dict[str, Any]:
    """Frame rates of one camera and of eight, in turns, and what each of the eight gets of it."""
    one, many, spreads = [], [], []
    for _ in range(rounds):
        one.append(sum(rates([camera(images, FPS * CAMERAS, "one")], model).values()))
        by_camera = rates([camera(images, FPS, f"camera {index}") for index in range(CAMERAS)], model)
        many.append(sum(by_camera.values()))
        spreads.append(max(by_camera.values()) / min(by_camera.values()) - 1)
    ratios = [each / alone for alone, each in zip(one, many, strict=True)]
    found = {
        "one_fps": round(statistics.median(one), 1),
        "eight_fps": round(statistics.median(many), 1),
        "throughput_ratio": round(statistics.median(ratios), 3),
        "spread": round(statistics.median(spreads), 3),
        "worst_spread": round(max(spreads), 3),
    }
    print(f"cameras: {found}")
    return found


def rates(sources: list[Source], model: Model, seconds: float = 5 * ROUND_S) -> dict[int, float]:
    """Frames a second of each camera, once the first half second is over."""
    counts: Counter[int] = Counter()
    with Pipeline(sources, model) as pipeline:
        start = monotonic() + 0.5
        while monotonic() < start:
            next(pipeline)
        while monotonic() < start + seconds:
            counts[next(pipeline).camera] += 1
    return {index: counts[index] / seconds for index in range(len(sources))}


def ages(seconds: float) -> dict[str, Any]:
    """Ages at delivery in the first and in the last quarter."""

    def slow(image: NDArray[np.float32]) -> NDArray[np.float32]:
        time.sleep(0.1)
        return np.zeros((len(image), 3), np.float32)

    def quick(image: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.zeros((len(image), 3), np.float32)

    images = synthetic_frames(4, size_hw=(480, 640))
    found: dict[str, Any] = {}
    for name, function, consumer_s in (("model of 100 ms", slow, 0.0), ("consumer of 100 ms", quick, 0.1)):
        values: list[tuple[float, float]] = []
        with function_model(function) as model, Pipeline(camera(images, FPS, "camera"), model) as pipeline:
            start = monotonic()
            while (passed := monotonic() - start) < seconds:
                values.append((passed, next(pipeline).frame.age_ms))
                time.sleep(consumer_s)
            dropped = pipeline.stats.dropped_by
        early = [age for passed, age in values if passed < seconds / 4]
        late = [age for passed, age in values if passed > seconds * 3 / 4]
        found[name] = {
            "early": percentiles_ms(early) | {"p95": round(float(np.percentile(early, 95)), 3)},
            "late": percentiles_ms(late) | {"p95": round(float(np.percentile(late, 95)), 3)},
            "frames": len(values),
            "dropped_by": dropped,
        }
        parts = [
            f"{part} p50 {found[name][part]['p50']:.0f}, p95 {found[name][part]['p95']:.0f}"
            for part in ("early", "late")
        ]
        print(f"age at delivery in ms, {name}: {'; '.join(parts)}; {len(values)} frames")
    return found


# --- soak


def soak(folder: Path, frames: int) -> dict[str, Any]:
    """Memory, threads and descriptors after each tenth of the frames."""
    sink = folder / "results.jsonl"
    images = colour_cycle(3)
    source = Source(MemoryReader(images[index % 3] for index in range(frames)))
    rows: list[tuple[float, int, int]] = []
    start = perf_counter()
    with (
        edgecnn.load(write_colour_onnx(folder / "colours.onnx"), threads=1) as model,
        Pipeline(source, model, sinks=[sink]) as pipeline,
    ):
        for count, _ in enumerate(pipeline, start=1):
            if count % (frames // PARTS) == 0:
                rows.append((rss_mb() or 0.0, threading.active_count(), descriptors()))
                print(f"{count} frames: {rows[-1][0]} MB, {rows[-1][1]} threads, {rows[-1][2]} descriptors")
    seconds = perf_counter() - start
    memory, threads, open_files = zip(*rows, strict=True)
    found = {
        "frames": pipeline.stats.frames,
        "fps": round(frames / seconds, 1),
        "rss_mb": list(memory),
        "growth_percent": round(100 * (memory[-1] / memory[0] - 1), 2),
        "threads": sorted(set(threads)),
        "descriptors": sorted(set(open_files)),
        "lines": sum(1 for _ in sink.open()),
    }
    print(f"soak: {found}")
    return found


def descriptors() -> int:
    """Open file descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


if __name__ == "__main__":
    main()
