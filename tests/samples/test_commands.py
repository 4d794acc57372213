"""Samples run as their README says, on the models and the video that the demo writes."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgecnn.results import Classification

ROOT = Path(__file__).parents[2]


def run(command: str, folder: Path) -> str:
    words = [sys.executable if word == "python" else word for word in re.findall(r'"[^"]*"|\S+', command)]
    words = [word.strip('"').replace("samples/", f"{ROOT}/samples/") for word in words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_commands_in_the_samples_readme(demo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "demo-output").symlink_to(demo_folder)
    commands = re.findall(
        r"^python .* demo-output/.*$", (ROOT / "samples/README.md").read_text(), re.MULTILINE
    )
    outputs = [run(command, tmp_path) for command in commands]
    assert "250 frames" in outputs[0]
    assert (tmp_path / "classified.mp4").stat().st_size > 10_000
    assert "stop" in outputs[1]  # there is a mountain bike at the end of the video
    assert "demo-output/video.mp4: 250 frames" in outputs[2]
    assert " 0 frames dropped" in outputs[2]
    assert "unsure" in outputs[3]
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) > 10
    assert "vision_msgs/msg/Classification  250" in outputs[5]


def sample(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "samples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_brake_needs_several_sightings_and_stands_when_blind() -> None:
    seen = Classification(np.array([0.1, 0.9], np.float32), ("free", "sign"))
    clear = Classification(np.array([0.95, 0.05], np.float32), ("free", "sign"))
    brake = sample("stop_on_class").Brake("sign", frames=3, min_score=0.2, max_age_ms=100)
    assert [brake.update(result, 10) for result in (seen, seen, clear, seen, seen)] == [False] * 5
    assert brake.update(seen, 10) is True
    assert [brake.update(result, 10) for result in (clear, clear, seen, clear, clear, clear)] == [
        True
    ] * 5 + [False]
    assert brake.update(clear, 101) is True
