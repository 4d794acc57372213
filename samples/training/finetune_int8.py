"""Quantization-aware fine-tuning in plain PyTorch, from a calibrated start, and what it gains.

train in float ─▶ export ─▶ calibrate ─▶ fine-tune with the table's scales in it ─▶ export ─▶ build

python -m samples.training.finetune_int8
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from edgecnn.calibration import calibrate
from edgecnn.export import export_onnx
from edgecnn.export.graph import load_graph
from edgecnn.export.placement import bias_of, is_anchor, scale_source, weight_of
from edgecnn.quantization import QuantizationTable
from edgecnn.spec import ModelSpec, image_spec
from samples.training.digit_crops import SIDE, DigitCrops
from samples.training.loop import open_precisions, parse, train


class Block(nn.Module):
    """An inverted residual block with SiLU and squeeze-and-excite, as in EfficientNet."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = 4 * inputs
        self.expand = nn.Sequential(nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.SiLU())
        depthwise = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
        self.depthwise = nn.Sequential(depthwise, nn.BatchNorm2d(wide), nn.SiLU())
        pooled = nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, inputs, 1), nn.SiLU()
        self.gate = nn.Sequential(*pooled, nn.Conv2d(inputs, wide, 1), nn.Sigmoid())
        self.project = nn.Sequential(nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.residual = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, H / stride, W / stride)."""
        y = self.depthwise(self.expand(x))
        y = self.project(y * self.gate(y))
        result: Tensor = x + y if self.residual else y
        return result


def network() -> nn.Sequential:
    """A small one of the kind that loses by INT8: the scores of ten classes."""
    stem = nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.SiLU()
    blocks = [Block(*shape) for shape in ((12, 12, 1), (12, 20, 2), (20, 20, 1), (20, 32, 2), (32, 32, 1))]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


class Quantized(nn.Module):
    """A layer that sees its input and its weights on the grids of a calibrated model.

    torch's fake quantization is a straight-through estimator: forwards it rounds, backwards it is the
    identity where nothing saturates. The start is what calibration chose, batch norms inside.
    """

    def __init__(self, layer: nn.Module, node: Any, table: QuantizationTable) -> None:
        super().__init__()
        weight: Any = weight_of(node)
        bias: Any = bias_of(node)
        source: Any = scale_source(node.inputs[0])
        entry = table.weights[weight.name]
        start = entry.on_grid(weight.const_value.numpy()), table.bias(bias.name, bias.const_value.numpy())
        self.layer: Any = layer
        self.layer.weight, self.layer.bias = (nn.Parameter(torch.tensor(x).float()) for x in start)
        self.register_buffer("scale", torch.tensor(table.activations[source.name].scale))
        self.register_buffer("scales", torch.tensor(entry.scales))
        self.register_buffer("zeros", torch.zeros(len(entry.scales), dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, before its activation function."""
        scale, scales, zeros = self.get_buffer("scale"), self.get_buffer("scales"), self.get_buffer("zeros")
        x = torch.fake_quantize_per_tensor_affine(x, scale, zeros[0], -127, 127)
        weight = torch.fake_quantize_per_channel_affine(self.layer.weight, scales, zeros, 0, -127, 127)
        result: Tensor = torch.func.functional_call(self.layer, {"weight": weight}, (x,))
        return result


def quantized(module: nn.Sequential, calibrated: Path) -> nn.Sequential:
    """A copy with `Quantized` layers, and without batch norms."""
    graph = load_graph(calibrated)
    table = QuantizationTable.from_metadata(graph.metadata_props)
    assert table is not None
    nodes = iter([node for node in graph.graph if is_anchor(node)])  # in the order of the modules
    module = copy.deepcopy(module)
    for name, layer in list(module.named_modules()):
        parent, _, own = name.rpartition(".")
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            node = next(nodes)
            if "gate" not in parent:  # on vectors, which the lowering for TensorRT leaves in FP16
                setattr(module.get_submodule(parent), own, Quantized(layer, node, table))
        elif isinstance(layer, nn.BatchNorm2d):
            setattr(module.get_submodule(parent), own, nn.Identity())
    return module


def main() -> None:
    """Train, calibrate, fine-tune; print what each of them is worth on held-out frames."""
    options = parse(__doc__, steps=1500, test_frames=4000, output=Path("finetune-output"))
    steps, seed, output = options.steps, options.seed, options.output
    output.mkdir(parents=True, exist_ok=True)
    digits, test = DigitCrops(training=True), DigitCrops(training=False)
    image = image_spec("unit", size_hw=(SIDE, SIDE), mean=(0.5,) * 3, std=(0.5,) * 3)
    spec = ModelSpec(task="classification", image=image, labels=tuple("0123456789"))

    def tensor(frames: Any) -> Tensor:
        return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1

    torch.manual_seed(seed)
    teacher = network()

    def in_float(step: int) -> Tensor:
        frames, classes = digits(seed, step)
        return cross_entropy(teacher(tensor(frames)), classes)

    train(teacher, in_float, steps=steps, seed=seed)
    files = {name: output / f"{name}.onnx" for name in ("float", "plain", "calibrated", "fine-tuned")}
    export_onnx(teacher, spec, files["float"], batch=None, force=True)
    np.save(output / "frames.npy", digits(seed, steps, count=min(256, 8 * steps))[0])
    seen = files["float"], output / "frames.npy"
    calibrate(*seen, files["plain"], method="minmax", rounding="nearest", force=True)
    calibrate(*seen, files["calibrated"], force=True)
    student = quantized(teacher, files["calibrated"])

    def in_int8(step: int) -> Tensor:  # towards the float network, so nothing is gained by learning more
        x = tensor(digits(seed, steps + 1 + step)[0])
        with torch.no_grad():
            wanted = teacher(x)
        return mse_loss(student(x), wanted)

    train(student, in_int8, steps=max(1, steps // 3), seed=seed, learning_rate=3e-4, weight_decay=0.0)
    export_onnx(student, spec, files["fine-tuned"], batch=None, force=True)

    frames, classes = test(seed, count=options.test_frames)
    scores = {}
    for name, file in files.items():
        with open_precisions(file, ["fp32" if name == "float" else "int8_tensorrt"]) as models:
            (model,) = models.values()
            scores[name] = model.backend.run({model.input.name: tensor(frames).numpy()})["logits"]
    wanted = scores["float"]
    print(f"on {len(frames)} test frames, as lowered for TensorRT: SQNR, the float network's class, top-1")
    for name, values in scores.items():
        error = float(((values - wanted) ** 2).sum())
        decibels = 10 * np.log10(float((wanted**2).sum()) / error) if error else np.inf
        shares = [(values.argmax(1) == other).mean() for other in (wanted.argmax(1), classes.numpy())]
        print(f"  {name:<11} {decibels:5.1f} dB", *(f"{share:.2%}" for share in shares), flush=True)


if __name__ == "__main__":
    main()
