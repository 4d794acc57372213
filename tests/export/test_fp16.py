"""FP16 by what was observed: what would overflow or vanish stays in FP32, is named, and is measured."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from edgecnn.cli import main
from edgecnn.dataset import open_frames
from edgecnn.engine import read_engine_info
from edgecnn.errors import DataError
from edgecnn.export import build
from edgecnn.export.fp16_reference import as_fp16_computes
from edgecnn.export.graph import load_graph, to_bytes
from edgecnn.export.lowering import lower_graph
from edgecnn.export.measure import measure_accuracy
from edgecnn.export.observed import observe_ranges
from tests.networks import Net, frames, graph_of, inputs, run, save, spec, sqnr_db


def amplified(factor: float) -> Net:
    """Ordinary numbers, a tensor that is `factor` times as large, ordinary numbers again."""
    net = Net((1, 3, 8, 8))
    x = net.relu(net.conv("image", 3, 8))
    large = net.add("Conv", x, net.constant(np.full((8, 8, 1, 1), factor)), name="large")
    large = net.add("Relu", large, name="large_relu")
    net.add("Conv", large, net.constant(np.full((8, 8, 1, 1), 1 / factor)), name="ordinary")
    net.add("Flatten", net.add("GlobalAveragePool", "ordinary"), name="logits")
    return net


@pytest.fixture(params=[3e4, 1e-8])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    np.save(tmp_path / "frames.npy", np.stack(frames()))
    net = amplified(request.param)
    return save(net.model("logits", own_spec=spec(task="classification")), tmp_path / "model.onnx")


def in_numpy(content: bytes, values: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
    """By ONNX's own reference, which rounds to FP16 behind each node."""
    with np.errstate(over="ignore", invalid="ignore"):
        return list(ReferenceEvaluator(onnx.load(io.BytesIO(content))).run(None, {"image": values}))


def test_frames_say_what_stays_in_fp32(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = model.with_name("fp16.onnx")
    command = ["build", str(model), "--precision", "fp16", "-o", str(output), "--force"]
    assert main([*command, "--data", str(model.with_name("frames.npy"))]) == 0
    out, err = capsys.readouterr()
    reasons = [line for line in out.splitlines() if line.startswith("  in FP32: ")]
    assert any("large_relu: large_relu reaches" in x or "large_relu: large_relu stays" in x for x in reasons)
    assert any("ordinary: its constant" in reason for reason in reasons)
    assert "not known" not in err
    assert main([*command, "--data", str(model.with_name("frames.npy")), "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    (candidate,) = [entry for entry in report["candidates"] if entry["precision"] == "fp16"]
    assert list(candidate["kept_fp32"]) == ["large", "large_relu", "ordinary"]
    assert candidate["accuracy"]["outputs"]["logits"]["sqnr_db"] > 50
    assert main(["inspect", str(output), "--json"]) == 0
    inspected = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert inspected["build"]["lowering"]["kept_fp32"] == candidate["kept_fp32"]
    values = inputs()
    reference = run(model.read_bytes(), values)
    assert sqnr_db(reference, in_numpy(output.read_bytes(), values)) > 50


def test_without_frames_it_is_said_and_the_measurement_shows_it(tmp_path: Path) -> None:
    np.save(tmp_path / "frames.npy", np.stack(frames()))
    path = save(amplified(3e4).model("logits", own_spec=spec(task="classification")), tmp_path / "model.onnx")
    result = build(path, tmp_path / "fp16.onnx", precision="fp16")
    assert any("ranges of activations are not known" in warning for warning in result.warnings)
    # ONNX Runtime's own kernels would show nothing of it: they compute in FP32.
    data = open_frames(tmp_path / "frames.npy")
    with pytest.raises(DataError, match="infinite or NaN"):
        measure_accuracy(path.read_bytes(), result.path.read_bytes(), data)


def test_auto_leaves_out_what_overflows_beyond_calibration(tmp_path: Path) -> None:
    from edgecnn.calibration import calibrate

    dark = np.stack(frames()) // 64  # far fewer, and then far larger numbers than calibration sees
    for name, array in (("dark", dark), ("light", np.full_like(dark, 255))):
        np.save(tmp_path / f"{name}.npy", array)
    net = Net((1, 3, 8, 8))
    bright = net.add("Relu", net.add("Add", "image", net.constant(1.9)))  # 2 … 1.9 become 0.1 … 3.9
    large = net.add("Conv", bright, net.constant(np.full((8, 3, 1, 1), 1e4)), name="large")
    net.add("Conv", large, net.constant(np.full((8, 8, 1, 1), 1e-4)), name="small")
    net.add("Flatten", net.add("GlobalAveragePool", "small"), name="logits")
    path = save(net.model("logits", own_spec=spec(task="classification")), tmp_path / "model.onnx")
    calibrated = calibrate(path, tmp_path / "dark.npy", tmp_path / "calibrated.onnx").path
    light = open_frames(tmp_path / "light.npy")
    with pytest.raises(DataError, match="infinite or NaN"):
        build(calibrated, tmp_path / "fp16.onnx", precision="fp16", data=light)
    result = build(calibrated, tmp_path / "auto.onnx", data=light)
    assert "fp16" not in [candidate.precision for candidate in result.candidates]
    assert any(warning.startswith("fp16 was not considered") for warning in result.warnings)


@pytest.mark.parametrize("optimized", [False, True])
def test_what_is_measured_is_what_fp16_computes(optimized: bool, tmp_path: Path) -> None:
    net = Net((1, 3, 8, 8))
    x = net.clip(net.conv("image", 3, 8), 0, 6)
    x = net.add("Add", x, net.conv(net.relu(net.conv(x, 8, 8)), 8, 8))
    content = to_bytes(lower_graph(graph_of(net.model(net.pooled(x)), tmp_path), "fp16"))
    values = inputs()
    expected = in_numpy(content, values)
    rounded = run(as_fp16_computes(content), values, optimized=optimized)
    runtime = run(content, values)
    # Both round at the same places; only the order of sums differs.
    assert sqnr_db(expected, rounded) > sqnr_db(expected, runtime) + 2 or sqnr_db(expected, rounded) > 75
    onnx.checker.check_model(as_fp16_computes(content), full_check=True)


@pytest.mark.parametrize("operator", ["GlobalAveragePool", "AveragePool"])
@pytest.mark.parametrize(("size", "kept"), [(1500.0, True), (200.0, False)])
def test_an_average_whose_sum_overflows(operator: str, size: float, kept: bool, tmp_path: Path) -> None:
    net = Net((1, 3, 8, 8))
    large = net.add("Mul", net.add("Abs", "image"), net.constant(size))
    options = {} if operator == "GlobalAveragePool" else {"kernel_shape": [8, 8]}
    net.add("Flatten", net.add(operator, large, name="mean", **options), name="y")
    graph = graph_of(net.model("y", own_spec=spec()), tmp_path)
    ranges = observe_ranges(graph, spec().image, frames())
    lowered = lower_graph(graph, "fp16", ranges=ranges)
    report = json.loads(lowered.metadata_props["edgecnn.build"])["lowering"]
    assert ("mean" in report["kept_fp32"]) == kept
    if kept:
        assert "its sum over 64 values may reach" in report["kept_fp32"]["mean"]


def test_ranges_are_those_of_calibration(tmp_path: Path) -> None:
    from edgecnn.calibration import calibrate

    np.save(tmp_path / "frames.npy", np.stack(frames()))
    path = save(amplified(10.0).model("logits", own_spec=spec()), tmp_path / "model.onnx")
    held_out = tmp_path / "frames.npy"
    table = calibrate(path, held_out, tmp_path / "calibrated.onnx", evaluation_data=held_out).table
    ranges = observe_ranges(load_graph(path), spec().image, open_frames(held_out))
    assert ranges.keys() == table.activations.keys()
    for name, entry in table.activations.items():
        assert ranges[name] == pytest.approx((entry.low, entry.high), rel=1e-5)


def test_a_network_that_overflows_by_itself_is_an_error(tmp_path: Path) -> None:
    net = Net()
    net.add("Flatten", net.add("Exp", net.add("Mul", "image", net.constant(1e4))), name="y")
    with pytest.raises(DataError, match="is infinite or NaN on frame"):
        observe_ranges(graph_of(net.model("y"), tmp_path), spec().image, frames())


def test_the_compiled_plan_keeps_them_in_fp32(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx")
    plan, data = model.with_name("model.engine"), str(model.with_name("frames.npy"))
    command = ["build", str(model), "--target", "tensorrt-rtx", "--precision", "fp16", "--force", "--json"]
    command += ["--compute-capability", "8.6"]
    assert main([*command, "--data", data, "-o", str(plan)]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(report["kept_fp32"]) == ["large", "large_relu", "ordinary"]
    assert report["accuracy"]["outputs"]["logits"]["sqnr_db"] > 50
    # Two of the three convolutions, read back from what was compiled; the first has most of the operations.
    assert report["convolutions"]["fp32"] == pytest.approx(128 / (128 + 216))
    assert report["convolutions"]["fp16"] == pytest.approx(216 / (128 + 216))
    assert dict(read_engine_info(plan).kept_fp32) == report["kept_fp32"]
    assert main(["inspect", str(plan)]) == 0
    assert "kept_fp32.large" in capsys.readouterr().out
