"""Drop what torch's exporter notes for debugging: stack traces with paths of this machine, module trees.

It would make the file larger, tell strangers about the author's disk, and make two exports of the same
network differ. What is worth keeping went into the names (`readable_names`).
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

__all__ = ["StripMetadata"]


class StripMetadata(ir.passes.InPlacePass):
    """As onnx_ir's ClearMetadataAndDocStringPass, and the model's own, and the values' too."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Nothing of the graph's meaning changes."""
        modified = common.ClearMetadataAndDocStringPass()(model).modified
        model.doc_string = None
        model.metadata_props.clear()
        for graph in model.graphs():
            graph.doc_string = None
            graph.metadata_props.clear()
            for node in graph:
                for value in node.outputs:
                    modified |= _strip(value)
            for value in (*graph.inputs, *graph.initializers.values()):
                modified |= _strip(value)
        return ir.passes.PassResult(model, modified)


def _strip(value: ir.Value) -> bool:
    tensor = value.const_value
    had_any = bool(value.metadata_props or value.doc_string)
    value.metadata_props.clear()
    value.doc_string = None
    if tensor is not None and (tensor.doc_string or tensor.metadata_props):
        value.const_value = ir.tensor(
            tensor.numpy(), name=value.name
        )  # some kinds of tensors cannot be changed
        had_any = True
    return had_any
