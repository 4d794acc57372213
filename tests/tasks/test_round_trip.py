"""A box drawn at a known place of a frame of any size comes back there: through the real preprocessing, a
network that finds what is bright, decoding, and the way back; also in tiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgecnn.backends import FunctionBackend, TensorInfo
from edgecnn.model import Model
from edgecnn.preprocess import plan_resize
from edgecnn.spec import ModelSpec, Resize, image_spec
from edgecnn.tiling import TiledModel

SIZE_HW = (192, 256)


def edges(profile: Any) -> tuple[float, float]:
    """Where a row of brightness rises and falls through a half, between the centres of its pixels."""
    padded = np.concatenate([[0], profile, [0]])
    above = np.flatnonzero(padded >= 0.5)
    first, last = above[0], above[-1]
    rise = first - (padded[first] - 0.5) / (padded[first] - padded[first - 1])
    fall = last + (padded[last] - 0.5) / (padded[last] - padded[last + 1])
    return rise - 0.5, fall - 0.5  # the centre of pixel i, which is padded[i + 1], is at i + 0.5


def find(feeds: Mapping[str, Any]) -> dict[str, Any]:
    """(N, 3, h, w) → one finished row each."""
    rows = np.zeros((len(feeds["image"]), 1, 6), np.float32)
    for row, image in zip(rows, feeds["image"], strict=True):
        light = image[0]
        if light.max() >= 0.5:
            middle_y, middle_x = (int(np.median(index)) for index in np.nonzero(light >= 0.5))
            (x1, x2), (y1, y2) = edges(light[middle_y]), edges(light[:, middle_x])
            cut = min(x1, y1) < 1 or x2 > image.shape[2] - 1 or y2 > image.shape[1] - 1
            row[0] = [x1, y1, x2, y2, 0.5 if cut else 0.9, 0]
    return {"rows": rows}


def model(resize: Resize) -> Model:
    height, width = SIZE_HW
    image = image_spec(
        None,
        size_hw=SIZE_HW,
        resize=resize,
        interpolation="area",
        pad_value=0 if resize == "letterbox" else None,
    )
    return Model(
        FunctionBackend(
            find,
            inputs=(TensorInfo("image", (None, 3, height, width), "float32"),),
            outputs=(TensorInfo("rows", (None, 1, 6), "float32"),),
        ),
        ModelSpec(task="detection", image=image, head={"format": "end_to_end"}),
    )


@pytest.mark.parametrize("way", ["letterbox", "crop", "stretch", "tiles"])
@settings(deadline=None, max_examples=40)
@given(
    st.integers(100, 500), st.integers(100, 600),
    st.floats(0.3, 0.45), st.floats(0.3, 0.45), st.floats(0.1, 0.25), st.floats(0.1, 0.25),
)  # fmt: skip
def test_a_box_comes_back_within_a_pixel(
    way: Any, height: int, width: int, left: float, top: float, wide: float, high: float
) -> None:
    frame = np.zeros((height, width, 3), np.uint8)
    box = [
        round(left * width), round(top * height), round((left + wide) * width), round((top + high) * height),
    ]  # fmt: skip
    frame[box[1] : box[3], box[0] : box[2]] = 255
    network = model("letterbox" if way == "tiles" else way)
    found = (TiledModel(network, overlap=0.7) if way == "tiles" else network)(frame)
    if way == "crop":  # what it does not show, nobody can find
        shown = plan_resize(network.spec.image, (height, width)).geometry.to_frame([(0, 0), SIZE_HW[::-1]])
        box = np.clip(box, np.tile(shown[0], 2), np.tile(shown[1], 2)).tolist()
        assume(box[2] - box[0] > 4 and box[3] - box[1] > 4)
    (place,) = found.to_dict()["boxes_xyxy"]
    np.testing.assert_allclose(place, box, atol=1)
