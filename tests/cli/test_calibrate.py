from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from edgecnn.cli import main
from tests.broken import convnet
from tests.networks import Net, frames, save, spec


@pytest.fixture
def model(tmp_path: Path) -> Path:
    net = Net()
    scores = net.add("Gemm", net.pooled(net.relu(net.conv("image", 3, 8))), net.weights(8, 5), name="logits")
    return save(net.model(scores, own_spec=spec(task="classification")), tmp_path / "model.onnx")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.save(tmp_path / "frames.npy", np.stack(frames()))
    return tmp_path / "frames.npy"


def test_for_people(model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", str(model), "--data", str(data), "-o", str(tmp_path / "out.onnx")]) == 0
    out, err = capsys.readouterr()
    assert " ranges of 4 tensors from 10 frames" in out
    assert "largest magnitudes, nearest steps" in out  # what the recipe is measured against
    assert "INT8 against FP32 on 2 held-out frames" in out
    assert "logits: SQNR" in out
    assert "top1 agreement" in out
    assert "on TensorRT's grid" in out
    assert not err or err.startswith("warning: auto ranges with second-order rounding gave ")
    onnx.checker.check_model(tmp_path / "out.onnx", full_check=True)


def test_for_programs(model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.onnx"
    arguments = [
        "calibrate",
        str(model),
        "--data",
        str(data),
        "-o",
        str(output),
        "--method",
        "entropy",
        "--json",
    ]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["path"] == str(output)
    assert (report["method"], report["frames"], report["weights"], report["skipped"]) == (
        "entropy",
        10,
        2,
        [],
    )
    assert set(report["accuracy"]) == {"images", "outputs", "top1_agreement"}
    assert report["accuracy"]["outputs"]["logits"]["sqnr_db"] > 15


def test_skipped_images_are_told(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, frame in enumerate(frames()):
        cv2.imwrite(str(folder / f"{number}.png"), frame)
    (folder / "3.png").write_bytes(b"no image")
    arguments = ["calibrate", str(model), "--data", str(folder), "-o", str(tmp_path / "out.onnx"), "--json"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert "skipped:" in err
    assert "3.png" in err
    assert [Path(entry["path"]).name for entry in json.loads(out.splitlines()[-1])["skipped"]] == ["3.png"]


def test_evaluation_data_and_limit(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["calibrate", str(model), "--data", str(data), "--eval-data", str(data), "--limit", "5"]
    assert main([*arguments, "-o", str(tmp_path / "out.onnx"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["frames"], report["accuracy"]["images"]) == (5, 5)


def test_a_foreign_model(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save(convnet(opset=11), tmp_path / "foreign.onnx")
    arguments = ["calibrate", str(source), "--data", str(data), "-o", str(tmp_path / "out.onnx")]
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "does not say how to use it" in line
    assert "--task classification --preset imagenet" in line
    assert main([*arguments, "--preset", "unit", "--input-size", "8"]) == 0


def test_errors_are_one_line_and_exit_code_1(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    arguments = ["calibrate", str(model), "--data", str(tmp_path / "empty"), "-o", str(tmp_path / "out.onnx")]
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("edgecnn: error: no images in")
    assert len(err.splitlines()) == 1
    assert main([*arguments, "--json"]) == 1
    error = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert error["type"] == "DataError"
    assert not (tmp_path / "out.onnx").exists()


def test_an_existing_output(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.onnx"
    output.write_text("precious")
    arguments = ["calibrate", str(model), "--data", str(data), "-o", str(output)]
    assert main(arguments) == 1
    assert "--force" in capsys.readouterr().err
    assert output.read_text() == "precious"
    assert main([*arguments, "--force"]) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["model.onnx"],
        ["model.onnx", "--data", "photos"],
        ["model.onnx", "--data", "photos", "-o", "out.onnx", "--method", "magic"],
        ["model.onnx", "--data", "photos", "-o", "out.onnx", "--limit", "1"],
        ["model.onnx", "--data", "photos", "-o", "out.onnx", "--threads", "0"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", *arguments]) == 2
    assert "Usage: edgecnn calibrate" in capsys.readouterr().err


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--help"]) == 0
    assert "edgecnn calibrate model.onnx --data photos/ -o model.calibrated.onnx" in capsys.readouterr().out
