from __future__ import annotations

import itertools
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import edgecnn
from edgecnn.camera import MemoryReader, MemorySink, Source
from edgecnn.errors import ClosedError, InferenceError, OutputError, SourceError
from edgecnn.pipeline import STAGES, Output, Pipeline
from edgecnn.results import Classification
from tests.colours import colour_cycle, colour_model, decode_video, function_model, solid, write_video


def memory(images: list[NDArray[np.uint8]]) -> Source:
    return Source(MemoryReader(images, fps=10))


def label(output: Output) -> str:
    assert isinstance(output.result, Classification)
    return output.result.best.label


def test_results_belong_to_their_frames() -> None:
    images = colour_cycle(7)
    with colour_model() as model, Pipeline(memory(images), model) as pipeline:
        outputs = list(pipeline)
    assert [label(output) for output in outputs] == ["red", "green", "blue"] * 2 + ["red"]
    assert [output.frame.index for output in outputs] == list(range(7))
    assert all(output.frame.image is image for output, image in zip(outputs, images, strict=True))
    scores = outputs[0].result.scores  # type: ignore[attr-defined]
    exponentials = np.exp(np.array([10, 0, 0], np.float32))
    np.testing.assert_allclose(scores, exponentials / exponentials.sum(), rtol=1e-6)


def test_a_real_video_from_end_to_end(videos: Path, tmp_path: Path) -> None:
    sinks: list[str | Path] = [tmp_path / "out.mp4", f"{tmp_path}/out.jsonl"]
    with (
        colour_model() as model,
        edgecnn.Pipeline(videos / "carphone_pristine.mp4", model, sinks=sinks) as pipeline,
    ):
        labels = [label(output) for output in pipeline]
    assert len(labels) == len(decode_video(tmp_path / "out.mp4")) == 120
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(120))
    assert [row["result"]["classes"][0]["label"] for row in rows] == labels
    assert all(row["age_ms"] > 0 and row["dropped"] == 0 for row in rows)
    stats = pipeline.stats
    assert (stats.frames, stats.skipped, stats.dropped) == (120, 0, 0)
    with edgecnn.open_camera(tmp_path / "out.mp4") as source:
        assert source.fps == pytest.approx(29.97, abs=0.01)


def test_latency_adds_up() -> None:
    with colour_model() as model, Pipeline(memory(colour_cycle(5)), model) as pipeline:
        for output in pipeline:
            capture, preprocess, infer, postprocess, total = output.latency
            assert min(capture, preprocess, infer, postprocess) >= 0
            assert preprocess + infer + postprocess <= total
            assert total <= output.frame.age_ms
    stats = pipeline.stats
    assert tuple(stats.stages_ms) == STAGES
    assert all(set(summary) == {"p50", "p90", "p99", "mean"} for summary in stats.stages_ms.values())
    assert stats.latency_ms is not None
    assert stats.age_ms is not None
    assert 0 < stats.latency_ms["mean"] <= stats.age_ms["mean"]
    assert stats.fps == pytest.approx(5 / stats.seconds)
    assert json.loads(json.dumps(stats.to_dict()))["frames"] == 5


def test_statistics_before_the_first_frame() -> None:
    with colour_model() as model, Pipeline(memory([]), model) as pipeline:
        assert list(pipeline) == []
        stats = pipeline.stats.to_dict()
    nothing = {"frames": 0, "skipped": 0, "dropped": 0, "seconds": 0.0, "reconnects": 0, "failures": {}}
    unknown = dict.fromkeys(("fps", "fps_in", "fps_out", "latency_ms", "age_ms"))
    assert stats.items() >= {**nothing, **unknown, "stages_ms": {}}.items()


def test_what_the_pipeline_opened_it_closes_and_nothing_else(tmp_path: Path) -> None:
    video = write_video(tmp_path / "in.mp4", colour_cycle(6))
    model, kept = colour_model(), MemorySink()
    with Pipeline(video, model, sinks=[kept, tmp_path / "out.mp4"]) as pipeline:
        next(pipeline)
        assert not (tmp_path / "out.mp4").exists()
    assert (tmp_path / "out.mp4").exists()
    with pytest.raises(ClosedError):
        next(pipeline.source)
    assert not kept.closed
    source = memory(colour_cycle(3))
    with Pipeline(source, model) as pipeline:
        next(pipeline)
    pipeline.close()
    with pytest.raises(ClosedError, match="pipeline is closed"):
        next(pipeline)
    list(source)  # read ahead or not, it was not closed
    assert isinstance(model(solid("red")), Classification)


def test_drawing_is_done_once_for_all_sinks_and_only_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = colour_model()
    drawn: list[object] = []
    monkeypatch.setattr(model.task, "draw", lambda image, result: drawn.append(result))
    with Pipeline(memory(colour_cycle(3)), model, sinks=[tmp_path / "a.jsonl", MemorySink()]) as pipeline:
        assert len(list(pipeline)) == 3
    assert drawn == []
    with Pipeline(memory(colour_cycle(3)), model, sinks=[tmp_path / "a.mp4", f"{tmp_path}/b/"]) as pipeline:
        outputs = list(pipeline)
    assert drawn == [output.result for output in outputs]


def test_the_frame_is_not_drawn_upon(tmp_path: Path) -> None:
    with (
        colour_model() as model,
        Pipeline(memory([solid("red")]), model, sinks=[tmp_path / "a.png"]) as pipeline,
    ):
        output = next(pipeline)
    np.testing.assert_array_equal(output.frame.image, solid("red"))
    assert not np.array_equal(output.annotated, solid("red"))


def test_one_sink_twice_is_refused(tmp_path: Path) -> None:
    with colour_model() as model, pytest.raises(OutputError, match=r"a\.mp4 is given twice"):
        Pipeline(memory([]), model, sinks=[tmp_path / "a.mp4", tmp_path / "a.mp4"])


def test_a_source_that_cannot_be_opened(tmp_path: Path) -> None:
    with colour_model() as model, pytest.raises(SourceError, match="does not exist"):
        Pipeline(tmp_path / "missing.mp4", model)


def test_a_sink_that_fails_costs_neither_the_others_nor_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sinks = [tmp_path / "a.mp4", tmp_path / "one.png", tmp_path / "b.mp4"]
    with colour_model() as model, Pipeline(memory(colour_cycle(9)), model, sinks=sinks) as pipeline:
        assert len(list(pipeline)) == 9
    assert [len(decode_video(tmp_path / name)) for name in ("a.mp4", "b.mp4")] == [9, 9]
    stats = pipeline.stats
    assert [sink.written for sink in stats.sinks] == [9, 1, 9]
    ((name, reason),) = stats.failures.items()
    assert name.endswith("one.png")
    assert "takes one picture" in reason
    assert [sink.failure for sink in stats.sinks] == [None, reason, None]
    assert sum("one.png" in record.message for record in caplog.records) == 1


def test_a_model_that_fails_midway_leaves_a_whole_video(tmp_path: Path) -> None:
    calls = itertools.count()

    def fail_third(image: NDArray[np.float32]) -> NDArray[np.float32]:
        if next(calls) == 2:
            raise InferenceError("the device is gone")
        return np.zeros((1, 3), np.float32)

    source, sinks = memory(colour_cycle(5)), [tmp_path / "a.mp4"]
    with (
        function_model(fail_third) as model,
        pytest.raises(InferenceError, match="the device is gone"),
        Pipeline(source, model, sinks=sinks) as pipeline,
    ):
        list(pipeline)
    assert len(decode_video(tmp_path / "a.mp4")) == 2


def test_skipped_images_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import cv2

    for name, colour in (("1.png", "red"), ("3.png", "blue")):
        (tmp_path / name).write_bytes(cv2.imencode(".png", solid(colour))[1].tobytes())
    (tmp_path / "2.png").write_bytes(b"damaged")
    with colour_model() as model, Pipeline(tmp_path, model) as pipeline:
        assert [label(output) for output in pipeline] == ["red", "blue"]
    assert (pipeline.stats.frames, pipeline.stats.skipped) == (2, 1)
    assert "2.png" in caplog.text


def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    height, width, count = 270, 480, 300
    images = (np.full((height, width, 3), index % 256, np.uint8) for index in range(count))
    sinks = [tmp_path / "out.mp4", tmp_path / "out.jsonl"]
    with colour_model() as model, Pipeline(Source(MemoryReader(images)), model, sinks=sinks) as pipeline:
        next(pipeline)
        tracemalloc.start()
        for _ in pipeline:
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert pipeline.stats.frames == count
    # a frame in each stage and channel, and in the sinks' queues together with its annotated copy
    assert peak < 30 * height * width * 3
