"""Options for large frames: in tiles, or a part of each only."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgecnn.cli.common import Size

if TYPE_CHECKING:
    from edgecnn.model import Model
    from edgecnn.tiling import AnyModel

__all__ = ["PartOptions", "part_options"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


class _Region(click.ParamType):  # type: ignore[type-arg]  # generic for type checkers only
    """`400,200,1200,800` → left, top, right, bottom in pixels."""

    name = "X1,Y1,X2,Y2"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            x1, y1, x2, y2 = (int(number) for number in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no region; expected X1,Y1,X2,Y2 in pixels, such as 400,200,1200,800")
        return x1, y1, x2, y2


@dataclass(frozen=True)
class PartOptions:
    """Which parts of a frame a model is to look at.

    Attributes:
        tile_hw: height and width of tiles, or None.
        overlap: of tiles, as a part of their size.
        region_xyxy: the only part to look at, or None.
    """

    tile_hw: tuple[int, int] | None
    overlap: float
    region_xyxy: tuple[int, int, int, int] | None

    def apply(self, model: Model) -> AnyModel:
        """The model, looking so. Raises SpecError: what it finds cannot be put together; InputError."""
        from edgecnn.tiling import RegionModel, TiledModel

        looking: AnyModel = model
        if self.tile_hw is not None:
            looking = TiledModel(looking, tile_hw=self.tile_hw, overlap=self.overlap)
        if self.region_xyxy is not None:
            looking = RegionModel(looking, self.region_xyxy)
        return looking


_OPTIONS = (
    click.option("--tile", type=Size(), help="Look at large frames in tiles of this size."),
    click.option(
        "--overlap", type=click.FloatRange(0, 0.9), help="Of tiles, as a part of their size.  [default: 0.2]"
    ),
    click.option("--region", type=_Region(), help="Look at this part of each frame, in pixels."),
)


def part_options(function: _Function) -> _Function:
    """Adds the options above; the command gets them as one parameter `parts: PartOptions`."""

    @functools.wraps(function)
    def wrapper(
        *,
        tile: tuple[int, int] | None,
        overlap: float | None,
        region: tuple[int, int, int, int] | None,
        **options: Any,
    ) -> Any:
        if overlap is not None and tile is None:
            raise click.UsageError("--overlap needs --tile HxW")
        return function(parts=PartOptions(tile, 0.2 if overlap is None else overlap, region), **options)

    decorated: Any = wrapper
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    result: _Function = decorated
    return result
