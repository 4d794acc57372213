"""The fine-tuning sample on a handful of pictures: what it writes, and that it is taken as it is."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgecnn.export import build
from edgecnn.export.graph import load_graph
from edgecnn.export.qdq import load_float_graph
from edgecnn.model import load
from edgecnn.quantization import QuantizationTable
from samples.training import finetune_int8
from samples.training.loop import open_precisions


def test_what_it_writes_computes_what_pytorch_does_on_nearly_the_same_scales(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    students: list[nn.Module] = []

    def keep(module: nn.Module, calibrated: Path) -> nn.Module:
        students.append(quantized(module, calibrated))
        return students[0]

    quantized = finetune_int8.quantized
    monkeypatch.setattr(finetune_int8, "quantized", keep)
    arguments = ["--steps", "4", "--test-frames", "60", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["finetune_int8", *arguments])
    finetune_int8.main()
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    values = [float(value) for line in printed for value in re.findall(r" (\d+\.\d+) \[", line)]
    assert len(values) == len(printed)
    assert 0 < min(values) < max(values) < 5

    frames = np.load(tmp_path / "frames.npy")[:16]
    x = (torch.from_numpy(frames).permute(0, 3, 1, 2).float() - 127.5) / 128
    with torch.no_grad():
        wanted = [tensor.numpy() for tensor in students[0](x)]
    with open_precisions(tmp_path / "fine-tuned.onnx", ["int8_tensorrt"]) as models:
        on_grid = models["int8_tensorrt"].backend.run({"image": x.numpy()})
    for name, tensor in zip(("offsets", "score"), wanted, strict=True):
        assert np.abs(on_grid[name] - tensor).mean() < 0.01 * np.ptp(tensor), name  # a step here and there

    tables = [
        QuantizationTable.from_metadata(read(tmp_path / f"{name}.onnx").metadata_props)
        for name, read in (("calibrated", load_graph), ("fine-tuned", load_float_graph))
    ]
    assert tables[0] is not None
    assert tables[1] is not None
    own = [entry.amax for entry in tables[0].activations.values()]
    amax = [entry.amax for entry in tables[1].activations.values()]
    assert all(np.isclose(own, value, rtol=0.02).any() for value in amax)
    assert len(tables[0].weights) == len(tables[1].weights) == 6
    build(tmp_path / "fine-tuned.onnx", tmp_path / "built.onnx", precision="int8")
    with load(tmp_path / "built.onnx") as model:
        assert model.backend.run({"image": x.numpy()})["offsets"] == pytest.approx(wanted[0], abs=0.02)
