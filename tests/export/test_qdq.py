"""Models that bring Q/DQ along: what they say is kept, or refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgecnn.errors import BuildError
from edgecnn.export import build, export_onnx
from edgecnn.export.graph import load_graph, to_bytes
from edgecnn.export.lowering import lower_graph
from edgecnn.export.qdq import load_float_graph, take_quantization
from edgecnn.quantization import FROM_GRAPH, FROM_GRAPH_UINT8, QuantizationTable
from tests.export.networks import SIZE
from tests.export.networks import spec as classifier
from tests.networks import SIDE, Net, inputs, operators, run, save, spec, sqnr_db

# Steps are powers of two, weights and inputs lie on them: every sum is exact in float32 and in FP16, so
# nothing depends on the order of sums or on ties.
STEP = 2.0**-5
_ZERO = np.int8(0)


class Quantized(Net):
    """A network with Q/DQ in it."""

    def fake(self, x: str, scale: float = STEP, zero_point: Any = _ZERO, name: str | None = None) -> str:
        operands = [self.constant(np.float32(scale)), self.constant(zero_point)]
        return self.add("DequantizeLinear", self.add("QuantizeLinear", x, *operands), *operands, name=name)

    def stored(self, steps: NDArray[Any], scale: Any, zero_point: Any = _ZERO, axis: int = 0) -> str:
        scales = np.asarray(scale, np.float32)
        zeros = np.broadcast_to(zero_point, scales.shape).astype(np.asarray(zero_point).dtype)
        operands = [self.constant(array) for array in (steps, scales, zeros)]
        return self.add("DequantizeLinear", *operands, axis=axis)

    def steps(self, *shape: int, low: int = -20, high: int = 21) -> NDArray[np.int8]:
        return self.random.integers(low, high, shape, np.int8)


def pixels() -> NDArray[np.float32]:
    return (np.random.default_rng(3).integers(-40, 41, (1, 3, SIDE, SIDE)) * STEP).astype(np.float32)


def taken(net: Net, output: str, folder: Path) -> tuple[onnx.ModelProto, ir.Model, QuantizationTable]:
    model = net.model(output, own_spec=spec())
    graph = load_float_graph(save(model, folder / "quantized.onnx"))
    table = QuantizationTable.from_metadata(graph.metadata_props)
    assert table is not None
    onnx.checker.check_model(ir.to_proto(graph), full_check=True)
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in graph.graph}
    return model, graph, table


def lowered(graph: ir.Model, target: Any = "onnxruntime") -> bytes:
    return to_bytes(lower_graph(graph, "int8", target=target))


def assert_same(model: onnx.ModelProto, graph: ir.Model, *, tensorrt: bool = True) -> None:
    """The lowered graphs compute what the quantized model does."""
    expected = run(model.SerializeToString(), pixels(), optimized=False)[0]
    assert np.ptp(expected) > 0.2
    np.testing.assert_allclose(run(lowered(graph), pixels())[0], expected, atol=1e-5)
    if tensorrt:
        actual = run(lowered(graph, "tensorrt"), pixels(), optimized=False)[0]
        np.testing.assert_allclose(actual, expected, atol=2e-2)  # sums in FP16


def test_scales_and_steps_of_the_graph_are_used_as_they_are(tmp_path: Path) -> None:
    net = Quantized()
    x = net.fake("image")
    bias = net.stored(np.arange(-4, 4, dtype=np.int32) * 64, STEP * STEP, np.int32(0))
    x = net.add("Conv", x, net.stored(net.steps(8, 3, 3, 3), [STEP] * 8), bias, pads=[1] * 4)
    # Q/DQ before the Relu, with saturation: moving it behind changes nothing
    x = net.add("MaxPool", net.relu(net.fake(x, STEP)), kernel_shape=[2, 2], strides=[2, 2])
    x = net.add("Conv", x, net.stored(net.steps(8, 8, 1, 1), STEP))  # one scale for all channels
    x = net.fake(net.clip(x, 0, 3), STEP, np.uint8(128))  # the same grid as int8 with 0
    weights = net.stored(net.steps(8 * (SIDE // 2) ** 2, 5), [STEP / 8] * 5, axis=1)
    model, graph, table = taken(net, net.add("MatMul", net.add("Flatten", x), weights), tmp_path)
    assert {entry.amax for entry in table.activations.values()} == {127 * STEP}
    assert {entry.method for entry in table.activations.values()} == {FROM_GRAPH}
    assert sorted(len(entry.scales) for entry in table.weights.values()) == [5, 8, 8]
    assert_same(model, graph)
    # a ReLU is a clamp of 8-bit numbers behind the integer convolution, whose grid is the graph's
    assert operators(lowered(graph))["Clip"] == 2


def test_steps_of_minus_128_and_dead_channels_are_kept(tmp_path: Path) -> None:
    net = Quantized()
    steps = net.steps(8, 3, 3, 3)
    steps[0, 0, 0, 0], steps[3] = -128, 0
    scales = np.full(8, STEP / 4)
    scales[3] = 0  # all steps are zero, and so is what they stand for
    x = net.add("Conv", net.fake("image"), net.stored(steps, scales), pads=[1] * 4)
    x = net.add("Conv", net.fake(net.relu(x)), net.stored(net.steps(4, 8, 1, 1), STEP))
    model, graph, table = taken(net, x, tmp_path)
    assert all(scale > 0 for entry in table.weights.values() for scale in entry.scales)
    assert_same(model, graph)


def test_a_grid_from_zero_stands_for_the_activation_function_that_tools_leave_to_it(tmp_path: Path) -> None:
    net = Quantized()
    x = net.add("Conv", net.fake("image"), net.stored(net.steps(8, 3, 3, 3), STEP), pads=[1] * 4)
    x = net.fake(x, STEP / 2, np.uint8(0))  # no Relu: the grid starts at zero
    x = net.add("Conv", x, net.stored(net.steps(4, 8, 1, 1), STEP))
    model, graph, table = taken(net, net.relu(x), tmp_path)
    methods = sorted(entry.method for entry in table.activations.values())
    assert methods == [FROM_GRAPH, FROM_GRAPH_UINT8]
    assert [node.op_type for node in graph.graph] == ["Conv", "Clip", "Conv", "Relu"]
    assert_same(model, graph, tensorrt=False)
    with pytest.raises(BuildError, match=r"uint8, which TensorRT does not take.*--ranges"):
        lower_graph(graph, "int8", target="tensorrt")


def test_a_batch_norm_behind_a_quantized_layer_goes_into_its_scales(tmp_path: Path) -> None:
    net = Quantized()
    x = net.add("Conv", net.fake("image"), net.stored(net.steps(4, 3, 3, 3), STEP), pads=[1] * 4)
    constants = [
        net.constant(values) for values in ([1.0, -2.0, 0.5, 0.0], [0.25] * 4, [0.5] * 4, [0.25] * 4)
    ]
    x = net.add("BatchNormalization", x, *constants, epsilon=0.0)
    x = net.fake(net.relu(x), STEP)
    weights = net.stored(net.steps(4, 4, 1, 1), STEP)
    model, graph, table = taken(net, net.add("Conv", x, weights), tmp_path)
    assert [node.op_type for node in graph.graph] == ["Conv", "Relu", "Conv"]
    scales = next(entry.scales for name, entry in table.weights.items() if name.endswith("folded"))
    assert scales == (2 * STEP, 4 * STEP, STEP, 1.0)
    assert_same(model, graph)


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"zero_point": np.int8(3)}, "zero points that are not zero.*--ranges"),
        ({"zero_point": np.uint16(0)}, "UINT16"),
        ({"scale": 0.0}, "the scale 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_in_words(grid: dict[str, Any], words: str, tmp_path: Path) -> None:
    net = Quantized(opset=21)
    x = net.add("Conv", net.fake("image", **grid), net.stored(net.steps(4, 3, 1, 1), STEP))
    with pytest.raises(BuildError, match=words):
        load_float_graph(save(net.model(x), tmp_path / "model.onnx"))


def test_what_only_ranges_are_wanted_of_is_taken_as_far_as_it_goes(tmp_path: Path) -> None:
    net = Quantized()
    by_channel = [net.constant(np.array([1, 3, 2]) * STEP), net.constant(np.zeros(3, np.uint8))]
    x = net.add("QuantizeLinear", "image", *by_channel, axis=1)
    x = net.add("DequantizeLinear", x, *by_channel, axis=1)
    steps = net.random.integers(0, 256, (4, 3, 1, 1), np.uint8)
    steps.flat[:2] = 0, 255
    x = net.add("Conv", x, net.stored(steps, STEP, np.uint8(60)), name="first")
    wide, dead = net.fake(x, 2 * STEP), net.fake(net.relu(x), 0.0)
    x = net.add("Concat", wide, net.fake(net.relu(x), STEP, np.uint8(0)), axis=1, name="joined")
    x = net.add("Add", net.add("Conv", x, net.stored(net.steps(4, 8, 1, 1), STEP)), dead)
    graph = load_graph(save(net.model(x), tmp_path / "model.onnx"))
    table = take_quantization(graph, exact=False)
    assert table is not None
    amax = {name: entry.amax / STEP for name, entry in table.activations.items()}
    assert amax.pop("image") == 3 * 255
    assert table.activations["joined"].low < 0
    assert amax["joined"] == max(amax.values()) == 255
    assert len(table.weights) == 1  # the first layer's would have to be cut
    notes = "; ".join(table.notes)
    for words in ("image: a scale for each channel", "first: weights with zero points", "a scale of zero"):
        assert words in notes


def test_tensors_that_are_quantized_alike_and_joined_have_the_same_grid_then(tmp_path: Path) -> None:
    net = Quantized()
    x = net.fake("image")
    ways = [
        net.fake(net.relu(net.add("Conv", x, net.stored(net.steps(4, 3, 1, 1), STEP))), STEP)
        for _ in range(2)
    ]
    x = net.add("Concat", *ways, axis=1, name="joined")
    model, graph, table = taken(
        net, net.relu(net.add("Conv", x, net.stored(net.steps(4, 8, 1, 1), STEP))), tmp_path
    )
    assert table.activations["joined"].amax == 127 * STEP
    assert_same(model, graph)
    assert operators(lowered(graph, "tensorrt"))["QuantizeLinear"] == 4


def test_a_scale_that_changes_between_quantizing_and_dequantizing_is_refused(tmp_path: Path) -> None:
    net = Quantized()
    zero = net.constant(_ZERO)
    x = net.add("QuantizeLinear", "image", net.constant(np.float32(STEP)), zero)
    x = net.add("DequantizeLinear", x, net.constant(np.float32(STEP / 2)), zero)
    x = net.add("Conv", x, net.stored(net.steps(4, 3, 1, 1), STEP))
    with pytest.raises(BuildError, match="another scale or zero point than before"):
        load_float_graph(save(net.model(x), tmp_path / "model.onnx"))


def test_weights_behind_a_transpose(tmp_path: Path) -> None:
    """As torch writes a dense layer; and with scales along its inputs."""
    for axis, size in ((0, 5), (1, 3 * SIDE**2)):
        net = Quantized()
        stored = net.stored(net.steps(5, 3 * SIDE**2), [STEP / 4] * size, axis=axis)
        x = net.fake(net.add("Flatten", "image"))
        net.add("MatMul", x, net.add("Transpose", stored, perm=[1, 0]), name="scores")
        path = save(net.model("scores", own_spec=spec()), tmp_path / "model.onnx")
        if axis == 0:
            assert_same(onnx.load(path), load_float_graph(path))
            continue
        with pytest.raises(BuildError, match=r"a scale along axis 0.*expected axis 1"):
            load_float_graph(path)
        table = take_quantization(load_graph(path), exact=False)
        assert table is not None
        assert (len(table.activations), len(table.weights)) == (1, 0)


def test_operators_on_integers_are_refused_in_words(tmp_path: Path) -> None:
    net = Net(("N", 3, 8, 8))
    quantized = net.split("DynamicQuantizeLinear", "image", names=["q", "scale", "zero"])
    output = net.add("ConvInteger", quantized[0], net.constant(np.ones((4, 3, 1, 1), np.int8)), quantized[2])
    path = save(net.model(output), tmp_path / "model.onnx")
    with pytest.raises(BuildError, match=r"ConvInteger, DynamicQuantizeLinear.*QuantFormat.QDQ"):
        load_float_graph(path)


class FakeQuantize(nn.Module):
    """Symmetric int8 without -128, as most write it."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale), requires_grad=False)
        self.register_buffer("zero", torch.tensor(0, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        zero = self.get_buffer("zero")
        result: Tensor = torch.fake_quantize_per_tensor_affine(x, self.scale, zero, -127, 127)
        return result


class QuantizedConv(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        scale = self.weight.detach().abs().amax((1, 2, 3)) / 127
        zero = torch.zeros(len(scale), dtype=torch.int32)
        weight = torch.fake_quantize_per_channel_affine(self.weight, scale, zero, 0, -127, 127)
        result: Tensor = self._conv_forward(input, weight, self.bias)
        return result


@pytest.mark.parametrize("batch", [1, None])
def test_a_module_that_was_trained_with_fake_quantization(batch: int | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        FakeQuantize(0.02), QuantizedConv(3, 8, 3, padding=1), nn.ReLU6(),
        FakeQuantize(0.01), QuantizedConv(8, 8, 3, groups=8), nn.ReLU6(),
        FakeQuantize(0.01), QuantizedConv(8, 8, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    result = export_onnx(module, classifier(), tmp_path / "qat.onnx", batch=batch)
    assert result.node_counts["QuantizeLinear"] == 6
    graph = load_float_graph(result.path)
    table = QuantizationTable.from_metadata(graph.metadata_props)
    assert table is not None
    amax = {round(entry.amax / 127, 6) for entry in table.activations.values()}
    assert amax == {0.02, 0.01}
    assert len(table.weights) == 3
    values = inputs((1, 3, SIZE, SIZE))
    expected = run(result.path.read_bytes(), values, optimized=False)
    # what differs are numbers between two steps that other sums round the other way
    for target, optimized in (("onnxruntime", True), ("tensorrt", False)):
        assert sqnr_db(expected, run(lowered(graph, target), values, optimized=optimized)) > 35
    assert sqnr_db(expected, run(to_bytes(graph), values)) > 25
    built = build(result.path, tmp_path / "built.onnx", precision="int8")
    assert built.candidates[-1].convolutions.get("int8") == 2  # the last one's output is not quantized
    assert any("not measured: give frames" in warning for warning in built.warnings)


def test_a_float_model_is_left_alone(tmp_path: Path) -> None:
    net = Net()
    graph = load_float_graph(save(net.model(net.conv("image", 3, 4)), tmp_path / "model.onnx"))
    before = to_bytes(graph)
    assert take_quantization(graph) is None
    assert to_bytes(graph) == before


def test_an_output_that_is_quantized_comes_out_in_float_under_its_name(tmp_path: Path) -> None:
    net = Quantized()
    x = net.add("Conv", net.fake("image"), net.stored(net.steps(4, 3, 1, 1), STEP))
    model, graph, _ = taken(net, net.fake(x, name="scores"), tmp_path)
    assert [value.name for value in graph.graph.outputs] == ["scores"]
    np.testing.assert_allclose(
        run(to_bytes(graph), pixels())[0], run(model.SerializeToString(), pixels())[0], atol=STEP
    )
