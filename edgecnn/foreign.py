"""What other tools write into an ONNX file's metadata, as a ModelSpec: nothing need be said by hand then.

Ultralytics writes `task`, `imgsz` (height, width), `names`, `stride`, `kpt_shape`, `end2end` and `args`, each
the text of a Python value. They are data: read as literals, never run.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from edgecnn.errors import SpecError
from edgecnn.spec import ModelSpec, image_spec

__all__ = ["ultralytics_spec"]

LONGEST = 1 << 20  # of a text that is parsed
TASKS = {
    "detect": "detection",
    "segment": "instance_segmentation",
    "pose": "keypoints",
    "obb": "detection",
    "classify": "classification",
}
MIN_SCORE, NMS_IOU = 0.25, 0.7  # what Ultralytics predicts with unless told otherwise


def ultralytics_spec(metadata: Mapping[str, str]) -> ModelSpec | None:
    """The spec of a model that Ultralytics exported; None where the file is not such a one.

    Raises:
        SpecError: it is, and its metadata are damaged or name a task that edgecnn does not know.
    """
    if not {"task", "imgsz", "names", "stride"} <= metadata.keys():
        return None
    kind = metadata["task"]
    if kind not in TASKS:
        raise SpecError(
            "a task of Ultralytics that edgecnn does not know", got=kind, expected=", ".join(TASKS)
        )
    labels = _labels(_literal(metadata, "names"))
    size = _literal(metadata, "imgsz")
    if not isinstance(size, (list, tuple)) or len(size) != 2:
        raise _damaged("imgsz", metadata["imgsz"])
    name = metadata.get("description", "").removeprefix("Ultralytics ").partition(" model")[0]
    if kind == "classify":
        # torchvision's Resize of the shorter side and CenterCrop; the network ends in softmax
        image = image_spec(
            None, size_hw=size, resize="crop", resize_hw=size, interpolation="area", mean=0.0, std=1.0
        )
        head: dict[str, Any] = {"scores": "probabilities"}
    else:
        image = image_spec("yolo", size_hw=size)
        head = _head(metadata, kind, name)
    return ModelSpec(task=TASKS[kind], image=image, labels=labels, head=head, name=name)


def _head(metadata: Mapping[str, str], kind: str, name: str) -> dict[str, Any]:
    arguments = _literal(metadata, "args") if "args" in metadata else {}
    finished = metadata.get("end2end") == "True" or (
        isinstance(arguments, dict) and arguments.get("nms") is True
    )
    if finished:
        head: dict[str, Any] = {"format": "end_to_end"}
    else:
        head = {"format": "yolo", "objectness": False, "nms_iou": NMS_IOU}
        if name.lower().replace("-", "").startswith("rtdetr"):
            head |= {"normalized": True, "nms_iou": None}
    head["min_score"] = MIN_SCORE
    if kind == "obb":
        head["angle"] = True
    if kind == "pose":
        shape = _literal(metadata, "kpt_shape") if "kpt_shape" in metadata else None
        if not isinstance(shape, (list, tuple)) or len(shape) != 2:
            raise _damaged("kpt_shape", metadata.get("kpt_shape", "nothing"))
        head |= {"points": shape[0], "values": shape[1]}
    return head


def _labels(names: Any) -> tuple[str, ...]:
    """`{0: 'person', …}`, or a list."""
    if isinstance(names, dict) and sorted(map(repr, names)) == sorted(map(repr, range(len(names)))):
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise _damaged("names", str(names))
    return tuple(names)


def _literal(metadata: Mapping[str, str], key: str) -> Any:
    text = metadata[key]
    try:
        if len(text) > LONGEST:
            raise ValueError("too long")
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
        raise _damaged(key, text) from error


def _damaged(key: str, text: str) -> SpecError:
    shown = text if len(text) <= 60 else f"{text[:60]}…"
    return SpecError(
        f"Ultralytics' metadata {key} cannot be read",
        got=shown,
        remedy="Export the model again, or give the spec by options",
    )
