"""A network whose answer is known, and frames to ask it about: is the frame red, green or blue?

The logits are 10 times the mean of each channel, so a pure red frame scores exactly softmax(10, 0, 0).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import FunctionBackend, TensorInfo
from edgecnn.model import Model
from edgecnn.spec import ModelSpec, image_spec

COLOURS_BGR = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}
SPEC = ModelSpec(
    task="classification",
    image=image_spec("unit", size_hw=(8, 8)),
    labels=("red", "green", "blue"),
    name="colours",
)


def solid(colour: str, hw: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    """(H, W, 3) BGR of one colour."""
    return np.full((*hw, 3), COLOURS_BGR[colour], np.uint8)


def colour_cycle(count: int, hw: tuple[int, int] = (48, 64)) -> list[NDArray[np.uint8]]:
    """Red, green, blue, red …"""
    names = list(COLOURS_BGR)
    return [solid(names[index % 3], hw) for index in range(count)]


def function_model(
    function: Callable[[NDArray[np.float32]], NDArray[np.float32]], *, name: str = "model"
) -> Model:
    """A model whose network is a Python function: image (N, 3, 8, 8) → logits (N, 3)."""
    backend: Any = FunctionBackend(
        lambda feeds: {"logits": function(feeds["image"])},
        inputs=(TensorInfo("image", (None, 3, 8, 8), "float32"),),
        outputs=(TensorInfo("logits", (None, 3), "float32"),),
    )
    return Model(backend, SPEC, name=name)


def colour_model() -> Model:
    """The network as a Python function."""
    return function_model(lambda image: 10 * image.mean((2, 3)), name="colours")


def write_colour_onnx(path: Path, *, spec: ModelSpec | None = SPEC) -> Path:
    """The network as an ONNX file, with its spec in the metadata unless that is None."""
    import onnx
    from onnx import TensorProto, helper

    def tensor(name: str, shape: list[Any]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    ten = helper.make_tensor("ten", TensorProto.FLOAT, [], [10.0])
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Mul", ["flat", "ten"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes, "colours", [tensor("image", ["N", 3, 8, 8])], [tensor("logits", ["N", 3])], [ten]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    if spec is not None:
        helper.set_model_props(model, {"edgecnn.spec": spec.to_json()})
    onnx.save(model, path)
    return path


def write_video(
    path: Path, frames: list[NDArray[np.uint8]], *, fps: float = 25.0, codec: str = "mp4v"
) -> Path:
    """A video file of frames of one size."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), fps, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def decode_video(path: Path) -> list[NDArray[np.uint8]]:
    """All frames that a video really holds."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    frames: list[Any] = []
    while (grabbed := capture.read())[0]:
        frames.append(grabbed[1])
    capture.release()
    return frames


def colour_of(image: NDArray[np.uint8]) -> str:
    """Which colour the lower half of a picture shows (text is drawn into the upper)."""
    channels = image[image.shape[0] // 2 :].reshape(-1, 3).mean(0)
    return ("blue", "green", "red")[int(np.argmax(channels))]
