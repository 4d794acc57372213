"""What parent and worker say to each other: JSON, one object a line.

To the worker goes one `Request` line and then, where the model is not a file, its bytes. The pipe stays open
while it works: that it closes means *stop*, whether the parent closed it or died. From the worker come
`Progressed` and `Logged` while it works and at the end one `Finished` or `Failed`; without these it crashed.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = [
    "Event",
    "Failed",
    "Finished",
    "Logged",
    "Progressed",
    "Request",
    "TensorFacts",
    "decode",
    "encode",
]


class Request(msgspec.Struct, kw_only=True):
    """What to compile. `model` is a path, or None for `model_bytes` bytes that follow.

    `flags` are names of precisions that the compiler may choose from, for a DLA; without them the graph says
    every type. `scales`: tensor → INT8 scale, where it is one of them; `half`: layers in FP16 then.
    """

    flavour: str
    model: str | None
    model_bytes: int
    plan: str
    options: dict[str, Any]
    workspace_bytes: int | None
    cache_folder: str
    flags: list[str] = []
    scales: dict[str, float] = {}
    half: list[str] = []


class TensorFacts(msgspec.Struct, kw_only=True):
    """An input or output of the network; -1 for a free side."""

    name: str
    dtype: str
    shape: list[int]


class Progressed(msgspec.Struct, tag="progress", kw_only=True):
    """`done` of `total`; `phase` in the compiler's words."""

    phase: str
    done: int
    total: int


class Logged(msgspec.Struct, tag="log", kw_only=True):
    """A warning or an error of TensorRT."""

    severity: str
    text: str


class Failed(msgspec.Struct, tag="failed", kw_only=True):
    """What EdgeCNNError takes; `error` is the class, `number` an errno instead."""

    error: str
    what: str
    got: str | None = None
    expected: str | None = None
    remedy: str | None = None
    number: int | None = None


class Finished(msgspec.Struct, tag="finished", kw_only=True):
    """The plan is written.

    `profiles`: for each, input → min, opt, max. `listings`: the compiler's lists of layers; `inspected`: the
    engine inspector's JSON, where the compiler printed no list. `left_to_gpu`: layers that a DLA cannot do.
    """

    library: str
    gpu: str | None
    compute_capability: str | None
    cuda: str | None
    inputs: list[TensorFacts]
    outputs: list[TensorFacts]
    profiles: list[dict[str, list[list[int]]]]
    listings: list[str]
    inspected: str | None
    build_s: float
    left_to_gpu: list[str] = []


Event = Progressed | Logged | Failed | Finished

_DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def encode(message: msgspec.Struct) -> bytes:
    """One line."""
    return msgspec.json.encode(message) + b"\n"


def decode(line: bytes) -> Event:
    """An event from its line. Raises msgspec.MsgspecError on anything else."""
    return _DECODER.decode(line)
