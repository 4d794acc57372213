"""The TensorRT backend on real PyCUDA, an emulated driver, and ONNX Runtime behind TensorRT's API."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from emulated_tensorrt import IExecutionContext, ILogger, Runtime, make_plan
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgecnn.backends import open_backend
from edgecnn.backends.tensorrt import TensorRTBackend
from edgecnn.errors import (
    BackendUnavailableError,
    ClosedError,
    DeviceLostError,
    InferenceError,
    InputError,
    ModelFormatError,
)
from tests.emulation.conftest import Emulation, network

Convnet = Callable[..., tuple[Path, bytes]]
BATCHES = [{"image": [[1, 3, 16, 16], [2, 3, 16, 16], [4, 3, 16, 16]]}]


def images(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((count, 3, 16, 16), np.float32)


def by_onnxruntime(model: bytes, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt_rtx"])
@pytest.mark.parametrize("integrated", [0, 1])
@pytest.mark.parametrize("graphs", [0, 1])
def test_it_computes_what_onnxruntime_does(
    emulation: Emulation, convnet: Convnet, flavour: str, integrated: int, graphs: int
) -> None:
    emulation.set(integrated=integrated, graphs=graphs, delay_us=300)
    plan, model = convnet()
    backend, reason = open_backend(plan, backend=flavour)
    assert isinstance(backend, TensorRTBackend)
    assert (backend.name, reason, backend.concurrency) == (flavour, "asked for", 2)
    assert backend.graph == ("on" if graphs else "off: operation not supported")
    assert backend.device == ("Emulated GPU" if graphs else f"Emulated GPU, CUDA graph {backend.graph}")
    copies = emulation["copies"]
    kept = []
    for seed in range(20):
        feeds = {"image": images(1, seed)}
        kept.append((feeds, backend.run(feeds)["features"]))
    for feeds, features in kept:  # what was returned is the caller's: no later run has written there
        np.testing.assert_allclose(features, by_onnxruntime(model, feeds)[0], rtol=1e-5, atol=1e-5)
        assert features.flags.owndata
    if integrated or graphs:
        assert emulation["copies"] == copies  # nothing is copied, or the graph copies
    assert (emulation["launches"] > 0) >= bool(graphs)
    backend.close()
    backend.close()
    with pytest.raises(ClosedError):
        backend.run({"image": images(1)})


def test_an_input_that_is_not_contiguous(emulation: Emulation, convnet: Convnet) -> None:
    plan, model = convnet()
    feed = images(1).transpose(0, 1, 3, 2)
    backend = TensorRTBackend(plan)
    found = backend.run({"image": feed})["features"]
    np.testing.assert_allclose(found, by_onnxruntime(model, {"image": feed})[0], rtol=1e-5, atol=1e-5)
    backend.close()


@pytest.mark.parametrize("batch", [1, "N"])
def test_many_threads(emulation: Emulation, convnet: Convnet, batch: int | str) -> None:
    """8 threads × 200 runs; each gets the answer to its own question."""
    emulation.set(delay_us=50)
    plan, model = convnet(batch=batch, profiles=BATCHES if batch == "N" else None)
    backend = TensorRTBackend(plan)
    questions = [images(1 if batch == 1 else 1 + seed % 4, seed) for seed in range(16)]
    answers = [by_onnxruntime(model, {"image": question})[0] for question in questions]
    wrong: list[Any] = []

    def ask(offset: int) -> None:
        try:
            for turn in range(200):
                index = (turn * 3 + offset) % len(questions)
                found = backend.run({"image": questions[index]})["features"]
                if found.shape != answers[index].shape or not np.allclose(found, answers[index], atol=1e-4):
                    wrong.append((offset, turn))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=ask, args=(offset,)) for offset in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert wrong == []
    assert emulation["depth"] == 0
    backend.close()


def test_close_while_threads_run(emulation: Emulation, convnet: Convnet) -> None:
    emulation.set(delay_us=500)
    plan, _ = convnet()

    def ask(backend: TensorRTBackend, started: threading.Barrier, ends: list[type[BaseException]]) -> None:
        try:
            for turn in range(10**6):
                backend.run({"image": images(1)})
                if turn == 1:
                    started.wait(60)
        except BaseException as error:
            ends.append(type(error))

    for _ in range(5):
        backend = TensorRTBackend(plan)
        started = threading.Barrier(7)
        ends: list[type[BaseException]] = []
        threads = [threading.Thread(target=ask, args=(backend, started, ends)) for _ in range(6)]
        for thread in threads:
            thread.start()
        started.wait(60)
        backend.close()
        for thread in threads:
            thread.join(60)
        assert ends == [ClosedError] * 6
        assert emulation.state() == {}


def test_a_backend_that_nobody_closed_is_freed_when_it_is_collected(
    emulation: Emulation, convnet: Convnet, capfd: pytest.CaptureFixture[str]
) -> None:
    plan, _ = convnet()
    TensorRTBackend(plan).run({"image": images(1)})
    thread = threading.Thread(target=gc.collect)  # on a thread that never saw it
    thread.start()
    thread.join()
    assert emulation.state() == {}
    assert capfd.readouterr().err == ""


def test_batches_within_the_profile(emulation: Emulation, convnet: Convnet) -> None:
    plan, model = convnet(batch="N", profiles=BATCHES)
    backend = TensorRTBackend(plan)
    assert backend.graph == "off: shapes are not fixed"
    assert backend.inputs[0].shape == (None, 3, 16, 16)
    for count in (4, 1, 3, 3, 2):
        feeds = {"image": images(count, count)}
        found = backend.run(feeds)["features"]
        np.testing.assert_allclose(found, by_onnxruntime(model, feeds)[0], rtol=1e-5, atol=1e-5)
    with pytest.raises(
        InputError, match=r"got image \(5, 3, 16, 16\), expected image \(1, 3, 16, 16\) to \(4"
    ):
        backend.run({"image": images(5)})
    assert backend.run({"image": images(2)})["features"].shape == (2, 8, 16, 16)
    with pytest.raises(InputError, match="got float64"):
        backend.run({"image": images(1).astype(np.float64)})
    with pytest.raises(InputError, match="expected image"):
        backend.run({"picture": images(1)})
    backend.close()


def test_the_profile_that_fits_is_used(emulation: Emulation, convnet: Convnet) -> None:
    profiles = [
        {"image": [[1, 3, 16, 16]] * 3},
        {"image": [[2, 3, 16, 16], [4, 3, 16, 16], [8, 3, 16, 16]]},
    ]
    plan, model = convnet(batch="N", profiles=profiles)
    backend = TensorRTBackend(plan, workers=1)
    for count in (1, 8, 2, 1, 1, 5):
        feeds = {"image": images(count, count)}
        found = backend.run(feeds)["features"]
        np.testing.assert_allclose(found, by_onnxruntime(model, feeds)[0], rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match=r"\(1, 3, 16, 16\) to \(1, .* or image \(2, .* to \(8, 3, 16, 16\)"):
        backend.run({"image": images(9)})
    backend.close()


def test_a_profile_that_tensorrt_refuses(emulation: Emulation, convnet: Convnet) -> None:
    plan, _ = convnet(batch="N", profiles=BATCHES)
    backend = TensorRTBackend(plan, workers=1)
    worker = backend._workers[0]
    with pytest.raises(InferenceError, match=r"does not take profile 7: .*no such profile"):
        backend._cuda.call(worker._use_profile, 7)
    assert backend.run({"image": images(2)})["features"].shape == (2, 8, 16, 16)
    backend.close()


@pytest.mark.parametrize("integrated", [0, 1])
def test_an_output_whose_size_the_data_decide(emulation: Emulation, tmp_path: Path, integrated: int) -> None:
    emulation.set(integrated=integrated)
    model = network(
        {"image": [1, 8]},
        {"where": [2, "count"], "double": [1, 8]},
        [
            helper.make_node("NonZero", ["image"], ["where"]),
            helper.make_node("Add", ["image", "image"], ["double"]),
        ],
        types={"where": TensorProto.INT64},
    )
    plan = tmp_path / "nonzero.engine"
    plan.write_bytes(make_plan(model))
    backend = TensorRTBackend(plan)
    assert backend.graph == "off: shapes are not fixed"
    for bits in (0b1, 0b11111111, 0, 0b1010):
        feed = np.array([[bits >> index & 1 for index in range(8)]], np.float32)
        found = backend.run({"image": feed})
        np.testing.assert_array_equal(found["where"], np.stack(np.nonzero(feed)))
        np.testing.assert_array_equal(found["double"], 2 * feed)
    backend.close()


@pytest.mark.parametrize(
    "kind", [TensorProto.UINT8, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.BOOL]
)
def test_types(emulation: Emulation, tmp_path: Path, kind: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    model = network(
        {"x": [2, 5]},
        {"y": [2, 5]},
        [helper.make_node("Identity", ["x"], ["y"])],
        types={"x": kind, "y": kind},
    )
    (tmp_path / "m.plan").write_bytes(make_plan(model))
    backend = TensorRTBackend(tmp_path / "m.plan")
    assert (backend.inputs[0].dtype, backend.outputs[0].dtype) == (dtype.name, dtype.name)
    feed = np.arange(10).reshape(2, 5).astype(dtype)
    np.testing.assert_array_equal(backend.run({"x": feed})["y"], feed)
    backend.close()


def test_an_engine_that_cannot_be_captured_runs_without_a_graph(
    emulation: Emulation, convnet: Convnet
) -> None:
    plan, model = convnet(capturable=False)
    backend = TensorRTBackend(plan)
    assert backend.graph.startswith("off: ")
    assert "operation not permitted when stream is capturing" in backend.graph
    feeds = {"image": images(1)}
    np.testing.assert_allclose(
        backend.run(feeds)["features"], by_onnxruntime(model, feeds)[0], rtol=1e-5, atol=1e-5
    )
    backend.close()


def test_a_capture_that_is_spoiled_unnoticed(
    emulation: Emulation, convnet: Convnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another library may do it; then PyCUDA's copy of the output is the first to fail."""
    plan, model = convnet()
    execute = IExecutionContext.execute_async_v3

    def spoil(context: IExecutionContext, stream: int) -> bool:
        return bool(execute(context, stream)) and emulation.spoil(stream) in (0, 900)

    monkeypatch.setattr(IExecutionContext, "execute_async_v3", spoil)
    backend = TensorRTBackend(plan)
    assert "failed due to a previous error during capture" in backend.graph
    feeds = {"image": images(1)}
    np.testing.assert_allclose(
        backend.run(feeds)["features"], by_onnxruntime(model, feeds)[0], rtol=1e-5, atol=1e-5
    )
    backend.close()


def test_models_are_loaded_one_at_a_time(emulation: Emulation, convnet: Convnet) -> None:
    """So that nothing that TensorRT does in one load falls into the capture of another."""
    plan, _ = convnet()
    backends: list[TensorRTBackend] = []
    inside, together = 0, []
    load = TensorRTBackend._load

    def count(*arguments: Any) -> None:
        nonlocal inside
        inside += 1
        together.append(inside)
        load(*arguments)
        inside -= 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TensorRTBackend, "_load", count)
        threads = [threading.Thread(target=lambda: backends.append(TensorRTBackend(plan))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert together == [1] * 4
    assert [backend.graph for backend in backends] == ["on"] * 4
    for backend in backends:
        backend.close()


def test_a_run_after_an_interrupted_one_is_right(
    emulation: Emulation, convnet: Convnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulation.set(delay_us=20_000)
    plan, model = convnet()
    backend = TensorRTBackend(plan, workers=1)
    worker = backend._workers[0]
    finish = worker._finish

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "_finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        backend.run({"image": images(1, 1)})
    monkeypatch.setattr(worker, "_finish", finish)
    feeds = {"image": images(1, 2)}
    np.testing.assert_allclose(
        backend.run(feeds)["features"], by_onnxruntime(model, feeds)[0], rtol=1e-5, atol=1e-5
    )
    monkeypatch.setattr(worker, "_finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        backend.run(feeds)
    backend.close()  # waits for what was left running


def test_memory_for_one_worker_is_enough(
    emulation: Emulation, convnet: Convnet, caplog: pytest.LogCaptureFixture
) -> None:
    emulation.set(total=10 << 20)
    plan, model = convnet(scratch=6 << 20)
    backend = TensorRTBackend(plan)
    assert backend.concurrency == 1
    assert "1 of 2 workers, one frame at a time" in caplog.text
    assert "out of GPU memory" in caplog.text
    feeds = {"image": images(1)}
    np.testing.assert_allclose(
        backend.run(feeds)["features"], by_onnxruntime(model, feeds)[0], rtol=1e-5, atol=1e-5
    )
    backend.close()


def test_every_allocation_may_fail(emulation: Emulation, convnet: Convnet) -> None:
    """Whatever is refused, in words, and nothing stays."""
    plan, _ = convnet()
    failures = 0
    for index in range(12):
        emulation.set(fail_allocation=index)
        try:
            TensorRTBackend(plan, workers=1).close()
        except InferenceError as error:
            failures += "out of GPU memory" in str(error)
        assert emulation.state() == {}
    assert 3 <= failures < 12
    emulation.set(fail_allocation=-1)


def test_growing_output_memory_may_fail(emulation: Emulation, tmp_path: Path) -> None:
    model = network(
        {"x": [1, 4096]},
        {"where": [2, "count"]},
        [helper.make_node("NonZero", ["x"], ["where"])],
        types={"where": TensorProto.INT64},
    )
    (tmp_path / "m.engine").write_bytes(make_plan(model))
    backend = TensorRTBackend(tmp_path / "m.engine", workers=1)
    emulation.set(fail_allocation=0)
    with pytest.raises(InferenceError, match="out of GPU memory"):
        backend.run({"x": np.ones((1, 4096), np.float32)})
    assert backend.run({"x": np.ones((1, 4096), np.float32)})["where"].shape == (2, 4096)
    backend.close()


def test_a_lost_device(emulation: Emulation, convnet: Convnet, capfd: pytest.CaptureFixture[str]) -> None:
    """A kernel that goes wrong: every thread is told, closing is silent, and opening again works."""
    plan, model = convnet(fault=700)
    backend = TensorRTBackend(plan)
    good = {"image": images(1)}
    backend.run(good)
    with pytest.raises(DeviceLostError, match=r"an illegal memory access \(.*load it again"):
        backend.run({"image": np.full((1, 3, 16, 16), 13, np.float32)})
    told: list[Any] = []

    def ask() -> None:
        try:
            backend.run(good)
        except DeviceLostError as error:
            told.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert "was lost before" in told[0]
    backend.close()
    again = TensorRTBackend(plan)
    np.testing.assert_allclose(
        again.run(good)["features"], by_onnxruntime(model, good)[0], rtol=1e-5, atol=1e-5
    )
    again.close()
    assert emulation["references"] == 0
    assert capfd.readouterr().err == ""
    emulation.forget()  # what a lost context held went with it


def test_a_device_that_is_lost_for_two(emulation: Emulation, convnet: Convnet) -> None:
    plan, _ = convnet(fault=719)
    one, other = TensorRTBackend(plan), TensorRTBackend(plan)
    with pytest.raises(DeviceLostError, match="a kernel crashed"):
        one.run({"image": np.full((1, 3, 16, 16), 13, np.float32)})
    one.close()
    with pytest.raises(DeviceLostError):
        TensorRTBackend(plan)  # the other one still holds the context
    with pytest.raises(DeviceLostError):
        other.run({"image": images(1)})
    other.close()
    TensorRTBackend(plan).close()
    emulation.forget()


def test_what_tensorrt_says_reaches_the_caller(
    emulation: Emulation, tmp_path: Path, convnet: Convnet
) -> None:
    (tmp_path / "random.engine").write_bytes(b"\x00" * 100)
    with pytest.raises(
        ModelFormatError, match=r"does not accept .*got Serialization assertion.*Build it again"
    ):
        TensorRTBackend(tmp_path / "random.engine")
    plan, _ = convnet(layout="CHW4")
    with pytest.raises(ModelFormatError, match=r"tensor image is of a kind .* got FLOAT, CHW4"):
        TensorRTBackend(plan)


def test_tensorrt_that_cannot_start(
    emulation: Emulation, convnet: Convnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a driver older than its CUDA: a warning, and an error of the binding."""

    def refuse(runtime: Runtime, logger: Any) -> None:
        logger.log(
            ILogger.Severity.WARNING,
            "CUDA initialization failure with error: 35. Please check your CUDA installation",
        )
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(Runtime, "__init__", refuse)
    plan, _ = convnet()
    with pytest.raises(BackendUnavailableError, match=r"cannot start: .*driver is too old .*Update"):
        TensorRTBackend(plan)


def test_an_error_names_its_own_cause(
    emulation: Emulation, convnet: Convnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what TensorRT said when a capture was tried."""
    plan, _ = convnet(capturable=False)
    backend = TensorRTBackend(plan, workers=1)
    worker = backend._workers[0]

    def refuse(stream: int) -> bool:
        return bool(worker._context._fail("enqueueV3: Error Code 3: API Usage Error (the real cause)"))

    monkeypatch.setattr(worker._context, "execute_async_v3", refuse)
    with pytest.raises(InferenceError, match=r"TensorRT failed: got IExecutionContext.*\(the real cause\)$"):
        backend.run({"image": images(1)})
    monkeypatch.undo()
    assert backend.run({"image": images(1)})["features"].shape == (1, 8, 16, 16)
    backend.close()


def test_no_gpu(emulation: Emulation, convnet: Convnet) -> None:
    emulation.set(devices=0)
    plan, _ = convnet()
    with pytest.raises(BackendUnavailableError, match=r"needs an NVIDIA GPU.*edgecnn doctor"):
        TensorRTBackend(plan)


def test_no_library(emulation: Emulation, convnet: Convnet, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, _ = convnet()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendUnavailableError, match=r"tensorrt cannot be imported.*--system-site-packages"):
        TensorRTBackend(plan, flavour="tensorrt")
    backend = TensorRTBackend(plan)
    assert backend.name == "tensorrt_rtx"
    backend.close()
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.delitem(sys.modules, "pycuda.driver")
    with pytest.raises(BackendUnavailableError, match=r"PyCUDA is not installed.*edgecnn\[jetson\]"):
        TensorRTBackend(plan)
