"""The options of `build` that compile the preprocessing in: the graph then takes the camera's own bytes."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edgecnn.camera_input import CameraInput

__all__ = ["camera_options"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


class _WidthHeight(click.ParamType):  # type: ignore[type-arg]  # generic for type checkers only
    """`1920x1080`, as cameras are described → (height, width) in pixels."""

    name = "WxH"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", str(value).lower(), re.ASCII)
        if match is None:
            self.fail(f"{value!r} is no size; expected WIDTHxHEIGHT, such as 1920x1080")
        return int(match[2]), int(match[1])


_OPTIONS = (
    click.option(
        "--camera",
        type=_WidthHeight(),
        help="Compile the preprocessing in, for frames of this width and height.",
    ),
    click.option(
        "--pixel-format",
        type=click.Choice(["bgr", "rgb", "bgrx", "gray", "nv12", "yuyv"]),
        help="With --camera: the bytes of a frame.  [default: bgr]",
    ),
    click.option(
        "--yuv-matrix", type=click.Choice(["bt601", "bt709"]), help="With nv12 and yuyv.  [default: bt601]"
    ),
    click.option(
        "--full-range", is_flag=True, help="With nv12 and yuyv: levels from 0 to 255, not 16 to 235."
    ),
)


def camera_options(function: _Function) -> _Function:
    """Adds the options above; the command gets them as one parameter `camera: CameraInput | None`."""

    @functools.wraps(function)
    def wrapper(
        *,
        camera: tuple[int, int] | None,
        pixel_format: str | None,
        yuv_matrix: str | None,
        full_range: bool,
        **options: Any,
    ) -> Any:
        return function(camera=_camera(camera, pixel_format, yuv_matrix, full_range), **options)

    decorated: Any = wrapper
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    result: _Function = decorated
    return result


def _camera(
    frame_hw: tuple[int, int] | None, pixel_format: Any, yuv_matrix: Any, full_range: bool
) -> CameraInput | None:
    from edgecnn.camera_input import CameraInput

    if frame_hw is None:
        if pixel_format or yuv_matrix or full_range:
            raise click.UsageError("--pixel-format, --yuv-matrix and --full-range need --camera WxH")
        return None
    return CameraInput(
        frame_hw=frame_hw,
        pixel_format=pixel_format or "bgr",
        matrix=yuv_matrix or "bt601",
        full_range=full_range,
    )
