"""What commands that run a model share: backend, precision, threads, and the spec for a file without one."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from edgecnn.backends import open_backend
from edgecnn.cli.common import progress_bar
from edgecnn.cli.spec_options import SpecOptions, model_spec, spec_options
from edgecnn.model import Model, load
from edgecnn.progress import Progress
from edgecnn.spec import ModelSpec

__all__ = ["ModelOptions", "model_options"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class ModelOptions:
    """How the user wants the model to be loaded."""

    backend: str
    precision: str | None
    threads: int | None
    spec: SpecOptions

    def load(self, path: str, progress: Progress | None = None) -> Model:
        """As `edgecnn.load`, with the spec's options over what the file says. Opens the file once.

        A build shows its progress, on a bar of its own where the caller has none.
        """
        if self.precision is not None:  # the spec goes into what is built
            with progress_bar() if progress is None else contextlib.nullcontext(progress) as shown:
                return load(
                    path,
                    backend=self.backend,
                    precision=self.precision,
                    spec=model_spec(Path(path), self.spec),
                    threads=self.threads,
                    progress=shown,
                )
        opened, reason = open_backend(path, backend=self.backend, threads=self.threads)
        try:
            spec = (
                self.spec.resolve(ModelSpec.from_metadata(opened.metadata)) if self.spec.any_given else None
            )
            return Model(opened, spec, name=Path(path).name, backend_reason=reason)
        except BaseException:
            opened.close()
            raise


_OPTIONS = (
    click.option(
        "--backend", default="auto", show_default=True,
        help="What runs it: auto, onnxruntime, tensorrt, tensorrt_rtx.",
    ),
    click.option(
        "--precision", type=click.Choice(["fp32", "fp16", "int8"]),
        help="Build MODEL in it first, once: it is kept in the user's cache folder.",
    ),
    click.option("--threads", type=click.IntRange(1), help="CPU threads of one inference."),
)  # fmt: skip


def model_options(function: _Function) -> _Function:
    """Adds `--backend`, `--threads` and the spec's options, as one parameter `model_options`."""

    @functools.wraps(function)
    def wrapper(
        *,
        backend: str,
        precision: str | None,
        threads: int | None,
        spec_options: SpecOptions,
        **options: Any,
    ) -> Any:
        chosen = ModelOptions(backend, precision, threads, spec_options)
        return function(model_options=chosen, **options)

    decorated: Any = spec_options(wrapper)
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    result: _Function = decorated
    return result
