"""Detect and follow: what comes into view, for how long it stays, and a video with each object's path.

Ids stay although frames are dropped: the tracker goes by the time of capture.

python samples/detect_camera.py detector.onnx 0 --save followed.mp4
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import edgecnn
from edgecnn.camera import open_sink
from edgecnn.tracking import ByteTrack  # pip install 'edgecnn[track]'


@dataclass
class Visit:
    """One object's stay in the picture."""

    name: str
    first_s: float
    last_s: float
    frames: int = 0


def paths_drawn(length: int = 60) -> Callable[[edgecnn.Output], Any]:
    """A function that draws an output with the path of each object: supervision's annotator does it."""
    import supervision as sv

    trace = sv.TraceAnnotator(trace_length=length, thickness=2, color_lookup=sv.ColorLookup.TRACK)

    def draw(output: edgecnn.Output) -> Any:
        picture = output.annotated.copy()  # boxes, names and ids are on it already
        objects = output.result
        assert isinstance(objects, edgecnn.Detections)
        if objects.track_ids is not None and (objects.track_ids >= 0).any():
            picture = trace.annotate(picture, objects[objects.track_ids >= 0].to_supervision())
        return picture

    return draw


def main() -> None:
    """Follow until the video ends, or until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="a detector that edgecnn built")
    parser.add_argument("source", help="camera number, stream or video")
    parser.add_argument("--save", help="a video, http://:8080 or another sink for the picture")
    parser.add_argument("--min-frames", type=int, default=5, help="shorter visits are not told")
    arguments = parser.parse_args()

    visits: dict[int, Visit] = {}
    counts: dict[str, set[int]] = defaultdict(set)
    draw, start_s = paths_drawn(), None
    with (
        edgecnn.load(arguments.model) as model,
        edgecnn.open_camera(arguments.source) as source,
        edgecnn.Pipeline(source, model, tracker=ByteTrack) as pipeline,
        open_sink(arguments.save, fps=source.fps, live=source.live)
        if arguments.save
        else nullcontext() as sink,
    ):
        for output in pipeline:
            objects = output.result
            assert isinstance(objects, edgecnn.Detections)
            assert objects.track_ids is not None
            frame = output.frame  # a file's own time, or that of capture
            seconds = frame.captured_at if source.live or frame.source_time is None else frame.source_time
            start_s = seconds if start_s is None else start_s
            for track, name in zip(objects.track_ids.tolist(), objects.class_names, strict=True):
                if track < 0:  # seen once only
                    continue
                visit = visits.setdefault(track, Visit(name, seconds - start_s, 0.0))
                visit.last_s, visit.frames = seconds - start_s, visit.frames + 1
                if visit.frames == arguments.min_frames:
                    counts[visit.name].add(track)
                    print(f"{visit.first_s:6.1f} s  #{track} comes: {visit.name}")
            if sink is not None:
                sink.write(output.shown_as(draw(output)))
        for track, visit in visits.items():
            if visit.frames >= arguments.min_frames:
                stay_s = visit.last_s - visit.first_s
                print(f"#{track} {visit.name}: {stay_s:.1f} s in view, {visit.frames} frames")
        seen = ", ".join(f"{len(tracks)} × {name}" for name, tracks in sorted(counts.items()))
        print(f"{pipeline.stats.frames} frames, {pipeline.stats.dropped} dropped; {seen or 'nothing'} seen")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
