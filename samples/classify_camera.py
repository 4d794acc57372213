"""An app: a camera or a video in, the class of each frame on the terminal, an annotated video beside it.

python samples/classify_camera.py model.int8.onnx 0 --save classified.mp4
"""

from __future__ import annotations

import argparse
from contextlib import suppress

import edgecnn


def main() -> None:
    """Classify until the video ends, or until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="a model that edgecnn built")
    parser.add_argument("source", help="camera number, video, image or folder of images")
    parser.add_argument("--save", help="write an annotated video here")
    arguments = parser.parse_args()

    sinks = [arguments.save] if arguments.save else []
    with (
        edgecnn.load(arguments.model) as model,
        edgecnn.Pipeline(arguments.source, model, sinks=sinks, force=True) as pipeline,
    ):
        print(model)
        shown = ""
        for output in pipeline:
            assert isinstance(output.result, edgecnn.Classification)
            best = output.result.best
            if best.label != shown and best.score > 0.3:  # say what changed, not every frame
                shown = best.label
                age_ms = output.latency.total_ms
                print(f"frame {output.frame.index}: {best.label} ({best.score:.0%}), {age_ms:.1f} ms old")
        print(f"{pipeline.stats.frames} frames, {pipeline.stats.fps or 0:.0f} per second")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
