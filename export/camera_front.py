"""Preprocessing in the graph: its input becomes the camera's own bytes.

In front of a float32 model is put what `edgecnn.preprocess` does on the CPU, in the same order and with the
same roundings, so that the graph sees the same levels:

    bytes ─▶ Cast ─▶ [YUV → BGR] ─▶ rows, columns ─▶ round ─▶ [channels, grey] ─▶ [border]
          ─▶ [Transpose] ─▶ · scale / std − mean / std ─▶ model

- Rows and columns are resized by a few Gathers, one a tap (`edgecnn.export.resampling`), on (N, H, W, C).
  ONNX's Resize is not used: its cubic exists for ONNX Runtime only in NCHW, its antialiasing not at all for
  TensorRT, and its float32 coordinates miss OpenCV's nearest pixel. Gathers are exact for every
  interpolation, need no Slice for a crop, and a compiler can pull everything before them into them: all that
  stands above becomes one kernel of TensorRT for RTX, which reads the bytes and writes the tensor.
- YUV becomes BGR before the resize, as in OpenCV, where it is rounded and clipped; but only the pixels that
  some tap reads. Resizing Y, U and V first
  would move up to one pixel in 400 by more than a level, by up to 20, at the edges of saturated colours.
- A level is rounded half up, which is what OpenCV's integer arithmetic does.
- The first node is Cast, the only one that TensorRT lets read uint8.

The tensor in front of the model keeps its name, so a quantization table still fits. It is made by an Add,
even where there is nothing to add: behind an operator that only moves values, the table's entry would be
looked for under another name.

The front is meant to go on *after* the model is lowered, and so stays float32 and outside of what is measured
against the table's accuracy report. A lowering may also come after it: INT8 then leaves it alone, since the
table does not name its tensors, and FP16 costs one number in a hundred a neighbouring level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.camera_input import CameraInput
from edgecnn.errors import BuildError
from edgecnn.export.graph import constant, to_bytes
from edgecnn.export.resampling import Taps, resize_taps
from edgecnn.export.yuv import Yuv, yuv_to_rgb
from edgecnn.metadata import CAMERA_KEY, SPEC_KEY
from edgecnn.preprocess import plan_resize
from edgecnn.spec import ImageSpec, ModelSpec

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["add_camera_front", "with_camera"]

_ORDERS = {"bgr": "BGR", "rgb": "RGB", "bgrx": "BGR", "gray": "GRAY", "nv12": "BGR", "yuyv": "BGR"}
_GREY = {"R": 9798, "G": 19235, "B": 3735}  # OpenCV's, in 1/2**15: BT.601's 0.299, 0.587, 0.114


def add_camera_front(model: ir.Model, spec: ModelSpec, camera: CameraInput) -> None:
    """Let a model take a camera's frames as uint8, in place; its metadata says which (`edgecnn.camera`).

    Args:
        model: takes one float32 image; exported, calibrated or lowered.
        spec: how a frame becomes that image; written into the metadata, unchanged.
        camera: what the graph shall take. The batch stays the model's.

    Raises:
        BuildError: the model's input is not the spec's float32 tensor; a model that takes frames already.
    """
    import onnx_ir as ir
    from onnx_ir.passes.common import ShapeInferencePass

    graph = model.graph
    tensor = _tensor_input(graph, spec.image)
    front = _Front(graph)
    frames = ir.Value(
        name=front.name(""),
        type=ir.TensorType(ir.DataType.UINT8),
        shape=ir.Shape([tensor.shape[0], *camera.shape]) if tensor.shape is not None else None,
    )
    prepared = _prepare(front, frames, spec.image, camera)
    graph.inputs[0] = frames
    ir.convenience.replace_all_uses_with(tensor, prepared)
    prepared.name, prepared.shape, prepared.type = tensor.name, tensor.shape, tensor.type
    graph.insert_before(next(iter(graph)), front.nodes)
    ShapeInferencePass()(model)
    model.metadata_props[SPEC_KEY] = spec.to_json()
    model.metadata_props[CAMERA_KEY] = camera.to_json()


class _Front:
    """The nodes of the front in the order in which they are made, under names that nobody else has."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.nodes: list[ir.Node] = []
        names = {str(value.name) for node in graph for value in node.outputs} | set(graph.initializers)
        self._prefix = "camera"
        while any(name == self._prefix or name.startswith(f"{self._prefix}/") for name in names):
            self._prefix += "_"  # a network may have a module of that name

    def name(self, part: str) -> str:
        return f"{self._prefix}/{part}" if part else self._prefix

    def constant(self, name: str, array: Any) -> ir.Value:
        return constant(self.graph, self.name(name), array)

    def node(self, name: str, operator: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        import onnx_ir as ir

        node = ir.node(operator, inputs, attributes, name=self.name(name))
        node.outputs[0].name = node.name
        self.nodes.append(node)
        return node.outputs[0]

    def scalar(self, name: str, operator: str, value: ir.Value, number: float) -> ir.Value:
        """`operator` with one float32 number on the right."""
        return self.node(name, operator, value, self.constant(f"{number:.9g}", np.float32(number)))

    def pick(self, name: str, value: ir.Value, indices: Any, axis: int) -> ir.Value:
        """The slices of these indices along an axis."""
        picked = np.asarray(indices, np.int64)
        return self.node(name, "Gather", value, self.constant(f"{name}.indices", picked), axis=axis)

    def level(self, name: str, value: ir.Value) -> ir.Value:
        """Rounded half up, to 0 … 255."""
        rounded = self.node(f"{name}/floor", "Floor", self.scalar(f"{name}/half", "Add", value, 0.5))
        limits = (self.constant(f"{number:g}", np.float32(number)) for number in (0, 255))
        return self.node(name, "Clip", rounded, *limits)


def with_camera(content: bytes, camera: CameraInput) -> bytes:
    """A lowered model, given as the bytes of its file, with the front before it.

    The front goes on after lowering: so it stays in FP32, and the graph behind it is the one that was
    measured.
    """
    import onnx
    import onnx_ir as ir

    model = ir.from_proto(onnx.load_from_string(content))
    spec = ModelSpec.from_metadata(model.metadata_props)
    assert spec is not None  # every builder writes it
    add_camera_front(model, spec, camera)
    return to_bytes(model)


def _tensor_input(graph: ir.Graph, image: ImageSpec) -> ir.Value:
    """The one float32 input of the spec's shape."""
    import onnx_ir as ir

    tensors = list(graph.inputs)
    sides = tuple(tensors[0].shape or ()) if len(tensors) == 1 else ()
    fits = len(sides) == 4 and all(
        side == wanted or not isinstance(side, int)
        for side, wanted in zip(sides[1:], image.shape, strict=True)
    )
    if not fits or tensors[0].dtype != ir.DataType.FLOAT:
        raise BuildError(
            "preprocessing cannot be compiled into this model",
            got=", ".join(f"{value.name} {value.dtype} {value.shape}" for value in tensors),
            expected=f"one input, FLOAT (N, {', '.join(map(str, image.shape))})",
            remedy="Start from a model that takes a prepared tensor",
        )
    return tensors[0]


def _prepare(front: _Front, frames: ir.Value, image: ImageSpec, camera: CameraInput) -> ir.Value:
    """Frames → the tensor that the model takes: (N, C, h, w) or (N, h, w, C), normalized."""
    import onnx_ir as ir

    plan = plan_resize(image, camera.frame_hw)
    rows, columns = (resize_taps(plan, axis, image.size_hw[axis]) for axis in (0, 1))
    value = front.node("float", "Cast", frames, to=ir.DataType.FLOAT)
    if camera.pixel_format in ("nv12", "yuyv"):  # only the pixels that are needed become BGR
        rows, needed_rows = rows.compact()
        columns, needed_columns = columns.compact()
        value = _to_bgr(front, value, camera, needed_rows, needed_columns)
        size_hw = (len(needed_rows), len(needed_columns))
    else:
        size_hw = camera.frame_hw
    value = _resample(front, "rows", value, rows, 1, size_hw[0])
    value = _resample(front, "columns", value, columns, 2, size_hw[1])
    if plan.steps:
        value = front.level("resized", value)
    value = _to_color(front, value, _ORDERS[camera.pixel_format], camera.shape[2], image.color)
    value = _border(front, value, plan.live, image)
    if image.layout == "NCHW":
        value = front.node("planes", "Transpose", value, perm=[0, 3, 1, 2])
    std = np.asarray(image.std)
    per_channel = (-1, 1, 1) if image.layout == "NCHW" else (-1,)
    factors = (image.scale / std).astype(np.float32).reshape(per_channel)
    shifts = (-np.asarray(image.mean) / std).astype(np.float32).reshape(per_channel)
    value = front.node("scaled", "Mul", value, front.constant("factors", factors))
    return front.node("normalized", "Add", value, front.constant("shifts", shifts))


def _resample(front: _Front, name: str, value: ir.Value, taps: Taps, axis: int, length: int) -> ir.Value:
    """Multiply one axis by a sparse matrix, tap by tap."""
    if taps.is_identity(length):
        return value
    total: ir.Value | None = None
    for tap, (indices, weights) in enumerate(zip(taps.indices.T, taps.weights.T, strict=True)):
        part = front.pick(f"{name}/{tap}", value, indices, axis)
        if not taps.trivial:
            column = weights.astype(np.float32).reshape(-1, *[1] * (3 - axis))
            part = front.node(
                f"{name}/{tap}/weighted", "Mul", part, front.constant(f"{name}/{tap}.weights", column)
            )
        total = part if total is None else front.node(f"{name}/{tap}/sum", "Add", total, part)
    assert total is not None  # a side has at least one tap
    return total


def _to_bgr(
    front: _Front, value: ir.Value, camera: CameraInput, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> ir.Value:
    """These rows and columns of NV12 or YUYV frames → (N, rows, columns, 3) BGR levels.

    A U and V serves all the pixels that share it, without interpolation, as in OpenCV.
    """
    if camera.pixel_format == "nv12":
        luma, chroma, chroma_rows = value, value, camera.frame_hw[0] + rows // 2
    else:
        luma, chroma = (front.pick(f"bytes/{index}", value, [index], 3) for index in range(2))
        chroma_rows = rows
    y = front.pick("y", front.pick("y/rows", luma, rows, 1), columns, 2)
    chroma = front.pick("uv/rows", chroma, chroma_rows, 1)
    u, v = (front.pick(name, chroma, columns // 2 * 2 + index, 2) for index, name in enumerate("uv"))
    red, green, blue = _rgb(front, (y, u, v), yuv_to_rgb(camera.matrix, full_range=camera.full_range))
    return front.node("bgr", "Concat", blue, green, red, axis=3)


def _rgb(front: _Front, planes: tuple[ir.Value, ir.Value, ir.Value], yuv: Yuv) -> list[ir.Value]:
    """Planes (N, H, W, 1) of Y, U and V → of R, G and B, whole levels. Not a MatMul, which ends a kernel."""
    y, u, v = planes
    if yuv.black:
        y = front.scalar("y/from_black", "Sub", y, yuv.black)
        y = front.scalar("y/not_below", "Max", y, 0)
    y = front.scalar("y/scaled", "Mul", y, yuv.luma)
    chroma = {"u": front.scalar("u/centred", "Sub", u, 128), "v": front.scalar("v/centred", "Sub", v, 128)}
    levels = []
    for name, factors in (
        ("r", {"v": yuv.red_v}),
        ("g", {"u": yuv.green_u, "v": yuv.green_v}),
        ("b", {"u": yuv.blue_u}),
    ):
        total = y
        for source, factor in factors.items():
            part = front.scalar(f"{name}/{source}", "Mul", chroma[source], factor)
            total = front.node(f"{name}/y_{source}", "Add", total, part)
        levels.append(front.level(name, total))
    return levels


def _to_color(front: _Front, value: ir.Value, order: str, channels: int, wanted: str) -> ir.Value:
    """Channels in `order`, perhaps with one to ignore behind them → the network's, on the last axis."""
    if wanted == "GRAY" and order != "GRAY":
        total: ir.Value | None = None
        for index, letter in enumerate(order):  # multiples of 2**-15 up to 255: float32 adds them exactly
            plane = front.pick(f"grey/{letter}/plane", value, [index], 3)
            part = front.scalar(f"grey/{letter}", "Mul", plane, _GREY[letter] / 2**15)
            total = part if total is None else front.node(f"grey/{letter}/sum", "Add", total, part)
        assert total is not None  # there are three letters
        return front.level("grey", total)
    places = [0] * len(wanted) if order == "GRAY" else [order.index(letter) for letter in wanted]
    if wanted == "GRAY" or places == list(range(channels)):
        return value
    return front.pick("channels", value, places, 3)


def _border(front: _Front, value: ir.Value, live: tuple[slice, slice], image: ImageSpec) -> ir.Value:
    """Grey levels (N, h, w, C) outside the live rows and columns. A Pad there would end a kernel."""
    inside = np.ones((1, 1, 1, 1), bool)
    for axis, (part, side) in enumerate(zip(live, image.size_hw, strict=True)):
        if part != slice(0, side):
            pixels = np.arange(side)
            line = (part.start <= pixels) & (pixels < part.stop)
            inside = inside & np.expand_dims(line, tuple({0, 1, 2, 3} - {1 + axis}))
    if inside.all():
        return value
    level = front.constant("border.level", np.float32(image.pad_value))
    return front.node("border", "Where", front.constant("border.inside", inside), value, level)
