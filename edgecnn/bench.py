"""How fast a model is here: latency per stage, throughput, memory, and the state of the machine.

    with edgecnn.load("model.onnx") as model:
        report = benchmark(model, synthetic_frames())
    print(report.latency_ms["p99"])

Frames are in memory before the clock starts: decoding is the source's time, not the model's. Each is used
again and again, in order. The time of postprocessing depends on what is in the frames, so for a detector
give real ones.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.device import read_device, read_state, was_throttled
from edgecnn.errors import DataError
from edgecnn.model import Model
from edgecnn.progress import Progress, no_progress
from edgecnn.timing import percentiles_ms

__all__ = ["BenchReport", "benchmark", "synthetic_frames"]

STAGES = ("preprocess", "infer", "postprocess")


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """What a benchmark found.

    Attributes:
        model, backend, backend_device, precision: what ran, and on what.
        frames: frames timed, after `warmup` others.
        frames_used: what they were: `source`, `distinct`, `sizes_hw`.
        latency_ms: `p50`, `p90`, `p99`, `mean` from frame to result.
        stages_ms: the same for `preprocess`, `infer`, `postprocess`.
        fps: frames per second, one after the other.
        load_ms, model_bytes: time to load the model and size of its file; None where nobody measured it.
        peak_rss_mb: most memory that the process ever had, in 10⁶ bytes, frames and libraries included.
        device: `edgecnn.device.Device` as an object, with the state after the run, the temperature before
            it as `temperature_start_c`, and `throttled`.
    """

    model: str
    backend: str
    backend_device: str
    precision: str
    frames: int
    warmup: int
    frames_used: dict[str, Any]
    latency_ms: dict[str, float]
    stages_ms: dict[str, dict[str, float]]
    fps: float
    peak_rss_mb: float
    device: dict[str, Any]
    load_ms: float | None = None
    model_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def benchmark(
    model: Model,
    frames: Sequence[NDArray[np.uint8]],
    *,
    count: int = 200,
    warmup: int = 20,
    source: str = "given",
    progress: Progress = no_progress,
) -> BenchReport:
    """Time a model.

    Args:
        model: the loaded model.
        frames: (H, W, 3) uint8 BGR each.
        count: how many to time; `frames` is gone through again where it has fewer.
        warmup: how many to run before, untimed: the first ones pay for memory, threads and clocks.
        source: where the frames are from, for the report.
        progress: called as `progress("bench", done, total)`, between frames and outside of what is timed.

    Raises:
        DataError: no frames, or `count` is less than 1.
        InputError, InferenceError: as the model.
    """
    if not frames or count < 1:
        raise DataError(
            "nothing to time", got=f"{len(frames)} frames, count {count}", expected="at least one"
        )
    before = read_state()
    for index in range(warmup):
        model(frames[index % len(frames)])
    times = np.empty((count, 1 + len(STAGES)))
    for index in range(count):
        frame = frames[index % len(frames)]
        start = perf_counter()
        _, stages = model.timed(frame)
        times[index] = ((perf_counter() - start) * 1e3, *stages)
        progress("bench", index + 1, count)
    after = read_state()
    latency_ms, *stages_ms = (percentiles_ms(column.tolist()) for column in times.T)
    return BenchReport(
        model=model.name,
        backend=model.backend.name,
        backend_device=model.backend.device,
        precision=model.precision,
        frames=count,
        warmup=warmup,
        frames_used={
            "source": source,
            "distinct": min(len(frames), count),
            "sizes_hw": sorted({frame.shape[:2] for frame in frames[:count]}),
        },
        latency_ms=latency_ms,
        stages_ms=dict(zip(STAGES, stages_ms, strict=True)),
        fps=round(float(1e3 * count / times[:, 0].sum()), 2),
        peak_rss_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1),
        device={
            **read_device().to_dict(),
            **asdict(after),
            "temperature_start_c": before.temperature_c,
            "throttled": was_throttled(before, after),
        },
    )


def synthetic_frames(
    count: int = 8, *, size_hw: tuple[int, int] = (1080, 1920), seed: int = 0
) -> list[NDArray[np.uint8]]:
    """Frames that look natural to what is timed, the same for the same arguments.

    Photographs have much in coarse structure and little in fine: amplitude falls as 1 / frequency. So these
    are noise, added up octave by octave, each twice as coarse and twice as strong as the one before. A
    constant frame would flatter whatever depends on the content.

    Returns:
        `count` frames of (H, W, 3) uint8 BGR.

    Raises:
        BackendUnavailableError: OpenCV is missing.
    """
    from edgecnn.camera.opencv import import_cv2

    cv2 = import_cv2()
    rng = np.random.default_rng(seed)
    height, width = size_hw
    frames = []
    for _ in range(count):
        total = np.zeros((height, width, 3), np.float32)
        side, amplitude = 2, 1.0
        while side <= max(height, width):
            rows, columns = (max(2, round(side * length / max(height, width))) for length in (height, width))
            noise = rng.standard_normal((rows, columns, 3), np.float32) * amplitude
            total += cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
            side, amplitude = side * 2, amplitude / 2
        total = (total - total.mean()) / max(float(total.std()), 1e-6)
        frames.append(np.clip(total * 50 + 118, 0, 255).astype(np.uint8))
    return frames
