"""What a DLA needs: INT8 scales in TensorRT's calibration cache.

Before TensorRT 11 a DLA takes no explicit Q/DQ. It gets the float graph, the flags FP16 and INT8, and a scale
for every tensor in the text file that TensorRT's entropy calibrator writes:

    TRT-100300-EntropyCalibration2      10 · 10⁴ + 3 · 10² + 0: the version that reads it
    image: 3c010a14                     scale = amax / 127 as a big-endian float32, in hex

TensorRT ignores a cache of another version and would then calibrate anew, without data. The names are those
of the ONNX graph, which the parser keeps.
"""

from __future__ import annotations

import os
import shlex
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn.errors import BuildError
from edgecnn.export.placement import clamp_after, scale_source
from edgecnn.quantization import QuantizationTable

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgecnn.export.lowering import Precision

__all__ = ["DlaFiles", "cache_text", "tensor_scales", "write_dla_files"]

JETPACK_6 = "10.3.0"
"""TensorRT of JetPack 6.1 and 6.2, the ones for Orin's DLAs."""


@dataclass(frozen=True, kw_only=True)
class DlaFiles:
    """What `trtexec` builds for a DLA.

    Attributes:
        graph: the float ONNX graph; cache: the INT8 scales, None for FP16.
        left_to_gpu: node → why a DLA will not do it, by NVIDIA's published list and not asked of a DLA.
        command: that builds it on the device.
    """

    graph: Path
    cache: Path | None
    left_to_gpu: Mapping[str, str]
    command: str

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "path": str(self.graph),
            "calibration_cache": None if self.cache is None else str(self.cache),
            "left_to_gpu": dict(self.left_to_gpu),
            "left_to_gpu_by": "NVIDIA's published list",
            "command": self.command,
        }


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


def write_dla_files(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    precision: Precision,
    tensorrt: str = JETPACK_6,
    force: bool = False,
) -> DlaFiles:
    """Write what other tools build for a DLA: the float graph, and for INT8 the calibration cache beside it.

    Args:
        model: an exported or, for INT8, calibrated model.
        output: where the graph is written; the cache gets its name with `.calib`.
        tensorrt: the version on the device, which is in the cache.

    Raises:
        BuildError: FP32, INT8 without calibration, another version, or a shape that is not fixed.
        ModelFormatError, ModelNotFoundError, OutputError, OutputExistsError.
    """
    from edgecnn.export.tensorrt.dla_rules import left_to_gpu
    from edgecnn.export.tensorrt.lowered import load_source
    from edgecnn.files import check_output, write_atomic

    path = check_output(output, force=force)
    cache = path.with_suffix(".calib") if precision == "int8" else None
    if cache is not None:
        check_output(cache, force=force)
    source = load_source(model, None)
    lowered = source.for_dla(precision)
    image = source.graph.graph.inputs[0]
    if image.shape is None or not all(isinstance(side, int) for side in image.shape):
        raise BuildError(
            "a DLA takes fixed shapes",
            got=f"{image.name} {image.shape}",
            remedy="Export the model again with a fixed batch: --batch 1",
        )
    text = cache_text(lowered.scales, tensorrt) if cache is not None else ""
    write_atomic(path, lowered.content, force=force)
    if cache is not None:
        write_atomic(cache, text.encode(), force=force)
    words = ["trtexec", f"--onnx={path}", "--fp16"]
    words += [] if cache is None else ["--int8", f"--calib={cache}"]
    words += ["--useDLACore=0", "--allowGPUFallback", f"--saveEngine={path.with_suffix('.engine')}"]
    return DlaFiles(
        graph=path, cache=cache, left_to_gpu=left_to_gpu(source.graph.graph), command=shlex.join(words)
    )
