"""Each sample is run with its own command line, on real models and on videos that are made here."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from tests.colours import colour_cycle, decode_video, write_video

SAMPLES = Path(__file__).parents[2] / "samples"
Run = Callable[..., str]


def load_sample(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"sample_{name}", SAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a sample's main with these arguments; what it printed."""

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        capfd.readouterr()
        load_sample(name).main()
        return capfd.readouterr().out

    return run


@pytest.fixture(scope="session")
def colour_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red, green, blue, over and over."""
    return write_video(tmp_path_factory.mktemp("video") / "colours.mp4", colour_cycle(12))


def test_every_sample_is_short_documented_and_has_a_command() -> None:
    samples = sorted(SAMPLES.glob("*.py"))
    listed = (SAMPLES / "README.md").read_text()
    for sample in samples:
        text = sample.read_text()
        assert text.count("\n") < 120, sample.name
        assert f"python samples/{sample.name} " in text
        assert f"[{sample.name}]({sample.name})" in listed
        imported = set(re.findall(r"^\s*(?:from|import) (\w+)", text, re.MULTILINE))
        foreign = imported - set(sys.stdlib_module_names)
        # a sample is copied alone
        assert foreign <= {"edgecnn", "numpy", "cv2", "supervision", "rosbags", "matplotlib"}, sample.name


def test_classify_camera(run: Run, colour_onnx: Path, colour_video: Path, tmp_path: Path) -> None:
    said = run("classify_camera", colour_onnx, colour_video, "--save", tmp_path / "out.mp4")
    assert "12 frames" in said
    assert len(decode_video(tmp_path / "out.mp4")) == 12


def test_multi_camera(run: Run, colour_onnx: Path, colour_video: Path) -> None:
    said = run("multi_camera", colour_onnx, colour_video, "test://?frames=5&width=96&height=96&policy=all")
    assert "colours.mp4: 12 frames" in said
    assert "17 results" in said


def test_custom_task(run: Run, colour_onnx: Path, colour_video: Path, tmp_path: Path) -> None:
    assert run("custom_task", colour_onnx, colour_video, "--sure", 1.01).strip() == "unsure: 12 frames"
    said = run("custom_task", colour_onnx, colour_video, "--sure", 0.1, "--save", tmp_path / "out.mp4")
    assert sorted(said.strip().split(", ")) == ["blue: 4 frames", "green: 4 frames", "red: 4 frames"]
    assert len(decode_video(tmp_path / "out.mp4")) == 12


def test_serve_results(run: Run, colour_onnx: Path, colour_video: Path, tmp_path: Path) -> None:
    consumer = tmp_path / "consumer.py"
    consumer.write_text(
        "import json, sys\n"
        "labels = [json.loads(line)['result']['classes'][0]['label'] for line in sys.stdin]\n"
        f"open({str(tmp_path / 'seen.json')!r}, 'w').write(json.dumps(labels))\n"
    )
    said = run("serve_results", colour_onnx, colour_video, "--run", f"{sys.executable} {consumer}")
    assert "12 of 12 frames told" in said
    assert "the command ended with 0; 0 results dropped" in said
    assert json.loads((tmp_path / "seen.json").read_text()) == ["red", "green", "blue"] * 4
    said = run(
        "serve_results", colour_onnx, colour_video, "--run", f"{sys.executable} -c 'raise SystemExit(3)'"
    )
    assert "the command ended with 3" in said
    run("serve_results", colour_onnx, colour_video, "--to", tmp_path / "out.jsonl", "--min-score", 2)
    assert not (tmp_path / "out.jsonl").exists()


def test_ros2_bag(run: Run, colour_onnx: Path, colour_video: Path, tmp_path: Path) -> None:
    pytest.importorskip("rosbags")
    said = run("ros2_bag", colour_onnx, colour_video, tmp_path / "out.rosbag")
    assert "/camera/image/compressed  sensor_msgs/msg/CompressedImage  12" in said
    assert "/camera/classification  vision_msgs/msg/Classification  12" in said


def test_web_view(colour_onnx: Path, colour_video: Path) -> None:
    command = [sys.executable, SAMPLES / "web_view.py", colour_onnx, colour_video]
    environment = {**os.environ, "PYTHONPATH": str(SAMPLES.parent)}
    with subprocess.Popen(
        [*command, "--at", "http://127.0.0.1:0", "--rounds", "0"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            url = process.stdout.readline().removeprefix("open ").strip()
            with urllib.request.urlopen(f"{url}snapshot.jpg", timeout=60) as answer:
                picture = cv2.imdecode(np.frombuffer(answer.read(), np.uint8), cv2.IMREAD_COLOR)
            with urllib.request.urlopen(f"{url}results", timeout=60) as answer:
                event = next(line for line in answer if line.startswith(b"data:"))
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
    assert picture is not None
    assert picture.shape == decode_video(colour_video)[0].shape
    assert json.loads(event.removeprefix(b"data:"))["result"]["classes"]
