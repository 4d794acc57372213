from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgecnn.calibration import calibrate
from edgecnn.cli import main
from edgecnn.export import build
from tests.networks import Net, frames, save, spec


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, str]:
    net = Net()
    scores = net.add("Gemm", net.pooled(net.relu(net.conv("image", 3, 8))), net.weights(8, 5), name="logits")
    model = save(net.model(scores, own_spec=spec(task="classification")), tmp_path / "model.onnx")
    data = tmp_path / "frames.npy"
    np.save(data, np.stack(frames()))
    calibrated = calibrate(model, data, tmp_path / "calibrated.onnx").path
    int8 = build(calibrated, tmp_path / "int8.onnx", precision="int8").path
    return {"model": str(model), "data": str(data), "calibrated": str(calibrated), "int8": str(int8)}


def test_for_people(paths: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", paths["model"], paths["int8"], "--data", paths["data"]]) == 0
    out, err = capsys.readouterr()
    assert "on 12 frames" in out
    assert "dB" in out
    assert "top1 agreement: " in out
    assert err == ""


def test_identical_models(paths: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", paths["model"], paths["calibrated"], "--data", paths["data"], "--layers"]) == 0
    out = capsys.readouterr().out
    assert "identical" in out
    assert "1.00000" in out


def test_for_programs_layer_by_layer(paths: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "compare",
        paths["model"],
        paths["int8"],
        "--data",
        paths["data"],
        "--limit",
        "3",
        "--layers",
        "--json",
    ]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["images"] == 3
    assert report["outputs"]["logits"]["sqnr_db"] > 20
    assert 0 <= report["top1_agreement"] <= 1
    assert report["layers"][-1]["tensor"] == "logits"
    assert all(layer["sqnr_db"] is None or layer["sqnr_db"] > 20 for layer in report["layers"])


def test_outputs_that_do_not_correspond(
    paths: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = Net()
    scores = net.add("Gemm", net.pooled("image"), net.weights(3, 4), name="logits")
    other = save(net.model(scores, own_spec=spec(task="classification")), tmp_path / "other.onnx")
    assert main(["compare", paths["model"], str(other), "--data", paths["data"]]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "outputs do not correspond" in line


def test_no_data(paths: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", paths["model"], paths["int8"], "--data", str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["error"]["type"] == "DataError"


def test_wrong_usage_is_exit_code_2(paths: dict[str, str]) -> None:
    assert main(["compare", paths["model"], "--data", paths["data"]]) == 2
    assert main(["compare", paths["model"], paths["int8"]]) == 2
