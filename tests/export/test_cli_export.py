"""`edgecnn export` as people call it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
import onnx
import torch

from edgecnn.cli import main
from tests.export.networks import SIZE
from tests.export.userland import Models

HERE = "tests.export.userland"
ROOT = Path(__file__).parents[2]
SPEC = ["--preset", "imagenet", "--input-size", f"{SIZE}x{SIZE}"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main(["export", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(Models.small().state_dict(), tmp_path / "w.pth")
    path = tmp_path / "model.onnx"
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\nd\ne\n")
    code, out, err = run(
        capsys,
        f"{HERE}:Models.small",
        "--weights",
        tmp_path / "w.pth",
        *SPEC,
        "--labels",
        labels,
        "-o",
        path,
        "--json",
    )
    assert code == 0
    report = json.loads(out.splitlines()[-1])
    assert len(out.splitlines()) == 1
    assert set(report) >= {
        "path",
        "size_bytes",
        "opset",
        "inputs",
        "outputs",
        "nodes",
        "parity",
        "spec",
        "seconds",
    }
    assert report["path"] == str(path)
    assert report["size_bytes"] == path.stat().st_size
    assert report["inputs"] == [{"name": "image", "shape": [1, 3, SIZE, SIZE], "dtype": "float32"}]
    assert report["outputs"] == [{"name": "logits", "shape": [1, 5], "dtype": "float32"}]
    assert report["nodes"] == {"Conv": 1, "Relu": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}
    assert report["parity"]["outputs"]["logits"]["relative_error"] < 1e-5
    assert report["spec"]["labels"] == ["a", "b", "c", "d", "e"]
    assert report["spec"]["name"] == "Sequential"
    assert "Conv" in err  # the summary is for the person then

    metadata = {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}
    assert metadata["edgecnn.spec"] == report["spec"]
    origin = metadata["edgecnn.export"]
    assert origin["source"]["factory"] == f"{HERE}:Models.small"
    assert origin["source"]["weights"]["file"] == "w.pth"
    assert origin["versions"]["torch"] == torch.__version__
    assert origin["parity"] == report["parity"]


def test_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    code, out, err = run(capsys, f"{HERE}:talkative", *SPEC, "-o", path, "--batch", "dynamic")
    assert code == 0
    assert err == "building a network\n"  # what the user's code prints, and nothing of torch's
    assert out.splitlines()[0].startswith(f"file    {path}  0.0 MB, opset 19")
    assert "image  float32 (batch, 3, 16, 16)" in out
    assert "logits  float32 (batch, 5)" in out
    assert "1 Conv" in out
    assert "of the range" in out
    assert "the same class for 100.0%" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [f"{HERE}:READY"],
            "nothing says how a frame becomes the network's input: expected --preset imagenet|",
        ),
        ([f"{HERE}:READY", *SPEC, "--opset", "16"], "opset out of range: got 16, expected 17 to 23"),
        ([f"{HERE}:READY", *SPEC, "--opset", "24"], "opset out of range"),
        (
            [f"{HERE}:READY", *SPEC, "--color", "GRAY"],
            "does not run on an image tensor (1, 1, 16, 16) float32",
        ),
        ([f"{HERE}:READY", *SPEC, "--task", "no_such"], "unknown task: got no_such"),
        (
            [f"{HERE}:READY", *SPEC, "--labels", "imagenet"],
            "labels do not fit the model: got 1000 labels, expected 5",
        ),
        ([f"{HERE}:READY", *SPEC, "--output-names", "a,b"], "the output names do not fit the module"),
        ([f"{HERE}:TwoInputs", *SPEC], "takes other inputs than one image: got forward(image, mask)"),
        ([f"{HERE}:NotTensors", *SPEC], "returns something else than tensors: got name: str"),
        ([f"{HERE}:TwoOutputs", *SPEC], "which one holds the class scores?: got output_0, output_1"),
        ([f"{HERE}:failing", *SPEC], "failed: got ValueError: no such dataset"),
        ([f"{HERE}:READY", *SPEC, "--weights", "none.pth"], "weights none.pth does not exist"),
    ],
)
def test_errors_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *arguments, "-o", tmp_path / "model.onnx")
    assert code == 1
    assert out == ""
    assert err.startswith("edgecnn: error: ")
    assert len(err.splitlines()) == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_error_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, f"{HERE}:READY", "-o", tmp_path / "model.onnx", "--json")
    assert code == 1
    assert json.loads(out.splitlines()[-1])["error"]["type"] == "SpecError"


@pytest.mark.parametrize("batch", ["0", "-1", "many", "1.5"])
def test_wrong_usage(batch: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, f"{HERE}:READY", *SPEC, "-o", tmp_path / "m.onnx", "--batch", batch)
    assert code == 2
    assert "expected a number of images, or dynamic" in err


def test_output_is_checked_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = tmp_path / "there.onnx"
    there.write_bytes(b"precious")
    for path, message in (
        (there, "exists. Use --force"),
        (tmp_path / "no" / "model.onnx", "mkdir -p"),
        (tmp_path, "a folder"),
    ):
        code, _, err = run(capsys, "no_such_module:make", "-o", path)
        assert code == 1
        assert message in err
    assert there.read_bytes() == b"precious"
    assert run(capsys, f"{HERE}:READY", *SPEC, "-o", there, "--force")[0] == 0
    onnx.checker.check_model(str(there))


def test_several_outputs_as_raw_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    code, out, _ = run(
        capsys,
        f"{HERE}:TwoOutputs",
        *SPEC,
        "--task",
        "raw",
        "--output-names",
        "mean,peak",
        "-o",
        path,
        "--json",
    )
    assert code == 0
    assert [entry["name"] for entry in json.loads(out)["outputs"]] == ["mean", "peak"]
    assert json.loads(out)["parity"]["top1_agreement"] is None


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert "edgecnn export timm:mobilenetv3_small_100 --weights best.safetensors" in out
    assert "SOURCE is a program" in out


def subprocess_command(*arguments: str | Path) -> list[str]:
    return [
        sys.executable,
        "-c",
        "from edgecnn.cli import entry_point; entry_point()",
        "export",
        *map(str, arguments),
    ]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def test_as_a_process(tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(
        "from torch import nn\n"
        "def make(classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.AdaptiveAvgPool2d(1),\n"
        "                         nn.Flatten(), nn.Linear(8, classes), nn.Softmax(dim=1))\n"
    )
    done = subprocess.run(
        subprocess_command("mynet:make", "--arg", "classes=4", *SPEC, "-o", "model.onnx", "--json"),
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert len(done.stdout.splitlines()) == 1
    assert report["outputs"][0] == {"name": "probabilities", "shape": [1, 4], "dtype": "float32"}
    assert report["spec"]["head"] == {"scores": "probabilities"}
    for noise in ("Warning", "[torch.onnx]", "W1", "Traceback"):
        assert noise not in done.stderr


def test_without_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
    )
    done = subprocess.run(
        subprocess_command("mynet:make", *SPEC, "-o", "model.onnx"), cwd=tmp_path,
        env={**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "edgecnn: error: torch is not installed. pip install 'edgecnn[export]'\n"


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, edgecnn.export; print({'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_interrupted_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import torch, time, pathlib\n"
        "class Slow(torch.nn.Module):\n"
        "    def forward(self, image):\n"
        "        pathlib.Path('running').touch()\n"
        "        time.sleep(60)\n"
    )
    process: Any = subprocess.Popen(
        subprocess_command("slow:Slow", *SPEC, "-o", "model.onnx"), cwd=tmp_path, env=ENVIRONMENT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "running").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "interrupted" in err
    assert "Traceback" not in err
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"slow.py", "running"}
