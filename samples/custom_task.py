"""A task of your own: a classifier that says when it does not know, in thirty lines.

For a network whose outputs edgecnn has no task for: decode them into a result, draw it, say how far two
results agree. Pipelines, videos, JSON and the web view then take the results as they take edgecnn's own.

python samples/custom_task.py classifier.onnx 0 --sure 0.6 --save answers.mp4
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

import edgecnn
from edgecnn.backends import TensorInfo
from edgecnn.drawing import draw_lines
from edgecnn.tasks import register_task


@dataclass(frozen=True)
class Answer:
    """A class, or `unsure`."""

    label: str
    score: float

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return asdict(self)


class Answering:
    """Logits → an Answer; below the score that the head asks for, it is `unsure`."""

    def __init__(self, spec: edgecnn.ModelSpec, outputs: Sequence[TensorInfo]) -> None:
        self.labels, self.sure = spec.labels, float(spec.head.get("sure", 0.5))
        self.output = outputs[0].name

    def decode(self, outputs: Mapping[str, Any], geometries: Sequence[Any]) -> list[Any]:
        """One answer a frame."""
        logits = outputs[self.output][: len(geometries)]
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = powers / powers.sum(axis=1, keepdims=True)
        best = scores.argmax(axis=1)
        return [
            Answer(self.labels[index] if row[index] >= self.sure else "unsure", float(row[index]))
            for index, row in zip(best, scores, strict=True)
        ]

    def draw(self, image_bgr: Any, result: Any) -> None:
        """Write the answer into the corner."""
        draw_lines(image_bgr, [f"{result.label} {result.score:.0%}"])

    def agreement(self, reference: Any, result: Any) -> dict[str, float]:
        """What `edgecnn compare` and `build --precision auto` measure INT8 by."""
        return {"answer_agreement": float(reference.label == result.label)}


register_task("answer", Answering)  # a program does this: a model file names a task, and never imports one


def main() -> None:
    """Answer until the video ends, or until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="a classifier that edgecnn built")
    parser.add_argument("source", help="camera number, video, image or folder of images")
    parser.add_argument("--sure", type=float, default=0.5, help="least score of an answer")
    parser.add_argument("--save", help="write an annotated video here")
    arguments = parser.parse_args()

    with edgecnn.load(arguments.model) as classifier:
        own = replace(classifier.spec, task="answer", head={"sure": arguments.sure})
    sinks = [arguments.save] if arguments.save else []
    answers: dict[str, int] = {}
    with (
        edgecnn.load(arguments.model, spec=own) as model,
        edgecnn.Pipeline(arguments.source, model, sinks=sinks, force=True) as pipeline,
    ):
        for output in pipeline:
            label = output.to_dict()["result"]["label"]
            answers[label] = answers.get(label, 0) + 1
        print(", ".join(f"{label}: {count} frames" for label, count in answers.items()))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
