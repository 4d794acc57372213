"""The compiler's list of layers: its real one, made here, and the inspector's as NVIDIA documents it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from edgecnn.errors import BuildError
from edgecnn.export.tensorrt import CompileOptions, Layer, parse_inspector_json, parse_listing
from edgecnn.export.tensorrt.listing import Kind
from edgecnn.export.tensorrt.process import run_worker
from edgecnn.export.tensorrt.protocol import Request
from tests.export.tensorrt.graphs import Graph, two_convolutions


def listing(model: bytes, folder: Path, capability: str = "8.6", **options: Any) -> str:
    """What the compiler itself prints."""
    request = Request(
        flavour="tensorrt_rtx",
        model=None,
        model_bytes=len(model),
        plan=str(folder / "plan"),
        options=CompileOptions(compute_capabilities=(capability,), **options).to_json(),
        workspace_bytes=None,
        cache_folder=str(folder),
    )
    (text,) = run_worker(request, model).finished.listings
    return text


@pytest.mark.parametrize("capability", ["8.6", "12.0"])
def test_every_layer_is_read(rtx: Any, tmp_path: Path, capability: str) -> None:
    text = listing(two_convolutions("int8"), tmp_path, capability)
    layers = parse_listing(text)
    assert len(layers) == text.count("LayerType: ") > 2
    assert sum(len(item.inputs + item.constants + item.outputs) for item in layers) == text.count(
        " Strides: ["
    )
    assert all(tensor.dtype != "unknown" for item in layers for tensor in item.inputs + item.outputs)
    convolutions = [item for item in layers if item.kind == "convolution"]
    assert [item.nodes[0] for item in convolutions] == ["conv0_node", "conv1_node"]
    for layer, dims in zip(convolutions, [(16, 8, 3, 3), (32, 16, 1, 1)], strict=True):
        assert layer.precision == "int8"
        assert {tensor.dtype for tensor in layer.inputs} == {"int8"}
        weights = max(layer.constants, key=lambda tensor: tensor.size_bytes())
        assert (weights.dims, weights.dtype) == (dims, "int8")


def many_kinds() -> bytes:
    graph = Graph(np.float32)
    tensor = graph.node("Conv", ["x", graph.weights("w0", 8, 4, 3, 3)], "conv", pads=[1] * 4)
    tensor = graph.node("Relu", [tensor], "relu")
    tensor = graph.node("MaxPool", [tensor], "pool", kernel_shape=[2, 2], strides=[2, 2])
    tensor = graph.node("ConvTranspose", [tensor, graph.weights("w1", 8, 64, 2, 2)], "up", strides=[2, 2])
    tensor = graph.node("GlobalAveragePool", [tensor], "mean")
    tensor = graph.node("Flatten", [tensor], "flat")
    tensor = graph.node("Gemm", [tensor, graph.weights("w2", 64, 100)], "logits")
    for node in graph.nodes:
        node.name = f"{node.op_type}, [first] ]"  # what a list of names is separated by
    return graph.model([1, 4, 16, 16], tensor, TensorProto.FLOAT)


def test_kinds_and_odd_names(rtx: Any, tmp_path: Path) -> None:
    layers = parse_listing(listing(many_kinds(), tmp_path))
    kinds = {node: item.kind for item in layers for node in item.nodes if item.kind != "reformat"}
    assert kinds["Conv, [first] ]"] == "convolution"
    assert kinds["ConvTranspose, [first] ]"] == "convolution"
    assert kinds["MaxPool, [first] ]"] == "pooling"
    assert kinds["GlobalAveragePool, [first] ]"] == "reduction"
    # for one image it is a product with a vector, which the compiler may fuse with the mean before it
    assert kinds["Gemm, [first] ]"] in ("gemm", "reduction")
    assert "reformat" in {item.kind for item in layers}  # into the order of axes that the convolution takes


def test_free_sides(rtx: Any, tmp_path: Path) -> None:
    layers = parse_listing(listing(two_convolutions(batch="N"), tmp_path, batch=(1, 2, 4)))
    data = next(item.inputs[0] for item in layers if item.kind == "convolution")
    assert data.dims == (-1, 8, 16, 16)
    assert data.size_bytes(batch=3) == 3 * 8 * 16 * 16 * 4
    assert any(item.kind == "none" for item in layers)  # arithmetic on the batch is no kernel


def test_a_line_in_another_form_is_not_guessed_at() -> None:
    line = "Name: a, LayerType: kgen, Ins: [], Outs: []"
    for text in (f"Layers:\n{line}", "Layers:\nnonsense", "Layers:\nName: a, LayerType: b, Inputs: [ { x }"):
        with pytest.raises(BuildError, match="list of layers cannot be read"):
            parse_listing(text)


def test_nothing_was_compiled() -> None:
    assert parse_listing("Layers:\n\nI/O Tensors:\n Name: x") == ()


def layer(**fields: Any) -> dict[str, Any]:
    return {"Name": "conv", "LayerType": "CaskConvolution", "Inputs": [], "Outputs": [], **fields}


def test_the_inspector_of_tensorrt_10() -> None:
    int8 = "Thirty-two wide channel vectorized row major Int8 format"
    text = json.dumps(
        {
            "Layers": [
                layer(
                    Inputs=[
                        {
                            "Name": "a",
                            "Location": "Device",
                            "Dimensions": [1, 64, 8, 8],
                            "Format/Datatype": int8,
                        }
                    ],
                    Outputs=[
                        {
                            "Name": "b",
                            "Location": "Device",
                            "Dimensions": [1, 32, 8, 8],
                            "Format/Datatype": "Channel major FP16 format where channel % 8 == 0",
                        }
                    ],
                    ParameterType="Convolution",
                    Metadata="[ONNX Layer: first]\x1e[ONNX Layer: second]",
                )
            ],
            "Bindings": ["a", "b"],
        }
    )
    (found,) = parse_inspector_json(text)
    assert (found.kind, found.precision, found.nodes) == ("convolution", "int8", ("first", "second"))
    assert [(item.dtype, item.size_bytes()) for item in found.inputs] == [("int8", 4096)]
    assert [(item.dtype, item.size_bytes()) for item in found.outputs] == [("fp16", 4096)]
    assert found.inputs[0].layout == int8


def test_the_listing_of_tensorrt_10() -> None:
    (found,) = parse_listing(
        "Layers:\nName: c + r, LayerType: CaskConvolution, Inputs: [ { Name: x, Location: Device, "
        "Dimensions: [1,8,4,4], Format/Datatype: Row major linear FP32 }], Outputs: [ { Name: y, "
        "Location: Device, Dimensions: [1,8,4,4], Format/Datatype: Two wide channel vectorized row major "
        "FP16 format }], ParameterType: Convolution, Kernel: [3,3], OutMaps: 8, TacticName: sm80_x, "
        "TacticValue: 0x1, StreamId: 0, Metadata: [ONNX Layer: c]\x1e[ONNX Layer: r]"
    )
    assert (found.kind, found.nodes) == ("convolution", ("c", "r"))
    assert [item.dtype for item in found.inputs + found.outputs] == ["fp32", "fp16"]


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("CaskConvolution", "convolution"),
        ("CaskDeconvolutionV2", "convolution"),
        ("CaskGemmConvolution", "convolution"),
        ("CudnnPooling", "pooling"),
        ("MatrixMultiply", "gemm"),
        ("Reformat", "reformat"),
        ("PointWiseV2", "pointwise"),
        ("NoOp", "none"),
        ("Myelin", "other"),
    ],
)
def test_the_words_of_tensorrt_10(word: str, kind: Kind) -> None:
    (found,) = parse_inspector_json(json.dumps({"Layers": [layer(LayerType=word)]}))
    assert found.kind == kind


def test_a_reformat_that_changes_the_type_is_a_cast() -> None:
    tensors = [
        [{"Name": "a", "Dimensions": [4], "Datatype": dtype, "Format": "Linear"}]
        for dtype in ("Float", "Half")
    ]
    raw = layer(LayerType="Reformat", Inputs=tensors[0], Outputs=tensors[1])
    (found,) = parse_inspector_json(json.dumps({"Layers": [raw]}))
    assert found.kind == "cast"


@pytest.mark.parametrize("text", ["", "{}", '{"Layers": ["conv + relu"]}', '{"Layers": [{"Name": "a"}]}'])
def test_an_inspector_that_says_too_little(text: str) -> None:
    with pytest.raises(BuildError, match=r"inspector's report cannot be read.*detailed"):
        parse_inspector_json(text)


def test_layers_are_values() -> None:
    (found,) = parse_inspector_json(json.dumps({"Layers": [layer()]}))
    assert isinstance(found, Layer)
    assert hash(found) == hash(parse_inspector_json(json.dumps({"Layers": [layer()]}))[0])
