"""Second moments of what a layer reads: all that second-order rounding needs to know of the images.

A layer with weights computes Y = W · X + b for columns X of its input: patches under the kernel for a
convolution, of one group each; rows for a matrix product. With x what the quantized network reads and x*
what the float network reads at the same place, a Gram holds the sums over the columns of

    x, x*, x · xᵀ, x* · xᵀ

From them follows the squared error of any weights Ŵ and bias b̂ on those columns, without the columns.
Memory is two matrices of K × K a group, K being the length of a column, however many images there are.
Columns longer than `LARGEST` are cut into pieces that are treated as if they were independent.

Of a large feature map, only a lattice of positions is taken, another one for each image.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["LARGEST", "Gram", "Layer", "layer_of"]

LARGEST = 2304
"""Longest column that is treated whole: 256 channels under a 3 × 3 kernel; its matrices take 43 MB."""

POSITIONS = 128
"""About as many positions of a feature map are taken from each image."""


_WIDE = 128


@dataclass(frozen=True, kw_only=True)
class Layer:
    """How a node with constant weights reads its input.

    Attributes:
        op_type: `Conv`, `Gemm` or `MatMul`.
        groups: of the convolution; 1 otherwise.
        transposed: the weights are (K, outputs), as MatMul's, and not (outputs, K).
        kernel, strides, dilations, pads: of the convolution; pads as ONNX writes them, beginnings first.
    """

    op_type: str
    groups: int = 1
    transposed: bool = False
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()

    def matrix(self, weights: NDArray[np.floating]) -> NDArray[np.float64]:
        """Weights in their own shape → (groups, outputs of one group, K)."""
        values = np.asarray(weights, np.float64)
        if self.op_type != "Conv":
            return np.ascontiguousarray(values.T if self.transposed else values)[None]
        return values.reshape(self.groups, len(values) // self.groups, -1)

    def weights(self, matrix: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """The inverse of `matrix`."""
        if self.op_type == "Conv" or not self.transposed:
            return matrix.reshape(shape)
        return np.ascontiguousarray(matrix[0].T)

    def columns(
        self, values: NDArray[np.float32], turn: int = 0, positions: int | None = None
    ) -> NDArray[np.float32]:
        """What the layer reads → (groups, K, columns).

        Args:
            values: the tensor.
            turn: moves the lattice of positions.
            positions: about how many are taken of a feature map; `POSITIONS` where None.
        """
        if self.op_type != "Conv":
            rows: NDArray[np.float32] = values.reshape(-1, values.shape[-1])
            return np.ascontiguousarray(rows.T)[None]
        rank = len(self.kernel)
        padded = values
        if any(self.pads):
            borders = zip(self.pads[:rank], self.pads[rank:], strict=True)
            padded = np.pad(values, [(0, 0), (0, 0), *borders])
        sides = [
            (side - dilation * (kernel - 1) - 1) // stride + 1
            for side, kernel, stride, dilation in zip(
                padded.shape[2:], self.kernel, self.strides, self.dilations, strict=True
            )
        ]
        step = max(1, int((math.prod(sides) / (positions or POSITIONS)) ** (1 / rank)))
        starts = [(turn // step**axis) % min(step, side) for axis, side in enumerate(sides)]
        pieces = []
        for offset in itertools.product(*map(range, self.kernel)):
            where = tuple(
                slice(o * dilation + start * stride, o * dilation + (side - 1) * stride + 1, stride * step)
                for o, dilation, start, stride, side in zip(
                    offset, self.dilations, starts, self.strides, sides, strict=True
                )
            )
            place: tuple[slice, ...] = (slice(None), slice(None), *where)
            pieces.append(padded[place])
        taken = np.stack(pieces, axis=2)  # (N, C, kernel, …)
        batch, channels = taken.shape[:2]
        taken = taken.reshape(batch, self.groups, channels // self.groups * len(pieces), -1)
        return np.ascontiguousarray(taken.transpose(1, 2, 0, 3)).reshape(self.groups, taken.shape[2], -1)


def layer_of(node: ir.Node) -> Layer | None:
    """How a node reads its input; None where that is not described here."""
    import onnx_ir as ir

    weight = node.inputs[1]
    if weight is None or weight.const_value is None:
        return None
    shape = weight.const_value.shape.numpy()
    if node.op_type == "MatMul":
        return Layer(op_type="MatMul", transposed=True)
    if node.op_type == "Gemm":
        factors = [node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
        if node.attributes.get_int("transA", 0) or factors != [1.0, 1.0]:
            return None
        return Layer(op_type="Gemm", transposed=not node.attributes.get_int("transB", 0))
    if node.op_type != "Conv" or node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    rank = len(shape) - 2

    def numbers(name: str, default: int, count: int) -> tuple[int, ...]:
        attribute = node.attributes.get(name)
        if attribute is None or attribute.type != ir.AttributeType.INTS:
            return (default,) * count
        return tuple(int(number) for number in attribute.as_ints())

    return Layer(
        op_type="Conv",
        groups=node.attributes.get_int("group", 1),
        kernel=tuple(shape[2:]),
        strides=numbers("strides", 1, rank),
        dilations=numbers("dilations", 1, rank),
        pads=numbers("pads", 0, 2 * rank),
    )


class Gram:
    """Sums over the columns of one layer; see the module's docstring.

    Args:
        groups, length: of the columns.

    Attributes:
        count: columns so far.
        blocks: the parts of a column that are treated as independent.
        energy: Σ of the squares of the float layer's outputs without bias.
    """

    def __init__(self, groups: int, length: int) -> None:
        pieces = -(-length // LARGEST)
        borders = [length * piece // pieces for piece in range(pieces + 1)]
        self.blocks = [slice(*pair) for pair in itertools.pairwise(borders)]
        self.count = 0
        self.energy = 0.0
        self._sum = np.zeros((groups, length))
        self._target_sum = np.zeros((groups, length))
        sizes = [block.stop - block.start for block in self.blocks]
        self._square = [np.zeros((groups, size, size)) for size in sizes]
        self._cross = [np.zeros((groups, size, size)) for size in sizes]

    def add(
        self,
        read: NDArray[np.float32],
        target: NDArray[np.float32],
        weights: NDArray[np.float32] | None = None,
    ) -> None:
        """Take in (groups, K, columns) of the quantized network and of the float network.

        `weights` are the float layer's, (groups, outputs, K), where its energy is to be known.
        """
        self.count += read.shape[2]
        self._sum += read.sum(axis=2)
        self._target_sum += target.sum(axis=2)
        if weights is not None:
            outputs = weights @ target
            self.energy += float(np.vdot(outputs, outputs))
        for block, square, cross in zip(self.blocks, self._square, self._cross, strict=True):
            turned = np.ascontiguousarray(read[:, block].transpose(0, 2, 1))
            square += read[:, block] @ turned
            cross += target[:, block] @ turned

    def __add__(self, other: Gram) -> Gram:
        both = Gram(*self._sum.shape)
        both.count, both.energy = self.count + other.count, self.energy + other.energy
        both._sum, both._target_sum = self._sum + other._sum, self._target_sum + other._target_sum
        both._square = [one + two for one, two in zip(self._square, other._square, strict=True)]
        both._cross = [one + two for one, two in zip(self._cross, other._cross, strict=True)]
        return both

    @property
    def mean(self) -> NDArray[np.float64]:
        """(groups, K): mean of x."""
        return self._sum / self.count

    @property
    def target_mean(self) -> NDArray[np.float64]:
        """(groups, K): mean of x*."""
        return self._target_sum / self.count

    def moments(self, index: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """E[x xᵀ] and E[x* xᵀ] of one block, (groups, K, K); as float32 where they are large."""
        square, cross = self._square[index] / self.count, self._cross[index] / self.count
        if square.shape[1] > _WIDE:
            return square.astype(np.float32), cross.astype(np.float32)
        return square, cross
