"""TensorRT's nested phases as one number that only grows.

A phase counts steps, and a step of one phase may be a whole phase of its own:

    Building engine 3/6 ▸ Computing profile costs 1/5 ▸ Timing graph nodes 40/80

The fraction done is (finished steps + fraction of the phase inside) / steps, from the innermost outwards.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Phases"]


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Phases:
    """The phases that are open now."""

    def __init__(self) -> None:
        self._open: dict[str, _Phase] = {}
        self._most = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins, inside `parent`."""
        self._open[name] = _Phase(parent, max(steps, 1))

    def step(self, name: str, index: int) -> None:
        """Step `index` of a phase is finished."""
        if name in self._open:
            self._open[name].done = min(index + 1, self._open[name].steps)

    def finish(self, name: str) -> None:
        """A phase is finished; whether its parent counts that, its parent says."""
        phase = self._open.pop(name, None)
        if phase is not None and phase.parent is None:
            self._most = 1.0

    @property
    def fraction(self) -> float:
        """How much is done, in [0, 1]; never less than before."""
        inner = 0.0
        name = next(reversed(self._open), None)
        while name is not None:
            phase = self._open.get(name)
            if phase is None:
                break
            inner = min((phase.done + inner) / phase.steps, 1.0)
            name = phase.parent
        self._most = max(self._most, inner)
        return self._most
