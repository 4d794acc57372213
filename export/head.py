"""What the graph itself says about its outputs: their names, whether scores are probabilities already, and in
which format boxes are written where the shapes leave one only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.errors import ExportError, SpecError
from edgecnn.spec import ModelSpec
from edgecnn.tasks import complete_head, create_task

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["check_task", "choose_output_names", "complete_spec"]

# They move numbers around without changing any.
_TRANSPARENT = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze")


def check_task(spec: ModelSpec, outputs: Mapping[str, NDArray[Any]]) -> None:
    """Whether the module's outputs can be what the spec says: asked before the long work, of one run.

    Raises:
        SpecError: unknown task, several outputs for a classifier, labels or a head that do not fit.
    """
    if spec.task == "multi_head" or any(key.endswith("output") for key in spec.head):
        return  # it may name what an output will be called; complete_spec asks again
    infos = [TensorInfo(name, (None, *array.shape[1:]), str(array.dtype)) for name, array in outputs.items()]
    if spec.task == "classification":
        _choose_scores(spec, infos)
    create_task(spec, infos)


def choose_output_names(
    model: ir.Model, own_names: Sequence[str], spec: ModelSpec, asked: Sequence[str] | None
) -> tuple[str, ...]:
    """Names for the graph's outputs.

    Args:
        model: the graph.
        own_names: what the module calls them, `output` where it is one nameless tensor.
        spec: a classifier's only output is called `logits` or `probabilities`.
        asked: what the user calls them; None where nothing was said.

    Raises:
        ExportError: a number or form of names that does not fit.
    """
    count = len(model.graph.outputs)
    if count != len(own_names):
        raise ExportError(
            "torch's exporter changed the number of outputs",
            got=f"{count} in the graph",
            expected=f"{len(own_names)}: {', '.join(own_names)}",
            remedy="Return each tensor once, and tensors only",
        )
    if asked is not None:
        good = len(asked) == count and len(set(asked)) == count and all(name.strip() for name in asked)
        if not good or "image" in asked:
            raise ExportError(
                "the output names do not fit the module",
                got=", ".join(asked),
                expected=f"{count} different from each other and from `image`, for {', '.join(own_names)}",
            )
        return tuple(asked)
    if own_names == ["output"] and spec.task == "classification":
        return (
            "probabilities" if _last_operator(model.graph.outputs[0]) in ("Softmax", "Sigmoid") else "logits",
        )
    return tuple(f"{name}_output" if name == "image" else name for name in own_names)


def complete_spec(
    model: ir.Model, spec: ModelSpec, outputs: Sequence[TensorInfo]
) -> tuple[ModelSpec, tuple[str, ...]]:
    """The spec with what the graph tells of the head, and notes for the user.

    What the spec says already stays. A classifier that ends in softmax or sigmoid gives probabilities;
    taken for logits, its scores would be flattened by a second softmax. Other tasks read the outputs' shapes
    (`complete` in the task's module): what a later version would read in them cannot change a shipped model.

    Raises:
        SpecError: the outputs leave open what they are, or the head or the labels do not fit.
    """
    notes: tuple[str, ...] = ()
    if spec.task == "classification":
        spec, notes = _complete_classification(model, spec, outputs)
    else:
        spec = replace(spec, head=complete_head(spec, outputs))
    create_task(spec, outputs)  # checks head, outputs and labels against each other
    return spec, notes


def _complete_classification(
    model: ir.Model, spec: ModelSpec, outputs: Sequence[TensorInfo]
) -> tuple[ModelSpec, tuple[str, ...]]:
    index = _choose_scores(spec, outputs)
    name = outputs[index].name
    last = _last_operator(model.graph.outputs[index])
    ends_in_probabilities = last in ("Softmax", "Sigmoid")
    if "scores" in spec.head:
        if spec.head["scores"] == "logits" and ends_in_probabilities:
            return spec, (f"the graph ends in {last}, and the spec says that {name} holds logits",)
        return spec, ()
    found: dict[str, Any] = {"scores": "probabilities" if ends_in_probabilities else "logits"}
    if last == "Sigmoid":
        found["multi_label"] = True
    head: Mapping[str, Any] = {**found, **spec.head}
    return replace(spec, head=head), ()


def _choose_scores(spec: ModelSpec, outputs: Sequence[TensorInfo]) -> int:
    """Which output holds the class scores."""
    names = [info.name for info in outputs]
    chosen = spec.head.get("output")
    if chosen is None and len(names) > 1:
        raise SpecError(
            "the module has several outputs: which one holds the class scores?",
            got=", ".join(names),
            expected="one output for task classification",
            remedy="Use --task raw, or wrap the module so that it returns the scores alone",
        )
    return names.index(chosen) if chosen in names else 0


def _last_operator(value: ir.Value) -> str | None:
    """The operator that computed an output, looking through reshapes."""
    node = value.producer()
    while node is not None and node.op_type in _TRANSPARENT and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return None if node is None else node.op_type
