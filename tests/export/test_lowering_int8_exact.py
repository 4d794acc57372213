"""INT8 against integer arithmetic written out in NumPy.

All scales are planted powers of two, so nothing but the steps themselves is ever rounded: ONNX Runtime's
fused integer kernels, the graph as written, and the reference below must agree to the bit.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from edgecnn.backends.onnxruntime import create_session
from edgecnn.export.measure import compiled
from edgecnn.export.placement import weight_axis, weight_of
from edgecnn.quantization import ActivationRange, WeightScales
from tests.networks import SIDE, Net, graph_of, inputs, lowered_bytes, run, with_table

Ints = NDArray[np.int64]
WEIGHT_SCALE = 2.0**-6


def plant(graph: ir.Model, scales: dict[str, float]) -> bytes:
    """Lower with these activation scales, and 2**-6 for every channel of the weights.

    A non-negative tensor's grid has 255 steps up to amax, another one's 127: amax follows from the scale.
    """
    activations = {
        name: ActivationRange(
            amax=scale * (255 if name.startswith("relu") else 127), low=-1, high=1, method="planted"
        )
        for name, scale in scales.items()
    }
    weights = {}
    for node in graph.graph:
        weight = weight_of(node)
        if weight is not None and weight.const_value is not None:
            channels = weight.const_value.numpy().shape[weight_axis(node)]
            weights[str(weight.name)] = WeightScales(
                axis=weight_axis(node), scales=(WEIGHT_SCALE,) * channels
            )
    return lowered_bytes(with_table(graph, activations, weights))


def quantize(values: NDArray[Any], scale: float, *, signed: bool = True) -> Ints:
    """To steps: int8 as ONNX saturates it, or uint8 with zero point 0."""
    low, high = (-128, 127) if signed else (0, 255)
    return np.clip(np.rint(values.astype(np.float64) / scale), low, high).astype(np.int64)


def quantize_weights(values: NDArray[Any]) -> Ints:
    return np.clip(np.rint(values.astype(np.float64) / WEIGHT_SCALE), -127, 127).astype(np.int64)


def convolve(x: Ints, weight: Ints, *, pad: int, stride: int = 1, groups: int = 1) -> Ints:
    """(N, C, H, W) and (M, C / groups, k, k) → (N, M, H', W'), one product after the other."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    outputs, per_group, kernel = weight.shape[:3]
    side = (x.shape[2] - kernel) // stride + 1
    result = np.zeros((len(x), outputs, side, side), np.int64)
    for channel in range(outputs):
        first = channel // (outputs // groups) * per_group
        for row in range(side):
            for column in range(side):
                patch = x[:, first : first + per_group, row * stride :, column * stride :][
                    :, :, :kernel, :kernel
                ]
                result[:, channel, row, column] = (patch * weight[channel]).sum(axis=(1, 2, 3))
    return result


def constants(content: bytes) -> dict[str, NDArray[Any]]:
    graph = onnx.load(io.BytesIO(content)).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def check(content: bytes, values: NDArray[np.float32], expected: NDArray[Any]) -> None:
    for optimized in (False, True):
        (result,) = run(content, values, optimized=optimized)
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(("groups", "stride", "kernel"), [(1, 1, 3), (1, 2, 3), (4, 1, 3), (2, 1, 1)])
def test_convolution(groups: int, stride: int, kernel: int, tmp_path: Path) -> None:
    net = Net(("N", 4, SIDE, SIDE))
    weight, bias = (
        net.random.uniform(-2.2, 2.2, (8, 4 // groups, kernel, kernel)),  # some beyond 127 · 2**-6
        net.random.uniform(-2, 2, 8),
    )
    net.add(
        "Conv", "image", net.constant(weight), net.constant(bias), name="c", group=groups,
        strides=[stride] * 2, pads=[kernel // 2] * 4,
    )  # fmt: skip
    net.add("Flatten", "c", name="y")
    content = plant(graph_of(net.model("y"), tmp_path), {"image": 2.0**-5, "c": 2.0**-3})
    assert compiled(content).convolutions == {"int8": 1}

    values = inputs((2, 4, SIDE, SIDE)) * 2.2  # beyond 127 · 2**-5: both ends saturate
    x, w = quantize(values, 2.0**-5), quantize_weights(weight.astype(np.float32))
    assert x.min() == -128
    assert x.max() == 127
    b = np.rint(bias.astype(np.float32).astype(np.float64) / (2.0**-5 * WEIGHT_SCALE)).astype(np.int64)
    total = convolve(x, w, pad=kernel // 2, stride=stride, groups=groups) + b[:, None, None]
    steps = quantize(total * (2.0**-5 * WEIGHT_SCALE), 2.0**-3)
    check(content, values, (steps * 2.0**-3).reshape(2, -1))


def test_zero_point_128_is_the_tables_int8_moved_up(tmp_path: Path) -> None:
    net = Net()
    net.add("Conv", "image", net.weights(4, 3, 1, 1), name="c")
    net.add("Flatten", "c", name="y")
    content = plant(graph_of(net.model("y"), tmp_path), {"image": 4.0 / 127, "c": 2.0**-3})
    found = constants(content)
    assert found["image.scale"] == np.float32(4.0 / 127)
    assert found["image.zero_point"] == 128
    assert found["image.zero_point"].dtype == np.uint8


def test_a_clamp_is_dropped_and_saturates_all_the_same(tmp_path: Path) -> None:
    net = Net(("N", 4, SIDE, SIDE))
    weight = net.random.uniform(-1.9, 1.9, (8, 4, 1, 1))
    net.add("Conv", "image", net.constant(weight), name="c")
    net.add("Relu", "c", name="relu")
    net.add("Flatten", "relu", name="y")
    content = plant(graph_of(net.model("y"), tmp_path), {"image": 2.0**-5, "relu": 2.0**-6})
    assert [node.op_type for node in onnx.load(io.BytesIO(content)).graph.node].count("Relu") == 0

    values = inputs((1, 4, SIDE, SIDE))
    total = convolve(quantize(values, 2.0**-5), quantize_weights(weight.astype(np.float32)), pad=0)
    steps = quantize(total * (2.0**-5 * WEIGHT_SCALE), 2.0**-6, signed=False)
    assert steps.min() == 0
    assert steps.max() == 255
    check(content, values, (steps * 2.0**-6).reshape(1, -1))


def test_add_of_signed_and_non_negative(tmp_path: Path) -> None:
    net = Net(("N", 4, SIDE, SIDE))
    first, second = net.random.uniform(-1.9, 1.9, (2, 4, 4, 1, 1))
    net.add("Conv", "image", net.constant(first), name="a")
    net.add("Conv", "image", net.constant(second), name="b")
    net.add("Relu", "b", name="relu_b")
    net.add("Add", "a", "relu_b", name="s")
    net.add("Relu", "s", name="relu_s")
    net.add("Flatten", "relu_s", name="y")
    scales = {"image": 2.0**-5, "a": 2.0**-4, "relu_b": 2.0**-5, "relu_s": 2.0**-4}
    content = plant(graph_of(net.model("y"), tmp_path), scales)
    assert compiled(content).operators["QLinearAdd"] == 1

    values = inputs((1, 4, SIDE, SIDE))
    x = quantize(values, 2.0**-5)
    product = 2.0**-5 * WEIGHT_SCALE
    a = quantize(convolve(x, quantize_weights(first.astype(np.float32)), pad=0) * product, 2.0**-4)
    b = quantize(
        convolve(x, quantize_weights(second.astype(np.float32)), pad=0) * product, 2.0**-5, signed=False
    )
    total = quantize(a * 2.0**-4 + b * 2.0**-5, 2.0**-4, signed=False)
    check(content, values, (total * 2.0**-4).reshape(1, -1))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 4.0), (-2.0, 1.0)])
def test_gemm(transposed: bool, alpha: float, beta: float, tmp_path: Path) -> None:
    net = Net(("N", 16))
    weight, bias = net.random.uniform(-1.9, 1.9, (16, 5)), net.random.uniform(-2, 2, 5)
    operand = net.constant(weight.T.copy() if transposed else weight)
    net.add(
        "Gemm", "image", operand, net.constant(bias), name="y", transB=int(transposed), alpha=alpha, beta=beta
    )
    content = plant(graph_of(net.model("y"), tmp_path), {"image": 2.0**-5})
    assert compiled(content).operators == {"QGemm": 1, "QuantizeLinear": 1}

    values = inputs((3, 16))
    x, w = quantize(values, 2.0**-5), quantize_weights(weight.astype(np.float32))
    step = 2.0**-5 * WEIGHT_SCALE
    b = np.rint(bias.astype(np.float32).astype(np.float64) * beta / (step * abs(alpha)))
    check(content, values, alpha * step * (x @ w) + b * step * abs(alpha))


def test_concatenation_and_movers_pass_steps_on(tmp_path: Path) -> None:
    net = Net(("N", 4, SIDE, SIDE))
    weight = net.random.uniform(-1.9, 1.9, (4, 4, 1, 1))
    net.add("Conv", "image", net.constant(weight), name="c")
    net.add("MaxPool", "c", name="m", kernel_shape=[2, 2], strides=[2, 2])
    net.add("Transpose", "m", name="t", perm=[0, 1, 3, 2])
    net.add("Conv", "t", net.constant(np.eye(4)[:, :, None, None]), name="d")
    net.add("Flatten", "d", name="y")
    content = plant(graph_of(net.model("y"), tmp_path), {"image": 2.0**-5, "c": 2.0**-4, "d": 2.0**-4})
    found = constants(content)
    assert found["m.scale"] == found["t.scale"] == found["c.scale"] == 2.0**-4

    values = inputs((1, 4, SIDE, SIDE))
    c = quantize(
        convolve(quantize(values, 2.0**-5), quantize_weights(weight.astype(np.float32)), pad=0) * 2.0**-11,
        2.0**-4,
    )
    m = c.reshape(1, 4, 4, 2, 4, 2).max(axis=(3, 5)).transpose(0, 1, 3, 2)
    check(content, values, (m * 2.0**-4).reshape(1, -1))  # the identity in steps of 2**-6 is exact


def test_what_computes_in_float_reads_the_float_tensor(tmp_path: Path) -> None:
    net = Net()
    net.add("Conv", "image", net.weights(4, 3, 1, 1), name="c")
    net.add("Flatten", "c", name="flat")
    net.add(
        "ReduceMax", "image", net.constant(np.array([2, 3])), name="top", keepdims=0
    )  # reads it as it came
    content = plant(graph_of(net.model("flat", "top"), tmp_path), {"image": 2.0**-5, "c": 2.0**-3})
    values = inputs()
    np.testing.assert_array_equal(run(content, values)[1], values.max(axis=(2, 3)))


def test_the_float_output_of_a_quantized_tensor_is_not_rounded(tmp_path: Path) -> None:
    net = Net()
    net.add("HardSwish", "image", name="h")
    net.add("Conv", "h", net.weights(4, 3, 1, 1), name="c")
    net.add("Flatten", "c", name="flat")
    content = plant(
        graph_of(net.model("flat", "h"), tmp_path), {"image": 2.0**-5, "h": 2.0**-5, "c": 2.0**-3}
    )
    values = inputs()
    expected = values * np.clip(values / 6 + 0.5, 0, 1)
    np.testing.assert_allclose(run(content, values)[1], expected, rtol=1e-6, atol=1e-7)


def test_a_clip_within_the_grid_stays(tmp_path: Path) -> None:
    # the table says 4, the clip 1: a wider range than was seen must not undo the clip
    net = Net(("N", 4, SIDE, SIDE))
    net.add("Conv", "image", net.constant(np.eye(4)[:, :, None, None]), name="c")
    net.add("Clip", "c", net.constant(0.0), net.constant(1.0), name="relu")
    net.add("Flatten", "relu", name="y")
    content = plant(graph_of(net.model("y"), tmp_path), {"image": 2.0**-5, "relu": 2.0**-6})
    values = inputs((1, 4, SIDE, SIDE))
    expected = np.clip(np.rint(values.astype(np.float64) * 32) / 32, 0, 1)
    check(content, values, expected.reshape(1, -1))


def test_a_layer_that_runs_in_float_keeps_its_weights(tmp_path: Path) -> None:
    # The network's output may not be rounded, so its last convolution cannot be an integer kernel.
    net = Net()
    net.add("Conv", "image", net.weights(4, 3, 1, 1, name="inner"), name="c")
    net.add("Conv", "c", net.weights(4, 4, 1, 1, name="last"), name="y")
    content = plant(graph_of(net.model("y"), tmp_path), {"image": 2.0**-5, "c": 2.0**-3, "y": 2.0**-3})
    assert constants(content)["last"].dtype == np.float32
    assert "inner" not in constants(content)
    assert constants(content)["inner.q"].dtype == np.int8


@pytest.mark.parametrize("clamped", [False, True])
def test_onnx_runtime_does_not_round_a_transposed_convolution_its_own_way(
    clamped: bool, tmp_path: Path
) -> None:
    # Left in float between quantized tensors, its weights would get one scale for all channels.
    net = Net(("N", 4, SIDE, SIDE))
    net.add("Conv", "image", net.constant(np.eye(4)[:, :, None, None]), name="c")
    weight = net.random.uniform(-1, 1, (4, 3, 2, 2)) * np.array([1, 0.1, 0.01])[:, None, None]
    net.add(
        "ConvTranspose", "c", net.constant(weight, "wide"), net.constant([0.5] * 3), name="t", strides=[2, 2]
    )
    last = "t"
    if clamped:
        last = net.add("Relu", "t", name="relu")
    net.add("Conv", last, net.constant(np.eye(3)[:, :, None, None]), name="d")
    net.add("Flatten", "d", name="y")
    scales = {
        "image": 2.0**-5,
        "c": 2.0**-5,
        last: 2.0**-6,
        "d": 2.0**-6,
        **({"t": 2.0**-6} if clamped else {}),
    }
    content = plant(graph_of(net.model("y"), tmp_path), scales)
    assert constants(content)["wide.scale"].shape == (3,)

    path = tmp_path / "optimized.onnx"
    create_session(content, optimized_path=path)
    graph = onnx.load(path).graph
    (node,) = [node for node in graph.node if node.op_type == "ConvTranspose"]
    (source,) = [other for other in graph.node if node.input[1] in other.output]
    assert source.op_type == "DequantizeLinear"
    assert list(source.input)[1] == "wide.scale"
