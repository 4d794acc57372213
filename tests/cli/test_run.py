from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgecnn import pipeline
from edgecnn.camera import MemorySink
from edgecnn.cli import main, service
from tests.colours import colour_cycle, colour_of, decode_video, solid, write_colour_onnx, write_video
from tests.live import Camera

FRAMES = 600  # their JSON lines are more than a pipe holds, so a run waits for its reader


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "long.mp4", colour_cycle(FRAMES))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "in.mp4", colour_cycle(6), fps=12)


def edgecnn(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a real `edgecnn` to its end."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "edgecnn", *map(str, arguments)]


def last_json(text: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(text.splitlines()[-1])
    return parsed


def labels(lines: Sequence[str]) -> list[str]:
    return [json.loads(line)["result"]["classes"][0]["label"] for line in lines]


def test_a_signal_that_comes_before_there_is_anything_to_wake_is_not_lost(
    colour_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent, rescued = Camera(), threading.Event()

    def rescue() -> None:
        rescued.set()
        silent.end()

    alarm = threading.Timer(20, rescue)

    class Signalled(pipeline.Pipeline):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            super().__init__(*arguments, **options)
            alarm.start()

    monkeypatch.setattr(pipeline, "Pipeline", Signalled)
    monkeypatch.setattr(service, "_open_camera", lambda uri, options: silent.source)
    assert main(["run", str(colour_onnx), "--source", "silent"]) == 0
    assert not rescued.is_set()
    alarm.cancel()
    alarm.join()


def test_without_a_sink_one_line_a_frame(colour_onnx: Path, video: Path) -> None:
    done = edgecnn("run", colour_onnx, "--source", video)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split() for line in lines] == [
        [str(index), str(video), "100.0%", colour]
        for index, colour in enumerate(["red", "green", "blue"] * 2)
    ]
    assert done.stderr.startswith("6 frames, in ")
    assert "median ms: capture" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_summary_is_the_last_line(colour_onnx: Path, video: Path, tmp_path: Path) -> None:
    sinks = [tmp_path / "out.mp4", tmp_path / "out.jsonl", f"{tmp_path}/pictures/"]
    options = [part for sink in sinks for part in ("--sink", sink)]
    done = edgecnn("run", colour_onnx, "--source", video, *options, "--json")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    report = last_json(done.stdout)
    assert {
        *("model", "backend", "precision", "source", "frames", "skipped", "dropped", "fps", "latency_ms"),
        *("stages_ms", "seconds", "sinks"),
    } <= set(report)
    assert (report["model"], report["backend"]) == (str(colour_onnx), "onnxruntime")
    assert (report["frames"], report["skipped"], report["dropped"]) == (6, 0, 0)
    assert report["source"] == str(video)
    assert [(sink["name"], sink["written"]) for sink in report["sinks"]] == [(str(sink), 6) for sink in sinks]
    assert [colour_of(frame) for frame in decode_video(tmp_path / "out.mp4")] == ["red", "green", "blue"] * 2
    assert labels((tmp_path / "out.jsonl").read_text().splitlines()) == ["red", "green", "blue"] * 2
    assert len(list((tmp_path / "pictures").iterdir())) == 6
    capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == 12
    capture.release()


def test_json_lines_and_then_the_summary_on_stdout(colour_onnx: Path, video: Path) -> None:
    done = edgecnn("run", colour_onnx, "--source", video, "--sink", "-", "--frames", 4, "--json")
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert labels(lines) == ["red", "green", "blue", "red"]
    assert (json.loads(last)["frames"], [sink["name"] for sink in json.loads(last)["sinks"]]) == (4, ["-"])


def test_images_are_named_and_skipped_ones_counted(colour_onnx: Path, tmp_path: Path) -> None:
    for name, colour in (("img10.png", "blue"), ("img2.png", "red")):
        (tmp_path / name).write_bytes(cv2.imencode(".png", solid(colour))[1].tobytes())
    (tmp_path / "img3.png").write_bytes(b"damaged")
    done = edgecnn("run", colour_onnx, "--source", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert last_json(done.stdout)["skipped"] == 1
    *said, summary = done.stderr.splitlines()  # lines go where stdout's JSON is not in the way
    shown = [line.split() for line in said if "100.0%" in line]
    assert shown[0] == ["0", f"{tmp_path}/img2.png", "100.0%", "red"]
    assert shown[1][:2] == ["1", f"{tmp_path}/img10.png"]
    (skipped,) = [line for line in said if "100.0%" not in line]  # as soon as it is known
    assert skipped.startswith(f"skipped: cannot read the image {tmp_path}/img3.png: got 7 bytes")
    assert "2 frames" in summary
    assert "1 skipped" in summary


def test_real_photos_keep_the_terminal_clean(colour_onnx: Path, photos: Path) -> None:
    """One of them makes libpng print a warning of its own."""
    done = edgecnn("run", colour_onnx, "--source", f"{photos}/p*.png", "--sink", "-")
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"{len(done.stdout.splitlines())} frames")


def test_a_foreign_model_is_told_how_to_be_used(tmp_path: Path, video: Path) -> None:
    foreign = write_colour_onnx(tmp_path / "foreign.onnx", spec=None)
    done = edgecnn("run", foreign, "--source", video)
    assert done.returncode == 1
    assert "--task classification" in done.stderr
    (tmp_path / "names.txt").write_text("rot\ngrün\nblau\n")
    options = [
        "--task",
        "classification",
        "--preset",
        "unit",
        "--input-size",
        "8x8",
        "--labels",
        tmp_path / "names.txt",
    ]
    done = edgecnn("run", foreign, "--source", video, "--sink", "-", *options)
    assert done.returncode == 0, done.stderr
    assert labels(done.stdout.splitlines()) == ["rot", "grün", "blau"] * 2


def test_an_option_overrides_the_models_own_spec(colour_onnx: Path, video: Path) -> None:
    done = edgecnn("run", colour_onnx, "--source", video, "--sink", "-", "--color", "BGR", "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert (
        labels(done.stdout.splitlines()) == ["blue", "green", "red"] * 2
    )  # the model still takes it for RGB


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_finishes_its_files(
    colour_onnx: Path, long_video: Path, tmp_path: Path, signal_number: signal.Signals
) -> None:
    sinks = ["--sink", "-", "--sink", tmp_path / "out.mp4", "--sink", tmp_path / "out.jsonl"]
    process = subprocess.Popen(
        command("run", colour_onnx, "--source", long_video, *sinks, "--json"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    first = [process.stdout.readline() for _ in range(5)]
    process.send_signal(signal_number)
    rest = process.stdout.read()  # communicate() would lose what readline() has read ahead
    said = process.stderr.read()
    for stream in (process.stdout, process.stderr):
        stream.close()
    stopped = signal_number == signal.SIGTERM  # by a service manager, for whom that is no failure
    assert process.wait() == (0 if stopped else 1)
    lines = [*first, *rest.splitlines()]
    message = None if stopped else json.loads(lines.pop())["error"]["message"]
    *lines, summary = lines
    done = len(lines)
    assert 5 <= done < FRAMES
    assert json.loads(summary)["frames"] == done
    if message is not None:
        assert (
            message
            == f"interrupted after {done} frames. Those are in {tmp_path}/out.mp4, {tmp_path}/out.jsonl"
        )
        assert said.splitlines()[1:] == [f"edgecnn: error: {message}"]
    assert said.startswith(f"{done} frames, in ")
    assert len(said.splitlines()) == (1 if stopped else 2)
    assert len(decode_video(tmp_path / "out.mp4")) == done
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == done
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.mp4"]


def test_a_reader_that_leaves_ends_the_run_quietly(
    colour_onnx: Path, long_video: Path, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        command("run", colour_onnx, "--source", long_video, "--sink", tmp_path / "out.mp4", "--sink", "-"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1
    assert said == ""
    assert 1 <= len(decode_video(tmp_path / "out.mp4")) < FRAMES


def test_head_without_a_sink(colour_onnx: Path, long_video: Path) -> None:
    run = " ".join(command("run", colour_onnx, "--source", long_video))
    done = subprocess.run(["bash", "-c", f"{run} | head -2"], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == ""


def test_stdout_on_a_full_disk(colour_onnx: Path, video: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command("run", colour_onnx, "--source", video, "--sink", "-"),
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    failure, *_, error = done.stderr.splitlines()  # once, and not for each frame
    assert failure == "- failed: cannot write to stdout: got No space left on device"
    assert error == "edgecnn: error: given up: -"
    assert done.stderr.count("No space") == 1


def test_a_disk_that_fills_up_is_told_once_and_costs_no_other_sink(colour_onnx: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    source = write_video(tmp_path / "noise.mp4", [np.roll(noise, 5 * index, axis=0) for index in range(60)])
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run(
        command("run", colour_onnx, "--source", source, "--sink", out / "a.mp4", "--sink", out / "b.jsonl"),
        capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )  # fmt: skip
    assert done.returncode == 1
    failure, summary, error = done.stderr.splitlines()
    assert failure.startswith(f"{out}/a.mp4 failed: cannot write {out}/a.mp4: got a failed write after")
    assert summary.startswith("60 frames")
    assert error == f"edgecnn: error: given up: {out}/a.mp4"
    assert [path.name for path in out.iterdir()] == ["b.jsonl"]
    assert len((out / "b.jsonl").read_text().splitlines()) == 60


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--source", "rtps://u:secret@cam"], 1, "cannot open rtps://***@cam: got rtps://"),
        (["--source", "missing.mp4"], 1, "missing.mp4 does not exist"),
        (
            ["--source", "{video}", "--sink", "out.gif"],
            1,
            "no sink 'out.gif' in this version: expected - or ",
        ),
        (["--source", "{video}", "--sink", "{video}"], 1, "in.mp4 exists. Use --force"),
        (["--source", "{video}", "--sink", "{video}", "--force"], 1, "the file that the frames come from"),
        (["--source", "{video}", "--sink", "-", "--sink", "-"], 1, "the sink - is given twice"),
        (["--source", "{video}", "--backend", "nonsense"], 1, "unknown backend: got nonsense"),
        (["--source", "{video}", "--frames", "0"], 2, "--frames"),
        ([], 2, "Missing option '--source'"),
    ],
)
def test_refusals(
    colour_onnx: Path,
    video: Path,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    before = video.read_bytes()
    given = [argument.format(video=video) for argument in arguments]
    assert main(["run", str(colour_onnx), *given]) == code
    message = capfd.readouterr().err
    assert said in message
    assert "secret" not in message
    assert video.read_bytes() == before


def test_what_can_be_refused_is_refused_before_the_model_is_loaded(
    tmp_path: Path, video: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious.mp4").write_text("x")
    assert (
        main(
            [
                "run",
                str(tmp_path / "missing.onnx"),
                "--source",
                str(video),
                "--sink",
                str(tmp_path / "precious.mp4"),
            ]
        )
        == 1
    )
    assert "precious.mp4 exists" in capfd.readouterr().err


def test_impatience_does_not_cost_a_file(
    colour_onnx: Path, video: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Slow(MemorySink):
        finished = False

        def _finish(self) -> None:
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGINT)
            self.finished = True

    sink = Slow("slow")
    monkeypatch.setattr("edgecnn.camera.open_sink", lambda uri, **options: sink)
    # the source had ended when the first signal came, so nothing was interrupted
    assert main(["run", str(colour_onnx), "--source", str(video), "--sink", "slow"]) == 0
    assert sink.finished
    assert len(sink.outputs) == 6
    assert "interrupted" not in capfd.readouterr().err


def test_signal_handlers_and_stderr_are_put_back(
    colour_onnx: Path, video: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before, stderr = signal.getsignal(signal.SIGINT), sys.stderr
    assert main(["run", str(colour_onnx), "--source", str(video), "--sink", "-"]) == 0
    assert signal.getsignal(signal.SIGINT) is before
    assert sys.stderr is stderr
    os.write(2, b"still here")
    assert capfd.readouterr().err.endswith("still here")
