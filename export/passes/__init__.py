"""Graph passes: torch's ONNX → the graph that calibration, lowering and people want to read.

One pass a file, each an `onnx_ir.passes.InPlacePass` that returns a `PassResult(model, modified)`. What
onnx_ir and onnxscript have already (constant folding, batch norm behind a convolution, dead nodes, common
subexpressions, identities) is taken from there; here is what they lack. Every pass keeps the output value
that a rewritten piece had, so a value still holds what torch's node of that name computes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgecnn.export.torch_boundary import quiet

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["finish", "simplify"]

_ALWAYS_FOLDED = 512 * 512  # elements
_MAX_ROUNDS = 8


def simplify(model: ir.Model, input_shape: Sequence[int | None]) -> None:
    """Fold and fuse, in place; names and metadata stay torch's.

    Args:
        model: as torch exports it.
        input_shape: sides of the image input, None for a free batch.
    """
    import onnx_ir.passes.common as common
    from onnxscript.optimizer import optimize_ir

    from edgecnn.export.passes.batch_free_reshapes import BatchFreeReshapes
    from edgecnn.export.passes.fold_leading_batch_norm import FoldLeadingBatchNorm
    from edgecnn.export.passes.global_average_pool import GlobalAveragePools
    from edgecnn.export.passes.input_shape import InputShape
    from edgecnn.export.passes.known_sides import KnownSides
    from edgecnn.export.passes.resize_by_scales import ResizeByScales
    from edgecnn.export.passes.split_batch_norms import SplitBatchNorms
    from edgecnn.export.passes.unshare_weights import UnshareWeights

    # onnxscript leaves arithmetic on large constants for later, and standardized or reparametrized weights
    # with it. Their results are as large as weights are; what grows beyond that had better stay an operator.
    sizes = [value.const_value.size for value in model.graph.initializers.values() if value.const_value]
    largest = max([_ALWAYS_FOLDED, *sizes])
    with quiet():
        for _ in range(_MAX_ROUNDS):  # what one round decides, the next one may build on
            InputShape(input_shape)(model)
            optimize_ir(model, input_size_limit=sys.maxsize, output_size_limit=largest)
            prepared = [
                one_pass(model).modified for one_pass in (KnownSides(), SplitBatchNorms(), UnshareWeights())
            ]
            if not any(prepared):
                break
        for one_pass in (
            InputShape(input_shape),
            FoldLeadingBatchNorm(),
            GlobalAveragePools(),
            BatchFreeReshapes(),
            ResizeByScales(),
            common.RemoveUnusedNodesPass(),
            common.DeduplicateInitializersPass(),
            common.OutputFixPass(),  # one tensor as two outputs needs an Identity after all
        ):
            one_pass(model)


def finish(
    model: ir.Model,
    *,
    input_shape: Sequence[int | None],
    output_names: Sequence[str],
    parameter_names: frozenset[str],
) -> None:
    """Give inputs, outputs, nodes and values their final names and shapes, in place, and drop torch's notes.

    Args:
        model: simplified.
        input_shape: sides of the image input, None for a free batch.
        output_names: one an output.
        parameter_names: the module's own names for its weights, which initializers keep.
    """
    import onnx_ir.passes.common as common

    from edgecnn.export.passes.input_shape import InputShape
    from edgecnn.export.passes.readable_names import ReadableNames
    from edgecnn.export.passes.strip_metadata import StripMetadata

    with quiet():
        for one_pass in (
            ReadableNames("image", output_names, parameter_names),
            StripMetadata(),
            InputShape(input_shape),
            common.TopologicalSortPass(),
        ):
            one_pass(model)
