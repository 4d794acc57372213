from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgecnn.backends import FunctionBackend, TensorInfo, check_feeds, open_backend
from edgecnn.errors import BackendUnavailableError, InputError, ModelFormatError, ModelNotFoundError
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
