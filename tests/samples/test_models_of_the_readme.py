"""The commands of the samples' README on the models and clips that lie beside it, and what they must find."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from tests.colours import decode_video

SAMPLES = Path(__file__).parents[2] / "samples"
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run all commands of a sample that use the models here; what the last one printed."""
    (tmp_path / "samples").symlink_to(SAMPLES)
    monkeypatch.chdir(tmp_path)
    text = (SAMPLES / "README.md").read_text()

    def run(name: str, *more: str) -> str:
        said = ""
        commands = re.findall(rf"^python (samples/{name}\.py samples/models/.*)$", text, re.MULTILINE)
        assert commands
        for command in commands:
            monkeypatch.setattr(sys, "argv", [*shlex.split(command), *more])
            capfd.readouterr()
            runpy.run_path(f"samples/{name}.py", run_name="__main__")
            said = capfd.readouterr().out
        return said

    return run


def test_drive(run: Run) -> None:
    said = run("drive", "--deadline-ms", "10000")  # however busy this machine is
    assert float(re.findall(r"([\d.]+) m/s", said)[-1]) > 0  # it drives
    steering = [float(value) for value in re.findall(r"steering ([+-][\d.]+)", said)]
    assert max(map(abs, steering)) < 0.4  # the lane is almost straight ahead
    assert decode_video(Path("steered.mp4"))


def test_medical_slide(run: Run) -> None:
    said = run("medical_slide")
    assert "512 × 184" in said
    shares = {name: float(share) for name, share in re.findall(r"(\w+): ([\d.]+)% of the slide", said)}
    assert sum(shares.values()) == pytest.approx(100, abs=0.3)
    assert 5 < shares["DAB"] < 60
    assert 5 < shares["nuclei"] < 60
    overlay = cv2.imread("overlay.png")
    assert overlay is not None
    assert overlay.shape == (184, 512, 3)


def test_reidentify(run: Run) -> None:
    said = run("reidentify").splitlines()
    assert said[0].startswith("cat-3.jpg: cat ")
    assert said[1].startswith("cup-3.jpg: cup ")
    assert said[2].startswith("rocket-3.jpg: nobody that is known ")


def test_detect_camera(run: Run) -> None:
    said = run("detect_camera")
    assert "75 frames, 0 dropped" in said
    visits = re.findall(r"^#\d+ (\d): .* in view, (\d+) frames", said, re.MULTILINE)
    for digit in "358":  # each has one id nearly all the time; for a moment, one is two digits at once
        assert max(int(frames) for name, frames in visits if name == digit) > 50, said
    assert len(visits) <= 5, said
    assert len(decode_video(Path("followed.mp4"))) == 75


def test_segment_camera(run: Run) -> None:
    said = run("segment_camera")
    told = re.findall(r"\b(\d) ([\d.]+)%", said)
    assert {digit for digit, _ in told} >= {"3", "5", "8"}
    assert all(0.5 < float(share) < 6 for digit, share in told if digit in "358")
    assert len(decode_video(Path("focus.mp4"))) == 75


def test_robot_follow(run: Run) -> None:
    said = run("robot_follow", "--seconds", "3")
    following, still = (int(number) for number in re.findall(r"(\d+) pixels from the middle, (\d+)", said)[0])
    assert following <= still  # by how much depends on how busy the machine is
    assert cv2.imread("error.png") is not None
