"""A camera that does not wait: what is inferred is fresh, and what is let go is counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from edgecnn.camera import MemorySink
from edgecnn.pipeline import Pipeline
from tests.live import WAIT_S, Camera, Gate, level_of, pipeline_threads


def start(pipeline: Pipeline) -> list[int]:
    """Iterate in a thread; the levels that were delivered, as they come. `close` ends it."""
    delivered: list[int] = []

    def iterate() -> None:
        delivered.extend(map(level_of, pipeline))  # one by one

    threading.Thread(target=iterate, name="consumer", daemon=True).start()
    return delivered


def until(condition: Callable[[], bool]) -> None:
    """Wait for something."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def until_ended() -> None:
    """Wait for the consumer of `start`."""
    for thread in threading.enumerate():
        if thread.name == "consumer":
            thread.join(WAIT_S)
            assert not thread.is_alive()


def test_what_is_inferred_is_the_newest_although_others_were_prepared() -> None:
    camera, gate = Camera(), Gate()
    with gate.model, Pipeline(camera.source, gate.model) as pipeline:
        delivered = start(pipeline)
        camera.show(1)
        assert gate.begun.get(WAIT_S) == [1]
        # taken one by one: each is prepared, or waits to be, when the next one comes
        camera.taken.get(WAIT_S)
        camera.show_and_wait(*range(2, 40))
        camera.end()
        prepared_last = pipeline._stages._workers[1]  # the end has gone through preprocessing
        prepared_last.join(WAIT_S)
        gate.let()
        assert gate.begun.get(WAIT_S) == [39]
        until(lambda: delivered == [1])
        gate.let()
        until_ended()
        stats = pipeline.stats
    assert delivered == [1, 39]
    assert gate.rows == [1, 1]
    assert (stats.frames, stats.dropped) == (2, 37)
    assert stats.dropped_by == {"source": 0, "pipeline": 37, "deadline": 0}
    assert (stats.sources[0].frames, stats.sources[0].dropped) == (39, 0)
    assert pipeline_threads() == []


def test_a_consumer_that_is_slow_gets_the_newest_result() -> None:
    camera, gate = Camera(), Gate(open=True)
    with gate.model, Pipeline(camera.source, gate.model) as pipeline:
        camera.show(1)
        assert level_of(next(pipeline)) == 1
        for level in range(2, 10):  # each is through the model before the next one comes
            camera.show(level)
            while gate.begun.get(WAIT_S) != [level]:
                pass
        camera.end()
        pipeline._stages._workers[-1].join(WAIT_S)  # postprocessing
        assert level_of(next(pipeline)) == 9
        with pytest.raises(StopIteration):
            next(pipeline)
    assert pipeline.stats.dropped_by["pipeline"] == 7


def test_a_camera_asked_for_all_loses_nothing() -> None:
    camera, gate = Camera(policy="all"), Gate(open=True)
    with gate.model, Pipeline(camera.source, gate.model) as pipeline:
        for level in range(50):
            camera.show(level)
        camera.end()
        assert [level_of(output) for output in pipeline] == list(range(50))
    assert pipeline.stats.dropped == 0


def test_a_deadline_drops_before_it_costs_anything() -> None:
    camera, gate = Camera(policy="all"), Gate(open=True)
    with gate.model, Pipeline(camera.source, gate.model, deadline_ms=30_000) as pipeline:
        for level in range(20):
            camera.show(level, age_s=0 if level % 4 == 0 else 31)
        camera.end()
        assert [level_of(output) for output in pipeline] == [0, 4, 8, 12, 16]
    assert len(gate.rows) == 5
    assert pipeline.stats.dropped_by == {"source": 0, "pipeline": 0, "deadline": 15}
    assert pipeline._stages.late["preprocess"] == 15


def test_a_frame_that_grows_too_old_on_its_way_is_dropped_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    camera, gate = Camera(policy="all"), Gate()
    now = [1000.0]
    monkeypatch.setattr("edgecnn.pipeline.stages.monotonic", lambda: now[0])
    with gate.model, Pipeline(camera.source, gate.model, deadline_ms=50) as pipeline:
        monkeypatch.setattr("tests.live.monotonic", lambda: now[0])
        delivered = start(pipeline)
        camera.show_and_wait(1)
        assert gate.begun.get(WAIT_S) == [1]
        camera.show_and_wait(2, 3)  # 2 is ready, or will be before the time has passed
        now[0] += 0.051
        camera.show(4)
        camera.end()
        gate.let(4)
        until_ended()
        late = dict(pipeline._stages.late)
    assert delivered == [4]
    assert late["postprocess"] == 1
    assert late["preprocess"] + late["infer"] == 2
    assert gate.rows == [1, 1]


def test_a_slow_sink_of_a_camera_misses_outputs_and_holds_nothing_up() -> None:
    camera, gate = Camera(), Gate(open=True)
    begun, go_on = threading.Event(), threading.Event()

    class Slow(MemorySink):
        def _write(self, output: object) -> None:
            begun.set()
            assert go_on.wait(WAIT_S)
            super()._write(output)  # type: ignore[arg-type]

    slow, quick = Slow("slow"), MemorySink("quick")
    with gate.model:
        with Pipeline(camera.source, gate.model, sinks=[slow, quick]) as pipeline:
            for level in range(30):
                camera.show(level)
                assert level_of(next(pipeline)) == level
                assert begun.wait(WAIT_S)
            camera.end()
            go_on.set()
        stats = {sink.name: sink for sink in pipeline.stats.sinks}
    written = [level_of(output) for output in slow.outputs]
    assert written == [0, 26, 27, 28, 29]  # the one that it was at, and the newest ones
    assert (stats["slow"].written, stats["slow"].dropped) == (5, 25)
    assert (stats["quick"].written + stats["quick"].dropped, stats["quick"].failure) == (30, None)
    assert pipeline.stats.frames == 30


def test_no_frame_is_given_twice_and_none_out_of_order() -> None:
    camera, gate = Camera(), Gate(open=True, concurrency=3)
    with gate.model, Pipeline(camera.source, gate.model) as pipeline:
        delivered = start(pipeline)
        for level in range(250):
            camera.show_and_wait(level)
        camera.end()
        until_ended()
    assert delivered == sorted(set(delivered))
    assert delivered[-1] == 249
    stats = pipeline.stats
    assert stats.frames + stats.dropped == 250


def test_results_leave_in_order_although_inference_overtakes() -> None:
    """Three run at once, and end last first."""
    passes = [threading.Event() for _ in range(3)]
    camera, gate = Camera(policy="all"), Gate(open=True, concurrency=3)
    run = gate.model.backend.run
    begun = threading.Barrier(4)

    def overtaken(feeds: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]) -> object:
        level = round(float(feeds["image"].mean()) * 255)
        begun.wait(WAIT_S)
        assert passes[level].wait(WAIT_S)
        return run(feeds)

    gate.model.backend.run = overtaken  # type: ignore[assignment, method-assign]
    with gate.model, Pipeline(camera.source, gate.model) as pipeline:
        delivered = start(pipeline)
        for level in range(3):
            camera.show(level)
        camera.end()
        begun.wait(WAIT_S)
        for event in reversed(passes):
            event.set()
        until_ended()
    assert delivered == [0, 1, 2]
