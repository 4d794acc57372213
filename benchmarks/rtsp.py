"""How old frames of an RTSP camera are, and how soon they are back when it was gone.

    python -m benchmarks.rtsp [--seconds 62] [--rounds 10]

A real server on this machine (`tests/rtsp_server.py`, Debian's GStreamer) sends 30 frames a second of H.264,
640 × 480; each picture carries the time at which it was made. Three consumers read at the same time, each
with an encoder of its own in the server:

    plain       `cv2.VideoCapture(url).read()` every 100 ms, as most samples have it
    source      `open_camera(url)`, a frame every 100 ms
    pipeline    `Pipeline(url, model)` with a model that takes 100 ms

An age is the time from the server's making a picture until the consumer has it (with the pipeline: its
result); "since capture" counts from `Frame.captured_at`, as `Frame.age_ms` does. Then the server is killed
and started with another size, and frozen and thawed, in turns: how long after its return frames are there,
how old they are, and what is left behind.

Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecnn.camera import Frame, open_camera, read_stamp
from edgecnn.device import read_device, read_state
from edgecnn.pipeline import Pipeline
from tests.colours import function_model
from tests.rtsp_server import RtspServer

PERIOD_S = 0.1
AROUND_S = 3.0  # ages "after 12 s" are those from 9 to 12 s
AFTER_S = (12, 60)
SIZES = ((640, 480), (320, 240))


def main() -> None:
    """Run, print a table, then one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=62.0)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    report: dict[str, Any] = {"benchmark": "rtsp", "opencv": cv2.__version__, "device": asdict(read_device())}
    with RtspServer() as server:
        report["age_ms"] = ages(server.url, options.seconds)
    with RtspServer() as server:
        report["return"] = returns(server, options.rounds)
    report["state"] = asdict(read_state())
    show(report)
    print(json.dumps(report))


def ages(url: str, seconds: float) -> dict[str, dict[str, Any]]:
    """Ages of each consumer's frames, around the times in AFTER_S."""
    consumers: dict[str, Callable[[], Iterator[tuple[NDArray[np.uint8], float]]]] = {
        "plain": lambda: _plain(url),
        "source": lambda: _source(url),
        "pipeline": lambda: _pipeline(url),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in consumers}
    since_capture: list[tuple[float, float]] = []
    start = monotonic()

    def consume(name: str) -> None:
        for image, captured_at in consumers[name]():
            now = monotonic()
            stamp = read_stamp(image)
            if stamp is not None:
                found[name].append((now - start, now - stamp.time))
            if name == "pipeline":
                since_capture.append((now - start, now - captured_at))
            if now - start > seconds:
                return

    threads = [threading.Thread(target=consume, args=(name,)) for name in consumers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report: dict[str, dict[str, Any]] = {}
    for name, pairs in {**found, "pipeline, since capture": since_capture}.items():
        report[name] = {"frames": len(pairs)}
        for after in AFTER_S:
            values = [age * 1e3 for at, age in pairs if after - AROUND_S <= at <= after]
            if values:
                report[name][f"after_{after}_s"] = {
                    "p50": round(float(np.percentile(values, 50)), 1),
                    "p95": round(float(np.percentile(values, 95)), 1),
                }
    return report


def _plain(url: str) -> Iterator[tuple[NDArray[np.uint8], float]]:
    capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG)
    try:
        while (read := capture.read())[0]:
            yield np.asarray(read[1], np.uint8), monotonic()
            time.sleep(PERIOD_S)
    finally:
        capture.release()


def _source(url: str) -> Iterator[tuple[NDArray[np.uint8], float]]:
    with open_camera(url) as source:
        for frame in source:
            yield frame.image, frame.captured_at
            time.sleep(PERIOD_S)


def _pipeline(url: str) -> Iterator[tuple[NDArray[np.uint8], float]]:
    def slow(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        time.sleep(PERIOD_S)
        return np.asarray(tensor.mean((2, 3)))

    with function_model(slow) as model, Pipeline(url, model) as pipeline:
        for output in pipeline:
            yield output.frame.image, output.frame.captured_at


def returns(server: RtspServer, rounds: int) -> dict[str, Any]:
    """Kill and freeze the server in turns; how long after its return frames are there."""
    seconds: dict[str, list[float]] = {"killed, another size": [], "frozen": []}
    oldest = 0.0
    threads, files = threading.active_count(), _open_files()
    with open_camera(server.url, stall_s=1.0) as source:
        within = 0, 0

        def take() -> Frame:
            nonlocal oldest
            frame = next(source)
            stamp = read_stamp(frame.image)
            if stamp is not None:
                oldest = max(oldest, frame.captured_at - stamp.time)
            return frame

        for number in range(rounds):
            for how, figures in seconds.items():
                for _ in range(10):
                    take()
                if number == 0:
                    within = threading.active_count(), _open_files()
                server.freeze() if how == "frozen" else server.kill()
                while source.state != "reconnecting":
                    time.sleep(0.01)
                time.sleep(2.0 + 0.1 * number)  # at another moment between two tries each time
                if how == "frozen":
                    server.thaw()
                else:
                    width, height = SIZES[number % 2]
                    server.start(width=width, height=height)
                start = monotonic()
                take()
                figures.append(monotonic() - start)
        reconnects = source.reconnects
        time.sleep(3)
        left = threading.active_count() - within[0], _open_files() - within[1]
    time.sleep(3)
    return {
        "rounds": rounds,
        "reconnects": reconnects,
        "seconds": {
            how: {"median": round(statistics.median(values), 2), "longest": round(max(values), 2)}
            for how, values in seconds.items()
        },
        "oldest_frame_ms": round(oldest * 1e3, 1),
        "threads_and_files_more_than_in_the_first_round": left,
        "threads_and_files_left_after_closing": (threading.active_count() - threads, _open_files() - files),
    }


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def show(report: dict[str, Any]) -> None:
    """The same for people."""
    print(f"{'age, ms (p50 / p95)':24}" + "".join(f"{f'after {after} s':>22}" for after in AFTER_S))
    for name, figures in report["age_ms"].items():
        cells = [figures.get(f"after_{after}_s") for after in AFTER_S]
        print(
            f"{name:24}"
            + "".join(
                f"{cell['p50']:12.0f} / {cell['p95']:5.0f}  " if cell else f"{'–':>22}" for cell in cells
            )
        )
    back = report["return"]
    for how, figures in back["seconds"].items():
        print(f"{how}: back after {figures['median']} s (median), {figures['longest']} s (longest)")
    print(f"oldest frame {back['oldest_frame_ms']} ms; {back['reconnects']} reconnects")
    print(f"threads and files left: {back['threads_and_files_left_after_closing']}")


if __name__ == "__main__":
    main()
