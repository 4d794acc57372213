"""Embedding: a folder for each identity. A label is its name.

Each image looks for its like among all others:

    rank1, rank5      the most similar image, one of the five most similar ones, is of the same identity
    retrieval_map     mean over images of the average precision of its ranking of all others
    verification_auc  AUROC of the cosine over all pairs: the same identity or not
    tar_at_far_1pct, tar_at_far_01pct     share of equal pairs accepted where 1 %, 0.1 % of different ones are

Images of an identity that no other image has are looked for by nobody, and only stand in the way.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import DataError
from edgecnn.evaluation.folders import named_images
from edgecnn.evaluation.labelled import Item, Place
from edgecnn.evaluation.ranking import ScoreHistogram, auroc, roc, thinned
from edgecnn.evaluation.scores import Curve, Scores, of_units
from edgecnn.results import Embedding, Result
from edgecnn.spec import ModelSpec

__all__ = ["EmbeddingMetric", "create", "labels"]

BLOCK = 512  # rows of the table of similarities that are held at once


class EmbeddingMetric:
    """Keeps one vector and one name of each image."""

    def __init__(self) -> None:
        self._vectors: list[NDArray[np.float32]] = []
        self._names: list[str] = []

    def add(self, truth: str, result: Result) -> None:
        """See `Metric.add`."""
        self._vectors.append(cast("Embedding", result).vector)
        self._names.append(truth)

    def scores(self) -> Scores:
        """See `Metric.scores`."""
        vectors = np.stack(self._vectors)
        _, identities = np.unique(self._names, return_inverse=True)
        count = len(vectors)
        if np.bincount(identities).max() < 2 or identities.max() < 1:
            raise DataError(
                "nothing can be found again",
                got=f"{count} images of {identities.max() + 1} identities",
                expected="two images or more of an identity, and two identities or more",
            )
        histogram = ScoreHistogram()
        ranks: list[NDArray[Any]] = []  # rank1, rank5, average precision of each query
        for start in range(0, count, BLOCK):
            similar = vectors[start : start + BLOCK] @ vectors.T
            same = identities[start : start + BLOCK, None] == identities[None]
            rows = np.arange(len(similar))
            later = np.arange(count)[None] > (start + rows)[:, None]
            histogram.add(similar[later], same[later])
            similar[rows, start + rows] = -np.inf  # not itself
            same[rows, start + rows] = False
            order = np.argsort(-similar, axis=1, kind="stable")
            hits = np.take_along_axis(same, order, axis=1)[same.any(axis=1)]
            found = np.cumsum(hits, axis=1) / np.arange(1, count + 1)
            precision = (found * hits).sum(axis=1) / hits.sum(axis=1)
            ranks.append(np.stack([hits[:, 0], hits[:, :5].any(axis=1), precision], axis=1))
        units = np.concatenate(ranks).astype(np.float64)
        units = np.concatenate([units, np.ones((len(units), 1))], axis=1)

        def means(sums: NDArray[Any]) -> dict[str, float]:
            names = ("rank1", "rank5", "retrieval_map")
            return {name: float(sums[index] / sums[3]) for index, name in enumerate(names)}

        metrics = means(units.sum(axis=0))
        area = auroc(histogram)
        assert area is not None  # there are two identities, and two images of one
        metrics["verification_auc"] = area
        far, tar = roc(histogram)
        negatives = int(histogram.counts()[0].sum())
        for name, rate in (("tar_at_far_1pct", 0.01), ("tar_at_far_01pct", 0.001)):
            if negatives * rate >= 1:  # fewer pairs do not know such rates
                metrics[name] = float(tar[np.flatnonzero(far <= rate)[-1]])
        curve = Curve(
            name="roc_curve",
            x_label="false accept rate",
            y_label="true accept rate",
            series={"pairs": thinned(far, tar)},
        )
        return Scores(metrics=metrics, intervals=of_units(units, means), curves=(curve,))


def create(spec: ModelSpec) -> EmbeddingMetric:
    """See `edgecnn.evaluation.tasks`."""
    return EmbeddingMetric()


def labels(place: Place) -> list[Item]:
    """A folder for each identity. Raises DataError."""
    return [Item(path, lambda frame_hw, name=name: name) for path, name in named_images(place)]  # type: ignore[misc]
