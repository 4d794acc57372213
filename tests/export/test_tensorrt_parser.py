"""NVIDIA's own ONNX parser, which needs no GPU, takes what is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
trt: Any = pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx, on x86-64")

from edgecnn.export import export_onnx
from tests.export.networks import NETWORKS, ManyOutputs, spec, trained


def parse(path: Path) -> Any:
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, builder.logger)
    accepted = parser.parse(path.read_bytes())
    assert accepted, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_small_networks(name: str, tmp_path: Path) -> None:
    result = export_onnx(trained(NETWORKS[name][0]()), spec(), tmp_path / "model.onnx")
    network = parse(result.path)
    assert tuple(network.get_input(0).shape) == result.inputs[0].shape
    assert network.get_output(0).name == result.outputs[0].name
    assert tuple(network.get_output(0).shape) == result.outputs[0].shape


def test_dynamic_batch_and_several_outputs(tmp_path: Path) -> None:
    result = export_onnx(trained(ManyOutputs()), spec("raw"), tmp_path / "model.onnx", batch=None)
    network = parse(result.path)
    assert network.get_input(0).shape[0] == -1
    assert [network.get_output(index).name for index in range(network.num_outputs)] == ["fine", "coarse"]
