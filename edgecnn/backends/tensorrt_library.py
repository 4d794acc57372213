"""The two libraries with TensorRT's Python API: importing them, and what they log."""

from __future__ import annotations

import importlib
import logging
from collections import deque
from typing import Any

from edgecnn.backends.lifetime import keep_for_ever
from edgecnn.errors import BackendUnavailableError

__all__ = ["FLAVOURS", "Messages", "import_libraries", "make_logger"]

_log = logging.getLogger(__name__)

FLAVOURS = ("tensorrt", "tensorrt_rtx")

_REMEDIES = {
    "tensorrt": "On a Jetson it comes with JetPack, and a virtual environment sees it only when made with "
    "--system-site-packages; on a PC: pip install tensorrt",
    "tensorrt_rtx": "pip install 'edgecnn[rtx]'",
}


def import_libraries(flavours: tuple[str, ...]) -> list[Any]:
    """The libraries that can be imported. Raises BackendUnavailableError where there is none."""
    libraries, problems = [], []
    for flavour in flavours:
        try:
            libraries.append(importlib.import_module(flavour))
        except (ImportError, OSError) as error:  # noqa: PERF203  # OSError: a library it expects is missing
            problems.append(str(error))
    if not libraries:
        raise BackendUnavailableError(
            f"{' and '.join(flavours)} cannot be imported",
            got="; ".join(problems),
            remedy="; ".join(_REMEDIES[flavour] for flavour in flavours),
        )
    return libraries


class Messages:
    """What TensorRT logged: errors until somebody asks; the rest goes to `logging`."""

    def __init__(self) -> None:
        self._errors: deque[str] = deque(maxlen=8)

    def log(self, severity: str, text: str) -> None:
        """Take a message; `severity` is the name of TensorRT's."""
        # why TensorRT cannot start at all is only a warning to it
        if severity in ("ERROR", "INTERNAL_ERROR") or text.startswith("CUDA initialization failure"):
            self._errors.append(text)
        _log.log(logging.INFO if severity == "WARNING" else logging.DEBUG, "TensorRT: %s", text)

    def take(self) -> str:
        """The first errors since it was asked last: those that follow are consequences."""
        errors = list(dict.fromkeys(self._errors))
        self._errors.clear()
        return "; ".join(errors[:3])


def make_logger(trt: Any, messages: Messages) -> Any:
    """TensorRT's logger that writes to `messages`.

    It is never destroyed, some kB a model: TensorRT keeps the first one for what belongs to no object, and
    goes on using it when all that was made with it is gone and others are not (in TensorRT for RTX 1.7.1 a
    crash).
    """

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base is known when this runs
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            messages.log(severity.name, text)

    logger = Logger()
    keep_for_ever(logger)
    return logger
