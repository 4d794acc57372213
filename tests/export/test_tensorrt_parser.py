"""NVIDIA's own ONNX parser, which needs no GPU, takes what is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
from edgecnn.export import export_onnx
from tests.export.networks import NETWORKS, Exported, ManyOutputs, spec, trained

trt: Any = pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx, on x86-64")


def parse(path: Path) -> Any:
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, builder.logger)
    accepted = parser.parse(path.read_bytes())
    assert accepted, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_small_networks(name: str, exported: Exported) -> None:
    result = exported(name, None)[1]
    network = parse(result.path)
    assert tuple(network.get_input(0).shape) == (-1, *result.inputs[0].shape[1:])
    assert network.get_output(0).name == result.outputs[0].name
    assert tuple(network.get_output(0).shape) == (-1, *result.outputs[0].shape[1:])


def test_one_image(exported: Exported) -> None:
    assert tuple(parse(exported("residual", 1)[1].path).get_output(0).shape) == (1, 5)


def test_several_outputs(tmp_path: Path) -> None:
    result = export_onnx(trained(ManyOutputs()), spec("raw"), tmp_path / "model.onnx", batch=None)
    network = parse(result.path)
    assert network.get_input(0).shape[0] == -1
    assert [network.get_output(index).name for index in range(network.num_outputs)] == ["fine", "coarse"]
