"""Sinks of every kind behind a pipeline."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable
from pathlib import Path
from time import sleep

import numpy as np
import pytest
from numpy.typing import NDArray

from edgecnn.camera import MemoryReader, Source, StopRequested, open_camera
from edgecnn.camera.web_sink import WebSink
from edgecnn.pipeline import Output, Pipeline
from tests.camera.test_web_sink import pictures, watch
from tests.colours import colour_cycle, colour_model, decode_video, function_model


def source(count: int) -> Source:
    return Source(MemoryReader(colour_cycle(count)))


def test_functions_are_sinks() -> None:
    first: list[int] = []
    second: list[str] = []
    sinks: list[Callable[[Output], object]] = [
        lambda output: first.append(output.frame.index),
        lambda output: second.append(output.result.to_dict()["classes"][0]["label"]),
    ]
    with colour_model() as model, Pipeline(source(3), model, sinks=sinks) as pipeline:
        pipeline.run()
    assert first == [0, 1, 2]
    assert second == ["red", "green", "blue"]


def test_a_function_that_raises_is_reported_once_and_the_run_goes_on() -> None:
    calls: list[int] = []

    def fails(output: Output) -> None:
        calls.append(output.frame.index)
        raise ZeroDivisionError("so it goes")

    with colour_model() as model, Pipeline(source(20), model, sinks=[fails]) as pipeline:
        stats = pipeline.run()
    assert calls == [0]
    assert stats.frames == 20
    (failure,) = [sink.failure for sink in stats.sinks]
    assert "fails failed: got ZeroDivisionError: so it goes" in str(failure)


def test_a_function_may_end_the_run() -> None:
    def enough(output: Output) -> None:
        if output.frame.index == 3:
            raise StopRequested

    with colour_model() as model, open_camera("test://?fps=30") as camera:
        with Pipeline(camera, model, sinks=[enough]) as pipeline:
            stats = pipeline.run()
        assert stats.frames >= 3
    assert [sink.failure for sink in stats.sinks] == [None]


def test_viewers_that_never_read_cost_no_frame(tmp_path: Path) -> None:
    """Every frame of a file is in the table and in the video, and one who does look sees pictures."""
    with WebSink("http://:0?fps=60") as view, colour_model() as model:
        stuck = [watch(view, receive_buffer=4096) for _ in range(3)]
        frames = Source(MemoryReader(colour_cycle(300, (480, 640))))
        with (
            watch(view) as client,
            Pipeline(frames, model, sinks=[view, tmp_path / "a.csv", tmp_path / "a.mp4"]) as pipeline,
        ):
            stats = pipeline.run()
            assert next(pictures(client)).shape == (480, 640, 3)
        for other in stuck:
            other.close()
    assert stats.frames == 300
    with (tmp_path / "a.csv").open() as file:
        assert [row["index"] for row in itertools.islice(csv.DictReader(file), 0, None, 3)] == [
            str(index) for index in range(300)
        ]
    assert len(decode_video(tmp_path / "a.mp4")) == 300


def test_a_video_of_a_slow_model_runs_at_the_speed_of_the_camera(tmp_path: Path) -> None:
    def slow(image: NDArray[np.float32]) -> NDArray[np.float32]:
        sleep(0.1)
        return np.asarray(image.mean((2, 3)), np.float32)

    seen: list[float] = []
    with function_model(slow) as model, open_camera("test://?fps=30&frames=60") as camera:

        def note(output: Output) -> None:
            seen.append(output.frame.captured_at)

        with Pipeline(camera, model, sinks=[tmp_path / "a.mp4", note]) as pipeline:
            pipeline.run()
    assert len(seen) < 40  # of 60
    # Both sinks may miss the same frames or not: a frame at either end is a tenth of a second.
    assert len(decode_video(tmp_path / "a.mp4")) == pytest.approx(30 * (seen[-1] - seen[0]), abs=15)
