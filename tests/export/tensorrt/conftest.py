"""What the tests of the compiler share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecnn.export.tensorrt import CompileOptions, CompileResult, compile_onnx

AMPERE = CompileOptions(compute_capabilities=("8.6",))


@pytest.fixture(scope="session")
def rtx() -> Any:
    """TensorRT for RTX, whose compiler needs no GPU."""
    return pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx, on x86-64")


@pytest.fixture(scope="session")
def compiled(rtx: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., CompileResult]:
    """Compiles a model for Ampere, once a session."""
    made: dict[bytes, CompileResult] = {}

    def compile_once(model: bytes, **options: Any) -> CompileResult:
        if model not in made:
            path = tmp_path_factory.mktemp("compiled") / "model.plan"
            made[model] = compile_onnx(model, path, AMPERE, **options)
        return made[model]

    return compile_once


def children() -> list[int]:
    """Processes that this process started and that have not been waited for."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[1]) == os.getpid():
            found.append(int(folder.name))
    return found


@pytest.fixture
def workers() -> Callable[[], list[int]]:
    """The processes that were started since, by this process."""
    before = set(children())
    return lambda: [pid for pid in children() if pid not in before]
