"""`edgecnn run` as a service: real processes, real signals, and sockets in systemd's place."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest

from tests.colours import decode_video, solid

DEADLINE_S = 30.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
CAMERA = "test://?width=96&height=64&fps=50"


class Service:
    """A running `edgecnn run`, without a terminal, as a service manager starts it."""

    def __init__(self, folder: Path, *arguments: object, **environment: str) -> None:
        self.folder = folder
        self._said = (folder / "stderr").open("w")
        self.process = subprocess.Popen(
            # whoever runs the tests under nohup has SIGHUP ignored, which is inherited
            ["env", "--default-signal=HUP", sys.executable, "-m", "edgecnn", "run", *map(str, arguments)],
            cwd=folder, env={**ENVIRONMENT, **environment}, start_new_session=True,
            stdout=subprocess.PIPE, stderr=self._said, text=True,
        )  # fmt: skip

    @property
    def said(self) -> str:
        return (self.folder / "stderr").read_text()

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert self.process.poll() is None, f"it ended while waiting for {what}: {self.said}"
            assert time.monotonic() < end, f"no {what}: {self.said}"
            time.sleep(0.02)

    def has_lines(self, name: str = "out.jsonl", count: int = 3) -> Callable[[], bool]:
        path = self.folder / name
        return lambda: path.exists() and path.read_bytes().count(b"\n") >= count

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, number: int | None = None) -> str:
        """Stop it, if a signal is given, and wait for it: its stdout."""
        if number is not None:
            self.send(number)
        out, _ = self.process.communicate(timeout=DEADLINE_S)
        self._said.close()
        return str(out)


@pytest.fixture
def service(colour_onnx: Path, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    started: list[Service] = []

    def start(*arguments: object, **environment: str) -> Service:
        started.append(Service(tmp_path, colour_onnx, *arguments, **environment))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        with contextlib.suppress(ValueError):
            one.process.communicate()
        one._said.close()


Start = Callable[..., Service]


def frames_of(path: Path) -> list[int]:
    return [json.loads(line)["index"] for line in path.read_text().splitlines()]


# --- stopping


def test_sigterm_finishes_the_files_and_is_no_failure(service: Start, tmp_path: Path) -> None:
    running = service("--source", CAMERA, "--sink", "out.mp4", "--sink", "out.jsonl", "--json")
    running.wait_for(running.has_lines(), "frames")
    report = json.loads(running.end(signal.SIGTERM).splitlines()[-1])
    assert running.process.returncode == 0
    written = {sink["name"]: sink["written"] for sink in report["sinks"]}
    assert len(frames_of(tmp_path / "out.jsonl")) == written["out.jsonl"] >= 3
    assert decode_video(tmp_path / "out.mp4")
    assert report["device"]["memory_total_mb"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.mp4", "stderr"]


def test_sigterm_while_the_model_is_loaded(service: Start, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "labels.txt")  # reading it takes for ever
    running = service("--source", CAMERA, "--sink", "out.jsonl", "--labels", "labels.txt")
    writer: list[int] = []

    def is_read() -> bool:
        with contextlib.suppress(OSError):  # nobody reads yet
            writer.append(os.open(tmp_path / "labels.txt", os.O_WRONLY | os.O_NONBLOCK))
        return bool(writer)

    running.wait_for(is_read, "reader")
    running.end(signal.SIGTERM)
    os.close(writer[0])
    assert running.process.returncode == 0
    assert running.said.strip() == ""
    assert not (tmp_path / "out.jsonl").exists()


def test_nobody_waits_for_a_camera_that_is_silent(service: Start) -> None:
    """Its second frame would come after a hundred seconds."""
    silent = ("--source", "test://?width=96&height=64&fps=0.01", "--stall", "1000", "--json")
    running = service(*silent, "--duration", "0.5")
    assert json.loads(running.end().splitlines()[-1])["frames"] == 1
    assert running.process.returncode == 0
    running = service(*silent, "--sink", "out.jsonl")
    running.wait_for(running.has_lines(count=1), "frame")
    running.end(signal.SIGTERM)
    assert running.process.returncode == 0


# --- SIGHUP


def test_sighup_finishes_the_files_and_begins_new_ones(service: Start, tmp_path: Path) -> None:
    running = service("--source", CAMERA, "--sink", "out.mp4", "--sink", "out.jsonl")
    running.wait_for(running.has_lines(), "frames")
    running.send(signal.SIGHUP)
    running.wait_for(lambda: list(tmp_path.glob("out.*.jsonl")), "file set aside")
    running.wait_for(running.has_lines(), "new file")
    running.end(signal.SIGTERM)
    assert running.process.returncode == 0
    (old,) = tmp_path.glob("out.*.jsonl")
    (video,) = tmp_path.glob("out.*.mp4")
    assert len(frames_of(old)) >= 3
    assert decode_video(video)
    assert decode_video(tmp_path / "out.mp4")
    assert [line.split(",")[0].endswith("frames") for line in running.said.splitlines()] == [True, True]


def test_sighup_after_logrotate_has_moved_a_file(service: Start, tmp_path: Path) -> None:
    running = service("--source", CAMERA, "--sink", "out.jsonl")
    running.wait_for(running.has_lines(), "frames")
    (tmp_path / "out.jsonl").rename(tmp_path / "out.jsonl.1")
    running.send(signal.SIGHUP)
    running.wait_for(running.has_lines(), "new file")
    running.end(signal.SIGTERM)
    assert running.process.returncode == 0
    assert frames_of(tmp_path / "out.jsonl.1")
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.jsonl", "out.jsonl.1"]


def test_sighup_reads_the_config_again(service: Start, tmp_path: Path) -> None:
    config = tmp_path / "app.toml"
    config.write_text(f'source = "{CAMERA}"\nsink = "a.jsonl"\n')
    running = service("--config", config)
    running.wait_for(running.has_lines("a.jsonl"), "frames")
    config.write_text("sink = [")
    running.send(signal.SIGHUP)
    running.wait_for(lambda: "the options stay as they were" in running.said, "complaint")
    assert "app.toml is not TOML" in running.said
    running.wait_for(running.has_lines("a.jsonl"), "frames")
    config.write_text(f'source = "{CAMERA}"\nsink = "b.jsonl"\n')
    running.send(signal.SIGHUP)
    running.wait_for(running.has_lines("b.jsonl"), "frames in the other file")
    running.end(signal.SIGTERM)
    assert running.process.returncode == 0


def test_beginning_anew_leaves_nothing_behind(service: Start, tmp_path: Path) -> None:
    sinks = ("--sink", "out.jsonl", "--sink", "http://127.0.0.1:0")
    running = service("--source", CAMERA, *sinks, "--metrics", "0")
    proc = Path("/proc", str(running.process.pid))
    counts: list[tuple[int, int]] = []
    for turn in range(6):
        is_set_aside = functools.partial(lambda count: len(list(tmp_path.glob("out.*.jsonl"))) == count, turn)
        running.wait_for(is_set_aside, "file set aside")
        running.wait_for(running.has_lines(), "new file")
        counts.append((len(list(proc.glob("task/*"))), len(list(proc.glob("fd/*")))))
        running.send(signal.SIGHUP if turn < 5 else signal.SIGTERM)
    running.end()
    assert running.process.returncode == 0
    threads, descriptors = zip(*counts[1:], strict=True)  # the first run has loaded libraries on its way
    assert max(threads[-2:]) <= max(threads[:3])
    assert max(descriptors[-2:]) <= max(descriptors[:3])


def test_a_terminal_that_is_closed_stops_it(colour_onnx: Path, tmp_path: Path) -> None:
    """As when an SSH connection breaks: the files are finished, even if there is nobody to be told."""
    sinks = ("--sink", "out.mp4", "--sink", "out.jsonl")
    command = [sys.executable, "-m", "edgecnn", "run", str(colour_onnx), "--source", CAMERA, *sinks]
    main_end, terminal = pty.openpty()
    process = subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stdin=terminal, stdout=terminal, stderr=terminal,
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # it is its terminal
    )  # fmt: skip
    os.close(terminal)
    end = time.monotonic() + DEADLINE_S
    while not (tmp_path / "out.jsonl").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    os.close(main_end)
    assert process.wait(timeout=DEADLINE_S) in (0, 1)  # the latter where it was about to say something
    assert decode_video(tmp_path / "out.mp4")
    assert frames_of(tmp_path / "out.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.mp4"]


def test_many_signals(service: Start) -> None:
    running = service("--source", CAMERA, "--sink", "out.jsonl")
    running.wait_for(running.has_lines(), "frames")
    for _ in range(20):
        running.send(signal.SIGHUP)
    running.wait_for(running.has_lines(), "new file")
    running.end(signal.SIGTERM)
    assert running.process.returncode == 0
    assert "Traceback" not in running.said


# --- what fails on the way


def test_a_sink_that_fails_is_told_once_and_the_others_go_on(service: Start) -> None:
    """A file for one picture refuses the second."""
    running = service(
        "--source", CAMERA, "--sink", "one.jpg", "--sink", "out.jsonl", "--frames", "20", "--json"
    )
    report, error = map(json.loads, running.end().splitlines())
    assert running.process.returncode == 1
    assert report["frames"] == 20
    assert list(report["failures"]) == ["one.jpg"]
    assert [(sink["name"], sink["failure"] is None) for sink in report["sinks"]] == [
        ("one.jpg", False),
        ("out.jsonl", True),
    ]
    assert error["error"]["message"] == "given up: one.jpg"
    assert running.said.count("one.jpg failed: one.jpg takes one picture") == 1


def test_without_a_sink_that_works_there_is_no_reason_to_go_on(service: Start) -> None:
    running = service("--source", CAMERA, "--sink", "one.jpg")
    running.end()
    assert running.process.returncode == 1
    assert running.said.splitlines()[-1] == "edgecnn: error: given up: one.jpg"


def test_several_models_and_cameras(service: Start, colour_onnx: Path, tmp_path: Path) -> None:
    running = service(
        f"second={colour_onnx}", "--source", CAMERA, "--source", f"{CAMERA}&frames=9",
        "--sink", "-", "--frames", "30", "--json",
    )  # fmt: skip
    *lines, report = map(json.loads, running.end().splitlines())
    assert running.process.returncode == 0
    assert len(lines) == 30
    assert {tuple(line["results"]) for line in lines} == {("colours", "second")}
    assert len(report["sources"]) == 2


def test_two_models_of_one_name(service: Start, colour_onnx: Path) -> None:
    running = service(colour_onnx, "--source", CAMERA)
    running.end()
    assert running.process.returncode == 2
    assert "two models are called colours; say NAME=FILE" in running.said


# --- systemd


@pytest.fixture
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path_factory.mktemp("run") / "notify"))
        channel.settimeout(DEADLINE_S)
        yield channel


def told(manager: socket.socket, until: str) -> list[str]:
    messages = [manager.recv(4096).decode()]
    while not messages[-1].startswith(until):
        messages.append(manager.recv(4096).decode())
    return messages


def test_what_systemd_is_told(service: Start, manager: socket.socket) -> None:
    running = service(
        "--source", CAMERA, "--sink", "out.jsonl",
        NOTIFY_SOCKET=manager.getsockname(), WATCHDOG_USEC="300000",
    )  # fmt: skip
    assert told(manager, "READY=1") == ["READY=1"]
    for _ in range(3):
        told(manager, "WATCHDOG=1")
    running.send(signal.SIGHUP)
    reloading = told(manager, "RELOADING=1")[-1]
    assert abs(int(reloading.partition("MONOTONIC_USEC=")[2]) - time.monotonic_ns() // 1000) < 60e6
    told(manager, "READY=1")
    running.send(signal.SIGTERM)
    told(manager, "STOPPING=1")
    running.end()
    assert running.process.returncode == 0


def test_a_watchdog_that_is_another_process_s(service: Start, manager: socket.socket) -> None:
    running = service(
        "--source", CAMERA, "--frames", "30",
        NOTIFY_SOCKET=manager.getsockname(), WATCHDOG_USEC="30000", WATCHDOG_PID="1",
    )  # fmt: skip
    running.end()
    assert "WATCHDOG=1" not in told(manager, "STOPPING=1")


def test_the_journal_is_told_priorities(service: Start, tmp_path: Path) -> None:
    (tmp_path / "stderr").touch()  # the journal's stream, as far as edgecnn can tell
    state = (tmp_path / "stderr").stat()
    stream = f"{state.st_dev}:{state.st_ino}"
    running = service("--source", CAMERA, "--sink", "one.jpg", JOURNAL_STREAM=stream)
    running.end()
    assert [line[:3] for line in running.said.splitlines()] == ["<3>", "<6>", "<3>"]
    running = service("--source", CAMERA, "--frames", "0", JOURNAL_STREAM=stream)
    running.end()
    (line,) = running.said.splitlines()
    assert line.startswith("<3>edgecnn: error: Invalid value for '--frames'")
    running = service("--source", CAMERA, "--frames", "5", JOURNAL_STREAM="1:1")  # of some other process
    running.end()
    assert running.said.startswith("5 frames, in ")
    assert "\x1b" not in running.said


def test_log_levels(service: Start, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(b"damaged")
    (tmp_path / "photos/b.png").write_bytes(cv2.imencode(".png", solid("red"))[1].tobytes())
    running = service("--source", "photos", "--sink", "-", "--log-level", "error")
    running.end()
    assert len(running.said.splitlines()) == 1, running.said  # the summary, and nothing of the damaged one


UNIT = Path(__file__).parents[2] / "docs/edgecnn.service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd checks its own units")
def test_the_unit(tmp_path: Path) -> None:
    program = "/opt/edgecnn/.venv/bin/edgecnn"
    assert f"ExecStart={program} run --config " in UNIT.read_text()
    unit = tmp_path / "edgecnn.service"
    unit.write_text(UNIT.read_text().replace(program, "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# --- metrics


def test_metrics_while_it_runs(service: Start) -> None:
    pytest.importorskip("prometheus_client", reason="pip install 'edgecnn[metrics]'")
    running = service("--source", CAMERA, "--sink", "out.jsonl", "--metrics", "0")
    running.wait_for(lambda: "metrics on " in running.said, "address")
    url = running.said.partition("metrics on ")[2].split()[0]
    running.wait_for(running.has_lines(), "frames")
    with urllib.request.urlopen(url) as reply:
        text = reply.read().decode()
    assert f'edgecnn_source_state{{source="{CAMERA}",state="streaming"}} 1.0' in text
    delivered = next(line for line in text.splitlines() if line.startswith("edgecnn_frames_delivered_total"))
    assert float(delivered.split()[1]) >= 3
    assert 'edgecnn_info{backend="onnxruntime"' in text
    running.end(signal.SIGTERM)
    assert running.process.returncode == 0
