"""The graph passes, each on a graph made for it: the same numbers, and no change where it would be wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnx_ir")
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgecnn.export.passes.batch_free_reshapes import BatchFreeReshapes
from edgecnn.export.passes.fold_leading_batch_norm import FoldLeadingBatchNorm
from edgecnn.export.passes.global_average_pool import GlobalAveragePools
from edgecnn.export.passes.known_sides import KnownSides
from edgecnn.export.passes.readable_names import ReadableNames
from edgecnn.export.passes.resize_by_scales import ResizeByScales, _scale
from edgecnn.export.passes.split_batch_norms import SplitBatchNorms

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(3)


def weights(*shape: int) -> Array:
    return RNG.uniform(0.5, 1.5, shape).astype(np.float32)


def graph(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, Array],
    shape: Sequence[int | str],
    *,
    opset: int = 19,
    outputs: Sequence[str] = ("y",),
) -> ir.Model:
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "test",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )
    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto, strict_mode=True))


def run(model: ir.Model, x: Array) -> Array:
    proto = ir.serde.serialize_model(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    output: Array = session.run(None, {"x": x})[0]
    return output


def operators(model: ir.Model) -> dict[str, int]:
    return dict(Counter(node.op_type for node in model.graph))


def norm(x: str, y: str) -> onnx.NodeProto:
    return helper.make_node("BatchNormalization", [x, "gamma", "beta", "mean", "var"], [y], epsilon=1e-3)


def statistics(channels: int) -> dict[str, Array]:
    return {name: weights(channels) for name in ("gamma", "beta", "mean", "var")}


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("biased", [True, False])
def test_batch_norm_before_unpadded_convolution(groups: int, biased: bool) -> None:
    constants = {"w": weights(8, 4 // groups, 3, 3), **({"b": weights(8)} if biased else {}), **statistics(4)}
    names = ["n", "w", "b"] if biased else ["n", "w"]
    nodes = [norm("x", "n"), helper.make_node("Conv", names, ["y"], group=groups)]
    model = graph(nodes, constants, [2, 4, 6, 6])
    x = RNG.normal(size=(2, 4, 6, 6)).astype(np.float32)
    before = run(model, x)
    assert FoldLeadingBatchNorm()(model).modified
    assert operators(model) == {"Conv": 1}
    np.testing.assert_allclose(run(model, x), before, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("transposed", [0, 1])
def test_batch_norm_before_gemm(transposed: int) -> None:
    constants = {"w": weights(5, 4) if transposed else weights(4, 5), "b": weights(5), **statistics(4)}
    model = graph(
        [norm("x", "n"), helper.make_node("Gemm", ["n", "w", "b"], ["y"], transB=transposed)],
        constants,
        [3, 4],
    )
    x = RNG.normal(size=(3, 4)).astype(np.float32)
    before = run(model, x)
    assert FoldLeadingBatchNorm()(model).modified
    assert operators(model) == {"Gemm": 1}
    np.testing.assert_allclose(run(model, x), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "conv",
    [
        helper.make_node("Conv", ["n", "w"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["n", "w"], ["y"], auto_pad="SAME_UPPER"),
        helper.make_node("ConvTranspose", ["n", "w"], ["y"]),
    ],
    ids=["padded", "auto_pad", "transposed"],
)
def test_batch_norm_stays_where_folding_would_be_wrong(conv: onnx.NodeProto) -> None:
    model = graph([norm("x", "n"), conv], {"w": weights(4, 4, 3, 3), **statistics(4)}, [1, 4, 6, 6])
    assert not FoldLeadingBatchNorm()(model).modified
    assert operators(model)["BatchNormalization"] == 1


def test_batch_norm_that_is_read_twice_stays() -> None:
    nodes = [
        norm("x", "n"),
        helper.make_node("Conv", ["n", "w"], ["c"]),
        helper.make_node("Add", ["c", "n"], ["y"]),
    ]
    model = graph(nodes, {"w": weights(4, 4, 1, 1), **statistics(4)}, [1, 4, 6, 6])
    assert not FoldLeadingBatchNorm()(model).modified


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]])
@pytest.mark.parametrize("opset", [17, 19])
def test_mean_over_the_map(keep: int, axes: list[int], opset: int) -> None:
    if opset < 18:
        mean, constants = helper.make_node("ReduceMean", ["x"], ["y"], axes=axes, keepdims=keep), {}
    else:
        mean = helper.make_node("ReduceMean", ["x", "a"], ["y"], keepdims=keep)
        constants = {"a": np.array(axes)}
    model = graph([mean], constants, ["batch", 3, 5, 7], opset=opset)
    x = RNG.normal(size=(2, 3, 5, 7)).astype(np.float32)
    before = run(model, x)
    assert GlobalAveragePools()(model).modified
    assert operators(model) == ({"GlobalAveragePool": 1} if keep else {"GlobalAveragePool": 1, "Flatten": 1})
    assert model.graph.outputs[0].name == "y"
    np.testing.assert_allclose(run(model, x), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("first", "second"), [(3, 2), (2, 2), (-1, -1)])
def test_mean_of_means(first: int, second: int) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x", "a"], ["m"], keepdims=0),
        helper.make_node("ReduceMean", ["m", "b"], ["y"], keepdims=0),
    ]
    model = graph(nodes, {"a": np.array([first]), "b": np.array([second])}, [2, 3, 5, 7])
    x = RNG.normal(size=(2, 3, 5, 7)).astype(np.float32)
    before = run(model, x)
    GlobalAveragePools()(model)
    assert operators(model) == {"GlobalAveragePool": 1, "Flatten": 1}
    np.testing.assert_allclose(run(model, x), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axes", [[1, 2, 3], [3], [1], [0, 2, 3]])
def test_mean_over_other_axes_stays(axes: list[int]) -> None:
    model = graph([helper.make_node("ReduceMean", ["x", "a"], ["y"])], {"a": np.array(axes)}, [2, 3, 5, 7])
    assert not GlobalAveragePools()(model).modified


def test_average_pool_of_a_part_of_the_map_stays() -> None:
    nodes = [helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[5, 5])]
    assert not GlobalAveragePools()(graph(nodes, {}, [1, 3, 5, 7])).modified
    assert GlobalAveragePools()(graph(nodes, {}, [1, 3, 5, 5])).modified


@pytest.mark.parametrize(
    ("target", "allowzero", "expected"),
    [
        ([1, 60], 1, {"Flatten": 1}),
        ([-1, 60], 0, {"Flatten": 1}),
        ([1, 3, 20], 1, {"Reshape": 1}),
        ([1, 15, 2, 2], 0, {"Reshape": 1}),
    ],
)
def test_reshape_forgets_the_batch(target: list[int], allowzero: int, expected: dict[str, int]) -> None:
    node = helper.make_node("Reshape", ["x", "s"], ["y"], allowzero=allowzero)
    model = graph([node], {"s": np.array(target)}, [1, 3, 4, 5])
    one = RNG.normal(size=(1, 3, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(run(model, one), one.reshape(target))
    BatchFreeReshapes()(model)
    assert operators(model) == expected
    np.testing.assert_array_equal(run(model, one), one.reshape(target))

    for value in (model.graph.inputs[0], model.graph.outputs[0]):
        assert value.shape is not None
        value.shape = ir.Shape([4, *value.shape[1:]])
    four = RNG.normal(size=(4, 3, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(
        run(model, four), four.reshape(4, *np.empty((1, 60)).reshape(target).shape[1:])
    )


def test_reshape_that_mixes_images_stays() -> None:
    model = graph([helper.make_node("Reshape", ["x", "s"], ["y"])], {"s": np.array([6, 20])}, [2, 3, 4, 5])
    assert not BatchFreeReshapes()(model).modified


@pytest.mark.parametrize("mode", ["linear", "cubic", "nearest"])
@pytest.mark.parametrize("size", [(10, 14), (3, 21), (12, 9), (7, 7), (41, 29)])
def test_resize_forgets_the_batch(mode: str, size: tuple[int, int]) -> None:
    node = helper.make_node("Resize", ["x", "", "", "s"], ["y"], mode=mode)
    model = graph([node], {"s": np.array([1, 3, *size])}, [1, 3, 5, 7])
    one = RNG.normal(size=(1, 3, 5, 7)).astype(np.float32)
    before = run(model, one)
    if mode == "nearest" and size in (
        (12, 9),
        (7, 7),
        (41, 29),
    ):  # no float32 is 41 / 5 or a bit more, and exact
        assert not ResizeByScales()(model).modified
        return
    assert ResizeByScales()(model).modified
    np.testing.assert_allclose(run(model, one), before, rtol=1e-5, atol=1e-5)
    for value in (model.graph.inputs[0], model.graph.outputs[0]):
        assert value.shape is not None
        value.shape = ir.Shape([4, *value.shape[1:]])
    assert run(model, one.repeat(4, axis=0)).shape == (4, 3, *size)


def test_scale_never_loses_a_pixel() -> None:
    for old in range(1, 200):
        for new in range(1, 200):
            scale = _scale(old, new, exact=False)
            assert scale is not None
            assert int(np.float32(scale) * np.float32(old)) == int(scale * old) == new
    rounded = [
        (old, new) for old in range(1, 200) for new in range(1, 200) if _scale(old, new, exact=True) is None
    ]
    assert rounded  # such sides exist


def test_resize_that_keeps_the_aspect_ratio_stays() -> None:
    node = helper.make_node(
        "Resize", ["x", "", "", "s"], ["y"], keep_aspect_ratio_policy="not_larger", mode="linear"
    )
    assert not ResizeByScales()(graph([node], {"s": np.array([1, 3, 10, 10])}, [1, 3, 5, 7])).modified


def test_known_sides_are_answered_and_unknown_ones_asked() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "two"], ["height"]),
        helper.make_node("Gather", ["s", "zero"], ["batch"]),
        helper.make_node("Mul", ["height", "batch"], ["y"]),
    ]
    constants = {"two": np.array(2), "zero": np.array(0)}
    proto = helper.make_model(
        helper.make_graph(
            nodes, "test", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 5, 7])],
            [helper.make_tensor_value_info("y", TensorProto.INT64, [])],
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        ), opset_imports=[helper.make_opsetid("", 19)], ir_version=8,
    )  # fmt: skip
    model = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto, strict_mode=True))
    assert KnownSides()(model).modified
    assert operators(model) == {"Shape": 1, "Gather": 1, "Mul": 1}
    assert run(model, np.zeros((3, 3, 5, 7), np.float32)) == 15


def test_batch_norm_behind_a_concat_of_convolutions() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["a"]),
        helper.make_node("Conv", ["x", "w"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("Concat", ["a", "b"], ["c"], axis=1),
        norm("c", "y"),
    ]
    model = graph(nodes, {"v": weights(2, 4, 1, 1), "w": weights(3, 4, 3, 3), **statistics(5)}, [1, 4, 6, 6])
    x = RNG.normal(size=(1, 4, 6, 6)).astype(np.float32)
    before = run(model, x)
    assert SplitBatchNorms()(model).modified
    assert operators(model) == {"Conv": 2, "BatchNormalization": 2, "Concat": 1}
    assert [node.op_type for node in model.graph][-1] == "Concat"
    np.testing.assert_allclose(run(model, x), before, rtol=1e-5, atol=1e-5)


def test_batch_norm_behind_another_concat_stays() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["a"]),
        helper.make_node("Concat", ["a", "x"], ["c"], axis=1),
        norm("c", "y"),
    ]
    model = graph(nodes, {"v": weights(1, 4, 1, 1), **statistics(5)}, [1, 4, 6, 6])
    assert not SplitBatchNorms()(model).modified


def test_batch_norm_behind_a_convolution_with_another_reader_stays() -> None:
    """The other one wants the numbers before the batch norm, so the convolution could not take it."""
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["a"]),
        helper.make_node("Conv", ["x", "v"], ["b"]),
        helper.make_node("Concat", ["a", "b"], ["c"], axis=1),
        norm("c", "n"),
        helper.make_node("Add", ["n", "a"], ["y"]),
    ]
    model = graph(nodes, {"v": weights(1, 4, 1, 1), **statistics(2)}, [1, 4, 6, 6])
    assert not SplitBatchNorms()(model).modified


def test_names_without_any_metadata() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "stem.weight"], ["17"]),
        helper.make_node("Clip", ["17", "18", "19"], ["20"]),
        helper.make_node("Clip", ["20", "18", "21"], ["22"]),
        helper.make_node("Conv", ["22", "23", "24"], ["y"]),
    ]
    constants = {
        "stem.weight": weights(4, 3, 1, 1), "23": weights(4, 4, 1, 1), "24": weights(4),
        "18": np.array(0, np.float32), "19": np.array(6, np.float32), "21": np.array(2.5, np.float32),
    }  # fmt: skip
    model = graph(nodes, constants, [1, 3, 4, 4])
    ReadableNames("image", ["scores"], frozenset({"stem.weight"}))(model)
    assert [node.name for node in model.graph] == ["stem", "Clip", "Clip_1", "Conv"]
    assert [node.outputs[0].name for node in model.graph] == ["stem", "Clip", "Clip_1", "scores"]
    assert set(model.graph.initializers) == {
        "stem.weight", "constant_0", "Clip.max", "Clip_1.max", "Conv.weight", "Conv.bias",
    }  # fmt: skip
    onnx.checker.check_model(ir.serde.serialize_model(model), full_check=True)


def test_weights_that_change_names() -> None:
    """The new name of one is the old name of another."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Conv", ["a", "Conv.weight"], ["y"]),
    ]
    first, second = weights(4, 3, 1, 1), weights(5, 4, 1, 1)
    model = graph(nodes, {"w": first, "Conv.weight": second}, [1, 3, 2, 2])
    ReadableNames("image", ["y"], frozenset())(model)
    found = {name: value.const_value for name, value in model.graph.initializers.items()}
    assert set(found) == {"Conv.weight", "Conv_1.weight"}
    np.testing.assert_array_equal(found["Conv.weight"], first)
    np.testing.assert_array_equal(found["Conv_1.weight"], second)


def test_names_that_change_places() -> None:
    """A new name may be the old name of another tensor."""
    nodes = [
        helper.make_node("Relu", ["x"], ["Sigmoid"]),
        helper.make_node("Sigmoid", ["Sigmoid"], ["Relu"]),
        helper.make_node("Relu", ["Relu"], ["y"]),
    ]
    model = graph(nodes, {}, [1, 3])
    ReadableNames("image", ["x"], frozenset())(model)
    assert [node.outputs[0].name for node in model.graph] == ["Relu", "Sigmoid", "x"]
    onnx.checker.check_model(ir.serde.serialize_model(model), full_check=True)
