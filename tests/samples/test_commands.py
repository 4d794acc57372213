"""Samples run as their README says, on the models and the end of the video that the demo writes."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from edgecnn.results import Classification
from tests.colours import decode_video, write_video
from tests.samples.test_samples import SAMPLES, load_sample

FRAMES = 60  # of 250


@pytest.mark.slow
def test_the_commands_in_the_samples_readme(
    demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "samples").symlink_to(SAMPLES)
    (tmp_path / "demo-output").mkdir()
    for path in demo_folder.iterdir():
        (tmp_path / "demo-output" / path.name).symlink_to(path)
    video = tmp_path / "demo-output" / "video.mp4"
    frames = decode_video(video)
    video.unlink()
    write_video(video, frames[-FRAMES:])
    monkeypatch.chdir(tmp_path)
    outputs = []
    for command in re.findall(
        r"^python (.* demo-output/.*)$", (SAMPLES / "README.md").read_text(), re.MULTILINE
    ):
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        capfd.readouterr()
        runpy.run_path(sys.argv[0], run_name="__main__")
        outputs.append(capfd.readouterr().out)
    assert f"{FRAMES} frames" in outputs[0]
    assert (tmp_path / "classified.mp4").stat().st_size > 10_000
    assert "stop" in outputs[1]  # there is a mountain bike at the end of the video
    assert f"demo-output/video.mp4: {FRAMES} frames" in outputs[2]
    assert " 0 frames dropped" in outputs[2]
    assert "unsure" in outputs[3]
    told = len((tmp_path / "results.jsonl").read_text().splitlines())
    assert f"{told} of {FRAMES} frames told" in outputs[4]
    assert 0 < told < FRAMES
    assert f"vision_msgs/msg/Classification  {FRAMES}" in outputs[5]


def test_the_brake_needs_several_sightings_and_stands_when_blind() -> None:
    seen = Classification(np.array([0.1, 0.9], np.float32), ("free", "sign"))
    clear = Classification(np.array([0.95, 0.05], np.float32), ("free", "sign"))
    brake = load_sample("stop_on_class").Brake("sign", frames=3, min_score=0.2, max_age_ms=100)
    assert [brake.update(result, 10) for result in (seen, seen, clear, seen, seen)] == [False] * 5
    assert brake.update(seen, 10) is True
    assert [brake.update(result, 10) for result in (clear, clear, seen, clear, clear, clear)] == [
        True
    ] * 5 + [False]
    assert brake.update(clear, 101) is True
