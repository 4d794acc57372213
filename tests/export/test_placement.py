from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgecnn.export.placement import (
    activations,
    clamp_after,
    clip_bounds,
    is_anchor,
    non_negative_values,
    result_of,
    scale_source,
    weight_axis,
    weight_of,
)
from tests.networks import Net, graph_of


def nodes(graph: ir.Model) -> dict[str, ir.Node]:
    """Output name → node."""
    return {str(value.name): node for node in graph.graph for value in node.outputs}


def values(graph: ir.Model) -> dict[str, ir.Value]:
    return {str(value.name): value for node in graph.graph for value in node.outputs}


def test_activations_are_float_tensors_behind_their_clamps(tmp_path: Path) -> None:
    net = Net()
    net.add("Conv", "image", net.weights(4, 3, 1, 1), name="c")
    net.add("Relu", "c", name="r")
    net.add("Shape", "r", name="shape")
    net.add("Flatten", "r", name="y")
    graph = graph_of(net.model("y", "shape"), tmp_path)
    assert [value.name for value in activations(graph.graph)] == ["image", "r", "y"]


@pytest.mark.parametrize("operator", ["Conv", "Gemm", "MatMul", "Add"])
def test_a_clamp_belongs_to_anchors_and_sums(operator: str, tmp_path: Path) -> None:
    net = Net(("N", 4, 1, 1)) if operator == "Conv" else Net(("N", 4))
    operand = net.weights(4, 4, 1, 1) if operator == "Conv" else net.weights(4, 4)
    net.add(operator, "image", "image" if operator == "Add" else operand, name="a")
    net.add("Relu", "a", name="r")
    net.add("Neg", "r", name="y")
    graph = graph_of(net.model("y"), tmp_path)
    assert clamp_after(values(graph)["a"]) is nodes(graph)["r"]
    assert result_of(nodes(graph)["a"]) is values(graph)["r"]


def test_a_clamp_behind_anything_else_is_by_itself(tmp_path: Path) -> None:
    net = Net()
    net.add("Neg", "image", name="n")
    net.add("Relu", "n", name="y")
    graph = graph_of(net.model("y"), tmp_path)
    assert clamp_after(values(graph)["n"]) is None


def test_a_clamp_does_not_hide_an_output_or_a_tensor_that_others_read(tmp_path: Path) -> None:
    net = Net()
    net.add("Conv", "image", net.weights(4, 3, 1, 1), name="out")
    net.add("Relu", "out", name="r1")
    net.add("Conv", "image", net.weights(4, 3, 1, 1), name="twice")
    net.add("Relu", "twice", name="r2")
    net.add("Neg", "twice", name="n")
    graph = graph_of(net.model("out", "r1", "r2", "n"), tmp_path)
    assert clamp_after(values(graph)["out"]) is None
    assert clamp_after(values(graph)["twice"]) is None


@pytest.mark.parametrize(
    ("low", "high", "bounds", "joins"),
    [
        (0.0, 6.0, (0.0, 6.0), True),
        (0.0, None, (0.0, math.inf), True),
        (-1.0, 1.0, (-1.0, 1.0), False),
        (0.5, 1.0, (0.5, 1.0), False),
        (None, 6.0, (-math.inf, 6.0), False),
    ],
)
def test_bounds_of_a_clip(
    low: float | None, high: float | None, bounds: tuple[float, float], joins: bool, tmp_path: Path
) -> None:
    net = Net()
    net.add("Conv", "image", net.weights(4, 3, 1, 1), name="c")
    clipped = net.clip("c", low, high)
    graph = graph_of(net.model(net.add("Neg", clipped)), tmp_path)
    assert clip_bounds(nodes(graph)[clipped]) == bounds
    assert (clamp_after(values(graph)["c"]) is not None) == joins


def test_computed_bounds_are_not_known(tmp_path: Path) -> None:
    net = Net()
    net.add("Conv", "image", net.weights(4, 3, 1, 1), name="c")
    highest = net.add("ReduceMax", "image", keepdims=0)
    net.add("Clip", "c", net.constant(0.0), highest, name="y")
    graph = graph_of(net.model("y"), tmp_path)
    assert clip_bounds(nodes(graph)["y"]) is None
    assert clamp_after(values(graph)["c"]) is None


def test_what_cannot_be_negative(tmp_path: Path) -> None:
    net = Net(("N", 4, 4, 4))
    relu = net.relu("image")
    yes = [
        relu,
        net.clip("image", 0.5, 2),
        net.add("Sigmoid", "image"),
        net.add("MaxPool", relu, kernel_shape=[2, 2]),
        net.add("Add", relu, relu),
        net.add("Mul", relu, net.add("HardSigmoid", "image")),
        net.add("Concat", relu, net.add("Softmax", "image"), axis=1),
        net.add("GlobalAveragePool", net.add("Transpose", relu, perm=[0, 1, 3, 2])),
        net.add("Resize", relu, "", net.constant([1.0, 1, 2, 2]), mode="nearest"),
    ]
    no = [
        net.clip("image", -1, 1),
        net.clip("image", None, 1),
        net.add("Add", relu, "image"),
        net.add("Mul", relu, "image"),
        net.add("Sub", relu, relu),
        net.add("Concat", relu, "image", axis=1),
        net.add("LeakyRelu", "image"),
        net.add("Resize", relu, "", net.constant([1.0, 1, 2, 2]), mode="cubic"),  # overshoots
        net.add("MaxPool", "image", kernel_shape=[2, 2]),
    ]
    graph = graph_of(net.model(*yes, *no), tmp_path)
    found = {value.name for value in non_negative_values(graph.graph)}
    assert found >= set(yes)
    assert not found & set(no)


def test_the_scale_comes_from_before_the_movers(tmp_path: Path) -> None:
    net = Net()
    net.relu(net.conv("image", 3, 8))
    net.add("Add", "image", "image", name="s")
    net.add("MaxPool", "s", kernel_shape=[2, 2], name="m")
    net.add("Reshape", "m", net.constant(np.array([0, -1])), name="f")
    parts = net.split("Split", "f", net.constant(np.array([47, 100])), names=["a", "b"], axis=1)
    net.add("Neg", "b", name="n")
    graph = graph_of(net.model(*parts, "n"), tmp_path)
    found = values(graph)
    assert all(scale_source(found[name]) is found["s"] for name in ("s", "m", "f", "a", "b"))
    assert scale_source(found["n"]) is found["n"]


def test_a_long_chain_of_sums_is_looked_at_once(tmp_path: Path) -> None:
    # each sum reads the one before twice: 2⁶⁰ paths
    net = Net()
    x = net.relu("image")
    for _ in range(60):
        x = net.add("Add", x, x)
    graph = graph_of(net.model(x), tmp_path)
    assert values(graph)[x] in non_negative_values(graph.graph)


def test_the_output_channels_axis(tmp_path: Path) -> None:
    net = Net()
    net.add("Conv", "image", net.weights(4, 3, 1, 1), name="conv")
    net.add("ConvTranspose", "conv", net.weights(4, 6, 2, 2), name="transposed")
    flat = net.pooled("transposed")
    net.add("Gemm", flat, net.weights(6, 5), name="gemm")
    net.add("Gemm", flat, net.weights(5, 6), name="gemm_b", transB=1)
    net.add("MatMul", flat, net.weights(6, 5), name="matmul")
    graph = graph_of(net.model("gemm", "gemm_b", "matmul"), tmp_path)
    axes = {
        name: weight_axis(nodes(graph)[name]) for name in ("conv", "transposed", "gemm", "gemm_b", "matmul")
    }
    assert axes == {"conv": 0, "transposed": 1, "gemm": 1, "gemm_b": 0, "matmul": 1}


def test_what_is_an_anchor(tmp_path: Path) -> None:
    net = Net(("N", 4))
    one = net.weights(4, 4)
    anchors = [
        net.add("Gemm", "image", one),
        net.add("Gemm", "image", one, net.constant([1.0])),
        net.add("Gemm", "image", one, net.constant([1.0, 2, 3, 4])),
        net.add("Gemm", "image", one, net.constant([[1.0, 2, 3, 4]])),
        net.add("MatMul", "image", one),
    ]
    others = [
        net.add("Gemm", "image", one, "image"),  # computed bias
        net.add("Gemm", "image", one, net.constant([[1.0], [2], [3], [4]])),  # a bias for each row
        net.add("MatMul", "image", net.constant(np.ones((2, 4, 4)))),
        net.add("MatMul", "image", net.constant(np.ones(4))),
        net.add("MatMul", one, net.add("Transpose", "image", perm=[1, 0])),
        net.add("Add", "image", one),
    ]
    graph = graph_of(net.model(*anchors, *others), tmp_path)
    found = nodes(graph)
    assert all(is_anchor(found[name]) for name in anchors)
    assert not any(is_anchor(found[name]) for name in others)


def test_half_precision_weights_are_none(tmp_path: Path) -> None:
    net = Net(dtype=10)
    net.add("Conv", "image", net.constant(np.ones((4, 3, 1, 1), np.float16)), name="y")
    graph = graph_of(net.model("y"), tmp_path)
    assert weight_of(nodes(graph)["y"]) is None
