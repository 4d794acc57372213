"""Evaluation: labelled data → a task's own metrics, by their known definitions.

    labelled = open_labelled("test/", model.spec)
    found = evaluate(model, labelled)
    found.metrics["map_50_95"]

docs/evaluation.md lists the data sets that are read and the metrics. Labels are data: no code in them is run,
no path in them is followed outside its folder, and what is too large is refused.
"""

from __future__ import annotations

from edgecnn.evaluation.evaluator import (
    Evaluation,
    LabelledByModel,
    evaluate,
    open_if_labelled,
    open_labelled,
)
from edgecnn.evaluation.labelled import Labelled, LabelledFrame, LabelledSet
from edgecnn.evaluation.scores import LOWER_IS_BETTER, Confusion, Curve, Scores, higher_is_better
from edgecnn.evaluation.tasks import Metric, available_metrics

__all__ = [
    "LOWER_IS_BETTER",
    "Confusion",
    "Curve",
    "Evaluation",
    "Labelled",
    "LabelledByModel",
    "LabelledFrame",
    "LabelledSet",
    "Metric",
    "Scores",
    "available_metrics",
    "evaluate",
    "higher_is_better",
    "open_if_labelled",
    "open_labelled",
]
