"""INT8 for ONNX Runtime: small networks, one peculiarity each, and numbers that are exact by construction."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgecnn.errors import BuildError, ModelFormatError
from edgecnn.export.graph import to_bytes
from edgecnn.export.lowering import lower_graph
from edgecnn.export.measure import compiled
from edgecnn.metadata import QUANTIZATION_KEY
from edgecnn.quantization import QuantizationTable, WeightScales
from edgecnn.spec import Layout
from tests.networks import (
    SIDE,
    Net,
    calibrated,
    graph_of,
    inputs,
    lowered_bytes,
    operators,
    run,
    skip_unless_readable,
    sqnr_db,
    with_table,
)


@dataclass(frozen=True)
class Case:
    """A network, and what ONNX Runtime should make of it.

    Attributes:
        build: adds nodes to a Net and gives the outputs.
        convolutions: precision → count, as it runs.
        runs: operators that must be among those that run, with their count.
        at_least_db: SQNR against the float model.
    """

    build: Callable[[Net], Sequence[str]]
    convolutions: dict[str, int]
    runs: dict[str, int] = field(default_factory=dict)
    at_least_db: float = 25.0  # 8 bits give 35 dB and more where a network is this shallow
    shape: tuple[int | str, ...] = ("N", 3, SIDE, SIDE)
    layout: Layout = "NCHW"
    opset: int = 19


CASES: dict[str, Case] = {}


def case(
    convolutions: dict[str, int], runs: dict[str, int] | None = None, **options: object
) -> Callable[[Callable[[Net], Sequence[str]]], Callable[[Net], Sequence[str]]]:
    def register(build: Callable[[Net], Sequence[str]]) -> Callable[[Net], Sequence[str]]:
        CASES[build.__name__] = Case(build, convolutions, runs or {}, **options)  # type: ignore[arg-type]
        return build

    return register


# Convolutions of every kind


@case({"int8": 1}, {"QLinearGlobalAveragePool": 1})
def conv_relu(net: Net) -> Sequence[str]:
    return [net.pooled(net.relu(net.conv("image", 3, 8)))]


@case({"int8": 2})
def clips_from_zero_join_the_convolution(net: Net) -> Sequence[str]:
    x = net.clip(net.conv("image", 3, 8), 0, 6)
    return [net.pooled(net.clip(net.conv(x, 8, 8), 0, 0.5))]


@case({"int8": 2}, {"Clip": 2})
def other_clips_stay(net: Net) -> Sequence[str]:
    x = net.clip(net.conv("image", 3, 8), 0.25, 2)  # zero point 0 would let values below 0.25 through
    return [net.pooled(net.clip(net.conv(x, 8, 8), -0.5, 0.5))]


@case({"int8": 1}, {"Clip": 1})
def a_clip_with_a_computed_bound_stays(net: Net) -> Sequence[str]:
    x = net.conv("image", 3, 8)
    highest = net.add("ReduceMax", net.add("Mul", "image", net.constant(0.1)), keepdims=0)
    return [net.pooled(net.add("Clip", x, net.constant(0.0), highest))]


@case({"int8": 5})
def depthwise_grouped_pointwise_dilated_strided(net: Net) -> Sequence[str]:
    x = net.relu(net.conv("image", 3, 8))
    x = net.relu(net.conv(x, 8, 8, groups=8))
    x = net.relu(net.conv(x, 8, 12, groups=4))
    x = net.conv(x, 12, 8, 1, bias=False)
    x = net.conv(x, 8, 8, pads=[2, 1, 2, 1], dilations=[2, 1], strides=[2, 1])
    return [net.pooled(x)]


@case({"int8": 3})
def one_and_three_dimensions(net: Net) -> Sequence[str]:
    x = net.add("Reshape", net.relu(net.conv("image", 3, 8)), net.constant(np.array([0, 8, 64])))
    x = net.relu(net.add("Conv", x, net.weights(4, 8, 3), net.constant([0.5] * 4), pads=[1, 1]))  # (N, 4, 64)
    x = net.add("Reshape", x, net.constant(np.array([0, 4, 4, 4, 4])))
    x = net.add("Conv", x, net.weights(4, 4, 3, 3, 3), auto_pad="SAME_UPPER")
    return [net.add("Flatten", net.add("GlobalAveragePool", x))]


@case({"int8": 1, "fp32": 1})
def a_convolution_straight_to_the_output(net: Net) -> Sequence[str]:
    return [net.conv(net.relu(net.conv("image", 3, 8)), 8, 4)]


@case({"int8": 1, "fp32": 1})
def a_clamped_convolution_straight_to_the_output(net: Net) -> Sequence[str]:
    return [net.relu(net.conv(net.relu(net.conv("image", 3, 8)), 8, 4))]


@case({"int8": 1, "fp32": 1})
def an_output_that_is_read_inside_too(net: Net) -> Sequence[str]:
    x = net.relu(net.conv("image", 3, 8))  # an output: in float
    return [x, net.pooled(net.relu(net.conv(x, 8, 8)))]


@case({"int8": 3}, {"QLinearAdd": 1})
def an_input_that_several_layers_read(net: Net) -> Sequence[str]:
    a, b = net.conv("image", 3, 8), net.conv("image", 3, 8, 1)
    c = net.conv(net.add("Mul", "image", net.constant(0.5)), 3, 8)
    return [net.pooled(net.add("Concat", net.add("Add", a, b), c, axis=1))]


@case({"int8": 2})
def convolutions_that_share_weights(net: Net) -> Sequence[str]:
    weight, bias = net.weights(3, 3, 3, 3), net.constant([0.1, -0.2, 0.3])
    x = net.add("Conv", "image", weight, bias, pads=[1, 1, 1, 1])
    return [net.pooled(net.add("Conv", net.relu(x), weight, bias, pads=[1, 1, 1, 1]))]


@case({"int8": 1, "fp32": 1})
def a_computed_bias_keeps_a_convolution_in_float(net: Net) -> Sequence[str]:
    x = net.relu(net.conv("image", 3, 8))
    shift = net.add("ReduceMean", "image", net.constant(np.array([0, 1, 2])), keepdims=0)  # (W,)
    return [net.pooled(net.add("Conv", x, net.weights(8, 8, 1, 1), shift))]


@case({"int8": 1})
def dead_channels(net: Net) -> Sequence[str]:
    weights = net.random.standard_normal((8, 3, 3, 3)).astype(np.float32)
    weights[2] = 0
    weights[5] = 0
    bias = np.array([0.5, 0, 1, -1, 0.25, -0.5, 0, 0.1])
    x = net.add("Conv", "image", net.constant(weights), net.constant(bias), pads=[1] * 4)
    return [net.pooled(x)]


@case({"int8": 1})
def tiny_weights_with_a_large_bias(net: Net) -> Sequence[str]:
    # amax / 127 of channel 1 would put its bias at 10¹⁴ steps, far beyond int32
    weights = net.random.standard_normal((4, 3, 3, 3)).astype(np.float32)
    weights[1] *= 1e-14
    weights[2] *= 1e-38
    x = net.add("Conv", "image", net.constant(weights), net.constant([0.5, 3.0, -1.0, 0.0]), pads=[1] * 4)
    return [net.pooled(x)]


@case({"int8": 2})
def constant_activations(net: Net) -> Sequence[str]:
    zeros = net.relu(net.add("Conv", "image", net.constant(np.zeros((4, 3, 1, 1))), net.constant([-1.0] * 4)))
    threes = net.add("Conv", zeros, net.constant(np.zeros((4, 4, 1, 1))), net.constant([3.0, -2, 1, 0]))
    return [net.pooled(threes)]


# Sums, products, concatenations


@case({"int8": 3}, {"QLinearAdd": 1})
def residual_with_a_clamp(net: Net) -> Sequence[str]:
    x = net.relu(net.conv("image", 3, 8))
    y = net.conv(net.relu(net.conv(x, 8, 8)), 8, 8)
    return [net.pooled(net.relu(net.add("Add", x, y)))]


@case({"int8": 3}, {"QLinearAdd": 2})
def residual_without_a_clamp(net: Net) -> Sequence[str]:
    x = net.conv("image", 3, 8)
    x = net.add("Add", x, net.conv(x, 8, 8))
    return [net.pooled(net.add("Add", x, net.conv(x, 8, 8)))]


@case({"int8": 1}, {"QLinearAdd": 1, "QLinearMul": 1})
def operands_that_are_one_tensor(net: Net) -> Sequence[str]:
    x = net.conv("image", 3, 8)
    return [net.pooled(net.add("Mul", net.add("Add", x, x), x))]


@case({"int8": 3}, {"QLinearConcat": 1})
def concatenation_of_different_zero_points(net: Net) -> Sequence[str]:
    x = net.relu(net.conv("image", 3, 8))
    y = net.conv("image", 3, 8)
    return [net.pooled(net.conv(net.add("Concat", x, y, axis=1), 16, 8))]


@case({"int8": 4}, {"QLinearMul": 1, "QLinearSigmoid": 1})
def squeeze_and_excitation(net: Net) -> Sequence[str]:
    x = net.relu(net.conv("image", 3, 8))
    gate = net.relu(net.conv(net.add("GlobalAveragePool", x), 8, 4, 1))
    gate = net.add("Sigmoid", net.conv(gate, 4, 8, 1))
    return [net.pooled(net.conv(net.add("Mul", x, gate), 8, 8))]


@case({"int8": 2}, {"QLinearSigmoid": 2, "QLinearMul": 2})
def silu(net: Net) -> Sequence[str]:
    x = net.conv("image", 3, 8)
    x = net.add("Mul", x, net.add("Sigmoid", x))
    x = net.conv(x, 8, 8)
    return [net.pooled(net.add("Mul", x, net.add("Sigmoid", x)))]


@case({"int8": 2})
def hard_swish(net: Net) -> Sequence[str]:
    x = net.add("HardSwish", net.conv("image", 3, 8))
    return [net.pooled(net.conv(x, 8, 8))]


@case({"int8": 2}, {"QLinearLeakyRelu": 1, "QLinearAveragePool": 1})
def leaky_relu_and_average_pool(net: Net) -> Sequence[str]:
    x = net.add("LeakyRelu", net.conv("image", 3, 8), alpha=0.1)
    x = net.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    return [net.pooled(net.conv(x, 8, 8))]


@case({"int8": 2})
def a_relu_that_is_not_the_only_reader(net: Net) -> Sequence[str]:
    x = net.conv("image", 3, 8)
    return [net.pooled(net.conv(net.add("Concat", net.relu(x), x, axis=1), 16, 8))]


@case({"int8": 1}, {"Softmax": 1})
def a_softmax_at_the_end(net: Net) -> Sequence[str]:
    x = net.pooled(net.relu(net.conv("image", 3, 8)))
    return [net.add("Softmax", net.add("Gemm", x, net.weights(8, 5), net.constant([0.5, 0, -0.5, 1, 0])))]


@case({"int8": 1}, {"LayerNormalization": 1})
def normalization_stays_in_float(net: Net) -> Sequence[str]:
    x = net.pooled(net.conv("image", 3, 8))
    x = net.add("LayerNormalization", x, net.constant(np.ones(8)), net.constant(np.zeros(8)))
    return [net.add("Gemm", x, net.weights(8, 5))]


# What only moves numbers


@case({"int8": 2}, {"DequantizeLinear": 0})
def movers_keep_eight_bits(net: Net) -> Sequence[str]:
    x = net.add("MaxPool", net.conv("image", 3, 8), kernel_shape=[2, 2], strides=[2, 2])  # (N, 8, 4, 4)
    x = net.add("Transpose", x, perm=[0, 1, 3, 2])
    x = net.add("Slice", x, *(net.constant(np.array([n])) for n in (1, 4, 2)))  # rows 1 … 3
    x = net.add("Reshape", x, net.constant(np.array([0, 8, 4, 3])))
    x = net.add("Unsqueeze", x, net.constant(np.array([1])))
    x = net.add("Squeeze", x, net.constant(np.array([1])))
    x = net.add("Flatten", net.conv(x, 8, 4))
    return [net.add("Gemm", x, net.weights(48, 5))]


@case({"int8": 3}, {"Split": 1})
def split_with_several_outputs(net: Net) -> Sequence[str]:
    x = net.relu(net.conv("image", 3, 8))
    a, b = net.split("Split", x, net.constant(np.array([2, 6])), names=["a", "b"], axis=1)
    return [net.pooled(net.add("Concat", net.conv(a, 2, 4), net.conv(b, 6, 4), axis=1))]


@case({"int8": 2}, {"Resize": 1, "QLinearConcat": 1})
def nearest_upsampling_in_a_pyramid(net: Net) -> Sequence[str]:
    x = net.relu(net.conv("image", 3, 8))
    small = net.relu(net.conv(x, 8, 8, strides=[2, 2]))
    up = net.add("Resize", small, "", net.constant([1.0, 1, 2, 2]), mode="nearest")
    return [net.pooled(net.add("Concat", x, up, axis=1))]


@case({"int8": 2}, {"Resize": 1})
def linear_upsampling_in_between(net: Net) -> Sequence[str]:
    x = net.relu(net.conv("image", 3, 8))
    up = net.add("Resize", x, "", net.constant([1.0, 1, 2, 2]), mode="linear")
    return [net.pooled(net.conv(up, 8, 8))]


@case({"int8": 2})
def pixel_shuffle(net: Net) -> Sequence[str]:
    x = net.add("DepthToSpace", net.conv("image", 3, 8), blocksize=2)
    x = net.conv(x, 2, 4)
    return [net.pooled(net.add("SpaceToDepth", x, blocksize=2))]


@case({"int8": 2}, {"ConvTranspose": 1})
def transposed_convolution(net: Net) -> Sequence[str]:
    x = net.relu(net.conv("image", 3, 8))
    weight = net.constant(net.random.standard_normal((8, 6, 2, 2)) / 5)
    x = net.relu(net.add("ConvTranspose", x, weight, net.constant([0.1] * 6), strides=[2, 2]))
    return [net.pooled(net.conv(x, 6, 4))]


# Matrices


@case({"int8": 1}, {"QGemm": 3})
def gemm_of_every_kind(net: Net) -> Sequence[str]:
    x = net.pooled(net.relu(net.conv("image", 3, 8)))
    x = net.relu(net.add("Gemm", x, net.weights(6, 8), net.constant(np.full(6, 0.25)), transB=1))
    x = net.relu(net.add("Gemm", x, net.weights(6, 5), net.constant(np.full((1, 5), 0.5))))
    return [net.add("Gemm", x, net.weights(5, 4))]


@case({"int8": 1}, {"QGemm": 2})
def gemm_with_factors(net: Net) -> Sequence[str]:
    x = net.pooled(net.relu(net.conv("image", 3, 8)))
    x = net.add("Gemm", x, net.weights(8, 6), net.constant([0.5] * 6), alpha=0.25, beta=3.0)
    return [net.add("Gemm", x, net.weights(6, 5), net.constant([1.0]), alpha=-2.0)]


@case({"int8": 1}, {"Gemm": 1}, shape=(2, 3, SIDE, SIDE))
def gemm_whose_bias_differs_from_row_to_row(net: Net) -> Sequence[str]:
    x = net.pooled(net.relu(net.conv("image", 3, 8)))
    return [net.add("Gemm", x, net.weights(8, 2), net.constant([[1.0], [2.0]]))]


@case({"int8": 1}, {"MatMulIntegerToFloat": 1})
def matmul_with_a_matrix(net: Net) -> Sequence[str]:
    x = net.add("Reshape", net.relu(net.conv("image", 3, 8)), net.constant(np.array([0, 8, 64])))
    return [net.add("Add", net.add("MatMul", x, net.weights(64, 5)), net.constant([0.5] * 5))]


@case({"int8": 1}, {"MatMul": 1})
def matmul_with_a_stack_of_matrices(net: Net) -> Sequence[str]:
    # ONNX Runtime fails on it with a scale a channel
    x = net.add("Reshape", net.relu(net.conv("image", 3, 8)), net.constant(np.array([0, 8, 8, 8])))
    return [net.add("MatMul", x, net.constant(net.random.standard_normal((8, 8, 5))))]


@case({"int8": 1}, {"MatMul": 1})
def matmul_with_a_vector(net: Net) -> Sequence[str]:
    x = net.pooled(net.relu(net.conv("image", 3, 8)))
    return [net.add("MatMul", x, net.constant(net.random.standard_normal(8)))]


@case({"int8": 2}, {"MatMulIntegerToFloat": 1})
def matmul_of_two_activations(net: Net) -> Sequence[str]:
    # nothing is quantized for its sake; both are there in 8 bits, and ONNX Runtime takes them
    a = net.add("Reshape", net.conv("image", 3, 8), net.constant(np.array([0, 8, 64])))
    b = net.add("Reshape", net.conv("image", 3, 8), net.constant(np.array([0, 64, 8])))
    return [net.add("MatMul", a, b)]


@case({"int8": 1}, {"QGemm": 1, "Gemm": 1})
def two_layers_that_share_a_matrix_along_different_axes(net: Net) -> Sequence[str]:
    weight = net.weights(8, 8)
    x = net.pooled(net.relu(net.conv("image", 3, 8)))
    x = net.add("Gemm", x, weight, net.constant([0.5] * 8), transB=1)
    return [net.add("Gemm", x, weight, net.constant([0.25] * 8))]


# Shapes, opsets, names


@case({"int8": 2}, shape=(4, 3, SIDE, SIDE))
def fixed_batch(net: Net) -> Sequence[str]:
    x = net.relu(net.conv("image", 3, 8))
    x = net.add("Transpose", x, perm=[1, 0, 2, 3])  # the batch is no longer in front
    x = net.add("Transpose", net.relu(x), perm=[1, 0, 2, 3])
    return [net.pooled(net.conv(x, 8, 8))]


@case({"int8": 1}, shape=("N", SIDE, SIDE, 3), layout="NHWC")
def channels_last(net: Net) -> Sequence[str]:
    return [net.pooled(net.relu(net.conv(net.add("Transpose", "image", perm=[0, 3, 1, 2]), 3, 8)))]


def _every_common_operator(net: Net) -> Sequence[str]:
    x = net.relu(net.conv("image", 3, 8))
    x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    y = net.add("Concat", net.conv(x, 8, 8), net.relu(net.conv(x, 8, 8)), axis=1)
    y = net.relu(net.add("Add", net.conv(y, 16, 8), x))
    return [net.add("Gemm", net.pooled(y), net.weights(8, 5), net.constant([0.5] * 5))]


for _opset in (13, 17, 18, 19, 21, 22, 23):
    CASES[f"opset_{_opset}"] = Case(
        _every_common_operator,
        {"int8": 4},
        {"QLinearAdd": 1, "QLinearConcat": 1, "QGemm": 1, "QuantizeLinear": 1},
        opset=_opset,
    )


@case({"int8": 1})
def names_that_are_taken(net: Net) -> Sequence[str]:
    x = net.add("Conv", "image", net.weights(4, 3, 1, 1, name="w"), net.constant([1.0] * 4, "b"), name="act")
    gain = net.constant([[[2.0]], [[3.0]], [[0.5]], [[1.0]]], "act.scale")
    shift = net.constant([[[1.0]], [[0.0]], [[0.5]], [[1.0]]], "w.q")
    x = net.add("Add", net.add("Mul", x, gain), shift)
    return [net.pooled(net.add("Max", x, net.constant(0.25, "w.scale")))]


@case({"int8": 2, "fp32": 3})
def boxes_are_decoded_from_floats(net: Net) -> Sequence[str]:
    x = net.add("Relu", net.add("Conv", "image", net.weights(8, 3, 3, 3)))
    sizes = net.add("Exp", net.add("Conv", x, net.weights(4, 8, 1, 1)))
    context = net.add("Softmax", net.add("Conv", x, net.weights(4, 8, 1, 1)), axis=1)
    y = net.add("Conv", net.add("Relu", net.add("Conv", x, net.weights(4, 8, 1, 1))), net.weights(4, 4, 1, 1))
    return [sizes, context, y]


@pytest.mark.parametrize("name", CASES)
def test_network(name: str, tmp_path: Path) -> None:
    entry = CASES[name]
    skip_unless_readable(entry.opset)
    net = Net(entry.shape, opset=entry.opset)
    graph = graph_of(net.model(*entry.build(net)), tmp_path)
    original = to_bytes(graph)
    content = lowered_bytes(calibrated(graph, layout=entry.layout))
    shape = [1 if isinstance(side, str) else side for side in entry.shape]
    result = compiled(content)
    assert result.convolutions == entry.convolutions
    for operator, count in entry.runs.items():
        assert result.operators.get(operator, 0) == count, dict(result.operators)
    values = inputs(shape)
    reference, plain, fused = (
        run(original, values),
        run(content, values, optimized=False),
        run(content, values),
    )
    # ONNX Runtime's kernels sum in integers and round once, the plain graph in float32: some numbers that
    # lie on a half fall on the other step, by 1 of 255. That is 50 dB and more; a wrong fusion is 20 or less.
    assert sqnr_db(plain, fused) > 40
    assert sqnr_db(reference, plain) > entry.at_least_db


@pytest.mark.parametrize("batch", [1, 3])
def test_a_free_batch_takes_any_number(batch: int, tmp_path: Path) -> None:
    net = Net()
    graph = graph_of(net.model(*_every_common_operator(net)), tmp_path)
    content = lowered_bytes(calibrated(graph))
    values = inputs((3, 3, SIDE, SIDE))[:batch]
    (together,) = run(content, values)
    assert together.shape == (batch, 5)
    alone = np.concatenate([run(content, value[None])[0] for value in values])
    np.testing.assert_array_equal(together, alone)


def test_what_the_table_lacks_stays_in_float(tmp_path: Path) -> None:
    net = Net()
    net.add("Conv", "image", net.weights(4, 3, 1, 1), name="c")
    net.add("MaxPool", "c", kernel_shape=[2, 2], name="m")
    net.add("Conv", "m", net.weights(4, 4, 1, 1), name="d")
    net.add("Conv", "d", net.weights(4, 4, 1, 1), name="e")
    graph = calibrated(graph_of(net.model(net.pooled("e")), tmp_path))
    original = to_bytes(graph)
    table = QuantizationTable.from_metadata(graph.metadata_props)
    assert table is not None
    known = {name: entry for name, entry in table.activations.items() if name != "c"}
    content = lowered_bytes(with_table(graph, known, table.weights))
    # The first has no range to give, and the second, behind a pooling, none to take.
    assert compiled(content).convolutions == {"fp32": 2, "int8": 1}
    assert sqnr_db(run(original, inputs()), run(content, inputs())) > 30


def test_without_a_table_it_is_refused(tmp_path: Path) -> None:
    net = Net()
    graph = graph_of(net.model(net.conv("image", 3, 8)), tmp_path)
    with pytest.raises(BuildError, match=r"INT8 needs a calibrated model.*edgecnn calibrate"):
        lower_graph(graph, "int8")


def test_a_table_of_another_model_is_refused(tmp_path: Path) -> None:
    net = Net()
    ours = calibrated(graph_of(net.model(net.pooled(net.conv("image", 3, 8))), tmp_path))
    other = Net(seed=1)
    theirs = graph_of(other.model(other.pooled(other.relu(other.conv("image", 3, 8)))), tmp_path)
    theirs.metadata_props.update(ours.metadata_props)
    with pytest.raises(ModelFormatError, match="belongs to another model"):
        lower_graph(theirs, "int8")


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    def network(channels: int) -> Net:
        net = Net()
        net.add("Conv", "image", net.weights(channels, 3, 1, 1, name="w"), name="c")
        net.add("Flatten", "c", name="y")
        return net

    ours = calibrated(graph_of(network(4).model("y"), tmp_path))
    theirs = graph_of(network(5).model("y"), tmp_path)
    theirs.metadata_props.update(ours.metadata_props)
    with pytest.raises(ModelFormatError, match="such as w"):
        lower_graph(theirs, "int8")


def test_the_float_model_is_not_touched(tmp_path: Path) -> None:
    net = Net()
    graph = calibrated(graph_of(net.model(*_every_common_operator(net)), tmp_path))
    before = to_bytes(graph)
    lower_graph(graph, "int8")
    assert to_bytes(graph) == before


def test_lowering_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    net = Net()
    graph = calibrated(graph_of(net.model(*_every_common_operator(net)), tmp_path))
    assert lowered_bytes(graph) == lowered_bytes(graph)


def test_shared_weights_are_stored_once(tmp_path: Path) -> None:
    net = Net()
    x = convolutions_that_share_weights(net)
    content = lowered_bytes(calibrated(graph_of(net.model(*x), tmp_path)))
    assert len(content) < 6000
    assert operators(content)["Conv"] == 2


def test_layers_that_the_table_keeps_in_float(tmp_path: Path) -> None:
    net = Net()
    x = net.relu(net.conv("image", 3, 8))
    # An integer convolution reads x as well, so x is there in 8 bits only.
    uneven = net.random.standard_normal((8, 8, 3, 3))
    uneven[0] *= 1000  # with one scale for all channels, the others would be nothing
    y = net.clip(net.add("Conv", x, net.constant(uneven), pads=[1] * 4, name="kept"), 0, 6)
    y = net.conv(net.relu(net.conv(y, 8, 8)), 8, 8)
    # What only such a layer reads needs no 8 bits.
    z = net.relu(net.conv(net.relu(net.conv(x, 8, 8)), 8, 8))
    net.add("Conv", z, net.weights(8, 8, 1, 1), name="kept_too")
    graph = calibrated(graph_of(net.model(net.pooled(y), net.pooled("kept_too")), tmp_path))
    table = QuantizationTable.from_metadata(graph.metadata_props)
    assert table is not None
    kept = {"kept": "a test", "kept_too": "a test"}
    graph.metadata_props[QUANTIZATION_KEY] = dataclasses.replace(table, kept_in_float=kept).to_json()
    content = lowered_bytes(graph)
    assert dict(compiled(content).convolutions) == {"fp32": 3, "int8": 4}
    # ONNX Runtime's optimizer leaves their weights alone.
    assert sqnr_db(run(content, inputs(), optimized=False), run(content, inputs())) > 35
    unknown = dataclasses.replace(table, kept_in_float={"nowhere": "a test"})
    graph.metadata_props[QUANTIZATION_KEY] = unknown.to_json()
    with pytest.raises(ModelFormatError, match="not in the graph as they were, such as nowhere"):
        lower_graph(graph, "int8")


def test_a_layer_in_float_keeps_what_its_steps_make_up_for(tmp_path: Path) -> None:
    """Only a layer in float reads the first one, so that is in float here, though not by the table."""
    net = Net()
    x = net.add("Conv", "image", net.weights(8, 3, 3, 3, name="w"), net.weights(8, name="b"), name="first")
    net.add("Conv", net.relu(x), net.weights(8, 8, 1, 1), name="kept")
    graph = calibrated(graph_of(net.model(net.pooled("kept")), tmp_path))
    table = QuantizationTable.from_metadata(graph.metadata_props)
    assert table is not None
    values = graph.graph.initializers["w"].const_value.numpy()  # type: ignore[union-attr]
    nearest = table.weights["w"]
    steps = np.rint(values / np.reshape(nearest.scales, (8, 1, 1, 1)))
    moved = np.clip(steps + net.random.integers(-1, 2, steps.shape), -127, 127).astype(np.int8)
    chosen = WeightScales.with_steps(0, nearest.scales, values, moved)
    bias = tuple(float(number) for number in net.random.standard_normal(8).astype(np.float32))
    table = dataclasses.replace(
        table, weights={**table.weights, "w": chosen}, biases={"b": bias}, kept_in_float={"kept": "a test"}
    )
    graph.metadata_props[QUANTIZATION_KEY] = table.to_json()
    found = run(lowered_bytes(graph), inputs())
    graph.graph.initializers["w"].const_value = ir.tensor(chosen.on_grid(values).astype(np.float32))
    graph.graph.initializers["b"].const_value = ir.tensor(np.array(bias, np.float32))
    assert sqnr_db(run(to_bytes(graph), inputs()), found) > 35
