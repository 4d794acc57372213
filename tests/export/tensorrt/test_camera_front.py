"""TensorRT for RTX makes one kernel of a front, from the camera's bytes to the network's tensor."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from edgecnn.camera_input import CameraInput
from edgecnn.export.tensorrt import CompileOptions, compile_onnx
from edgecnn.spec import image_spec
from tests.cameras import FORMATS, convolution, with_front

FULL_HD, UHD = (1080, 1920), (2160, 3840)

CASES: list[tuple[str, str, tuple[int, int], dict[str, Any], str]] = [
    *((name, "yolo", FULL_HD, {}, "8.6") for name in FORMATS),
    ("bgr", "yolo", FULL_HD, {}, "12.0"),
    ("nv12", "efficientnet-lite", FULL_HD, {}, "8.6"),  # cubic, crop
    ("nv12", "imagenet", FULL_HD, {}, "12.0"),  # area, crop
    ("nv12", "yolo", (720, 1280), {"size_hw": (416, 416)}, "8.6"),  # linear between pixels
    ("nv12", "yolo", FULL_HD, {"layout": "NHWC"}, "8.6"),
    ("bgr", "unit", FULL_HD, {"color": "GRAY"}, "8.6"),
    ("bgr", "imagenet", UHD, {}, "8.6"),
]


@pytest.mark.parametrize(("pixel_format", "preset", "frame_hw", "options", "capability"), CASES)
def test_one_kernel(
    rtx: Any,
    tmp_path: Path,
    pixel_format: Any,
    preset: str,
    frame_hw: tuple[int, int],
    options: dict[str, Any],
    capability: str,
) -> None:
    image = image_spec(preset, **options)
    camera = CameraInput(frame_hw=frame_hw, pixel_format=pixel_format)
    content = with_front(convolution(image), image, camera)
    report = compile_onnx(
        content, tmp_path / "plan", CompileOptions(compute_capabilities=(capability,))
    ).report
    layers = [item.layer for item in report.layers if item.layer.kind != "none"]
    readers = [layer for layer in layers if any(tensor.name == "camera" for tensor in layer.inputs)]
    assert readers == layers[:1]
    (written,) = readers[0].outputs
    assert math.prod(written.dims) == math.prod(image.shape)
    assert layers[1].kind == "convolution"
    assert {tensor.dtype for tensor in readers[0].inputs if tensor.name == "camera"} == {"uint8"}
