"""What a DLA needs: INT8 scales in TensorRT's calibration cache.

Before TensorRT 11 a DLA takes no explicit Q/DQ. It gets the float graph, the flags FP16 and INT8, and a scale
for every tensor in a `calibration_cache`. TensorRT ignores one of another version and would then calibrate
anew, without data.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn.errors import BuildError
from edgecnn.export.tensorrt.calibration_cache import cache_text

if TYPE_CHECKING:
    from edgecnn.export.lowering import Precision

__all__ = ["DlaFiles", "write_dla_files"]

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

    path = check_output(output, force=force, inputs=(model,))
    cache = path.with_suffix(".calib") if precision == "int8" else None
    if cache is not None:
        check_output(cache, force=force, inputs=(model,))
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
    if lowered.half:
        precisions = ",".join(f"{name}:fp16" for name in lowered.half)
        words += ["--precisionConstraints=prefer", f"--layerPrecisions={precisions}"]
    words += ["--useDLACore=0", "--allowGPUFallback", f"--saveEngine={path.with_suffix('.engine')}"]
    return DlaFiles(
        graph=path, cache=cache, left_to_gpu=left_to_gpu(source.graph.graph), command=shlex.join(words)
    )
