"""`package.module:factory`: import it, call it, and say plainly what went wrong with someone else's code."""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgecnn.errors import ExportError
from edgecnn.export.sources import Source
from edgecnn.export.torch_boundary import essential_line

__all__ = ["Arguments", "load", "parse_arguments"]


@dataclass(frozen=True)
class Arguments:
    """Arguments for a factory."""

    positional: tuple[Any, ...] = ()
    named: dict[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.positional or self.named)


def parse_arguments(texts: Sequence[str]) -> Arguments:
    """`["efficientnet-lite0", "num_classes=10"]` → a positional and a named argument.

    A value is a Python literal (`10`, `None`, `(1, 2)`, `"a=b"`), and text where it is none.

    Raises:
        ExportError: the same name twice.
    """
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (equals and key.isidentifier()):
            positional.append(_literal(text))
        elif key in named:
            raise ExportError(f"--arg {key} is given twice")
        else:
            named[key] = _literal(value)
    return Arguments(tuple(positional), named)


def load(text: str, arguments: Arguments) -> Source:
    """Import and call `package.module:attribute.path`.

    Raises:
        ExportError: no such module or attribute, the code fails, or it gives no nn.Module.
    """
    import torch

    module_name, _, attribute = text.partition(":")
    found = _attribute(_import(module_name), attribute, text)
    if isinstance(found, torch.nn.Module):
        if arguments:
            raise ExportError(
                f"{text} is a module already", got="--arg", remedy="Leave out --arg, or name what makes it"
            )
        made: Any = found
    elif callable(found):
        made = _call(found, arguments, text)
    else:
        raise ExportError(
            f"{text} makes no module",
            got=f"a {type(found).__name__}",
            expected="a function, a class or an nn.Module",
        )
    if not isinstance(made, torch.nn.Module):
        raise ExportError(
            f"{text} returned no module", got=f"a {type(made).__name__}", expected="a torch.nn.Module"
        )
    return Source(module=made, name=type(made).__name__, origin={"factory": text})


def _import(name: str) -> Any:
    if not name or not all(part.isidentifier() for part in name.split(".")):
        suggestion = name.removesuffix(".py").strip("./").replace(os.sep, ".")
        raise ExportError(
            f"{name!r} is no module's name",
            expected="a dotted name that Python can import from here",
            remedy=f"Perhaps {suggestion}:…" if suggestion else None,
        )
    try:
        with _current_folder_importable():
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise ExportError(
                f"no module {missing}",
                remedy="Run where it can be imported: the current folder and installed packages are searched",
            ) from error
        raise ExportError(
            f"{name} cannot be imported",
            got=f"no module {missing}",
            remedy=f"Install what it needs: {missing}",
        ) from error
    except (Exception, SystemExit) as error:  # it is the user's code: it may do anything, even exit
        raise ExportError(f"{name} cannot be imported", got=essential_line(error)) from error


@contextlib.contextmanager
def _current_folder_importable() -> Iterator[None]:
    """The `edgecnn` script, unlike `python -m`, does not have the current folder on its path.

    It stays there afterwards: a factory may import when it is called.
    """
    folder = os.getcwd()  # noqa: PTH109  # what sys.path holds are strings
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    yield


def _attribute(value: Any, path: str, text: str) -> Any:
    if not path:
        raise ExportError(f"{text} names no factory", expected="package.module:factory")
    for name in path.split("."):
        if not hasattr(value, name):
            close = difflib.get_close_matches(name, dir(value), n=1)
            raise ExportError(
                f"{getattr(value, '__name__', type(value).__name__)} has no {name}",
                remedy=f"Perhaps {close[0]}" if close else "Check its spelling",
            )
        value = getattr(value, name)
    return value


def _call(function: Any, arguments: Arguments, text: str) -> Any:
    try:
        inspect.signature(function).bind(*arguments.positional, **arguments.named)
    except TypeError as error:
        raise ExportError(
            f"{text} cannot be called like this",
            got=str(error),
            remedy="Give its arguments: --arg VALUE or --arg KEY=VALUE",
        ) from error
    except ValueError:
        pass  # written in C++: it has no signature to look at
    try:
        return function(*arguments.positional, **arguments.named)
    except (Exception, SystemExit) as error:  # the user's code
        raise ExportError(f"{text} failed", got=essential_line(error)) from error


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
