"""Several cameras on one model, several models on one camera."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edgecnn
from edgecnn.backends import FunctionBackend, TensorInfo
from edgecnn.camera import Frame, MemoryReader, Source
from edgecnn.camera_input import CameraInput
from edgecnn.errors import InferenceError, InputError, SourceError, SpecError
from edgecnn.metadata import CAMERA_KEY
from edgecnn.model import Model
from edgecnn.pipeline import Cascade, Failure, Pipeline, RegionResults
from edgecnn.pipeline.delivery import Failures
from edgecnn.pipeline.stages import Stages
from edgecnn.pipeline.work import BatchSize
from edgecnn.results import Classification
from edgecnn.spec import ModelSpec, image_spec
from tests.cameras import camera_bytes
from tests.colours import SPEC, colour_cycle, colour_model, colour_of, function_model, solid, write_video
from tests.live import WAIT_S, Camera, Gate, grey, level_of, pipeline_threads

Models = dict[str, Model | Cascade]


def memory(*levels: int, name: str = "memory") -> Source:
    return Source(MemoryReader([grey(level) for level in levels], name=name))


# --- cameras


def test_files_side_by_side_lose_nothing_and_keep_their_orders() -> None:
    sources = [memory(*range(80 * camera, 80 * camera + 40 + camera)) for camera in range(3)]
    gate = Gate(open=True)
    with gate.model, Pipeline(sources, gate.model) as pipeline:
        outputs = list(pipeline)
    for camera in range(3):
        levels = [level_of(output) for output in outputs if output.camera == camera]
        assert levels == list(range(80 * camera, 80 * camera + 40 + camera))
    stats = pipeline.stats
    assert (stats.frames, stats.dropped) == (123, 0)
    assert [source.frames for source in stats.sources] == [40, 41, 42]


def test_cameras_take_turns_although_one_is_faster() -> None:
    cameras = [Camera(f"camera {index}") for index in range(4)]
    gate = Gate(batch=1)
    with gate.model, Pipeline([camera.source for camera in cameras], gate.model) as pipeline:
        for camera in cameras:
            camera.show(level_for(camera))
        threading.Thread(target=lambda: list(pipeline), daemon=True).start()
        seen: Counter[int] = Counter()
        for camera in cameras:
            camera.taken.get(WAIT_S)
        for _ in range(40):
            (level,) = gate.begun.get(WAIT_S)
            seen[level // 50 - 1] += 1
            for camera in cameras:  # the first one gives five frames where the others give one
                camera.show_and_wait(*[level_for(camera)] * (5 if camera is cameras[0] else 1))
            gate.let()
        gate.open()
        for camera in cameras:
            camera.source.close()
    assert max(seen.values()) - min(seen.values()) <= 4


def level_for(camera: Camera) -> int:
    return 50 * (int(camera.name[-1]) + 1)


def test_a_fixed_batch_is_filled_with_what_waits() -> None:
    cameras = [Camera(f"camera {index}", policy="all") for index in range(3)]
    gate = Gate(batch=3)
    for camera, level in zip(cameras, (10, 20, 30), strict=True):
        for step in range(3):
            camera.show(level + step)
        camera.end()
    with gate.model, Pipeline([camera.source for camera in cameras], gate.model) as pipeline:
        outputs: list[Any] = []
        consumer = threading.Thread(target=lambda: outputs.extend(pipeline), daemon=True)
        consumer.start()
        first = gate.begun.get(WAIT_S)
        gate.open()
        consumer.join(WAIT_S)
    assert len(first) == 3  # always: the batch is fixed
    assert len(gate.rows) < 9  # and rarely of a single frame
    for index in range(3):
        levels = [level_of(output) for output in outputs if output.camera == index]
        assert levels == [10 * (index + 1) + step for step in range(3)]


def test_a_video_alone_fills_a_fixed_batch_too() -> None:
    gate = Gate(batch=4, open=True)
    with gate.model, Pipeline(memory(*range(101)), gate.model) as pipeline:
        assert [level_of(output) for output in pipeline] == list(range(101))


def test_a_free_batch_is_used_where_it_pays() -> None:
    for seconds_of_many, chosen in ((0.4, 4), (4.0, 1), (3.9, 1)):
        size = BatchSize([None, None], 4)
        assert size.largest == 4
        while size.choose() == 1 and len(size._times[1]) < size.TRIALS:
            size.record(1, 1.0)
            size.record(3, 0.1)  # what was neither
        while len(size._times[4]) < size.TRIALS:
            assert size.choose() == 4
            size.record(4, seconds_of_many)
        assert size.choose() == chosen
    assert BatchSize([None], 1).choose() == 1
    assert BatchSize([8, None, 4], 1).choose() == 4
    assert BatchSize([8], 20).choose() == 8


def test_frames_of_several_cameras_go_through_a_real_model_together(colour_onnx: Path) -> None:
    sources = [Source(MemoryReader(colour_cycle(60))) for _ in range(3)]
    with edgecnn.load(colour_onnx) as model, Pipeline(sources, model) as pipeline:
        outputs = list(pipeline)
    assert len(outputs) == 180
    for output in outputs:
        assert isinstance(output.result, Classification)
        assert output.result.best.label == colour_of(output.frame.image)


def test_a_camera_that_fails_is_reported_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    good, bad, gate = Camera("good", policy="all"), Camera("bad", policy="all"), Gate(open=True)
    events: list[object] = []
    bad.show(1)
    bad.end(SourceError("the cable"))
    with (
        gate.model,
        Pipeline([good.source, bad.source], gate.model, on_event=events.append) as pipeline,
    ):
        assert level_of(next(pipeline)) == 1
        for level in range(20):
            good.show(level)
        good.end()
        assert [level_of(next(pipeline)) for _ in range(20)] == list(range(20))
        with pytest.raises(SourceError, match="the cable"):
            next(pipeline)
    assert pipeline.stats.failures == {"bad": "the cable"}
    (failure,) = (event for event in events if isinstance(event, Failure))
    assert (failure.name, failure.reason) == ("bad", "the cable")
    assert [record.message for record in caplog.records] == ["bad failed: the cable"]


def test_a_camera_that_is_closed_with_the_pipeline_has_not_failed() -> None:
    sources = [memory(1, name="a"), memory(2, name="b")]
    failures = Failures()
    with colour_model() as model:
        stages = Stages(sources, {"colours": model}, deadline_ms=None, failures=failures)
        stages.halt()
        for source in sources:
            source.close()
        stages.start()  # as a thread that comes for its next frame only now
        assert stages.join(WAIT_S, capture_s=WAIT_S)
    assert failures.by_name == {}


def test_a_pipeline_tells_nothing_of_its_sources_once_it_is_closed() -> None:
    source, events = memory(1), list[object]()
    with colour_model() as model, Pipeline(source, model, on_event=events.append):
        pass
    source.close()
    assert events == []


def test_a_pipeline_of_nothing() -> None:
    with colour_model() as model, pytest.raises(SpecError, match="needs a source"):
        Pipeline([], model)
    with pytest.raises(SpecError, match="needs a model"):
        Pipeline(memory(1), {})


def test_what_was_opened_is_closed_where_another_cannot_be(tmp_path: Path) -> None:
    good = write_video(tmp_path / "good.mp4", colour_cycle(3))
    with colour_model() as model, pytest.raises(SourceError):
        Pipeline([good, tmp_path / "missing.mp4"], model)


# --- models


def test_models_look_at_the_same_frame_at_the_same_time() -> None:
    together = threading.Barrier(2)

    def meet(image: NDArray[np.float32]) -> NDArray[np.float32]:
        together.wait(WAIT_S)
        return np.asarray(10 * image.mean((2, 3)), np.float32)

    models = {name: function_model(meet, name=name) for name in ("one", "two")}
    with Pipeline(Source(MemoryReader(colour_cycle(30))), models) as pipeline:
        outputs = list(pipeline)
    assert len(outputs) == 30
    for output in outputs:
        assert list(output.results) == ["one", "two"]
        assert output.result is output.results["one"]
        for result in output.results.values():
            assert isinstance(result, Classification)
            assert result.best.label == colour_of(output.frame.image)
    row = outputs[0].to_dict()
    assert row["results"]["two"]["classes"][0]["label"] == "red"
    assert "result" not in row
    assert pipeline_threads() == []


@pytest.mark.parametrize("failing", ["one", "two"])
def test_one_of_several_models_that_fails(failing: str) -> None:
    def fail(image: NDArray[np.float32]) -> NDArray[np.float32]:
        raise InferenceError("the device is gone")

    models = {"one": colour_model(), "two": colour_model(), failing: function_model(fail)}
    with (
        pytest.raises(InferenceError, match="the device is gone"),
        Pipeline(Source(MemoryReader(colour_cycle(30))), models) as pipeline,
    ):
        list(pipeline)
    assert pipeline_threads() == []


def halves(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    height, width = image.shape[:2]
    return np.array([[0, 0, width / 2, height], [width / 2, 0, width, height]])


def test_a_cascade_looks_at_regions_of_what_was_found(colour_onnx: Path) -> None:
    image = np.concatenate([solid("blue", (48, 32)), solid("green", (48, 32))], axis=1)
    asked: list[tuple[Any, Frame]] = []

    def regions(result: Any, frame: Frame) -> NDArray[np.float64]:
        asked.append((result, frame))
        return halves(frame.image)

    with colour_model() as first, edgecnn.load(colour_onnx) as second:
        models: Models = {"whole": first, "parts": Cascade(second, of="whole", regions=regions)}
        with Pipeline(Source(MemoryReader([image] * 3)), models) as pipeline:
            outputs = list(pipeline)
    for output, (result, frame) in zip(outputs, asked, strict=True):
        assert result is output.results["whole"] is output.result
        assert frame is output.frame
        parts = output.results["parts"]
        assert isinstance(parts, RegionResults)
        np.testing.assert_array_equal(parts.boxes_xyxy, [[0, 0, 32, 48], [32, 0, 64, 48]])
        assert [part.best.label for part in parts.results] == ["blue", "green"]  # type: ignore[attr-defined]
    row = outputs[0].to_dict()["results"]["parts"]
    assert row["boxes_xyxy"] == [[0, 0, 32, 48], [32, 0, 64, 48]]
    assert [part["classes"][0]["label"] for part in row["results"]] == ["blue", "green"]
    drawn = outputs[0].annotated
    assert (drawn[[0, -1], 1:31] == 255).all()  # the border of the left region
    np.testing.assert_array_equal(outputs[0].frame.image, image)


def raw_model(camera: CameraInput) -> Model:
    """A model that takes the camera's own bytes, and finds how bright their middle is."""

    def run(feeds: Any) -> dict[str, NDArray[Any]]:
        return {"y": feeds["x"][:, 4:5, 4:5, :1].astype(np.float32).reshape(len(feeds["x"]), 1)}

    spec = ModelSpec(task="raw", image=image_spec("imagenet", size_hw=(32, 32)))
    backend = FunctionBackend(
        run,
        inputs=(TensorInfo("x", (1, *camera.shape), "uint8"),),
        outputs=(TensorInfo("y", (1, 1), "float32"),),
        metadata={CAMERA_KEY: camera.to_json()},
    )
    return Model(backend, spec, name=camera.pixel_format)


def test_frames_of_raw_bytes_are_drawn_and_cut_out_as_pictures() -> None:
    camera = CameraInput(frame_hw=(48, 64), pixel_format="nv12")
    image = np.concatenate([solid("blue", (48, 32)), solid("green", (48, 32))], axis=1)
    with raw_model(camera) as raw, colour_model() as colours:
        parts = Cascade(colours, of="raw", regions=lambda _, frame: [[0, 0, 32, 48], [32, 0, 64, 48]])
        reader = MemoryReader([camera_bytes(image, "nv12")[0]])
        with Pipeline(Source(reader), {"raw": raw, "parts": parts}) as pipeline:
            output = next(pipeline)
    found = output.results["parts"]
    assert isinstance(found, RegionResults)
    assert [part.best.label for part in found.results] == ["blue", "green"]  # type: ignore[attr-defined]
    np.testing.assert_allclose(output.picture, image, atol=3)
    assert output.annotated.shape == image.shape


def test_one_camera_gives_one_kind_of_bytes() -> None:
    models = [raw_model(CameraInput(frame_hw=(48, 64), pixel_format=code)) for code in ("nv12", "yuyv")]
    with pytest.raises(SpecError, match=r"got nv12 for a, yuyv for b, bgr for c"):
        Pipeline(Source(MemoryReader([])), {"a": models[0], "b": models[1], "c": colour_model()})


@pytest.mark.parametrize("taken", [None, "bgr", "rgb", "gray", "nv12", "yuyv"])
@pytest.mark.parametrize("given", ["bgr", "gray", "nv12", "yuyv"])
def test_a_camera_s_bytes_are_those_that_the_model_takes(given: str, taken: Any) -> None:
    camera = taken and CameraInput(frame_hw=(64, 96), pixel_format=taken)
    fits = given in ("bgr", "gray") if camera is None else given == taken
    uri = f"test://?width=96&height=64&fps=500&frames=2&format={given}"
    with raw_model(camera) if camera else colour_model() as model:
        if fits:
            with Pipeline(uri, model) as pipeline:
                next(pipeline)
        else:
            with pytest.raises(
                SpecError, match=rf"does not take the frames of test://.* got {given}, expected"
            ):
                Pipeline(uri, model)


def test_a_cascade_upon_a_cascade() -> None:
    with colour_model() as model:
        models: Models = {
            "whole": model,
            "parts": Cascade(model, of="whole", regions=lambda _, frame: halves(frame.image)),
            "first": Cascade(model, of="parts", regions=lambda parts, _: parts.boxes_xyxy[:1]),
        }
        with Pipeline(Source(MemoryReader(colour_cycle(2))), models) as pipeline:
            firsts = [output.results["first"] for output in pipeline]
    assert [first.boxes_xyxy.tolist() for first in firsts] == [[[0, 0, 32, 48]]] * 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("regions", "boxes"),
    [
        ([], []),
        (np.zeros((0, 4), np.float32), []),
        ([[-5, -5, 3, 3]], [[0, 0, 3, 3]]),
        ([[1.5, 2.5, 3.5, 4.5]], [[1, 2, 4, 5]]),
        ([[60, 40, 99, 99], [64, 0, 70, 5], [9, 9, 3, 12], [5, 5, 5, 9]], [[60, 40, 64, 48]]),
    ],
)
def test_regions_are_cut_at_the_borders(regions: Any, boxes: list[list[int]]) -> None:
    with colour_model() as model:
        cascade = Cascade(model, of="whole", regions=lambda *_: regions)
        frame = next(Source(MemoryReader([solid("red")])))
        result = cascade.run(model(frame.image), frame, frame.image)
    assert result.boxes_xyxy.tolist() == boxes
    assert len(result.results) == len(boxes)
    assert result.to_dict()["boxes_xyxy"] == boxes


@pytest.mark.parametrize("regions", [[1, 2, 3, 4], [[1, 2, 3]], [[0, 0, np.nan, 4]]])
def test_what_are_no_regions(regions: Any) -> None:
    with colour_model() as model:
        models: Models = {"whole": model, "parts": Cascade(model, of="whole", regions=lambda *_: regions)}
        with (
            pytest.raises(InputError, match="regions are wrong"),
            Pipeline(Source(MemoryReader(colour_cycle(2))), models) as pipeline,
        ):
            next(pipeline)


def test_a_cascade_stands_behind_what_it_looks_at() -> None:
    with colour_model() as model:
        parts = Cascade(model, of="whole", regions=lambda *_: [])
        wrong: list[Models] = [{"parts": parts, "whole": model}, {"other": model, "parts": parts}]
        for models in wrong:
            with pytest.raises(SpecError, match="parts looks at regions of an unknown model: got whole"):
                Pipeline(memory(1), models)


def test_models_of_different_sizes_and_batches() -> None:
    """The smallest fixed batch is what all of them get."""
    rows: dict[str, list[int]] = {"two": [], "free": []}

    def backend(name: str, batch: int | None) -> FunctionBackend:
        def run(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            rows[name].append(len(feeds["image"]))
            return {"logits": 10 * feeds["image"].mean((2, 3))}

        return FunctionBackend(
            run,
            inputs=(TensorInfo("image", (batch, 3, 8, 8), "float32"),),
            outputs=(TensorInfo("logits", (batch, 3), "float32"),),
        )

    models = {"two": Model(backend("two", 2), SPEC), "free": Model(backend("free", None), SPEC)}
    with Pipeline(Source(MemoryReader(colour_cycle(9))), models) as pipeline:
        for output in pipeline:
            for result in output.results.values():
                assert result.best.label == colour_of(output.frame.image)  # type: ignore[attr-defined]
    assert set(rows["two"]) == {2}
    assert set(rows["free"]) <= {1, 2}
    assert sum(rows["free"]) == 9
