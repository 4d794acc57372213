"""What the compiler says that it made: one `Layer` for each compiled layer.

Two texts say the same. The *listing* is printed into the verbose log at the end of a build, GPU or not; the
*inspector's JSON* comes from a loaded engine, so it needs a GPU. Both are read into the same type.

Written against the listing of TensorRT for RTX 1.7, which the tests produce afresh, and against NVIDIA's
documentation of the engine inspector for TensorRT 10 and 11. The parser for the JSON, and the older spelling
`Format/Datatype: Thirty-two wide channel vectorized row major Int8 format`, have not been run on a device.

    Name: conv1_myl0_1, LayerType: correlation, Inputs: [ { Name: x, Dimensions: [1,3,8,8], …,
    Datatype: Half, Format: … }], Constants: [ … ], Outputs: [ … ], TacticName: …, StreamId: 0,
    Metadata: [ONNX Layer: conv1]␟[ONNX Layer: relu1]
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

from edgecnn.errors import BuildError

__all__ = ["Kind", "Layer", "Tensor", "parse_inspector_json", "parse_listing"]

Kind = Literal[
    "convolution", "gemm", "pointwise", "reduction", "pooling", "reformat", "cast", "other", "none"
]
"""What a layer does. `reformat` moves numbers without changing them, `cast` also changes their type, and
`none` runs no kernel (arithmetic on shapes, signals between streams, layers that were optimized away)."""

BYTES = {
    "fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "fp4": 0.5, "int8": 1.0, "uint8": 1.0, "int32": 4.0,
    "int64": 8.0, "bool": 1.0, "int4": 0.5,
}  # fmt: skip
"""Bytes of one element."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """What a layer reads or writes.

    Attributes:
        dims: -1 for a side that the input decides.
        dtype: `int8`, `fp16`, `fp32` …; `unknown` where the compiler does not say.
        layout: the compiler's words.
    """

    name: str
    dims: tuple[int, ...]
    dtype: str
    layout: str = ""

    def size_bytes(self, batch: int = 1) -> int:
        """Size, without padding; `batch` in place of a free first side, and 1 for other free ones."""
        sides = [side if side >= 0 else batch if axis == 0 else 1 for axis, side in enumerate(self.dims)]
        return int(prod(sides) * BYTES.get(self.dtype, 0.0))


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One compiled layer: mostly one kernel.

    Attributes:
        name: the compiler's.
        type: the compiler's word: `correlation`, `kgen`, `CaskConvolution` …
        kind: what that is.
        nodes: ONNX nodes that it came from, wholly or in part.
        inputs, outputs: activations; constants: weights, scales and other stored numbers.
    """

    name: str
    type: str
    kind: Kind
    nodes: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def precision(self) -> str:
        """The type that it computes in: the narrowest of its inputs and weights; INT8 needs both in INT8.

        The narrowest, because a residual in FP16 may come beside INT8 data, and because a cast in front may
        be part of the kernel: a strongly typed network has no product of FP32 data and FP16 weights.
        """
        data = {tensor.dtype for tensor in self.inputs}
        largest = max(self.constants, key=Tensor.size_bytes, default=None)
        weights = data if largest is None else {largest.dtype}
        eight_bits = (data or weights) & weights & {"int8", "fp8", "fp4"}
        wider = [name for name in ("fp16", "bf16", "fp32") if name in data | weights]
        return next(iter((*eight_bits, *wider)), "unknown")


_TENSORS = r"\[(?:\]|(?P<{}> \{{ .*?\}}\]))"  # the list ends at "}]"; dimensions have brackets of their own
_LAYER = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<type>[^,]*), Inputs: "
    + _TENSORS.format("inputs")
    + r"(?:, Constants: "
    + _TENSORS.format("constants")
    + r")?, Outputs: "
    + _TENSORS.format("outputs")
    + r"(?P<rest>.*)"
)
_TENSOR = re.compile(
    r"\{ Name: (?P<name>.*?), (?:Location: \w+, )?Dimensions: \[(?P<dims>[-\d, ]*)\](?P<rest>.*?)\}[\],]"
)


def parse_listing(text: str) -> tuple[Layer, ...]:
    """Read the text that follows `Layers:` in the verbose log, up to the first empty line.

    Raises:
        BuildError: a line that cannot be read; guessing would make a wrong report.
    """
    layers = []
    started = False
    for line in text.split("\n"):  # splitlines() would split at the separators in a layer's metadata too
        if line.strip() == "Layers:" or (not started and not line.strip()):
            continue
        if not line.startswith("Name: "):
            if started or line.strip() in ("I/O Tensors:", "Bindings:"):
                break
            raise _unreadable(line)
        started = True
        layers.append(_from_line(line))
    return tuple(layers)


def parse_inspector_json(text: str) -> tuple[Layer, ...]:
    """Read `EngineInspector.get_engine_information(LayerInformationFormat.JSON)`.

    Raises:
        BuildError: no JSON, or an engine that was built without `ProfilingVerbosity.DETAILED`, which keeps
            the layers' names only.
    """
    import msgspec

    try:
        raw = msgspec.json.decode(text, type=dict[str, Any])
        layers = raw["Layers"]
        return tuple(
            _layer(
                item["Name"],
                item["LayerType"],
                *(tuple(map(_json_tensor, item.get(key, ()))) for key in ("Inputs", "Constants", "Outputs")),
                metadata=str(item.get("Metadata", "")),
                parameter=str(item.get("ParameterType", "")),
            )
            for item in layers
        )
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise BuildError(
            "the engine inspector's report cannot be read",
            got=f"{type(error).__name__}: {error}",
            expected="JSON of an engine that was built with detailed profiling verbosity",
        ) from error


def _from_line(line: str) -> Layer:
    found = _LAYER.match(line)
    if found is None:
        raise _unreadable(line)
    rest = found["rest"]
    parameter = re.search(r", ParameterType: (\w+)", rest)
    return _layer(
        found["name"],
        found["type"],
        _tensors(found["inputs"]),
        _tensors(found["constants"]),
        _tensors(found["outputs"]),
        metadata=rest.partition(", Metadata: ")[2],
        parameter=parameter[1] if parameter else "",
    )


def _layer(
    name: str,
    word: str,
    inputs: tuple[Tensor, ...],
    constants: tuple[Tensor, ...],
    outputs: tuple[Tensor, ...],
    *,
    metadata: str,
    parameter: str,
) -> Layer:
    kind = _kind(word, parameter, name)
    if kind == "reformat" and {item.dtype for item in inputs} != {item.dtype for item in outputs}:
        kind = "cast"
    return Layer(
        name=name,
        type=word,
        kind=kind,
        nodes=_nodes(metadata),
        inputs=inputs,
        constants=constants,
        outputs=outputs,
    )


# Fused kernels are named by what they do: __myl_MulAddMaxMinRounCast_myl0_7
_FUSED = re.compile(r"__my(?:l|ln)_((?:[A-Z][a-z0-9]*)+)")
_MOVES = frozenset({"Move", "Copy", "Resh", "Tran", "Cast", "Slic", "Conc", "Pad", "Gath", "Shuf"})
_BY_WORD: tuple[tuple[str, Kind], ...] = (  # the first that is part of the word decides
    ("shape", "none"), ("noop", "none"), ("constant", "none"), ("signal", "none"), ("wait", "none"),
    ("correlation", "convolution"), ("conv", "convolution"),  # deconv, CaskConvolution, CaskDeconvolution
    ("gemm", "gemm"), ("matrixmultiply", "gemm"), ("matmul", "gemm"), ("fullyconnected", "gemm"),
    ("pool", "pooling"),
    ("reformat", "reformat"), ("shuffle", "reformat"), ("slice", "reformat"), ("concat", "reformat"),
    ("copy", "reformat"), ("cast", "cast"), ("quantize", "pointwise"),
    ("reduce", "reduction"), ("softmax", "reduction"), ("norm", "reduction"), ("topk", "reduction"),
    ("pointwise", "pointwise"), ("elementwise", "pointwise"), ("activation", "pointwise"),
    ("scale", "pointwise"), ("unary", "pointwise"), ("resize", "pointwise"), ("select", "pointwise"),
)  # fmt: skip


def _kind(word: str, parameter: str, name: str) -> Kind:
    fused = _FUSED.match(name)
    if word in ("kgen", "runtime_fusion", "runtime_function") and fused:
        parts = set(re.findall(r"[A-Z][a-z0-9]*", fused[1]))
        if "Corr" in parts or "Conv" in parts:
            return "convolution"
        if parts & {"Fc", "Gemm", "Matm"}:
            return "gemm"
        if parts <= _MOVES:
            return "reformat"
        return "reduction" if parts & {"Mean", "Redu", "Sum", "Softm"} else "pointwise"
    for text in (parameter.lower(), word.lower()):
        for part, kind in _BY_WORD:
            if part in text:
                return kind
    return "other"


def _tensors(text: str | None) -> tuple[Tensor, ...]:
    if text is None:
        return ()
    found = tuple(_TENSOR.finditer(text))
    if len(found) != text.count(" Dimensions: ["):
        raise _unreadable(text)
    return tuple(
        Tensor(
            name=item["name"],
            dims=tuple(int(side) for side in item["dims"].split(",") if side.strip()),
            dtype=_dtype(_field(item["rest"], "Datatype") or _field(item["rest"], "Format/Datatype")),
            layout=_field(item["rest"], "Format") or _field(item["rest"], "Format/Datatype"),
        )
        for item in found
    )


def _json_tensor(item: Mapping[str, Any]) -> Tensor:
    words = str(item.get("Format/Datatype", ""))
    return Tensor(
        name=str(item["Name"]),
        dims=tuple(int(side) for side in item["Dimensions"]),
        dtype=_dtype(str(item.get("Datatype") or item.get("DataType") or words)),
        layout=str(item.get("Format") or words),
    )


def _field(text: str, name: str) -> str:
    found = re.search(rf", {name}: (.*?)\s*(?:, Format: |, Strides: |$)", text)
    return found[1].strip() if found else ""


# TensorRT 11 says `Half`; TensorRT 10 says `Row major linear FP16 format`, or for fused kernels `Half` too.
_DTYPES: tuple[tuple[str, str], ...] = (
    (r"\bu?int8x?\d*\b", "int8"), (r"\b(fp16|half|float16)\b", "fp16"), (r"\b(bf16|bfloat16)\b", "bf16"),
    (r"\bfp8\b", "fp8"), (r"\bfp4\b", "fp4"), (r"\b(fp32|float|float32|tf32)\b", "fp32"),
    (r"\bint32\b", "int32"), (r"\bint64\b", "int64"), (r"\bbool\b", "bool"), (r"\bint4\b", "int4"),
)  # fmt: skip


def _dtype(words: str) -> str:
    text = words.lower()
    if re.search(r"\buint8\b", text):
        return "uint8"
    return next((name for pattern, name in _DTYPES if re.search(pattern, text)), "unknown")


def _nodes(metadata: str) -> tuple[str, ...]:
    """Names between the separators; a node's name may itself hold commas and brackets."""
    parts = re.split(r"[\x1c-\x1f]", metadata.strip())
    # `[ONNX Layer: conv]__gemm_from_conv1x1` is what became of a 1x1 convolution
    names = (re.sub(r"^\[ONNX Layer: (.*)\](?:__\w+)?$", r"\1", part) for part in parts if part)
    return tuple(dict.fromkeys(names))


def _unreadable(line: str) -> BuildError:
    return BuildError(
        "the compiler's list of layers cannot be read",
        got=line[:200],
        remedy="This version of TensorRT prints it in a form that edgecnn does not know yet",
    )
