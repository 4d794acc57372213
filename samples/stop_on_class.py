"""A robot's control loop: stop when a class has been seen for several frames in a row.

One frame is no evidence. The loop stops after `--frames` sightings in a row, drives on after as many frames
without one, and stops at once when a result is too old to act on.

python samples/stop_on_class.py model.int8.onnx 0 --stop-for "street sign"
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import edgecnn


@dataclass
class Brake:
    """Turns single sightings into a steady decision."""

    label: str
    frames: int
    min_score: float
    max_age_ms: float
    stopped: bool = False
    streak: int = 0

    def update(self, result: edgecnn.Classification, age_ms: float) -> bool:
        """Whether to stand still, given the newest result and its age in milliseconds."""
        if age_ms > self.max_age_ms:
            self.stopped, self.streak = True, 0  # blind: stand still
            return self.stopped
        seen = any(entry.label == self.label and entry.score >= self.min_score for entry in result.top(5))
        self.streak = self.streak + 1 if seen != self.stopped else 0
        if self.streak >= self.frames:
            self.stopped, self.streak = not self.stopped, 0
        return self.stopped


def decisions(model: edgecnn.Model, source: str, brake: Brake) -> Iterator[tuple[int, bool]]:
    """Frame number and whether the robot stands, for each frame."""
    with edgecnn.Pipeline(source, model) as pipeline:
        for output in pipeline:
            assert isinstance(output.result, edgecnn.Classification)
            yield output.frame.index, brake.update(output.result, output.latency.total_ms)


def main() -> None:
    """Print each change between driving and standing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="a model that edgecnn built")
    parser.add_argument("source", help="camera number or video")
    parser.add_argument("--stop-for", required=True, help="label of the class to stop for")
    parser.add_argument("--frames", type=int, default=5, help="sightings in a row that count")
    parser.add_argument("--min-score", type=float, default=0.2)
    parser.add_argument("--max-age-ms", type=float, default=200.0)
    arguments = parser.parse_args()

    brake = Brake(arguments.stop_for, arguments.frames, arguments.min_score, arguments.max_age_ms)
    standing = False
    with edgecnn.load(arguments.model) as model:
        if arguments.stop_for not in model.spec.labels:
            parser.error(f"the model has no class {arguments.stop_for!r}")
        for index, stop in decisions(model, arguments.source, brake):
            if stop != standing:
                standing = stop
                print(f"frame {index}: {'stop' if stop else 'drive'}")
    print("stands" if standing else "drives", "at the end")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
