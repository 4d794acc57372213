from __future__ import annotations

import json
import resource

import numpy as np
import pytest
from numpy.typing import NDArray

from edgecnn.bench import benchmark, synthetic_frames
from edgecnn.errors import DataError
from tests.colours import colour_cycle, colour_model, function_model, solid


def test_every_number_is_of_what_was_timed() -> None:
    seen: list[float] = []

    def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append(float(image.mean((0, 2, 3)).argmax()))
        return np.zeros((1, 3), np.float32)

    steps: list[tuple[str, int, int | None]] = []
    with function_model(run, name="m") as model:
        report = benchmark(
            model,
            colour_cycle(3),
            count=7,
            warmup=2,
            source="colours",
            progress=lambda *step: steps.append(step),
        )
    # red 0, green 1, blue 2: two to warm up, then seven from the first frame on
    assert seen == [0, 1, 0, 1, 2, 0, 1, 2, 0]
    assert steps == [("bench", done, 7) for done in range(1, 8)]
    assert (report.frames, report.warmup, report.model, report.backend) == (7, 2, "m", "function")
    assert report.frames_used == {"source": "colours", "distinct": 3, "sizes_hw": [(48, 64)]}
    assert tuple(report.stages_ms) == ("preprocess", "infer", "postprocess")
    for summary in (report.latency_ms, *report.stages_ms.values()):
        assert list(summary) == ["p50", "p90", "p99", "mean"]
        assert 0 <= summary["p50"] <= summary["p90"] <= summary["p99"]
    assert sum(summary["mean"] for summary in report.stages_ms.values()) <= report.latency_ms["mean"] + 0.002
    assert report.fps == pytest.approx(1e3 / report.latency_ms["mean"], rel=0.05)


def test_memory_is_the_peak_of_this_process() -> None:
    with colour_model() as model:
        report = benchmark(model, [solid("red")], count=2, warmup=0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    assert 0.5 * peak < report.peak_rss_mb <= peak + 0.1


def test_the_report_is_json_with_the_promised_keys() -> None:
    with colour_model() as model:
        report = json.loads(json.dumps(benchmark(model, [solid("red")], count=2).to_dict(), allow_nan=False))
    keys = {"backend", "precision", "frames", "latency_ms", "stages_ms", "fps", "peak_rss_mb", "device"}
    assert keys <= set(report)
    assert {
        "cpu",
        "cores",
        "governor",
        "frequency_mhz",
        "temperature_c",
        "throttled",
        "power_mode",
        "os",
        "versions",
    } <= set(report["device"])
    assert {"edgecnn", "onnxruntime", "opencv", "numpy"} <= set(report["device"]["versions"])


@pytest.mark.parametrize(("frames", "count"), [([], 5), ([solid("red")], 0)])
def test_nothing_to_time(frames: list[NDArray[np.uint8]], count: int) -> None:
    with colour_model() as model, pytest.raises(DataError, match="nothing to time"):
        benchmark(model, frames, count=count)


def test_synthetic_frames_are_repeatable_and_distinct() -> None:
    first, second = synthetic_frames(2, size_hw=(90, 160), seed=1)
    again = synthetic_frames(2, size_hw=(90, 160), seed=1)
    other = synthetic_frames(1, size_hw=(90, 160), seed=2)[0]
    assert first.shape == (90, 160, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again[0])
    np.testing.assert_array_equal(second, again[1])
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("size_hw", [(1, 1), (7, 300), (480, 640)])
def test_synthetic_frames_of_any_size(size_hw: tuple[int, int]) -> None:
    assert synthetic_frames(1, size_hw=size_hw)[0].shape == (*size_hw, 3)


def test_synthetic_frames_have_the_structure_of_photographs() -> None:
    frame = synthetic_frames(1, size_hw=(512, 512))[0].astype(np.float64)[:, :, 1]
    assert 35 < frame.std() < 60
    assert 90 < frame.mean() < 150
    # neighbouring pixels resemble each other, as in a photo and unlike in white noise
    assert np.corrcoef(frame[:, :-1].ravel(), frame[:, 1:].ravel())[0, 1] > 0.9
