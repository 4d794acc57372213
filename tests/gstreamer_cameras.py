"""What Debian's Python does with GStreamer sources: its OpenCV has GStreamer, and the test's may not.

    python3 tests/gstreamer_cameras.py pipeline 'gst:videotestsrc num-buffers=5'

Each function below prints one JSON object; tests/camera/test_gstreamer.py runs them. The cameras need NumPy
and OpenCV alone.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from time import monotonic
from typing import Any

PYTHON = "/usr/bin/python3"
ROOT = Path(__file__).resolve().parents[1]
_NEEDED = """
import cv2, numpy
raise SystemExit(not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))
"""


@functools.cache
def missing() -> str | None:
    """Why there is no OpenCV with GStreamer here, or None where there is."""
    if not Path(PYTHON).exists():
        return f"no {PYTHON}"
    result = subprocess.run([PYTHON, "-c", _NEEDED], capture_output=True, text=True, timeout=60)
    return None if result.returncode == 0 else f"{PYTHON} has no OpenCV with GStreamer"


def run(*arguments: str, **environment: str) -> tuple[dict[str, Any], str]:
    """Run one of the functions below in Debian's Python; returns its JSON and all that it printed."""
    result = subprocess.run(
        [PYTHON, __file__, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1]), result.stdout + result.stderr


def pipeline(uri: str, policy: str | None = None) -> dict[str, Any]:
    """Up to 30 frames of a source: what they are."""
    from edgecnn.camera import open_camera
    from edgecnn.errors import EdgeCNNError

    try:
        with open_camera(uri, policy=policy, reconnect=0) as source:
            frames = list(itertools.islice(source, 30))
            return {
                "live": source.live,
                "policy": source.policy,
                "fps": source.fps,
                "indexes": [frame.index for frame in frames],
                "shapes": sorted({frame.image.shape for frame in frames}),
                "changes": len({frame.image.tobytes() for frame in frames}),
                "times": [frame.source_time for frame in frames],
                "name": source.name,
            }
    except EdgeCNNError as error:
        return error.to_dict()


def rtsp(query: str) -> dict[str, Any]:
    """Kills and freezes a server meanwhile; how old pictures were, and what was told."""
    from edgecnn.camera import Source, SourceEvent, open_camera, read_stamp
    from tests.rtsp_server import RtspServer

    def take(source: Source, count: int) -> list[float | None]:
        ages = []
        for frame in itertools.islice(source, count):
            stamp = read_stamp(frame.image)
            ages.append(None if stamp is None else frame.captured_at - stamp.time)
        return ages

    def lost(source: Source) -> None:
        deadline = monotonic() + 30
        while source.state != "reconnecting":
            assert monotonic() < deadline
            time.sleep(0.01)

    events: list[SourceEvent] = []
    with RtspServer(width=320, height=240, user="u5er", password="s3cr3t") as server:
        url = server.url.replace("//", "//u5er:s3cr3t@")
        with open_camera(url + query, stall_s=1.0, on_event=events.append) as source:
            ages = take(source, 20)
            server.kill()
            lost(source)
            time.sleep(1)
            server.start(width=640, height=480)
            ages += take(source, 5)
            server.freeze()
            lost(source)
            time.sleep(1)
            server.thaw()
            ages += take(source, 5)
            start = monotonic()
        return {
            "ages": ages,
            "reconnects": source.reconnects,
            "states": [event.state for event in events],
            "reasons": [event.reason for event in events],
            "close_s": monotonic() - start,
        }


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))  # noqa: T201
