"""Tests on the emulated GPU, in a process of their own, which tests/backends/test_emulation.py starts."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper, numpy_helper

if os.environ.get("EDGECNN_EMULATION") != "1":
    collect_ignore_glob = ["test_*.py"]

LEAKS = ("device", "pinned", "streams", "events", "graphs", "references", "depth", "orphans", "misuse")


class Emulation:
    """The emulated driver's own functions: what it counts, and what it is told to do."""

    def __init__(self) -> None:
        self._library: Any = ctypes.CDLL("libcuda.so.1")
        self._library.emu_get.restype = ctypes.c_long
        self._library.emu_set.argtypes = [ctypes.c_char_p, ctypes.c_long]

    def __getitem__(self, name: str) -> int:
        value = int(self._library.emu_get(name.encode()))
        assert value >= 0, name
        return value

    def set(self, **values: int) -> None:
        for name, value in values.items():
            assert self._library.emu_set(name.encode(), value) == 0, name

    def spoil(self, stream: int) -> int:
        """Spoil a stream's capture, as something else in the process might; the driver's code."""
        return int(self._library.emu_spoil(ctypes.c_void_p(stream)))

    def state(self) -> dict[str, int]:
        """What is held and was done wrong, without what is zero."""
        return {name: self[name] for name in LEAKS if self[name]}

    def forget(self) -> None:
        """What a test did wrong on purpose is no longer counted."""
        self.set(misuse=0, orphans=0)


@pytest.fixture
def emulation() -> Iterator[Emulation]:
    """The driver as it is on a Jetson without shared memory; nothing may be left after a test."""
    driver = Emulation()
    driver.set(
        total=8 << 30,
        integrated=0,
        capability=87,
        delay_us=0,
        devices=1,
        graphs=1,
        lost=0,
        fail_allocation=-1,
    )
    assert driver.state() == {}
    yield driver
    assert driver.state() == {}


def network(
    inputs: dict[str, Sequence[int | str]],
    outputs: dict[str, Sequence[int | str]],
    nodes: Sequence[Any],
    constants: dict[str, Any] | None = None,
    types: dict[str, int] | None = None,
) -> bytes:
    """The bytes of an ONNX file; float32 where `types` says nothing else."""

    def tensors(shapes: dict[str, Sequence[int | str]]) -> list[Any]:
        kinds = types or {}
        return [
            helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), list(shape))
            for name, shape in shapes.items()
        ]

    initializers = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "small", tensors(inputs), tensors(outputs), initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return bytes(model.SerializeToString())


@pytest.fixture
def convnet(tmp_path: Path) -> Callable[..., tuple[Path, bytes]]:
    """Writes a plan of one convolution, `image` (batch, 3, 16, 16) → `features`; gives its ONNX bytes too."""
    import numpy as np
    from emulated_tensorrt import make_plan

    def make(name: str = "m.engine", batch: int | str = 1, **options: Any) -> tuple[Path, bytes]:
        weights = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)
        model = network(
            {"image": [batch, 3, 16, 16]},
            {"features": [batch, 8, 16, 16]},
            [helper.make_node("Conv", ["image", "weights"], ["features"], pads=[1, 1, 1, 1])],
            {"weights": weights},
        )
        path = tmp_path / name
        path.write_bytes(make_plan(model, **options))
        return path, model

    return make
