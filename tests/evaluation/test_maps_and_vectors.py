"""Metrics of masks, vectors, maps and anomalies, against scikit-learn and against cases counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn import metrics as reference
from sklearn.datasets import load_digits

from edgecnn.errors import DataError
from edgecnn.evaluation import open_labelled
from edgecnn.evaluation.ranking import ScoreHistogram, auroc, average_precision, roc
from edgecnn.evaluation.tasks import metric_module
from edgecnn.evaluation.tasks.anomaly import Defect
from edgecnn.results import Anomaly, Classification, Embedding, Segmentation, ValueMap
from tests.evaluation.sets import spec_of, write_image


def write_mask(path: Path, mask: NDArray[np.integer[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), mask)


def test_classification_of_real_digits_is_scikit_learn_s() -> None:
    """A poor classifier of real digits: how like the mean picture of each class an image is."""
    images, classes = load_digits(return_X_y=True)
    means = np.stack([images[:900][classes[:900] == digit].mean(axis=0) for digit in range(10)])
    distances = ((images[900:, None] - means) ** 2).sum(axis=2)
    scores = np.exp(-distances / 200).astype(np.float32)
    metric = metric_module("classification").create(spec_of("classification", labels=()))
    for row, truth in zip(scores, classes[900:].tolist(), strict=True):
        metric.add(truth, Classification(row))
    found = metric.scores()
    wanted, best = classes[900:], scores.argmax(axis=1)
    assert found.metrics["top1"] == pytest.approx(reference.accuracy_score(wanted, best))
    assert found.metrics["top5"] == pytest.approx(reference.top_k_accuracy_score(wanted, scores, k=5))
    assert found.metrics["balanced_accuracy"] == pytest.approx(
        reference.balanced_accuracy_score(wanted, best)
    )
    assert found.confusion is not None
    np.testing.assert_array_equal(found.confusion.counts, reference.confusion_matrix(wanted, best))
    assert 0.8 < found.metrics["top1"] < 0.95
    low, high = found.intervals["top1"]  # of 897 images: about ± 2 √(p (1 − p) / n)
    share = found.metrics["top1"]
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(share * (1 - share) / len(wanted)), rel=0.25)


def test_ranking_is_scikit_learn_s() -> None:
    random = np.random.default_rng(0)
    positive = random.random(400) < 0.3
    scores = np.round(random.normal(positive * 1.0, 1), 1).astype(np.float32)  # rounded: many are equal
    assert auroc(scores, positive) == pytest.approx(reference.roc_auc_score(positive, scores))
    assert average_precision(scores, positive) == pytest.approx(
        reference.average_precision_score(positive, scores)
    )
    far, tar, _ = reference.roc_curve(positive, scores, drop_intermediate=False)
    np.testing.assert_allclose(roc(scores, positive), (far, tar))
    histogram = ScoreHistogram()
    for part in np.array_split(np.arange(400), 7):
        histogram.add(scores[part], positive[part])
    assert auroc(histogram) == pytest.approx(auroc(scores, positive))
    tiny = random.normal(size=1000).astype(np.float32) * np.float32(1e-30)
    histogram = ScoreHistogram()
    histogram.add(tiny, tiny > 0)
    assert auroc(histogram) == 1.0  # negative numbers, however small, come before positive ones


def test_retrieval_of_real_digits_is_scikit_learn_s() -> None:
    images, classes = load_digits(return_X_y=True)
    images, classes = images[:700] - images.mean(axis=0), classes[:700]
    vectors = (images / np.linalg.norm(images, axis=1, keepdims=True)).astype(np.float32)
    metric = metric_module("embedding").create(spec_of("embedding", labels=()))
    for vector, name in zip(vectors, classes.tolist(), strict=True):
        metric.add(str(name), Embedding(vector))
    found = metric.scores().metrics
    similar = vectors @ vectors.T
    same = classes[:, None] == classes[None]
    others = ~np.eye(len(classes), dtype=bool)
    precision = [
        reference.average_precision_score(same[i][others[i]], similar[i][others[i]])
        for i in range(len(classes))
    ]
    assert found["retrieval_map"] == pytest.approx(np.mean(precision), abs=1e-6)
    best = np.where(others, similar, -2).argmax(axis=1)
    assert found["rank1"] == pytest.approx((classes[best] == classes).mean())
    pairs = np.triu_indices(len(classes), 1)
    assert found["verification_auc"] == pytest.approx(
        reference.roc_auc_score(same[pairs], similar[pairs]), abs=1e-3
    )
    far, tar, _ = reference.roc_curve(same[pairs], similar[pairs], drop_intermediate=False)
    assert found["tar_at_far_1pct"] == pytest.approx(tar[far <= 0.01].max(), abs=0.01)
    assert 0.1 < found["tar_at_far_1pct"] < 0.99


def test_rates_of_acceptance_are_of_all_thresholds() -> None:
    """Not of those alone that a plot shows: where few are accepted, each counts."""
    random = np.random.default_rng(0)
    identities = np.arange(900) % 60
    vectors = random.normal(size=(60, 16))[identities] + 1.3 * random.normal(size=(900, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    metric = metric_module("embedding").create(spec_of("embedding", labels=()))
    for vector, name in zip(vectors, identities.tolist(), strict=True):
        metric.add(str(name), Embedding(vector))
    scores = metric.scores()
    pairs = np.triu_indices(900, 1)
    same = (identities[:, None] == identities[None])[pairs]
    similar = (vectors @ vectors.T)[pairs]
    for name, rate in (("tar_at_far_1pct", 0.01), ("tar_at_far_01pct", 0.001)):
        threshold = np.quantile(similar[~same], 1 - rate)
        assert scores.metrics[name] == pytest.approx((similar[same] > threshold).mean(), rel=0.02)
    assert len(scores.curves[0].series["pairs"][0]) <= 1000


def test_masks_counted_by_hand(tmp_path: Path) -> None:
    """Three classes on 4 x 5 pixels, of which two have no label."""
    truth = np.array([[0, 0, 1, 1, 255], [0, 0, 1, 1, 2], [0, 0, 0, 2, 2], [0, 0, 0, 2, 255]], np.uint8)
    result = np.array([[0, 0, 1, 0, 2], [0, 0, 1, 1, 2], [0, 0, 0, 1, 2], [0, 0, 0, 2, 1]], np.uint8)
    write_image(tmp_path / "images" / "a.jpg", hw=(4, 5))
    write_mask(tmp_path / "masks" / "a.png", truth)
    spec = spec_of("segmentation")
    (frame,) = open_labelled(tmp_path, spec)
    metric = metric_module("segmentation").create(spec)
    metric.add(frame.truth, Segmentation(result))
    scores = metric.scores()
    assert scores.per_class["cat"]["iou"] == pytest.approx(10 / 11)
    assert scores.per_class["dog"]["iou"] == pytest.approx(3 / 5)
    assert scores.per_class["fish"]["dice"] == pytest.approx(2 * 3 / 7)
    assert scores.metrics["mean_iou"] == pytest.approx((10 / 11 + 3 / 5 + 3 / 4) / 3)
    assert scores.metrics["pixel_accuracy"] == pytest.approx(16 / 18)
    assert scores.confusion is not None
    known = truth != 255
    np.testing.assert_array_equal(
        scores.confusion.counts, reference.confusion_matrix(truth[known], result[known])
    )
    ious = np.array([values["iou"] for values in scores.per_class.values()])
    np.testing.assert_allclose(ious, reference.jaccard_score(truth[known], result[known], average=None))
    unseen = result.copy()
    unseen[:, 0] = 255  # a crop kept these from the network: wrong, and of no class
    metric.add(frame.truth, Segmentation(unseen))
    assert metric.scores().metrics["pixel_accuracy"] == pytest.approx((16 + 12) / 36)
    assert metric.scores().confusion.labels[-1] == "not seen"
    metric = metric_module("segmentation").create(spec)
    metric.add(truth, Segmentation(truth % 3))
    metric.add(np.full_like(truth, 255), Segmentation(result))  # not labelled: it may be the only one drawn
    assert metric.scores().intervals["mean_iou"] == (1.0, 1.0)
    with pytest.raises(DataError, match="does not have: got 7"):
        metric.add(np.full((4, 5), 7, np.uint8), Segmentation(result))


def test_masks_in_black_and_white_with_a_palette_and_beside(tmp_path: Path) -> None:
    spec = spec_of("segmentation", labels=("background", "cell"))
    for index in range(3):
        mask = np.zeros((6, 8), np.uint8)
        mask[:3] = 255 * (index > 0)
        write_image(tmp_path / f"{index}.png", hw=(6, 8))
        write_mask(tmp_path / f"{index}_mask.png", mask)
    frames = list(open_labelled(tmp_path, spec))
    assert [sorted(set(frame.truth.ravel().tolist())) for frame in frames] == [[0], [0, 1], [0, 1]]
    write_mask(tmp_path / "2_mask.png", np.where(mask == 255, 1, 255).astype(np.uint8))
    frames = list(open_labelled(tmp_path, spec))  # a 1 anywhere: 255 is no label, as ever
    assert sorted(set(frames[2].truth.ravel().tolist())) == [1, 255]
    picture = Image.fromarray((mask == 255).astype(np.uint8)).convert("P")
    picture.putpalette([0, 0, 0, 200, 10, 10])
    picture.save(tmp_path / "2_mask.png")
    assert sorted(set(list(open_labelled(tmp_path, spec))[2].truth.ravel().tolist())) == [0, 1]
    write_mask(tmp_path / "2_mask.png", np.zeros((6, 8, 3), np.uint8))
    with pytest.raises(DataError, match="one channel"):
        open_labelled(tmp_path, spec)
    write_mask(tmp_path / "2_mask.png", np.ones((5, 8), np.uint8))
    with pytest.raises(DataError, match="another size than its image"):
        list(open_labelled(tmp_path, spec))


def test_maps_counted_by_hand(tmp_path: Path) -> None:
    truth = np.array([[1.0, 2.0, 4.0], [np.nan, 10.0, 0.0]], np.float32)
    result = np.array([[1.0, 3.0, 4.5], [7.0, 9.0, 1.0]], np.float32)
    write_image(tmp_path / "images" / "a.jpg", hw=(2, 3))
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps" / "a.npy", truth)
    spec = spec_of("regression", labels=())
    (frame,) = open_labelled(tmp_path, spec)
    metric = metric_module("regression").create(spec)
    metric.add(frame.truth, ValueMap(result))
    found = metric.scores().metrics
    assert found["rmse"] == pytest.approx(np.sqrt((0 + 1 + 0.25 + 1 + 1) / 5))
    assert found["mae"] == pytest.approx(3.5 / 5)
    assert found["abs_rel"] == pytest.approx((0 + 1 / 2 + 1 / 8 + 1 / 10) / 4)
    assert found["delta_1"] == pytest.approx(3 / 4)
    metric.add(np.full_like(truth, np.nan), ValueMap(result))
    low, high = metric.scores().intervals["rmse"]  # an image without a known number says nothing of errors
    assert low == pytest.approx(found["rmse"])
    assert high == pytest.approx(found["rmse"])
    (tmp_path / "maps" / "a.npy").unlink()
    write_mask(tmp_path / "maps" / "a.png", np.array([[1000, 2000, 4000], [0, 10000, 0]], np.uint16))
    (frame,) = open_labelled(tmp_path, spec)
    np.testing.assert_allclose(frame.truth, np.array([[1, 2, 4], [np.nan, 10, np.nan]]))
    np.save(tmp_path / "maps" / "a.npy", np.array([[{}]], object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot read the map"):
        list(open_labelled(tmp_path, spec))


def test_anomalies_as_mvtec_lays_them_out(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    truths: list[NDArray[np.bool_]] = []
    heats: list[NDArray[np.float32]] = []
    for index in range(8):
        kind = "good" if index < 4 else "scratch"
        write_image(tmp_path / "test" / kind / f"{index}.png", hw=(12, 16))
        mask = np.zeros((12, 16), np.uint8)
        if kind == "scratch":
            mask[2:5, index : index + 4] = 255
            write_mask(tmp_path / "ground_truth" / kind / f"{index}_mask.png", mask)
        truths.append(mask > 0)
        heats.append((random.normal(size=mask.shape) + 2 * (mask > 0)).astype(np.float32))
    spec = spec_of("anomaly", labels=())
    metric = metric_module("anomaly").create(spec)
    scores = random.normal([0, 0, 0, 0, 1, 1, 1, 1]).tolist()
    labelled = open_labelled(tmp_path, spec)
    for frame, wrong_px, heat, score in zip(labelled, truths, heats, scores, strict=True):
        np.testing.assert_array_equal(wrong_px, False if frame.truth.mask is None else frame.truth.mask)
        metric.add(frame.truth, Anomaly(score, 0.5, heat))
    found = metric.scores()
    wrong = np.arange(8) >= 4
    assert found.metrics["image_auroc"] == pytest.approx(reference.roc_auc_score(wrong, scores))
    assert found.metrics["f1"] == pytest.approx(reference.f1_score(wrong, np.array(scores) >= 0.5))
    pixels = reference.roc_auc_score(np.stack(truths).ravel(), np.stack(heats).ravel())
    assert found.metrics["pixel_auroc"] == pytest.approx(pixels, abs=1e-3)
    metric = metric_module("anomaly").create(spec)
    metric.add(Defect(False), Anomaly(0.1, 0.5))
    with pytest.raises(DataError, match="good and bad images are needed"):
        metric.scores()
