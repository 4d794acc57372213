"""Anomaly detection: folders `good` and others, and masks of what is wrong. A label is `Defect`.

image_auroc, image_ap     of the score: AUROC, average precision
f1, accuracy              of the answer at the model's own threshold
pixel_auroc               of the heat map, over the pixels of all images that have a mask or are good
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import DataError, UnlabelledError
from edgecnn.evaluation.folders import class_folders, label_beside
from edgecnn.evaluation.labelled import Item, Place
from edgecnn.evaluation.maps import check_size, read_mask
from edgecnn.evaluation.ranking import ScoreHistogram, auroc, average_precision, roc, thinned
from edgecnn.evaluation.scores import Confusion, Curve, Scores, of_units
from edgecnn.results import Anomaly, Result
from edgecnn.spec import ModelSpec

__all__ = ["AnomalyMetric", "Defect", "create", "labels", "truth_of"]

GOOD = ("good", "normal", "ok")


class Defect(NamedTuple):
    """Whether anything is wrong, and where: (H, W) bool, None where nobody has said."""

    is_anomalous: bool
    mask: NDArray[np.bool_] | None = None


class AnomalyMetric:
    """Keeps one score of each image, and a histogram of pixels."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, bool, bool]] = []
        self._pixels: ScoreHistogram | None = None

    def add(self, truth: Defect, result: Result) -> None:
        """See `Metric.add`."""
        found = cast("Anomaly", result)
        self._rows.append((found.score, truth.is_anomalous, found.is_anomalous))
        if found.heat_map is None or (truth.mask is None and truth.is_anomalous):
            return
        if self._pixels is None:
            self._pixels = ScoreHistogram()
        known = np.isfinite(found.heat_map)
        wrong = np.zeros(known.shape, bool) if truth.mask is None else truth.mask
        self._pixels.add(found.heat_map[known], wrong[known])

    def scores(self) -> Scores:
        """See `Metric.scores`."""
        scores = np.array([row[0] for row in self._rows])
        wrong, said = np.array([row[1:] for row in self._rows], bool).T
        area, precision = auroc(scores, wrong), average_precision(scores, wrong)
        if area is None or precision is None:
            raise DataError("good and bad images are needed", got=f"{wrong.sum()} bad of {len(wrong)}")
        table = np.stack([~wrong & ~said, ~wrong & said, wrong & ~said, wrong & said], axis=1).astype(float)
        metrics = {"image_auroc": area, "image_ap": precision, **_answers(table.sum(axis=0))}
        curves = {"images": thinned(*roc(scores, wrong))}
        pixels = None if self._pixels is None else auroc(self._pixels)
        if pixels is not None and self._pixels is not None:
            metrics["pixel_auroc"] = pixels
            curves["pixels"] = thinned(*roc(self._pixels))
        return Scores(
            metrics=metrics,
            intervals=of_units(table, _answers),
            confusion=Confusion(
                labels=("good", "anomalous"),
                counts=table.sum(axis=0).astype(np.int64).reshape(2, 2),
                of="images",
            ),
            curves=(
                Curve(
                    name="roc_curve",
                    x_label="false positive rate",
                    y_label="true positive rate",
                    series=curves,
                ),
            ),
        )


def _answers(counts: NDArray[np.float64]) -> dict[str, float]:
    right_good, false_alarms, missed, found = counts.tolist()
    f1 = 2 * found / max(1, 2 * found + false_alarms + missed)
    return {"f1": f1, "accuracy": (right_good + found) / max(1, counts.sum())}


def create(spec: ModelSpec) -> AnomalyMetric:
    """See `edgecnn.evaluation.tasks`."""
    return AnomalyMetric()


def labels(place: Place) -> list[Item]:
    """As MVTec AD has it: `good/` and a folder for each defect, in `test/` or at the top.

    Masks are in `ground_truth/DEFECT/NAME_mask.png` or `NAME.png`, if there are any. Raises DataError.
    """
    top = place.data / "test" if (place.data / "test").is_dir() else place.data
    folders = class_folders(top, leave_out="ground_truth")
    if not set(folders) & set(GOOD):
        raise UnlabelledError(
            f"no folder of good images in {top}",
            got=", ".join(sorted(folders)[:12]),
            expected=" or ".join(GOOD),
        )
    items = []
    for name, images in folders.items():
        masks = place.data / "ground_truth" / name
        for image in images:
            mask = None if name in GOOD else label_beside(image, masks, ("_mask.png", ".png"))
            items.append(Item(image, partial(_read, name not in GOOD, mask)))
    return items


def truth_of(spec: ModelSpec, result: Result) -> Defect:
    """The model's answer."""
    return Defect(cast("Anomaly", result).is_anomalous)


def _read(is_anomalous: bool, path: Path | None, frame_hw: tuple[int, int]) -> Defect:
    if path is None:
        return Defect(is_anomalous)
    mask = read_mask(path)
    check_size(mask, frame_hw, path)
    return Defect(is_anomalous, mask > 0)
