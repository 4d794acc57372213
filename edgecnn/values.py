"""What Python callers pass – lists, NumPy's numbers – as the plain values that JSON gives back.

NaN and -1 stand for what is no number: they fail every check that follows, so that a wrong kind and a wrong
value are refused in the same words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from edgecnn.errors import SpecError

__all__ = ["as_json", "check", "is_text", "number", "numbers", "whole", "wholes"]


def check(name: str, value: Any, correct: bool, expected: str) -> None:
    """Raise SpecError, `name` being wrong, unless `correct`."""
    if not correct:
        raise SpecError(f"{name} is wrong", got=_shown(value), expected=expected)


def number(value: Any) -> float:
    """A float; NaN for what is no number."""
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    return math.nan


def whole(value: Any) -> int:
    """An int; -1 for what is no whole number."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else -1


def numbers(values: Any) -> tuple[float, ...]:
    """Each as `number`; nothing for what is no sequence."""
    return tuple(map(number, values)) if isinstance(values, Iterable) else ()


def wholes(values: Any) -> tuple[int, ...]:
    """Each as `whole`; nothing for what is no sequence."""
    return tuple(map(whole, values)) if isinstance(values, Iterable) else ()


def is_text(value: Any) -> bool:
    """Whether it is text that JSON can hold: half of a surrogate pair is none."""
    return isinstance(value, str) and value.encode(errors="replace").decode() == value


def as_json(name: str, value: Any) -> Any:
    """A copy as JSON gives it back: tuples as lists, NumPy's numbers as Python's. Raises SpecError."""
    if value is None or isinstance(value, bool) or is_text(value):
        return value
    if isinstance(value, Mapping) and all(map(is_text, value)):
        return {key: as_json(f"{name}.{key}", item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(f"{name}[{index}]", item) for index, item in enumerate(value)]
    if isinstance(value, Integral):
        check(name, value, abs(int(value)) < 2**63, "a whole number of 64 bits")
        return int(value)
    real = number(value)
    check(name, value, math.isfinite(real), "text, a finite number, a boolean, None, a list or a mapping")
    return real


def _shown(value: Any) -> str:
    try:
        text = str(value)
    except ValueError:  # Python does not print integers of more than 4300 digits
        return "a huge number"
    return text if len(text) <= 100 else f"{text[:99]}…"
