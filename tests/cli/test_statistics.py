from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from edgecnn.cli.statistics import monitored, stats_line, stats_table
from edgecnn.cli.systemd import ServiceManager
from edgecnn.telemetry import Reading, Telemetry
from tests.colours import colour_cycle, write_video
from tests.test_metrics import STATS
from tests.test_telemetry import ORIN_NANO, tree


@pytest.fixture
def reading(tmp_path: Path) -> Reading:
    return Telemetry(tree(tmp_path / "root", ORIN_NANO)).read()


def drawn(render: Callable[[], object]) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(render())
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_the_line(reading: Reading) -> None:
    stats = replace(STATS, sources=STATS.sources[:1], skipped=0, reconnects=2, rss_mb=104.4)
    assert stats_line(stats, None) == (
        "7 frames; 30.0 fps in; 6 dropped; age 1 ms, p99 30; 2 reconnects; mqtt://b failed; 104 MB"
    )
    assert stats_line(stats, reading).endswith(
        "104 MB; 6.0 W; 52 °C; CPU 1510 MHz; GPU 100% 918 MHz; mode MAXN_SUPER"
    )
    lost = replace(stats, sources=(replace(STATS.sources[0], state="reconnecting"),))
    assert "; rtsp://a reconnecting; " in stats_line(lost, None)
    assert stats_line(stats, replace(reading, throttled=True)).endswith("throttled; mode MAXN_SUPER")


def test_the_table(reading: Reading) -> None:
    text = drawn(lambda: stats_table(STATS, reading, "m.onnx int8\x1b[31m"))
    for words in (
        r"m.onnx int8\x1b[31m",  # names are from elsewhere, and steer no terminal
        "7 frames   in 30.0 fps   out – fps",
        "dropped 6 (4 source, 1 pipeline, 1 deadline)   skipped 3",
        "6.0 W   52 °C   CPU 1510 MHz   GPU 100% 918 MHz   mode MAXN_SUPER",
    ):
        assert words in text
    rows = [line.split() for line in text.splitlines()]
    assert ["infer", "1.00", "2.00", "30.00"] in rows
    assert ["age", "at", "delivery", "1.00", "2.00", "30.00"] in rows
    assert ["rtsp://a", "streaming", "9", "2", "1"] in rows
    assert ["mqtt://b", "1", "5", "–", "–", "gone"] in rows


def test_before_the_first_frame(reading: Reading) -> None:
    nothing = replace(STATS, frames=0, latency_ms=None, age_ms=None, stages_ms={}, sinks=(), fps_in=None)
    assert "0 frames   in – fps   out – fps" in drawn(lambda: stats_table(nothing, reading, "m"))
    assert stats_line(nothing, None).startswith("0 frames; 6 dropped")


class Told(ServiceManager):
    """Keeps what systemd would have been told."""

    def __init__(self, watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s
        self.listening = False
        self.fed = threading.Semaphore(0)

    def alive(self) -> None:
        self.fed.release()


def test_the_watchdog_is_fed_while_frames_flow_or_none_can() -> None:
    """And starves while a source gives frames of which none comes out."""
    stats, asked, told = STATS, threading.Semaphore(0), Told(watchdog_s=0.03)

    def now() -> object:
        asked.release()
        return stats

    def fed() -> bool:
        """Whether it is fed after a moment at which what `stats` is now has been seen."""
        for _ in range(2):
            assert asked.acquire(timeout=30)
        while told.fed.acquire(blocking=False):
            pass
        for _ in range(4):
            assert asked.acquire(timeout=30)
        return told.fed.acquire(blocking=False)

    with monitored(now, told, title="", show=False, every_s=None):  # type: ignore[arg-type]
        assert not fed()
        stats = replace(STATS, sources=(replace(STATS.sources[0], state="reconnecting"),))
        assert fed()
        stats = STATS
        assert not fed()
        for _ in range(3):  # a frame between two looks
            stats = replace(stats, frames=stats.frames + 1)
            assert told.fed.acquire(timeout=30)


def test_without_anything_to_do_there_is_no_thread() -> None:
    before = threading.active_count()
    with monitored(lambda: STATS, Told(), title="", show=False, every_s=None):
        assert threading.active_count() == before


def test_a_failure_of_the_display_is_logged_and_the_run_goes_on(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    failed, shown = threading.Event(), threading.Event()

    def stats() -> object:
        if not failed.is_set():
            failed.set()
            raise ZeroDivisionError
        shown.set()
        return STATS

    with monitored(stats, Told(), title="", show=True, every_s=0.01):  # type: ignore[arg-type]
        assert shown.wait(30)
    assert "cannot be shown" in caplog.text
    assert "7 frames" in capfd.readouterr().err


def run_on_a_terminal(*arguments: object) -> str:
    """A real `edgecnn run` on a pseudo-terminal; what it shows, without the control sequences."""
    main_end, terminal = pty.openpty()
    command = [sys.executable, "-m", "edgecnn", "run", *map(str, arguments)]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "50"}
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    shown = b""
    while True:
        try:
            block = os.read(main_end, 1 << 16)
        except OSError:  # the other side has been closed
            break
        if not block:
            break
        shown += block
    os.close(main_end)
    assert process.wait() == 0, shown
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_on_a_terminal_there_is_a_table(colour_onnx: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", colour_cycle(30))
    shown = run_on_a_terminal(colour_onnx, "--source", video, "--stats")
    table = shown[shown.rindex("as in the file, onnxruntime on CPU") :]  # the last one stays
    assert "30 frames   in" in table
    assert re.search(r"frame to result +[\d.]+ +[\d.]+ +[\d.]+", table)
    assert table.splitlines()[-1].startswith("30 frames, in ")
    assert "100.0%" not in shown  # no line for each frame in between
    assert "frames   in" not in run_on_a_terminal(colour_onnx, "--source", video, "--stats-every", "60")


def test_elsewhere_there_are_lines(colour_onnx: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", colour_cycle(3000))
    command = [sys.executable, "-m", "edgecnn", "run", str(colour_onnx), "--source", str(video)]
    done = subprocess.run(
        [*command, "--stats-every", "0.1", "--sink", tmp_path / "o.jsonl"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    *lines, _summary = done.stderr.splitlines()
    assert lines
    assert all(re.match(r"\d+ frames; ", line) for line in lines)
    assert "\x1b" not in done.stderr
    assert done.stdout == ""
