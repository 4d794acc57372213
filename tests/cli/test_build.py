from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgecnn.calibration import calibrate
from edgecnn.cli import main
from tests.networks import Net, frames, save, spec


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.save(tmp_path / "frames.npy", np.stack(frames()))
    return tmp_path / "frames.npy"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    net = Net()
    scores = net.add("Gemm", net.pooled(net.relu(net.conv("image", 3, 8))), net.weights(8, 5), name="logits")
    return save(net.model(scores, own_spec=spec(task="classification")), tmp_path / "model.onnx")


@pytest.fixture
def calibrated(model: Path, data: Path, tmp_path: Path) -> Path:
    return calibrate(model, data, tmp_path / "calibrated.onnx").path


def test_int8_for_people(calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(calibrated), "--precision", "int8", "-o", str(tmp_path / "out.onnx")]) == 0
    out, err = capsys.readouterr()
    assert "int8 (asked for)" in out
    assert "1 int8" in out  # the convolution, read back
    assert "dB" in out
    assert err == ""


def test_auto_for_programs(
    calibrated: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.onnx"
    arguments = ["build", str(calibrated), "-o", str(output), "--data", str(data), "--limit", "4", "--json"]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["path"] == str(output)
    assert [candidate["precision"] for candidate in report["candidates"]] == ["fp32", "fp16", "int8"]
    assert all(candidate["latency_ms"]["p50"] > 0 for candidate in report["candidates"])
    assert [candidate["accuracy_from"] for candidate in report["candidates"]] == [
        None,
        "measured now",
        "measured now",
    ]
    assert report["candidates"][2]["accuracy"]["images"] == 4
    assert "agrees as asked" in report["reason"]


def test_warnings_go_to_stderr(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(model), "-o", str(tmp_path / "out.onnx"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "warning: INT8 was not considered: the model is not calibrated" in err
    report = json.loads(out.splitlines()[-1])
    assert report["warnings"] == ["INT8 was not considered: the model is not calibrated"]
    assert report["precision"] == "fp32"


def test_int8_without_calibration(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(model), "--precision", "int8", "-o", str(tmp_path / "out.onnx")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "INT8 needs a calibrated model" in line
    assert "edgecnn calibrate MODEL --data PHOTOS" in line


def test_data_that_is_none(calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "build",
        str(calibrated),
        "-o",
        str(tmp_path / "out.onnx"),
        "--data",
        str(tmp_path / "nothing"),
    ]
    assert main([*arguments, "--json"]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["error"]["type"] == "DataError"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["model.onnx"],
        ["model.onnx", "-o", "out.onnx", "--precision", "int4"],
        ["model.onnx", "-o", "out.onnx", "--min-agreement", "2"],
        ["model.onnx", "-o", "out.onnx", "--target", "tpu"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", *arguments]) == 2
    assert "Usage: edgecnn build" in capsys.readouterr().err
