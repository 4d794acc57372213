"""Preprocessing in the graph gives the levels that preprocessing on the CPU gives, on real photos."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from edgecnn.backends.onnxruntime import OnnxRuntimeBackend
from edgecnn.camera_input import CameraInput, PixelFormat, YuvMatrix
from edgecnn.errors import BuildError, InputError, SpecError
from edgecnn.export.camera_front import add_camera_front
from edgecnn.export.graph import to_bytes
from edgecnn.export.lowering import lower_graph
from edgecnn.export.measure import compiled
from edgecnn.metadata import CAMERA_KEY
from edgecnn.model import Model
from edgecnn.preprocess import Preprocessor
from edgecnn.results import RawOutputs
from edgecnn.spec import ImageSpec, ModelSpec, image_spec
from tests.cameras import FORMATS, camera_bytes, convolution, front_alone, with_front
from tests.networks import Net, calibrated, graph_of, run, save, spec

NAMES = ("astronaut.png", "coffee.png", "rocket.jpg", "retina.jpg")
YUV = ("nv12", "yuyv")


@lru_cache
def photo(file: Path, hw: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W, 3) BGR."""
    image = cv2.imread(str(file))
    assert image is not None
    return np.asarray(cv2.resize(image, hw[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def levels_off(
    image: ImageSpec, bgr: NDArray[np.uint8], pixel_format: PixelFormat
) -> NDArray[np.floating[Any]]:
    """How far the graph's tensor is from the CPU's for the same bytes, in levels of 255."""
    raw, frame = camera_bytes(bgr, pixel_format)
    camera = CameraInput(frame_hw=(bgr.shape[0], bgr.shape[1]), pixel_format=pixel_format)
    (tensor,) = run(front_alone(image, camera), camera.as_input(raw)[None])
    preprocess = Preprocessor(image)
    preprocess(frame)
    assert tensor.shape == preprocess.tensor.shape
    per_channel = np.asarray(image.std) / image.scale
    if image.layout == "NCHW":
        per_channel = per_channel[:, None, None]
    return np.abs(tensor - preprocess.tensor) * per_channel


def check(image: ImageSpec, bgr: NDArray[np.uint8], pixel_format: PixelFormat) -> None:
    """Equal within one level for 99.9 % of the numbers, and nowhere further off than three.

    OpenCV resizes 8-bit pictures with weights of 11 bits and rounds; the graph with exact weights. So a
    number near n + 1/2 may go either way: one level. Where the CPU resizes several times (`area`) it rounds
    each time, and where colours come first their own last bit adds to it: two levels, once in 10⁵. A wrong
    tap, phase, border or colour would be off by tens. Interpolation-free results are equal to the bit.
    """
    off = levels_off(image, bgr, pixel_format)
    slack = 0.01  # normalization in float32, in another order than the CPU's table
    assert (off <= 1 + slack).mean() >= 0.999
    assert off.max() <= 3 + slack
    if image.interpolation == "nearest":
        # YUV → BGR in 20-bit integers there and float32 here: a tie may fall the other way
        assert (off <= slack).mean() >= (0.9999 if pixel_format in YUV else 1)


POLICIES: dict[str, dict[str, Any]] = {
    "stretch": {"size_hw": (90, 130), "resize": "stretch"},
    "letterbox": {"size_hw": (160, 160), "resize": "letterbox", "pad_value": 114},
    "crop": {"size_hw": (112, 112), "resize": "crop", "resize_hw": (128, 128)},
}


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("interpolation", ["nearest", "linear", "cubic", "area"])
def test_levels_are_the_cpus(photos: Path, pixel_format: Any, policy: str, interpolation: Any) -> None:
    normalized: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    image = image_spec(interpolation=interpolation, **normalized, **POLICIES[policy])
    check(image, photo(photos / "astronaut.png", (378, 502)), pixel_format)


@pytest.mark.parametrize("pixel_format", ["bgr", "nv12"])
@pytest.mark.parametrize("preset", ["yolo", "efficientnet-lite", "imagenet"])
@pytest.mark.parametrize("name", NAMES)
def test_full_hd(photos: Path, pixel_format: Any, preset: str, name: str) -> None:
    check(image_spec(preset), photo(photos / name, (1080, 1920)), pixel_format)


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("color", ["RGB", "BGR", "GRAY"])
def test_colours_and_layouts(photos: Path, pixel_format: Any, layout: Any, color: Any) -> None:
    image = image_spec("yolo", size_hw=(96, 128), color=color, layout=layout, interpolation="nearest")
    off = levels_off(image, photo(photos / "coffee.png", (240, 240)), pixel_format)
    assert (off <= 0.01).mean() >= (0.9999 if pixel_format in YUV else 1)  # as in `check`
    assert off.max() <= 1.01


@pytest.mark.parametrize("hw", [(48, 40), (96, 96), (97, 131), (1, 3), (600, 20)])
@pytest.mark.parametrize("interpolation", ["nearest", "linear", "cubic", "area"])
@pytest.mark.parametrize("policy", POLICIES)
def test_small_odd_and_narrow_frames(photos: Path, hw: Any, interpolation: Any, policy: str) -> None:
    image = image_spec(interpolation=interpolation, **POLICIES[policy])
    check(image, photo(photos / "rocket.jpg", hw), "bgr")


def test_a_frame_of_the_inputs_size_is_not_resampled(photos: Path) -> None:
    content = front_alone(image_spec("unit"), CameraInput(frame_hw=(224, 224), pixel_format="rgb"))
    kinds = [node.op_type for node in onnx.load_from_string(content).graph.node]
    assert kinds == ["Cast", "Transpose", "Mul", "Add", "Identity"]
    assert levels_off(image_spec("unit"), photo(photos / "coffee.png", (224, 224)), "rgb").max() < 0.01


@pytest.mark.parametrize("pixel_format", YUV)
def test_bytes_that_no_picture_has(pixel_format: PixelFormat) -> None:
    """Y below black and colours beyond RGB are clipped where OpenCV clips them."""
    camera = CameraInput(frame_hw=(64, 64), pixel_format=pixel_format)
    raw = np.random.default_rng(0).integers(0, 256, camera.shape, np.uint8)
    code = {"nv12": cv2.COLOR_YUV2RGB_NV12, "yuyv": cv2.COLOR_YUV2RGB_YUYV}[pixel_format]
    wanted = np.asarray(cv2.cvtColor(raw, code), np.float32)
    image = image_spec(size_hw=(64, 64), layout="NHWC", scale=1)
    (found,) = run(front_alone(image, camera), raw[None])
    off = np.abs(found[0] - wanted)
    assert (off == 0).mean() >= 0.9999  # OpenCV's 20-bit integers and float32 differ in a tie
    assert off.max() <= 1


# Y, U and V by the standards' definitions, kr and kb being the weights of red and blue in luma
STANDARDS: dict[YuvMatrix, tuple[float, float]] = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
COLOURS = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (40, 40, 40), (90, 140, 60)]


@pytest.mark.parametrize("matrix", STANDARDS)
@pytest.mark.parametrize("full_range", [False, True])
def test_standards(matrix: YuvMatrix, full_range: bool) -> None:
    kr, kb = STANDARDS[matrix]
    rgb = np.array(COLOURS) / 255
    y = rgb @ [kr, 1 - kr - kb, kb]
    u, v = (rgb[:, 2] - y) / (2 - 2 * kb), (rgb[:, 0] - y) / (2 - 2 * kr)
    luma, chroma = (y * 255, 255) if full_range else (16 + y * 219, 224)
    columns = [np.rint(plane).clip(0, 255).repeat(2) for plane in (luma, 128 + u * chroma, 128 + v * chroma)]
    width = len(columns[0])
    raw = np.concatenate([np.tile(columns[0], 2), np.stack([columns[1][::2], columns[2][::2]], 1).ravel()])
    camera = CameraInput(frame_hw=(2, width), pixel_format="nv12", matrix=matrix, full_range=full_range)
    image = image_spec(size_hw=(2, width), layout="NHWC", scale=1)
    frames = raw.astype(np.uint8).reshape(1, 3, width, 1)
    (tensor,) = run(front_alone(image, camera), frames)
    # Y, U and V are whole numbers: half a level of each, times up to 1.17 and 2.12
    assert np.abs(tensor[0, 0, ::2] - COLOURS).max() <= 2
    others: list[Any] = [(matrix, not full_range), ("bt601" if matrix == "bt709" else "bt709", full_range)]
    for other_matrix, other_range in others:
        camera = CameraInput(
            frame_hw=(2, width), pixel_format="nv12", matrix=other_matrix, full_range=other_range
        )
        assert np.abs(run(front_alone(image, camera), frames)[0][0, 0, ::2] - COLOURS).max() > 10


def test_uint8_is_read_by_one_cast_and_the_tensor_keeps_its_name() -> None:
    image = image_spec("yolo", size_hw=(64, 64))
    camera = CameraInput(frame_hw=(72, 128), pixel_format="nv12")
    graph = onnx.load_from_string(with_front(convolution(image), image, camera)).graph
    (frames,) = graph.input
    assert frames.name == "camera"
    assert frames.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [side.dim_value for side in frames.type.tensor_type.shape.dim] == [1, 108, 128, 1]
    assert [node.op_type for node in graph.node if "camera" in node.input] == ["Cast"]
    (maker,) = (node for node in graph.node if "image" in node.output)
    assert maker.op_type == "Add"
    assert [node.op_type for node in graph.node if "image" in node.input] == ["Conv"]


def test_names_of_the_network_are_not_taken() -> None:
    net = Net()
    outputs = [net.add("Relu", "image", name="camera"), net.add("Neg", "image", name="camera_/rows/0")]
    image = spec().image
    content = with_front(net.model(*outputs), image, CameraInput(frame_hw=(20, 20), pixel_format="bgr"))
    first, second = run(content, np.full((1, 20, 20, 3), 255, np.uint8))
    np.testing.assert_allclose(first, 2)
    np.testing.assert_allclose(second, -2)


def test_a_free_batch_stays_free(photos: Path) -> None:
    net = Net()
    image = spec().image
    camera = CameraInput(frame_hw=(20, 24), pixel_format="nv12")
    content = with_front(net.model(net.add("Identity", "image", name="tensor")), image, camera)
    frames = [camera.as_input(camera_bytes(photo(photos / n, (20, 24)), "nv12")[0]) for n in NAMES]
    (together,) = run(content, np.stack(frames))
    for tensor, frame in zip(together, frames, strict=True):
        np.testing.assert_array_equal(tensor, run(content, frame[None])[0][0])


@pytest.mark.parametrize("first", ["lowering", "front"])
def test_int8(tmp_path: Path, first: str) -> None:
    """The first convolution is quantized as without a front, whichever came first."""
    net = Net()
    out = net.pooled(net.conv(net.relu(net.conv("image", 3, 8)), 8, 5))
    graph = calibrated(graph_of(net.model(out, own_spec=spec()), tmp_path))
    expected = lower_graph(graph, "int8")
    camera = CameraInput(frame_hw=(24, 40), pixel_format="nv12")
    image = spec().image  # linear by a third and a fifth: what the CPU does there is exact
    if first == "lowering":
        model = expected.clone()
        add_camera_front(model, spec(), camera)
    else:
        add_camera_front(graph, spec(), camera)
        model = lower_graph(graph, "int8")
    content = to_bytes(model)
    onnx.checker.check_model(content, full_check=True)
    assert compiled(content).convolutions == {"int8": 2}
    random = np.random.default_rng(0)
    for _ in range(20):
        # a photo's colours, since arbitrary YUV bytes would mostly be beyond RGB
        bgr = cv2.resize(random.integers(0, 256, (3, 5, 3), np.uint8), (40, 24))
        raw, frame = camera_bytes(np.asarray(bgr, np.uint8), "nv12")
        preprocess = Preprocessor(image)
        preprocess(frame)
        (wanted,) = run(to_bytes(expected), preprocess.tensor)
        (found,) = run(content, camera.as_input(raw)[None])
        np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("color", ["RGB", "GRAY"])
@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("first", ["lowering", "front"])
def test_fp16(photos: Path, tmp_path: Path, first: str, target: Any, color: Any) -> None:
    image = image_spec("yolo", size_hw=(96, 96), color=color)
    own = ModelSpec(task="raw", image=image)
    net = Net((1, *image.shape))
    identity = net.constant(np.eye(image.channels).reshape(image.channels, image.channels, 1, 1))
    graph = graph_of(net.model(net.add("Conv", "image", identity), own_spec=own), tmp_path)
    camera = CameraInput(frame_hw=(130, 150), pixel_format="nv12")
    if first == "lowering":
        model = lower_graph(graph, "fp16", target=target)
        add_camera_front(model, own, camera)
    else:
        add_camera_front(graph, own, camera)
        model = lower_graph(graph, "fp16", target=target)
    raw, frame = camera_bytes(photo(photos / "astronaut.png", (130, 150)), "nv12")
    preprocess = Preprocessor(image)
    preprocess(frame)
    (tensor,) = run(to_bytes(model), camera.as_input(raw)[None])
    off = np.abs(tensor - preprocess.tensor) * 255
    # FP16 holds 0 … 1 in steps of up to 1/2048, an eighth of a level: the tensor's own rounding is a 16th
    assert (off <= 1.07).mean() >= (0.999 if first == "lowering" else 0.99)
    assert off.max() <= 3.07


def test_a_model_takes_what_its_camera_gives(photos: Path, tmp_path: Path) -> None:
    image = image_spec("yolo", size_hw=(64, 64))
    net = Net((1, *image.shape))
    plain = net.model(net.pooled("image"), own_spec=ModelSpec(task="raw", image=image))
    camera = CameraInput(frame_hw=(128, 192), pixel_format="nv12")
    raw, frame = camera_bytes(photo(photos / "coffee.png", (128, 192)), "nv12")
    with (
        Model(OnnxRuntimeBackend(str(save(plain, tmp_path / "plain.onnx")))) as on_cpu,
        Model(OnnxRuntimeBackend(with_front(plain, image, camera))) as in_graph,
    ):
        assert on_cpu.camera is None
        assert in_graph.camera == camera
        wanted, found = on_cpu(frame), in_graph(raw)
        assert isinstance(wanted, RawOutputs)
        assert isinstance(found, RawOutputs)
        np.testing.assert_allclose(found.tensors["flatten_1"], wanted.tensors["flatten_1"], atol=1e-3)
        with pytest.raises(InputError, match=r"got uint8 \(128, 192, 3\), expected .* 192x128 NV12"):
            in_graph(frame)
        with pytest.raises(InputError, match="got list"):
            in_graph([1, 2])  # type: ignore[arg-type]
        with pytest.raises(SpecError, match="another preprocessing"):
            Model(in_graph.backend, ModelSpec(task="raw", image=image_spec("unit", size_hw=(64, 64))))


def test_a_front_goes_on_once_and_on_the_right_model() -> None:
    image = image_spec("unit", size_hw=(8, 8))
    camera = CameraInput(frame_hw=(16, 16), pixel_format="bgr")
    model = ir.from_proto(convolution(image))
    own = ModelSpec(task="raw", image=image)
    with pytest.raises(BuildError, match=r"cannot be compiled.*expected one input, FLOAT \(N, 3, 9, 9\)"):
        add_camera_front(model, ModelSpec(task="raw", image=image_spec("unit", size_hw=(9, 9))), camera)
    assert CAMERA_KEY not in model.metadata_props  # nothing was changed
    add_camera_front(model, own, camera)
    assert CameraInput.from_metadata(model.metadata_props) == camera
    with pytest.raises(BuildError, match="got camera UINT8"):
        add_camera_front(model, own, camera)
