"""Fix the shape of the image input, and with it every shape of the graph.

torch names free sides `s77`; here a free batch is called `batch`. A program that was exported with free
sides may be wanted with fixed ones: ONNX needs only its input to say so, and shape inference does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import onnx_ir.passes.common as common

__all__ = ["BATCH", "InputShape"]

BATCH = "batch"


class InputShape(ir.passes.InPlacePass):
    """Sets the sides of the one input, None meaning a free batch, and infers all other shapes again."""

    def __init__(self, shape: Sequence[int | None]) -> None:
        super().__init__()
        self.shape = shape

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace torch's symbols by what they stand for; forget shapes that hold others."""
        image = model.graph.inputs[0]
        assert image.shape is not None  # torch writes it
        meaning = {
            str(old): new if new is not None else BATCH
            for old, new in zip(image.shape, self.shape, strict=True)
            if not isinstance(old, int)
        }
        for graph in model.graphs():
            for node in graph:
                for value in node.outputs:
                    value.shape = _translate(value.shape, meaning)
        image.shape = ir.Shape([BATCH if side is None else side for side in self.shape])
        common.ShapeInferencePass()(model)
        return ir.passes.PassResult(model, modified=True)


def _translate(shape: ir.Shape | None, meaning: dict[str, int | str]) -> ir.Shape | None:
    if shape is None:
        return None
    sides = [side if isinstance(side, int) else meaning.get(str(side)) for side in shape]
    return ir.Shape(sides)  # None: unknown until it is inferred
