"""Pictures as cameras deliver them, made with OpenCV's own conversions, and what OpenCV makes of them."""

from __future__ import annotations

from typing import get_args

import cv2
import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgecnn.camera_input import CameraInput, PixelFormat
from edgecnn.export.camera_front import add_camera_front
from edgecnn.export.graph import to_bytes
from edgecnn.spec import ImageSpec, ModelSpec
from tests.networks import Net

FORMATS: tuple[PixelFormat, ...] = get_args(PixelFormat)


def camera_bytes(
    bgr: NDArray[np.uint8], pixel_format: PixelFormat
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The picture in a camera's format, and the frame that an application without a front would infer on."""
    height, width = bgr.shape[:2]
    if pixel_format == "rgb":
        return np.ascontiguousarray(bgr[:, :, ::-1]), bgr
    if pixel_format == "bgrx":
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 1), np.uint8)  # to be ignored
        return np.concatenate([bgr, noise], axis=2), bgr
    if pixel_format == "gray":
        grey = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), np.uint8)
        return grey, grey
    if pixel_format == "nv12":
        planar = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420), np.uint8).ravel()
        y, u, v = np.split(planar, [height * width, height * width * 5 // 4])
        raw = np.concatenate([y, np.stack([u, v], axis=1).ravel()]).reshape(height * 3 // 2, width)
        return raw, np.asarray(cv2.cvtColor(raw, cv2.COLOR_YUV2BGR_NV12), np.uint8)
    if pixel_format == "yuyv":
        raw = yuyv(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420), np.uint8), height, width)
        return raw, np.asarray(cv2.cvtColor(raw, cv2.COLOR_YUV2BGR_YUYV), np.uint8)
    return bgr, bgr


def yuyv(i420: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """I420's planes → (H, W, 2), Y U Y V …; OpenCV 4.8 cannot make it from BGR."""
    y, u, v = np.split(i420.ravel(), [height * width, height * width * 5 // 4])
    planes = [plane.reshape(height // 2, width // 2).repeat(2, axis=0) for plane in (u, v)]
    chroma = np.stack(planes, axis=2).reshape(height, width)
    return np.stack([y.reshape(height, width), chroma], axis=2)


def with_front(graph: onnx.ModelProto, image: ImageSpec, camera: CameraInput) -> bytes:
    """The network behind a front; ONNX's checker must accept it to the last shape and type."""
    model = ir.from_proto(graph)
    add_camera_front(model, ModelSpec(task="raw", image=image), camera)
    content = to_bytes(model)
    onnx.checker.check_model(content, full_check=True)
    return content


def front_alone(image: ImageSpec, camera: CameraInput) -> bytes:
    """A graph that does nothing but prepare frames: its output is the tensor that a network would get."""
    net = Net((1, *image.shape))
    return with_front(net.model(net.add("Identity", "image", name="tensor")), image, camera)


def convolution(image: ImageSpec) -> onnx.ModelProto:
    """One convolution: the least that a compiler puts behind a front."""
    net = Net((1, *image.shape))
    x = "image" if image.layout == "NCHW" else net.add("Transpose", "image", perm=[0, 3, 1, 2])
    return net.model(net.conv(x, image.channels, 8, strides=[2, 2]))
