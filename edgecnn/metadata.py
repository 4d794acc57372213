"""The keys that edgecnn writes into a model's metadata (ONNX `metadata_props`), each a JSON object.

`edgecnn.spec` is described in `edgecnn.spec`; the others say where the file comes from and what was
measured, for `inspect`, for `build`, and for people. A reader ignores keys that it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgecnn.errors import ModelFormatError

__all__ = [
    "ACCURACY_KEY",
    "BUILD_KEY",
    "CAMERA_KEY",
    "EXPORT_KEY",
    "QUANTIZATION_KEY",
    "SPEC_KEY",
    "read_json",
]

SPEC_KEY = "edgecnn.spec"
EXPORT_KEY = "edgecnn.export"  # source, versions, parity with PyTorch
QUANTIZATION_KEY = "edgecnn.quantization"  # the quantization table
ACCURACY_KEY = "edgecnn.accuracy"  # measured against FP32 on held-out frames
BUILD_KEY = "edgecnn.build"  # precision, target, source hash
CAMERA_KEY = "edgecnn.camera"  # the camera's own bytes that the graph takes instead of a prepared tensor


def read_json(metadata: Mapping[str, str], key: str) -> dict[str, Any] | None:
    """The JSON object under `key`, or None where there is none. Raises ModelFormatError if it is none."""
    import msgspec

    text = metadata.get(key)
    if text is None:
        return None
    try:  # not `json`, which reads NaN and Infinity; those are no JSON, and could not be written again
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ModelFormatError(
            f"the model's metadata {key} is damaged", got=str(error), expected="a JSON object"
        ) from error
