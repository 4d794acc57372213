"""A robot's camera follows an object: a control loop at 30 Hz keeps it in the middle of the picture.

The camera is simulated: a view of a larger picture, and motors with a lag. Put your own for `PanTilt`.

python samples/robot_follow.py detector.onnx --object digit.png --world photo.jpg --plot error.png
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import edgecnn
from edgecnn.camera import Capture, Source, read_image
from edgecnn.tracking import ByteTrack  # pip install 'edgecnn[track]'

VIEW_WH, RATE_HZ = np.array([320, 240]), 30
FASTEST, LAG_S = 400.0, 0.08  # the motors': pixels a second; until they have 63 % of what is asked for
GAIN, WHOLE_GAIN = 4.0, 4.0  # of the control loop, 1/s and 1/s²
DEADLINE_MS = 200.0  # what was seen before is not acted on


class PanTilt:
    """The simulated camera: a live source of 30 frames a second, and two motors."""

    name, live, fps, frame_count, skipped = "pan-tilt", True, RATE_HZ, None, ()

    def __init__(self, world: Any, thing: Any, seconds: float) -> None:
        self.world, self.thing = world, thing
        self.room = np.array(world.shape[1::-1]) - VIEW_WH  # in which the view can move
        self.corner = self.room / 2.0
        self.asked = self.speed = np.zeros(2)
        self.begun, self.number, self.last = 0.0, 0, round(seconds * RATE_HZ)
        self.errors: list[tuple[float, float, float]] = []  # seconds; pixels, and had it stood still

    def read(self) -> Capture | None:
        """The next frame, when it is time for it; the motors turn meanwhile."""
        if self.number == self.last:
            return None
        self.begun = self.begun or time.monotonic()  # once all is loaded
        self.number += 1
        second = self.number / RATE_HZ
        time.sleep(max(0.0, self.begun + second - time.monotonic()))
        self.speed = self.speed + (self.asked - self.speed) * (1 - np.exp(-1 / RATE_HZ / LAG_S))
        self.corner = np.clip(self.corner + self.speed / RATE_HZ, 0, self.room)
        away = self.room * 0.45 * (np.sin(0.9 * second), np.sin(1.8 * second))  # a figure of eight
        thing_xy = (self.room + VIEW_WH) / 2 + away
        error = thing_xy - self.corner - VIEW_WH / 2
        self.errors.append((second, float(np.hypot(*error)), float(np.hypot(*away))))
        canvas, (height, width) = self.world.copy(), self.thing.shape[:2]
        x, y = np.rint(thing_xy - (width / 2, height / 2)).astype(int)
        place = canvas[y : y + height, x : x + width]
        np.maximum(place, self.thing, out=place)  # bright on what is behind it
        left, top = np.rint(self.corner).astype(int)
        view = canvas[top : top + VIEW_WH[1], left : left + VIEW_WH[0]].copy()
        return Capture(view, time.monotonic(), self.name)

    def close(self) -> None:
        """Nothing is open."""


def follow(camera: PanTilt, model: edgecnn.Model) -> None:
    """The loop: speed = gain · error + gain · ∫ error dt, as long as the object has been seen lately."""
    newest: list[Any] = []
    seen, whole, track, used_s, tick = None, np.zeros(2), -1, 0.0, time.monotonic()
    source = Source(camera, policy="latest")
    with ThreadPoolExecutor(1) as pool, edgecnn.Pipeline(source, model, tracker=ByteTrack) as pipeline:
        running = pool.submit(pipeline.run, lambda output: newest.__setitem__(slice(None), [output]))
        while not running.done():
            tick = max(tick + 1 / RATE_HZ, time.monotonic())
            time.sleep(max(0.0, tick - time.monotonic()))
            seen = next((one for one in newest if len(one.result)), seen)  # the newest that shows anything
            if seen is None or seen.frame.age_ms > DEADLINE_MS:
                camera.asked = np.zeros(2)  # blind: stand
            elif seen.frame.captured_at > used_s:  # else nothing new, or missed: go on as before
                objects, used_s = seen.result, seen.frame.captured_at
                found = int((objects.track_ids == track).argmax())  # the same one as before, else the surest
                track, box = objects.track_ids[found], objects.boxes_xyxy[found]
                error = (box[:2] + box[2:]) / 2 - VIEW_WH / 2
                whole = np.clip(whole + error / RATE_HZ, -FASTEST / WHOLE_GAIN, FASTEST / WHOLE_GAIN)
                camera.asked = np.clip(GAIN * error + WHOLE_GAIN * whole, -FASTEST, FASTEST)
        print(f"{running.result().frames} results, {pipeline.stats.dropped} frames dropped")


def main() -> None:
    """Follow for a while, then say how well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="a detector that edgecnn built")
    parser.add_argument("--object", type=Path, required=True, help="what to follow, bright on black")
    parser.add_argument("--world", type=Path, required=True, help="a picture, in front of which it moves")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--plot", help="write the error over time here, .png or .svg")
    arguments = parser.parse_args()

    world, thing = read_image(arguments.world), read_image(arguments.object)
    camera = PanTilt(cv2.resize(world, (640, 480)), thing, arguments.seconds)
    with edgecnn.load(arguments.model) as model:
        follow(camera, model)
    _, following, still = np.array(camera.errors)[len(camera.errors) // 4 :].mean(axis=0)  # caught up by then
    print(f"{following:.0f} pixels from the middle, {still:.0f} had it stood still")
    if arguments.plot:
        from matplotlib.figure import Figure  # pip install 'edgecnn[evaluate]'

        axes = (figure := Figure(figsize=(6, 3), layout="constrained")).subplots()
        axes.legend(axes.plot(*np.array(camera.errors)[:, [0, 1, 0, 2]].T), ["camera follows", "stands"])
        axes.set(xlabel="seconds", ylabel="pixels from the middle", ylim=(0, None))
        figure.savefig(arguments.plot)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
