"""What can be asked, and what is done for TensorRT itself, on a stand-in with TensorRT for RTX behind it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from edgecnn.errors import BuildError
from edgecnn.export.tensorrt import CompileOptions, ShapeRange, compile_onnx
from edgecnn.export.tensorrt.options import default_workspace, parse_capability
from edgecnn.export.tensorrt.progress import Phases
from edgecnn.export.tensorrt.timing_cache import TimingCache
from tests.export.tensorrt.graphs import two_convolutions


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"workspace_bytes": 1000}, "workspace_bytes is wrong: got 1000"),
        ({"workspace_bytes": 2.5e9}, "workspace_bytes is wrong"),
        ({"optimization_level": 6}, "optimization_level is wrong: got 6, expected 0 to 5"),
        ({"optimization_level": True}, "optimization_level is wrong"),
        ({"batch": (1, 2)}, "batch is wrong.*three numbers"),
        ({"batch": (4, 2, 8)}, "range of shapes is wrong"),
        ({"batch": (0, 1, 1)}, "range of shapes is wrong"),
        ({"compute_capabilities": "8.6"}, "compute_capabilities is wrong.*a tuple"),
        ({"compute_capabilities": ("8.6", "86")}, "expected each once"),
        ({"compute_capabilities": ("ampere",)}, "a compute capability is wrong: got 'ampere'"),
        (
            {"hardware_compatibility": "all"},
            "hardware_compatibility is wrong: got all, expected none, ampere",
        ),
        ({"dla_core": -1}, "dla_core is wrong"),
        ({"gpu_fallback": True}, "gpu_fallback is wrong"),
    ],
)
def test_what_is_wrong_in_itself(options: dict[str, Any], words: str) -> None:
    with pytest.raises(BuildError, match=words):
        CompileOptions(**options)


@pytest.mark.parametrize(
    ("text", "name"),
    [("8.6", "8.6"), ("86", "8.6"), ("sm_87", "8.7"), ("SM120", "12.0"), ("12.1", "12.1"), (" 7.5 ", "7.5")],
)
def test_names_of_capabilities(text: str, name: str) -> None:
    assert parse_capability(text) == name


@pytest.mark.parametrize("text", ["", "8", "8.", "8.66", "٨.٦", "sm"])
def test_no_names_of_capabilities(text: str) -> None:
    with pytest.raises(BuildError):
        parse_capability(text)


def test_a_range_of_shapes_takes_lists() -> None:
    shapes: Any = ([1, 3], [2, 3], [4, 3])
    assert ShapeRange(*shapes) == ShapeRange((1, 3), (2, 3), (4, 3))
    with pytest.raises(BuildError, match="range of shapes"):
        ShapeRange((1, 3), (1, 3, 3), (1, 3))


def test_the_default_workspace(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       7990000 kB\nMemAvailable:   4000000 kB\n")
    assert default_workspace(meminfo) == 4_000_000 * 1024 // 2 // (1 << 20) * (1 << 20)
    meminfo.write_text("MemAvailable:   1000 kB\n")
    assert default_workspace(meminfo) == 256 << 20
    meminfo.write_text("nothing of the kind\n")
    assert default_workspace(meminfo) is None
    assert default_workspace(tmp_path / "missing") is None


def test_nested_phases_by_hand() -> None:
    phases = Phases()
    assert phases.fraction == 0
    phases.start("build", None, 4)
    phases.step("build", 0)
    assert phases.fraction == 0.25
    phases.start("time", "build", 2)
    phases.step("time", 0)
    assert phases.fraction == (1 + 0.5) / 4
    phases.finish("time")
    assert phases.fraction == (1 + 0.5) / 4  # it never goes back
    phases.step("build", 1)
    assert phases.fraction == 0.5
    phases.step("unknown", 7)
    phases.finish("build")
    assert phases.fraction == 1


@pytest.fixture
def stand_in(tmp_path: Path, rtx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module `tensorrt`: the same API, and no GPU is needed."""
    package = tmp_path / "library" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from tensorrt_rtx import *\nfrom tensorrt_rtx import IProgressMonitor, __version__\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "library")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("stand_in")
def test_the_timing_cache_is_kept(tmp_path: Path) -> None:
    compile_onnx(two_convolutions(), tmp_path / "p", flavour="tensorrt")
    (kept,) = (tmp_path / "cache" / "edgecnn" / "tensorrt").iterdir()
    assert kept.name.startswith("tensorrt-1.")
    assert kept.stat().st_size > 0
    kept.write_bytes(b"damaged")
    own = CompileOptions(timing_cache=tmp_path / "folder" / "my.cache")
    compile_onnx(two_convolutions(), tmp_path / "q", own, flavour="tensorrt")
    assert (tmp_path / "folder" / "my.cache").stat().st_size > 0
    assert kept.read_bytes() == b"damaged"  # not asked for
    none = CompileOptions(timing_cache=False)
    compile_onnx(two_convolutions(), tmp_path / "r", none, flavour="tensorrt")
    assert kept.read_bytes() == b"damaged"
    compile_onnx(two_convolutions(), tmp_path / "s", flavour="tensorrt")
    assert kept.read_bytes() != b"damaged"  # refused by TensorRT, and begun anew


@pytest.mark.usefixtures("stand_in")
def test_a_timing_cache_that_cannot_be_kept_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    options = CompileOptions(timing_cache=tmp_path / "file" / "cache")
    result = compile_onnx(two_convolutions(), tmp_path / "p", options, flavour="tensorrt")
    assert any("the timing cache was not kept" in warning for warning in result.warnings)


@pytest.mark.usefixtures("stand_in")
def test_a_dla_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="dla_core cannot be honoured: got 0, expected a machine with a DLA"):
        compile_onnx(two_convolutions(), tmp_path / "p", CompileOptions(dla_core=0), flavour="tensorrt")


@pytest.mark.usefixtures("stand_in")
def test_tensorrt_builds_for_the_gpu_it_runs_on(tmp_path: Path) -> None:
    options = CompileOptions(compute_capabilities=("8.7",))
    with pytest.raises(BuildError, match=r"compute_capabilities cannot be honoured.*build on the device"):
        compile_onnx(two_convolutions(), tmp_path / "p", options, flavour="tensorrt")


def test_the_timing_caches_name_is_a_file_name(tmp_path: Path) -> None:
    cache = TimingCache(None, folder=str(tmp_path), library="tensorrt-10.3.0/../../x")
    assert cache.path is not None
    assert cache.path.parent == tmp_path
    assert TimingCache(None, folder=str(tmp_path), library="l", used=False).path is None
