"""The parameters behind the `?` of a source's URI: which there are, and their values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from edgecnn.camera.pattern import PATTERN_FORMATS
from edgecnn.camera.policy import POLICIES, parse_policy
from edgecnn.errors import SourceError
from edgecnn.spec import MAX_SIDE_PX

__all__ = ["PARAMETERS", "read_parameters"]

_Convert = Callable[[str], Any]


def _whole(first: int, last: int, *, step: int = 1) -> tuple[_Convert, str]:
    def convert(text: str) -> int:
        value = int(text) if re.fullmatch(r"[0-9]{1,10}", text, re.ASCII) else -1
        if not first <= value <= last or value % step:
            raise ValueError
        return value

    return convert, f"{'a whole' if step == 1 else 'an even'} number from {first} to {last}"


def _rate(text: str) -> float:
    value = float(text)
    if not 0.01 <= value <= 1000:
        raise ValueError
    return value


def _choice(*values: str) -> tuple[_Convert, str]:
    def convert(text: str) -> str:
        if text not in values:
            raise ValueError
        return text

    return convert, " or ".join(values)


def _switch(text: str) -> bool:
    return {"0": False, "1": True}[text]


def _fourcc(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]{3,4}", text, re.ASCII):
        raise ValueError
    return text.upper().ljust(4)


_SIDE = _whole(1, MAX_SIDE_PX)
_FPS = (_rate, "a number from 0.01 to 1000")
_POLICY = (parse_policy, POLICIES)
_RAW = (_switch, "0 or 1")

PARAMETERS: dict[str, dict[str, tuple[_Convert, str]]] = {
    "device": {
        "width": _SIDE, "height": _SIDE, "fps": _FPS, "raw": _RAW, "policy": _POLICY,
        "format": (_fourcc, "four letters that `v4l2-ctl --list-formats` shows, such as MJPG or YUYV"),
    },
    "csi": {
        "width": _SIDE, "height": _SIDE, "fps": _FPS, "raw": _RAW, "policy": _POLICY,
        "flip": _whole(0, 7),  # nvvidconv's flip-method; 2 is upside down
    },
    "rtsp": {
        "transport": _choice("tcp", "udp"), "latency": _whole(0, 60_000), "policy": _POLICY,
    },
    "http": {"policy": _POLICY},
    "udp": {"policy": _POLICY},
    "test": {
        "width": _whole(96, MAX_SIDE_PX, step=2), "height": _whole(64, MAX_SIDE_PX, step=2), "fps": _FPS,
        "frames": _whole(1, 10**9), "format": _choice(*PATTERN_FORMATS), "policy": _POLICY,
    },
}  # fmt: skip
"""By kind of source and name: how a value is read, and what it should be."""


def read_parameters(kind: str, query: str, name: str) -> tuple[dict[str, Any], str]:
    """The parameters of a source in a URI's query, and the query without them.

    Args:
        kind: of `edgecnn.camera.uri.SourceUri`.
        query: what follows the `?`.
        name: the URI, for messages.

    Raises:
        SourceError: a parameter that this kind of source does not have, one given twice, or a bad value.
    """
    known = PARAMETERS[kind]
    passes_on = kind in ("rtsp", "http", "udp")
    parameters: dict[str, Any] = {}
    others: list[str] = []
    for piece in query.split("&") if query else []:
        key, equals, text = piece.partition("=")
        if key not in known or (passes_on and not equals):
            if not passes_on:
                raise SourceError(
                    f"{name} has an unknown parameter", got=key or "nothing", expected=", ".join(known)
                )
            others.append(piece)
            continue
        if key in parameters:
            raise SourceError(f"{name} has {key} twice")
        convert, expected = known[key]
        try:
            parameters[key] = convert(unquote(text))
        except (ValueError, KeyError):
            raise SourceError(
                f"{name} has a bad {key}", got=unquote(text) or "nothing", expected=expected
            ) from None
    if ("width" in parameters) != ("height" in parameters):
        raise SourceError(f"{name} has only one of width and height", expected="both or neither")
    return parameters, "&".join(others)
