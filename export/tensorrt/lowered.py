"""From a model file to the graph that the compiler gets, and how accurate that very graph is."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn.errors import BuildError
from edgecnn.metadata import BUILD_KEY, QUANTIZATION_KEY, read_json
from edgecnn.progress import Progress
from edgecnn.quantization import QuantizationTable
from edgecnn.spec import ModelSpec

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgecnn.dataset import FrameSet
    from edgecnn.export.lowering import Precision
    from edgecnn.export.lowering.fp32_nodes import Ranges

__all__ = ["Lowered", "Source", "load_source", "measure_lowered"]


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """A graph that is ready for the compiler, and where it came from.

    Attributes:
        precision: what it was lowered to.
        content: the bytes of its ONNX file; reference: those of the float32 graph, None where the model was
            lowered before.
        table_sha256: of the quantization table, if there was one.
        left: names of layers that were left out of INT8 on demand.
        kept_fp32: node → why it stays in FP32 in an FP16 or INT8 graph.
        flags, scales: for a DLA: what the compiler is told beside the graph, which is then the float one.
        half: TensorRT's names of the layers that compute in FP16 there, which the table keeps out of INT8.
        warnings: what the lowering could not decide well.
    """

    precision: Precision
    content: bytes
    reference: bytes | None
    spec: ModelSpec | None
    table_sha256: str | None
    left: tuple[str, ...] = ()
    kept_fp32: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    scales: Mapping[str, float] = field(default_factory=dict)
    half: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A model file that was read; `lower` may be called for several precisions.

    Attributes:
        ranges: of its tensors, where it is not calibrated and frames were given: for FP16.
    """

    path: Path
    graph: ir.Model
    spec: ModelSpec | None
    ranges: Ranges | None = None

    @property
    def calibrated(self) -> bool:
        """Whether it has a quantization table."""
        return QUANTIZATION_KEY in self.graph.metadata_props

    def lower(self, precision: Precision, *, leave: Collection[str] = ()) -> Lowered:
        """Lower it for TensorRT; a graph that was lowered for it before is taken as it is.

        Args:
            leave: names of layers that stay out of INT8.

        Raises:
            BuildError: INT8 without calibration, or a model that is lowered to something else.
        """
        from edgecnn.export.graph import to_bytes
        from edgecnn.export.lowering import lower_graph

        if _was_lowered(self.graph, precision):
            content = self.path.read_bytes()  # these very bytes: they are what was measured
            return Lowered(
                precision=precision, content=content, reference=None, spec=self.spec, table_sha256=None
            )
        table = self.graph.metadata_props.get(QUANTIZATION_KEY)
        result = lower_graph(self.graph, precision, target="tensorrt", leave=leave, ranges=self.ranges)
        report = (read_json(result.metadata_props, BUILD_KEY) or {}).get("lowering") or {}
        return Lowered(
            precision=precision,
            content=to_bytes(result),
            reference=to_bytes(self.graph),
            spec=self.spec,
            table_sha256=None if table is None else sha256(table.encode()).hexdigest(),
            left=tuple(leave),
            kept_fp32=report.get("kept_fp32", {}),
            warnings=tuple(report.get("warnings", ())),
        )

    def observed(self, data: FrameSet | None, progress: Progress) -> Source:
        """With the ranges that FP16 needs, seen on `data`, unless calibration has brought them.

        Raises:
            DataError: no frame can be read, or the float model itself overflows.
        """
        if data is None or self.spec is None or self.calibrated or BUILD_KEY in self.graph.metadata_props:
            return self
        from edgecnn.export.observed import observe_ranges

        ranges = observe_ranges(self.graph, self.spec.image, data, total=data.count, progress=progress)
        return replace(self, ranges=ranges)

    def for_dla(self, precision: Precision) -> Lowered:
        """The float graph, and what a DLA is told beside it. Raises as `lower`, and BuildError for FP32."""
        from edgecnn.export.graph import to_bytes
        from edgecnn.export.lowering import lower_graph
        from edgecnn.export.placement import name_of
        from edgecnn.export.tensorrt.calibration_cache import tensor_scales

        if precision == "fp32":
            raise BuildError("a DLA does not compute in FP32", expected="fp16 or int8")
        if precision == "int8" and not self.calibrated:
            lower_graph(self.graph, "int8", target="tensorrt")  # which refuses, in its words
        plain = lower_graph(self.graph, "fp32", target="tensorrt")
        text = self.graph.metadata_props.get(QUANTIZATION_KEY) if precision == "int8" else None
        table = None if text is None else QuantizationTable.from_json(text)
        return Lowered(
            precision=precision,
            content=to_bytes(plain),
            reference=None,
            spec=self.spec,
            table_sha256=None if text is None else sha256(text.encode()).hexdigest(),
            flags=("FP16",) if table is None else ("FP16", "INT8"),
            scales={} if table is None else tensor_scales(self.graph.graph, table),
            half=()
            if table is None
            else tuple(
                node.name or f"node_of_{node.outputs[0].name}"  # as TensorRT's parser calls it
                for node in self.graph.graph
                if name_of(node) in table.kept_in_float
            ),
        )


def load_source(model: str | os.PathLike[str], spec: ModelSpec | None) -> Source:
    """Read a model file, with its own spec or another one.

    Raises:
        SpecError: it has none and none is given, or one that does not fit the graph.
        ModelNotFoundError, ModelFormatError, BackendUnavailableError.
    """
    from edgecnn.export.measure import check_spec
    from edgecnn.export.qdq import load_float_graph

    graph = load_float_graph(model)
    if BUILD_KEY in graph.metadata_props:  # lowered: its spec was checked then
        return Source(
            path=Path(model), graph=graph, spec=spec or ModelSpec.from_metadata(graph.metadata_props)
        )
    return Source(path=Path(model), graph=graph, spec=check_spec(graph, spec, name=str(model)))


def measure_lowered(lowered: Lowered, data: FrameSet | None, progress: Progress) -> Mapping[str, Any] | None:
    """The lowered graph against FP32 on frames, in ONNX Runtime; None without frames.

    Raises:
        BuildError: there is no FP32 graph to compare with.
        DataError: no frame can be read, or an output is infinite or NaN.
    """
    if data is None:
        return None
    if lowered.reference is None:
        raise BuildError(
            "the accuracy cannot be measured",
            got="a DLA" if lowered.flags else "a model that is lowered already",
            remedy="Compare the plan on the device: edgecnn compare model.onnx model.engine --data PHOTOS"
            if lowered.flags
            else "Give the file that `edgecnn export` or `edgecnn calibrate` wrote",
        )
    from edgecnn.backends.onnxruntime import OnnxRuntimeBackend
    from edgecnn.compare import compare
    from edgecnn.export.fp16_reference import as_fp16_computes
    from edgecnn.model import Model

    # node by node, as TensorRT computes it: ONNX Runtime's optimizer is not right about FP16 around Q/DQ, and
    # its kernels neither round to FP16 nor overflow
    computed = OnnxRuntimeBackend(as_fp16_computes(lowered.content), optimized=False)
    with (
        Model(OnnxRuntimeBackend(lowered.reference), name="the FP32 model") as first,
        Model(computed, name="the lowered model") as second,
    ):
        return compare(first, second, data, total=data.count, progress=progress).to_dict()


def _was_lowered(graph: ir.Model, precision: str) -> bool:
    """Whether it is a graph for TensorRT already. Raises BuildError for one of another precision."""
    built = read_json(graph.metadata_props, BUILD_KEY)
    if built is None or built.get("target") != "tensorrt":
        return False  # a graph for another target is refused by `lower_graph`, in its words
    if built.get("precision") != precision:
        raise BuildError(
            "the model is lowered already",
            got=str(built.get("precision")),
            expected=precision,
            remedy="Use the file that `edgecnn export` or `edgecnn calibrate` wrote",
        )
    return True
