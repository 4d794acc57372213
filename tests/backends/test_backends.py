from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgecnn.backends import FunctionBackend, TensorInfo, check_feeds, open_backend
from edgecnn.errors import BackendUnavailableError, InputError, ModelFormatError, ModelNotFoundError
from edgecnn.gpu import read_gpu
from tests.broken import convnet
from tests.networks import save

INPUTS = (TensorInfo("image", (None, 3, 8, 8), "float32"),)


@pytest.mark.parametrize(
    ("asked", "reason"), [("auto", "the one that runs .onnx files"), ("onnxruntime", "asked for")]
)
def test_the_choice_comes_with_its_reason(asked: str, reason: str, tmp_path: Path) -> None:
    backend, why = open_backend(save(convnet(), tmp_path / "m.onnx"), backend=asked)
    assert (backend.name, why) == ("onnxruntime", reason)


def test_an_unknown_backend_is_refused_before_the_file_is_looked_at() -> None:
    with pytest.raises(BackendUnavailableError, match="got tpu, expected one of auto, onnxruntime"):
        open_backend("no.onnx", backend="tpu")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        open_backend(tmp_path / "no.onnx")
    with pytest.raises(ModelNotFoundError, match="is a folder"):
        open_backend(tmp_path)


@pytest.mark.parametrize("name", ["model.tflite", "model"])
def test_another_kind_of_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ModelFormatError, match=r"expected \.onnx"):
        open_backend(tmp_path / name)


def test_a_choice_that_does_not_run_such_a_file(tmp_path: Path) -> None:
    model, plan = save(convnet(), tmp_path / "m.onnx"), tmp_path / "m.plan"
    plan.write_bytes(b"x")
    with pytest.raises(
        ModelFormatError, match=r"tensorrt_rtx does not run .*build .* --target tensorrt-rtx -o"
    ):
        open_backend(model, backend="tensorrt_rtx")
    with pytest.raises(ModelFormatError, match=r"onnxruntime does not run .*got a TensorRT plan"):
        open_backend(plan, backend="onnxruntime")
    with pytest.raises(InputError, match="threads cannot be honoured"):
        open_backend(plan, threads=2)


def test_a_plan_whose_library_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tmp_path / "m.trt"
    plan.write_bytes(b"x")
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailableError, match=r"cannot be imported.*JetPack.*edgecnn\[rtx\]"):
        open_backend(plan)


@pytest.mark.skipif(read_gpu() is not None, reason="a GPU is here")
def test_a_plan_without_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'edgecnn[rtx]'")
    plan = tmp_path / "m.engine"
    plan.write_bytes(b"x")
    with pytest.raises(BackendUnavailableError, match=r"needs an NVIDIA GPU: got none here.*edgecnn doctor"):
        open_backend(plan, backend="tensorrt_rtx")


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (5, 3, 8, 8)])
def test_feeds_that_fit(shape: tuple[int, ...]) -> None:
    check_feeds(INPUTS, {"image": np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "got none, expected image"),
        ({"picture": np.zeros(1, np.float32)}, "got picture, expected image"),
        (
            {"image": np.zeros((3, 8, 8), np.float32)},
            r"got float32 \(3, 8, 8\), expected float32 \(N, 3, 8, 8\)",
        ),
        ({"image": np.zeros((1, 3, 8, 9), np.float32)}, r"got float32 \(1, 3, 8, 9\)"),
        ({"image": np.zeros((1, 3, 8, 8))}, r"got float64 \(1, 3, 8, 8\)"),
    ],
)
def test_feeds_that_do_not_fit(feeds: dict[str, NDArray[Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_feeds(INPUTS, feeds)


def test_a_function_is_a_backend() -> None:
    backend = FunctionBackend(
        lambda feeds: {"sum": feeds["image"].sum((1, 2, 3))},
        inputs=INPUTS,
        outputs=(TensorInfo("sum", (None,), "float32"),),
        metadata={"key": "value"},
    )
    result = backend.run({"image": np.ones((2, 3, 8, 8), np.float32)})
    np.testing.assert_array_equal(result["sum"], [192, 192])
    assert backend.metadata == {"key": "value"}
    backend.close()
