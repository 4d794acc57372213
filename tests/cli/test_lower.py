from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from edgecnn.cli import main
from edgecnn.export.graph import save_graph
from tests.broken import BROKEN, convnet
from tests.networks import Net, calibrated, graph_of, save


@pytest.fixture
def model(tmp_path: Path) -> Path:
    net = Net()
    graph = graph_of(net.model(net.pooled(net.relu(net.conv("image", 3, 8)))), tmp_path)
    return save_graph(calibrated(graph), tmp_path / "calibrated.onnx")


@pytest.mark.parametrize(
    ("precision", "operator"), [("fp32", "Relu"), ("fp16", "Cast"), ("int8", "QuantizeLinear")]
)
def test_every_precision(
    precision: str, operator: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "lowered.onnx"
    assert main(["lower", str(model), "--precision", precision, "-o", str(output), "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    onnx.checker.check_model(output, full_check=True)
    assert operator in [node.op_type for node in onnx.load(output).graph.node]
    assert (report["path"], report["precision"], report["target"]) == (str(output), precision, "onnxruntime")
    assert report["size_bytes"] == output.stat().st_size
    assert report["nodes"][operator] >= 1


def test_for_people(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lower", str(model), "--precision", "int8", "-o", str(tmp_path / "lowered.onnx")]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{tmp_path / 'lowered.onnx'}: int8 for onnxruntime, ")
    assert err == ""


def test_a_foreign_model_needs_no_spec_here(tmp_path: Path) -> None:
    source = save(convnet(opset=9), tmp_path / "foreign.onnx")
    assert main(["lower", str(source), "--precision", "fp16", "-o", str(tmp_path / "lowered.onnx")]) == 0


def test_a_lowered_model_is_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
    assert main(["lower", str(model), "--precision", "int8", "-o", str(once)]) == 0
    capsys.readouterr()
    assert main(["lower", str(once), "--precision", "fp16", "-o", str(twice)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "the model is lowered already: got int8" in line
    assert not twice.exists()


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    BROKEN[kind](path)
    assert main(["lower", str(path), "--precision", "fp32", "-o", str(tmp_path / "lowered.onnx")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "internal error" not in err


def test_an_existing_output_is_refused_before_the_model_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.onnx").touch()
    assert main(["lower", "no.onnx", "--precision", "fp32", "-o", str(tmp_path / "there.onnx")]) == 1
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["m.onnx", "-o", "out.onnx"], ["m.onnx", "--precision", "int8"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert main(["lower", *arguments]) == 2
