"""A model that was trained with Q/DQ in it, through every command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecnn.cli import main
from tests.export.test_qdq import STEP, Quantized
from tests.networks import frames, save, spec


@pytest.fixture
def model(tmp_path: Path) -> Path:
    net = Quantized(("N", 3, 8, 8))
    x = net.add("Conv", net.fake("image"), net.stored(net.steps(8, 3, 3, 3), [STEP] * 8), pads=[1] * 4)
    x = net.add(
        "Conv", net.fake(net.relu(x)), net.stored(net.steps(8, 8, 3, 3), [STEP / 4] * 8), pads=[1] * 4
    )
    x = net.fake(net.pooled(net.relu(x)))
    scores = net.add("Gemm", x, net.stored(net.steps(8, 5), [STEP] * 5, axis=1), name="scores")
    own = spec(task="classification")
    return save(net.model(scores, own_spec=own, exported=False), tmp_path / "qat.onnx")


def result(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_inspect_lower_build_compare(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quantization = result(capsys, "inspect", str(model))["quantization"]
    assert (quantization["method"], quantization["tensors"], quantization["weights"]) == ("graph", 3, 3)
    assert result(capsys, "table", str(model))["scales"]["image"] == STEP
    for target in ("onnxruntime", "tensorrt"):
        output = str(tmp_path / f"{target}.onnx")
        nodes = result(capsys, "lower", str(model), "--precision", "int8", "--target", target, "-o", output)[
            "nodes"
        ]
        assert nodes["DequantizeLinear"] >= 5
    data = tmp_path / "frames.npy"
    np.save(data, np.stack(frames()))
    built = str(tmp_path / "built.onnx")
    report = result(capsys, "build", str(model), "--precision", "int8", "--data", str(data), "-o", built)
    candidate = next(entry for entry in report["candidates"] if entry["precision"] == "int8")
    assert candidate["accuracy"]["images"] == 12
    assert candidate["convolutions"]["int8"] >= 1
    # what is run as it is and what was built of it: the same numbers, but where a sum lies between two steps
    agreement = result(capsys, "compare", str(model), built, "--data", str(data))
    decibels = agreement["outputs"]["scores"]["sqnr_db"]
    assert decibels is None or decibels > 40


def test_calibrate_says_what_to_do_instead(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", str(model), "--data", "photos", "-o", str(tmp_path / "out.onnx")]) == 1
    message = capsys.readouterr().err
    assert "the model is quantized already" in message
    assert "build --precision int8" in message
    assert "--ranges" in message


def test_tensorrt_compiles_it(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx")
    engine = str(tmp_path / "model.engine")
    arguments = ["--precision", "int8", "--target", "tensorrt-rtx", "--compute-capability", "8.6"]
    report = result(capsys, "build", str(model), *arguments, "-o", engine)
    assert report["convolutions"]["int8"] == 1.0


@pytest.mark.parametrize(
    "arguments",
    [
        ("calibrate", "MODEL", "--ranges", "a.cache", "--rounding", "nearest", "-o", "OUT"),
        ("calibrate", "MODEL", "--ranges", "a.cache", "--limit", "512", "--threads", "2", "-o", "OUT"),
    ],
    ids=["rounding without frames", "limit without frames"],
)
def test_what_would_be_ignored_is_refused(
    arguments: tuple[str, ...], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, output = model.read_bytes(), tmp_path / "out.onnx"
    paths = {"MODEL": str(model), "OUT": str(output)}
    assert main([paths.get(argument, argument) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert "--" in said
    assert (model.read_bytes(), output.exists()) == (before, False)


@pytest.mark.parametrize(
    "command",
    [
        "lower {model} --precision fp16 -o {model}",
        "build {model} --precision fp16 -o {model}",
        "build {model} --precision fp16 --target tensorrt-rtx -o {model}",
        "build {model} --precision auto --target tensorrt-rtx --data {data} -o {model}",
        "table {model} -o {model}",
        "export {model} -o {model}",
        "export torchvision:resnet18 --weights {model} -o {model}",
        "calibrate {model} --data {data} -o {model}",
        "calibrate {model} --data {data} -o {other} --report {data}",
        "calibrate {model} --data {data} -o {other} --report {other}",
        "calibrate {model} --ranges {data} -o {model}",
        "calibrate {model} --ranges {other} -o {other}",
    ],
)
def test_what_is_read_is_never_overwritten(
    command: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "rtx" in command:
        pytest.importorskip("tensorrt_rtx")
    data, other = tmp_path / "frames.npy", tmp_path / "other"
    np.save(data, np.stack(frames()))
    before = model.read_bytes(), data.read_bytes()
    assert main([*command.format(model=model, data=data, other=other).split(), "--force"]) == 1
    assert "a path that is given twice" in capsys.readouterr().err
    assert (model.read_bytes(), data.read_bytes()) == before
    assert not other.exists()
