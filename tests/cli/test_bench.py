from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgecnn.cli import main
from tests.colours import colour_cycle, write_colour_onnx, write_video


def test_the_report_is_the_last_line(colour_onnx: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "bench",
        str(colour_onnx),
        "--frames",
        "12",
        "--warmup",
        "1",
        "--size",
        "90x160",
        "--threads",
        "1",
        "--json",
    ]
    assert main(arguments) == 0
    said = capfd.readouterr()
    (line,) = said.out.splitlines()
    report = json.loads(line)
    assert (report["frames"], report["backend"], report["precision"]) == (12, "onnxruntime", "as in the file")
    assert report["backend_device"] == "CPU, 1 threads"
    assert report["frames_used"] == {
        "source": "synthetic, 1/f noise, seed 0",
        "distinct": 8,
        "sizes_hw": [[90, 160]],
    }
    assert report["model_bytes"] == colour_onnx.stat().st_size
    assert report["load_ms"] > 0
    for name in ("preprocess", "infer", "postprocess"):
        assert set(report["stages_ms"][name]) == {"p50", "p90", "p99", "mean"}
        assert name in said.err  # the table is for people, so beside the JSON it is on stderr


def test_the_table(colour_onnx: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    video = write_video(tmp_path / "v.mp4", colour_cycle(5))
    assert main(["bench", str(colour_onnx), "--frames", "9", "--source", str(video)]) == 0
    said = capfd.readouterr()
    for words in (
        "frame to result",
        "p99",
        "9 frames timed, 20 before",
        f"{video}, 5 distinct, 48x64",
        "state: power mode",
    ):
        assert words in said.out
    assert said.err == ""


def test_a_source_and_a_size_contradict(colour_onnx: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(colour_onnx), "--source", ".", "--size", "9x9"]) == 2
    assert "--size is for synthetic frames" in capfd.readouterr().err


def test_errors(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tmp_path / "missing.onnx"), "--json"]) == 1
    said = capfd.readouterr()
    assert json.loads(said.out)["error"]["type"] == "ModelNotFoundError"
    foreign = write_colour_onnx(tmp_path / "foreign.onnx", spec=None)
    assert main(["bench", str(foreign)]) == 1
    assert "--task classification" in capfd.readouterr().err
    options = ["--preset", "unit", "--input-size", "8x8", "--frames", "2", "--size", "20x20"]
    assert main(["bench", str(foreign), *options]) == 0
