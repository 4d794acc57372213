"""Cross-layer equalization: small channels are made larger where the next convolution can take it back.

Between two convolutions with nothing but positively homogeneous operators – Relu, LeakyRelu, PRelu,
MaxPool – a channel may be multiplied by k > 0 in the first one's weights and bias and divided by k in the
second one's weights: the network computes the same (M. Nagel et al., "Data-Free Quantization Through
Weight Equalization and Bias Correction", 2019). Here k brings each channel's largest magnitude up to half
of the largest channel's in every quantized tensor between the two, by a factor of 8 at most: a tensor's
steps are the same for all channels, and finer for small ones that were made larger.

Whether that helps depends on the network: a small channel may be one whose weights are large, and what is
gained in one tensor is lost in the weights. So it is tried on 48 frames of calibration: two thirds choose
ranges for the network with it and without it, and on the last third the error of the outputs must be smaller
by a twentieth on TensorRT's grid and no larger as ONNX Runtime runs it, or all stays as it was. The factors,
and the largest magnitudes that ranges are chosen from, are those of all calibration frames, that third among
them, with it as without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends.onnxruntime import create_session
from edgecnn.calibration.observation import weight_scales
from edgecnn.calibration.observers import TensorStats, merge, observe
from edgecnn.calibration.outputs import Errors, errors_on_grids, outputs_of
from edgecnn.calibration.selection import select_ranges
from edgecnn.export.graph import to_bytes
from edgecnn.export.placement import bias_of, weight_of
from edgecnn.progress import Progress, no_progress
from edgecnn.quantization import QuantizationTable

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Equalization", "equalize"]

_HOMOGENEOUS = frozenset({"LeakyRelu", "MaxPool", "PRelu", "Relu"})
_LARGEST = 8.0
_FILLED = 0.5  # of the range that the largest channel needs: other frames have larger numbers
_BETTER = 0.95
_FRAMES = 48  # to decide with; two thirds of them choose ranges


@dataclass(frozen=True, kw_only=True)
class Equalization:
    """What was tried.

    Attributes:
        pairs: how many pairs of convolutions there were.
        accepted: whether the network was changed.
        gain_db: by how much the SQNR of the outputs rose on TensorRT's grid, on the third that judges.
        onnxruntime_gain_db: the same as ONNX Runtime runs it.
        stats: statistics of the tensors that changed, from the frames that were kept; empty unless accepted.
    """

    pairs: int
    accepted: bool
    gain_db: float
    onnxruntime_gain_db: float
    stats: Mapping[str, TensorStats] = field(default_factory=dict)


def equalize(
    model: ir.Model,
    table: QuantizationTable,
    stats: Mapping[str, TensorStats],
    inputs: Sequence[NDArray[np.float32]],
    *,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> Equalization | None:
    """Change weights and biases of a float network in place, if that helps. None where there is no pair.

    Args:
        model: the float model.
        table: of the network as it is; only what is not about numbers is taken from it.
        stats: of its tensors, with histograms.
        inputs: the network's input tensor for some frames, those of one source side by side.
        threads: CPU threads; ONNX Runtime's own choice where None.
        progress: called as steps are done.
    """
    pairs = list(_pairs(model.graph))
    if not pairs or len(inputs) < 2:
        return None
    some = [inputs[index] for index in sorted({i * len(inputs) // _FRAMES for i in range(_FRAMES)})]
    border = max(1, len(some) * 2 // 3)
    changed = [str(value.name) for _, tensors, _ in pairs for value in tensors if str(value.name) in stats]

    def noise(seen: Mapping[str, TensorStats]) -> Errors:
        ranges = select_ranges(model, seen, some[:border], threads=threads)
        tried = dataclasses.replace(table, activations=ranges, weights=weight_scales(model))
        reference = outputs_of(model, some[border:], threads=threads)
        return errors_on_grids(model, tried, some[border:], reference, threads=threads)

    progress("equalizing", 0, 2)
    plain = noise(stats)
    progress("equalizing", 1, 2)
    largest = _largest(model, changed, inputs, threads)
    before: dict[ir.Value, Any] = {}
    for maker, tensors, reader in pairs:
        names = [str(value.name) for value in tensors]
        _scale(maker, reader, _factors([largest[name] for name in names if name in largest]), before)
    found = {**stats, **_observed(model, changed, inputs, threads)}
    equalized = noise(found)
    gains = equalized.gains_db(plain)
    accepted = equalized[0] < _BETTER * plain[0] and equalized[1] <= plain[1]
    progress("equalizing", 2, 2)
    result = Equalization(
        pairs=len(pairs),
        accepted=accepted,
        gain_db=gains[0],
        onnxruntime_gain_db=gains[1],
        stats=found if accepted else {},
    )
    if not accepted:
        for value, constant in before.items():
            value.const_value = constant
    return result


def _pairs(graph: ir.Graph) -> Iterator[tuple[ir.Node, list[ir.Value], ir.Node]]:
    """Two convolutions, and the tensors from the first one's output to the second one's input."""
    for maker in graph:
        if not _is_free(maker):
            continue
        tensors = [maker.outputs[0]]
        while True:
            uses = tuple(tensors[-1].uses())
            if len(uses) != 1 or uses[0].idx != 0 or tensors[-1].is_graph_output():
                break
            node = uses[0].node
            if node.op_type in _HOMOGENEOUS:
                tensors.append(node.outputs[0])
                continue
            if _is_free(node):
                yield maker, tensors, node
            break


def _is_free(node: ir.Node) -> bool:
    """Whether a convolution's constants are its own."""
    weight = weight_of(node)
    if node.op_type != "Conv" or weight is None:
        return False
    bias = bias_of(node)
    return len(tuple(weight.uses())) == 1 and (
        bias is None
        or (bias.const_value is not None and bias.const_value.size > 1 and len(tuple(bias.uses())) == 1)
    )


def _factors(largest: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """What each channel is multiplied with, from its largest magnitude in each tensor between the two."""
    factors = np.full(largest[0].shape, _LARGEST)
    for one in largest:
        factors = np.minimum(factors, _FILLED * one.max() / np.maximum(one, 1e-30))
    dead = np.all([one == 0 for one in largest], axis=0)
    return np.where(dead, 1.0, np.maximum(factors, 1.0))


def _scale(
    maker: ir.Node, reader: ir.Node, factors: NDArray[np.float64], before: dict[ir.Value, Any]
) -> None:
    import onnx_ir as ir

    def replace(value: ir.Value | None, change: Any) -> None:
        assert value is not None
        assert value.const_value is not None
        before.setdefault(value, value.const_value)
        changed = change(value.const_value.numpy().astype(np.float64))
        value.const_value = ir.tensor(changed.astype(np.float32), name=value.name)

    replace(maker.inputs[1], lambda weights: weights * factors.reshape(-1, *[1] * (weights.ndim - 1)))
    if bias_of(maker) is not None:
        replace(maker.inputs[2], lambda bias: bias * factors.reshape(bias.shape))
    groups = reader.attributes.get_int("group", 1)

    def divide(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        parted = weights.reshape(groups, len(weights) // groups, weights.shape[1], -1)
        return (parted / factors.reshape(groups, 1, -1, 1)).reshape(weights.shape)

    replace(reader.inputs[1], divide)


def _visible(model: ir.Model, names: Sequence[str], threads: int | None) -> Any:
    clone = model.clone()
    values = {value.name: value for node in clone.graph for value in node.outputs}
    clone.graph.outputs.clear()
    clone.graph.outputs.extend(values[name] for name in names)
    return create_session(to_bytes(clone), threads=threads)


def _largest(
    model: ir.Model, names: Sequence[str], inputs: Sequence[NDArray[np.float32]], threads: int | None
) -> dict[str, NDArray[np.float64]]:
    """The largest magnitude of each channel, for each tensor."""
    session = _visible(model, names, threads)
    found: dict[str, NDArray[np.float64]] = {}
    for tensor in inputs:
        values = session.run(None, {session.get_inputs()[0].name: tensor})
        for name, one in zip(names, values, strict=True):
            maxima = np.abs(one).max(axis=(0, *range(2, one.ndim))).astype(np.float64)
            found[name] = np.maximum(found[name], maxima) if name in found else maxima
    return found


def _observed(
    model: ir.Model, names: Sequence[str], inputs: Sequence[NDArray[np.float32]], threads: int | None
) -> dict[str, TensorStats]:
    session = _visible(model, names, threads)
    stats: dict[str, TensorStats] = {}
    for tensor in inputs:
        for name, values in zip(
            names, session.run(None, {session.get_inputs()[0].name: tensor}), strict=True
        ):
            seen = observe(values)
            stats[name] = merge(stats[name], seen) if name in stats else seen
    return stats
