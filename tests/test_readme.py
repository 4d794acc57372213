"""The README's commands do what it says, one after the other, in a shell, as a reader types them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    """The lines after `$ ` in the blocks marked to be run, continuation lines joined."""
    blocks = re.findall(r"<!-- run -->\n```\n(.*?)```", README, re.DOTALL)
    return [
        command for block in blocks for command in re.findall(r"^\$ ((?:.*\\\n)*.*)$", block, re.MULTILINE)
    ]


@pytest.mark.slow
def test_the_walk_through(demo_folder: Path, tmp_path: Path) -> None:
    assert len(commands()) >= 7
    (tmp_path / "demo-output").symlink_to(demo_folder)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, arguments in (("python", ""), ("edgecnn", " -m edgecnn")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments} "$@"\n')
        (tools / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    script = "set -e\n" + "\n".join(commands())
    run = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    for name in ("model.onnx", "model.calibrated.onnx", "model.int8.onnx", "classified.mp4", "results.jsonl"):
        assert (tmp_path / name).stat().st_size > 1000, name
    assert (
        "49 Conv, 33 Clip, 9 Add, 1 GlobalAveragePool, 1 Flatten, 1 Gemm" in run.stdout
    )  # as the README prints
    assert "49 int8" in run.stdout
    report = json.loads(run.stdout.strip().splitlines()[-1])
    assert report["images"] == len(list((demo_folder / "frames" / "evaluation").iterdir()))
    assert report["outputs"]["logits"]["sqnr_db"] > 12
    assert report["top1_agreement"] > 0.8


def test_python_blocks_compile() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        compile(block, "README.md", "exec")


def test_every_file_it_points_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_command_of_the_command_line_is_mentioned() -> None:
    from edgecnn.cli import COMMANDS

    missing = [name for name in COMMANDS if f"edgecnn {name}" not in README and f"`{name}`" not in README]
    assert missing == []
