"""A watch post: several cameras share one model; each camera's state and what it shows, once a second.

A camera that goes away comes back by itself; the others do not wait for it.

python samples/multi_camera.py model.int8.onnx 0 rtsp://camera/stream test://?fps=30
"""

from __future__ import annotations

import argparse
from contextlib import suppress
from time import monotonic

import edgecnn
from edgecnn.camera import SourceEvent
from edgecnn.pipeline import Failure


def main() -> None:
    """Watch until Ctrl-C, or until the last video has ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="a model that edgecnn built")
    parser.add_argument("sources", nargs="+", help="camera numbers, streams, videos")
    parser.add_argument("--deadline-ms", type=float, help="drop frames that are older")
    arguments = parser.parse_args()

    def on_event(event: SourceEvent | Failure) -> None:
        if isinstance(event, Failure):
            print(f"{event.name} is lost: {event.reason}")
        else:
            print(f"{event.source} is {event.state}: {event.reason}")

    shown: dict[int, str] = {}
    with (
        edgecnn.load(arguments.model) as model,
        edgecnn.Pipeline(
            arguments.sources, model, deadline_ms=arguments.deadline_ms, on_event=on_event
        ) as pipeline,
    ):
        reported = monotonic()
        for output in pipeline:
            assert isinstance(output.result, edgecnn.Classification)
            shown[output.camera] = output.result.best.label
            if monotonic() - reported >= 1:
                reported = monotonic()
                for camera, source in enumerate(pipeline.stats.sources):
                    print(f"{source.name}: {source.state}, {source.frames} frames, {shown.get(camera)}")
        stats = pipeline.stats
        for source in stats.sources:
            print(f"{source.name}: {source.frames} frames")
        print(f"{stats.frames} results, {stats.dropped} frames dropped: {stats.dropped_by}")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
