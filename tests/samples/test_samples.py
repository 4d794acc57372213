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

import edgecnn
from edgecnn.masks import Masks
from tests.colours import colour_cycle, decode_video, solid, write_video
from tests.samples.hand_made import (
    DISC,
    FPS,
    HW,
    bending_road,
    moving_discs,
    write_blind,
    write_detector,
    write_driver,
    write_embedder,
    write_segmenter,
)

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
        assert re.search(r"(suppress\(|except )KeyboardInterrupt", text), sample.name
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


def test_serve_results_ends_although_the_program_does_not(
    colour_onnx: Path, colour_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads nothing, and has started another one that keeps the pipe open; the queue is full."""
    sample = load_sample("serve_results")
    monkeypatch.setattr(sample, "PATIENCE_S", 0.5)
    feeder = sample.Feeder("sh -c 'sleep 300 <&0; true'")
    with edgecnn.load(colour_onnx) as model, edgecnn.Pipeline(str(colour_video), model) as pipeline:
        output = next(iter(pipeline))
    line = len(json.dumps(output.to_dict()))
    for _ in range(200 + 65536 // line):  # more than the pipe and the queue hold
        feeder.write(output)
    assert feeder.close() == -signal.SIGKILL
    assert feeder.dropped > 100
    assert not feeder.thread.is_alive()


RUNNING = """
import runpy, sys, edgecnn
begin = edgecnn.Pipeline.__enter__
edgecnn.Pipeline.__enter__ = lambda self: [begin(self), print("runs", flush=True)][0]
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_ctrl_c_ends_the_control_loops_quietly(tmp_path: Path) -> None:
    pytest.importorskip("trackers")
    media, models = SAMPLES / "media", SAMPLES / "models"
    faces = [models / f"faces_{name}.onnx" for name in ("proposals", "refine")]
    pictures = ["--object", media / "digit.png", "--world", media / "world.jpg"]
    commands: dict[str, list[object]] = {
        "drive": [models / "road.onnx", "test://"],
        "robot_follow": [models / "digits_detector.onnx", *pictures, "--seconds", 1000],
        "face_cascade": [*faces, write_blind(tmp_path / "blind.onnx"), "test://"],
    }
    running = {
        name: subprocess.Popen(
            [sys.executable, "-c", RUNNING, SAMPLES / f"{name}.py", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(SAMPLES.parent)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for name, arguments in commands.items()
    }  # fmt: skip
    for name, process in running.items():
        assert process.stdout is not None
        said = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert (name, said, process.returncode, err) == (name, "runs\n", 0, "")


def test_ros2_bag(run: Run, colour_onnx: Path, colour_video: Path, tmp_path: Path) -> None:
    pytest.importorskip("rosbags")
    said = run("ros2_bag", colour_onnx, colour_video, tmp_path / "out.rosbag")
    assert "/camera/image/compressed  sensor_msgs/msg/CompressedImage  12" in said
    assert "/camera/classification  vision_msgs/msg/Classification  12" in said


def test_web_view(colour_onnx: Path, colour_video: Path) -> None:
    command: list[str | Path] = [sys.executable, SAMPLES / "web_view.py", colour_onnx, colour_video]
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


def test_detect_camera(run: Run, tmp_path: Path) -> None:
    model = write_detector(tmp_path / "discs.onnx")
    video = write_video(tmp_path / "discs.mp4", list(moving_discs(40)), fps=FPS)
    said = run("detect_camera", model, video, "--save", tmp_path / "out.mp4")
    assert "40 frames, 0 dropped; 3 × disc seen" in said
    assert [line for line in said.splitlines() if "in view" in line] == [
        f"#{track} disc: 1.3 s in view, 39 frames" for track in range(3)
    ]
    seen, drawn = decode_video(video), decode_video(tmp_path / "out.mp4")
    assert len(drawn) == 40
    # the path is drawn where nothing else is, some frames behind the first disc
    assert np.abs(drawn[35][35:45, 70:90].astype(int) - seen[35][35:45, 70:90]).max() > 50


def test_segment_camera(run: Run, tmp_path: Path) -> None:
    model = write_segmenter(tmp_path / "white.onnx")
    video = write_video(tmp_path / "discs.mp4", list(moving_discs(10)), fps=FPS)
    said = run("segment_camera", model, video, "--save", tmp_path / "out.mp4", "--every", 5)
    share = 3 * np.pi * (DISC / 2) ** 2 / (HW[0] * HW[1])
    told = [float(share) for share in re.findall(r"white ([\d.]+)%", said)]
    assert told == [pytest.approx(100 * share, abs=0.5)] * 2
    assert len(decode_video(tmp_path / "out.mp4")) == 10


def test_segment_camera_blurs_what_has_no_mask() -> None:
    sample = load_sample("segment_camera")
    frame = np.random.default_rng(0).integers(0, 256, (100, 120, 3), np.uint8)
    mask = np.zeros((100, 120), bool)
    mask[20:80, 20:80] = True
    picture = sample.in_focus(frame, mask)
    np.testing.assert_array_equal(picture[35:65, 35:65], frame[35:65, 35:65])
    assert picture[:10].std() < frame[:10].std() / 3
    objects = edgecnn.Detections(
        boxes_xyxy=np.array([[20, 20, 80, 80]], np.float32),
        scores=np.ones(1, np.float32),
        class_ids=np.zeros(1, np.int64),
        labels=("thing",),
        masks=Masks.from_dense(mask[None]),
    )
    shares, where = sample.areas(objects)
    assert shares == {"thing": 0.3}
    np.testing.assert_array_equal(where, mask)


def test_reidentify(run: Run, tmp_path: Path) -> None:
    model, gallery = write_embedder(tmp_path / "colours.onnx"), tmp_path / "known.npz"
    random = np.random.default_rng(0)
    for name in ("red", "green", "blue"):
        for number in range(3):
            picture = np.clip(solid(name) + random.normal(0, 40, (48, 64, 3)), 0, 255).astype(np.uint8)
            (tmp_path / f"{number}").mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / f"{number}" / f"{name}.png"), picture)
    for name in ("red", "green"):
        run(
            "reidentify",
            model,
            "enrol",
            gallery,
            name,
            *(tmp_path / f"{number}/{name}.png" for number in (0, 1)),
        )
    said = run("reidentify", model, "identify", gallery, tmp_path / "2", "--min-similarity", 0.9)
    assert [line.split(" (")[0] for line in said.splitlines()] == [
        "blue.png: nobody that is known",
        "green.png: green",
        "red.png: red",
    ]


def test_medical_slide(run: Run, tmp_path: Path) -> None:
    model = write_segmenter(tmp_path / "white.onnx", (64, 64))
    slide = np.full((300, 500, 3), 60, np.uint8)
    centres = [(x, y) for x in range(40, 500, 60) for y in range(40, 300, 60)]
    for centre in centres:
        cv2.circle(slide, centre, 11, (255, 255, 255), -1)
    cv2.imwrite(str(tmp_path / "slide.png"), slide)
    said = run("medical_slide", model, tmp_path / "slide.png", "--save", tmp_path / "overlay.png")
    assert "500 × 300, 66 tiles" in said
    (share, regions) = re.findall(r"white: ([\d.]+)% of the slide, (\d+) regions", said)[0]
    assert float(share) == pytest.approx(100 * (slide == 255).mean(), abs=0.1)
    assert int(regions) == len(centres)
    overlay = cv2.imread(str(tmp_path / "overlay.png"))
    assert overlay is not None
    assert overlay.shape == slide.shape


def test_drive(run: Run, tmp_path: Path) -> None:
    model = write_driver(tmp_path / "road.onnx")
    for middle, sign in ((0.5, 0), (0.42, -1)):
        video = write_video(tmp_path / "road.mp4", list(bending_road(35, middle=middle)), fps=FPS)
        said = run("drive", model, video, "--deadline-ms", 10_000, "--save", tmp_path / f"{middle}.mp4")
        steering = float(re.findall(r"steering ([+-][\d.]+)", said)[-1])
        assert np.sign(round(steering / 0.2)) == sign
        assert ", 0 of them blind" in said
        assert decode_video(tmp_path / f"{middle}.mp4")
    video = write_video(tmp_path / "short.mp4", list(bending_road(10)), fps=FPS)
    said = run("drive", model, video, "--deadline-ms", 0.001)
    steps, blind = (int(number) for number in re.findall(r"(\d+) steps, (\d+) of them", said)[0])
    assert steps == blind  # results there may be none, but none is used


def test_drive_brakes_when_it_sees_nothing() -> None:
    vehicle = load_sample("drive").Vehicle()
    for _ in range(60):
        vehicle.follow(0.1)
    assert 0.35 < vehicle.steering <= 0.4
    assert vehicle.speed > 5
    for _ in range(60):
        vehicle.brake()
    assert vehicle.speed == 0
    assert abs(vehicle.steering) < 1e-3


def test_robot_follow(run: Run, tmp_path: Path) -> None:
    model = write_detector(tmp_path / "discs.onnx")
    disc = np.zeros((DISC + 1, DISC + 1, 3), np.uint8)
    cv2.circle(disc, (DISC // 2, DISC // 2), DISC // 2, (255, 255, 255), -1)
    cv2.imwrite(str(tmp_path / "disc.png"), disc)
    world = np.random.default_rng(0).integers(0, 120, (48, 64, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "world.png"), world)
    pictures = ["--object", tmp_path / "disc.png", "--world", tmp_path / "world.png"]
    said = run("robot_follow", model, *pictures, "--seconds", 3, "--plot", tmp_path / "error.png")
    following, still = (
        int(number) for number in re.findall(r"(\d+) pixels from the middle, (\d+) had", said)[0]
    )
    assert following < still / 2
    plot = cv2.imread(str(tmp_path / "error.png"))
    assert plot is not None
    assert plot.std() > 10
