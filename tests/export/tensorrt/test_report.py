"""Totals against numbers that were worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from edgecnn.export.tensorrt import MODULES, CompileResult, JetsonModule, Layer, Tensor, estimate, make_report
from edgecnn.export.tensorrt.listing import Kind
from edgecnn.export.tensorrt.operations import Operation, count_operations
from tests.export.tensorrt.graphs import FIRST_MACS, SECOND_MACS, Graph, two_convolutions

Compiled = Callable[..., CompileResult]


def test_fp16_by_hand(compiled: Compiled) -> None:
    report = compiled(two_convolutions("fp16")).report
    assert report.macs == FIRST_MACS + SECOND_MACS == 425_984
    # input 8, between 16, output 32 channels of 16x16, two bytes each; the input is first put in another
    # order of its axes and the output put back, each by a kernel that reads and writes it
    pixels = 16 * 16 * 2
    moved = report.reformats
    assert (moved, report.casts, report.kernels) == (2, 0, 4)
    assert report.activation_bytes == pixels * (8 + 8 + 8 + 16 + 16 + 32 + 32 + 32)
    convolutions = [item for item in report.layers if item.layer.kind == "convolution"]
    assert [(item.read_bytes, item.written_bytes) for item in convolutions] == [
        (pixels * 8, pixels * 16),
        (pixels * 16, pixels * 32),
    ]
    assert [item.macs for item in convolutions] == [FIRST_MACS, SECOND_MACS]
    weights = (16 * 8 * 9 + 32 * 16) * 2
    assert weights <= report.constant_bytes <= weights + 64
    assert report.warnings == ()


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        ("int8", "int8", 1.0),
        ("int8", "fp16", FIRST_MACS / (FIRST_MACS + SECOND_MACS)),
        ("fp16", "int8", SECOND_MACS / (FIRST_MACS + SECOND_MACS)),
        ("fp16", "fp16", 0.0),
    ],
)
def test_share_of_int8(compiled: Compiled, first: Any, second: Any, share: float) -> None:
    report = compiled(two_convolutions(first, second)).report
    assert report.convolutions.get("int8", 0.0) == share
    assert report.totals()["convolutions_int8"] == share
    assert sum(report.convolutions.values()) == 1.0
    assert report.warnings == ()  # the graph asks for this


def test_the_report_is_json(compiled: Compiled) -> None:
    report = compiled(two_convolutions("int8")).report
    raw = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert len(raw["layers"]) == len(report.layers)
    assert raw["kernels"] == report.kernels


def test_operations_of_each_kind() -> None:
    graph = Graph(np.float32)
    tensor = graph.node("Conv", ["x", graph.weights("w0", 6, 2, 3, 3)], "depthwise", group=3, pads=[1] * 4)
    tensor = graph.node("ConvTranspose", [tensor, graph.weights("w1", 6, 5, 2, 2)], "up", strides=[2, 2])
    tensor = graph.node("GlobalAveragePool", [tensor], "mean")
    tensor = graph.node("Flatten", [tensor], "flat")
    tensor = graph.node("Gemm", [tensor, graph.weights("w2", 7, 5)], "gemm", transB=1)
    tensor = graph.node("MatMul", [tensor, graph.weights("w3", 7, 3)], "matmul")
    model = onnx.load_from_string(graph.model(["N", 6, 4, 4], tensor, TensorProto.FLOAT))
    model.graph.node[0].name = ""
    found = {item.node: item.macs for item in count_operations(model, batch=2)}
    assert found == {
        "node_of_depthwise": 2 * 6 * 4 * 4 * 2 * 9,  # as TensorRT names a node without a name
        "up_node": 2 * 6 * 4 * 4 * 5 * 4,
        "gemm_node": 2 * 5 * 7,
        "matmul_node": 2 * 7 * 3,
    }


def test_what_the_graph_asks_for() -> None:
    model = onnx.load_from_string(two_convolutions("int8", "fp16"))
    assert [item.asked for item in count_operations(model)] == ["int8", "fp16"]
    assert [item.asked for item in count_operations(onnx.load_from_string(two_convolutions()))] == [
        "fp32"
    ] * 2


def made(name: str, dtype: str, *nodes: str, kind: Kind = "convolution", weights: str | None = None) -> Layer:
    def tensor(suffix: str, dtype: str) -> Tensor:
        return Tensor(name=name + suffix, dims=(1, 100), dtype=dtype)

    return Layer(
        name=name,
        type="t",
        kind=kind,
        nodes=nodes,
        inputs=(tensor(".in", dtype),),
        constants=(tensor(".w", weights or dtype),),
        outputs=(tensor(".out", dtype),),
    )


def operation(node: str, asked: str = "int8", macs: int = 100) -> Operation:
    return Operation(node=node, kind="convolution", macs=macs, asked=asked)


def test_a_convolution_in_a_wider_type_than_asked_is_named() -> None:
    layers = [made("a_0", "int8", "a"), made("b_1", "fp16", "b")]
    report = make_report(layers, [operation("a"), operation("b", macs=300)], precision="int8")
    assert dict(report.convolutions) == {"fp16": 0.75, "int8": 0.25}
    assert report.warnings == ("the graph asks for int8 and the compiler took fp16 for b",)


def test_int8_data_with_float_weights_is_not_int8() -> None:
    assert made("a", "int8", weights="fp16").precision != "int8"


def test_a_convolution_that_the_graph_keeps_in_float_is_named_when_int8_was_asked() -> None:
    layers = [made(f"n{index}", "fp16", f"n{index}") for index in range(7)]
    operations = [operation(f"n{index}", "fp16") for index in range(7)]
    assert make_report(layers, operations).warnings == ()
    (warning,) = make_report(layers, operations, precision="int8").warnings
    assert warning.startswith("the graph itself does not ask for int8 in n0 (fp16), n1 (fp16)")
    assert warning.endswith("and 2 more")


def test_a_nodes_operations_belong_to_one_layer() -> None:
    layers = [
        made("q_0", "fp16", "a", "a.quantize", kind="pointwise"),  # requantizes for `a`
        made("b_1", "int8", "b", "a"),  # names `a` too, and is `b`
        made("a_2", "int8", "a"),
    ]
    report = make_report(layers, [operation("a"), operation("b", macs=7)])
    assert [item.macs for item in report.layers] == [0, 7, 100]


def test_a_convolution_inside_something_else_is_not_lost() -> None:
    report = make_report([made("fused", "fp16", "a", kind="other")], [operation("a", "fp16")])
    assert dict(report.convolutions) == {"fp16": 1.0}


def test_a_convolution_that_no_layer_names() -> None:
    report = make_report([made("a", "int8", "a")], [operation("a"), operation("lost")])
    assert dict(report.convolutions) == {"int8": 0.5, "unknown": 0.5}
    assert report.warnings == ("no compiled layer says that it came from lost: their type is unknown",)


def test_no_convolutions() -> None:
    report = make_report([], [])
    assert dict(report.convolutions) == {}
    assert report.totals()["kernels"] == 0


def test_a_tensor_that_is_read_twice_counts_once() -> None:
    twice = Tensor(name="x", dims=(10,), dtype="fp32")
    layer = Layer(
        name="l", type="t", kind="pointwise", nodes=(), inputs=(twice, twice), constants=(), outputs=()
    )
    assert make_report([layer], []).activation_bytes == 40


def test_the_roofline_by_hand() -> None:
    module = JetsonModule(name="m", int8_tops=2.0, fp16_tflops=1.0, bandwidth_gb_s=1.0, source="a test")
    layers = [made("a", "int8", "a"), made("b", "fp16", "b", kind="gemm")]
    report = make_report(layers, [operation("a", macs=10_000_000), operation("b", macs=1)])
    result = estimate(report, module)
    # a: 2·10⁷ operations at 2·10¹² a second take 0.01 ms; b: 600 bytes at 10⁹ a second take 0.0006 ms
    assert [(item.name, item.bound) for item in result.layers] == [("a", "compute"), ("b", "memory")]
    assert result.compute_ms == pytest.approx(0.01)
    assert result.memory_ms == pytest.approx(0.0006)
    assert result.latency_ms == pytest.approx(0.0106)
    assert result.to_dict(layers=1)["estimate"] is True
    assert len(result.to_dict(layers=1)["longest"]) == 1


def test_the_modules() -> None:
    for module in MODULES.values():
        assert module.source
        assert module.operations_per_s("int8") > module.operations_per_s("fp16")
        assert module.operations_per_s("fp16") == 2 * module.operations_per_s("fp32")
