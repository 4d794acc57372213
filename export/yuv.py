"""YUV → RGB, as the standards define it and as OpenCV computes it.

With a standard's luma weights kr + kg + kb = 1, and Y, U, V such that Y is 0 … 1 and U, V are −1/2 … 1/2:

    R = Y + 2 (1 − kr) · V
    B = Y + 2 (1 − kb) · U
    G = (Y − kr · R − kb · B) / kg

ITU-R BT.601: kr = 0.299, kb = 0.114. ITU-R BT.709: kr = 0.2126, kb = 0.0722. Bytes of limited range hold Y
as 16 + 219 · Y and U, V as 128 + 224 · U; of full range (JPEG) as 255 · Y and 128 + 255 · U.

OpenCV's conversions are BT.601, limited, with factors rounded to three decimals (1.164, 2.018, …) and then to
1/2²⁰; these are taken for that case, so that a graph gives OpenCV's levels.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Yuv", "yuv_to_rgb"]

_LUMA = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}  # kr, kb


class Yuv(NamedTuple):
    """Factors on bytes: `R = luma · max(Y − black, 0) + red_v · (V − 128)`, and so on."""

    black: int
    luma: float
    red_v: float
    green_u: float
    green_v: float
    blue_u: float


_OPENCV = Yuv(16, *(factor / 2**20 for factor in (1220542, 1673527, -409993, -852492, 2116026)))


def yuv_to_rgb(matrix: str, *, full_range: bool) -> Yuv:
    """The factors for `bt601` or `bt709`; OpenCV's own where it has any."""
    if matrix == "bt601" and not full_range:
        return _OPENCV
    kr, kb = _LUMA[matrix]
    kg = 1 - kr - kb
    black, luma, chroma = (0, 1.0, 1.0) if full_range else (16, 255 / 219, 255 / 224)
    return Yuv(
        black=black,
        luma=luma,
        red_v=chroma * 2 * (1 - kr),
        green_u=chroma * -2 * kb * (1 - kb) / kg,
        green_v=chroma * -2 * kr * (1 - kr) / kg,
        blue_u=chroma * 2 * (1 - kb),
    )
