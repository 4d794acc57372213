"""Quantization-aware fine-tuning in plain PyTorch, from a calibrated start, and what it gains.

    real weights ─▶ export ─▶ calibrate ─▶ fine-tune with the table's scales in it ─▶ export ─▶ build

The network is MTCNN's second, which corrects the box around a face, with the weights of facenet-pytorch. INT8
moves its boxes. Fine-tuning brings them back towards where the float network has them, on small pictures of
scikit-image (LFW's faces, and what is no face), and is judged by faces that neither it nor calibration saw:
on TensorRT's grid they are off by 0.43 % of a side before and 0.37 % afterwards. docs/quantization.md has all
figures. It takes a minute and a half on one core (OMP_NUM_THREADS=1, as there), less than four on a busy one.

pip install --no-deps facenet-pytorch==2.6.0
python -m samples.training.finetune_int8
"""

from __future__ import annotations

import copy
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from edgecnn.calibration import calibrate
from edgecnn.demo import packaged
from edgecnn.export import export_onnx
from edgecnn.export.graph import load_graph
from edgecnn.export.placement import bias_of, is_anchor, scale_source, weight_of
from edgecnn.quantization import QuantizationTable
from samples.training.faces import network_parts
from samples.training.loop import open_precisions, parse, train

SIDE = 24
_TEST_FACES = 40  # of LFW's 100
_ASTRONAUT = slice(55, 175), slice(164, 284)  # the square around the face


class Quantized(nn.Module):
    """A layer that sees its input and its weights on the grids of a calibrated model.

    torch's fake quantization is a straight-through estimator: forwards it rounds, backwards it is the
    identity where nothing saturates. The start is what calibration chose. The input's scale learns, too
    (Esser et al., Learned Step Size Quantization, 2020); layers that read the same tensor share it.

    Args:
        layer: a copy of the float network's; its weights and bias are replaced.
        node: the same one in the calibrated model.
        table: what calibration found.
        learned: name of a tensor → its scale; this layer's is added where it is not there.
    """

    def __init__(
        self, layer: nn.Module, node: Any, table: QuantizationTable, learned: dict[str, nn.Parameter]
    ) -> None:
        super().__init__()
        weight: Any = weight_of(node)
        bias: Any = bias_of(node)
        source: Any = scale_source(node.inputs[0])
        entry = table.weights[weight.name]
        start = entry.on_grid(weight.const_value.numpy()), table.bias(bias.name, bias.const_value.numpy())
        self.layer: Any = layer
        self.layer.weight, self.layer.bias = (nn.Parameter(torch.tensor(x).float()) for x in start)
        scale = nn.Parameter(torch.tensor(table.activations[source.name].scale))
        self.scale = learned.setdefault(source.name, scale)
        self.register_buffer("scales", torch.tensor(entry.scales))
        self.register_buffer("zeros", torch.zeros(len(entry.scales), dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, before its activation function."""
        scales, zeros = self.get_buffer("scales"), self.get_buffer("zeros")
        if self.training:  # the same numbers, with a gradient for the scale
            x = self.scale * torch.fake_quantize_per_tensor_affine(x / self.scale, 1.0, 0, -127, 127)
        else:
            x = torch.fake_quantize_per_tensor_affine(x, self.scale.detach(), zeros[0], -127, 127)
        weight = torch.fake_quantize_per_channel_affine(self.layer.weight, scales, zeros, 0, -127, 127)
        result: Tensor = torch.func.functional_call(self.layer, {"weight": weight}, (x,))
        return result


def quantized(module: nn.Module, calibrated: Path) -> nn.Module:
    """A copy with `Quantized` layers. Batch norms, which export folds into the layers, would go out here."""
    graph = load_graph(calibrated)
    table = QuantizationTable.from_metadata(graph.metadata_props)
    assert table is not None
    nodes = {node.name: node for node in graph.graph if is_anchor(node)}  # by the module's name
    learned: dict[str, nn.Parameter] = {}
    module = copy.deepcopy(module)
    for name, layer in list(module.named_modules()):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            parent, _, own = name.rpartition(".")
            setattr(module.get_submodule(parent), own, Quantized(layer, nodes[name], table, learned))
    return module


def crops(
    pictures: NDArray[np.float32], *seed: int, count: int = 64
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures (P, 25, 25, 3) of 0 … 1, moved, turned, lit: (N, 24, 24, 3) RGB, and which they are (N,)."""
    random, found = np.random.default_rng(seed), []
    which = random.integers(len(pictures), size=count)
    for picture in pictures[which]:
        place: Any = cv2.getRotationMatrix2D((12, 12), random.uniform(-15, 15), random.uniform(0.8, 1.2))
        place[:, 2] += random.uniform(-2.5, 2.5, 2)
        crop: Any = cv2.warpAffine(
            picture, place, (SIDE, SIDE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        if random.random() < 0.5:
            crop = crop[:, ::-1]
        light = random.uniform(0.6, 1.2) * random.uniform(0.85, 1.15, 3)
        noise = random.standard_normal(crop.shape) * random.uniform(0, 0.025)
        found.append(255 * (crop * light + random.uniform(-0.08, 0.08) + noise).clip(0, 1))
    return np.stack(found).astype(np.uint8), which


def errors(found: Any, wanted: Any, which: NDArray[np.int64]) -> NDArray[np.float64]:
    """Root mean square of how far boxes' sides are off, in % of a side; then of 1000 bootstraps of faces."""
    squares = ((found - wanted) ** 2).mean(axis=1)
    sums, counts = np.bincount(which, squares), np.bincount(which)
    drawn = np.random.default_rng(0).integers(len(sums), size=(1000, len(sums)))
    drawn = np.concatenate([[np.arange(len(sums))], drawn])
    result: NDArray[np.float64] = 100 * np.sqrt(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return result


def interval(values: NDArray[np.float64]) -> str:
    """The first one, and where 95 % of the others lie, where they differ."""
    if np.ptp(values[1:]) < 1e-9:  # of one face there is none
        return f"{values[0]:.3f}"
    low, high = np.percentile(values[1:], (2.5, 97.5))
    return f"{values[0]:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """Calibrate, fine-tune; print how far each one's boxes are from the float network's."""
    options = parse(__doc__, steps=1500, test_frames=4000, output=Path("finetune-output"))
    steps, seed, output = options.steps, options.seed, options.output
    output.mkdir(parents=True, exist_ok=True)
    small = np.load(packaged("skimage/data/lfw_subset.npy")).astype(np.float32)[..., None].repeat(3, axis=3)
    astronaut: Any = cv2.imread(str(packaged("skimage/data/astronaut.png")))
    astronaut = cv2.resize(astronaut[_ASTRONAUT][..., ::-1], (25, 25), interpolation=cv2.INTER_AREA)
    training = small[_TEST_FACES:]  # 60 faces, 100 pictures of something else
    kinds = {"40 other faces": small[:_TEST_FACES], "an astronaut's": np.float32(astronaut[None]) / 255}
    ((teacher, spec, names),) = network_parts(["faces_refine"]).values()
    teacher.eval().requires_grad_(False)

    def tensor(frames: NDArray[np.uint8]) -> Tensor:
        return (torch.from_numpy(frames).permute(0, 3, 1, 2).float() - 127.5) / 128

    ways = ("float", "plain", "calibrated", "start", "fine-tuned")
    files = {way: output / f"{way}.onnx" for way in ways}
    export_onnx(teacher, spec, files["float"], batch=None, output_names=names, force=True)
    np.save(output / "frames.npy", crops(training, seed, steps, count=min(256, 8 * steps))[0])
    seen = files["float"], output / "frames.npy"
    calibrate(*seen, files["plain"], method="minmax", rounding="nearest", force=True)
    calibrate(*seen, files["calibrated"], force=True)
    student = quantized(teacher, files["calibrated"]).requires_grad_()

    def write(name: str) -> None:
        # numbers next to the middle between two steps fall on either side here and there: more than 1e-4
        export_onnx(student, spec, files[name], batch=None, output_names=names, tolerance=0.02, force=True)

    student.eval()
    write("start")

    def loss(step: int) -> Tensor:  # towards the float network: it needs no labels
        x = tensor(crops(training, seed, step)[0])
        return torch.stack([mse_loss(*pair) for pair in zip(student(x), teacher(x), strict=True)]).sum()

    train(student, loss, steps=steps, seed=seed, learning_rate=2e-5, weight_decay=0.0)
    write("fine-tuned")

    print("root mean square distance to the float network's boxes, % of their sides [95 % of bootstraps]")
    count = options.test_frames
    tests = [crops(pictures, seed, steps + 1, count=count) for pictures in kinds.values()]
    inputs = [tensor(frames) for frames, _ in tests]
    wanted = [teacher(x)[0].numpy() for x in inputs]
    print(f"over {count} crops each of {' and '.join(kinds)}:")
    found: dict[tuple[str, str], list[NDArray[np.float64]]] = {}

    def judge(way: str, precision: str, boxes: list[Any]) -> None:
        results = zip(boxes, wanted, tests, strict=True)
        found[way, precision] = [errors(box, other, which) for box, other, (_, which) in results]
        print(f"  {way:<10} {precision:<13}", *map(interval, found[way, precision]), sep="  ", flush=True)

    judge("fine-tuned", "in PyTorch", [student(x)[0].detach().numpy() for x in inputs])
    for precision, way in product(("int8", "int8_tensorrt"), ways[1:]):
        with open_precisions(files[way], [precision]) as models:
            backend = models[precision].backend
            judge(way, precision, [backend.run({"image": x.numpy()})[names[0]] for x in inputs])
    for precision in ("int8", "int8_tensorrt"):
        pairs = zip(found["fine-tuned", precision], found["start", precision], strict=True)
        print(f"  fine-tuned / start, {precision}:", *(interval(a / b) for a, b in pairs), sep="  ")


if __name__ == "__main__":
    main()
