"""`--config FILE.toml`: a command's options from a file, under the names that they have on the command line.

    model = "model.onnx"
    source = ["rtsp://cam1", "rtsp://cam2"]
    stats-every = 60
    force = true

There is no second list of options: what a key may be, and what its value means, click's own parameters say.
An option on the command line wins over the file.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from edgecnn.errors import EdgeCNNError

__all__ = ["config_option"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def config_option(function: _Function) -> _Function:
    """Adds `--config`. No parameter of the function stands for it: its values come as those of the others."""
    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False),
        is_eager=True,  # before the parameters whose defaults it sets
        expose_value=False,
        callback=_use,
        help="A TOML file with any of these options by their names, and MODEL as `model`; "
        "those given here win.",
    )(function)


def _use(context: click.Context, parameter: click.Parameter, path: str | None) -> None:
    if path is None or context.resilient_parsing:
        return
    try:
        context.default_map = _read(context, Path(path))
    except EdgeCNNError as error:
        raise click.UsageError(str(error), context) from error


def _read(context: click.Context, path: Path) -> dict[str, Any]:
    """The file as defaults for click, every value tried."""
    settings = [known for known in context.command.params if known.name not in ("config", "help")]
    parameters = {_key(parameter): parameter for parameter in settings}
    defaults: dict[str, Any] = {}
    for key, value in _load(path).items():
        if key not in parameters:
            near = difflib.get_close_matches(key.replace("_", "-"), parameters, n=1, cutoff=0.5)
            expected = near[0] if near else f"one of {', '.join(parameters)}"
            raise EdgeCNNError(f"{path}: unknown key", got=key, expected=expected)
        parameter = parameters[key]
        words = _words(path, key, value, parameter)
        try:
            parameter.type_cast_value(context, words)
        except click.BadParameter as error:
            raise EdgeCNNError(f"{path}: {key} = {_shown(value)}", got=error.message) from error
        defaults[str(parameter.name)] = words
    return defaults


def _load(path: Path) -> Mapping[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        loaded: Mapping[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise EdgeCNNError(f"{path} is not TOML", got=str(error)) from error
    return loaded


def _key(parameter: click.Parameter) -> str:
    """The parameter's name on the command line, without the dashes before it."""
    longest = max(parameter.opts, key=len)
    return longest.removeprefix("--")


def _words(path: Path, key: str, value: object, parameter: click.Parameter) -> Any:
    """The value as the words that the command line would have: text for click's own types to understand."""
    expected, kind = "one value", parameter.type.name
    if isinstance(parameter, click.Option) and parameter.is_flag:
        expected = "true or false"
        if isinstance(value, bool):
            return value
    elif getattr(parameter, "multiple", False) or parameter.nargs == -1:
        expected = "a value or a list of values"
        if isinstance(value, dict) and kind == "KEY=VALUE":  # [head] stands for --head KEY=VALUE …
            return [f"{name}={json.dumps(setting)}" for name, setting in value.items()]
        items = value if isinstance(value, list) else [value]
        if all(map(_is_scalar, items)):
            return [str(item) for item in items]
    elif _is_scalar(value):
        return str(value)
    elif isinstance(value, list) and "," in kind and all(map(_is_scalar, value)):
        return ",".join(map(str, value))  # mean = [0.5, 0.5, 0.5] stands for --mean 0.5,0.5,0.5
    raise EdgeCNNError(f"{path}: {key}", got=_shown(value), expected=expected)


def _is_scalar(value: object) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


def _shown(value: object) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)
