from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgecnn.calibration import grams
from edgecnn.calibration.grams import layer_of
from edgecnn.calibration.observation import observe_activations, weight_scales
from edgecnn.calibration.ranges import choose_range
from edgecnn.calibration.sample import diversity, thumbnail
from edgecnn.calibration.second_order import round_network
from edgecnn.calibration.selection import select_ranges
from edgecnn.calibration.stream import Stream
from edgecnn.export.graph import to_bytes
from edgecnn.export.lowering import lower_graph
from edgecnn.export.lowering.tensorrt_int8 import quantize
from edgecnn.metadata import QUANTIZATION_KEY
from edgecnn.preprocess import Preprocessor
from edgecnn.quantization import QuantizationTable
from tests.networks import SIDE, Net, frames, graph_of, run, spec


def tensors(count: int = 24, seed: int = 0) -> list[NDArray[np.float32]]:
    preprocess = Preprocessor(spec().image)
    found = []
    for frame in frames(count, seed=seed):
        preprocess(frame)
        found.append(preprocess.tensor.copy())
    return found


def plain_table(graph: ir.Model) -> QuantizationTable:
    stats, count, digest = observe_activations(graph, spec().image, frames(24))
    ranges = {name: choose_range(entry, "minmax") for name, entry in stats.items()}
    return QuantizationTable(
        activations=ranges,
        weights=weight_scales(graph),
        method="minmax",
        frames=count,
        frames_sha256=digest,
        tool="test",
    )


def network(folder: Path) -> ir.Model:
    """Dense, grouped, depthwise, strided and dilated convolutions, a residual sum, a matrix product."""
    net = Net()
    x = net.relu(net.conv("image", 3, 12))
    y = net.add("Conv", x, net.weights(12, 1, 3, 3), net.weights(12), group=12, pads=[1, 1, 1, 1])
    y = net.add(
        "Conv", net.clip(y, 0, 6), net.weights(12, 4, 3, 3), group=3, pads=[2, 2, 2, 2], dilations=[2, 2]
    )
    x = net.relu(net.add("Add", x, y))
    x = net.relu(
        net.add("Conv", x, net.weights(16, 12, 3, 3), net.weights(16), strides=[2, 2], pads=[0, 0, 1, 1])
    )
    scores = net.add("Gemm", net.pooled(x), net.weights(16, 5), net.constant([0.5] * 5), name="logits")
    return graph_of(net.model(scores), folder)


def symmetric(graph: ir.Model, table: QuantizationTable) -> bytes:
    """TensorRT's placement with all else in FP32."""
    lowered = graph.clone()
    quantize(lowered.graph, table, set(lowered.graph))
    return to_bytes(lowered)


def noise(graph: ir.Model, table: QuantizationTable, seed: int = 7) -> float:
    judged = np.concatenate(tensors(24, seed=seed))
    reference, other = run(to_bytes(graph), judged)[0], run(symmetric(graph, table), judged)[0]
    return float(((reference - other) ** 2).sum() / (reference**2).sum())


def test_less_error_on_frames_that_were_not_seen(tmp_path: Path) -> None:
    graph = network(tmp_path)
    table = plain_table(graph)
    rounded, layers = round_network(graph, table, tensors())
    assert [layer.weights for layer in layers] == list(table.weights)
    assert any(layer.shrinkage is not None for layer in layers)
    assert all(layer.chosen_db >= layer.nearest_db for layer in layers)
    assert noise(graph, rounded) < noise(graph, table)
    assert rounded.rounding == "second-order"


def test_both_lowerings_hold_the_steps_that_were_chosen(tmp_path: Path) -> None:
    graph = network(tmp_path)
    table, _ = round_network(graph, plain_table(graph), tensors())
    graph.metadata_props[QUANTIZATION_KEY] = table.to_json()  # through JSON, as in a file
    for target in ("onnxruntime", "tensorrt"):
        lowered = lower_graph(graph, "int8", target=target)
        found = 0
        for name, entry in table.weights.items():
            constant = lowered.graph.initializers.get(f"{name}.q")
            if constant is None or constant.const_value is None:
                continue
            values = graph.graph.initializers[name].const_value
            assert values is not None
            sides = [1] * len(values.shape)
            sides[entry.axis] = -1
            steps = np.rint(entry.on_grid(values.numpy()) / np.reshape(entry.scales, sides))
            np.testing.assert_array_equal(constant.const_value.numpy(), np.clip(steps, -127, 127))
            found += 1
        assert found >= 4


def test_twice_gives_the_same_table(tmp_path: Path) -> None:
    graph = network(tmp_path)
    table = plain_table(graph)
    assert (
        round_network(graph, table, tensors())[0].to_json()
        == round_network(graph, table, tensors())[0].to_json()
    )


def test_too_few_frames_change_nothing(tmp_path: Path) -> None:
    graph = network(tmp_path)
    table = plain_table(graph)
    assert round_network(graph, table, tensors(3)) == (table, ())


def test_weights_that_two_layers_share_stay_as_they_are(tmp_path: Path) -> None:
    net = Net()
    weights = net.weights(8, 8, 1, 1)
    x = net.relu(net.conv("image", 3, 8))
    x = net.relu(net.add("Conv", x, weights))
    net.add("Flatten", net.pooled(net.add("Conv", x, weights)), name="y")
    graph = graph_of(net.model("y"), tmp_path)
    table = plain_table(graph)
    rounded, layers = round_network(graph, table, tensors())
    assert weights not in [layer.weights for layer in layers]
    assert rounded.weights[weights] == table.weights[weights]


def test_dead_channels_and_tiny_weights_keep_positive_scales(tmp_path: Path) -> None:
    net = Net()
    values = np.random.default_rng(0).normal(size=(6, 3, 3, 3)).astype(np.float32)
    values[0], values[1], values[2] = 0.0, values[1] * 1e-30, 0.0
    values[3] *= 1e7
    x = net.relu(net.add("Conv", "image", net.constant(values, "w"), net.constant(np.zeros(6), "b")))
    net.add("Flatten", net.conv(x, 6, 4), name="y")
    graph = graph_of(net.model("y"), tmp_path)
    rounded, _ = round_network(graph, plain_table(graph), tensors())
    scales = np.array(rounded.weights["w"].scales, np.float32)
    assert np.isfinite(scales).all()
    assert (scales >= np.finfo(np.float32).tiny).all()
    assert np.isfinite(run(symmetric(graph, rounded), tensors(2)[0])[0]).all()


# Columns


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((4, 6, 3, 3), {"pads": [1, 1, 1, 1]}),
        ((6, 1, 3, 3), {"group": 6, "strides": [2, 2], "pads": [0, 1, 1, 0]}),
        ((4, 3, 3, 2), {"group": 2, "dilations": [2, 1]}),
        ((5, 6, 1, 1), {}),
    ],
)
def test_weights_times_columns_is_the_convolution(
    shape: tuple[int, ...], attributes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grams, "POSITIONS", 10**6)  # all of them
    net = Net((2, 6, 9, 8))
    net.add("Conv", "image", net.weights(*shape), name="y", **attributes)
    graph = graph_of(net.model("y"), tmp_path)
    node = next(iter(graph.graph))
    layer = layer_of(node)
    assert layer is not None
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    values = np.random.default_rng(0).normal(size=(2, 6, 9, 8)).astype(np.float32)
    matrix = layer.matrix(weight.const_value.numpy())
    np.testing.assert_array_equal(layer.weights(matrix, shape), weight.const_value.numpy())
    outputs = matrix @ layer.columns(values)  # (groups, outputs, images · positions)
    expected = run(to_bytes(graph), values)[0]
    images = expected.reshape(2, shape[0], -1).transpose(1, 0, 2).reshape(shape[0], -1)
    np.testing.assert_allclose(outputs.reshape(shape[0], -1), images, rtol=1e-4, atol=1e-4)


def test_long_columns_are_cut_and_still_gain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grams, "LARGEST", 40)
    graph = network(tmp_path)
    table = plain_table(graph)
    rounded, layers = round_network(graph, table, tensors())
    assert any(layer.shrinkage is not None for layer in layers)
    assert noise(graph, rounded) < noise(graph, table)


# A network in pieces


def test_a_stream_computes_what_the_network_computes(tmp_path: Path) -> None:
    graph = network(tmp_path)
    inputs = tensors(3)
    stream = Stream(graph, inputs)
    for node in list(graph.graph):
        stream.advance(str(node.outputs[0].name), {})
    stream.advance(None, {})
    for index, tensor in enumerate(inputs):
        np.testing.assert_allclose(
            stream.tensor(index, "logits"), run(to_bytes(graph), tensor)[0], rtol=1e-4, atol=1e-5
        )
        assert set(stream.live[index]) == {"logits"}


# Ranges by what they disturb


def test_a_range_is_chosen_by_what_the_next_layer_makes_of_it(tmp_path: Path) -> None:
    # Channel 0 holds small numbers and is read; channel 1 is 30 times as large and hardly read: clip it.
    net = Net()
    gain = np.zeros((2, 3, 1, 1), np.float32)
    gain[0, 0], gain[1, 1] = 1.0, 30.0
    x = net.add("Conv", "image", net.constant(gain, "gain"), name="x")
    reader = np.array([[[[1.0]], [[1e-4]]]], np.float32)
    net.add("Flatten", net.add("Conv", x, net.constant(reader, "reader")), name="y")
    graph = graph_of(net.model("y"), tmp_path)
    stats, *_ = observe_activations(graph, spec().image, frames(24))
    chosen = select_ranges(graph, stats, tensors())
    assert chosen["x"].amax == min(
        choose_range(stats["x"], method).amax for method in ("minmax", "entropy", "percentile", "mse")
    )


def test_frames_count_alike_but_for_the_last_layer(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(125, 131, (SIDE, SIDE, 3), np.uint8) for _ in range(100)]
    pictures[40][3, 5, 1] = 255  # 60 times as far from zero as all else
    inputs, preprocess = [], Preprocessor(spec().image)
    for picture in pictures:
        preprocess(picture)
        inputs.append(preprocess.tensor.copy())
    ranges = []
    for layers in (1, 2):
        net, x = Net(), "image"
        for number in range(layers):
            x = net.conv(x, 3, 3, 1) if number == layers - 1 else net.relu(net.conv(x, 3, 3, 1))
        net.add("Flatten", x, name="y")
        graph = graph_of(net.model("y"), tmp_path)
        stats, *_ = observe_activations(graph, spec().image, pictures)
        ranges.append(select_ranges(graph, stats, inputs)["image"].amax)
    assert ranges[0] > 1  # one frame's error is more than all others'
    assert ranges[1] < 0.1


def test_dense_layers_have_room_for_larger_numbers(tmp_path: Path) -> None:
    net = Net()
    x = net.add("Flatten", net.relu(net.conv("image", 3, 4)), name="map")
    x = net.add("Relu", net.add("Gemm", x, net.weights(4 * SIDE * SIDE, 8)), name="hidden")
    net.add("Gemm", x, net.weights(8, 2), name="y")
    graph = graph_of(net.model("y"), tmp_path)
    stats, *_ = observe_activations(graph, spec().image, frames(24))
    chosen = select_ranges(graph, stats, tensors())
    assert chosen["hidden"].amax == pytest.approx(1.25 * stats["hidden"].amax)
    assert all(
        entry.amax <= stats[name].amax for name, entry in chosen.items() if name not in ("hidden", "y")
    )


def test_the_input_has_the_pixels_own_steps_where_they_fit(tmp_path: Path) -> None:
    # (p - 127) / 128: all levels but 255 are whole steps of 1 / 128
    net = Net()
    net.add("Flatten", net.conv("image", 3, 4), name="y")
    graph = graph_of(net.model("y"), tmp_path)
    exact = dataclasses.replace(spec().image, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    for image in (exact, spec().image):
        stats, *_ = observe_activations(graph, image, frames(24))
        inputs = []
        for frame in frames(10)[2:]:
            preprocess = Preprocessor(image)
            preprocess(frame)
            inputs.append(preprocess.tensor.copy())
        chosen = select_ranges(graph, stats, inputs, image=image)["image"]
        assert (chosen.method == "pixels") == (image is exact)
        assert image is not exact or chosen.amax == pytest.approx(127 / 128)


# How different frames are


def test_diversity_counts_different_frames() -> None:
    random = np.random.default_rng(0)
    different = [thumbnail(random.integers(0, 256, (16, 16, 3), np.uint8)) for _ in range(6)]
    assert diversity(different) == pytest.approx(6, abs=0.1)
    assert diversity([*different, *different]) == pytest.approx(6, abs=0.1)
    assert diversity([different[0]] * 5) == 1.0


def test_a_picture_in_another_light_is_the_same_picture() -> None:
    picture = np.random.default_rng(0).integers(0, 200, (64, 48, 3), np.uint8)
    darker = (picture * 0.6 + 50).astype(np.uint8)
    assert diversity([thumbnail(picture), thumbnail(darker)]) == pytest.approx(1, abs=0.01)


def test_frames_of_one_colour() -> None:
    dark, light = (thumbnail(np.full((8, 8, 3), level, np.uint8)) for level in (7, 70))
    assert diversity([dark, light]) == 1.0
