from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgecnn.cli import main
from edgecnn.spec import ImageSpec, ModelSpec
from tests.onnx_files import write_means, write_onnx

Captured = pytest.CaptureFixture[str]

SPEC = ModelSpec(
    task="classification", image=ImageSpec(size_hw=(16, 16)), labels=("Käse", "{0}", "\x1b[31m"), name="small"
)


def write_small(path: Path, **options: Any) -> Path:
    """A convolution and a mean: (1, 3, 16, 16) → (1, 3)."""
    weights = np.random.default_rng(0).standard_normal((3, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "weights"], ["features"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["features"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    constants = [numpy_helper.from_array(weights, "weights")]
    return write_onnx(
        path, nodes, {"image": [1, 3, 16, 16]}, {"logits": [1, 3]}, constants=constants, spec=SPEC, **options
    )


def inspected(path: Path, capsys: Captured) -> tuple[dict[str, Any], str]:
    """The report, and the table for people."""
    capsys.readouterr()
    assert main(["inspect", str(path), "--json"]) == 0
    out, table = capsys.readouterr()
    assert main(["inspect", str(path)]) == 0
    assert capsys.readouterr() == (table, "")  # the same table, on stdout
    report = json.loads(out)
    assert isinstance(report, dict)
    return report, table


def cells(table: str) -> dict[str, str]:
    """First column → second column, folded lines joined."""
    found: dict[str, str] = {}
    name = ""
    for line in table.splitlines():
        if line.startswith("│"):
            first, second = (cell.strip() for cell in line.strip("│").split("│"))
            name = first or name
            found[name] = f"{found.get(name, '')} {second}".strip()
    return found


def test_an_exported_file(tmp_path: Path, capsys: Captured) -> None:
    path = write_small(
        tmp_path / "model.onnx", metadata={"edgecnn.export": '{"source": "mynet:build", "none": null}'}
    )
    report, table = inspected(path, capsys)
    content = path.read_bytes()
    assert report == {
        "path": str(path),
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "backend": "onnxruntime",
        "backend_reason": "the one that runs .onnx files",
        "inputs": [{"name": "image", "shape": [1, 3, 16, 16], "dtype": "float32"}],
        "outputs": [{"name": "logits", "shape": [1, 3], "dtype": "float32"}],
        "spec": json.loads(SPEC.to_json()),
        "quantization": None,
        "accuracy": None,
        "build": None,
        "export": {"source": "mynet:build", "none": None},
        "operators": report["operators"],
    }
    assert sum(report["operators"].values()) >= 3
    assert any("Conv" in name for name in report["operators"])
    rows = cells(table)
    assert rows["input image"] == "float32 (1, 3, 16, 16)"
    assert rows["spec: image.size_hw"] == "[16, 16]"
    assert rows["spec: labels"] == "3"  # not a thousand names
    assert rows["export: source"] == "mynet:build"
    assert rows["export: none"] == "–"
    assert rows["quantization"] == rows["accuracy"] == rows["build"] == "none"


def test_a_calibrated_and_a_built_file(tmp_path: Path, capsys: Captured) -> None:
    model, calibrated, built = write_small(tmp_path / "m.onnx"), tmp_path / "c.onnx", tmp_path / "b.onnx"
    frames = tmp_path / "frames.npy"
    np.save(frames, np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), np.uint8))
    assert main(["calibrate", str(model), "--data", str(frames), "-o", str(calibrated)]) == 0
    assert main(["build", str(calibrated), "--precision", "int8", "-o", str(built)]) == 0
    report, table = inspected(calibrated, capsys)
    assert report["quantization"]["method"] in ("auto", "minmax")  # minmax where it was better
    assert report["quantization"]["frames"] == 8  # a fifth is held out
    assert report["quantization"]["weights"] == 1
    assert report["accuracy"]["images"] == 2
    assert report["build"] is None
    rows = cells(table)
    assert rows["quantization: frames"] == "8"
    assert rows["accuracy: top1_agreement"] == f"{report['accuracy']['top1_agreement']:.5g}"
    report, table = inspected(built, capsys)
    assert report["build"]["precision"] == "int8"
    assert report["operators"]["QLinearConv"] == 1
    assert cells(table)["build: precision"] == "int8"
    assert "QLinearConv" in cells(table)["operators that are run"]


def test_a_foreign_file(tmp_path: Path, capsys: Captured) -> None:
    path = write_means(tmp_path / "foreign.onnx", size=("H", 8), metadata={"author": "somebody"})
    report, table = inspected(path, capsys)
    assert report["spec"] is None
    assert report["inputs"] == [{"name": "image", "shape": [None, 3, None, 8], "dtype": "float32"}]
    rows = cells(table)
    assert rows["spec"] == "none"
    assert rows["input image"] == "float32 (N, 3, N, 8)"


def test_weights_beside_the_file(tmp_path: Path, capsys: Captured) -> None:
    path = write_small(tmp_path / "model.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size == 3 * 3 * 3 * 3 * 4
    report, table = inspected(path, capsys)
    assert report["operators"] is None
    assert "operators that are run" not in table


def test_metadata_cannot_steer_the_terminal(tmp_path: Path, capsys: Captured) -> None:
    planted = {"edgecnn.export": json.dumps({"\x1b[2J": "\x1b]0;owned\x07", "markup": "[red]x[/red]"})}
    report, table = inspected(write_small(tmp_path / "model.onnx", metadata=planted), capsys)
    assert report["export"] == json.loads(planted["edgecnn.export"])
    assert "\x1b" not in table
    assert cells(table)[r"export: \x1b[2J"] == r"\x1b]0;owned\x07"
    assert cells(table)["export: markup"] == "[red]x[/red]"


def test_a_machine_without_onnx(tmp_path: Path) -> None:
    """A board that only runs models has none; what needs it is left out."""
    path = write_small(tmp_path / "model.onnx")
    code = (
        "import sys\n"
        "for name in ('onnx', 'onnx_ir', 'torch', 'onnxscript'): sys.modules[name] = None\n"
        "from edgecnn.cli import main\n"
        f"sys.exit(main(['inspect', {str(path)!r}, '--json']))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["operators"] is None
    assert report["spec"]["name"] == "small"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.onnx", None, "does not exist"),
        ("model.engine", b"x", "model.engine.json"),
        ("empty.onnx", b"", "empty.onnx"),
        ("text.onnx", b"hello, this is no model", "text.onnx"),
    ],
)
def test_what_is_no_model(
    name: str, content: bytes | None, message: str, tmp_path: Path, capsys: Captured
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert main(["inspect", str(tmp_path / name), "--json"]) == 1
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 1
    assert message in err
    assert message in json.loads(out)["error"]["message"]


@pytest.mark.parametrize("key", ["spec", "quantization", "accuracy", "build", "export"])
def test_damaged_metadata_is_named(key: str, tmp_path: Path, capsys: Captured) -> None:
    path = write_means(tmp_path / "model.onnx", metadata={f"edgecnn.{key}": '{"a": NaN}'})
    assert main(["inspect", str(path)]) == 1
    assert key in capsys.readouterr().err
