"""TensorRT's calibration cache: the text file in which its INT8 calibrators, and trtexec, keep scales.

    TRT-100300-EntropyCalibration2      10 · 10⁴ + 3 · 10² + 0: the version that reads it
    image: 3c010a14                     scale = amax / 127 as a big-endian float32, in hex

The names are those of the ONNX graph, which TensorRT's parser keeps. Until TensorRT 9 the major version
counted thousands.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgecnn.errors import BuildError, ModelFormatError
from edgecnn.export.placement import clamp_after, scale_source
from edgecnn.quantization import QuantizationTable

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["CACHE_START", "cache_text", "parse_cache", "tensor_scales"]

CACHE_START = "TRT-"

_HEADER = re.compile(r"TRT-\d+-\w*Calibration\w*")


def tensor_scales(graph: ir.Graph, table: QuantizationTable) -> dict[str, float]:
    """Tensor → scale, for every float tensor of the graph that has a range, in topological order.

    What only moves values has the scale of its source; what an activation function clamps has that of the
    clamped tensor, since the two become one layer.
    """
    import onnx_ir as ir

    scales: dict[str, float] = {}
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        if value.dtype != ir.DataType.FLOAT:
            continue
        clamp = clamp_after(value)
        entry = table.activations.get(str(scale_source(value if clamp is None else clamp.outputs[0]).name))
        if entry is not None:
            scales[str(value.name)] = entry.scale
    return scales


def cache_text(scales: Mapping[str, float], version: str) -> str:
    """The file's content.

    Args:
        scales: tensor → scale, positive.
        version: of the TensorRT that will read it, such as `10.3.0`.

    Raises:
        BuildError: no such version, or one that calibrates no more.
    """
    numbers = [int(part) for part in version.split(".")[:3] if part.isdecimal()]
    if len(numbers) != 3 or not 8 <= numbers[0] < 11:
        raise BuildError(
            "no calibration cache can be written for this version of TensorRT",
            got=version,
            expected="8 to 10, such as 10.3.0; later ones read the scales from the graph",
        )
    major, minor, patch = numbers
    # until 9 the major version counted thousands
    number = major * 10_000 + minor * 100 + patch if major >= 10 else major * 1_000 + minor * 100 + patch
    lines = [f"TRT-{number}-EntropyCalibration2"]
    lines += [f"{name}: {struct.pack('>f', scale).hex()}" for name, scale in scales.items()]
    return "\n".join(lines) + "\n"


def parse_cache(text: str, *, name: str) -> tuple[dict[str, float], str]:
    """Tensor → scale, and the first line, which says who wrote it.

    A scale of zero, for a tensor that was always zero, is left out.

    Args:
        text: the file's content.
        name: what to call the file in messages.

    Raises:
        ModelFormatError: it is no calibration cache, or it has two scales for a tensor.
    """
    header, *lines = text.split("\n")  # splitlines() would split names at the other separators of Unicode
    if _HEADER.fullmatch(header.strip()) is None:
        raise ModelFormatError(
            f"{name} is not a calibration cache of TensorRT's",
            got=header[:60],
            expected="a first line such as TRT-100300-EntropyCalibration2",
        )
    scales: dict[str, float] = {}
    for number, line in enumerate(lines, 2):
        if not line.strip():
            continue
        tensor, colon, digits = line.rpartition(": ")
        try:
            (scale,) = struct.unpack(">f", bytes.fromhex(digits.strip()))
        except (ValueError, struct.error):
            colon = ""
        if not colon or not math.isfinite(scale) or scale < 0:
            raise ModelFormatError(
                f"{name} is damaged in line {number}",
                got=line[:60],
                expected="a tensor's name and its scale as 8 hexadecimal digits",
            )
        if scales.setdefault(tensor, scale) != scale:
            raise ModelFormatError(
                f"{name} has {tensor} twice",
                got=f"the scales {scales[tensor]:.6g} and {scale:.6g}, the second in line {number}",
                expected="one of them",
            )
    return {tensor: scale for tensor, scale in scales.items() if scale > 0}, header.strip()
