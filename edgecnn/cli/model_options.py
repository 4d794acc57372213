"""The options of commands that run a model: backend, threads, and the spec for a file that has none."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from edgecnn.backends import open_backend
from edgecnn.cli.spec_options import SpecOptions, spec_options
from edgecnn.model import Model
from edgecnn.spec import ModelSpec

__all__ = ["ModelOptions", "model_options"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class ModelOptions:
    """How the user wants the model to be loaded."""

    backend: str
    threads: int | None
    spec: SpecOptions

    def load(self, path: str) -> Model:
        """As `edgecnn.load`, with the spec's options over what the file says. Opens the file once."""
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
    click.option("--backend", default="auto", show_default=True, help="What runs it: auto, onnxruntime."),
    click.option("--threads", type=click.IntRange(1), help="CPU threads of one inference."),
)


def model_options(function: _Function) -> _Function:
    """Adds `--backend`, `--threads` and the spec's options, as one parameter `model_options`."""

    @functools.wraps(function)
    def wrapper(*, backend: str, threads: int | None, spec_options: SpecOptions, **options: Any) -> Any:
        return function(model_options=ModelOptions(backend, threads, spec_options), **options)

    decorated: Any = spec_options(wrapper)
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    result: _Function = decorated
    return result
