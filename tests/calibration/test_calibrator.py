from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest

from edgecnn.calibration import Budget, calibrate
from edgecnn.calibration.adjustments import measure_adjustments
from edgecnn.calibration.observation import observe_activations, weight_scales
from edgecnn.calibration.outputs import Errors
from edgecnn.dataset import FrameSet
from edgecnn.errors import (
    BuildError,
    DataError,
    EdgeCNNError,
    ModelFormatError,
    OutputError,
    OutputExistsError,
    SpecError,
)
from edgecnn.export.graph import load_graph, to_bytes
from edgecnn.export.lowering import lower_graph
from edgecnn.metadata import ACCURACY_KEY, BUILD_KEY, EXPORT_KEY, QUANTIZATION_KEY, SPEC_KEY
from edgecnn.quantization import LEVELS, QuantizationTable, WeightScales
from tests.broken import convnet
from tests.networks import SIDE, Net, frames, graph_of, inputs, run, save, spec


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An array of 12 random frames."""
    path = tmp_path / "frames.npy"
    np.save(path, np.stack(frames()))
    return path


def network(folder: Path, *, task: str = "classification") -> Path:
    net = Net()
    x = net.relu(net.conv("image", 3, 8))
    x = net.relu(net.add("Add", x, net.conv(x, 8, 8)))
    scores = net.add("Gemm", net.pooled(x), net.weights(8, 5), net.constant([0.5] * 5), name="logits")
    return save(net.model(scores, own_spec=spec(task=task)), folder / "model.onnx")


def test_what_comes_out_is_the_float_model_with_table_and_report(data: Path, tmp_path: Path) -> None:
    source = network(tmp_path)
    result = calibrate(source, data, tmp_path / "calibrated.onnx")
    calibrated = onnx.load(result.path)
    onnx.checker.check_model(calibrated, full_check=True)
    np.testing.assert_array_equal(
        run(calibrated.SerializeToString(), inputs())[0], run(source.read_bytes(), inputs())[0]
    )
    metadata = {entry.key: entry.value for entry in calibrated.metadata_props}
    assert QuantizationTable.from_metadata(metadata) == result.table
    report = json.loads(metadata[ACCURACY_KEY])
    assert report["images"] == result.accuracy.images == 2
    assert report["top1_agreement"] == result.accuracy.metrics["top1_agreement"]
    assert result.accuracy.worst_sqnr_db > 25
    assert result.plain is not None
    assert result.accuracy.worst_sqnr_db >= result.plain.worst_sqnr_db
    assert result.table.frames == 10
    assert metadata[SPEC_KEY] == spec(task="classification").to_json()
    assert result.skipped == ()


def test_the_report_belongs_to_the_graph_that_build_makes(data: Path, tmp_path: Path) -> None:
    result = calibrate(network(tmp_path), data, tmp_path / "calibrated.onnx")
    graph = load_graph(result.path)
    report = json.loads(graph.metadata_props[ACCURACY_KEY])
    assert report["graph_sha256"] == hashlib.sha256(to_bytes(lower_graph(graph, "int8"))).hexdigest()


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile", "mse", "auto"])
def test_twice_gives_the_same_bytes(method: Any, data: Path, tmp_path: Path) -> None:
    source = network(tmp_path)
    first, second = (
        calibrate(source, data, tmp_path / name, method=method).path.read_bytes()
        for name in ("a.onnx", "b.onnx")
    )
    assert first == second


def test_calibrating_again_replaces_the_table(data: Path, tmp_path: Path) -> None:
    first = calibrate(network(tmp_path), data, tmp_path / "a.onnx")
    second = calibrate(first.path, data, tmp_path / "b.onnx")
    assert second.path.read_bytes() == first.path.read_bytes()


def test_planted_ranges_are_found_exactly(tmp_path: Path) -> None:
    # pixel / 255 · 8 − 4: white is 4, black is −4; the convolution doubles
    net = Net()
    net.add("Conv", "image", net.constant(2 * np.eye(3)[:, :, None, None], "w"), name="c")
    net.add("Relu", "c", name="r")
    net.add("Flatten", "r", name="y")
    image = spec().image
    image = type(image)(size_hw=image.size_hw, mean=(0.5,) * 3, std=(0.125,) * 3)
    white, black = (np.full((SIDE, SIDE, 3), level, np.uint8) for level in (255, 0))
    stats, count, *_ = observe_activations(graph_of(net.model("y"), tmp_path), image, [black, white])
    assert count == 2
    assert set(stats) == {"image", "r"}  # neither between a convolution and its clamp, nor what is only moved
    assert (stats["image"].low, stats["image"].high) == (-4.0, 4.0)
    assert (stats["r"].low, stats["r"].high) == (0.0, 8.0)


def test_the_order_of_frames_does_not_matter(tmp_path: Path) -> None:
    graph = load_graph(network(tmp_path))
    seen = frames()
    one, _, hash_one = observe_activations(graph, spec().image, seen)
    other, _, hash_other = observe_activations(graph, spec().image, seen[::-1])
    assert hash_one != hash_other
    for name, entry in one.items():
        assert (entry.low, entry.high) == (other[name].low, other[name].high)
        assert entry.counts is not None
        assert other[name].counts is not None
        np.testing.assert_array_equal(entry.counts, other[name].counts)


def test_every_row_of_a_tensor_without_a_batch_axis_is_seen(tmp_path: Path) -> None:
    # (1, 3, 8, 8) → (3, 64): the largest value is in the last row
    net = Net((1, 3, SIDE, SIDE))
    x = net.add("Mul", "image", net.constant([[[1.0]], [[2.0]], [[30.0]]]))
    x = net.add("ReduceSum", x, net.constant(np.array([0])), keepdims=0)
    x = net.add("Add", x, x, name="s")
    net.add("MatMul", net.add("Reshape", x, net.constant(np.array([3, 64]))), net.weights(64, 4), name="y")
    stats, *_ = observe_activations(graph_of(net.model("y"), tmp_path), spec().image, frames())
    assert stats["s"].amax == 2 * 2 * 30


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_sees_the_same(batch: int, tmp_path: Path) -> None:
    net = Net((batch, 3, SIDE, SIDE))
    net.add("Flatten", net.conv("image", 3, 8), name="y")
    stats, count, *_ = observe_activations(graph_of(net.model("y"), tmp_path), spec().image, frames())
    free = Net()
    free.add("Flatten", free.conv("image", 3, 8), name="y")
    reference, *_ = observe_activations(graph_of(free.model("y"), tmp_path), spec().image, frames())
    assert count == 12
    for name, entry in reference.items():
        assert (stats[name].low, stats[name].high) == pytest.approx((entry.low, entry.high), rel=1e-6)


def test_no_row_of_a_fixed_batch_is_left_empty(tmp_path: Path) -> None:
    net = Net((4, 3, SIDE, SIDE))
    net.add("Flatten", net.conv("image", 3, 8), name="y")
    white = np.full((SIDE, SIDE, 3), 255, np.uint8)
    stats, *_ = observe_activations(graph_of(net.model("y"), tmp_path), spec().image, [white])
    assert (stats["image"].low, stats["image"].high) == (2.0, 2.0)


def test_weights_get_a_scale_a_channel(tmp_path: Path) -> None:
    net = Net()
    weights = np.zeros((4, 3, 1, 1), np.float32)
    weights[0, 1], weights[1, 2], weights[3, 0] = 4.0, -2.0, 1e-44
    net.add("Conv", "image", net.constant(weights, "conv"), name="c")
    net.add("Gemm", net.pooled("c"), net.constant(np.diag([1.0, 2, 3, 4]) + 0.5, "gemm"), name="y")
    scales = weight_scales(graph_of(net.model("y"), tmp_path))
    first, second, dead, tiny = scales["conv"].scales
    assert (first, second) == (4.0 / 127, 2.0 / 127)
    assert dead == 1.0  # all zero
    assert tiny >= np.finfo(np.float32).tiny
    assert scales["gemm"].axis == 1
    assert scales["gemm"].scales == tuple(float(amax) / 127 for amax in (1.5, 2.5, 3.5, 4.5))
    assert LEVELS == 127


# Data


def test_no_images(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match="no images"):
        calibrate(network(tmp_path), tmp_path / "photos", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def write_images(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number, frame in enumerate(frames(count)):
        cv2.imwrite(str(folder / f"{number}.png"), frame)
    return folder


def test_an_unreadable_image_is_skipped_reported_and_not_counted(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 10)
    (folder / "3.png").write_bytes(b"no image")
    (folder / "9.png").write_bytes(b"no image")  # held out
    result = calibrate(network(tmp_path), folder, tmp_path / "out.onnx")
    assert [entry.path.name for entry in result.skipped] == ["3.png", "9.png"]
    assert result.table.frames == 7
    assert result.accuracy.images == 1


def test_evaluation_data_of_its_own(data: Path, tmp_path: Path) -> None:
    other = write_images(tmp_path / "other", 3)
    result = calibrate(network(tmp_path), data, tmp_path / "out.onnx", evaluation_data=other)
    assert (result.table.frames, result.accuracy.images) == (12, 3)


def test_the_frames_hash_names_the_data(data: Path, tmp_path: Path) -> None:
    source = network(tmp_path)
    first = calibrate(source, data, tmp_path / "a.onnx").table.frames_sha256
    np.save(data, np.stack(frames(seed=9)))
    assert calibrate(source, data, tmp_path / "b.onnx").table.frames_sha256 != first


@pytest.mark.parametrize("operator", ["Log", "Exp"])
def test_an_activation_that_is_not_finite_is_named(operator: str, data: Path, tmp_path: Path) -> None:
    # the logarithm of a negative number is NaN, the exponential of 500 infinite
    net = Net()
    x = net.add("Mul", net.conv("image", 3, 8), net.constant(500.0))
    net.add(operator, x, name="odd_one")
    net.add("Flatten", net.clip("odd_one", -1, 1), name="y")
    source = save(net.model("y", own_spec=spec()), tmp_path / "model.onnx")
    with pytest.raises(DataError, match="activation odd_one is infinite or NaN on frame 0"):
        calibrate(source, data, tmp_path / "out.onnx")


def test_an_unknown_method(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got magic, expected one of minmax, entropy, percentile, mse, auto"):
        calibrate(network(tmp_path), data, tmp_path / "out.onnx", method="magic")  # type: ignore[arg-type]


def test_an_unknown_rounding(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got up, expected one of nearest, second-order"):
        calibrate(network(tmp_path), data, tmp_path / "out.onnx", rounding="up")  # type: ignore[arg-type]


def spoil(graph: Any, table: QuantizationTable, *_: Any, **__: Any) -> Any:
    """A recipe that spoils the model: every bias is moved far away."""
    biases = {
        str(node.inputs[2].name): tuple([50.0] * node.inputs[2].const_value.size)
        for node in graph.graph
        if node.op_type in ("Conv", "Gemm")
    }
    return dataclasses.replace(table, biases=biases), ()


def test_an_adjustment_that_does_not_help_is_taken_out(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecnn.calibration.way.round_network", spoil)
    result = calibrate(network(tmp_path), data, tmp_path / "out.onnx")
    found = {one.name: one for one in result.adjustments}
    assert not found["bias correction"].accepted
    assert found["bias correction"].gain_db < -10
    assert not result.table.biases


def zero_steps(graph: Any, table: QuantizationTable, *_: Any, **__: Any) -> Any:
    """Another: every weight becomes 0."""
    constants = {name: value.const_value.numpy() for name, value in graph.graph.initializers.items()}
    weights = {
        name: WeightScales.with_steps(
            entry.axis, entry.scales, constants[name], np.zeros(constants[name].shape, np.int8)
        )
        for name, entry in table.weights.items()
    }
    return dataclasses.replace(table, weights=weights, rounding="second-order"), ()


@pytest.mark.parametrize(("recipe", "name"), [(spoil, "bias correction"), (zero_steps, "rounding")])
def test_what_was_taken_out_stays_out_in_mixed_precision(
    recipe: Any, name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecnn.calibration.way.round_network", recipe)
    result = calibrate(network(tmp_path), data, tmp_path / "out.onnx", budget=Budget(min_sqnr_db=90))
    assert [one.name for one in result.adjustments if not one.accepted] == [name]
    assert result.table.kept_in_float  # rounded anew, then
    assert not result.table.biases
    assert all(entry.moves is None for entry in result.table.weights.values())
    assert result.table.rounding == "nearest"


def test_adjustments_are_judged_on_both_grids_by_frames_from_everywhere(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = load_graph(network(tmp_path))
    table = calibrate(network(tmp_path), data, tmp_path / "out.onnx", method="minmax").table
    table, _ = spoil(graph, table)
    read: list[int] = []

    def images(positions: Any) -> Any:
        read.extend(positions)
        yield from frames(len(positions))

    def errors(_: Any, tried: QuantizationTable, *__: Any, **___: Any) -> Errors:
        """Biases help a little on TensorRT's grid, and harm more on the other."""
        symmetric, onnxruntime = (0.9, 1.2) if tried.biases else (1.0, 1.0)
        return Errors(np.full(32, symmetric), np.full(32, onnxruntime))

    monkeypatch.setattr("edgecnn.calibration.adjustments.errors_on_grids", errors)
    found, adjustments = measure_adjustments(
        graph, spec().image, table, {}, None, FrameSet("frames", range(96), images)
    )
    assert read == list(range(0, 96, 3))
    last = adjustments[-1]
    assert (last.name, last.accepted, last.gain_db, last.onnxruntime_gain_db) == (
        "bias correction", False, 0.46, -0.79
    )  # fmt: skip
    assert not found.biases


@pytest.mark.parametrize(("losing", "accepted"), [(1, True), (5, False)])
def test_one_source_that_loses_takes_nothing_out(
    losing: int, accepted: bool, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = load_graph(network(tmp_path))
    table = calibrate(network(tmp_path), data, tmp_path / "out.onnx", method="minmax").table
    table, _ = spoil(graph, table)

    def errors(_: Any, tried: QuantizationTable, *__: Any, **___: Any) -> Errors:
        """Biases halve the error of sources, of four frames each; of some it is ten times as large."""
        found = np.full(32, 1.0)
        if tried.biases:
            found = np.where(np.arange(32) < 4 * losing, 10.0, 0.5)
        return Errors(found, found)

    monkeypatch.setattr("edgecnn.calibration.adjustments.errors_on_grids", errors)
    sources = [index // 4 for index in range(32)]
    images = FrameSet("frames", range(32), lambda positions: iter(frames(len(positions))), sources=sources)
    found, adjustments = measure_adjustments(graph, spec().image, table, {}, None, images)
    last = adjustments[-1]
    assert (last.name, last.accepted) == ("bias correction", accepted)
    assert last.gain_db == pytest.approx((3.01 * (8 - losing) - 10 * losing) / 8, abs=0.01)
    assert bool(found.biases) == accepted


def test_the_plain_way_is_kept_where_it_is_better(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecnn.calibration.way.round_network", spoil)
    unadjusted = "edgecnn.calibration.way.measure_adjustments"
    monkeypatch.setattr(unadjusted, lambda graph, image, table, *_, **__: (table, ()))
    source = network(tmp_path)
    result = calibrate(source, data, tmp_path / "out.onnx")
    plain = calibrate(source, data, tmp_path / "plain.onnx", method="minmax", rounding="nearest")
    assert result.table == plain.table
    assert result.accuracy == result.plain == plain.accuracy
    assert any("nearest steps are kept" in warning for warning in result.warnings)
    assert result.path.read_bytes() == plain.path.read_bytes()


def test_frames_that_are_all_alike_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "alike.npy"
    first, second = frames(4)[2:]
    np.save(path, np.stack([first if index % 2 else second for index in range(20)]))
    result = calibrate(network(tmp_path), path, tmp_path / "out.onnx")
    assert result.table.diversity == pytest.approx(2, abs=0.1)
    assert any("16 calibration frames are much alike" in warning for warning in result.warnings)


def test_the_table_says_what_it_was_made_with(data: Path, tmp_path: Path) -> None:
    table = calibrate(network(tmp_path), data, tmp_path / "out.onnx").table
    assert table.software == {"numpy": np.__version__, "onnxruntime": onnxruntime.__version__}
    assert table.diversity is not None
    assert 1 < table.diversity <= table.frames


# Models


def test_a_foreign_model_needs_a_spec_and_works_with_one(data: Path, tmp_path: Path) -> None:
    source = save(convnet(opset=11, ir_version=3, inputs_hold_weights=True), tmp_path / "foreign.onnx")
    with pytest.raises(SpecError, match=r"foreign\.onnx does not say how to use it.*--task"):
        calibrate(source, data, tmp_path / "out.onnx")
    result = calibrate(source, data, tmp_path / "out.onnx", spec=spec(task="classification"))
    assert set(result.table.weights) == {"w"}
    again = calibrate(result.path, data, tmp_path / "again.onnx")  # it knows its spec now
    assert again.table == result.table


def test_a_batch_norm_of_a_foreign_model_is_folded_first(data: Path, tmp_path: Path) -> None:
    net = Net()
    x = net.conv("image", 3, 8)
    x = net.add("BatchNormalization", x, *(net.constant(np.full(8, n)) for n in (2.0, 0.5, 0.1, 0.3)))
    source = save(net.model(net.pooled(net.relu(x)), exported=False), tmp_path / "foreign.onnx")
    result = calibrate(source, data, tmp_path / "out.onnx", spec=spec())
    operators = [node.op_type for node in onnx.load(result.path).graph.node]
    assert operators == ["Conv", "Relu", "GlobalAveragePool", "Flatten"]


def two_inputs(folder: Path) -> Path:
    net = Net()
    x = net.conv("image", 3, 8)
    model = net.model(x, own_spec=spec())
    model.graph.input.append(onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, [1]))
    return save(model, folder / "two.onnx")


def no_weights(folder: Path) -> Path:
    net = Net()
    return save(net.model(net.relu("image"), own_spec=spec()), folder / "relu.onnx")


def half_precision_weights(folder: Path) -> Path:
    net = Net()
    half = net.add("Cast", "image", to=onnx.TensorProto.FLOAT16)
    x = net.add("Conv", half, net.constant(np.ones((4, 3, 1, 1), np.float16)))
    return save(
        net.model(net.add("Cast", x, to=onnx.TensorProto.FLOAT), own_spec=spec()), folder / "half.onnx"
    )


def half_precision_input(folder: Path) -> Path:
    net = Net(dtype=onnx.TensorProto.FLOAT16)
    x = net.add("Conv", "image", net.constant(np.ones((4, 3, 1, 1), np.float16)))
    return save(net.model(x, own_spec=spec()), folder / "half_input.onnx")


def lowered(folder: Path) -> Path:
    path = folder / "lowered.onnx"
    path.write_bytes(to_bytes(lower_graph(load_graph(network(folder)), "fp32")))
    return path


def quantized_by_others(folder: Path) -> Path:
    net = Net()
    scale, zero = net.constant(0.1), net.constant(np.uint8(128))
    x = net.add("DequantizeLinear", net.add("QuantizeLinear", "image", scale, zero), scale, zero)
    return save(net.model(net.conv(x, 3, 8), own_spec=spec()), folder / "qdq.onnx")


def wrong_size(folder: Path) -> Path:
    net = Net()
    return save(net.model(net.conv("image", 3, 8), own_spec=spec(side=16)), folder / "size.onnx")


def damaged_weights(folder: Path) -> Path:
    net = Net()
    weights = np.ones((8, 3, 3, 3))
    weights[0, 0, 0, 0] = np.inf
    x = net.add("Conv", "image", net.constant(weights, "stem.weight"))
    # no activation that is quantized shows it
    return save(net.model(net.clip(x, 0.0, 6.0), own_spec=spec()), folder / "damaged.onnx")


def not_onnx(folder: Path) -> Path:
    (folder / "text.onnx").write_text("no model")
    return folder / "text.onnx"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (two_inputs, SpecError, "image, mask"),
        (no_weights, BuildError, "nothing to quantize: got no constants"),
        (half_precision_weights, BuildError, "nothing to quantize: got constants of type FLOAT16.*float32"),
        (half_precision_input, SpecError, "float16"),
        (lowered, BuildError, "lowered already: got fp32"),
        (quantized_by_others, BuildError, "quantized already: got DequantizeLinear, QuantizeLinear"),
        (wrong_size, SpecError, r"the spec does not fit the model's input image.*--input-size"),
        (damaged_weights, BuildError, "weights stem.weight are infinite or NaN: got 1 such values"),
        (not_onnx, ModelFormatError, "is not a whole ONNX file"),
    ],
)
def test_models_that_cannot_be_calibrated_are_refused_before_any_frame(
    make: Callable[[Path], Path], error: type[EdgeCNNError], message: str, data: Path, tmp_path: Path
) -> None:
    source = make(tmp_path)
    calls: list[object] = []
    with pytest.raises(error, match=message) as caught:
        calibrate(source, data, tmp_path / "out.onnx", progress=lambda *step: calls.append(step))
    assert "\n" not in str(caught.value)
    assert calls == []
    assert not (tmp_path / "out.onnx").exists()


def test_old_metadata_do_not_outlive_a_new_calibration(data: Path, tmp_path: Path) -> None:
    first = calibrate(network(tmp_path), data, tmp_path / "a.onnx").path
    np.save(data, np.stack(frames(seed=9)))
    second = onnx.load(calibrate(first, data, tmp_path / "b.onnx").path)
    keys = [entry.key for entry in second.metadata_props]
    assert sorted(keys) == sorted([EXPORT_KEY, SPEC_KEY, QUANTIZATION_KEY, ACCURACY_KEY])
    assert BUILD_KEY not in keys


# Output


@pytest.mark.parametrize("stage", ["calibrating", "comparing"])
def test_an_interruption_leaves_nothing_behind(stage: str, data: Path, tmp_path: Path) -> None:
    source = network(tmp_path)
    before = sorted(tmp_path.iterdir())

    def interrupt(now: str, done: int, total: int | None) -> None:
        if now == stage and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(source, data, tmp_path / "out.onnx", progress=interrupt)
    assert sorted(tmp_path.iterdir()) == before


def test_progress_is_told(data: Path, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int | None]] = []
    calibrate(network(tmp_path), data, tmp_path / "out.onnx", progress=lambda *step: steps.append(step))
    expected = {
        "calibrating": 10,
        "choosing ranges": 3,
        "rounding weights": 3,
        "adjustments": 4,
        "comparing": 4,
        "comparing with the plain way": 4,
    }
    assert steps == [(stage, n, total) for stage, total in expected.items() for n in range(1, total + 1)]


def test_an_output_is_refused_before_any_work(data: Path, tmp_path: Path) -> None:
    (tmp_path / "there.onnx").touch()
    with pytest.raises(OutputExistsError):
        calibrate(tmp_path / "no.onnx", data, tmp_path / "there.onnx")
    with pytest.raises(OutputError, match="no folder"):
        calibrate(tmp_path / "no.onnx", data, tmp_path / "nowhere" / "out.onnx")


_DISK_FULL = """
import resource, sys
from edgecnn.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
sys.exit(main(["calibrate", sys.argv[1], "--data", sys.argv[2], "-o", sys.argv[3]]))
"""


def test_a_full_disk(data: Path, tmp_path: Path) -> None:
    source = network(tmp_path)
    before = sorted(tmp_path.iterdir())
    command = [sys.executable, "-c", _DISK_FULL, str(source), str(data), str(tmp_path / "out.onnx")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 1
    assert "out.onnx: got File too large" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


_PEAK = """
import resource, sys
import numpy as np
from edgecnn.calibration.observation import observe_activations
from edgecnn.export.graph import load_graph
from tests.networks import spec
graph = load_graph(sys.argv[1])
frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
observe_activations(graph, spec(side=64).image, [frame] * int(sys.argv[2]), threads=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path: Path) -> None:
    net = Net(("N", 3, 64, 64))
    net.add("Flatten", net.relu(net.conv(net.relu(net.conv("image", 3, 16)), 16, 16)), name="y")
    source = save(net.model("y"), tmp_path / "model.onnx")  # 0.5 MB of activations a frame
    peaks = []
    for count in (20, 200):
        command = [sys.executable, "-c", _PEAK, str(source), str(count)]
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        peaks.append(int(result.stdout) / 1024)
    assert peaks[1] - peaks[0] < 20  # 180 frames would hold 90 MB
