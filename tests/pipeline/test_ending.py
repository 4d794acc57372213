"""However a pipeline ends: no thread is left, nobody waits for ever, and what was delivered is written."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import edgecnn
from edgecnn.camera import MemoryReader, MemorySink, Source
from edgecnn.camera.sink import StopRequested
from edgecnn.errors import ClosedError, InferenceError, InputError, OutputError, SourceError
from edgecnn.pipeline import Failure, Output, Pipeline
from tests.colours import colour_cycle, colour_model, decode_video, write_video
from tests.live import WAIT_S, Camera, Gate, grey, level_of, pipeline_threads


def in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


# --- errors come out behind the results


@pytest.mark.parametrize("policy", ["all", "latest"])
def test_a_source_that_breaks(policy: str) -> None:
    camera, gate = Camera(policy=policy), Gate(open=True)
    with gate.model, Pipeline(camera.source, gate.model) as pipeline:
        camera.show(1)
        assert level_of(next(pipeline)) == 1
        camera.end(SourceError("the cable"))
        for _ in range(2):
            with pytest.raises(SourceError, match="the cable"):
                next(pipeline)
    assert pipeline.stats.failures == {}  # it was raised


@pytest.mark.parametrize("policy", ["all", "latest"])
@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_device_that_is_lost(policy: str, concurrency: int) -> None:
    camera, gate = Camera(policy=policy), Gate(open=True, concurrency=concurrency)
    with gate.model, Pipeline(camera.source, gate.model) as pipeline:
        camera.show(1)
        assert level_of(next(pipeline)) == 1
        gate.error = InferenceError("the device is gone")
        for level in range(2, 9):
            camera.show(level)
        with pytest.raises(InferenceError, match="the device is gone"):
            next(pipeline)
        camera.end()
        gate.error = None
    again = Camera()
    again.show(3)
    with Gate(open=True).model as model, Pipeline(again.source, model) as pipeline:  # who reopens, goes on
        assert level_of(next(pipeline)) == 3
        again.end()


def test_a_frame_that_the_model_does_not_take() -> None:
    images = [grey(1), grey(2), grey(3)[:, :, :2], grey(4)]
    gate = Gate(open=True)
    with gate.model, Pipeline(Source(MemoryReader(images)), gate.model) as pipeline:
        assert [level_of(next(pipeline)) for _ in range(2)] == [1, 2]
        with pytest.raises(InputError, match="not a frame"):
            next(pipeline)


def test_a_model_that_is_closed_under_way(colour_onnx: Path) -> None:
    source = Source(MemoryReader(frame for _ in range(10**6) for frame in colour_cycle(3)))
    with edgecnn.load(colour_onnx) as model, Pipeline(source, model) as pipeline:
        next(pipeline)
        model.close()
        with pytest.raises(ClosedError):
            list(pipeline)


# --- closing


def test_closing_lets_a_waiting_consumer_go() -> None:
    camera, gate, ended = Camera(), Gate(open=True), []
    with gate.model:
        pipeline = Pipeline(camera.source, gate.model)
        camera.show(1)
        assert level_of(next(pipeline)) == 1
        consumers = [in_thread(lambda: ended.append(next(pipeline, None))) for _ in range(3)]
        for consumer in [in_thread(pipeline.close), *consumers]:
            consumer.join(WAIT_S)
            assert not consumer.is_alive()
        pipeline.close()
        assert ended[0] is None
        with pytest.raises(ClosedError):
            next(pipeline)
        camera.source.close()


def test_closing_during_an_inference_waits_for_it() -> None:
    camera, gate = Camera(), Gate()
    with gate.model:
        pipeline = Pipeline(camera.source, gate.model)
        camera.show(1)
        consumer = in_thread(lambda: next(pipeline, None))
        assert gate.begun.get(WAIT_S) == [1]
        closer = in_thread(pipeline.close)
        consumer.join(WAIT_S)
        gate.let()
        closer.join(WAIT_S)
        camera.source.close()


def test_a_source_opened_here_is_let_go_in_the_middle_of_a_wait() -> None:
    gate = Gate(open=True)
    with gate.model, Pipeline("test://?width=96&height=96&fps=0.01", gate.model) as pipeline:
        consumer = in_thread(lambda: list(pipeline))
        while pipeline.stats.frames == 0:
            time.sleep(0.005)
        start = time.monotonic()
    assert time.monotonic() - start < WAIT_S
    consumer.join(WAIT_S)
    assert pipeline.stats.sources[0].state == "closed"


def test_before_the_first_frame_closing_leaves_nothing(tmp_path: Path) -> None:
    with colour_model() as model:
        source = Source(MemoryReader(colour_cycle(3)))
        with Pipeline(source, model, sinks=[tmp_path / "out.mp4", MemorySink()]) as pipeline:
            pass
        assert list(tmp_path.iterdir()) == []
        assert len(list(source)) == 3
    assert pipeline.stats.frames == 0


def test_what_a_slow_sink_was_given_it_writes() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(MemorySink):
        def _write(self, output: Output) -> None:
            begun.set()
            assert go_on.wait(WAIT_S)
            super()._write(output)

    sink = Slow()
    with colour_model() as model:
        pipeline = Pipeline(Source(MemoryReader(colour_cycle(9))), model, sinks=[sink])
        for _ in range(5):
            next(pipeline)
        closer = in_thread(pipeline.close)
        assert begun.wait(WAIT_S)
        go_on.set()
        closer.join(WAIT_S)
    assert [output.frame.index for output in sink.outputs] == list(range(5))


def test_a_file_through_a_slow_sink_is_whole() -> None:
    class Slow(MemorySink):
        def _write(self, output: Output) -> None:
            time.sleep(0.002)
            super()._write(output)

    slow, quick = Slow("slow"), MemorySink("quick")
    with colour_model() as model:
        with Pipeline(Source(MemoryReader(colour_cycle(100))), model, sinks=[slow, quick]) as pipeline:
            assert [output.frame.index for output in pipeline] == list(range(100))
        for sink in (slow, quick):
            assert [output.frame.index for output in sink.outputs] == list(range(100))
    assert [sink.dropped for sink in pipeline.stats.sinks] == [0, 0]


def test_a_viewer_is_not_waited_for() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Viewer(MemorySink):
        lossy = True

        def _write(self, output: Output) -> None:
            begun.set()
            assert go_on.wait(WAIT_S)
            super()._write(output)

    viewer = Viewer()
    with colour_model() as model:
        with Pipeline(Source(MemoryReader(colour_cycle(50))), model, sinks=[viewer]) as pipeline:
            next(pipeline)
            assert begun.wait(WAIT_S)
            assert len(list(pipeline)) == 49
            go_on.set()
        assert len(viewer.outputs) <= 2
        assert pipeline.stats.sinks[0].dropped == 48


def test_closing_at_any_moment(colour_onnx: Path, tmp_path: Path) -> None:
    """From another thread, while frames, results and outputs are handed over as fast as they go."""
    rng = random.Random(0)
    endless = [frame for _ in range(10) for frame in colour_cycle(3)]
    with edgecnn.load(colour_onnx, threads=1) as model:
        for round_ in range(60):
            sources = [
                Source(
                    MemoryReader(frame for _ in range(10**6) for frame in endless),
                    policy=("all", "latest")[round_ % 2],
                )
                for _ in range(1 + round_ % 3)
            ]
            sinks = [MemorySink("one"), MemorySink("two")]
            pipeline = Pipeline(sources, model, sinks=sinks)
            outputs: list[Output] = []
            consumer = in_thread(lambda outputs=outputs, pipeline=pipeline: outputs.extend(pipeline))  # type: ignore[misc]
            while not outputs:
                time.sleep(0.0005)
            time.sleep(rng.random() * 0.01)
            closers = [in_thread(pipeline.close) for _ in range(1 + round_ % 2)]
            for thread in [consumer, *closers]:
                thread.join(WAIT_S)
                assert not thread.is_alive()
            pipeline.close()
            delivered = [output.frame.index for output in outputs]
            for sink in sinks:
                written = [output.frame.index for output in sink.outputs]
                if round_ % 2:  # a camera's: a sink may miss some
                    assert set(written) <= set(delivered)
                else:
                    assert written == delivered


# --- sinks that end it, or fail


def test_a_sink_that_wants_no_more_ends_the_run() -> None:
    class Window(MemorySink):
        def _write(self, output: Output) -> None:
            super()._write(output)
            if len(self.outputs) == 3:
                raise StopRequested

    window, other = Window("window"), MemorySink("other")
    source = Source(MemoryReader(frame for _ in range(10**6) for frame in colour_cycle(3)))
    with colour_model() as model:
        with Pipeline(source, model, sinks=[window, other]) as pipeline:
            delivered = len(list(pipeline))
        assert len(other.outputs) == delivered >= 3
    assert len(window.outputs) == 3
    assert pipeline.stats.failures == {}


def test_a_sink_that_closes_the_pipeline() -> None:
    class Closing(MemorySink):
        def _write(self, output: Output) -> None:
            super()._write(output)
            if len(self.outputs) == 3:
                pipeline.close()

    sink = Closing()
    source = Source(MemoryReader(frame for _ in range(10**6) for frame in colour_cycle(3)))
    with colour_model() as model:
        with Pipeline(source, model, sinks=[sink]) as pipeline:
            delivered = len(list(pipeline))
        assert 3 <= len(sink.outputs) == delivered


def test_a_sink_that_its_owner_closed_is_no_failure() -> None:
    sink = MemorySink()
    source = Source(MemoryReader(colour_cycle(30)))
    with colour_model() as model, Pipeline(source, model, sinks=[sink]) as pipeline:
        next(pipeline)
        sink.close()
        assert len(list(pipeline)) == 29
    assert pipeline.stats.failures == {}


DISK, BUG = OutputError("the disk is full"), ZeroDivisionError("our bug")


@pytest.mark.parametrize("error", [DISK, BUG, SystemExit(3)])
def test_a_failure_is_told_once(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(MemorySink):
        def _write(self, output: Output) -> None:
            if len(self.outputs) == 2:
                raise error
            super()._write(output)

    sink, other, events = Failing("failing"), MemorySink("other"), []

    def on_event(event: object) -> None:
        events.append(event)
        raise ValueError("the listener's bug")

    source = Source(MemoryReader(colour_cycle(40)))
    with colour_model() as model:
        with Pipeline(source, model, sinks=[sink, other], on_event=on_event) as pipeline:
            assert len(list(pipeline)) == 40
        assert (len(sink.outputs), len(other.outputs)) == (2, 40)
    assert sink.closed
    reason = "the disk is full" if isinstance(error, OutputError) else f"{type(error).__name__}: {error}"
    assert pipeline.stats.failures == {"failing": reason}
    assert [sink.failure for sink in pipeline.stats.sinks] == [reason, None]
    (event,) = (event for event in events if isinstance(event, Failure))
    assert (event.name, event.reason, event.error) == ("failing", reason, error)
    messages = [record.message for record in caplog.records if record.name.startswith("edgecnn.pipeline")]
    assert messages == [f"failing failed: {reason}", "the callback on_event failed"]


def test_a_sink_that_cannot_be_finished_is_told_when_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unfinished(MemorySink):
        def _finish(self) -> None:
            raise OutputError("no room for the index")

    bad = Unfinished("bad")
    monkeypatch.setattr(
        "edgecnn.pipeline.pipeline.open_sink",
        lambda uri, **options: bad if uri == "bad" else MemorySink(str(uri)),
    )
    with colour_model() as model:
        pipeline = Pipeline(Source(MemoryReader(colour_cycle(3))), model, sinks=["bad", "good"])
        assert len(list(pipeline)) == 3
        with pytest.raises(OutputError, match="no room for the index"):
            pipeline.close()
        assert all(sink.closed for sink in pipeline.sinks)  # type: ignore[attr-defined]
        pipeline.close()
    assert pipeline.stats.failures == {"bad": "no room for the index"}


def test_a_sink_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecnn.pipeline.ending.SINKS_S", 0.05)
    go_on = threading.Event()

    class Hanging(MemorySink):
        def _write(self, output: Output) -> None:
            assert go_on.wait(WAIT_S)

    with colour_model() as model:
        pipeline = Pipeline(Source(MemoryReader(colour_cycle(3))), model, sinks=[Hanging("hanging")])
        next(pipeline)
        with pytest.raises(OutputError, match="hanging was not finished"):
            pipeline.close()
        go_on.set()
    assert "hanging" in pipeline.stats.failures


# --- nobody closes it


def test_one_that_is_forgotten_is_closed_when_collected(tmp_path: Path) -> None:
    source = Source(MemoryReader(frame for _ in range(10**6) for frame in colour_cycle(3)))
    with colour_model() as model:
        pipeline = Pipeline(source, model, sinks=[tmp_path / "out.mp4"])
        for _ in range(5):
            next(pipeline)
        assert pipeline_threads()
        del pipeline
        gc.collect()
        deadline = time.monotonic() + WAIT_S
        while pipeline_threads() and time.monotonic() < deadline:
            time.sleep(0.005)
    assert len(decode_video(tmp_path / "out.mp4")) == 5


FORGOTTEN = """
import sys, edgecnn
model = edgecnn.load(sys.argv[1])
pipeline = edgecnn.Pipeline({source}, model, sinks=[sys.argv[2]], force=True)
for output in pipeline:
    if output.frame.index >= 4:
        break
{end}
"""


@pytest.mark.parametrize("end", ["", "raise SystemExit", "pipeline = None"])
def test_one_that_is_forgotten_is_closed_when_the_interpreter_ends(
    colour_onnx: Path, tmp_path: Path, end: str
) -> None:
    code = FORGOTTEN.format(source="'test://?width=96&height=96&fps=100'", end=end)
    done = subprocess.run(
        [sys.executable, "-c", code, colour_onnx, tmp_path / "out.mp4"],
        capture_output=True, text=True, check=False, env=_environment(), timeout=WAIT_S,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert len(decode_video(tmp_path / "out.mp4")) >= 1


INTERRUPTED = """
import sys, edgecnn
with edgecnn.load(sys.argv[1]) as model:
    for round in range(1000):
        with edgecnn.Pipeline(sys.argv[2], model, sinks=[sys.argv[3]], force=True) as pipeline:
            for count, output in enumerate(pipeline):
                if count == 2:
                    print(flush=True)
"""


def test_ctrl_c_at_any_moment(colour_onnx: Path, tmp_path: Path) -> None:
    """In iteration, in handing over, in closing, in opening: it ends at once, and the video can be played."""
    video = write_video(tmp_path / "in.mp4", colour_cycle(40))
    rng = random.Random(1)
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED, colour_onnx, video, tmp_path / "out.mp4"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment(),
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.random() * 0.2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=WAIT_S)
        assert process.returncode == -signal.SIGINT, said
        assert said.splitlines()[-1].startswith("KeyboardInterrupt"), said
        assert len(decode_video(tmp_path / "out.mp4")) >= 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
