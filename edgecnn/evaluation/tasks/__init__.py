"""Metrics by task. Adding one is adding a module to this package, of the task's name, with

    labels(place)              → list[Item]: image files with their labels, in the form that its metric takes
    create(spec)               → Metric
    truth_of(spec, result)     optional: a model's result as a label, for a comparison without labels
    scoring_head(head)         optional: the head with which the metric wants the results

Nothing else is touched.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, Protocol

from edgecnn.errors import DataError
from edgecnn.evaluation.scores import Scores
from edgecnn.results import Result
from edgecnn.spec import ModelSpec

__all__ = ["Metric", "available_metrics", "metric_module", "scoring_head"]


class Metric(Protocol):
    """Takes in what a model finds, one frame after the other, and keeps no frame."""

    def add(self, truth: Any, result: Result) -> None:
        """One frame: what its label says, and what the model says. Raises DataError: they do not fit."""

    def scores(self) -> Scores:
        """Over all that was added, which is one frame at least."""


def available_metrics() -> tuple[str, ...]:
    """Tasks that can be evaluated."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def metric_module(task: str) -> Any:
    """The module of a task's metric. Raises DataError where there is none."""
    if task not in available_metrics():
        raise DataError(
            f"there is no metric for the task {task}", expected="one of " + ", ".join(available_metrics())
        )
    return importlib.import_module(f"{__name__}.{task}")


def scoring_head(spec: ModelSpec) -> Mapping[str, Any]:
    """The spec's head as the task's metric wants it."""
    module = metric_module(spec.task)
    head: Mapping[str, Any] = module.scoring_head(spec.head) if hasattr(module, "scoring_head") else spec.head
    return head
