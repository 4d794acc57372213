from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np
import onnx
import pytest

import edgecnn
from edgecnn.calibration import Budget, calibrate
from edgecnn.calibration.measurement import Measured
from edgecnn.calibration.search import Mix, Trial, int8_share, order, reason, search
from edgecnn.calibration.sensitivity import LayerSensitivity
from edgecnn.cli import main
from edgecnn.compare import Agreement, OutputAgreement
from edgecnn.errors import BuildError, DataError
from edgecnn.evaluation import evaluate, open_labelled
from edgecnn.export import build
from edgecnn.export.graph import load_graph, to_bytes
from edgecnn.export.lowering import lower_graph
from edgecnn.export.measure import compiled
from edgecnn.export.tensorrt import CompileOptions
from edgecnn.quantization import QuantizationTable
from tests.networks import Net, frames, save, spec

if TYPE_CHECKING:
    from edgecnn.results import Classification

# The search, on a network that is made up: errors only add up, and every set is what it seems


def layers(errors: list[float], macs: list[int]) -> tuple[LayerSensitivity, ...]:
    return tuple(
        LayerSensitivity(name=f"l{index}", operator="Conv", macs=count, contribution=error)
        for index, (error, count) in enumerate(zip(errors, macs, strict=True))
    )


def error_of(found: Sequence[LayerSensitivity], kept: Collection[str]) -> float:
    return sum(layer.contribution for layer in found if layer.name not in kept)


def agreement(error: float, top1: float) -> Agreement:
    sqnr = -10 * math.log10(error) if error > 0 else None
    output = OutputAgreement(sqnr_db=sqnr, cosine=1.0, max_abs_error=0.0)
    return Agreement(images=100, outputs={"y": output}, metrics={"top1_agreement": top1})


def table(kept_in_float: Mapping[str, str]) -> QuantizationTable:
    return QuantizationTable(
        activations={},
        weights={},
        method="auto",
        frames=1,
        frames_sha256="",
        tool="test",
        kept_in_float=kept_in_float,
    )


def run_search(
    budget: Budget,
    found: Sequence[LayerSensitivity],
    top1: Callable[[float], float] = lambda error: 1 - error,
) -> Mix:
    def attempt(kept: tuple[str, ...]) -> Trial:
        error = error_of(found, kept)
        one = agreement(error, top1(error))
        kept_in_float = {name: reason(found, name) for name in kept}
        return Trial(kept=kept, table=table(kept_in_float), layers=(), measured=Measured(one, one, b""))

    return search(budget, found, attempt(()), attempt)


def test_what_costs_little_and_harms_much_goes_first() -> None:
    found = layers([0.010, 0.010, 0.002, 0.0001], [400, 100, 10, 10])
    # the mean layer has 130: a quarter of that is what each costs at least
    assert order(found) == ["l1", "l2", "l3"]  # l0 alone is more than half
    assert int8_share(found, ["l1"]) == pytest.approx(420 / 520)
    assert reason(found, "l1") == "mixed precision: 45.2% of the error, 19.2% of the multiplications"


def test_a_layer_that_overflows_in_int8_goes_first_and_is_written_as_such() -> None:
    found = layers([0.01, math.inf, 0.02], [10, 10, 100])
    assert order(found)[0] == "l1"
    assert reason(found, "l1") == "mixed precision: not finite in INT8, 8.3% of the multiplications"
    assert "0.0% of the error" in reason(found, "l2")
    assert [layer.to_dict()["contribution"] for layer in found] == [0.01, None, 0.02]


def test_no_more_layers_than_the_budget_needs() -> None:
    errors = [0.02, 0.01] + [0.001] * 20
    found = layers(errors, [10] * len(errors))
    for budget_db, count in ((12, 0), (15, 1), (16.9, 2), (17.3, 4)):
        mix = run_search(Budget(min_sqnr_db=budget_db), found)
        assert mix.chosen.kept == tuple(f"l{index}" for index in range(count))
        assert mix.misses == ()
        assert len(mix.trials) <= 5
        assert [layer.name for layer in mix.sensitivity if not layer.int8] == list(mix.chosen.kept)


def test_an_agreement_is_searched_by_doubling_and_back() -> None:
    errors = [0.01 - index / 10000 for index in range(30)]
    found = layers(errors, [10] * 30)

    def top1(error: float) -> float:
        return 1 - math.floor(error / 0.03) / 100

    mix = run_search(Budget(min_agreement=0.95), found, top1)
    assert [len(trial.kept) for trial in mix.trials] == [0, 1, 2, 4, 8, 6, 7]
    assert mix.misses == ()
    assert top1(error_of(found, mix.chosen.kept[:-1])) < 0.95


def test_half_of_the_multiplications_stay_int8_and_the_best_is_kept() -> None:
    found = layers([0.01] * 8, [10] * 8)
    mix = run_search(Budget(min_sqnr_db=40), found)
    assert len(mix.chosen.kept) == 4
    assert len(mix.misses) == 2
    points = mix.tradeoff
    assert [len(point.kept_in_float) for point in points] == [0, 1, 2, 3, 4]
    assert [point.int8_share for point in points] == [1, 7 / 8, 6 / 8, 5 / 8, 1 / 2]
    assert [point.chosen for point in points] == [False] * 4 + [True]
    assert [point.sqnr_db is None for point in points] == [False, True, True, True, False]
    for point in points:
        if point.sqnr_db is not None:
            assert point.predicted_sqnr_db == pytest.approx(point.sqnr_db)


def test_a_budget_holds_on_both_grids() -> None:
    good, bad = agreement(0.001, 1.0), agreement(0.01, 0.9)
    budget = Budget(min_sqnr_db=25, min_agreement=0.95)
    assert budget.misses(Measured(good, good, b"")) == ()
    for measured, grid in (
        (Measured(bad, good, b""), "as ONNX Runtime runs it"),
        (Measured(good, bad, b""), "on TensorRT's grid"),
    ):
        assert [miss.words for miss in budget.misses(measured)] == [
            f"SQNR 20.00 dB instead of 25 {grid}",
            f"top1_agreement 0.9000 instead of 0.95 {grid}",
        ]
    drops = Budget(max_drop={"top1": 0.5})
    assert [
        miss.words for miss in drops.misses(Measured(bad, good, b"", ({"top1": 1.0}, {"top1": 0.5})))
    ] == ["top1 worse by 1.00 instead of 0.5 as ONNX Runtime runs it"]


def test_a_budget_may_hold_on_one_grid_alone() -> None:
    good, bad = agreement(0.001, 1.0), agreement(0.01, 0.9)
    budget = Budget(min_sqnr_db=25, min_agreement=0.95, target="tensorrt")
    assert budget.misses(Measured(bad, good, b"")) == ()
    assert {miss.measure for miss in budget.misses(Measured(good, bad, b""))} == {"sqnr", "agreement"}
    assert str(budget) == "SQNR at least 25 dB, agreement at least 0.95, for tensorrt"
    assert str(Budget(max_drop={"top1": 0.5})) == "top1 worse by at most 0.5"


def test_layers_stay_in_float_only_for_the_grid_that_counts() -> None:
    """ONNX Runtime has ten times the error that TensorRT has."""
    found = layers([0.01] * 8, [10] * 8)

    def attempt(kept: tuple[str, ...]) -> Trial:
        ours, other = (agreement(factor * error_of(found, kept), 1.0) for factor in (10, 1))
        return Trial(kept=kept, table=table({}), layers=(), measured=Measured(ours, other, b""))

    for target, count, met in (("tensorrt", 2, True), ("onnxruntime", 4, False), (None, 4, False)):
        mix = search(Budget(min_sqnr_db=12, target=cast("Any", target)), found, attempt(()), attempt)
        assert (len(mix.chosen.kept), not mix.misses) == (count, met)
        value = next(point.sqnr_db for point in mix.tradeoff if point.chosen)
        assert value == pytest.approx(-10 * math.log10((8 - count) * (0.01 if met else 0.1)))


@pytest.mark.parametrize(
    "values",
    [
        {"min_agreement": 98.5},
        {"min_sqnr_db": math.nan},
        {"max_drop": {"top1": -1.0}},
        {"min_sqnr_db": 25.0, "target": "tensorrt-rtx"},
    ],
)
def test_budgets_that_make_no_sense(values: dict[str, Any]) -> None:
    with pytest.raises(BuildError, match="is wrong"):
        Budget(**values)
    assert not Budget()


# A real network: the input of one layer has a channel that is 3000 times as large as the others


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    net = Net()
    x = net.relu(net.conv("image", 3, 8))
    large, weights = np.ones((1, 8, 1, 1)), net.random.standard_normal((8, 8, 1, 1)) / 3
    large[0, 0] = 3000.0
    weights[:, 0] /= 3000.0
    x = net.add("Mul", x, net.constant(large))
    x = net.relu(net.add("Conv", x, net.constant(weights), name="bad"))
    x = net.relu(net.add("Add", x, net.conv(x, 8, 8)))
    x = net.relu(net.conv(x, 8, 8))
    net.add("Gemm", net.pooled(x), net.weights(8, 5), net.constant([0.5] * 5), name="logits")
    np.save(folder / "frames.npy", np.stack(frames(60)))
    return save(net.model("logits", own_spec=spec(task="classification")), folder / "model.onnx")


FAST = {"method": "minmax", "rounding": "nearest"}


def calibrated(model: Path, name: str, **options: Any) -> Any:
    return calibrate(model, model.with_name("frames.npy"), model.with_name(name), force=True, **options)


def test_the_bad_layer_stays_in_float_everywhere(model: Path) -> None:
    free = calibrated(model, "free.onnx", **FAST)
    assert min(free.accuracy.worst_sqnr_db, free.symmetric.worst_sqnr_db) < 26
    assert free.sensitivity == free.tradeoff == ()
    assert free.budget_met is None
    result = calibrated(model, "mixed.onnx", budget=Budget(min_sqnr_db=28))
    assert result.budget_met
    assert list(result.table.kept_in_float) == ["bad"]
    assert result.accuracy.images == result.symmetric.images == 6  # the other half of twelve chose
    assert not result.chosen_on_same_frames
    assert min(result.accuracy.worst_sqnr_db, result.symmetric.worst_sqnr_db) > 25
    bad = next(layer for layer in result.sensitivity if layer.name == "bad")
    assert not bad.int8
    assert bad.contribution == max(layer.contribution for layer in result.sensitivity)
    assert bad.reason == result.table.kept_in_float["bad"]
    assert [point.kept_in_float for point in result.tradeoff if point.chosen] == [("bad",)]
    graph = load_graph(result.path)
    assert QuantizationTable.from_metadata(graph.metadata_props) == result.table
    assert dict(compiled(to_bytes(lower_graph(graph, "int8"))).convolutions) == {"int8": 3, "fp32": 1}
    lowered = lower_graph(graph, "int8", target="tensorrt")
    report = json.loads(lowered.metadata_props["edgecnn.build"])["lowering"]
    assert report["quantized"] == 4
    assert report["not_quantized"] == {"bad": bad.reason}
    again = calibrated(model, "again.onnx", budget=Budget(min_sqnr_db=28))
    assert again.path.read_bytes() == result.path.read_bytes()


def test_tensorrt_compiles_the_mixed_graph(model: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    result = calibrated(model, "rtx.onnx", budget=Budget(min_sqnr_db=28), **FAST)
    built = build(
        result.path,
        model.with_name("rtx.engine"),
        precision="int8",
        target="tensorrt-rtx",
        options=CompileOptions(compute_capabilities=("8.6",)),
    )
    precisions = {
        operation.node: compiled.layer.precision
        for compiled in built.report.layers
        for operation in compiled.operations
    }
    assert precisions["node_of_bad"] == "fp16"
    assert list(precisions.values()).count("int8") >= 3


def test_a_budget_that_cannot_be_met_is_an_exit_code_and_the_best_is_written(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = model.with_name("unmet.onnx")
    data = str(model.with_name("frames.npy"))
    command = ["calibrate", str(model), "--data", data, "-o", str(output), "--force", "--json"]
    fast = ["--method", "minmax", "--rounding", "nearest"]
    page = model.with_name("unmet.html")
    budget = ["--min-sqnr", "80", "--target", "tensorrt", "--report", str(page)]
    assert main([*command, *fast, *budget]) == 1
    captured = capsys.readouterr()
    report = json.loads(captured.out.splitlines()[-1])
    assert report["budget_met"] is False
    assert report["budget"] == "SQNR at least 80 dB, for tensorrt"
    assert "SQNR at least 80 dB, for tensorrt: not met" in page.read_text()
    assert report["kept_in_float"]
    assert report["int8_share"] >= 0.5
    assert "the budget is not met: SQNR" in captured.err
    assert "instead of 80" in captured.err
    assert onnx.load(output).metadata_props


@pytest.mark.parametrize(
    ("option", "code", "message"),
    [
        (["--max-drop", "top7=1"], 1, "no such metric: got top7, expected one of .*top1"),
        (["--max-drop", "top1"], 2, "expected METRIC=POINTS"),
        (["--max-drop", "top1=-1"], 1, "the largest drop of top1 is wrong"),
        (["--min-agreement", "98.5"], 2, "98.5 is not in the range"),
        (["--target", "tensorrt"], 2, "--target: only with --min-sqnr, --min-agreement or --max-drop"),
    ],
)
def test_budgets_that_the_command_refuses(
    option: list[str], code: int, message: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = model.with_name("refused.onnx")
    data = str(model.with_name("frames.npy"))
    assert main(["calibrate", str(model), "--data", data, "-o", str(output), *option]) == code
    assert re.search(message, capsys.readouterr().err)
    assert not output.exists()


def test_a_drop_of_a_metric_against_labels_and_without(model: Path, tmp_path: Path) -> None:
    budget = Budget(max_drop={"top1": 100.0})
    result = calibrated(model, "drop.onnx", budget=budget, **FAST)
    assert result.budget_met
    assert any("no labels: what FP32 finds was taken as right" in warning for warning in result.warnings)
    with edgecnn.load(model) as exact:
        for number, frame in enumerate(frames(8, seed=5)):
            found = int(np.argmax(cast("Classification", exact(frame)).scores))
            folder = tmp_path / "labelled" / str((found + number % 2) % 5)
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{chr(97 + number)}.png"), frame)
        assert evaluate(exact, open_labelled(tmp_path / "labelled", exact.spec)).metrics["top1"] == 0.5
    data = tmp_path / "labelled"
    labelled = calibrated(model, "labelled.onnx", budget=budget, evaluation_data=data, **FAST)
    assert labelled.accuracy.images == 4
    assert not any("no labels" in warning for warning in labelled.warnings)
    assert all(abs(points) <= 100 and points % 25 == 0 for points in labelled.drops["top1"])


def test_labels_that_are_damaged_are_not_taken_for_none(model: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text('{"0.png": ')
    with pytest.raises(DataError, match="holds no labels"):
        calibrated(model, "bad.onnx", budget=Budget(max_drop={"top1": 1.0}), evaluation_data=labels, **FAST)
