"""Whatever happens to the compiler: an error in words, the old file in its place, and no process left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import Struct

from edgecnn.errors import BuildError
from edgecnn.export.tensorrt import compile_onnx, process
from edgecnn.export.tensorrt.compilation import Compilation
from edgecnn.export.tensorrt.protocol import Progressed, Request
from edgecnn.progress import Progress
from tests.export.tensorrt.conftest import AMPERE
from tests.export.tensorrt.graphs import two_convolutions

pytestmark = pytest.mark.usefixtures("rtx")

Workers = Callable[[], list[int]]


def in_the_middle(action: Callable[[], None]) -> Progress:
    """A progress function that acts once, as soon as the compiler works: it does not wait for us."""
    acted: list[int] = []

    def progress(stage: str, done: int, total: int | None) -> None:
        if not acted:
            acted.append(done)
            action()

    return progress


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, "was killed, most likely because the machine ran out of memory.*--workspace"),
        (signal.SIGSEGV, r"crashed \(SIGSEGV\).*another precision"),
        (signal.SIGABRT, r"crashed \(SIGABRT\)"),
    ],
)
def test_the_compiler_dies(tmp_path: Path, workers: Workers, number: signal.Signals, words: str) -> None:
    output = tmp_path / "model.plan"
    output.write_bytes(b"an older plan")

    def kill() -> None:
        (pid,) = workers()
        os.kill(pid, number)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it is dead before it can finish its work

    with pytest.raises(BuildError, match=words) as caught:
        compile_onnx(two_convolutions(), output, AMPERE, in_the_middle(kill), force=True)
    assert "[VERBOSE]" in str(caught.value) or "[INFO]" in str(caught.value)  # the end of TensorRT's log
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [output]
    assert output.read_bytes() == b"an older plan"
    assert workers() == []


def test_ctrl_c_while_compiling(tmp_path: Path, workers: Workers) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_onnx(two_convolutions(), tmp_path / "p", AMPERE, in_the_middle(interrupt))
    assert list(tmp_path.iterdir()) == []
    assert workers() == []


def test_the_progress_monitor_cancels(tmp_path: Path) -> None:
    """In this process, where it can be seen that the build ends early and not only its process."""
    stop = threading.Event()
    seen: list[Struct] = []

    def send(event: Struct) -> None:
        seen.append(event)
        stop.set()

    content = two_convolutions()
    request = Request(
        flavour="tensorrt_rtx",
        model=None,
        model_bytes=len(content),
        plan=str(tmp_path / "p"),
        options=AMPERE.to_json(),
        workspace_bytes=None,
        cache_folder=str(tmp_path),
    )
    with pytest.raises(BuildError, match="the build was stopped"):
        Compilation(request, send, lambda line: None, stop).run(content)
    progress = [event.done for event in seen if isinstance(event, Progressed)]
    assert max(progress) < 1000
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_the_compiler_hangs(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_CANCEL_S", 0.1)
    monkeypatch.setattr(process, "_TERMINATE_S", 0.1)

    def hang() -> None:
        (pid,) = workers()
        os.kill(pid, signal.SIGSTOP)  # it takes no notice of a pipe, nor of SIGTERM
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_onnx(two_convolutions(), tmp_path / "p", AMPERE, in_the_middle(hang))
    assert list(tmp_path.iterdir()) == []
    assert workers() == []


def test_an_error_in_the_progress_function_is_the_callers(tmp_path: Path, workers: Workers) -> None:
    def fail() -> None:
        raise ZeroDivisionError("the caller's")

    with pytest.raises(ZeroDivisionError, match="the caller's"):
        compile_onnx(two_convolutions(), tmp_path / "p", AMPERE, in_the_middle(fail))
    assert list(tmp_path.iterdir()) == []
    assert workers() == []


SCRIPT = """
import sys, time
from pathlib import Path
from edgecnn.export.tensorrt import CompileOptions, compile_onnx

def progress(stage, done, total):
    Path(sys.argv[3]).touch()
    time.sleep(0.05)  # so that the signal comes before the end, however fast the compiler is

compile_onnx(sys.argv[1], sys.argv[2], CompileOptions(compute_capabilities=("8.6",)), progress)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_to_the_whole_program(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C at a terminal goes to a whole process group; a kill -9 leaves no time to clean up."""
    folder = tmp_path / "out"
    folder.mkdir()
    source, begun = tmp_path / "model.onnx", tmp_path / "begun"
    source.write_bytes(two_convolutions())
    command = [sys.executable, "-c", SCRIPT, str(source), str(folder / "p"), str(begun)]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    ) as program:
        _wait_for(begun.exists)
        (worker,) = _children_of(program.pid)
        os.killpg(program.pid, number)
        assert program.stderr is not None
        said = program.stderr.read().decode()
        program.wait()
    _wait_for(lambda: not Path(f"/proc/{worker}").exists())
    if number == signal.SIGINT:
        assert list(folder.iterdir()) == []
        assert "KeyboardInterrupt" in said
        assert "[VERBOSE]" not in said  # nothing of the worker's
    else:
        assert not (folder / "p").exists()


def _children_of(pid: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(folder.name))
    return found


def _wait_for(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
