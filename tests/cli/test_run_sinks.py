"""`edgecnn run` as a process, with sinks of every kind that needs no other program."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.colours import decode_video, write_colour_onnx


def edgecnn(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgecnn", "run", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=120, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_colour_onnx(tmp_path / "model.onnx")


def test_all_at_once(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("rosbags")
    targets = [tmp_path / name for name in ("a.csv", "a.jsonl", "a.mp4", "a.rosbag", "pictures")]
    targets[-1].mkdir()
    sinks = [part for target in ("http://:0", *targets) for part in ("--sink", target)]
    done = edgecnn(model, "--source", "test://?width=320&height=240&frames=40", "--policy", "all", *sinks)
    assert done.returncode == 0, done.stderr
    assert "web view at http://127.0.0.1:" in done.stderr
    with targets[0].open() as file:
        indices = {row["index"] for row in csv.DictReader(file)}
    assert indices == {str(index) for index in range(40)}
    assert len(targets[1].read_text().splitlines()) == 40
    assert len(decode_video(targets[2])) > 10
    assert (targets[3] / "metadata.yaml").is_file()
    assert len(list(targets[4].iterdir())) == 40


def test_no_display(model: Path) -> None:
    done = edgecnn(model, "--source", "test://", "--sink", "window", DISPLAY="", WAYLAND_DISPLAY="")
    assert done.returncode == 1
    assert "cannot open a window: got no display" in done.stderr
    assert "http://:8080" in done.stderr


def test_a_sink_that_fails_on_the_way_fails_the_run_and_not_the_others(model: Path, tmp_path: Path) -> None:
    """A picture's file takes one frame only; the table goes on."""
    one, table = tmp_path / "one.png", tmp_path / "all.csv"
    source = ["--source", "test://?frames=30", "--policy", "all"]
    done = edgecnn(model, *source, "--sink", one, "--sink", table)
    assert done.returncode == 1
    assert done.stderr.count("takes one picture") == 1
    assert one.is_file()
    assert len(table.read_text().splitlines()) == 1 + 3 * 30
