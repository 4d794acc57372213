"""Ctrl-C and SIGTERM at random moments of `edgecnn run`, again and again.

    python -m benchmarks.interruptions --times 50 --model model.onnx

After each: the exit code is right, what is there can be used, and nothing else is left: no temporary file, no
half line, no process. A video plays; made of a file, it has as many frames as the report says; of a camera,
whose clock it follows, about as many. The moments lie before, in and after the run, and are counted: a test
whose signals all came too late would show nothing.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

__all__ = ["CAMERA", "interrupted_run", "write_source"]

FIRST_S, LAST_S = 0.1, 2.0  # before the first, it is Python's own start that is interrupted
FRAMES = 2500
CAMERA = "test://?width=96&height=64&fps=60"


def write_source(path: Path) -> Path:
    """A video of `FRAMES` frames, of which a small model needs about a second."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48))
    for index in range(FRAMES):
        writer.write(np.full((48, 64, 3), index % 256, np.uint8))
    writer.release()
    return path


def interrupted_run(model: Path, source: str | Path, folder: Path, number: int, delay_s: float) -> str:
    """Run in an empty folder, send the signal after the delay, and check what is left.

    Returns:
        Where it was interrupted: `before` the first frame, `running`, or `after` the end.

    Raises:
        AssertionError: something is wrong; says what.
    """
    command = [sys.executable, "-m", "edgecnn", "run", str(model), "--source", str(source), "--json"]
    process = subprocess.Popen(
        [*command, "--sink", "out.mp4", "--sink", "out.jsonl", "--duration", "1.5"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    time.sleep(delay_s)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    try:
        where = _check(folder, number, process.returncode, out, err, live=source == CAMERA)
        _check_processes(process.pid)
        return where
    except AssertionError as error:
        name = signal.Signals(number).name
        raise AssertionError(f"{name} after {delay_s:.3f} s: {error}; {out!r}; {err!r}") from error


def _check(folder: Path, number: int, code: int, out: str, err: str, *, live: bool) -> str:
    files = sorted(path.name for path in folder.iterdir())
    assert "Traceback" not in err, "a stack trace"
    lines = [json.loads(line) for line in out.splitlines()]  # each is whole
    reports = [line for line in lines if "frames" in line]
    if not reports:
        assert files == [], f"files of a run that never began: {files}"
        if code == -number:  # before edgecnn had begun
            return "before"
        assert code == (1 if number == signal.SIGINT else 0), f"code {code}"
        return "before"
    (report,) = reports
    frames = report["frames"]
    interrupted = "error" in lines[-1]
    assert code == int(interrupted), f"code {code}"
    assert not interrupted or number == signal.SIGINT, "SIGTERM is no error"
    assert files == (["out.jsonl", "out.mp4"] if frames else []), f"files {files} of {frames} frames"
    if frames:
        assert (found := _frames_of_json(folder / "out.jsonl")) == frames, f"{found} lines of {frames} frames"
        found = _frames_of_video(folder / "out.mp4")
        assert found == frames or (live and abs(found - frames) < 0.3 * frames + 5), (
            f"{found} of {frames} frames"
        )
    whole = report["seconds"] >= 1.4 if live else frames == FRAMES
    return "running" if interrupted or not whole else "after"


def _check_processes(leader: int) -> None:
    """No process of its session is left."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        assert int(fields[3]) != leader, f"process {stat.parent.name} is left"


def _frames_of_video(path: Path) -> int:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        return sum(1 for _ in iter(capture.grab, False))
    finally:
        capture.release()


def _frames_of_json(path: Path) -> int:
    return len([json.loads(line) for line in path.read_text().splitlines()])


def main() -> None:
    """Interrupt runs, and print what happened, as one JSON object in the end."""
    parser = argparse.ArgumentParser(description="Ctrl-C and SIGTERM at random moments of `edgecnn run`.")
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, required=True, help="a small model of images")
    arguments = parser.parse_args()
    moments: collections.Counter[str] = collections.Counter()
    failures = []
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as base:
        video = write_source(Path(base, "in.mp4"))
        for turn in range(arguments.times):
            number = (signal.SIGINT, signal.SIGTERM)[turn % 2]
            source = (video, CAMERA)[turn // 2 % 2]
            folder = Path(base, str(turn))
            folder.mkdir()
            delay_s = chance.uniform(FIRST_S, LAST_S)
            try:
                where = interrupted_run(arguments.model.resolve(), source, folder, number, delay_s)
            except AssertionError as error:
                where = "failed"
                failures.append(str(error))
            moments[f"{signal.Signals(number).name} {where}"] += 1
            print(f"{turn:3} {signal.Signals(number).name} {delay_s:.3f} s {where}", flush=True)
    for failure in failures:
        print(failure)
    print(json.dumps({"times": arguments.times, "failures": len(failures), "moments": dict(moments)}))


if __name__ == "__main__":
    main()
