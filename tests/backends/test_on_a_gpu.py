"""What only a GPU can show. Skipped where there is none; the same on an emulation is in test_emulation.py."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgecnn.gpu import read_gpu

ROOT = Path(__file__).parents[2]
ON_A_GPU = pytest.mark.skipif(
    read_gpu() is None or importlib.util.find_spec("pycuda") is None,
    reason="no NVIDIA GPU here, or no PyCUDA",
)


def gpu_check(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts/gpu_check"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@ON_A_GPU
@pytest.mark.slow
@pytest.mark.parametrize("part", ["cuda", "tensorrt", "tensorrt_rtx"])
def test_gpu_check(part: str) -> None:
    done = gpu_check("--only", part, "--seconds", "0.2")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(read_gpu() is not None, reason="there is a GPU here")
def test_without_a_gpu_it_says_so() -> None:
    done = gpu_check()
    assert done.returncode == 1
    first, last = done.stdout.splitlines()
    assert "No NVIDIA GPU here" in first
    assert json.loads(last) == {"gpu": None, "checks": [], "failed": 0}
    assert gpu_check("no.onnx").returncode == 2


def test_the_sample_networks_compile() -> None:
    """With the real compiler, which needs no GPU."""
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'edgecnn[rtx]'")
    from benchmarks.gpu_check.engines import _build
    from benchmarks.gpu_check.networks import make_network

    for name, precision in (("residual", "fp16"), ("depthwise", "int8"), ("detector", "fp32")):
        assert len(_build(trt, make_network(name, precision))) > 10_000  # type: ignore[arg-type]
    assert _build(trt, make_network("residual", "fp16", batch="N"))
