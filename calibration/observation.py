"""Frames through the float model: what its tensors are like, and how large its weights are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends.onnxruntime import create_session
from edgecnn.calibration.observers import TensorStats, merge, observe
from edgecnn.calibration.ranges import SMALLEST_AMAX
from edgecnn.errors import BuildError, DataError
from edgecnn.export.graph import fixed_batch, to_bytes
from edgecnn.export.placement import activations, scale_source, weight_axis, weight_of
from edgecnn.preprocess import Preprocessor
from edgecnn.progress import Progress, no_progress
from edgecnn.quantization import LEVELS, WeightScales, crc32
from edgecnn.spec import ImageSpec

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["observe_activations", "weight_scales"]


def observe_activations(
    model: ir.Model,
    image: ImageSpec,
    frames: Iterable[NDArray[np.uint8]],
    *,
    histograms: bool = True,
    threads: int | None = None,
    total: int | None = None,
    progress: Progress = no_progress,
) -> tuple[dict[str, TensorStats], int, str]:
    """Run frames through the float model and keep the statistics of every tensor that may be quantized.

    Returns:
        Tensor name → statistics, the number of frames, and the SHA-256 of their input tensors.

    Raises:
        DataError: no frames, or an activation that is infinite or NaN.
    """
    visible = model.clone()
    observed = [value for value in activations(visible.graph) if scale_source(value) is value]
    inputs = set(visible.graph.inputs)
    visible.graph.outputs.extend(
        value for value in observed if value not in inputs and not value.is_graph_output()
    )
    input_name = str(visible.graph.inputs[0].name)
    names = [str(value.name) for value in observed if value not in inputs]
    session = create_session(to_bytes(visible), threads=threads)
    # A model of a fixed batch gets the same frame in each row: not every tensor has the batch in front.
    preprocess = Preprocessor(image, batch=fixed_batch(model))
    stats: dict[str, TensorStats] = {}
    digest = hashlib.sha256()
    count = 0
    for frame in frames:
        for row in range(len(preprocess.tensor)):
            preprocess(frame, row)
        digest.update(preprocess.tensor[0])
        arrays = [preprocess.tensor, *session.run(names, {input_name: preprocess.tensor})]
        for name, array in zip([input_name, *names], arrays, strict=True):
            seen = observe(array, histogram=histograms)
            if seen.not_finite:
                raise DataError(
                    f"activation {name} is infinite or NaN on frame {count}",
                    got=f"{seen.not_finite} such values",
                    remedy="Check the preprocessing and the weights: the float model itself overflows",
                )
            stats[name] = merge(stats[name], seen) if name in stats else seen
        count += 1
        progress("calibrating", count, total)
    if not count:
        raise DataError(
            "no frames to calibrate with", expected="a folder of images, a video, a camera or a .npy"
        )
    return stats, count, digest.hexdigest()


def weight_scales(model: ir.Model) -> dict[str, WeightScales]:
    """Per-channel scales amax / 127 for the constant weights of every anchor and ConvTranspose.

    A dead channel, all zero, gets scale 1: TensorRT refuses scales that are not positive.

    Raises:
        BuildError: a weight is infinite or NaN.
    """
    scales: dict[str, WeightScales] = {}
    for node in model.graph:
        weight = weight_of(node)
        if weight is None or weight.const_value is None or weight.name in scales:
            continue
        constant = weight.const_value.numpy()
        if wrong := int(constant.size - np.isfinite(constant).sum()):
            raise BuildError(
                f"weights {weight.name} are infinite or NaN",
                got=f"{wrong} such values",
                remedy="Check the training: the float model is damaged",
            )
        values = np.abs(constant.astype(np.float64))
        axis = weight_axis(node)
        amax = values.max(axis=tuple(index for index in range(values.ndim) if index != axis))
        amax = np.where(amax == 0, LEVELS, np.maximum(amax, SMALLEST_AMAX))
        scales[str(weight.name)] = WeightScales(
            axis=axis, scales=tuple((amax / LEVELS).tolist()), weights_crc32=crc32(constant)
        )
    return scales
