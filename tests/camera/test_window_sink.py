"""Windows on a real X server, with Debian's OpenCV, since the tests' own may be the headless one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgecnn.camera import open_sink
from edgecnn.camera.window_sink import WindowSink
from edgecnn.errors import OutputError
from tests.browser import eventually
from tests.display import XVFB, Display

SYSTEM_PYTHON = "/usr/bin/python3"
ROOT = Path(__file__).parents[2]

# Pictures in the colour that stdin says, red at first; prints how it ended.
RUN = """
import sys, threading, time
sys.path.insert(0, sys.argv[1])
from edgecnn.camera import StopRequested, open_sink, window_sink
from edgecnn.errors import OutputError
from tests.colours import solid
from tests.outputs import fresh

colour = "red"
window_sink._ANSWER_S = float(sys.argv[3])

def listen():
    global colour
    for line in sys.stdin:
        colour = line.strip()

def run():
    try:
        with open_sink(sys.argv[2]) as sink:
            print(sink.name, sink.lossy, flush=True)
            while True:
                sink.write(fresh(solid(colour, (480, 640))))
                time.sleep(0.01)
    except StopRequested:
        print("stopped", flush=True)
    except OutputError as error:
        print(error, flush=True)

threading.Thread(target=listen, daemon=True).start()
for _ in range(2):  # not the main thread, and a second one after it
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
"""


def has_windows() -> bool:
    command = [SYSTEM_PYTHON, "-c", "import cv2; print(cv2.getBuildInformation().partition('GUI:')[2][:40])"]
    build = subprocess.run(command, capture_output=True, text=True, check=False)
    return build.returncode == 0 and "NONE" not in build.stdout


pytestmark = pytest.mark.skipif(
    XVFB is None or not has_windows(), reason="needs Debian's xvfb and python3-opencv"
)


def _environment() -> dict[str, str]:
    """Without what the tests' own OpenCV has told Qt of its plugins, which Debian's cannot use."""
    return {name: value for name, value in os.environ.items() if not name.startswith("QT_")}


@pytest.fixture
def display(tmp_path: Path) -> Iterator[Display]:
    with Display(tmp_path) as opened:
        yield opened


@contextlib.contextmanager
def running(
    display: Display, uri: str = "window", *, answer_s: float = 30.0
) -> Iterator[subprocess.Popen[str]]:
    run = subprocess.Popen(
        [SYSTEM_PYTHON, "-c", RUN, str(ROOT), uri, str(answer_s)],
        env={**_environment(), "DISPLAY": display.name},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
    )
    with run:
        try:
            yield run
        finally:
            run.kill()


def shows(display: Display, bgr: tuple[int, int, int]) -> bool:
    # not in the middle, where the mouse is
    return bool((np.abs(display.screenshot()[400, 500].astype(int) - bgr) < 30).all())


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def is_running(pid: int) -> bool:
    try:
        return "Z (zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def closed_by(close: Callable[[], None], window: int) -> bool:
    close()
    return not is_running(window)


def test_a_window_shows_pictures_until_the_user_has_seen_enough(display: Display) -> None:
    with running(display, "window:front door") as run:
        assert run.stdin is not None
        ways = [partial(display.press, b"q"), partial(display.close_windows)]
        for colour, bgr, close in zip(("blue", "green"), ((255, 0, 0), (0, 255, 0)), ways, strict=True):
            run.stdin.write(f"{colour}\n")
            eventually(partial(shows, display, bgr))
            (window,) = children(run.pid)
            # a key that comes before the window has the focus is lost
            eventually(partial(closed_by, close, window))
        said, _ = run.communicate(timeout=60)
    assert said.splitlines() == ["window:front door True", "stopped"] * 2
    assert run.returncode == 0


def test_the_display_goes_away(display: Display) -> None:
    with running(display) as run:
        eventually(lambda: shows(display, (0, 0, 255)))
        display.process.kill()
        said, _ = run.communicate(timeout=60)
    first, second, third = said.splitlines()
    assert first == "window True"
    assert second.startswith("the window has gone: got")
    assert third.startswith("cannot open a window: got qt.qpa.xcb: could not connect to display")


def test_no_window_is_left_behind_by_a_run_that_was_killed(display: Display) -> None:
    with running(display) as run:
        eventually(lambda: shows(display, (0, 0, 255)))
        (window,) = children(run.pid)
    eventually(lambda: not is_running(window))


def test_a_window_that_hangs_is_an_error(display: Display) -> None:
    with running(display, answer_s=2) as run:
        eventually(lambda: shows(display, (0, 0, 255)))
        (window,) = children(run.pid)
        os.kill(window, signal.SIGSTOP)
        try:
            assert run.stdout is not None
            assert run.stdout.readline() == "window True\n"
            assert run.stdout.readline().startswith("the window has gone: got no answer for 2 s")
            eventually(lambda: not is_running(window))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(window, signal.SIGKILL)


# without one ----------------------------------------------------------------------------------------------


def test_without_a_display_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(OutputError, match=r"no display: neither .*in a browser instead: --sink http://:8080"):
        open_sink("window")


@pytest.mark.skipif("NONE" not in cv2.getBuildInformation().partition("GUI:")[2][:40], reason="not headless")
def test_a_headless_opencv_says_so(display: Display, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", display.name)
    before = set(children(os.getpid()))
    with pytest.raises(
        OutputError, match=rf"OpenCV {cv2.__version__}\S* has no windows. Watch it in a browser"
    ):
        WindowSink()
    assert set(children(os.getpid())) <= before


def test_a_display_that_does_not_answer(display: Display, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in set(os.environ) - set(_environment()):
        monkeypatch.delenv(name)
    monkeypatch.setenv("DISPLAY", display.name)
    monkeypatch.setattr("edgecnn.camera.window_sink._OPEN_S", 1.0)
    monkeypatch.setattr(sys, "executable", SYSTEM_PYTHON)
    monkeypatch.setattr(sys, "path", [str(ROOT)])
    os.kill(display.process.pid, signal.SIGSTOP)
    with pytest.raises(OutputError, match="cannot open a window: got a display that does not answer"):
        WindowSink()
