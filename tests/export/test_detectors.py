"""torchvision's detectors: their own post-processing is the reference, on random outputs and through ONNX."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import edgecnn
from edgecnn.backends import TensorInfo
from edgecnn.detections import Detections
from edgecnn.export import export_onnx, load_source
from edgecnn.export.sources import Source
from edgecnn.export.torchvision_detection import as_network
from edgecnn.geometry import Geometry
from edgecnn.preprocess import Preprocessor
from edgecnn.tasks import create_task
from tests.tasks.boxes import nms

torch = pytest.importorskip("torch")

# torchvision keeps the best of each level or class before NMS; here no limits but those that both know
UNLIMITED = {"topk_candidates": 100_000, "detections_per_img": 100_000}


@pytest.fixture(scope="module")
def detection(torchvision: ModuleType) -> Any:
    """torchvision's detectors; where its compiled NMS is missing, one read from the definition."""

    def suppress(boxes: Any, scores: Any, limit: float) -> Any:
        kept = nms(boxes.numpy(), scores.numpy(), np.zeros(len(scores)), limit)
        return torch.tensor(kept, dtype=torch.int64)

    with pytest.MonkeyPatch.context() as patch:
        try:
            torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
        except RuntimeError:
            patch.setattr(torchvision.ops.boxes, "nms", suppress)
        yield torchvision.models.detection


def make(detection: Any, name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    small = {} if name.startswith("ssd") else {"min_size": 160, "max_size": 192}
    module = getattr(detection, name)(weights=None, weights_backbone=None, **small, **options)
    return module.eval()


def by_score(found: Any) -> tuple[Any, Any, Any]:
    order = np.lexsort((found["labels"].numpy(), -found["scores"].numpy()))
    return tuple(found[key].numpy()[order] for key in ("boxes", "scores", "labels"))


@pytest.mark.parametrize(
    ("name", "threshold"),
    [
        ("ssdlite320_mobilenet_v3_large", 0.6),
        ("retinanet_resnet50_fpn", 0.8),
        ("fcos_resnet50_fpn", 0.7),
    ],
)
def test_decoding_is_torchvisions_own(detection: Any, name: str, threshold: float) -> None:
    module = make(detection, name, num_classes=5, score_thresh=threshold, **UNLIMITED)
    source = as_network(Source(module=module, name=name))
    assert source.spec is not None
    height, width = source.spec.image.size_hw
    image = torch.zeros(1, 3, height, width)
    with torch.no_grad():
        features = list(module.backbone(image).values())
        shapes = {key: value.shape for key, value in source.module(image).items()}
    anchors = module.anchor_generator(detection.image_list.ImageList(image, [(height, width)]), features)
    random = np.random.default_rng(0)
    outputs = {key: random.normal(0, 1, shape).astype(np.float32) for key, shape in shapes.items()}
    outputs["cls_logits"] -= 0 if name.startswith("ssd") else 1
    if "bbox_ctrness" in outputs:
        outputs["bbox_regression"] = np.abs(outputs["bbox_regression"])
    tensors = {key: torch.from_numpy(value) for key, value in outputs.items()}
    if not name.startswith("ssd"):  # per level, and FCOS' anchors too
        counts = [len(level) for level in np.split(np.arange(len(anchors[0])), _ends(features, module))]
        tensors = {key: list(value.split(counts, dim=1)) for key, value in tensors.items()}
        anchors = [list(anchors[0].split(counts))]
    with torch.no_grad():
        (theirs,) = module.postprocess_detections(tensors, anchors, [(height, width)])
    boxes, scores, labels = by_score(theirs)
    assert len(scores) > 20

    task = create_task(source.spec, [TensorInfo(key, shape, "float32") for key, shape in shapes.items()])
    same_size = Geometry(frame_hw=(height, width), scale_xy=(1, 1), offset_xy=(0, 0))
    (ours,) = task.decode(outputs, [same_size])
    assert isinstance(ours, Detections)
    # torchvision may keep boxes without width, cut off at the border
    there = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    assert len(ours) == there.sum()
    np.testing.assert_allclose(ours.scores, scores[there], rtol=1e-5)
    np.testing.assert_array_equal(ours.class_ids, labels[there])
    np.testing.assert_allclose(ours.boxes_xyxy, boxes[there], atol=0.05)  # float32 sums of hundreds


def _ends(features: Any, module: Any) -> Any:
    per_place = module.anchor_generator.num_anchors_per_location()
    counts = [f.shape[-2] * f.shape[-1] * n for f, n in zip(features, per_place, strict=True)]
    return np.cumsum(counts)[:-1]


def test_ssd_with_steps_of_its_own(detection: Any) -> None:
    """SSD300 states the steps of its grids, which are not 300 / places."""
    module = make(detection, "ssd300_vgg16", num_classes=3)
    source = as_network(Source(module=module, name="ssd"))
    assert source.spec is not None
    image = torch.zeros(1, 3, 300, 300)
    with torch.no_grad():
        features = list(module.backbone(image).values())
    (anchors,) = module.anchor_generator(detection.image_list.ImageList(image, [(300, 300)]), features)
    task: Any = create_task(
        source.spec,
        [
            TensorInfo("bbox_regression", (1, len(anchors), 4), "float32"),
            TensorInfo("cls_logits", (1, len(anchors), 3), "float32"),
        ],
    )
    ours = task.reader.format.anchors
    corners = np.concatenate([ours[:, :2] - ours[:, 2:] / 2, ours[:, :2] + ours[:, 2:] / 2], axis=1)
    np.testing.assert_allclose(corners, anchors.numpy(), atol=1e-3)


@pytest.mark.slow
def test_from_torchvision_to_detections(detection: Any, tmp_path: Path) -> None:
    """Exported to ONNX and run on a frame, against torchvision's module on the same prepared tensor."""
    source = load_source(
        "torchvision:ssdlite320_mobilenet_v3_large", arguments=["num_classes=4", "score_thresh=0.2"]
    )
    assert source.spec is not None
    network: Any = source.module
    with torch.no_grad():  # an untrained head says the same everywhere
        for parameter in network.head.parameters():
            parameter.mul_(4)
    path = tmp_path / "ssd.onnx"
    result = export_onnx(network, source.spec, path)
    assert [info.name for info in result.outputs] == ["bbox_regression", "cls_logits"]
    frame = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    network.eval()
    prepare = Preprocessor(source.spec.image)
    geometry = prepare(frame)
    with torch.no_grad():
        outputs = {k: v.numpy() for k, v in network(torch.from_numpy(prepare.tensor)).items()}
    infos = [TensorInfo(key, value.shape, "float32") for key, value in outputs.items()]
    task = create_task(result.spec, infos)
    (expected,) = task.decode(outputs, [geometry])
    with edgecnn.load(path) as model:
        found = model(frame)
        assert model.spec == result.spec
    assert isinstance(found, Detections)
    assert isinstance(expected, Detections)
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    assert (
        task.agreement(expected, found)["box_agreement"] > 0.95
    )  # scores that are almost equal change places
    assert ((found.boxes_xyxy >= 0) & (found.boxes_xyxy <= [300, 200, 300, 200])).all()


def test_rcnns_and_other_sources_stay_as_they_are(detection: Any) -> None:
    module = torch.nn.Conv2d(3, 4, 1)
    source = Source(module=module, name="conv")
    assert as_network(source) is source
    rcnn = make(detection, "fasterrcnn_mobilenet_v3_large_320_fpn")
    assert as_network(Source(module=rcnn, name="rcnn")).module is rcnn


def test_labels_are_those_of_coco_where_there_are_as_many(detection: Any) -> None:
    spec = as_network(Source(module=make(detection, "ssdlite320_mobilenet_v3_large"), name="ssd")).spec
    assert spec is not None
    assert (len(spec.labels), spec.labels[1]) == (91, "person")
    assert spec.head["format"] == "anchors"
