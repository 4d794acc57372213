"""Second-order rounding of a network, layer by layer, with the inputs that the quantized network has.

Two streams run side by side: the float network, and the network with its activations quantized and the
layers so far rounded. At each layer both say what the layer reads (`grams`), and its weights are rounded
(`rounding`) in several ways: to the nearest step; with more or less trust in the frames; with and without
making up for the errors of the layers before. The frames are in two parts, and what counts is the error on
the part that was *not* used. The best way is then repeated with all frames. So no layer is changed unless
frames that had no part in the change confirm it.

The bias is moved by the mean error that is left, as far as the second part confirms it: by the factor that
fits the mean errors of the first part best to those of the second, from 0 to 1.

Activations are quantized as the lowering for TensorRT does it, on the symmetric grid: the coarsest of all
targets.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.calibration.adaround import adaptive_rounding
from edgecnn.calibration.grams import Gram, Layer, layer_of
from edgecnn.calibration.ranges import SMALLEST_AMAX
from edgecnn.calibration.rounding import error, round_weights, shrink
from edgecnn.calibration.stream import Stream
from edgecnn.export.lowering.fp16 import LARGEST_FP16
from edgecnn.export.lowering.fp32_nodes import SMALLEST_NORMAL_FP16
from edgecnn.export.lowering.tensorrt_int8 import half_scales, quantize_activations
from edgecnn.export.placement import bias_of
from edgecnn.export.torch_boundary import require
from edgecnn.progress import Progress, no_progress
from edgecnn.quantization import LEVELS, QuantizationTable, WeightScales

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["LayerRounding", "round_network"]

FEWEST = 4
"""Frames below which nothing is rounded by them."""

_TRAINING = 0.7  # share of the frames by which weights are rounded; the rest judges
_SHRINKAGES = (0.8, 0.3, 0.03)
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7)
_AT_ONCE = 8  # frames whose columns are gathered for one product


@dataclass(frozen=True, kw_only=True)
class LayerRounding:
    """What became of one layer's weights.

    Attributes:
        weights: their initializer's name.
        shrinkage: ρ of `edgecnn.calibration.rounding`; None where the nearest steps were best.
        compensates: whether the weights make up for errors of the layers before.
        bias_factor: how much of the mean error was taken off the bias, 0 to 1.
        adaptive: whether the steps are AdaRound's.
        nearest_db, chosen_db: SQNR of the layer's output on frames that had no part in it, with the nearest
            steps and with those that were chosen; infinite without an error.
    """

    weights: str
    shrinkage: float | None
    compensates: bool
    bias_factor: float
    adaptive: bool = False
    nearest_db: float
    chosen_db: float

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        values = dataclasses.asdict(self)
        return {name: None if value == math.inf else value for name, value in values.items()}


def round_network(
    model: ir.Model,
    table: QuantizationTable,
    inputs: Sequence[NDArray[np.float32]],
    *,
    adaptive: bool = False,
    alone: bool = False,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> tuple[QuantizationTable, tuple[LayerRounding, ...]]:
    """Choose the steps of all weights that the table covers.

    Args:
        model: the float model.
        table: activations' ranges, weights' scales.
        inputs: the network's input tensor for each frame, frames of one source side by side: the last part of
            them judges what the first part suggests.
        adaptive: try AdaRound for each layer too, in the way (how much trust in the frames, whether to make
            up for errors) that was best without it, and keep it where the second part confirms it.
        alone: round each layer as if all others were in float, so that none makes up for errors of others.
        threads: CPU threads; ONNX Runtime's own choice where None.
        progress: called as layers are done.

    Returns:
        The table with steps, scales and biases, and what was done for each layer.

    Raises:
        BackendUnavailableError: AdaRound without PyTorch.
    """
    if adaptive:
        require("torch")
    quantized = model.clone()
    outputs = quantize_activations(quantized.graph, table)
    nodes = [node for node in model.graph if node.outputs[0].name in outputs and _is_alone(node)]
    if len(inputs) < FEWEST or not nodes:
        return table, ()
    sources = {node.outputs[0].name: node.inputs[0] for node in (model if alone else quantized).graph}
    float_stream = Stream(model, inputs, threads=threads)
    stream = float_stream if alone else Stream(quantized, inputs, threads=threads)
    border = round(_TRAINING * len(inputs))
    constants: dict[str, NDArray[Any]] = {}
    weights, biases = dict(table.weights), dict(table.biases)
    report = []
    for done, node in enumerate(nodes):
        result, layer, source = str(node.outputs[0].name), layer_of(node), node.inputs[0]
        weight, bias = node.inputs[1], bias_of(node)
        assert source is not None
        assert weight is not None
        assert weight.const_value is not None
        assert layer is not None  # _is_alone
        float_stream.advance(result, {})
        if not alone:
            stream.advance(result, constants)
        read = sources[result]
        assert read is not None
        values = weight.const_value.numpy()
        matrix = layer.matrix(values)
        grams = [
            _gather(layer, matrix.shape, stream, str(read.name), float_stream, str(source.name), part, judges)
            for part, judges in (
                (range(border), None),
                (range(border, len(inputs)), matrix.astype(np.float32)),
            )
        ]
        rounders = [round_weights]
        if adaptive:
            rounders.append(functools.partial(adaptive_rounding, threads=threads))
        steps, scales, entry = _round(matrix, grams, str(weight.name), rounders)
        rounded = steps * scales[:, :, None]
        axis = table.weights[str(weight.name)].axis
        on_grid = layer.weights(steps.astype(np.int8), values.shape)
        weights[str(weight.name)] = WeightScales.with_steps(
            axis, tuple(scales.ravel().tolist()), values, on_grid
        )
        constants[str(weight.name)] = layer.weights(rounded, values.shape).astype(np.float32)
        if bias is not None and bias.const_value is not None and bias.const_value.size == scales.size:
            offsets, factor = _bias_offsets(matrix, rounded, grams)
            if factor > 0:
                moved = (bias.const_value.numpy().ravel() + offsets).astype(np.float32)
                biases[str(bias.name)] = tuple(moved.ravel().tolist())
                constants[str(bias.name)] = moved.reshape(bias.const_value.shape.numpy())
                entry = dataclasses.replace(entry, bias_factor=factor)
        report.append(entry)
        progress("rounding weights", done + 1, len(nodes))
    rounded_table = dataclasses.replace(
        table, weights=weights, biases=biases, rounding="adaround" if adaptive else "second-order"
    )
    return rounded_table, tuple(report)


def _is_alone(node: ir.Node) -> bool:
    """Whether a layer's input can be described, and no other layer reads its weights or bias."""
    weight, bias = node.inputs[1], bias_of(node)
    return (
        layer_of(node) is not None
        and weight is not None
        and len(tuple(weight.uses())) == 1
        and (bias is None or len(tuple(bias.uses())) == 1)
    )


def _gather(
    layer: Layer,
    shape: tuple[int, ...],
    stream: Stream,
    read: str,
    float_stream: Stream,
    target: str,
    part: range,
    weights: NDArray[np.float32] | None,
) -> Gram:
    gram = Gram(shape[0], shape[2])
    for start in range(part.start, part.stop, _AT_ONCE):
        chosen = range(start, min(start + _AT_ONCE, part.stop))
        gram.add(
            np.concatenate([layer.columns(stream.tensor(index, read), index) for index in chosen], axis=2),
            np.concatenate(
                [layer.columns(float_stream.tensor(index, target), index) for index in chosen], axis=2
            ),
            weights,
        )
    return gram


def _round(
    matrix: NDArray[np.float64], grams: Sequence[Gram], name: str, rounders: Sequence[Callable[..., Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64], LayerRounding]:
    """Steps (groups, outputs, K) and scales (groups, outputs) of one layer's weights.

    All of `rounders` but the first are tried in the way that is best with the first.
    """
    train, judge = grams
    both = train + judge
    blocks = list(enumerate(train.blocks))
    parts = [
        np.ascontiguousarray(matrix[:, :, block].transpose(0, 2, 1), train.moments(index)[0].dtype)
        for index, block in blocks
    ]
    # A cut column's blocks cannot make up for each other, so each is only held to its own float weights.
    whole = len(blocks) == 1
    scales = _scales(matrix, both)

    def moments(gram: Gram, index: int) -> tuple[NDArray[Any], NDArray[Any]]:
        square, cross = gram.moments(index)
        return square, cross if whole else square

    def judged(candidates: Sequence[NDArray[Any]]) -> float:
        return sum(
            error(candidate, parts[index], *moments(judge, index))
            for index, candidate in enumerate(candidates)
        )

    def rounded(gram: Gram, shrinkage: float, compensates: bool, rounder: int = 0) -> list[NDArray[Any]]:
        found: list[NDArray[Any]] = []
        for index, part in enumerate(parts):
            shrunk = shrink(*moments(gram, index), shrinkage)
            goal = shrunk.best(part) if compensates else part
            steps = rounders[rounder](goal, scales.astype(part.dtype), shrunk.hessian)
            found.append(steps.astype(part.dtype))
        return found

    def real(steps: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        return [piece * scales[:, None, :].astype(piece.dtype) for piece in steps]

    nearest = [
        np.clip(np.rint(part / scales[:, None, :]), -LEVELS, LEVELS).astype(part.dtype) for part in parts
    ]
    best, way = judged(real(nearest)), None
    nearest_error, rounder = best, 0
    for compensates in (False, True):
        for shrinkage in _SHRINKAGES:
            if compensates and not _may_compensate(whole, parts, train, judged, shrinkage, best):
                break
            found = judged(real(rounded(train, shrinkage, compensates)))
            if found < best:
                best, way = found, (shrinkage, compensates)
    for other in range(1, len(rounders)):
        tried = way or (_SHRINKAGES[0], False)
        found = judged(real(rounded(train, *tried, other)))
        if found < best:
            best, way, rounder = found, tried, other
    steps = nearest if way is None else rounded(both, *way, rounder)
    energy = judge.energy / judge.count
    constant = (
        energy if whole else sum(-error(part, part, *moments(judge, i)) for i, part in enumerate(parts))
    )
    return (
        np.concatenate(steps, axis=1).transpose(0, 2, 1),
        scales,
        LayerRounding(
            weights=name,
            shrinkage=way[0] if way else None,
            compensates=way[1] if way else False,
            bias_factor=0.0,
            adaptive=rounder > 0,
            nearest_db=_decibels(energy, nearest_error + constant),
            chosen_db=_decibels(energy, best + constant),
        ),
    )


def _may_compensate(
    whole: bool,
    parts: Sequence[NDArray[np.float64]],
    train: Gram,
    judged: Any,
    shrinkage: float,
    best: float,
) -> bool:
    """Whether compensation could be best: its real weights must be, before rounding takes some of it away.

    Asked with the least trust in the frames first: where even that does not pay, more of it does not either.
    """
    return whole and judged([shrink(*train.moments(0), shrinkage).best(parts[0])]) < best


def _scales(matrix: NDArray[np.float64], gram: Gram) -> NDArray[np.float64]:
    """The scale of each output, as an FP16 number so that every target has just it: (groups, outputs).

    Of several shares of the largest weight, the one whose nearest steps cost least, each weight counted by
    the size of its input.
    """
    amax = np.abs(matrix).max(axis=2)
    amax = np.where(amax > 0, amax, LEVELS)
    importance = np.concatenate(
        [np.diagonal(gram.moments(index)[0], axis1=1, axis2=2) for index in range(len(gram.blocks))], axis=1
    )
    importance = (importance + 1e-6 * importance.mean() + 1e-30)[:, None, :]
    best = np.full(amax.shape, np.inf)
    chosen = np.empty(amax.shape)
    for share in _SHARES:
        scales = _half_where_possible(amax * share / LEVELS)
        steps = np.clip(np.rint(matrix / scales[:, :, None]), -LEVELS, LEVELS)
        costs = ((steps * scales[:, :, None] - matrix) ** 2 * importance).sum(axis=2)
        chosen = np.where(costs < best, scales, chosen)
        best = np.minimum(costs, best)
    return chosen


def _half_where_possible(scales: NDArray[np.float64]) -> NDArray[np.float64]:
    fits = (scales > SMALLEST_NORMAL_FP16) & (scales < LARGEST_FP16 / 2)
    half = half_scales(np.where(fits, scales, 1.0)).astype(np.float64)
    return np.where(fits, half, np.maximum(scales, SMALLEST_AMAX / LEVELS))


def _bias_offsets(
    matrix: NDArray[np.float64], rounded: NDArray[np.float64], grams: Sequence[Gram]
) -> tuple[NDArray[np.float64], float]:
    """What to add to each output's bias, and the share of the mean error that it is."""
    train, judge, both = (
        (matrix @ gram.target_mean[:, :, None] - rounded @ gram.mean[:, :, None]).ravel()
        for gram in (*grams, grams[0] + grams[1])
    )
    energy = float(train @ train)
    factor = min(1.0, max(0.0, float(train @ judge) / energy)) if energy > 0 else 0.0
    return factor * both, factor


def _decibels(signal: float, noise: float) -> float:
    return 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else math.inf
