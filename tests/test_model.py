from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

from edgecnn.backends import FunctionBackend, TensorInfo
from edgecnn.errors import (
    BackendUnavailableError,
    ClosedError,
    InferenceError,
    InputError,
    ModelFormatError,
    ModelNotFoundError,
    SpecError,
)
from edgecnn.model import Model, load
from edgecnn.results import Classification, RawOutputs, Result
from edgecnn.spec import ImageSpec, ModelSpec, image_spec
from tests.colours import SPEC, colour_cycle, solid, write_colour_onnx
from tests.onnx_files import write_means, write_onnx

RAW = ModelSpec(task="raw", image=ImageSpec(size_hw=(8, 8)))
IMAGE = TensorInfo("image", (None, 3, 8, 8), "float32")
MEANS = TensorInfo("means", (None, 3), "float32")

Run = Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]


def level(value: int) -> NDArray[np.uint8]:
    """A frame of one grey; its means are exactly value / 255 in float32."""
    return np.full((20, 30, 3), value, np.uint8)


def means_of(result: Result) -> NDArray[np.float32]:
    assert isinstance(result, RawOutputs)
    return result.tensors["means"]


def level_of(result: Result) -> int:
    means = means_of(result) * 255
    assert np.ptp(means) < 0.01
    return round(float(means[0]))


def python_model(run: Run, *, batch: int | None = None, spec: ModelSpec = RAW) -> Model:
    inputs = (TensorInfo("image", (batch, 3, 8, 8), "float32"),)
    return Model(
        FunctionBackend(run, inputs=inputs, outputs=(TensorInfo("means", (batch, 3), "float32"),)), spec
    )


def channel_means(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {"means": feeds["image"].mean((2, 3))}


@pytest.fixture(scope="module")
def means_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_means(tmp_path_factory.mktemp("models") / "means.onnx", spec=RAW)


@pytest.fixture(scope="module")
def means_of_four_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_means(tmp_path_factory.mktemp("models") / "means4.onnx", batch=4, spec=RAW)


# --- one frame


def test_a_frame_becomes_a_typed_result(colour_onnx: Path) -> None:
    with load(colour_onnx) as model:
        result = model(solid("green"))
        assert isinstance(result, Classification)
        assert result.best.label == "green"
        exact = np.exp([0, 10, 0]) / np.exp([0, 10, 0]).sum()
        np.testing.assert_allclose(result.scores, exact, rtol=1e-5)
        assert (model.name, model.spec, model.precision) == ("colours.onnx", SPEC, "as in the file")
        assert repr(model) == "<Model colours.onnx: classification, 8x8, as in the file, onnxruntime>"


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3), (20, 30, 4), (8, 8, 3), (1, 1, 3)])
def test_every_kind_of_frame(means_onnx: Path, shape: tuple[int, ...]) -> None:
    with load(means_onnx) as model:
        assert level_of(model(np.full(shape, 51, np.uint8))) == 51


@pytest.mark.parametrize(
    "frame",
    [None, "frame.png", [[1]], np.zeros((8, 8, 3)), np.zeros((8, 8, 2), np.uint8), np.zeros(8, np.uint8)],
)
def test_what_is_no_frame_is_refused(means_onnx: Path, frame: Any) -> None:
    with load(means_onnx) as model:
        for call in (model, model.timed, lambda value: model.batch([value])):
            with pytest.raises(InputError, match="not a frame"):
                call(frame)
        assert level_of(model(level(9))) == 9  # and the model is as good as before


def test_timed_gives_the_same_result_and_three_times(means_onnx: Path) -> None:
    with load(means_onnx) as model:
        result, times = model.timed(level(7))
        assert level_of(result) == 7
        assert times._fields == ("preprocess_ms", "infer_ms", "postprocess_ms")
        assert all(0 <= value < 60_000 for value in times)


def test_a_result_stays_when_the_next_frame_comes(tmp_path: Path) -> None:
    """Also of a network that gives its input back: the tensors from the pool are used again."""
    nodes = [helper.make_node("Identity", ["image"], ["same"])]
    path = write_onnx(
        tmp_path / "same.onnx", nodes, {"image": ["N", 3, 8, 8]}, {"same": ["N", 3, 8, 8]}, spec=RAW
    )
    with load(path) as model:
        first = model(level(255))
        second = model(level(0))
        assert isinstance(first, RawOutputs)
        assert isinstance(second, RawOutputs)
        assert (first.tensors["same"] == 1).all()
        assert (second.tensors["same"] == 0).all()


def test_the_spec_in_the_file_gives_way_to_one_that_is_given(means_onnx: Path) -> None:
    halved = ModelSpec(task="raw", image=image_spec("unit", size_hw=(8, 8), scale=1 / 510))
    with load(means_onnx, spec=halved) as model:
        np.testing.assert_allclose(means_of(model(level(255))), 0.5)


def test_free_sides_take_the_specs_size(tmp_path: Path) -> None:
    path = write_means(tmp_path / "model.onnx", size=("H", "W"))
    with load(path, spec=ModelSpec(task="raw", image=ImageSpec(size_hw=(5, 9)))) as model:
        assert level_of(model(level(3))) == 3
        feeds = {"image": np.zeros((2, 3, 40, 1), np.float32)}
        assert model.infer(feeds)["means"].shape == (2, 3)


# --- batches


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("fixed", [False, True])
def test_a_batch_is_one_result_a_frame_in_order(
    means_onnx: Path, means_of_four_onnx: Path, count: int, fixed: bool
) -> None:
    with load(means_of_four_onnx if fixed else means_onnx) as model:
        frames = [level(10 * index)[: 5 + index] for index in range(count)]  # of different sizes
        assert [level_of(result) for result in model.batch(frames)] == [10 * index for index in range(count)]
        assert level_of(model(level(200))) == 200


def test_a_free_batch_runs_at_once_and_a_fixed_one_in_portions() -> None:
    for batch, rows in ((None, [7, 1, 2]), (4, [4, 4, 4, 4])):
        seen: list[int] = []

        def run(feeds: Mapping[str, NDArray[Any]], seen: list[int] = seen) -> dict[str, NDArray[Any]]:
            assert feeds["image"].flags.c_contiguous
            seen.append(len(feeds["image"]))
            return channel_means(feeds)

        model = python_model(run, batch=batch)
        assert [level_of(result) for result in model.batch([level(index) for index in range(7)])] == list(
            range(7)
        )
        model(level(0))
        model.batch([level(0), level(1)])
        assert seen == rows


class Tensors:
    """Collects the buffers that a backend is given, and keeps them, so that no address is used twice."""

    def __init__(self) -> None:
        self.buffers: dict[int, NDArray[Any]] = {}

    def add(self, tensor: NDArray[Any]) -> None:
        while isinstance(tensor.base, np.ndarray):
            tensor = tensor.base
        self.buffers[id(tensor)] = tensor

    @property
    def rows(self) -> list[int]:
        return [len(tensor) for tensor in self.buffers.values()]


def test_buffers_do_not_grow_with_the_number_of_batch_sizes() -> None:
    tensors = Tensors()

    def run(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        tensors.add(feeds["image"])
        return channel_means(feeds)

    model = python_model(run)
    model.batch([level(0)] * 8)
    for count in (1, 2, 3, 4, 5, 6, 7, 8, 1):
        assert len(model.batch([level(count)] * count)) == count
    assert tensors.rows == [8]


def test_an_array_of_frames_is_a_batch(means_onnx: Path) -> None:
    with load(means_onnx) as model:
        assert [level_of(result) for result in model.batch(np.stack([level(1), level(2)]))] == [1, 2]  # type: ignore[arg-type]


# --- tensors


def test_tensors_in_tensors_out(means_onnx: Path) -> None:
    tensor = np.random.default_rng(0).standard_normal((5, 3, 8, 8)).astype(np.float32)
    with load(means_onnx) as model:
        outputs = model.infer({"image": tensor})
        assert list(outputs) == ["means"]
        np.testing.assert_allclose(outputs["means"], tensor.mean((2, 3)), rtol=1e-4, atol=1e-6)
        kept = outputs["means"].copy()
        model.infer({"image": -tensor})
        np.testing.assert_array_equal(outputs["means"], kept)


def test_tensors_need_not_be_contiguous() -> None:
    def run(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        assert feeds["image"].flags.c_contiguous  # what a backend may rely on
        return channel_means(feeds)

    tensor = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
    for view in (
        tensor.transpose(0, 3, 1, 2),
        np.repeat(tensor, 2, 3)[:, ::-1, :, ::2].transpose(0, 3, 1, 2),
    ):
        outputs = python_model(run).infer({"image": view})
        np.testing.assert_allclose(outputs["means"], view.mean((2, 3)), rtol=1e-5)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "wrong inputs: got none, expected image"),
        ({"input": np.zeros((1, 3, 8, 8), np.float32)}, "wrong inputs: got input, expected image"),
        ({"image": np.zeros((1, 3, 8, 8), np.float32), "more": np.zeros(1)}, "wrong inputs: got image, more"),
        ({"image": np.zeros((1, 3, 8, 9), np.float32)}, r"\(1, 3, 8, 9\), expected float32 \(N, 3, 8, 8\)"),
        ({"image": np.zeros((3, 8, 8), np.float32)}, r"wrong input image: got float32 \(3, 8, 8\)"),
        ({"image": np.zeros((1, 3, 8, 8))}, "wrong input image: got float64"),
        ({"image": np.zeros((1, 3, 8, 8), ">f4")}, "wrong input image: got >f4"),
        ({"image": [[1.0]]}, "wrong input image: got list, expected a NumPy array"),
        ({"image": None}, "wrong input image: got NoneType"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused_in_words(means_onnx: Path, feeds: Any, message: str) -> None:
    with load(means_onnx) as model, pytest.raises(InputError, match=message):
        model.infer(feeds)


# --- what is refused when a model is made


@pytest.mark.parametrize(
    ("image", "got", "expected"),
    [
        (ImageSpec(size_hw=(9, 8)), r"NCHW \(N, 3, 9, 8\)", r"\(N, 3, 8, 8\) in the graph"),
        (ImageSpec(size_hw=(8, 8), layout="NHWC"), r"NHWC \(N, 8, 8, 3\)", r"\(N, 3, 8, 8\) in the graph"),
        (image_spec("unit", size_hw=(8, 8), color="GRAY"), r"NCHW \(N, 1, 8, 8\)", r"\(N, 3, 8, 8\) in"),
    ],
)
def test_a_spec_that_does_not_fit_the_graph(
    means_onnx: Path, image: ImageSpec, got: str, expected: str
) -> None:
    message = f"the spec does not fit the model's input image: got {got} in the spec, expected {expected}"
    with pytest.raises(SpecError, match=message):
        load(means_onnx, spec=ModelSpec(task="raw", image=image))


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_an_input_that_is_not_float32(tmp_path: Path, dtype: str) -> None:
    nodes = [helper.make_node("Identity", ["image"], ["same"])]
    sides = {"image": [1, 3, 8, 8]}, {"same": [1, 3, 8, 8]}
    path = write_onnx(tmp_path / "model.onnx", nodes, *sides, dtype=dtype, spec=RAW)
    with pytest.raises(
        SpecError, match=f"the model's input image is {dtype}: expected float32. Export the model"
    ):
        load(path)


def test_an_input_that_is_no_image(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["image"], ["same"])]
    path = write_onnx(tmp_path / "model.onnx", nodes, {"image": [1, 192]}, {"same": [1, 192]}, spec=RAW)
    with pytest.raises(
        SpecError, match=r"does not fit the model's input image: .* expected \(1, 192\) in the graph"
    ):
        load(path)


def test_several_inputs(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["left", "right"], ["sum"])]
    inputs = {"left": [1, 3, 8, 8], "right": [1, 3, 8, 8]}
    path = write_onnx(tmp_path / "model.onnx", nodes, inputs, {"sum": [1, 3, 8, 8]}, spec=RAW)
    with pytest.raises(SpecError, match="the model does not take one image: got 2 inputs: left, right"):
        load(path)


def test_a_foreign_file_needs_a_spec(tmp_path: Path) -> None:
    path = write_means(tmp_path / "foreign.onnx")
    with pytest.raises(
        SpecError, match=r"foreign\.onnx does not say how to use it: .* --task classification"
    ):
        load(path)
    with load(path, spec=RAW) as model:
        assert level_of(model(level(4))) == 4


@pytest.mark.parametrize("spec", [image_spec("imagenet"), "imagenet", {"task": "raw"}])
def test_what_is_no_spec(means_onnx: Path, spec: Any) -> None:
    with pytest.raises(SpecError, match=f"spec is wrong: got {type(spec).__name__}, expected a ModelSpec"):
        load(means_onnx, spec=spec)


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    spec = ModelSpec(task="classification", image=SPEC.image, labels=("red", "green"))
    path = write_colour_onnx(tmp_path / "model.onnx", spec=spec)
    with pytest.raises(SpecError, match="labels do not fit the model: got 2 labels, expected 3, one a class"):
        load(path)


def test_damaged_metadata_is_found_when_the_model_is_loaded(tmp_path: Path) -> None:
    path = write_means(tmp_path / "a.onnx", metadata={"edgecnn.spec": "{"})
    with pytest.raises(SpecError, match="the model's spec cannot be read"):
        load(path)
    path = write_means(tmp_path / "b.onnx", spec=RAW, metadata={"edgecnn.build": "[]"})
    with pytest.raises(ModelFormatError, match=r"metadata edgecnn\.build is damaged"):
        load(path)
    path = write_means(tmp_path / "c.onnx", spec=RAW, metadata={"edgecnn.build": '{"precision": "int8"}'})
    with load(path) as model:
        assert model.precision == "int8"


def test_files_that_cannot_be_loaded(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "folder.onnx"):
        path.mkdir(exist_ok=True)
        with pytest.raises(ModelNotFoundError, match=r"is a folder: expected an ONNX file"):
            load(path)
    with pytest.raises(ModelNotFoundError, match=r"gone\.onnx does not exist"):
        load(tmp_path / "gone.onnx")
    with pytest.raises(FileNotFoundError):
        load(str(tmp_path / "gone.onnx"))
    (tmp_path / "model.engine").write_bytes(b"x")
    with pytest.raises(BackendUnavailableError):  # whatever is missing here: TensorRT, a driver, a GPU
        load(tmp_path / "model.engine")
    for name in ("model.txt", "model"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(ModelFormatError, match=f"cannot load .*{name}"):
            load(tmp_path / name)
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "text.onnx").write_bytes(b"this is no model")
    for name in ("empty.onnx", "text.onnx"):
        with pytest.raises(ModelFormatError, match=name):
            load(tmp_path / name)


def test_the_backend_can_be_asked_for(means_onnx: Path) -> None:
    with load(means_onnx) as model:
        assert (model.backend.name, model.backend_reason) == ("onnxruntime", "the one that runs .onnx files")
    with load(means_onnx, backend="onnxruntime") as model:
        assert (model.backend.name, model.backend_reason) == ("onnxruntime", "asked for")
    with pytest.raises(
        BackendUnavailableError, match="unknown backend: got tensorflow, expected one of auto, onnx"
    ):
        load(means_onnx, backend="tensorflow")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("onnxruntime", "ONNX Runtime is not installed: .* pip install 'edgecnn[cpu]'"),
        ("cv2", "OpenCV .* pip install 'edgecnn[cpu]'"),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_remedy(
    colour_onnx: Path, module: str, message: str
) -> None:
    code = f"""
import sys
sys.modules[{module!r}] = None  # as if it were not installed
import numpy, edgecnn
try:
    edgecnn.load({str(colour_onnx)!r})(numpy.zeros((8, 8, 3), numpy.uint8))
except ImportError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment()
    )
    assert done.stderr == ""
    kind, _, text = done.stdout.strip().partition(" ")
    assert kind == "BackendUnavailableError"
    start, end = message.split(".*")
    assert text.startswith(start)
    assert end.strip() in text


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


# --- life cycle


def test_closing_twice_is_once(means_onnx: Path) -> None:
    model = load(means_onnx)
    with model as same:
        assert same is model
        model(level(1))
    model.close()
    model.close()


def test_use_after_close(means_onnx: Path) -> None:
    model = load(means_onnx)
    model.close()
    uses: list[Callable[[], Any]] = [
        lambda: model(level(1)),
        lambda: model.timed(level(1)),
        lambda: model.batch([level(1)]),
        lambda: model.batch([]),
        lambda: model.infer({"image": np.zeros((1, 3, 8, 8), np.float32)}),
        lambda: model.__enter__(),
    ]
    for use in uses:
        with pytest.raises(ClosedError, match=r"means\.onnx is closed"):
            use()
    assert "raw" in repr(model)


def test_the_backend_is_closed_where_the_model_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    backend = FunctionBackend(channel_means, inputs=(IMAGE,), outputs=(MEANS,))
    monkeypatch.setattr(backend, "close", lambda: closed.append(True))
    monkeypatch.setattr("edgecnn.model.open_backend", lambda *_, **__: (backend, "for the test"))
    with pytest.raises(SpecError):
        load("model.onnx")
    assert closed == [True]


# --- threads


def test_a_model_serves_many_threads_at_once(means_onnx: Path) -> None:
    """Frames of 200 levels from 8 threads, each in an order of its own: nobody gets another's result."""
    with load(means_onnx, threads=1) as model:
        expected = {value: means_of(model(level(value))).tobytes() for value in range(200)}
        barrier = threading.Barrier(8)

        def work(seed: int) -> int:
            barrier.wait()
            order = np.random.default_rng(seed).permutation(200).tolist()
            kept = [(value, model(level(value))) for value in order]  # looked at when all are done
            kept += [(value, model.batch([level(0), level(value)])[1]) for value in order[:50]]
            return sum(means_of(result).tobytes() != expected[value] for value, result in kept)

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(work, range(8))) == [0] * 8


def test_the_pool_grows_to_the_calls_under_way_and_no_further() -> None:
    """Three calls meet inside the backend, so they need three tensors; a hundred more calls need no other."""
    together = threading.Barrier(3)
    meet = True
    tensors = Tensors()

    def run(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        tensors.add(feeds["image"])
        if meet:
            together.wait(timeout=30)
        return channel_means(feeds)

    model = python_model(run)
    with ThreadPoolExecutor(3) as pool:
        assert sorted(map(level_of, pool.map(model, map(level, (1, 2, 3))))) == [1, 2, 3]
        assert tensors.rows == [1, 1, 1]
        meet = False
        assert [level_of(result) for result in pool.map(model, map(level, range(100)))] == list(range(100))
    assert tensors.rows == [1, 1, 1]


def test_closing_during_a_call_lets_it_end(means_onnx: Path) -> None:
    inside, closed = threading.Event(), threading.Event()

    def run(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        inside.set()
        assert closed.wait(timeout=30)
        return channel_means(feeds)

    model = python_model(run)
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(model, level(5))
        assert inside.wait(timeout=30)
        model.close()
        closed.set()
        assert level_of(under_way.result(timeout=30)) == 5
    with pytest.raises(ClosedError):
        model(level(5))


def test_closing_while_others_use_it(means_onnx: Path) -> None:
    """A call gives a right result or ClosedError, whatever the moment."""
    for _ in range(10):
        model = load(means_onnx, threads=1)
        started = threading.Barrier(5)

        def work(value: int, model: Model = model, started: threading.Barrier = started) -> int:
            started.wait()
            done = 0
            try:
                while True:
                    assert level_of(model(level(value))) == value
                    done += 1
            except ClosedError:
                return done

        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(work, value) for value in (10, 20, 30, 40)]
            started.wait()
            model.close()
            assert all(future.result(timeout=30) >= 0 for future in futures)


def test_a_failing_call_gives_its_tensor_back() -> None:
    tensors = Tensors()

    def run(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        tensors.add(feeds["image"])
        raise InferenceError("out of order")

    model = python_model(run)
    for _ in range(3):
        with pytest.raises(InferenceError, match="out of order"):
            model(level(1))
    assert tensors.rows == [1]


def test_frames_of_ever_new_sizes(colour_onnx: Path) -> None:
    with load(colour_onnx) as model:
        for side, frame in enumerate(colour_cycle(30), start=1):
            result = model(frame[:side, : 2 * side])
            assert isinstance(result, Classification)
            assert result.best.label == ("red", "green", "blue")[(side - 1) % 3]
