from __future__ import annotations

import json
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import edgecnn
from edgecnn.camera import MemoryReader, Source
from edgecnn.pipeline import STAGES, Pipeline, statistics
from edgecnn.pipeline.statistics import Rate, Window, rss_mb
from edgecnn.spec import ModelSpec, image_spec
from edgecnn.timing import percentiles_ms
from tests.colours import colour_cycle, colour_model
from tests.live import Camera, Gate, level_of
from tests.onnx_files import write_means


def test_a_window_keeps_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "WINDOW", 4)
    window = Window()
    assert window.summary() is None
    for count in range(1, 12):
        window.add(float(count * count))
        newest = [float(value * value) for value in range(max(1, count - 3), count + 1)]
        assert window.summary() == percentiles_ms(newest)
    assert window.count == 11


def test_rates_are_of_the_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(statistics, "monotonic", lambda: now[0])
    rate = Rate()
    assert rate.per_second() is None
    rate.tick()
    assert rate.per_second() is None
    for _ in range(30):  # 20 a second
        now[0] += 0.05
        rate.tick()
    assert rate.per_second() == 20
    now[0] += 1.5  # and nothing for as long
    assert rate.per_second() == 10
    now[0] += 8.0  # the last half second of it is left
    assert rate.per_second() == pytest.approx(1, abs=0.11)
    now[0] += 10.0
    assert rate.per_second() == 0
    for _ in range(5000):  # more than it remembers: 1000 a second
        now[0] += 0.001
        rate.tick()
    assert rate.per_second() == pytest.approx(1000, rel=0.01)
    assert rate.count == 5031


def test_memory_of_this_process() -> None:
    before = rss_mb()
    filled = np.ones(100_000_000, np.uint8)
    after = rss_mb()
    assert before is not None
    assert after is not None
    assert before > 10
    assert 90 < after - before < 110
    assert filled[-1] == 1


def test_a_snapshot_is_json_and_complete() -> None:
    camera, gate = Camera(), Gate(open=True)
    with gate.model, Pipeline(camera.source, gate.model) as pipeline:
        for level in range(5):
            camera.show(level)
            assert level_of(next(pipeline)) == level
        stats = json.loads(json.dumps(pipeline.stats.to_dict(), allow_nan=False))
        camera.end()
    assert list(stats)[:7] == ["frames", "skipped", "dropped", "fps", "latency_ms", "stages_ms", "seconds"]
    assert stats["frames"] == 5
    assert tuple(stats["stages_ms"]) == STAGES
    for summary in (stats["latency_ms"], stats["age_ms"], *stats["stages_ms"].values()):
        assert list(summary) == ["p50", "p90", "p99", "mean"]
    assert stats["fps_in"] > 0
    assert stats["fps_out"] > 0
    assert stats["rss_mb"] > 0
    (source,) = stats["sources"]
    assert (source["name"], source["state"], source["frames"]) == ("camera", "streaming", 5)
    assert stats["sinks"] == []


def test_snapshots_from_another_thread(colour_onnx: Path) -> None:
    """While everything runs as fast as it can: what is counted never goes back, and fits together."""
    source = Source(MemoryReader(frame for _ in range(700) for frame in colour_cycle(3)))
    done = threading.Event()
    problems: list[object] = []

    def look() -> None:
        frames = 0
        while not done.is_set():
            stats = pipeline.stats
            if stats.frames < frames or stats.sources[0].frames < stats.frames or stats.dropped:
                problems.append(stats)
            frames = stats.frames

    with edgecnn.load(colour_onnx) as model, Pipeline(source, model) as pipeline:
        lookers = [threading.Thread(target=look) for _ in range(2)]
        for looker in lookers:
            looker.start()
        count = sum(1 for _ in pipeline)
        done.set()
        for looker in lookers:
            looker.join()
    assert (count, problems) == (2100, [])


@pytest.mark.parametrize("policy", ["all", "latest"])
def test_in_steady_state_nothing_large_is_allocated(tmp_path: Path, policy: str) -> None:
    """Neither a frame's buffer nor a tensor's: all that is allocated at any time is less than one of them."""
    spec = ModelSpec(task="raw", image=image_spec("imagenet", size_hw=(256, 256)))
    path = write_means(tmp_path / "means.onnx", size=(256, 256), spec=spec)
    frames = [np.full((480, 640, 3), level, np.uint8) for level in (0, 100, 200)]
    tensor_bytes = 3 * 256 * 256 * 4
    assert tensor_bytes < frames[0].nbytes
    images = (frames[index % 3] for index in range(10**6))
    source = Source(MemoryReader(images, live=policy == "latest"), policy=policy)
    with edgecnn.load(path) as model, Pipeline(source, model, sinks=[tmp_path / "out.jsonl"]) as pipeline:
        for _ in range(5):
            next(pipeline)
        tracemalloc.start()  # NumPy reports its arrays to it
        try:
            probe = np.empty(tensor_bytes, np.uint8)
            assert tracemalloc.get_traced_memory()[0] >= tensor_bytes
            del probe
            tracemalloc.reset_peak()
            for _ in range(300):
                next(pipeline)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < tensor_bytes


def test_before_the_first_frame() -> None:
    with colour_model() as model, Pipeline([Camera().source, Camera().source], model) as pipeline:
        stats = pipeline.stats
    assert (stats.frames, stats.fps, stats.fps_in, stats.latency_ms) == (0, None, None, None)
    assert stats.stages_ms == {}
