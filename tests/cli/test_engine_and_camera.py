"""Built models that take the camera's own bytes, and TensorRT plans, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import edgecnn
from edgecnn.cli import main
from edgecnn.results import Classification


def test_a_model_that_takes_frames_says_the_same(colour_onnx: Path, tmp_path: Path) -> None:
    arguments = ["build", str(colour_onnx), "--precision", "fp32"]
    assert main([*arguments, "-o", str(tmp_path / "tensor.onnx")]) == 0
    assert main([*arguments, "--camera", "320x240", "-o", str(tmp_path / "frames.onnx")]) == 0
    assert (
        main([*arguments, "--camera", "320x240", "--pixel-format", "nv12", "-o", str(tmp_path / "nv12.onnx")])
        == 0
    )
    random = np.random.default_rng(0)
    with (
        edgecnn.load(tmp_path / "tensor.onnx") as tensor,
        edgecnn.load(tmp_path / "frames.onnx") as frames,
        edgecnn.load(tmp_path / "nv12.onnx") as nv12,
    ):
        assert frames.input.shape[1:] == (240, 320, 3)
        for color in ((0, 0, 255), (0, 255, 0), (255, 0, 0)):
            frame = np.full((240, 320, 3), color, np.uint8) // 2 + random.integers(
                0, 40, (240, 320, 3), np.uint8
            )
            expected, found = tensor(frame), frames(frame)
            assert isinstance(expected, Classification)
            assert isinstance(found, Classification)
            np.testing.assert_allclose(
                found.scores, expected.scores, atol=0.01
            )  # one level of 255 here and there
            i420 = cv2.cvtColor(frame, cv2.COLOR_BGR2YUV_I420)
            planes = i420[240:].reshape(2, -1).T.reshape(120, 320)  # U and V interleaved: NV12
            decoded = nv12(np.vstack([i420[:240], planes]))
            assert isinstance(decoded, Classification)
            assert decoded.best.id == expected.best.id
        with pytest.raises(edgecnn.EdgeCNNError, match="240"):
            frames(np.zeros((100, 100, 3), np.uint8))


def test_what_cannot_be_said(colour_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["build", str(colour_onnx), "--precision", "fp32", "-o", str(tmp_path / "out.onnx")]
    assert main([*arguments, "--pixel-format", "nv12"]) == 2
    assert main([*arguments, "--camera", "1080p"]) == 2
    assert main([*arguments, "--camera", "321x240", "--pixel-format", "nv12"]) == 1
    assert "321" in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_plan_takes_the_cameras_bytes(
    colour_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'edgecnn[rtx]'")
    plan = tmp_path / "model.engine"
    arguments = [
        "build",
        str(colour_onnx),
        "--precision",
        "fp16",
        "--target",
        "tensorrt-rtx",
        "-o",
        str(plan),
    ]
    options = ["--camera", "640x480", "--pixel-format", "nv12", "--compute-capability", "8.6", "--json"]
    assert main([*arguments, *options]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["plan_bytes"] == plan.stat().st_size
    from edgecnn.engine import read_engine_info

    info = read_engine_info(plan)
    assert [(tensor.dtype, tensor.shape) for tensor in info.inputs] == [("uint8", (None, 720, 640, 1))]
    assert info.camera is not None
    assert info.camera.pixel_format == "nv12"


def test_a_model_with_its_preprocessing_inside_is_not_calibrated(
    colour_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = tmp_path / "frames.onnx"
    assert (
        main(["build", str(colour_onnx), "--precision", "fp32", "--camera", "64x64", "-o", str(built)]) == 0
    )
    assert main(["calibrate", str(built), "--data", "photos/", "-o", str(tmp_path / "out.onnx")]) == 1
    assert "lowered already" in capsys.readouterr().err


def test_a_plan_is_inspected_without_a_gpu(
    colour_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'edgecnn[rtx]'")
    plan = tmp_path / "model.engine"
    options = [
        "--target",
        "tensorrt-rtx",
        "--precision",
        "fp16",
        "--compute-capability",
        "8.6",
        "-o",
        str(plan),
    ]
    assert main(["build", str(colour_onnx), *options]) == 0
    capsys.readouterr()
    assert main(["inspect", str(plan), "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["flavour"], report["precision"], report["plan_is_intact"]) == (
        "tensorrt_rtx",
        "fp16",
        True,
    )
    plan.write_bytes(plan.read_bytes()[:-1])
    assert main(["inspect", str(plan), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["plan_is_intact"] is False
    with pytest.raises(edgecnn.EdgeCNNError, match=r"needs an NVIDIA GPU|PyCUDA|is truncated"):
        edgecnn.load(plan)
