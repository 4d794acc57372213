"""The comparison with PyTorch: exact numbers where they are planted, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
import onnx_ir as ir
import torch
from torch import nn

import edgecnn.export.passes
from edgecnn.errors import ExportError, ParityError
from edgecnn.export import export_onnx
from edgecnn.export.parity import Comparison, relative_error, top1_agreement
from edgecnn.export.samples import KINDS, sample_batches
from edgecnn.spec import image_spec
from tests.export.networks import Branching, Dropping, Residual, head, spec, trained


def test_planted_error() -> None:
    comparison = Comparison("y")
    comparison.add(np.array([0.0, 3.0]), np.array([0.0, 3.0]))
    comparison.add(np.array([4.0, -6.0]), np.array([4.0, -5.0]))
    result = comparison.result()
    assert result.max_abs_error == 1.0
    assert result.relative_error == 0.1  # of the range from -6 to 4
    assert result.sqnr_db == round(10 * math.log10((9 + 16 + 36) / 1), 1)
    assert result.cosine == round((9 + 16 + 30) / math.sqrt(61 * 50), 7)


def test_equal_tensors_have_no_sqnr() -> None:
    comparison = Comparison("y")
    comparison.add(np.ones(3, np.float32), np.ones(3, np.float32))
    assert comparison.result().sqnr_db is None
    assert comparison.result().cosine == 1.0


def test_constant_output_is_measured_by_its_size() -> None:
    assert relative_error(np.full(4, 2.0), np.full(4, 2.5)) == 0.25


def test_not_a_number_is_an_infinite_error() -> None:
    assert relative_error(np.array([0.0, 1.0]), np.array([0.0, np.nan])) == math.inf


def test_integers_are_compared_one_by_one() -> None:
    assert relative_error(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 400])) == 0.25


def test_top1() -> None:
    reference = [np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([[3.0, 1.0]])]
    assert top1_agreement(reference, [reference[0], reference[1][:, ::-1]]) == round(2 / 3, 4)


def test_samples_are_normalized_images() -> None:
    image = image_spec("unit", size_hw=(9, 12), scale=1.0, mean=10.0, std=2.0)
    tensors = sample_batches(image, (1, 3, 2))
    assert [len(tensor) for tensor in tensors] == [1, 3, 2]
    assert tensors[0].dtype == np.float32
    assert tensors[0].shape == (1, 3, 9, 12)
    pixels = np.concatenate(tensors) * 2.0 + 10.0
    assert pixels.min() == 0
    assert pixels.max() == 255
    assert np.array_equal(pixels, np.round(pixels))
    assert len(pixels) == len(KINDS)
    flat = [tensor for image in tensors for tensor in image if tensor.min() == tensor.max()]
    assert sorted({float(tensor.max()) for tensor in flat}) == [-5.0, 58.5, 122.5]


def test_samples_are_the_same_each_time_and_cover_every_batch() -> None:
    image = image_spec("imagenet", size_hw=(8, 8))
    for batches in ((1,), (4,), (1, 3, 2), (7, 1)):
        first, second = sample_batches(image, batches), sample_batches(image, batches)
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
        assert {len(tensor) for tensor in first} == set(batches)
        assert sum(len(tensor) for tensor in first) >= len(KINDS)


@pytest.fixture
def corrupt(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Change one weight of the ONNX graph between translation and comparison."""

    def install(name: str, factor: float) -> None:
        simplify = edgecnn.export.passes.simplify

        def simplify_and_corrupt(model: ir.Model, input_shape: Any) -> None:
            simplify(model, input_shape)
            value = model.graph.initializers[name]
            assert value.const_value is not None
            array = value.const_value.numpy().copy()
            array.flat[np.abs(array).argmax()] *= factor
            value.const_value = ir.tensor(array, name=name)

        monkeypatch.setattr(edgecnn.export.passes, "simplify", simplify_and_corrupt)

    return install


@pytest.mark.parametrize("layer", ["conv1", "conv2", "fc"])
def test_corrupted_weight_is_found_and_its_layer_named(layer: str, corrupt: Any, tmp_path: Path) -> None:
    corrupt(f"{layer}.weight", 3.0)
    with pytest.raises(ParityError, match=rf"first in layer {layer} \((Conv|Gemm)\)"):
        export_onnx(trained(Residual()), spec(), tmp_path / "model.onnx", batch=None)
    assert list(tmp_path.iterdir()) == []


def test_corrupted_weight_of_a_traced_module_is_found(corrupt: Any, tmp_path: Path) -> None:
    corrupt("conv1.weight", 3.0)
    with pytest.raises(ParityError, match="a layer that cannot be named"):
        export_onnx(trained(Residual()), spec(), tmp_path / "model.onnx", exporter="torchscript")


def test_corruption_within_the_tolerance_is_reported(corrupt: Any, tmp_path: Path) -> None:
    corrupt("conv1.weight", 1.1)
    result = export_onnx(trained(Residual()), spec(), tmp_path / "model.onnx", tolerance=0.5)
    assert 1e-3 < result.parity.worst.relative_error < 0.5
    assert result.parity.worst.sqnr_db is not None
    assert result.parity.worst.sqnr_db < 60


def test_frozen_branch_is_found(tmp_path: Path) -> None:
    class Brightness(Branching):
        def forward(self, image: torch.Tensor) -> Any:
            x = self.conv(image).mean((2, 3))
            return -x if image.mean() > 1 else x  # true of the white image only

    with pytest.raises(ParityError, match="differs from PyTorch in output logits"):
        export_onnx(trained(Brightness()), spec(), tmp_path / "model.onnx", exporter="torchscript")


def test_branch_on_the_image_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"--exporter torchscript.*freezes the branch") as caught:
        export_onnx(trained(Branching()), spec(), tmp_path / "model.onnx")
    assert len(str(caught.value)) < 700
    assert "\n" not in str(caught.value)


def test_random_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="answers differently each time"):
        export_onnx(trained(Dropping(always=True)), spec(), tmp_path / "model.onnx")


def test_module_with_memory_is_refused(tmp_path: Path) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls: torch.Tensor
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, image: torch.Tensor) -> Any:
            self.calls += 1
            return image.mean((2, 3)) + self.calls

    with pytest.raises(ExportError, match="answers differently each time"):
        export_onnx(Counting(), spec(), tmp_path / "model.onnx")


@pytest.mark.parametrize(("value", "word"), [(math.nan, "NaN"), (math.inf, "infinity")])
def test_not_finite_is_refused(value: float, word: str, tmp_path: Path) -> None:
    module = trained(head(nn.Conv2d(3, 8, 3)))
    with torch.no_grad():
        module[-1].bias[0] = value  # type: ignore[index]
    with pytest.raises(ExportError, match=f"the PyTorch module itself gives {word}"):
        export_onnx(module, spec(), tmp_path / "model.onnx")


def test_batch_baked_into_the_module(tmp_path: Path) -> None:
    class OneImage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, image: torch.Tensor) -> Any:
            return self.conv(image).mean((2, 3)).view(1, 4)

    export_onnx(trained(OneImage()), spec(), tmp_path / "one.onnx")
    with pytest.raises(ExportError, match="batch"):
        export_onnx(trained(OneImage()), spec(), tmp_path / "free.onnx", batch=None)
    assert not (tmp_path / "free.onnx").exists()
