"""The errors that edgecnn raises, all of them.

    EdgeCNNError
    ├── ModelNotFoundError      (FileNotFoundError)  no file there
    ├── ModelFormatError        (ValueError)         not ONNX, truncated, an opset nobody here reads
    ├── SpecError               (ValueError)         the model does not say how to use it, or says nonsense
    ├── InputError              (ValueError)         a frame or tensor of the wrong shape or dtype
    ├── SourceError             (OSError)            a camera, video or image that cannot be read
    ├── DataError               (ValueError)         no frames to measure with, or no sane labels
    │   └── UnlabelledError                          frames, but no labels
    ├── ExportError             (RuntimeError)       PyTorch could not be turned into ONNX
    │   └── ParityError                              it could, and the result differs
    ├── UnsafeWeightsError      (ValueError)         a pickle that would run code
    ├── BuildError              (RuntimeError)       the target cannot be built
    ├── InferenceError          (RuntimeError)       the backend failed while running
    │   └── DeviceLostError                          the GPU's context is gone; load the model again
    ├── BackendUnavailableError (ImportError)        a library that is not installed
    ├── OutputError             (OSError)            a place that cannot be written
    │   └── OutputExistsError   (FileExistsError)    something is there already
    └── ClosedError             (RuntimeError)       used after close()

Each inherits the builtin that it is, so code that knows nothing of edgecnn still catches it. Each says,
on one line, what is wrong, what was got, what was expected, and the remedy; the parts stay available as
attributes, for `--json`.
"""

from __future__ import annotations

__all__ = [
    "BackendUnavailableError",
    "BuildError",
    "ClosedError",
    "DataError",
    "DeviceLostError",
    "EdgeCNNError",
    "ExportError",
    "InferenceError",
    "InputError",
    "ModelFormatError",
    "ModelNotFoundError",
    "OutputError",
    "OutputExistsError",
    "ParityError",
    "SourceError",
    "SpecError",
    "UnlabelledError",
    "UnsafeWeightsError",
]


class EdgeCNNError(Exception):
    """Base of every error that edgecnn raises on purpose.

    Args:
        what: what is wrong, and with what (a path, a tensor's name).
        got: what was found there.
        expected: what would have been right.
        remedy: what the reader can do now, ideally a command.
    """

    def __init__(
        self, what: str, *, got: str | None = None, expected: str | None = None, remedy: str | None = None
    ) -> None:
        self.what = what
        self.got = got
        self.expected = expected
        self.remedy = remedy
        details = ", ".join(
            f"{label} {value}" for label, value in (("got", got), ("expected", expected)) if value
        )
        message = f"{what}: {details}" if details else what
        if remedy:
            message = f"{message.rstrip('.')}. {remedy}"
        super().__init__(" ".join(message.splitlines()))  # a library's message in `got` may have several

    def __str__(self) -> str:  # OSError would print its own fields instead of the message
        return str(self.args[0])

    def to_dict(self) -> dict[str, str]:
        """As a JSON object: `type`, `message`, `what`, and of `got`, `expected`, `remedy` what is known."""
        parts = {"got": self.got, "expected": self.expected, "remedy": self.remedy}
        known = {name: value for name, value in parts.items() if value}
        return {"type": type(self).__name__, "message": str(self), "what": self.what, **known}


class ModelNotFoundError(EdgeCNNError, FileNotFoundError):
    """There is no model file at the path."""


class ModelFormatError(EdgeCNNError, ValueError):
    """The file is not a model that this version reads: not ONNX, truncated, or of an unknown opset."""


class SpecError(EdgeCNNError, ValueError):
    """The model's spec is missing, contradicts itself or contradicts the graph."""


class InputError(EdgeCNNError, ValueError):
    """A frame or a tensor has the wrong shape, dtype or name."""


class SourceError(EdgeCNNError, OSError):
    """A camera, video or image cannot be opened or read."""


class DataError(EdgeCNNError, ValueError):
    """The data for calibration, comparison or evaluation is missing, empty, too small or damaged."""


class UnlabelledError(DataError):
    """There are no labels with the data."""


class ExportError(EdgeCNNError, RuntimeError):
    """PyTorch's module could not be turned into ONNX."""


class ParityError(ExportError):
    """The exported model computes something else than the PyTorch module."""


class UnsafeWeightsError(EdgeCNNError, ValueError):
    """A weights file holds pickled code, which loading would run."""


class BuildError(EdgeCNNError, RuntimeError):
    """The model cannot be built for the target, or not as asked."""


class InferenceError(EdgeCNNError, RuntimeError):
    """The backend failed while running a model that it had accepted."""


class DeviceLostError(InferenceError):
    """The GPU failed, and nothing in its context can be used any more: close the model, load it again."""


class BackendUnavailableError(EdgeCNNError, ImportError):
    """A library that this step needs is not installed, or not usable."""


class OutputError(EdgeCNNError, OSError):
    """An output cannot be written: no such folder, no permission, disk full."""


class OutputExistsError(OutputError, FileExistsError):
    """An output is there already, and nobody said that it may be overwritten."""


class ClosedError(EdgeCNNError, RuntimeError):
    """A model, camera or sink was used after it had been closed."""
