"""Models on labelled data, from files to metrics."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import edgecnn
from edgecnn.backends import FunctionBackend, TensorInfo
from edgecnn.dataset import open_frames
from edgecnn.errors import DataError
from edgecnn.evaluation import LabelledByModel, available_metrics, evaluate, higher_is_better, open_labelled
from edgecnn.model import Model
from edgecnn.spec import ModelSpec, image_spec
from edgecnn.tasks import available_tasks
from tests.evaluation.sets import write_image

SIDE = 64
LABELS = ("dark", "light")
IMAGE = image_spec("unit", size_hw=(SIDE, SIDE))

Function = Callable[[NDArray[np.float32]], Mapping[str, NDArray[Any]]]


def model_of(spec: ModelSpec, function: Function, *, batch: int | None = None) -> Model:
    """A model whose network is a Python function of the image (N, 3, 64, 64)."""
    example = function(np.zeros((2, 3, SIDE, SIDE), np.float32))
    outputs = [TensorInfo(name, (batch, *array.shape[1:]), "float32") for name, array in example.items()]
    backend: Any = FunctionBackend(
        lambda feeds: dict(function(feeds["image"])),
        inputs=(TensorInfo("image", (batch, 3, SIDE, SIDE), "float32"),),
        outputs=tuple(outputs),
    )
    return Model(backend, spec)


def find_squares(images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Finished boxes: around what is brighter than grey, surer the brighter; and one more, next to unsure."""
    rows = np.zeros((len(images), 2, 6), np.float32)
    for row, image in zip(rows, images, strict=True):
        lines, columns = np.nonzero(image[0] > 0.5)
        if len(lines):
            value = image[0][lines[0], columns[0]]
            row[0] = columns.min(), lines.min(), columns.max() + 1, lines.max() + 1, value, value > 0.9
        row[1] = 0, 0, 9, 9, 0.1, 1
    return {"boxes": rows}


def squares(folder: Path, values: list[int]) -> Path:
    """Each image has one square, 20 pixels wide, of that grey level; `light` from 240 on. Saved as COCO."""
    images, annotations = [], []
    for index, value in enumerate(values, start=1):
        image = np.zeros((SIDE, SIDE, 3), np.uint8)
        left = 4 * index
        image[10:30, left : left + 20] = value
        folder.mkdir(exist_ok=True)
        assert cv2.imwrite(str(folder / f"{index}.png"), image)
        images.append({"id": index, "file_name": f"{index}.png"})
        annotations.append({"image_id": index, "category_id": 1 + (value >= 240), "bbox": [left, 10, 20, 20]})
    categories = [{"id": 1, "name": "dark"}, {"id": 2, "name": "light"}]
    file = folder / "labels.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


@pytest.mark.parametrize("batch", [None, 4])
def test_a_detector_that_is_always_right(batch: int | None, tmp_path: Path) -> None:
    """Six images, in batches of four too; the unsure box is none of the confusion's."""
    spec = ModelSpec(task="detection", image=IMAGE, labels=LABELS, head={"format": "end_to_end"})
    with model_of(spec, find_squares, batch=batch) as model:
        labelled = open_labelled(squares(tmp_path, [140, 160, 180, 245, 250, 255]), spec)
        found = evaluate(model, labelled)
    assert found.images == 6
    assert found.metrics["map_50_95"] == pytest.approx(1)  # false alarms score less than all that is right
    assert found.metrics["map_small"] == pytest.approx(1)
    assert "map_medium" not in found.metrics  # there is none
    assert found.confusion is not None
    assert found.confusion.labels == ("dark", "light", "background")
    assert found.confusion.counts.tolist() == [[3, 0, 0], [0, 3, 0], [0, 0, 0]]
    (curve,) = found.curves
    assert set(curve.series) == {"all classes", *LABELS}
    json.dumps(found.to_dict(), allow_nan=False)


def test_unsure_boxes_count_for_average_precision(tmp_path: Path) -> None:
    """All squares score below the head's threshold: a user would see nothing, yet the ranking is perfect."""
    spec = ModelSpec(
        task="detection", image=IMAGE, labels=LABELS, head={"format": "end_to_end", "min_score": 0.999}
    )
    with model_of(spec, find_squares) as model:
        found = evaluate(model, open_labelled(squares(tmp_path, [140, 160]), spec))
    assert found.metrics["map_50"] == pytest.approx(1)
    assert found.confusion is not None
    assert found.confusion.counts.tolist() == [[0, 2], [0, 0]]


def test_a_model_s_results_as_labels(tmp_path: Path) -> None:
    spec = ModelSpec(task="detection", image=IMAGE, labels=LABELS, head={"format": "end_to_end"})
    squares(tmp_path, [140, 160, 250])

    def shifted(images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        rows = find_squares(images)["boxes"]
        rows[:, 0, [0, 2]] += 4  # 16 of 24 columns: IoU 2/3
        return {"boxes": rows}

    with model_of(spec, find_squares) as reference, model_of(spec, shifted) as model:
        labelled = LabelledByModel(reference, open_frames(tmp_path))
        assert evaluate(reference, labelled).metrics["map_50_95"] == pytest.approx(1)
        found = evaluate(model, labelled)
    assert found.metrics["map_50"] == pytest.approx(1)
    assert found.metrics["map_50_95"] == pytest.approx(0.4)  # right at 0.5, 0.55, 0.6, 0.65


def test_several_heads_with_labels_of_their_own(tmp_path: Path) -> None:
    parts = {
        "squares": {
            "task": "detection", "outputs": ["boxes"], "labels": LABELS, "head": {"format": "end_to_end"},
        },
        "bright": {"task": "segmentation", "outputs": ["map"], "labels": ["no", "yes"]},
        "unlabelled": {"task": "embedding", "outputs": ["vector"]},
    }  # fmt: skip
    spec = ModelSpec(task="multi_head", image=IMAGE, head=parts)

    def network(images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        bright = 8 * (images[:, :1] - 0.7)
        return {**find_squares(images), "map": bright, "vector": np.ones((len(images), 4), np.float32)}

    squares(tmp_path / "images", [140, 250, 255]).rename(tmp_path / "squares.json")
    (tmp_path / "bright").mkdir()
    for index in (2, 3):  # the first image has no mask
        image = cv2.imread(str(tmp_path / "images" / f"{index}.png"), cv2.IMREAD_GRAYSCALE)
        assert image is not None
        assert cv2.imwrite(str(tmp_path / "bright" / f"{index}.png"), np.uint8(image > 0))
    with model_of(spec, network) as model:
        found = evaluate(model, open_labelled(tmp_path, spec))
        again = evaluate(model, LabelledByModel(model, open_frames(tmp_path / "images")))
    assert found.images == 3
    assert found.metrics["squares.map_50_95"] == pytest.approx(1)
    assert found.metrics["bright.mean_iou"] == pytest.approx(1)
    assert set(found.parts) == {"squares", "bright"}
    assert found.to_dict()["heads"]["bright"]["confusion"]["counts"][1] == [0, 800]
    assert again.metrics["bright.pixel_accuracy"] == 1


def test_images_that_cannot_be_read_are_skipped_and_counted(tmp_path: Path, colour_onnx: Path) -> None:
    for name in ("red", "green"):
        write_image(tmp_path / name / "a.png")
    (tmp_path / "red" / "b.png").write_bytes(b"no image")
    with edgecnn.load(colour_onnx) as model:
        found = evaluate(model, open_labelled(tmp_path, model.spec))
        assert found.images == 2
        assert [path.name for path, _ in found.skipped] == ["b.png"]
        for path in tmp_path.rglob("a.png"):
            path.write_bytes(b"no image")
        with pytest.raises(DataError, match="none of these 3 images"):
            evaluate(model, open_labelled(tmp_path, model.spec))
        with pytest.raises(DataError, match="limit is wrong"):
            open_labelled(tmp_path, model.spec, limit=0)
        assert open_labelled(tmp_path, model.spec, limit=2).count == 2


def test_a_task_without_a_metric(tmp_path: Path) -> None:
    spec = ModelSpec(task="raw", image=IMAGE)
    with pytest.raises(DataError, match="no metric for the task raw"):
        open_labelled(tmp_path, spec)
    assert set(available_metrics()) == set(available_tasks()) - {"raw"}
    assert higher_is_better("map_50")
    assert not higher_is_better("depth.rmse")
