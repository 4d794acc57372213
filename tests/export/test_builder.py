from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import edgecnn.export.builder_onnxruntime as builder
from edgecnn.calibration import calibrate
from edgecnn.compare import Agreement
from edgecnn.dataset import FrameSet, open_frames
from edgecnn.errors import (
    BuildError,
    ModelFormatError,
    ModelNotFoundError,
    OutputExistsError,
    SpecError,
)
from edgecnn.export import build
from edgecnn.metadata import ACCURACY_KEY, BUILD_KEY, QUANTIZATION_KEY
from edgecnn.model import load
from tests.broken import convnet
from tests.networks import Net, frames, save, spec


def network(folder: Path, *, task: str = "classification") -> Path:
    net = Net()
    x = net.relu(net.conv("image", 3, 8))
    x = net.pooled(net.relu(net.conv(x, 8, 8)))
    scores = net.add("Gemm", x, net.weights(8, 5), net.constant([0.5] * 5), name="logits")
    return save(net.model(scores, own_spec=spec(task=task)), folder / f"{task}.onnx")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.save(tmp_path / "frames.npy", np.stack(frames()))
    return tmp_path / "frames.npy"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return network(tmp_path)


@pytest.fixture
def calibrated(model: Path, data: Path, tmp_path: Path) -> Path:
    return calibrate(model, data, tmp_path / "calibrated.onnx").path


def metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


# One precision


@pytest.mark.parametrize(("precision", "convolutions"), [("fp32", {"fp32": 2}), ("int8", {"int8": 2})])
def test_a_build_runs_and_says_what_it_is(
    precision: Any, convolutions: dict[str, int], calibrated: Path, tmp_path: Path
) -> None:
    result = build(calibrated, tmp_path / "out.onnx", precision=precision)
    assert (result.precision, result.reason) == (precision, "asked for")
    (candidate,) = result.candidates
    assert candidate.convolutions == convolutions
    assert candidate.latency_ms is None  # nothing to decide, nothing measured
    assert candidate.size_bytes > 0
    with load(result.path) as opened:
        assert opened.precision == precision
        assert opened(frames()[3]).to_dict()["classes"]
    build_report = json.loads(metadata(result.path)[BUILD_KEY])
    assert build_report["convolutions"] == convolutions
    assert not metadata(result.path).keys() & {QUANTIZATION_KEY, ACCURACY_KEY}


def test_fp16_is_reported_as_it_runs(model: Path, tmp_path: Path) -> None:
    result = build(model, tmp_path / "out.onnx", precision="fp16")
    (candidate,) = result.candidates
    assert sum(candidate.convolutions.values()) == 2
    if "fp32" in candidate.convolutions:  # a CPU without FP16 kernels
        assert "2 of 2 convolutions run in fp32 on this machine" in result.warnings


def test_int8_reports_the_accuracy_that_calibration_measured(calibrated: Path, tmp_path: Path) -> None:
    result = build(calibrated, tmp_path / "out.onnx", precision="int8")
    (candidate,) = result.candidates
    report = json.loads(metadata(calibrated)[ACCURACY_KEY])
    assert candidate.accuracy == report
    assert candidate.accuracy_from == "calibration"
    assert candidate.agreement == report["top1_agreement"]
    assert result.warnings == []
    assert json.loads(metadata(result.path)[BUILD_KEY])["accuracy"] == report


def test_the_report_does_not_serve_another_graph(calibrated: Path, tmp_path: Path) -> None:
    # one scale of the table is changed: what is built is not what was measured
    proto = onnx.load(calibrated)
    for entry in proto.metadata_props:
        if entry.key == QUANTIZATION_KEY:
            table = json.loads(entry.value)
            table["activations"]["image"]["amax"] *= 1.5
            entry.value = json.dumps(table)
    onnx.save(proto, tmp_path / "changed.onnx")
    result = build(tmp_path / "changed.onnx", tmp_path / "out.onnx", precision="int8")
    (candidate,) = result.candidates
    assert (candidate.accuracy, candidate.accuracy_from, candidate.agreement) == (None, None, None)
    assert any("accuracy of this build was not measured" in warning for warning in result.warnings)


def test_another_spec_is_another_graph(calibrated: Path, tmp_path: Path) -> None:
    result = build(calibrated, tmp_path / "out.onnx", precision="int8", spec=spec(task="raw"))
    assert result.candidates[0].accuracy is None


def test_given_frames_it_is_measured_now(calibrated: Path, data: Path, tmp_path: Path) -> None:
    result = build(calibrated, tmp_path / "out.onnx", precision="int8", data=open_frames(data))
    by_name = {candidate.precision: candidate for candidate in result.candidates}
    assert by_name["int8"].accuracy_from == "measured now"
    assert by_name["int8"].accuracy is not None
    assert by_name["int8"].accuracy["images"] == 12
    assert by_name["fp32"].agreement == 1.0


def test_int8_without_calibration_is_refused_and_never_becomes_fp32(model: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"INT8 needs a calibrated model.*edgecnn calibrate"):
        build(model, tmp_path / "out.onnx", precision="int8")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_a_lowered_model_is_refused(precision: Any, model: Path, tmp_path: Path) -> None:
    build(model, tmp_path / "once.onnx", precision="fp16")
    with pytest.raises(
        BuildError, match="lowered already: got fp16, expected an exported or calibrated model"
    ):
        build(tmp_path / "once.onnx", tmp_path / "twice.onnx", precision=precision)


def test_a_table_that_is_damaged(calibrated: Path, tmp_path: Path) -> None:
    proto = onnx.load(calibrated)
    for entry in proto.metadata_props:
        if entry.key == QUANTIZATION_KEY:
            entry.value = entry.value[:50]
    onnx.save(proto, tmp_path / "damaged.onnx")
    with pytest.raises(ModelFormatError, match="quantization table cannot be read"):
        build(tmp_path / "damaged.onnx", tmp_path / "out.onnx", precision="int8")


def test_a_foreign_model_needs_a_spec(tmp_path: Path) -> None:
    source = save(convnet(opset=12), tmp_path / "foreign.onnx")
    with pytest.raises(SpecError, match="does not say how to use it"):
        build(source, tmp_path / "out.onnx", precision="fp32")
    build(source, tmp_path / "out.onnx", precision="fp32", spec=spec(task="classification"))
    with load(tmp_path / "out.onnx") as opened:
        assert opened.spec == spec(task="classification")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "tpu"}, "unknown target: got tpu"),
        ({"precision": "int4"}, "unknown precision: got int4"),
        ({"min_agreement": 1.5}, "min_agreement is wrong: got 1.5, expected 0 to 1"),
    ],
)
def test_options_that_make_no_sense(
    options: dict[str, Any], message: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(BuildError, match=message):
        build(model, tmp_path / "out.onnx", **options)


def test_output_and_model_are_checked(model: Path, tmp_path: Path) -> None:
    (tmp_path / "there.onnx").touch()
    with pytest.raises(OutputExistsError):
        build(tmp_path / "no.onnx", tmp_path / "there.onnx")
    with pytest.raises(ModelNotFoundError):
        build(tmp_path / "no.onnx", tmp_path / "out.onnx")
    build(model, tmp_path / "there.onnx", precision="fp32", force=True)
    assert (tmp_path / "there.onnx").stat().st_size > 0


def test_twice_gives_the_same_bytes(calibrated: Path, tmp_path: Path) -> None:
    for precision in ("fp32", "fp16", "int8"):
        first, second = (
            build(calibrated, tmp_path / name, precision=precision, force=True).path.read_bytes()
            for name in ("a.onnx", "b.onnx")
        )
        assert first == second


def test_an_interruption_leaves_nothing_behind(calibrated: Path, data: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())

    def interrupt(stage: str, done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(calibrated, tmp_path / "out.onnx", data=open_frames(data), progress=interrupt)
    assert sorted(tmp_path.iterdir()) == before


# The best one: what was measured is planted


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Plant `p50` by precision and `agreement` by precision (measured on frames)."""
    planted: dict[str, Any] = {"p50": {"fp32": 10.0, "fp16": 8.0, "int8": 4.0}, "agreement": {}}
    sizes: dict[bytes, str] = {}

    def latency(models: Mapping[str, bytes], **options: Any) -> dict[str, dict[str, float]]:
        sizes.update({content: name for name, content in models.items()})
        return {name: {"p50": planted["p50"][name]} for name in models}

    def accuracy(reference: bytes, other: bytes, data: FrameSet, **options: Any) -> Agreement:
        assert sizes[reference] == "fp32"
        metrics = {"top1_agreement": planted["agreement"][sizes[other]]} if planted["agreement"] else {}
        return Agreement(images=12, outputs={}, metrics=metrics)

    monkeypatch.setattr(builder, "measure_latency", latency)
    monkeypatch.setattr(builder, "measure_accuracy", accuracy)
    return planted  # type: ignore[return-value]


def choose(source: Path, data: Path | None, folder: Path, min_agreement: float = 0.95) -> builder.BuildResult:
    return build(
        source,
        folder / "best.onnx",
        data=None if data is None else open_frames(data),
        min_agreement=min_agreement,
        force=True,
    )


def test_the_fastest_that_agrees_wins(
    measured: dict[str, Any], calibrated: Path, data: Path, tmp_path: Path
) -> None:
    measured["agreement"] = {"fp16": 1.0, "int8": 0.97}
    result = choose(calibrated, data, tmp_path)
    assert result.precision == "int8"
    assert result.reason == (
        "int8 is the fastest that agrees as asked (fp32 10.00 ms; "
        "fp16 8.00 ms, agreement 1.000 on 12 frames; int8 4.00 ms, agreement 0.970 on 12 frames)"
    )
    assert [candidate.precision for candidate in result.candidates] == ["fp32", "fp16", "int8"]


def test_int8_below_the_budget_is_never_taken(
    measured: dict[str, Any], calibrated: Path, data: Path, tmp_path: Path
) -> None:
    measured["agreement"] = {"fp16": 0.999, "int8": 0.94}
    result = choose(calibrated, data, tmp_path)
    assert result.precision == "fp16"
    assert "int8 4.00 ms, agreement 0.940 on 12 frames, below 0.950" in result.reason
    assert choose(calibrated, data, tmp_path, 0.94).precision == "int8"
    assert choose(calibrated, data, tmp_path, 1.0).precision == "fp32"


def test_the_faster_float_wins_where_int8_is_slow(
    measured: dict[str, Any], calibrated: Path, data: Path, tmp_path: Path
) -> None:
    measured["agreement"] = {"fp16": 1.0, "int8": 1.0}
    measured["p50"] = {"fp32": 10.0, "fp16": 20.0, "int8": 12.0}
    assert choose(calibrated, data, tmp_path).precision == "fp32"


def test_what_was_not_measured_is_never_taken(
    measured: dict[str, Any], model: Path, calibrated: Path, tmp_path: Path
) -> None:
    # calibration measured INT8; nobody measured FP16
    report = json.loads(metadata(calibrated)[ACCURACY_KEY])
    result = choose(calibrated, None, tmp_path, min_agreement=report["top1_agreement"])
    assert result.precision == "int8"
    assert "fp16 8.00 ms, agreement not measured (give frames with --data)" in result.reason

    result = choose(model, None, tmp_path, min_agreement=0.0)
    assert result.precision == "fp32"
    assert "INT8 was not considered: the model is not calibrated" in result.warnings
    assert [candidate.precision for candidate in result.candidates] == ["fp32", "fp16"]


def test_a_task_without_a_measure_of_agreement_stays_fp32(
    measured: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    source = calibrate(network(tmp_path, task="raw"), data, tmp_path / "raw.calibrated.onnx").path
    result = choose(source, data, tmp_path, min_agreement=0.0)
    assert result.precision == "fp32"
    assert "int8 4.00 ms, agreement unknown (the task has no measure of it)" in result.reason


def test_a_precision_that_is_impossible_is_passed_over(measured: dict[str, Any], tmp_path: Path) -> None:
    net = Net()
    net.add("Flatten", net.conv("image", 3, 8), name="flat")
    branches = {
        branch: helper.make_graph(
            [helper.make_node(operator, ["flat"], [branch])],
            branch,
            [],
            [helper.make_empty_tensor_value_info(branch)],
        )
        for branch, operator in (("then_branch", "Relu"), ("else_branch", "Neg"))
    }
    positive = net.add("Greater", net.add("ReduceSum", "flat", keepdims=0), net.constant(0.0))
    net.add("If", positive, name="y", **branches)
    source = save(net.model("y", own_spec=spec(task="classification")), tmp_path / "branches.onnx")
    result = choose(source, None, tmp_path)
    assert result.precision == "fp32"
    assert any("fp16 was not considered: FP16 is not possible" in warning for warning in result.warnings)
    with pytest.raises(BuildError, match="FP16 is not possible"):
        build(source, tmp_path / "out.onnx", precision="fp16")


def test_the_report_is_json(measured: dict[str, Any], calibrated: Path, data: Path, tmp_path: Path) -> None:
    measured["agreement"] = {"fp16": 1.0, "int8": 0.97}
    report = json.loads(json.dumps(choose(calibrated, data, tmp_path).to_dict(), allow_nan=False))
    assert report["precision"] == "int8"
    assert report["candidates"][2]["accuracy"]["top1_agreement"] == 0.97
    assert report["candidates"][2]["latency_ms"] == {"p50": 4.0}
