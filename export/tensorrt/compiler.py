"""`compile_onnx`: from a graph to a plan and a report of what became of the graph."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from edgecnn.engine import EngineTensor
from edgecnn.engine_cache import cache_folder
from edgecnn.errors import BackendUnavailableError, BuildError, ModelFormatError, ModelNotFoundError
from edgecnn.export.tensorrt.flavours import Flavour, require
from edgecnn.export.tensorrt.listing import parse_inspector_json, parse_listing
from edgecnn.export.tensorrt.operations import count_operations
from edgecnn.export.tensorrt.options import CompileOptions, ShapeRange, default_workspace
from edgecnn.export.tensorrt.process import run_worker
from edgecnn.export.tensorrt.protocol import Finished, Request, TensorFacts
from edgecnn.export.tensorrt.report import CompileReport, make_report
from edgecnn.files import atomic_output, check_output, sha256_file
from edgecnn.progress import Progress, no_progress

if TYPE_CHECKING:
    import onnx

__all__ = ["CompileResult", "compile_onnx"]


@dataclass(frozen=True, kw_only=True)
class CompileResult:
    """A plan that was written.

    Attributes:
        path: the plan.
        flavour, library: what built it, and its version.
        gpu, compute_capabilities, cuda: what it was built for; gpu and cuda None where no GPU took part.
        inputs, outputs: of the network.
        profiles: for each, input → its range of shapes; none where every shape is fixed.
        plan_bytes, plan_sha256: of the plan; graph_sha256: of the ONNX bytes.
        build_s: duration in seconds.
        report: what was compiled.
        warnings: TensorRT's own, each once, and the report's.
        left_to_gpu: layers that the DLA cannot do.
    """

    path: Path
    flavour: Flavour
    library: str
    gpu: str | None
    compute_capabilities: tuple[str, ...]
    cuda: str | None
    inputs: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]
    profiles: tuple[Mapping[str, ShapeRange], ...]
    plan_bytes: int
    plan_sha256: str
    graph_sha256: str
    build_s: float
    report: CompileReport = field(repr=False)
    warnings: tuple[str, ...] = ()
    left_to_gpu: tuple[str, ...] = ()


def compile_onnx(
    model: bytes | str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: CompileOptions | None = None,
    progress: Progress = no_progress,
    *,
    flavour: Flavour = "tensorrt_rtx",
    precision: str | None = None,
    flags: Sequence[str] = (),
    scales: Mapping[str, float] | None = None,
    half: Sequence[str] = (),
    force: bool = False,
) -> CompileResult:
    """Compile an ONNX graph, whose precision stands in the graph, into a TensorRT plan.

    The compiler runs in a child process. Whatever happens to it, `output` is the whole plan or what was
    there before.

    Args:
        model: the bytes of an ONNX file, or its path.
        output: where the plan is written.
        flavour: the library.
        precision: what was asked for, `int8` say, so that the report can warn of what is wider.
        flags, scales: for a DLA before TensorRT 11, which takes precision as `FP16`, `INT8` and a scale for
            each tensor instead of out of the graph.
        half: names of layers that stay in FP16 then.
        force: overwrite `output`.

    Raises:
        BuildError: an option cannot be honoured; the parser or the compiler refused, crashed or was killed.
        BackendUnavailableError: the library, or the packages of `edgecnn[export]`, are not installed.
        ModelNotFoundError, ModelFormatError: no file there, or not ONNX.
        OutputError, OutputExistsError: the plan cannot be written.
    """
    options = options or CompileOptions()
    require(flavour)
    options.refuse_for(flavour)
    check_output(output, force=force)
    graph, graph_sha256 = _read(model)
    content = model if isinstance(model, bytes) else None
    with atomic_output(output, force=force) as temporary:
        outcome = run_worker(
            Request(
                flavour=flavour,
                model=None if isinstance(model, bytes) else str(Path(model).absolute()),
                model_bytes=len(content or b""),
                plan=str(temporary.absolute()),
                options=options.to_json(),
                workspace_bytes=options.workspace_bytes or default_workspace(),
                cache_folder=str(cache_folder() / "tensorrt"),
                flags=list(flags),
                scales=dict(scales or {}),
                half=list(half),
            ),
            content,
            progress=progress,
        )
        plan_bytes, plan_sha256 = temporary.stat().st_size, sha256_file(temporary)
    finished = outcome.finished
    profiles = tuple(_ranges(profile) for profile in finished.profiles)
    report = _report(graph, finished, profiles, precision)
    own = options.compute_capabilities or ()
    if not own and flavour == "tensorrt" and finished.compute_capability:
        own = (finished.compute_capability,)
    return CompileResult(
        path=Path(output),
        flavour=flavour,
        library=finished.library,
        gpu=finished.gpu if flavour == "tensorrt" else None,  # RTX compiles for a class of GPUs, not for one
        compute_capabilities=own,
        cuda=finished.cuda,
        inputs=tuple(map(_tensor, finished.inputs)),
        outputs=tuple(map(_tensor, finished.outputs)),
        profiles=profiles,
        plan_bytes=plan_bytes,
        plan_sha256=plan_sha256,
        graph_sha256=graph_sha256,
        build_s=finished.build_s,
        report=report,
        warnings=(*outcome.warnings, *report.warnings),
        left_to_gpu=tuple(finished.left_to_gpu),
    )


def _report(
    graph: onnx.ModelProto,
    finished: Finished,
    profiles: tuple[Mapping[str, ShapeRange], ...],
    precision: str | None,
) -> CompileReport:
    if finished.listings:
        layers = parse_listing(finished.listings[0])
    elif finished.inspected is not None:
        layers = parse_inspector_json(finished.inspected)
    else:
        raise BuildError(
            "the compiler did not say what it compiled",
            got="no list of layers in its log, and no GPU to load the plan and ask",
        )
    batch = next((shapes.opt[0] for profile in profiles for shapes in profile.values() if shapes.opt), 1)
    return make_report(layers, count_operations(graph, batch=batch), batch=batch, precision=precision)


def _read(model: bytes | str | os.PathLike[str]) -> tuple[onnx.ModelProto, str]:
    """The graph, for its shapes, and the SHA-256 of its bytes."""
    try:
        import onnx
    except ImportError as error:
        raise BackendUnavailableError(
            "this step needs the export packages", got=str(error), remedy="pip install 'edgecnn[export]'"
        ) from error
    if isinstance(model, bytes):
        name, content = "the model", model
    else:
        name, path = str(model), Path(model)
        if not path.is_file():
            raise ModelNotFoundError(f"model {path} does not exist", expected="an ONNX file")
        content = path.read_bytes()
    try:
        return onnx.load_from_string(content), sha256(content).hexdigest()
    except Exception as error:  # protobuf's DecodeError, whose module has no type stubs
        raise ModelFormatError(
            f"{name} is not a whole ONNX file",
            got=f"{len(content)} bytes that start with {content[:8]!r}",
            remedy="Copy or export it again",
        ) from error


def _ranges(profile: Mapping[str, list[list[int]]]) -> dict[str, ShapeRange]:
    return {name: ShapeRange(*map(tuple, shapes)) for name, shapes in profile.items()}


def _tensor(facts: TensorFacts) -> EngineTensor:
    shape = tuple(None if side < 0 else side for side in facts.shape)
    return EngineTensor(name=facts.name, dtype=facts.dtype, shape=shape)
