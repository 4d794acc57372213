"""What a frame costs in each sink's thread: `write` of 1080p frames, drawing included.

    python -m benchmarks.sinks [--frames 60]

Sinks that write files and the web view with none, one and eight viewers, and with eight that never read, in
turns within each round. `draw` is what all sinks of a frame share. On a busy machine only the ratios mean
something.

Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import statistics
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, perf_counter

import numpy as np

from edgecnn.bench import synthetic_frames
from edgecnn.camera import Frame, Sink, open_sink
from edgecnn.camera.web_sink import WebSink
from edgecnn.device import read_device
from edgecnn.pipeline import Latency, Output
from edgecnn.results import Classification
from edgecnn.tasks.classification import Classify, Head

DISTINCT = 12
FILES = ("a.jsonl", "a.csv", "a.mp4", "pictures/", "a.rosbag")
VIEWERS = {"web, nobody": (0, True), "web, 1": (1, True), "web, 8": (8, True), "web, 8 stuck": (8, False)}


@contextlib.contextmanager
def viewers(sink: WebSink, count: int, reading: bool) -> Iterator[None]:
    """Viewers of the picture; those that do not read fill their buffers and then stand still."""
    host, port = sink.name.removeprefix("http://").rstrip("/").split(":")
    clients = [socket.create_connection((host, int(port))) for _ in range(count)]
    for client in clients:
        client.sendall(b"GET /stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
        if reading:
            threading.Thread(target=drain, args=(client,), daemon=True).start()
    try:
        yield
    finally:
        for client in clients:
            client.close()


def drain(client: socket.socket) -> None:
    """Read until the end."""
    with contextlib.suppress(OSError):
        while client.recv(1 << 20):
            pass


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--frames", type=int, default=60)
    arguments = parser.parse_args()
    task = Classify(Head(), "scores", ("tabby", "espresso", "zebra"))
    result = Classification(np.array([0.7, 0.2, 0.1], np.float32), task.labels)
    images = synthetic_frames(DISTINCT, size_hw=(1080, 1920))
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as opened:
        sinks: dict[str, Sink] = {name: opened.enter_context(open_sink(f"{folder}/{name}")) for name in FILES}
        for name, (count, reading) in VIEWERS.items():
            view = opened.enter_context(WebSink("http://:0?fps=60"))
            opened.enter_context(viewers(view, count, reading))
            sinks[name] = view
        for index in range(arguments.frames):
            frame = Frame(images[index % DISTINCT], index, monotonic(), "benchmark")
            for name, sink in {"draw": None, **sinks}.items():
                output = Output(result, frame, Latency(0, 0, 0, 0, 0), task.draw)
                start = perf_counter()
                if sink is None:
                    output.annotated  # noqa: B018 (draws)
                else:
                    sink.write(output)
                times.setdefault(name, []).append((perf_counter() - start) * 1e3)
        size_mb = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e6
    p50 = {name: round(statistics.median(values), 3) for name, values in times.items()}
    for name, value in p50.items():
        print(f"{name:14} {value:8.3f} ms, at most {max(times[name]):8.3f}")
    print(json.dumps({"device": read_device().cpu, "write_ms_p50": p50, "files_mb": round(size_mb, 1)}))


if __name__ == "__main__":
    main()
