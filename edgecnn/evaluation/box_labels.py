"""Labels of boxes: which of the formats a data set is in.

annotations.json              COCO; images beside it, in `images/` beside it, or in --images
data.yaml                     YOLO: its `val` (or `test`), and `labels/` where that has `images/`
folder with images/, labels/  YOLO: labels/NAME.txt for images/NAME.jpg
folder of labels, --images    YOLO
folder with one .json         COCO
"""

from __future__ import annotations

from edgecnn.errors import DataError, UnlabelledError
from edgecnn.evaluation.labelled import Item, Place

__all__ = ["ANY", "box_items"]

ANY = -1
"""As many keypoints as the labels have."""


def box_items(place: Place, *, masks: bool, keypoints: int | None) -> list[Item]:
    """Images with `Objects`.

    Args:
        place: where they are.
        masks: whether each object needs one.
        keypoints: how many each object needs; None for none.

    Raises:
        DataError: no such data set, or one that is damaged.
    """
    from edgecnn.evaluation.coco import coco_items
    from edgecnn.evaluation.yolo import yolo_items

    data = place.data
    if data.is_dir():
        files = sorted(path for path in data.glob("*.json") if not path.name.startswith("."))
        if (data / "data.yaml").is_file():
            return yolo_items(place, data / "data.yaml", masks=masks, keypoints=keypoints)
        if len(files) == 1:
            return coco_items(place, files[0], masks=masks, keypoints=keypoints)
        if (data / "labels").is_dir() or place.images is not None:
            return yolo_items(place, None, masks=masks, keypoints=keypoints)
        what = f"{len(files)} .json files" if files else "neither a .json, nor data.yaml, nor labels/"
        raise UnlabelledError(
            f"no labels of boxes in {data}",
            got=what,
            expected="COCO's annotations.json, or YOLO's data.yaml or images/ and labels/",
            remedy="Give the file itself",
        )
    if data.suffix.lower() in (".yaml", ".yml"):
        return yolo_items(place, data, masks=masks, keypoints=keypoints)
    if data.suffix.lower() == ".json":
        return coco_items(place, data, masks=masks, keypoints=keypoints)
    raise DataError(
        f"{data} holds no labels of boxes", expected="COCO's .json, YOLO's data.yaml, or a folder"
    )
