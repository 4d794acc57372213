"""EfficientNet-Lite0 with its ImageNet weights, calibrated on photos, in the real compiler."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecnn.export.tensorrt import CompileOptions, CompileReport, inspect_engine

pytestmark = pytest.mark.usefixtures("rtx")

MACS = 385_187_552  # of its 49 convolutions and the fully connected layer, batch 1


def report(model: Path, precision: str | None, *capabilities: str) -> CompileReport:
    options = CompileOptions(compute_capabilities=capabilities)
    result = inspect_engine(model, precision=precision, options=options)  # type: ignore[arg-type]
    assert result.warnings == ()
    return result.report


@pytest.mark.parametrize("capabilities", [("8.6",), ("12.0",), ("8.6", "12.0")])
def test_int8(demo_folder: Path, capabilities: tuple[str, ...]) -> None:
    found = report(demo_folder / "model.calibrated.onnx", "int8", *capabilities)
    assert found.convolutions["int8"] >= 0.98
    assert found.macs == MACS
    assert sum(item.layer.kind == "convolution" for item in found.layers) == 49


def test_fp16_moves_half_of_what_fp32_does(demo_folder: Path) -> None:
    wide = report(demo_folder / "model.onnx", "fp32", "8.6")
    half = report(demo_folder / "model.onnx", "fp16", "8.6")
    assert dict(wide.convolutions) == {"fp32": 1.0}
    assert dict(half.convolutions) == {"fp16": 1.0}
    assert wide.macs == half.macs == MACS
    # a convolution that becomes a matrix product is one here as well, under a name of the compiler's own
    assert half.missing == ()
    assert half.activation_bytes == pytest.approx(wide.activation_bytes / 2, rel=0.05)
    assert half.constant_bytes == pytest.approx(wide.constant_bytes / 2, rel=0.05)
