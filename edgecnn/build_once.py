"""Building where a model is loaded: once, and from then on out of the cache.

    edgecnn.load("model.calibrated.onnx", precision="int8")

`edgecnn.export` is imported only when something must be built; a machine that has its engines in the cache
needs the runtime alone. The key holds the content of all that the result depends on: the model's bytes,
precision and options, the code that lowers and compiles, the library, and for TensorRT the GPU.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import json
import logging
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgecnn import __version__
from edgecnn.engine_cache import EngineCache
from edgecnn.errors import BackendUnavailableError, BuildError, ModelNotFoundError
from edgecnn.files import sha256_file
from edgecnn.gpu import Gpu, read_gpu
from edgecnn.interrupts import interrupts_deferred
from edgecnn.progress import Progress, no_progress
from edgecnn.spec import ModelSpec

if TYPE_CHECKING:
    from edgecnn.export.lowering import Precision

__all__ = ["BuildRecipe", "choose_library", "make_recipe"]

_log = logging.getLogger(__name__)

Library = Literal["onnxruntime", "tensorrt", "tensorrt_rtx"]

_LIBRARIES = ("onnxruntime", "tensorrt", "tensorrt_rtx")
_PRECISIONS = ("fp32", "fp16", "int8")
_LOCATION = re.compile(rb"\n\x08location\x12([\x80-\xff]?)([\x00-\x7f])", re.DOTALL)


class BuildRecipe:
    """What to build from what; made by `make_recipe`.

    Attributes:
        key: everything that the result depends on.
    """

    def __init__(
        self,
        model: Path,
        *,
        library: Library,
        precision: Precision,
        options: Mapping[str, Any],
        spec: ModelSpec | None,
        key: Mapping[str, Any],
    ) -> None:
        self.key = key
        self._model = model
        self._library = library
        self._precision = precision
        self._options = options
        self._spec = spec

    def fetch(self, cache: EngineCache | None = None, *, progress: Progress = no_progress) -> Path:
        """The built model, out of the cache or built now. Raises as `edgecnn.export.build`."""
        suffix = ".onnx" if self._library == "onnxruntime" else ".engine"
        return (cache or EngineCache()).fetch(
            self.key, f"model{suffix}", lambda output: self._build(output, progress), progress=progress
        )

    def _build(self, output: Path, progress: Progress) -> None:
        # a warning, because it takes minutes on a device and must be seen where nobody set up logging
        _log.warning("%s: building it in %s for %s, once", self._model, self._precision, self._library)
        from edgecnn.export.builder import build

        if self._library == "onnxruntime":
            result: Any = build(
                self._model, output, precision=self._precision, spec=self._spec, progress=progress
            )
        else:
            from edgecnn.export.tensorrt import CompileOptions

            result = build(
                self._model,
                output,
                precision=self._precision,
                target="tensorrt" if self._library == "tensorrt" else "tensorrt-rtx",
                options=CompileOptions(**self._options),
                spec=self._spec,
                progress=progress,
            )
        for warning in result.warnings:
            _log.warning("%s: %s", self._model, warning)


def make_recipe(
    model: str | os.PathLike[str],
    *,
    library: Library,
    precision: str,
    options: Mapping[str, Any] | None = None,
    spec: ModelSpec | None = None,
    gpu: Gpu | None = None,
) -> BuildRecipe:
    """Look at everything that a build depends on.

    Args:
        model: an exported or calibrated ONNX file.
        library: what will run it.
        precision: `fp32`, `fp16` or `int8`.
        options: fields of `edgecnn.export.CompileOptions`; for TensorRT alone.
        spec: for a file that has none.
        gpu: the one that it is for; for TensorRT alone.

    Raises:
        ModelNotFoundError: no file there.
        BuildError: an unknown precision, something else than an ONNX file, or options without TensorRT.
        BackendUnavailableError: the library cannot be imported.
    """
    path, chosen = Path(model), dict(options or {})
    if precision not in _PRECISIONS:
        raise BuildError(
            "unknown precision",
            got=precision,
            expected="one of " + ", ".join(_PRECISIONS),
            remedy="`edgecnn build --precision auto` finds the best one",
        )
    if not path.is_file():
        raise ModelNotFoundError(f"model {path} does not exist", expected="an ONNX file")
    if path.suffix != ".onnx":
        raise BuildError(
            f"precision is for models that are built when they are loaded, and {path} is built already",
            got=path.suffix or "a file without a suffix",
            expected=".onnx",
            remedy="Leave the precision out",
        )
    if chosen and library == "onnxruntime":
        raise BuildError("options cannot be honoured", got="onnxruntime", expected="TensorRT")
    content = path.read_bytes()
    key = {
        "model": hashlib.sha256(content).hexdigest(),
        "weights": _weights_beside(path, content),
        "precision": precision,
        "library": library,
        "version": _version_of(library),
        "options": json.loads(json.dumps(chosen, default=_plain, sort_keys=True)),
        "spec": None if spec is None else json.loads(spec.to_json()),
        "gpu": gpu and {"name": gpu.name, "compute_capability": gpu.compute_capability, "cuda": gpu.cuda},
        "architecture": platform.machine(),
        "edgecnn": __version__,
        "code": _code_sha256(),
    }
    recipe: Any = precision
    return BuildRecipe(path, library=library, precision=recipe, options=chosen, spec=spec, key=key)


def choose_library(backend: str) -> tuple[Library, Gpu | None]:
    """Which library a model is built for, and the GPU that TensorRT will run it on.

    Args:
        backend: `auto`: TensorRT where a GPU and all that is needed to run on it are there, else ONNX
            Runtime; or a library, which is never replaced by another.

    Raises:
        BackendUnavailableError: there is none of that name, or TensorRT was asked for and there is no GPU.
    """
    gpu = read_gpu()
    if backend == "auto":
        for library in ("tensorrt", "tensorrt_rtx"):
            if gpu is not None and _installed(library) and _installed("pycuda"):
                return library, gpu
        return "onnxruntime", None
    if backend not in _LIBRARIES:
        raise BackendUnavailableError(
            "unknown backend", got=backend, expected="one of " + ", ".join(("auto", *_LIBRARIES))
        )
    if backend == "onnxruntime":
        return "onnxruntime", None
    if gpu is None:
        raise BackendUnavailableError(
            f"{backend} needs an NVIDIA GPU",
            got="none here, or no driver for it",
            remedy='Use backend="onnxruntime", or build a plan for another machine with `edgecnn build`',
        )
    return ("tensorrt" if backend == "tensorrt" else "tensorrt_rtx"), gpu


def _weights_beside(path: Path, content: bytes) -> dict[str, str | None]:
    """The files that the model keeps weights in → SHA-256; None for one that is not there.

    ONNX stores their names as the pair `location`, NAME; the pair is found without parsing the rest.
    """
    names = set()
    for found in _LOCATION.finditer(content):
        low = found[1]
        length = found[2][0] << 7 | low[0] & 0x7F if low else found[2][0]  # a varint, least significant first
        names.add(content[found.end() : found.end() + length].decode(errors="replace"))
    beside = {name: path.parent / name for name in sorted(names) if "\0" not in name}
    return {name: sha256_file(file) if file.is_file() else None for name, file in beside.items()}


def _version_of(library: str) -> str:
    with interrupts_deferred():
        if library != "onnxruntime":
            from edgecnn.backends.tensorrt_library import import_libraries

            return str(import_libraries((library,))[0].__version__)
        try:
            return str(importlib.import_module(library).__version__)
        except ImportError as error:
            raise BackendUnavailableError(
                "ONNX Runtime cannot be imported", got=str(error), remedy="pip install 'edgecnn[cpu]'"
            ) from error


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


@functools.cache
def _code_sha256() -> str:
    """Of the code that lowers and compiles: it changes what is built more often than its version does."""
    digest = hashlib.sha256()
    root = Path(__file__).with_name("export")
    for folder, _, names in sorted(os.walk(root)):
        for name in sorted(names):
            if name.endswith(".py"):
                digest.update(name.encode() + b"\0" + Path(folder, name).read_bytes())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """Options as JSON: paths as text, ranges of shapes as lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return [list(value.min), list(value.opt), list(value.max)]
