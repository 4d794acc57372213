"""The GPU's code on an emulation: real PyCUDA on an emulated driver and TensorRT; see tests/emulation.

Nothing here says that it works on a GPU; scripts/gpu_check does, where there is one.
"""

from __future__ import annotations

import ctypes
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from tests.emulation.build import EmulationUnavailableError, make_emulation

pytestmark = pytest.mark.timeout(900)  # compiling PyCUDA, on a busy machine

EMULATION = Path(__file__).parents[1] / "emulation"


@pytest.fixture(scope="session")
def environment(pytestconfig: pytest.Config) -> dict[str, str]:
    """Of a process that finds PyCUDA and a GPU. Compiling takes a minute once."""
    assert pytestconfig.cache is not None
    try:
        return {**os.environ, **make_emulation(pytestconfig.cache.mkdir("emulation"))}
    except EmulationUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in EMULATION.glob("test_*.py")))
def test_on_the_emulated_gpu(name: str, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(EMULATION / name), "-q", "-p", "no:cacheprovider"],
        env=environment, capture_output=True, text=True, cwd=EMULATION.parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed", done.stdout)
    assert "skipped" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("part", "count"), [("cuda", 11), ("tensorrt", 10)])
def test_gpu_check_runs_on_the_emulation(part: str, count: int, environment: dict[str, str]) -> None:
    """So that it works when it is carried to a machine with a GPU; its figures say nothing here."""
    script = EMULATION.parents[1] / "scripts/gpu_check"
    done = subprocess.run(
        [sys.executable, str(script), "--only", part, "--seconds", "0.01"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["gpu"]["name"] == "Emulated GPU"
    states = {check["name"]: check["state"] for check in report["checks"]}
    assert len(states) == count
    skipped = {name for name, state in states.items() if state == "skipped"}
    # nothing there runs kernels
    assert skipped == ({"kernel, graph of it", "device lost"} if part == "cuda" else set())
    assert set(states.values()) <= {"ok", "skipped"}


def emulated(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The emulated TensorRT's module, without the driver that it calls when it is used."""
    monkeypatch.setattr(ctypes, "CDLL", MagicMock())
    spec = importlib.util.spec_from_file_location("emulated", EMULATION / "site/emulated_tensorrt.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_emulated_tensorrt_has_no_name_that_the_real_one_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    real = pytest.importorskip("tensorrt_rtx", reason="pip install 'edgecnn[rtx]'")
    own = [
        value
        for value in vars(emulated(monkeypatch)).values()
        if inspect.isclass(value) and value.__module__ == "emulated" and not value.__name__.startswith("_")
    ]
    assert len(own) >= 10
    missing = []
    for emulation in own:
        counterpart = getattr(real, emulation.__name__, None)
        names = [name for name in vars(emulation) if not name.startswith("_")]
        missing += [f"{emulation.__name__}.{name}" for name in names if not hasattr(counterpart, name)]
        if counterpart is None:
            missing.append(emulation.__name__)
    assert missing == []


def test_tensorrt_keeps_the_first_logger_and_it_stays() -> None:
    """What belongs to no object, as the registry of plugins, goes to it: the real library crashed."""
    pytest.importorskip("tensorrt_rtx", reason="pip install 'edgecnn[rtx]'")
    code = """
import gc
import tensorrt_rtx as trt
from edgecnn.backends.tensorrt_library import Messages, make_logger
messages = Messages(), Messages()
runtimes = [trt.Runtime(make_logger(trt, each)) for each in messages]
runtimes.pop(0)
gc.collect()
trt.get_plugin_registry().load_library("/no/such/library.so")
assert "no/such/library" in messages[0].take()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_the_backend_asks_of_tensorrt_exists() -> None:
    """Every attribute that its source takes of the library, an engine, a context or a runtime."""
    real = pytest.importorskip("tensorrt_rtx", reason="pip install 'edgecnn[rtx]'")
    folder = Path(__file__).parents[2] / "edgecnn/backends"
    source = "".join(path.read_text() for path in sorted(folder.glob("tensorrt*.py")))
    owners = {
        r"\btrt": real,
        r"\bengine|self\._engine": real.ICudaEngine,
        r"self\._context": real.IExecutionContext,
        r"\bruntime": real.Runtime,
    }
    found = 0
    for pattern, owner in owners.items():
        for name in set(re.findall(rf"(?:{pattern})\.([a-zA-Z]\w*)", source)):
            assert hasattr(owner, name), (owner, name)
            found += 1
    assert found > 20
