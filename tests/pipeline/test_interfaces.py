"""The callback and asyncio, which are thin over iterating."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import types

import pytest

from edgecnn.camera import MemoryReader, MemorySink, Source
from edgecnn.camera.sink import StopRequested
from edgecnn.errors import ClosedError, SourceError
from edgecnn.pipeline import Output, Pipeline
from tests.colours import colour_cycle, colour_model
from tests.live import WAIT_S, Camera, Gate, level_of


def source(count: int) -> Source:
    return Source(MemoryReader(colour_cycle(count)))


# --- the callback


def test_the_callback_gets_every_output() -> None:
    seen: list[int] = []
    with colour_model() as model, Pipeline(source(9), model) as pipeline:
        stats = pipeline.run(lambda output: seen.append(output.frame.index))
    assert seen == list(range(9))
    assert stats.frames == 9


def test_without_a_callback_the_sinks_get_them() -> None:
    sink = MemorySink()
    with colour_model() as model, Pipeline(source(9), model, sinks=[sink]) as pipeline:
        assert pipeline.run().frames == 9
    assert len(sink.outputs) == 9


def test_a_callback_that_throws_is_told_once_a_place(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    calls: list[int] = []

    def throw(output: Output) -> None:
        calls.append(output.frame.index)
        if output.frame.index % 2:
            raise KeyError("here")
        raise ValueError(f"there, frame {output.frame.index}")

    with colour_model() as model, Pipeline(source(40), model) as pipeline:
        stats = pipeline.run(throw)
    assert calls == list(range(40))
    assert sorted(stats.failures.values()) == ["KeyError: 'here'", "ValueError: there, frame 0"]
    assert all(name.startswith("callback throw, ") for name in stats.failures)
    assert len(caplog.records) == 2


def test_a_callback_may_ask_to_stop_or_close() -> None:
    def stop(output: Output) -> None:
        if output.frame.index == 4:
            raise StopRequested

    with colour_model() as model:
        with Pipeline(source(40), model) as pipeline:
            assert pipeline.run(stop).frames == 5
            assert next(pipeline).frame.index == 5
        with Pipeline(source(40), model) as pipeline:
            assert pipeline.run(lambda _: pipeline.close()).frames == 1
        with pytest.raises(ClosedError):
            pipeline.run()


def test_what_ends_the_pipeline_ends_the_run() -> None:
    camera, gate = Camera(), Gate(open=True)
    camera.end(SourceError("the cable"))
    with (
        gate.model,
        Pipeline(camera.source, gate.model) as pipeline,
        pytest.raises(SourceError, match="cable"),
    ):
        pipeline.run()


# --- asyncio


def test_async_for() -> None:
    async def main() -> list[int]:
        return [output.frame.index async for output in pipeline]

    with colour_model() as model, Pipeline(source(30), model) as pipeline:
        assert asyncio.run(main()) == list(range(30))


def test_the_event_loop_does_other_work_meanwhile() -> None:
    camera, gate = Camera(), Gate()

    async def main() -> int:
        waiting = asyncio.ensure_future(anext_of(pipeline))
        await asyncio.to_thread(gate.begun.get, WAIT_S)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not waiting.done()
        gate.let()
        return level_of(await waiting)

    camera.show(7)
    with gate.model, Pipeline(camera.source, gate.model) as pipeline:
        assert asyncio.run(main()) == 7
        camera.source.close()


def test_a_wait_that_is_cancelled_loses_nothing() -> None:
    camera, gate = Camera(policy="all"), Gate(open=True)

    async def main() -> list[int]:
        got = []
        for level in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext_of(pipeline), 0.01)
            camera.show(level)
            got.append(level_of(await asyncio.wait_for(anext_of(pipeline), WAIT_S)))
        return got

    with gate.model, Pipeline(camera.source, gate.model) as pipeline:
        assert asyncio.run(main()) == [0, 1, 2]
        camera.source.close()


def test_waits_that_were_cancelled_leave_nothing_while_a_camera_is_away() -> None:
    camera, gate = Camera(policy="all"), Gate(open=True)

    def closures() -> int:
        gc.collect()
        # `isinstance` would ask each object for its class, of which some of torch's warn
        functions = [one for one in gc.get_objects() if type(one) is types.FunctionType]
        return sum(one.__qualname__.startswith("Pipeline.__anext__.") for one in functions)

    async def wait_in_vain(times: int) -> int:
        for _ in range(times):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext_of(pipeline), 0.001)
        return closures()

    with gate.model, Pipeline(camera.source, gate.model) as pipeline:
        few, many = asyncio.run(wait_in_vain(2)), asyncio.run(wait_in_vain(20))
        camera.source.close()
    assert many <= few


def test_errors_and_closing_reach_the_event_loop() -> None:
    camera, gate = Camera(), Gate(open=True)
    camera.end(SourceError("the cable"))

    async def iterate() -> None:
        async for _ in pipeline:
            pass

    with gate.model, Pipeline(camera.source, gate.model) as pipeline:
        for _ in range(2):
            with pytest.raises(SourceError, match="the cable"):
                asyncio.run(iterate())
    with pytest.raises(ClosedError):
        asyncio.run(iterate())


def test_an_event_loop_that_ends_before_the_next_output() -> None:
    camera, gate = Camera(), Gate(open=True)

    async def give_up() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext_of(pipeline), 0.01)

    with gate.model, Pipeline(camera.source, gate.model) as pipeline:
        asyncio.run(give_up())
        camera.show(5)
        (waiting,) = (thread for thread in threading.enumerate() if thread.name == "edgecnn-async")
        waiting.join(WAIT_S)

        async def again() -> int:
            return level_of(await anext_of(pipeline))

        assert asyncio.run(again()) == 5
        camera.source.close()


async def anext_of(pipeline: Pipeline) -> Output:
    return await pipeline.__anext__()
