"""From a model to a plan with its sidecar, through the library and the command line."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecnn.cli import main
from edgecnn.dataset import open_frames
from edgecnn.engine import read_engine_info, sidecar_path
from edgecnn.errors import BuildError, OutputExistsError
from edgecnn.export.graph import load_graph, to_bytes
from edgecnn.export.lowering import lower_graph
from edgecnn.export.tensorrt import build_engine, inspect_engine
from edgecnn.files import sha256_file
from tests.export.tensorrt.conftest import AMPERE
from tests.networks import Net, frames, save, spec

pytestmark = pytest.mark.usefixtures("rtx")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = Net()
    scores = net.add("Gemm", net.pooled(net.relu(net.conv("image", 3, 8))), net.weights(8, 5), name="logits")
    folder = tmp_path_factory.mktemp("model")
    return save(net.model(scores, own_spec=spec(task="classification")), folder / "model.onnx")


@pytest.fixture(scope="module")
def data(model: Path) -> Path:
    np.save(model.with_name("frames.npy"), np.stack(frames()))
    return model.with_name("frames.npy")


@pytest.fixture(scope="module")
def calibrated(model: Path, data: Path) -> Path:
    from edgecnn.calibration import calibrate

    return calibrate(model, data, model.with_name("calibrated.onnx")).path


def test_int8(calibrated: Path, data: Path, tmp_path: Path) -> None:
    result = build_engine(
        calibrated, tmp_path / "model.plan", precision="int8", options=AMPERE, data=open_frames(data, limit=4)
    )
    info = read_engine_info(result.path)
    assert info == result.info
    assert result.sidecar == sidecar_path(result.path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.engine.json", "model.plan"]
    assert dict(info.convolutions) == {"int8": 1.0}
    assert (info.flavour, info.precision, info.compute_capabilities) == ("tensorrt_rtx", "int8", ("8.6",))
    assert (info.plan_bytes, info.plan_sha256) == (
        result.path.stat().st_size,
        sha256_file(result.path),
    )
    assert (info.source, info.source_sha256) == ("calibrated.onnx", sha256_file(calibrated))
    lowered = to_bytes(lower_graph(load_graph(calibrated), "int8", target="tensorrt"))
    assert info.graph_sha256 == sha256(lowered).hexdigest()
    assert info.table_sha256
    assert info.accuracy is not None
    assert info.accuracy["images"] == 4
    assert info.spec is not None
    assert info.spec.task == "classification"


def test_a_graph_that_was_lowered_before(calibrated: Path, tmp_path: Path) -> None:
    lowered = tmp_path / "lowered.onnx"
    lowered.write_bytes(to_bytes(lower_graph(load_graph(calibrated), "int8", target="tensorrt")))
    result = build_engine(lowered, tmp_path / "p", precision="int8", options=AMPERE)
    assert result.info.graph_sha256 == sha256_file(lowered)
    assert result.info.spec is not None
    with pytest.raises(BuildError, match="lowered already: got int8, expected fp16"):
        build_engine(lowered, tmp_path / "q", precision="fp16", options=AMPERE)


def test_a_graph_for_onnx_runtime_is_refused(calibrated: Path, tmp_path: Path) -> None:
    lowered = tmp_path / "lowered.onnx"
    lowered.write_bytes(to_bytes(lower_graph(load_graph(calibrated), "int8")))
    with pytest.raises(BuildError, match=r"lowered already|quantized already"):
        build_engine(lowered, tmp_path / "p", precision="int8", options=AMPERE)


def test_int8_without_calibration(model: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="INT8 needs a calibrated model"):
        build_engine(model, tmp_path / "p", precision="int8", options=AMPERE)
    assert list(tmp_path.iterdir()) == []


def test_a_sidecar_that_exists(model: Path, tmp_path: Path) -> None:
    (tmp_path / "model.engine.json").write_text("{}")
    with pytest.raises(OutputExistsError, match=r"model\.engine\.json exists"):
        build_engine(model, tmp_path / "model.plan", precision="fp32", options=AMPERE)
    build_engine(model, tmp_path / "model.plan", precision="fp32", options=AMPERE, force=True)
    assert read_engine_info(tmp_path / "model.plan").precision == "fp32"


def test_an_unknown_precision(model: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="unknown precision: got int4"):
        build_engine(model, tmp_path / "p", precision="int4")  # type: ignore[arg-type]


def test_inspect_keeps_no_plan(calibrated: Path) -> None:
    result = inspect_engine(calibrated, precision="int8", options=AMPERE)
    assert dict(result.report.convolutions) == {"int8": 1.0}
    assert not result.path.exists()
    as_it_is = inspect_engine(calibrated, options=AMPERE)
    assert dict(as_it_is.report.convolutions) == {"fp32": 1.0}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    code = main([*arguments, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out.splitlines()[-1]) if out else {}, err


RTX = ("--target", "tensorrt-rtx", "--compute-capability", "8.6,12.0")


def test_command_build(calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "model.engine"
    code, report, err = run(
        capsys, "build", str(calibrated), *RTX, "--precision", "int8", "-o", str(plan), "--workspace", "1G"
    )
    assert code == 0
    assert report["convolutions_int8"] == 1.0
    assert report["compute_capabilities"] == ["8.6", "12.0"]
    assert report["estimates"]["orin-nano-8gb"]["estimate"] is True
    assert report["warnings"] == []
    assert "100.0% int8" in err  # the table, out of the way of the JSON
    assert read_engine_info(plan).precision == "int8"


def test_command_inspect(calibrated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report, _ = run(capsys, "inspect", str(calibrated), *RTX, "--precision", "int8")
    assert code == 0
    assert report["convolutions_int8"] == 1.0
    assert len(report["layers"]) >= report["kernels"] > 0
    assert main(["inspect", str(calibrated), *RTX]) == 0
    assert "100.0% fp32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("build", "--precision", "fp16", "--module", "orin-nano-8gb", *RTX), "--module: not with"),
        (("build", "--module", "orin-nano-8gb"), "--module: not with --target onnxruntime"),
        (("build", "--precision", "fp32", "--threads", "1", *RTX), "--threads"),
        (("build", "--precision", "fp32", "--workspace", "1G"), "--workspace: only with --target tensorrt"),
        (("build", "--precision", "fp32", "--workspace", "lots", *RTX), "'lots' is no size"),
        (("build", "--precision", "fp32", "--batch", "1,2", *RTX), "'1,2' is no range of batches"),
        (("build", "--precision", "fp32", "--shape", "1x3", *RTX), "is no range of shapes"),
        (("inspect", "--precision", "int8"), "--precision: only with --target"),
        (("inspect", "--dla", "0"), "--dla: only with --target"),
    ],
)
def test_wrong_usage(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: str,
) -> None:
    command, *rest = arguments
    output = ["-o", str(tmp_path / "p")] if command == "build" else []
    assert main([command, str(model), *rest, *output]) == 2
    assert words in capsys.readouterr().err


def test_an_option_that_the_library_has_no_use_for(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report, _ = run(
        capsys, "build", str(model), *RTX, "--precision", "fp32", "--dla", "0", "-o", str(tmp_path / "p")
    )
    assert code == 1
    assert report["error"]["type"] == "BuildError"
    assert "dla_core cannot be honoured" in report["error"]["message"]
