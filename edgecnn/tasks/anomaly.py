"""Anomaly detection: how unusual a frame is, and where.

A network gives a score (N,) or (N, 1), a heat map (N, 1, h, w), or both. Without a score, it is the map's
highest value.

    {"threshold": 0.5, "score_output": "pred_score", "map_output": "anomaly_map"}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.errors import SpecError
from edgecnn.geometry import Geometry
from edgecnn.results import Anomaly, Result
from edgecnn.spec import ModelSpec
from edgecnn.tasks import read_head
from edgecnn.tasks._formats import not_finite
from edgecnn.tasks._maps import at_frame, is_map, pick_map

__all__ = ["Head", "create"]


@dataclass(frozen=True, kw_only=True)
class Head:
    """How to read the outputs.

    Attributes:
        threshold: from which score on a frame is an anomaly.
        score_output, map_output: names of the outputs; found by their shapes where None.
    """

    threshold: float = 0.5
    score_output: str | None = None
    map_output: str | None = None


class FindAnomalies:
    """A score, a map or both → one Anomaly a frame."""

    def __init__(self, head: Head, score: str | None, heat: str | None, input_hw: tuple[int, int]) -> None:
        self.head = head
        self.score, self.heat = score, heat
        self.input_hw = input_hw

    def decode(self, outputs: Mapping[str, NDArray[Any]], geometries: Sequence[Geometry]) -> list[Result]:
        """Raises InferenceError where a score or the map holds NaN or infinity."""
        results: list[Result] = []
        for index, geometry in enumerate(geometries):
            heat = None
            if self.heat is not None:
                values = outputs[self.heat][index]
                heat = at_frame(values, geometry, self.input_hw, output=self.heat)
                score = float(values.max())
            if self.score is not None:
                score = float(outputs[self.score][index].reshape(()))
                if not np.isfinite(score):
                    raise not_finite(self.score)
            results.append(Anomaly(score, self.head.threshold, heat))
        return results

    def draw(self, image_bgr: NDArray[np.uint8], result: Result) -> None:
        """Lay the heat over an anomalous frame, and write the score."""
        from edgecnn.drawing import draw_heat, draw_lines

        found = cast("Anomaly", result)
        if found.heat_map is not None and found.is_anomalous:
            draw_heat(image_bgr, found.heat_map)
        draw_lines(image_bgr, [f"{'ANOMALY' if found.is_anomalous else 'normal'}  {found.score:.3g}"])

    def agreement(self, reference: Result, result: Result) -> dict[str, float]:
        """`anomaly_agreement`: do both say anomaly, or both not?"""
        same = cast("Anomaly", reference).is_anomalous == cast("Anomaly", result).is_anomalous
        return {"anomaly_agreement": float(same)}


def create(spec: ModelSpec, outputs: Sequence[TensorInfo]) -> FindAnomalies:
    """Make the task. Raises SpecError where the outputs hold neither a score nor a map, or several."""
    head = read_head(spec, Head)
    scores = [info for info in outputs if info.name == head.score_output]
    if head.score_output is None:
        scores = [info for info in outputs if info.shape[1:] in ((), (1,), (1, 1), (1, 1, 1))]
    if len(scores) > 1 or (head.score_output is not None and not scores):
        raise SpecError(
            "which output is the score?",
            got=", ".join(f"{info.name} {info.shape}" for info in outputs),
            expected="(N,) or (N, 1)",
            remedy="Name it: --head score_output=NAME",
        )
    others = [info for info in outputs if info not in scores]
    heat = None
    if head.map_output is not None or any(map(is_map, others)) or not scores:
        heat = pick_map(others, head.map_output, "map_output").name
    return FindAnomalies(head, scores[0].name if scores else None, heat, spec.image.size_hw)
