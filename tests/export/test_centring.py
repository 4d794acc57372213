"""Tensors that cannot be negative get all of TensorRT's steps, and no zero point is left."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgecnn.calibration.centring import centre
from edgecnn.export.graph import to_bytes
from edgecnn.export.lowering import lower_graph
from edgecnn.export.lowering.tensorrt_centring import fold_zero_points
from edgecnn.export.lowering.tensorrt_int8 import quantize
from edgecnn.metadata import QUANTIZATION_KEY
from edgecnn.preprocess import Preprocessor
from edgecnn.quantization import QuantizationTable
from tests.networks import Net, calibrated, frames, graph_of, run, spec


def tensors(count: int, seed: int = 0) -> list[Any]:
    preprocess = Preprocessor(spec().image)
    found = []
    for frame in frames(count, seed=seed):
        preprocess(frame)
        found.append(preprocess.tensor.copy())
    return found


def network(folder: Path) -> ir.Model:
    """Padded and not, depthwise, a convolution without a bias, a clamped tensor that a sum reads too."""
    net = Net()
    x = net.clip(net.conv("image", 3, 8), 0, 6)
    y = net.add(
        "Conv", x, net.weights(8, 1, 3, 3), net.weights(8), group=8, pads=[1, 1, 1, 1], name="depthwise"
    )
    y = net.clip(y, 0, 6)
    y = net.clip(net.add("Conv", y, net.weights(8, 8, 1, 1), name="pointwise"), 0, 6)
    z = net.add("Conv", y, net.weights(8, 8, 1, 1), net.weights(8), name="read_twice")
    z = net.clip(net.add("Add", y, z), 0, 6)
    net.add("Flatten", net.add("Conv", z, net.weights(4, 8, 1, 1), net.weights(4)), name="y")
    return graph_of(net.model("y"), folder)


def classifier(folder: Path, *, pool: str, transposed: bool) -> ir.Model:
    """A clamp, an average, moved values, and a dense layer with weights either way around."""
    net = Net()
    x = net.clip(net.conv("image", 3, 8), 0, 6)
    kernel: dict[str, Any] = {"kernel_shape": [8, 8]} if pool == "AveragePool" else {}
    x = net.add(pool, x, **kernel)
    x = net.add("Flatten", x, name="vector")
    if transposed:
        net.add("Gemm", x, net.weights(5, 8), net.weights(5), transB=1, name="y")
    else:
        net.add("Gemm", x, net.weights(8, 5), name="y")
    return graph_of(net.model("y"), folder)


def table_of(graph: ir.Model, *, centred: bool) -> QuantizationTable:
    table = QuantizationTable.from_metadata(calibrated(graph.clone()).metadata_props)
    assert table is not None
    ranges = {name: dataclasses.replace(entry, centred=centred) for name, entry in table.activations.items()}
    return dataclasses.replace(table, activations=ranges)


def quantized(graph: ir.Model, table: QuantizationTable, *, fold: bool) -> ir.Model:
    lowered = graph.clone()
    quantize(lowered.graph, table, set(lowered.graph))
    if fold:
        fold_zero_points(lowered.graph, set(lowered.graph))
    return lowered


def zero_points(model: ir.Model) -> set[int]:
    return {
        int(number)
        for node in model.graph
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.inputs[2] is not None
        for number in np.unique(node.inputs[2].const_value.numpy())  # type: ignore[union-attr]
    }


def test_folding_leaves_the_numbers_and_no_zero_point(tmp_path: Path) -> None:
    graph = network(tmp_path)
    table = table_of(graph, centred=True)
    before, after = (quantized(graph, table, fold=fold) for fold in (False, True))
    assert zero_points(before) == {0, -127}
    assert zero_points(after) == {0}
    # the depthwise convolution pads; the tensor that a sum reads too is left alone
    assert [node.op_type for node in after.graph].count("Pad") == 1
    inputs = np.concatenate(tensors(16, seed=3))
    reference, one, other = (run(to_bytes(model), inputs)[0] for model in (graph, before, after))
    # Floats in another order may fall on the other side of the middle between two steps, here and there.
    same = np.isclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(reference).max())
    assert same.mean() > 0.95
    assert ((one - other) ** 2).sum() < 0.05 * ((one - reference) ** 2).sum()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("pool", ["GlobalAveragePool", "AveragePool"])
def test_an_average_in_front_of_a_dense_layer(tmp_path: Path, pool: str, transposed: bool) -> None:
    graph = classifier(tmp_path, pool=pool, transposed=transposed)
    table = table_of(graph, centred=True)
    before, after = (quantized(graph, table, fold=fold) for fold in (False, True))
    assert [zero_points(model) for model in (before, after)] == [{0, -127}, {0}]
    inputs = np.concatenate(tensors(16, seed=3))
    one, other = (run(to_bytes(model), inputs)[0] for model in (before, after))
    same = np.isclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(one).max())
    assert same.mean() > 0.95


def test_twice_the_steps_are_less_noise(tmp_path: Path) -> None:
    graph = network(tmp_path)
    inputs = np.concatenate(tensors(16, seed=3))
    reference = run(to_bytes(graph), inputs)[0]
    plain, centred = (
        (
            (run(to_bytes(quantized(graph, table_of(graph, centred=on), fold=on)), inputs)[0] - reference)
            ** 2
        ).sum()
        for on in (False, True)
    )
    assert centred < plain


@pytest.mark.parametrize("keep", ["", "depthwise", "pointwise"])
def test_the_lowered_graph_in_fp16(tmp_path: Path, keep: str) -> None:
    """For a reader that stays in float nothing is centred; the graph computes the same all the while."""
    graph = network(tmp_path)
    table = table_of(graph, centred=True)
    if keep:
        names = {node.outputs[0].name: str(node.name or node.outputs[0].name) for node in graph.graph}
        table = dataclasses.replace(table, kept_in_float={names[keep]: "asked for"})
    graph.metadata_props[QUANTIZATION_KEY] = table.to_json()
    lowered = lower_graph(graph, "int8", target="tensorrt")
    assert zero_points(lowered) == {0}
    inputs = np.concatenate(tensors(8, seed=3))
    reference, found = (
        run(to_bytes(model), inputs, optimized=False)[0] for model in (network(tmp_path), lowered)
    )
    assert ((found - reference) ** 2).sum() < 0.01 * (reference**2).sum()


def test_calibration_pads_only_what_matters(tmp_path: Path) -> None:
    graph = network(tmp_path)
    chosen = centre(graph, table_of(graph, centred=False), tensors(8))
    marked = {name for name, entry in chosen.activations.items() if entry.centred}
    free = {str(node.inputs[0].name) for node in graph.graph if node.outputs[0].name == "pointwise"}  # type: ignore[union-attr]
    assert free <= marked
    # the first tensor is most of this network's error, whatever the seed: it is padded, and worth it
    padded = {str(node.inputs[0].name) for node in graph.graph if node.outputs[0].name == "depthwise"}  # type: ignore[union-attr]
    assert marked == free | padded
    assert QuantizationTable.from_json(chosen.to_json()) == chosen
