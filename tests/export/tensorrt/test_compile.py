"""The real compiler of TensorRT for RTX, which needs no GPU."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecnn.errors import (
    BackendUnavailableError,
    BuildError,
    ModelFormatError,
    ModelNotFoundError,
    OutputError,
    OutputExistsError,
)
from edgecnn.export.tensorrt import CompileOptions, CompileResult, ShapeRange, compile_onnx
from edgecnn.files import sha256_file
from tests.export.tensorrt.conftest import AMPERE
from tests.export.tensorrt.graphs import SIDE, fully_connected, two_convolutions, unknown_operator

pytestmark = pytest.mark.usefixtures("rtx")


@pytest.mark.parametrize("capabilities", [("8.6",), ("12.0",), ("8.6", "12.0"), ()])
def test_compiles_for_gpus_that_are_not_here(tmp_path: Path, capabilities: tuple[str, ...]) -> None:
    output = tmp_path / "model.plan"
    options = CompileOptions(compute_capabilities=capabilities)
    result = compile_onnx(two_convolutions("fp16"), output, options)
    assert result.path == output
    assert result.plan_bytes == output.stat().st_size > 1000
    assert result.plan_sha256 == sha256_file(output)
    assert result.compute_capabilities == capabilities
    assert result.gpu is None
    assert result.library.startswith("1.")
    assert [(item.name, item.dtype, item.shape) for item in result.inputs] == [
        ("x", "float16", (1, 8, SIDE, SIDE))
    ]
    assert [(item.name, item.shape) for item in result.outputs] == [("conv1", (1, 32, SIDE, SIDE))]
    assert dict(result.report.convolutions) == {"fp16": 1.0}
    assert result.warnings == ()
    assert list(tmp_path.iterdir()) == [output]


def test_a_path_is_as_good_as_bytes(tmp_path: Path, compiled: Callable[..., CompileResult]) -> None:
    content = two_convolutions()
    source = tmp_path / "model.onnx"
    source.write_bytes(content)
    result = compile_onnx(source, tmp_path / "model.plan", AMPERE)
    other = compiled(content)
    assert result.graph_sha256 == other.graph_sha256
    assert result.report.totals() == other.report.totals()


def test_progress_only_grows(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[str, int, int | None]] = []
    compile_onnx(two_convolutions(), tmp_path / "p", AMPERE, lambda *event: seen.append(event))
    assert {(stage, total) for stage, _, total in seen} == {("compiling", 1000)}
    done = [count for _, count, _ in seen]
    assert done == sorted(set(done))
    assert done[-1] == 1000
    assert len(done) > 10
    assert capfd.readouterr() == ("", "")  # and TensorRT says nothing on the user's terminal


def test_free_batch(tmp_path: Path) -> None:
    options = CompileOptions(compute_capabilities=("8.6",), batch=(1, 4, 8))
    result = compile_onnx(two_convolutions(batch="N"), tmp_path / "p", options)
    assert result.inputs[0].shape == (None, 8, SIDE, SIDE)
    wanted = ShapeRange((1, 8, SIDE, SIDE), (4, 8, SIDE, SIDE), (8, 8, SIDE, SIDE))
    assert result.profiles == ({"x": wanted},)
    assert result.report.batch == 4
    one = compile_onnx(two_convolutions(batch="N"), tmp_path / "q", AMPERE)
    assert one.profiles[0]["x"].max[0] == 1
    assert result.report.macs == 4 * one.report.macs
    assert result.report.activation_bytes == 4 * one.report.activation_bytes


@pytest.mark.parametrize(
    ("batch", "options", "words"),
    [
        (1, {"batch": (1, 1, 2)}, "every input has a fixed shape.*--batch dynamic"),
        ("N", {"shapes": {"y": ShapeRange((1,), (1,), (1,))}}, "shapes name no input: got y, expected x"),
        ("N", {"shapes": {"x": ShapeRange((1, 8), (1, 8), (1, 8))}}, "a shape for input x is wrong"),
        ("N", {"shapes": {"x": ShapeRange(*[(1, 9, 16, 16)] * 3)}}, "a shape for input x is wrong"),
        (1, {"compute_capabilities": ("8.7",)}, "compute capability: got 8.7, expected .*8.6"),
    ],
)
def test_what_does_not_fit_the_network(
    tmp_path: Path, batch: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(BuildError, match=words):
        compile_onnx(two_convolutions(batch=batch), tmp_path / "p", CompileOptions(**options))
    assert list(tmp_path.iterdir()) == []


def test_the_parser_names_the_operator(tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        compile_onnx(unknown_operator(), tmp_path / "p", AMPERE)
    assert "TensorRT's parser does not accept the model" in str(caught.value)
    assert "Frobnicate" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_compilers_own_error(tmp_path: Path) -> None:
    output = tmp_path / "p"
    output.write_bytes(b"an older plan")
    with pytest.raises(BuildError) as caught:
        compile_onnx(fully_connected(), output, CompileOptions(compute_capabilities=("7.5",)), force=True)
    assert "TensorRT for RTX cannot build this network" in str(caught.value)
    assert "FP32 GEMM is not supported" in str(caught.value)
    assert "/_src/" not in str(caught.value)
    assert output.read_bytes() == b"an older plan"


@pytest.mark.parametrize("content", [b"", b"hello world", two_convolutions()[:500]])
def test_no_onnx(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ModelFormatError):
        compile_onnx(content, tmp_path / "p", AMPERE)
    assert list(tmp_path.iterdir()) == []


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        compile_onnx(tmp_path / "model.onnx", tmp_path / "p")


def test_an_output_that_exists(tmp_path: Path) -> None:
    output = tmp_path / "p"
    output.write_bytes(b"mine")
    with pytest.raises(OutputExistsError):
        compile_onnx(two_convolutions(), output, AMPERE)
    assert output.read_bytes() == b"mine"
    compile_onnx(two_convolutions(), output, AMPERE, force=True)
    assert output.stat().st_size > 1000


def test_disk_full(tmp_path: Path) -> None:
    output = tmp_path / "p"
    content = two_convolutions(scale=16)  # 1.1 MB of weights
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (800_000, hard))
    try:
        with pytest.raises(OutputError, match=f"cannot write {output}.*too large"):
            compile_onnx(content, output, AMPERE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"version_compatible": True}, "no lean runtime"),
        ({"hardware_compatibility": "ampere_plus"}, "TensorRT for RTX ignores it"),
        ({"timing_cache": "cache"}, "measures no kernels"),
        ({"dla_core": 0}, "a Jetson that has a DLA"),
    ],
)
def test_what_rtx_has_no_use_for_is_refused(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(BuildError, match=f"{next(iter(options))} cannot be honoured.*{reason}"):
        compile_onnx(two_convolutions(), tmp_path / "p", CompileOptions(**options))


def test_a_library_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendUnavailableError, match=r"TensorRT is not installed.*--system-site-packages"):
        compile_onnx(two_convolutions(), tmp_path / "p", flavour="tensorrt")


def test_a_library_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken"
    (broken / "tensorrt").mkdir(parents=True)
    (broken / "tensorrt" / "__init__.py").write_text("raise ImportError('libnvinfer.so.10: not found')\n")
    monkeypatch.syspath_prepend(broken)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(BackendUnavailableError, match=r"cannot be used: got libnvinfer\.so\.10: not found"):
        compile_onnx(two_convolutions(), tmp_path / "p", flavour="tensorrt")


def test_an_unknown_flavour(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="unknown flavour of TensorRT: got cudnn"):
        compile_onnx(two_convolutions(), tmp_path / "p", flavour="cudnn")  # type: ignore[arg-type]
