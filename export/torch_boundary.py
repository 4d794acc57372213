"""The boundary to torch and onnx: are they there, keeping them quiet, translating their errors.

torch explains a failed export on several pages, of which one line says what is wrong. `essential_line`
finds it, and `remedy_for` knows what usually helps.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import re
import warnings
from collections.abc import Iterator

from edgecnn.errors import BackendUnavailableError
from edgecnn.interrupts import interrupts_deferred

__all__ = ["essential_line", "quiet", "remedy_for", "require"]

_NOISY = ("torch", "onnx", "onnxscript", "onnx_ir", "onnxruntime")
_MAX_LINE = 300


def require(*modules: str, remedy: str = "pip install 'edgecnn[export]'") -> None:
    """Import what a step needs, or say how to get it.

    Raises:
        BackendUnavailableError: one of `modules` is missing, or is there and cannot be imported.
    """
    for name in modules:
        _import(name, remedy)


def _import(name: str, remedy: str) -> None:
    try:
        with quiet(), interrupts_deferred():
            importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(f"{error.name or name} is not installed", remedy=remedy) from error
    except Exception as error:  # a library built for another version of its neighbour fails as it likes
        raise BackendUnavailableError(
            f"{name} is installed but cannot be imported", got=essential_line(error), remedy=remedy
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings and the logs of torch and onnx: what matters comes back as an exception.

    The topmost loggers are given a level that theirs inherit, also those that are not made yet. Those that
    have a level of their own are disabled one by one: setting a level clears the cache of every logger.
    """
    made = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in _NOISY]
    tops = [(logger, logger.level) for logger in map(logging.getLogger, _NOISY)]
    others = [(logger, logger.disabled) for logger in map(logging.getLogger, made)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger, _ in tops:
            logger.setLevel(logging.CRITICAL + 1)
        for logger, _ in others:
            logger.disabled = True
        try:
            yield
        finally:
            for logger, level in tops:
                logger.setLevel(level)
            for logger, disabled in others:
                logger.disabled = disabled


def essential_line(error: BaseException) -> str:
    """What an exception says, in one line: the first line with content, of the cause that started it all."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = lines[0] if lines else ""
    if line.endswith(":") and len(lines) > 1:  # "Encountered the following errors:" says nothing alone
        line = f"{line} {lines[1]}"
    name = type(error).__name__
    line = f"{name}: {line}" if line else name
    return line if len(line) <= _MAX_LINE else line[: _MAX_LINE - 1] + "…"


_REMEDIES = (
    (
        r"data-dependent|GuardOnDataDependent|DynamicControlFlow|Dynamic control flow",
        "forward() branches on its input's values: use torch.where, or give --exporter torchscript, "
        "which freezes the branch that one image takes",
    ),
    (
        r"Constraints violated|specialized|inconsisten|Guard failed|invalid for input of size|to be equal",
        "The module fixes the batch size: use --batch N, or x.shape[0] in forward() instead of a number",
    ),
    (
        r"No ONNX function|No decomposition|Unsupported|not supported|UnsupportedOperator",
        "ONNX has no such operator: replace it in the module, or try another --exporter or --opset",
    ),
)


def remedy_for(line: str, default: str | None = None) -> str | None:
    """What to do about an essential line of torch's; `default` where nothing is known."""
    return next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, line)), default)
