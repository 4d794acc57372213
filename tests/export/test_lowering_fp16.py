"""FP16: which tensors become half precision, and what stays as it was."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from edgecnn.errors import BuildError
from edgecnn.export.graph import to_bytes
from edgecnn.export.lowering import lower_graph
from tests.networks import Net, graph_of, inputs, lowered_bytes, run, skip_unless_readable, sqnr_db

HALF, SINGLE = ir.DataType.FLOAT16, ir.DataType.FLOAT


def dtypes(model: onnx.ModelProto, folder: Path) -> dict[str, ir.DataType | None]:
    """Lower, and give the element type of every tensor that a node makes, and of constants that are used."""
    lowered = lower_graph(graph_of(model, folder), "fp16")
    values = [value for node in lowered.graph for value in (*node.inputs, *node.outputs) if value is not None]
    return {str(value.name): value.dtype for value in values}


def residual(net: Net) -> Sequence[str]:
    x = net.relu(net.conv("image", 3, 8))
    return [net.pooled(net.relu(net.add("Add", x, net.conv(x, 8, 8))))]


def classifier(net: Net) -> Sequence[str]:
    x = net.pooled(net.clip(net.conv("image", 3, 8), 0, 6))
    return [net.add("Softmax", net.add("Gemm", x, net.weights(8, 5), net.constant([0.5] * 5)))]


def mean(net: Net) -> Sequence[str]:
    return [net.add("ReduceMean", net.conv("image", 3, 8), net.constant(np.array([2, 3])))]


def upsampled(net: Net) -> Sequence[str]:
    x = net.relu(net.conv("image", 3, 8))
    return [net.pooled(net.add("Resize", x, "", net.constant([1.0, 1, 2, 2]), mode="linear"))]


def with_casts(net: Net) -> Sequence[str]:
    x = net.conv("image", 3, 8)
    mask = net.add("Cast", net.add("Greater", x, net.constant(0.0)), to=TensorProto.FLOAT)
    return [net.pooled(net.add("Mul", x, net.add("Cast", mask, to=TensorProto.FLOAT)))]


def filled_shape(net: Net) -> Sequence[str]:
    # the operator's own attribute says float32
    half = helper.make_tensor("half", TensorProto.FLOAT, [1], [0.5])
    filled = net.add("ConstantOfShape", net.add("Shape", net.conv("image", 3, 8)), value=half)
    return [net.pooled(net.add("Mul", net.conv("image", 3, 8), filled))]


def indices(net: Net) -> Sequence[str]:
    x = net.pooled(net.conv("image", 3, 8))
    values, positions = net.split("TopK", x, net.constant(np.array([3])), names=["values", "positions"])
    return [values, positions, net.add("ArgMax", x, axis=1)]


def several_outputs(net: Net) -> Sequence[str]:
    x = net.relu(net.conv("image", 3, 8))
    return [x, net.pooled(x), net.add("Exp", net.pooled(x))]


def transposed(net: Net) -> Sequence[str]:
    x = net.add(
        "ConvTranspose", net.conv("image", 3, 8), net.constant(np.full((8, 4, 2, 2), 0.1)), strides=[2, 2]
    )
    return [net.add("InstanceNormalization", x, net.constant(np.ones(4)), net.constant(np.zeros(4)))]


def selection(net: Net) -> Sequence[str]:
    # NonMaxSuppression takes float32 alone
    x = net.relu(net.conv("image", 3, 8, 1))
    boxes = net.add("Reshape", net.add("Slice", x, *(net.constant(np.array([n])) for n in (0, 4, 1))),
                    net.constant(np.array([1, 64, 4])))  # fmt: skip
    scores = net.add("Reshape", x, net.constant(np.array([1, 1, 512])))
    scores = net.add("Slice", scores, *(net.constant(np.array([n])) for n in (0, 64, 2)))
    return [net.add("NonMaxSuppression", boxes, scores, net.constant(np.array([5])))]


NETWORKS = (
    residual, classifier, mean, upsampled, with_casts, filled_shape, indices, several_outputs, transposed,
    selection,
)  # fmt: skip


@pytest.mark.parametrize("opset", [13, 17, 19, 22, 23])
@pytest.mark.parametrize("build", [residual, classifier, upsampled])
def test_opsets(build: Callable[[Net], Sequence[str]], opset: int, tmp_path: Path) -> None:
    skip_unless_readable(opset)
    net = Net(opset=opset)
    graph = graph_of(net.model(*build(net)), tmp_path)
    values = inputs()
    assert sqnr_db(run(to_bytes(graph), values), run(lowered_bytes(graph, "fp16"), values)) > 50


@pytest.mark.parametrize("build", NETWORKS)
def test_numbers_stay_close_and_the_borders_float32(
    build: Callable[[Net], Sequence[str]], tmp_path: Path
) -> None:
    net = Net()
    graph = graph_of(net.model(*build(net)), tmp_path)
    content = lowered_bytes(graph, "fp16")
    values = inputs()
    reference = run(to_bytes(graph), values)
    for optimized in (False, True):
        results = run(content, values, optimized=optimized)
        for expected, result in zip(reference, results, strict=True):
            assert result.dtype == expected.dtype
            assert result.shape == expected.shape
        # 11 bits of mantissa give 66 dB a rounding; a handful of roundings in a row is left with 50
        assert sqnr_db(reference, results) > 50
    before, after = onnx.load(io.BytesIO(to_bytes(graph))), onnx.load(io.BytesIO(content))
    assert [value.name for value in after.graph.input] == [value.name for value in before.graph.input]
    assert [value.name for value in after.graph.output] == [value.name for value in before.graph.output]


def test_weights_and_activations_are_half_precision(tmp_path: Path) -> None:
    net = Net()
    net.add("Conv", "image", net.weights(4, 3, 1, 1, name="w"), net.constant([0.5] * 4, "b"), name="c")
    net.add("Relu", "c", name="r")
    net.add("Flatten", "r", name="y")
    found = dtypes(net.model("y"), tmp_path)
    assert [found[name] for name in ("w.float16", "b.float16", "c", "r")] == [HALF] * 4
    assert found["image"] == SINGLE
    assert found["y"] == SINGLE


def test_the_file_halves(tmp_path: Path) -> None:
    net = Net()
    graph = graph_of(net.model(net.pooled(net.conv("image", 3, 512))), tmp_path)
    assert len(lowered_bytes(graph, "fp16")) < 0.55 * len(to_bytes(graph))


@pytest.mark.parametrize("operator", ["Softmax", "Exp", "LogSoftmax"])
def test_what_half_precision_ruins_stays_single(operator: str, tmp_path: Path) -> None:
    net = Net()
    net.add(operator, net.pooled(net.conv("image", 3, 8)), name="s")
    net.add("Relu", "s", name="y")
    found = dtypes(net.model("y"), tmp_path)
    assert found["s"] == SINGLE
    assert found["s.float16"] == HALF  # and is cast for who reads it


def test_a_mean_over_many_large_numbers_does_not_overflow(tmp_path: Path) -> None:
    net = Net()
    big = net.add("Mul", net.add("Abs", "image"), net.constant(20000.0))  # up to 40000, 64 of them
    net.add("ReduceMean", big, net.constant(np.array([2, 3])), name="y")
    graph = graph_of(net.model("y"), tmp_path)
    values = inputs()
    (expected,) = run(to_bytes(graph), values)
    (result,) = run(lowered_bytes(graph, "fp16"), values)
    np.testing.assert_allclose(result, expected, rtol=2e-3)


def test_constants_beyond_65504_are_kept(tmp_path: Path) -> None:
    net = Net()
    net.add("Mul", "image", net.constant(1e6, "large"), name="up")
    net.add("Div", "up", net.constant(1e6, "large_too"), name="y")
    graph = graph_of(net.model("y"), tmp_path)
    values = inputs()
    (result,) = run(lowered_bytes(graph, "fp16"), values)
    # What is 1e6 · x is cast to FP16 nowhere: between the two it would be infinite.
    np.testing.assert_allclose(result, values, rtol=1e-3)


def test_a_clip_to_more_than_65504_is_no_obstacle(tmp_path: Path) -> None:
    net = Net()
    net.add("Clip", net.conv("image", 3, 8), net.constant(0.0), net.constant(1e9), name="r")
    net.add("Flatten", "r", name="y")
    found = dtypes(net.model("y"), tmp_path)
    assert found["r"] == HALF


def test_scales_of_a_resize_stay_float32(tmp_path: Path) -> None:
    net = Net()
    scales = net.constant([1.0, 1, 2, 2], "scales")
    net.add("Resize", net.conv("image", 3, 8), "", scales, mode="nearest", name="up")
    net.add("Flatten", "up", name="y")
    found = dtypes(net.model("y"), tmp_path)
    assert found["scales"] == SINGLE
    assert found["up"] == HALF


def test_one_cast_serves_all_readers(tmp_path: Path) -> None:
    net = Net()
    x = net.relu(net.conv("image", 3, 8))
    outputs = [net.add("Exp", x), net.add("Log", net.add("Exp", x))]
    lowered = lower_graph(graph_of(net.model(*outputs), tmp_path), "fp16")
    casts = [
        node.inputs[0].name for node in lowered.graph if node.op_type == "Cast" and node.inputs[0] is not None
    ]
    assert len(casts) == len(set(casts))


def test_branches_are_refused_in_words(tmp_path: Path) -> None:
    net = Net()
    net.add("Flatten", net.conv("image", 3, 8), name="flat")
    one = helper.make_graph(
        [helper.make_node("Relu", ["flat"], ["a"])], "a", [], [helper.make_empty_tensor_value_info("a")]
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["flat"], ["b"])], "b", [], [helper.make_empty_tensor_value_info("b")]
    )
    total = net.add("ReduceSum", "flat", keepdims=0)
    net.add("If", net.add("Greater", total, net.constant(0.0)), then_branch=one, else_branch=other, name="y")
    with pytest.raises(BuildError, match="If with a graph inside"):
        lower_graph(graph_of(net.model("y"), tmp_path), "fp16")


def test_a_model_that_is_half_already_is_left_so(tmp_path: Path) -> None:
    net = Net(dtype=TensorProto.FLOAT16)
    weight = net.constant(np.full((4, 3, 1, 1), 0.5, np.float16))
    net.add("Flatten", net.add("Conv", "image", weight), name="y")
    graph = graph_of(net.model("y"), tmp_path)
    values = inputs().astype(np.float16)
    (result,) = run(lowered_bytes(graph, "fp16"), values)
    assert result.dtype == np.float16
    np.testing.assert_array_equal(result, run(to_bytes(graph), values)[0])
