"""Networks whose weights were chosen by hand, and frames on which it is known what they must find."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray

from edgecnn.spec import ImageSpec, ModelSpec
from tests.networks import Net

HW = (240, 320)
DISC = 32  # diameter of what the detector finds, in pixels
FPS = 30


def _spec(task: str, size_hw: tuple[int, int] = HW, **more: Any) -> ModelSpec:
    image = ImageSpec(size_hw=size_hw, resize="letterbox", interpolation="linear")
    return ModelSpec(task=task, image=image, **more)


def _whiteness(net: Net, above: float = 0.8) -> str:
    """(N, 1, H, W): 1 where all three channels are white, 0 below `above`."""
    darkest = (
        net.add("ReduceMin", "image", axes=[1], keepdims=1)
        if net.opset < 18
        else net.add("ReduceMin", "image", net.constant(np.array([1])), keepdims=1)
    )
    over = net.add("Sub", darkest, net.constant(np.float32(above)))
    return net.clip(net.add("Mul", over, net.constant(np.float32(1 / (1 - above)))), 0, 1)


def write_detector(path: Path) -> Path:
    """Finds white discs: a Gaussian's response to whiteness is highest in the middle of one."""
    net = Net((1, 3, *HW))
    reach = np.arange(-DISC, DISC + 1)
    bell = np.exp(-(reach[:, None] ** 2 + reach[None] ** 2) / (2 * (DISC / 3) ** 2))
    inside = reach[:, None] ** 2 + reach[None] ** 2 <= (DISC / 2) ** 2
    ring = np.where(inside, bell, -0.5 * bell)  # large white areas are no discs
    kernel = net.constant((ring / ring[inside].sum())[None, None].astype(np.float32))
    heat = net.add("Conv", _whiteness(net), kernel, pads=[DISC] * 4, strides=[4, 4], name="hm")
    side = net.constant(np.full(2, DISC / 4, np.float32))
    net.add("Conv", heat, net.constant(np.zeros((2, 1, 1, 1), np.float32)), side, name="wh")
    zero = net.constant(np.full(2, 1 / 8, np.float32))
    net.add("Conv", heat, net.constant(np.zeros((2, 1, 1, 1), np.float32)), zero, name="reg")
    head = {"format": "centernet", "heat_output": "hm", "size_output": "wh", "offset_output": "reg"}
    spec = _spec("detection", labels=("disc",), head={**head, "min_score": 0.6, "nms_iou": 0.3})
    onnx.save(net.model("hm", "wh", "reg", own_spec=spec), path)
    return path


def write_segmenter(path: Path, size_hw: tuple[int, int] = HW) -> Path:
    """Two classes: what is white, and the rest."""
    net = Net(("N", 3, *size_hw))
    white = _whiteness(net)
    net.add("Concat", net.add("Sub", net.constant(np.float32(1)), white), white, axis=1, name="scores")
    spec = _spec("segmentation", size_hw, labels=("background", "white"))
    onnx.save(net.model("scores", own_spec=spec), path)
    return path


def write_embedder(path: Path) -> Path:
    """How much of each colour is in each quarter: a vector of 12 numbers."""
    net = Net(("N", 3, 64, 64))
    quarters = net.add("AveragePool", "image", kernel_shape=[32, 32], strides=[32, 32])
    net.add("Flatten", quarters, name="embedding")
    onnx.save(net.model("embedding", own_spec=_spec("embedding", (64, 64))), path)
    return path


def write_blind(path: Path) -> Path:
    """In place of MTCNN's third network, which is too large to lie here: whatever it sees is no face."""
    net = Net(("N", 3, 48, 48))
    mean = net.add("Flatten", net.add("GlobalAveragePool", "image"))
    net.add("Mul", mean, net.constant(np.float32(0)), name="score")
    onnx.save(net.model("score", own_spec=_spec("raw", (48, 48))), path)
    return path


def write_driver(path: Path) -> Path:
    """Two heads: the road is what is not green, the lines on it are white."""
    net = Net((1, 3, *HW))
    red, green, _ = net.split("Split", "image", names=["red", "green", "blue"], axis=1, num_outputs=3)
    grey = net.clip(net.add("Add", net.add("Sub", red, green), net.constant(np.float32(0.9))), 0, 1)
    net.add("Mul", grey, net.constant(np.float32(1)), name="road_scores")
    net.add("Mul", _whiteness(net), net.constant(np.float32(1)), name="lane_scores")

    def part(output: str, label: str) -> dict[str, Any]:
        head = {"scores": "probabilities", "threshold": 0.75}
        return {"task": "segmentation", "outputs": [output], "labels": ["other", label], "head": head}

    heads = {"drivable": part("road_scores", "road"), "lanes": part("lane_scores", "line")}
    onnx.save(net.model("road_scores", "lane_scores", own_spec=_spec("multi_head", head=heads)), path)
    return path


def moving_discs(count: int) -> Iterator[NDArray[np.uint8]]:
    """Three discs, each on a line of its own, to the right, to the left, and one that stands."""
    for index in range(count):
        image = np.full((*HW, 3), 60, np.uint8)
        for row, x in enumerate((60 + 2.5 * index, 260 - 2 * index, 160.0)):
            cv2.circle(image, (round(x), 40 + 80 * row), DISC // 2, (255, 255, 255), -1)
        yield image


def bending_road(count: int, *, middle: float = 0.5) -> Iterator[NDArray[np.uint8]]:
    """A road between two white lines on green; its middle stays at a part of the picture's width."""
    height, width = HW
    for _ in range(count):
        image = np.full((*HW, 3), (40, 140, 40), np.uint8)
        x = middle * width
        corners = np.array(
            [[x - 30, height * 0.5], [x + 30, height * 0.5], [x + 110, height], [x - 110, height]]
        )
        cv2.fillPoly(image, [corners.astype(np.int32)], (90, 90, 90))
        for top, foot in ((x - 24, x - 90), (x + 24, x + 90)):
            cv2.line(image, (round(top), height // 2), (round(foot), height), (255, 255, 255), 6)
        yield image
