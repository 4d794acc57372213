"""How a process ends that has, or had, a model on the GPU. Each test starts one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

START = """
import os, sys, threading, time
import numpy as np
from edgecnn.backends.tensorrt import TensorRTBackend
feeds = {"image": np.ones((1, 3, 16, 16), np.float32)}
backend = TensorRTBackend(sys.argv[1])
backend.run(feeds)
"""

Convnet = Callable[..., tuple[Path, bytes]]


def run(code: str, plan: Path, tmp_path: Path, *, start: str = START) -> tuple[int, str, dict[str, int]]:
    """Exit code, stderr, and what the driver held at the process's end."""
    report = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", start + code, str(plan)],
        capture_output=True, text=True, timeout=60, env={**os.environ, "EMU_REPORT": str(report)},
    )  # fmt: skip
    left = json.loads(report.read_text()) if report.exists() else {}
    left.pop("launches", None)
    warning = "has no m.engine.json beside it"
    lines = [line for line in done.stderr.splitlines() if warning not in line]
    return done.returncode, "\n".join(lines), {name: value for name, value in left.items() if value}


ENDS = {
    "closed": "backend.close()",
    "left open": "",
    "left open in a cycle": "cycle = [backend]; cycle.append(cycle); del backend",
    "sys.exit": "sys.exit(0)",
    "dropped": "del backend",
    "dropped and collected": "import gc; del backend; gc.collect(); backend = TensorRTBackend(sys.argv[1])",
    "several": "more = [TensorRTBackend(sys.argv[1]) for _ in range(3)]; more[0].close()",
    "made on a thread": """
backend.close()
thread = threading.Thread(target=lambda: globals().update(backend=TensorRTBackend(sys.argv[1])))
thread.start(); thread.join()
backend.run(feeds)
""",
    "while daemon threads run": """
from edgecnn.errors import ClosedError
def ask():
    try:
        while True:
            backend.run(feeds)
    except ClosedError:
        time.sleep(60)
for _ in range(4):
    threading.Thread(target=ask, daemon=True).start()
time.sleep(0.2)
""",
    "while threads end": """
def ask():
    for _ in range(200):
        backend.run(feeds)
for _ in range(4):
    threading.Thread(target=ask).start()
""",
}


@pytest.mark.parametrize("end", ENDS)
def test_it_ends_silently_and_holds_nothing(end: str, convnet: Convnet, tmp_path: Path) -> None:
    plan, _ = convnet()
    assert run(ENDS[end], plan, tmp_path) == (0, "", {})


def test_an_error_that_is_never_caught(convnet: Convnet, tmp_path: Path) -> None:
    plan, _ = convnet()
    code, err, left = run("raise ValueError('mine')", plan, tmp_path)
    assert (code, left) == (1, {})
    assert err.splitlines()[-1] == "ValueError: mine"
    assert "PyCUDA" not in err


def test_a_model_that_could_not_be_loaded(convnet: Convnet, tmp_path: Path) -> None:
    """The exception, kept, holds nothing on the GPU."""
    plan, _ = convnet(layout="CHW4")
    code = """
from edgecnn.backends.tensorrt import TensorRTBackend
import sys
try:
    TensorRTBackend(sys.argv[1])
except Exception as error:
    kept = error
"""
    assert run(code, plan, tmp_path, start="") == (0, "", {})


FORK = """
child = os.fork()
if child == 0:
    from edgecnn.errors import InferenceError, ClosedError
    try:
        backend.run(feeds)
    except InferenceError as error:
        print(error, file=sys.stderr)
    try:
        TensorRTBackend(sys.argv[1])
    except ImportError as error:
        print(error, file=sys.stderr)
    if CLOSE:
        backend.close()
        backend.close()
    import atexit, gc
    del backend
    gc.collect()
    atexit._run_exitfuncs()
    sys.stderr.flush()
    os._exit(7)  # as multiprocessing does; ONNX Runtime, which the emulation computes with, hangs otherwise
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 7
backend.run(feeds)
"""


BUSY = """
def ask():
    while not stop:
        backend.run(feeds)
stop = []
asking = [threading.Thread(target=ask) for _ in range(3)]
for thread in asking:
    thread.start()
"""


@pytest.mark.parametrize("close", [True, False])
@pytest.mark.parametrize("busy", [True, False])
def test_a_forked_process_is_told_and_ends_silently(
    close: bool, busy: bool, convnet: Convnet, tmp_path: Path
) -> None:
    """`busy`: other threads hold the workers when the process is forked, and are not in the other one."""
    plan, _ = convnet()
    before, after = (BUSY, "stop.append(1)") if busy else ("", "")
    code, err, left = run(f"CLOSE = {close}\n{before}{FORK}{after}", plan, tmp_path)
    assert (code, left) == (0, {})
    first, second = err.splitlines()
    assert "was loaded before this process was forked" in first
    assert "spawn" in first
    assert "needs an NVIDIA GPU" in second or "spawn" in second


INTERRUPTED = """
import signal
armed = early = False
def interrupt(number, frame):
    global early
    if armed:
        raise KeyboardInterrupt
    early = True  # while this script itself is not ready for it
signal.signal(signal.SIGINT, interrupt)
print("ready", flush=True)
count = 0
while count < 40:
    try:
        armed = True
        if early:
            early = False
            raise KeyboardInterrupt
        while True:
            backend.run(feeds)
    except KeyboardInterrupt:
        armed = False
        count += 1
        print("again", flush=True)
backend.run(feeds)
"""


def test_ctrl_c_at_any_time(convnet: Convnet, tmp_path: Path) -> None:
    """40 times, wherever it falls: the context's stack is balanced, no worker is lost, the end is silent."""
    plan, _ = convnet()
    report = tmp_path / "report.json"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", START + INTERRUPTED, str(plan)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "EMU_REPORT": str(report)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for index in range(40):
        time.sleep(0.0005 * (index % 7))
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "again\n"
    _, err = process.communicate(timeout=60)
    left = {name: value for name, value in json.loads(report.read_text()).items() if value}
    left.pop("launches")
    assert (process.returncode, left) == (0, {})
    assert "PyCUDA" not in err
