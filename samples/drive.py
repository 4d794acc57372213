"""Drive: steer by the lane that a network of several heads sees, and never by a result that is too old.

The control loop has its own clock: 30 times a second it takes the newest result, and steers for the middle of
the lane; past the deadline it straightens up and brakes. The vehicle is only drawn: no motor is moved.

python samples/drive.py road.onnx 0 --deadline-ms 100 --save steered.mp4
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

import edgecnn
from edgecnn.camera import open_sink
from edgecnn.drawing import draw_lines

RATE_HZ = 30
ROAD, LANES = "drivable", "lanes"  # the heads' names
LOOK_AT = np.linspace(0.62, 0.85, 12)  # rows of the picture, as parts of its height


@dataclass
class Vehicle:
    """What is asked of the motors: steering from -1, left, to 1, right, and speed in metres a second."""

    steering: float = 0.0
    speed: float = 0.0

    def follow(self, error: float) -> None:
        """Steer by how far the lane's middle is to the right, in widths of the picture; speed up gently."""
        self.steering += 0.3 * (float(np.clip(4 * error, -1, 1)) - self.steering)
        self.speed = min(12.0 * (1 - 0.5 * abs(self.steering)), self.speed + 3.0 / RATE_HZ)

    def brake(self) -> None:
        """Nothing that can be trusted is seen: straighten up and stop."""
        self.steering *= 0.8
        self.speed = max(0.0, self.speed - 6.0 / RATE_HZ)


def lane_error(result: edgecnn.MultiResult) -> float | None:
    """How far right of the picture's middle the lane's middle is, in widths; None where no road is seen."""
    road, lanes = result[ROAD], result[LANES]
    assert isinstance(road, edgecnn.Segmentation)
    assert isinstance(lanes, edgecnn.Segmentation)
    height, width = road.class_map.shape
    middles = []
    for row in (LOOK_AT * height).astype(int):
        free, lines = np.flatnonzero(road.mask(1)[row]), np.flatnonzero(lanes.mask(1)[row])
        if len(free) < width / 10:
            continue
        left, right = lines[lines < width / 2], lines[lines >= width / 2]
        edges = (left.max(), right.min()) if len(left) and len(right) else (free.min(), free.max())
        middles.append(float(np.mean(edges)) / width - 0.5)
    return float(np.median(middles)) if middles else None


def draw(picture: Any, result: Any, vehicle: Vehicle, age_ms: float) -> Any:
    """The road in green and its lines in red, a needle for the steering, and the speed."""
    for name, color in ((ROAD, (60, 160, 0)), (LANES, (0, 0, 255))):
        mask = result[name].mask(1)
        picture[mask] = picture[mask] // 2 + np.array(color, np.uint8) // 2
    height, width = picture.shape[:2]
    foot, top = (width // 2, height - 1), round(width / 2 + vehicle.steering * width / 4)
    cv2.line(picture, foot, (top, round(height * 0.7)), (0, 255, 255), max(2, height // 80), cv2.LINE_AA)
    draw_lines(picture, [f"{vehicle.speed:.1f} m/s, seen {age_ms:.0f} ms ago"])
    return picture


def main() -> None:
    """Drive until the video ends, or until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help=f"a network with the heads {ROAD} and {LANES}, that edgecnn built")
    parser.add_argument("source", help="camera number, stream, or a video, which plays at its own speed")
    parser.add_argument("--deadline-ms", type=float, default=150.0, help="older results are not used")
    parser.add_argument("--save", help="a video, http://:8080 or another sink for the picture")
    arguments = parser.parse_args()

    newest: list[edgecnn.Output] = []
    vehicle, used, steps, blind, tick = Vehicle(), -1, 0, 0, 0.0
    with (
        ThreadPoolExecutor(1) as pool,
        edgecnn.load(arguments.model) as model,
        edgecnn.open_camera(arguments.source, policy="latest") as source,
        edgecnn.Pipeline(source, model, deadline_ms=arguments.deadline_ms) as pipeline,
        open_sink(arguments.save, fps=RATE_HZ, live=True) if arguments.save else nullcontext() as sink,
    ):
        running = pool.submit(pipeline.run, lambda output: newest.__setitem__(slice(None), [output]))
        while not running.done():
            tick = max(tick + 1 / RATE_HZ, time.monotonic())
            time.sleep(max(0.0, tick - time.monotonic()))
            if not newest:
                continue
            output, steps = newest[0], steps + 1
            assert isinstance(output.result, edgecnn.MultiResult)
            age_ms = output.frame.age_ms
            error = lane_error(output.result) if age_ms <= arguments.deadline_ms else None
            vehicle.brake() if error is None else vehicle.follow(error)
            blind += error is None
            if sink is not None and output.frame.index != used:
                sink.write(output.shown_as(draw(output.picture, output.result, vehicle, age_ms)))
            used = output.frame.index
            if steps % RATE_HZ == 0:
                print(f"steering {vehicle.steering:+.2f}, {vehicle.speed:.1f} m/s, seen {age_ms:.0f} ms ago")
        stats = running.result()
    print(f"steering {vehicle.steering:+.2f}, {vehicle.speed:.1f} m/s at the end")
    print(f"{steps} steps, {blind} of them blind; {stats.frames} results, {stats.dropped_by} dropped")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
