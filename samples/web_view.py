"""A web page with what the camera sees and the model finds, to watch from a phone or another machine.

Without a host it is for this machine only; http://0.0.0.0:8080 lets everyone watch who reaches the port. The
page's /results is a stream of events for a program of yours, /snapshot.jpg the newest picture.

python samples/web_view.py model.onnx 0 --at http://:8080
"""

from __future__ import annotations

import argparse
from contextlib import suppress
from time import monotonic

import edgecnn
from edgecnn.camera import open_sink


def main() -> None:
    """Serve until Ctrl-C, or until the video ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="a model that edgecnn built")
    parser.add_argument("source", help="camera number, stream or video")
    parser.add_argument("--at", default="http://127.0.0.1:8080", help="port 0 takes a free one")
    parser.add_argument("--rounds", type=int, default=1, help="show a video so many times; 0 for ever")
    arguments = parser.parse_args()

    with edgecnn.load(arguments.model) as model, open_sink(arguments.at) as page:
        print(f"open {page.name}", flush=True)
        shown = 0
        while True:  # the page stays where it is while sources come and go
            with (
                edgecnn.open_camera(arguments.source, policy="latest") as source,  # a video at its own speed
                edgecnn.Pipeline(source, model, sinks=[page]) as pipeline,
            ):
                told = monotonic()
                for output in pipeline:
                    if monotonic() - told >= 5:
                        told = monotonic()
                        fps, age_ms = pipeline.stats.fps_out or 0, output.frame.age_ms
                        print(f"{fps:.0f} frames per second, {age_ms:.0f} ms old", flush=True)
            shown += 1
            if pipeline.source.live or shown == arguments.rounds:
                break
        print(f"{pipeline.stats.frames} frames shown")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
