from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgecnn.dataset import FrameSet
from edgecnn.errors import SpecError
from edgecnn.export.graph import to_bytes
from edgecnn.export.measure import check_spec, compiled, compiled_operators, measure_accuracy, measure_latency
from edgecnn.metadata import SPEC_KEY
from tests.networks import SIDE, Net, calibrated, frames, graph_of, lowered_bytes, spec


def network(folder: Path, shape: tuple[int | str, ...] = ("N", 3, SIDE, SIDE)) -> onnx.ModelProto:
    net = Net(shape)
    x = net.relu(net.conv("image", 3, 8))
    return net.model(net.conv(x, 8, 4), own_spec=spec())


def test_what_runs_is_read_back(tmp_path: Path) -> None:
    graph = graph_of(network(tmp_path), tmp_path)
    result = compiled(to_bytes(graph))
    assert result.convolutions == {"fp32": 2}
    assert compiled_operators(to_bytes(graph)) == result.operators
    assert "Relu" not in result.operators  # fused
    assert compiled(lowered_bytes(calibrated(graph))).convolutions == {"fp32": 1, "int8": 1}


def test_a_half_precision_graph_counts_as_what_it_runs_in(tmp_path: Path) -> None:
    content = lowered_bytes(graph_of(network(tmp_path), tmp_path), "fp16")
    result = compiled(content)
    assert sum(result.convolutions.values()) == 2
    # FP16 kernels would read FP16; a float32 kernel between casts is not FP16, whatever the graph says
    assert set(result.convolutions) <= {"fp16", "fp32"}


@pytest.mark.parametrize(
    "shape", [("N", 3, SIDE, SIDE), (4, 3, SIDE, SIDE), ("N", 3, "H", "W")], ids=["free", "fixed", "any size"]
)
def test_latency_of_any_shape(shape: tuple[int | str, ...], tmp_path: Path) -> None:
    content = network(tmp_path, shape).SerializeToString()
    steps: list[int] = []
    result = measure_latency(
        {"a": content, "b": content},
        rounds=12,
        warm_up=2,
        progress=lambda stage, done, total: steps.append(done),
    )
    assert set(result) == {"a", "b"}
    assert all(0 < values["p50"] <= values["p99"] for values in result.values())
    assert steps == list(range(1, 15))


def test_slow_models_get_ten_rounds(tmp_path: Path) -> None:
    content = network(tmp_path).SerializeToString()
    steps: list[int] = []
    measure_latency(
        {"a": content},
        rounds=50,
        warm_up=3,
        limit_s=0,
        progress=lambda stage, done, total: steps.append(done),
    )
    assert steps[-1] == 13


def test_accuracy_of_a_model_against_itself(tmp_path: Path) -> None:
    content = network(tmp_path).SerializeToString()
    images = frames(4)
    result = measure_accuracy(
        content, content, FrameSet("memory", range(4), lambda at: (images[i] for i in at))
    )
    assert result.images == 4
    assert result.worst_sqnr_db == np.inf


def test_the_spec_is_checked_and_written_down(tmp_path: Path) -> None:
    net = Net()
    graph = graph_of(net.model(net.conv("image", 3, 8)), tmp_path)
    with pytest.raises(SpecError, match="the model does not say how to use it"):
        check_spec(graph, None, name="the model")
    with pytest.raises(SpecError, match="does not fit"):
        check_spec(graph, spec(side=9), name="the model")
    assert SPEC_KEY not in graph.metadata_props
    assert check_spec(graph, spec(), name="the model") == spec()
    assert check_spec(graph, None, name="the model") == spec()
