"""Channels of very different sizes are brought up, and the network computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgecnn.calibration.equalization import equalize
from edgecnn.calibration.observation import observe_activations, weight_scales
from edgecnn.calibration.outputs import Errors
from edgecnn.calibration.ranges import choose_range
from edgecnn.export.graph import to_bytes
from edgecnn.quantization import QuantizationTable
from tests.calibration.test_second_order import noise, plain_table, tensors
from tests.networks import Net, frames, graph_of, run, spec


def network(folder: Path, spread: float) -> ir.Model:
    """Two pairs of convolutions, one through PRelu and MaxPool, one grouped; channels differ by `spread`."""
    net = Net(seed=3)
    gains = np.geomspace(1, spread, 8).astype(np.float32)
    x = net.add(
        "Conv",
        "image",
        net.constant(net.random.standard_normal((8, 3, 3, 3)) * gains[:, None, None, None] / 5),
        net.constant(gains / 4),
    )
    x = net.add("PRelu", x, net.constant(np.full((8, 1, 1), 0.2)))
    x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    reader = net.random.standard_normal((8, 4, 3, 3)) / gains.reshape(2, 1, 4, 1, 1).repeat(4, 1).reshape(
        8, 4, 1, 1
    )
    x = net.relu(net.add("Conv", x, net.constant(reader / 6), net.weights(8), group=2, pads=[1, 1, 1, 1]))
    net.add("Flatten", net.conv(x, 8, 4, 1), name="y")
    return graph_of(net.model("y"), folder)


def tried(graph: ir.Model) -> Any:
    stats, *_ = observe_activations(graph, spec().image, frames(24))
    return equalize(graph, plain_table(graph), stats, tensors()), stats


def test_small_channels_are_made_larger_where_that_helps(tmp_path: Path) -> None:
    original, graph = network(tmp_path, 100.0), network(tmp_path, 100.0)
    found, stats = tried(graph)
    assert (found.layers, found.accepted) == (2, True)
    assert found.gain_db > 1
    inputs = np.concatenate(tensors(8, seed=5))
    expected = run(to_bytes(original), inputs)[0]
    np.testing.assert_allclose(run(to_bytes(graph), inputs)[0], expected, rtol=1e-4, atol=1e-4)
    assert to_bytes(graph) != to_bytes(original)

    def table(model: ir.Model, seen: Any) -> QuantizationTable:
        ranges = {name: choose_range(entry, "minmax") for name, entry in seen.items()}
        return QuantizationTable(
            activations=ranges,
            weights=weight_scales(model),
            method="minmax",
            frames=1,
            frames_sha256="",
            tool="",
        )

    assert noise(graph, table(graph, found.stats)) < 0.8 * noise(original, table(original, stats))


def errors_of(symmetric: float, onnxruntime: float) -> Errors:
    return Errors(np.array([symmetric]), np.array([onnxruntime]))


@pytest.mark.parametrize(
    ("errors", "accepted"),
    [((0.96, 0.5), False), ((0.5, 1.01), False), ((0.94, 1.0), True)],
)
def test_a_network_that_does_not_gain_stays_as_it_is(
    errors: tuple[float, float], accepted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([errors_of(1.0, 1.0), errors_of(*errors)])  # without it and with it
    monkeypatch.setattr("edgecnn.calibration.equalization.errors_on_grids", lambda *_, **__: next(found))
    original, graph = network(tmp_path, 10.0), network(tmp_path, 10.0)
    result, _ = tried(graph)
    assert result.accepted == bool(result.stats) == accepted
    assert (to_bytes(graph) != to_bytes(original)) == accepted


def test_dense_layers_and_all_that_read_a_tensor_take_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in MTCNN: a convolution, its map turned and flattened, a dense layer, heads that read the same."""
    found = iter([errors_of(1.0, 1.0), errors_of(0.5, 0.5)])
    monkeypatch.setattr("edgecnn.calibration.equalization.errors_on_grids", lambda *_, **__: next(found))
    net = Net(seed=4)
    random, gains = net.random.standard_normal, np.geomspace(0.02, 1, 8)
    x = net.add("Conv", "image", net.constant(random((8, 3, 3, 3)) * gains.reshape(8, 1, 1, 1)))
    x = net.add("PRelu", x, net.constant(np.full((8, 1, 1), 0.2)))
    x = net.add(
        "Flatten",
        net.add(
            "Transpose", net.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), perm=[0, 3, 2, 1]
        ),
    )
    x = net.add("Gemm", x, net.constant(random((72, 8)) * gains), net.constant(gains))
    x = net.add("PRelu", x, net.constant(np.full(8, 0.1)))
    net.add("Gemm", x, net.constant(random((2, 8))), net.constant(random(2)), transB=1, name="a")
    net.add("MatMul", x, net.constant(random((8, 4))), name="b")
    original, graph = (graph_of(net.model("a", "b"), tmp_path) for _ in range(2))
    result, _ = tried(graph)
    assert (result.layers, result.accepted) == (2, True)
    inputs = np.concatenate(tensors(8, seed=5))
    for one, other in zip(run(to_bytes(graph), inputs), run(to_bytes(original), inputs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())

    def spread(model: Any, number: int) -> float:
        """How much the weights of a layer's outputs differ in size."""
        weights = [
            node.inputs[1].const_value.numpy() for node in model.graph if node.op_type in ("Conv", "Gemm")
        ]
        sizes = np.abs(weights[number]).max(axis=(1, 2, 3) if number == 0 else 0)
        return float(sizes.max() / sizes.min())

    for number in range(2):
        assert spread(graph, number) < spread(original, number) / 3


def test_clamps_are_in_the_way(tmp_path: Path) -> None:
    net = Net()
    x = net.clip(net.conv("image", 3, 8), 0, 6)
    net.add("Flatten", net.conv(x, 8, 4), name="y")
    assert tried(graph_of(net.model("y"), tmp_path))[0] is None
