"""Ctrl-C in the middle of each command: one line, exit code 1, and no half-written file.

Real processes, real models, real signals, at several moments. A moment may fall before the command has begun
or after it has ended; what must hold, holds then as well.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.interruptions import CAMERA, interrupted_run, write_source

DELAYS_S = (0.3, 0.7, 1.2, 2.0)  # from 0.1 s on it is edgecnn that runs, and no longer Python's own start


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def interrupted(arguments: Sequence[str], folder: Path, delay_s: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgecnn", *arguments]
    process = subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(delay_s)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


COMMANDS = {
    "export": "export efficientnet_lite_pytorch:EfficientNet.from_name --arg efficientnet-lite0"
    " --preset efficientnet-lite -o out.onnx",
    "calibrate": "calibrate {demo}/model.onnx --data {demo}/frames/calibration -o out.onnx",
    "build": "build {demo}/model.calibrated.onnx --data {demo}/frames/evaluation -o out.onnx",
    "run": "run {demo}/model.int8.onnx --source {demo}/video.mp4 --sink out.mp4 --sink out.jsonl",
    "bench": "bench {demo}/model.int8.onnx --frames 2000",
    "compare": "compare {demo}/model.onnx {demo}/model.int8.onnx --data {demo}/video.mp4",
    "demo": "demo --output out",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c(name: str, demo_folder: Path, tmp_path: Path) -> None:
    reported = 0
    for delay_s in DELAYS_S:
        folder = tmp_path / str(delay_s)
        folder.mkdir()
        run = interrupted(COMMANDS[name].format(demo=demo_folder).split(), folder, delay_s)
        assert run.returncode in (0, 1), run.stderr
        assert "Traceback" not in run.stderr, run.stderr
        left = [path for path in folder.rglob("*") if path.is_file()]
        assert not [path for path in left if path.name.startswith(".")], "a temporary file was left behind"
        if run.returncode == 1:
            assert "interrupted" in run.stderr.splitlines()[-1]
            assert name in ("run", "demo") or left == []
            reported += 1
    assert reported >= 1


# Sends Ctrl-C at the moment when Python looks for a package's compiled part, and says at the end whether the
# package was imported whole all the same. One that is not may crash the process: onnx's does.
IMPORT_DRIVER = """
import signal, sys
package, compiled = sys.argv.pop(1), sys.argv.pop(1)

class Interrupter:
    def find_spec(self, name, path=None, target=None):
        if name == compiled:
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupter())
from edgecnn.__main__ import entry_point
try:
    entry_point()
finally:
    print("whole" if package in sys.modules else "in part")
"""
COMPILED = {
    "torch": "torch._C",
    "onnx": "onnx.onnx_cpp2py_export",
    "onnxruntime": "onnxruntime.capi.onnxruntime_pybind11_state",
    "cv2": "cv2",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "package"),
    [
        *(("demo", package) for package in COMPILED),
        *(("export", package) for package in ("torch", "onnx", "onnxruntime")),
        *((name, package) for name in ("calibrate", "build") for package in ("onnx", "onnxruntime", "cv2")),
        *((name, package) for name in ("run", "bench", "compare") for package in ("onnxruntime", "cv2")),
        *(("inspect", package) for package in ("onnx", "onnxruntime")),
        *(("doctor", package) for package in ("onnxruntime", "cv2")),
        ("table", "onnx"),
    ],
)
def test_compiled_packages_are_imported_whole(
    name: str, package: str, demo_folder: Path, tmp_path: Path
) -> None:
    commands = {
        **COMMANDS,
        "inspect": "inspect {demo}/model.int8.onnx",
        "doctor": "doctor",
        "table": "table {demo}/model.calibrated.onnx",
    }
    command = commands[name].format(demo=demo_folder).split()
    run = subprocess.run(
        [sys.executable, "-c", IMPORT_DRIVER, package, COMPILED[package], *command],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 1, run
    assert run.stdout.splitlines()[-1] == "whole"
    assert "interrupted" in run.stderr.splitlines()[-1]


@pytest.mark.slow
def test_run_at_random_moments(colour_onnx: Path, tmp_path: Path) -> None:
    """Ten of the fifty that `benchmarks/interruptions.py` makes."""
    video = write_source(tmp_path / "in.mp4")
    chance = random.Random(4)
    moments = set()
    for turn in range(10):
        folder = tmp_path / str(turn)
        folder.mkdir()
        number = (signal.SIGINT, signal.SIGTERM)[turn % 2]
        source = (video, CAMERA)[turn // 2 % 2]
        moments.add(interrupted_run(colour_onnx, source, folder, number, chance.uniform(0.1, 2.0)))
    assert "running" in moments
