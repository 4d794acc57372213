"""`auto` for TensorRT: what agrees, what is faster, and why INT8 was not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgecnn.export.tensorrt.auto as auto
from edgecnn.calibration import calibrate
from edgecnn.cli import main
from edgecnn.dataset import FrameSet, open_frames
from edgecnn.engine import read_engine_info
from edgecnn.errors import BuildError
from edgecnn.export import EngineBuildResult, build
from edgecnn.export.tensorrt import MODULES, estimate
from edgecnn.export.tensorrt.auto import EngineCandidate
from edgecnn.export.tensorrt.changes import layer_changes
from edgecnn.export.tensorrt.lowered import load_source, measure_lowered
from edgecnn.export.tensorrt.sensitivity import rank_layers
from edgecnn.gpu import read_gpu
from edgecnn.metadata import QUANTIZATION_KEY
from edgecnn.quantization import QuantizationTable
from tests.export.tensorrt.conftest import AMPERE
from tests.networks import Net, frames, save, spec

pytestmark = [
    pytest.mark.usefixtures("rtx"),
    pytest.mark.skipif(read_gpu() is not None, reason="a GPU is here, which would be measured"),
]

NANO = "orin-nano-8gb"


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three convolutions and a Gemm; the input of the second has a range that leaves it few of 127 steps."""
    net = Net((1, 3, 8, 8))
    read = x = net.relu(net.conv("image", 3, 8))
    x = net.relu(net.add("Conv", x, net.weights(8, 8, 3, 3), pads=[1] * 4, name="rough"))
    x = net.relu(net.conv(x, 8, 8))
    scores = net.add("Gemm", net.pooled(x), net.weights(8, 5), name="logits")
    folder = tmp_path_factory.mktemp("model")
    model = save(net.model(scores, own_spec=spec(task="classification")), folder / "model.onnx")
    np.save(folder / "frames.npy", np.stack(frames()))
    path = calibrate(model, folder / "frames.npy", folder / "calibrated.onnx").path
    proto = onnx.load(path)
    (entry,) = (item for item in proto.metadata_props if item.key == QUANTIZATION_KEY)
    table = QuantizationTable.from_json(entry.value)
    wide = replace(table.activations[read], amax=40 * table.activations[read].amax)
    entry.value = replace(table, activations={**table.activations, read: wide}).to_json()
    onnx.save(proto, path)
    return path


@pytest.fixture
def data(calibrated: Path) -> FrameSet:
    return open_frames(calibrated.with_name("frames.npy"))


def best(model: Path, output: Path, data: FrameSet, **arguments: Any) -> EngineBuildResult:
    given: dict[str, Any] = {"module": NANO, "options": AMPERE, **arguments}
    result: EngineBuildResult = build(model, output, target="tensorrt-rtx", data=data, **given)
    return result


def test_the_estimate_decides_and_says_so(calibrated: Path, data: FrameSet, tmp_path: Path) -> None:
    result = best(calibrated, tmp_path / "model.engine", data, min_agreement=0)
    assert [item.precision for item in result.candidates] == ["fp16", "int8"]
    assert all(item.latency_ms is None for item in result.candidates)
    assert "by the estimate for Jetson Orin Nano 8GB, which is no measurement" in result.reason
    assert read_engine_info(tmp_path / "model.engine").precision == result.precision
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.engine", "model.engine.json"]
    assert json.loads(json.dumps(result.to_dict()))["reason"] == result.reason


def test_int8_that_costs_more_is_not_chosen_and_its_layers_are_named(
    calibrated: Path, data: FrameSet, tmp_path: Path
) -> None:
    result = best(calibrated, tmp_path / "model.engine", data, min_agreement=0)
    fp16, int8 = result.candidates
    assert fp16.time_ms is not None
    assert int8.time_ms is not None
    assert (result.precision == "int8") == (int8.time_ms < 0.9 * fp16.time_ms)
    assert result.slowed
    worst = result.slowed[0]
    assert worst.extra_ms is not None
    assert worst.extra_ms == max(item.extra_ms or 0 for item in result.slowed) > 0
    assert worst.to_dict()["kernels_int8"] >= worst.to_dict()["kernels_fp16"]


def test_changes_add_up(calibrated: Path, compiled: Any) -> None:
    source, module = load_source(calibrated, None), MODULES[NANO]
    fp16, int8 = (compiled(source.lower(name).content).report for name in ("fp16", "int8"))
    changes = layer_changes(fp16, int8, module)
    for index, report in enumerate((fp16, int8)):
        costs = [(item.fp16, item.int8)[index] for item in changes]
        assert sum(cost.kernels for cost in costs) == report.kernels
        assert sum(cost.activation_bytes for cost in costs) == report.activation_bytes
        total = sum(cost.estimate_ms or 0 for cost in costs)
        assert total == pytest.approx(estimate(report, module).latency_ms)
    assert {"input", "node_of_rough"} < {item.node for item in changes}


def test_the_most_sensitive_layer_comes_first(calibrated: Path) -> None:
    source = load_source(calibrated, None)
    ranked = rank_layers(source, frames()[:4])
    assert ranked[0] == "rough"
    assert len(ranked) == 4
    assert source.lower("int8", leave=["rough"]).left == ("rough",)


def test_all_rows_of_a_fixed_batch_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net((2, 3, 8, 8))
    y = net.conv(net.relu(net.conv("image", 3, 8)), 8, 5)
    model = save(net.model(net.add("Flatten", y, name="y"), own_spec=spec()), tmp_path / "model.onnx")
    np.save(tmp_path / "frames.npy", np.stack(frames()))
    path = calibrate(model, tmp_path / "frames.npy", tmp_path / "calibrated.onnx").path
    seen: list[Any] = []

    def errors(network: Any, tensors: list[Any], **_: Any) -> dict[str, float]:
        seen.extend(tensors)
        return dict.fromkeys(network.layers, 0.0)

    monkeypatch.setattr("edgecnn.export.lowering.switched.SwitchedNetwork.errors", errors)
    assert len(rank_layers(load_source(path, None), frames()[:2])) == 2
    for tensor in seen:
        np.testing.assert_array_equal(tensor[0], tensor[1])
        assert tensor[0].any()


def test_layers_go_back_to_fp16_until_it_agrees(
    calibrated: Path, data: FrameSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def measured(lowered: Any, data: Any, progress: Any) -> Any:
        """As it is, but that INT8 without two layers in FP16 does not agree."""
        accuracy = measure_lowered(lowered, data, progress)
        assert accuracy is not None
        agrees = lowered.precision == "fp16" or len(lowered.left) >= 2
        return {**accuracy, "top1_agreement": 1.0 if agrees else 0.5}

    monkeypatch.setattr(auto, "measure_lowered", measured)
    result = best(calibrated, tmp_path / "model.engine", data, min_agreement=0.9)
    int8 = result.candidates[1]
    assert len(int8.left_in_fp16) == 2
    assert "rough" in int8.left_in_fp16
    assert int8.kernels is not None
    assert 0 < dict(int8.convolutions or {})["fp16"] < 1
    assert "int8 with 2 layers in FP16" in result.reason


@pytest.mark.parametrize(("estimate_ms", "expected"), [(0.89, "int8"), (0.95, "fp16"), (1.2, "fp16")])
def test_an_estimate_must_be_clear(estimate_ms: float, expected: str) -> None:
    fp16 = EngineCandidate(precision="fp16", estimate_ms=1.0)
    int8 = EngineCandidate(precision="int8", estimate_ms=estimate_ms)
    assert auto._fastest([fp16, int8]).precision == expected


def test_what_does_not_agree_is_not_compiled(
    calibrated: Path, data: FrameSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        auto, "measure_lowered", lambda lowered, data, progress: {"images": 3, "top1_agreement": 0.5}
    )
    result = best(calibrated, tmp_path / "model.engine", data, min_agreement=0.9)
    assert result.precision == "fp32"  # the only one that agrees, with itself
    assert [item.kernels is None for item in result.candidates] == [True, True, False]
    assert any("INT8 does not agree as asked" in warning for warning in result.warnings)
    assert result.slowed == ()


def test_measured_times_decide_where_there_is_a_gpu(
    calibrated: Path, data: FrameSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU and its times are made up: this is about the decision."""
    from edgecnn.gpu import Gpu

    gpu = Gpu(name="Orin", compute_capability="8.7", cuda="12.6", memory_bytes=8 << 30, integrated=True)
    monkeypatch.setattr(auto, "read_gpu", lambda: gpu)
    for times, expected in (((2.0, 1.5), "int8"), ((1.5, 2.0), "fp16"), ((1.5, 1.5), "fp16")):
        latencies = dict(zip(("fp16", "int8"), ({"p50": time} for time in times), strict=True))
        monkeypatch.setattr(auto, "_measure", lambda results, progress, found=latencies: found)
        result = best(calibrated, tmp_path / "m.engine", data, min_agreement=0, module=None, force=True)
        assert result.precision == expected
        assert "measured here" in result.reason
        assert [item.estimate_ms for item in result.candidates] == [None, None]
        assert result.slowed[0].extra_bytes == max(item.extra_bytes for item in result.slowed)
    with pytest.raises(BuildError, match="module cannot be honoured: got Orin, which is measured"):
        best(calibrated, tmp_path / "m.engine", data, force=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"data": None}, "got no frames"),
        ({"module": None}, "no GPU here to measure on: expected the Jetson to estimate for"),
        ({"module": "xavier"}, "unknown module: got xavier"),
        ({"min_agreement": 2}, "min_agreement is wrong"),
        ({"threads": 1}, "threads cannot be honoured"),
        ({"precision": "fp16"}, "module cannot be honoured"),
        ({"target": "onnxruntime"}, "options cannot be honoured"),
        ({"target": "tpu"}, "unknown target: got tpu"),
    ],
)
def test_wrong_use(
    calibrated: Path, data: FrameSet, tmp_path: Path, arguments: dict[str, Any], words: str
) -> None:
    given: dict[str, Any] = {"target": "tensorrt-rtx", "module": NANO, "options": AMPERE, "data": data}
    with pytest.raises(BuildError, match=words):
        build(calibrated, tmp_path / "m.engine", **{**given, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_a_task_without_a_measure_of_agreement(tmp_path: Path, data: FrameSet) -> None:
    net = Net((1, 3, 8, 8))
    model = save(net.model(net.relu(net.conv("image", 3, 4)), own_spec=spec()), tmp_path / "raw.onnx")
    with pytest.raises(BuildError, match="no measure of agreement"):
        best(model, tmp_path / "m.engine", data)


def test_a_model_that_was_not_calibrated(calibrated: Path, data: FrameSet, tmp_path: Path) -> None:
    result = best(calibrated.with_name("model.onnx"), tmp_path / "m.engine", data, min_agreement=0)
    assert result.precision == "fp16"
    assert "INT8 was not considered: the model is not calibrated" in result.warnings


def test_command(calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, frames_file = tmp_path / "model.engine", calibrated.with_name("frames.npy")
    arguments = ["build", str(calibrated), "--target", "tensorrt-rtx", "--compute-capability", "8.6"]
    arguments += ["--data", str(frames_file), "--min-agreement", "0", "-o", str(output)]
    assert main(arguments) == 1
    assert "--module" in capsys.readouterr().err
    assert main([*arguments, "--module", NANO]) == 0
    out = capsys.readouterr().out
    assert "INT8 costs more than FP16 on" in out
    assert main([*arguments, "--module", NANO, "--force", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [item["precision"] for item in report["candidates"]] == ["fp16", "int8"]
    assert report["slowed"][0]["extra_ms"] > 0
