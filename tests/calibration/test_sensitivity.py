from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgecnn.backends.onnxruntime import create_session
from edgecnn.calibration.sensitivity import measure_sensitivities
from edgecnn.export.graph import to_bytes
from edgecnn.export.lowering.switched import SwitchedNetwork
from edgecnn.export.lowering.tensorrt_int8 import quantize
from edgecnn.quantization import QuantizationTable
from tests.networks import Net, calibrated, graph_of, inputs


def network(folder: Path) -> ir.Model:
    """A residual sum, a clamp, a Gemm with factors; the third layer's input is coarse."""
    net = Net()
    x = net.clip(net.conv("image", 3, 8), 0, 6)
    y = net.relu(net.conv(x, 8, 8, groups=8))
    x = net.relu(net.add("Add", x, net.conv(y, 8, 8, 1)))
    y = net.add("Conv", x, net.weights(12, 8, 1, 1), net.weights(12))
    net.add(
        "Gemm", net.pooled(y), net.weights(12, 5), net.constant([0.5] * 5), name="logits", alpha=2.0, beta=3.0
    )
    return calibrated(graph_of(net.model("logits"), folder), planted={"relu_3": 100.0})


def table_of(graph: ir.Model) -> QuantizationTable:
    table = QuantizationTable.from_metadata(graph.metadata_props)
    assert table is not None
    return table


def lowered(graph: ir.Model, leave: list[str], tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the graph computes that is lowered with these layers in float."""
    clone = graph.clone()
    quantize(clone.graph, table_of(graph), set(clone.graph), leave)
    session = create_session(to_bytes(clone), optimized=False)
    result: NDArray[np.float32] = session.run(None, {"image": tensor})[0]
    return result


def test_a_switched_network_computes_what_the_lowered_graphs_compute(tmp_path: Path) -> None:
    graph = network(tmp_path)
    switched, tensor = SwitchedNetwork(graph, table_of(graph)), inputs()
    sets = [[], switched.layers, *([layer] for layer in switched.layers)]
    assert len(switched.layers) == 5
    results = [switched.run(tensor, leave=leave)[0] for leave in sets]
    for leave, result in zip(sets, results, strict=True):
        np.testing.assert_allclose(result, lowered(graph, leave, tensor), rtol=1e-5, atol=1e-5)
    # A small change may vanish in the next rounding; most do not.
    assert len({result.tobytes() for result in results}) >= 4


def test_errors_of_single_layers(tmp_path: Path) -> None:
    graph = network(tmp_path)
    tensors = [inputs(seed=seed) for seed in range(4)]
    layers = measure_sensitivities(graph, table_of(graph), tensors, second_order=False)
    names = [layer.name for layer in layers]
    exact = [lowered(graph, names, tensor).astype(np.float64) for tensor in tensors]
    energy = sum(float(np.square(values).sum()) for values in exact)
    for layer in layers:
        others = [name for name in names if name != layer.name]
        errors = [
            lowered(graph, others, tensor) - right for tensor, right in zip(tensors, exact, strict=True)
        ]
        alone = sum(float(np.square(error).sum()) for error in errors) / energy
        assert layer.contribution == pytest.approx(alone, rel=1e-3)
    assert max(layers, key=lambda layer: layer.contribution).name == names[2]  # it reads the coarse tensor
    pixels = 8 * 8
    assert [layer.macs for layer in layers] == [
        pixels * 3 * 9 * 8, pixels * 9 * 8, pixels * 8 * 8, pixels * 8 * 12, 12 * 5
    ]  # fmt: skip
    assert [layer.operator for layer in layers] == ["Conv"] * 4 + ["Gemm"]
