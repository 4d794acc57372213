"""The fine-tuning sample on a handful of frames: what it starts from, and what it writes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgecnn.backends.onnxruntime import OnnxRuntimeBackend
from edgecnn.export.graph import load_graph, to_bytes
from edgecnn.export.lowering.tensorrt_int8 import quantize
from edgecnn.export.qdq import load_float_graph
from edgecnn.quantization import QuantizationTable
from samples.training import finetune_int8
from samples.training.digit_crops import DigitCrops


def test_it_starts_from_the_calibrated_network_and_its_scales_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    starts: list[nn.Sequential] = []

    def keep(module: nn.Sequential, calibrated: Path) -> nn.Sequential:
        starts.append(quantized(module, calibrated).eval())
        return quantized(module, calibrated)

    def small() -> nn.Sequential:
        stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU()
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
        return nn.Sequential(*stem, finetune_int8.Block(8, 8, 1), *head)

    quantized = finetune_int8.quantized
    monkeypatch.setattr(finetune_int8, "quantized", keep)
    monkeypatch.setattr(finetune_int8, "network", small)
    arguments = ["--steps", "5", "--test-frames", "40", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["finetune_int8", *arguments])
    finetune_int8.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert [row[0] for row in rows] == ["float", "plain", "calibrated", "fine-tuned"]
    assert rows[0][1:4] == ["inf", "dB", "100.00%"]
    assert all(float(row[1]) > 10 for row in rows)

    # before the first step the network in PyTorch computes what the calibrated model does on TensorRT's grid,
    # which leaves the gates in float
    graph = load_graph(tmp_path / "calibrated.onnx")
    table = QuantizationTable.from_metadata(graph.metadata_props)
    assert table is not None
    quantize(graph.graph, table, set(graph.graph))
    frames, _ = DigitCrops(training=False)(3, count=16)
    images = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    expected = OnnxRuntimeBackend(to_bytes(graph), optimized=False).run({"image": images.numpy()})["logits"]
    with torch.no_grad():
        actual = starts[0](images).numpy()
    error = np.abs(actual - expected).max() / np.ptp(expected)
    assert error < 0.02  # sums between two steps are rounded up here and down there

    tuned = QuantizationTable.from_metadata(load_float_graph(tmp_path / "fine-tuned.onnx").metadata_props)
    assert tuned is not None
    amax = sorted(entry.amax for entry in tuned.activations.values())
    own = sorted(entry.amax for entry in table.activations.values())
    assert all(np.isclose(own, value, rtol=1e-5).any() for value in amax)
    assert (len(table.weights), len(tuned.weights)) == (7, 5)  # without the two layers of the gate
