"""AdaRound: up or down for each weight, by gradient descent on all of a layer's weights at once.

M. Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020: with w° a layer's
weights in units of their scales, v free numbers and σ the sigmoid,

    h(v) = clip(1.2 · σ(v) − 0.1, 0, 1)        w = ⌊w°⌋ + h(v)

and v minimizes the error of the layer's output plus λ · Σ (1 − |2 h(v) − 1|^β), which pulls each h to 0
or 1 as β falls from 20 to 2; for the first fifth of the steps λ is 0. Here the error is the quadratic
form of `edgecnn.calibration.rounding`, (w − w°) · H · (w − w°)ᵀ, not a mean over batches of a few
frames, so that there is no chance in it, memory is that of H, and the gradient is one product. The
activation function behind the layer is not in it. The descent is Adam (D. Kingma, J. Ba, 2015).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.export.torch_boundary import require
from edgecnn.quantization import LEVELS

__all__ = ["adaptive_rounding"]

_STEPS = 1000
_WORTH_THREADS = (
    4_000_000  # multiplications in a step, below which threads wait for each other more than they do
)
_RATE = 0.03
_WARM_UP = 0.2
_BETAS = (20.0, 2.0)
_WEIGHT = 0.1
"""λ for each weight, where an output's nearest steps cost 1 for each of its weights."""


def adaptive_rounding(
    weights: NDArray[Any], scales: NDArray[Any], hessian: NDArray[Any], *, threads: int | None = None
) -> NDArray[np.float32]:
    """Whole steps for `weights`, as `rounding.round_weights` gives them.

    Args:
        weights: (groups, K, outputs).
        scales: (groups, outputs).
        hessian: (groups, K, K).
        threads: CPU threads; PyTorch's own choice where None.

    Raises:
        BackendUnavailableError: PyTorch is not installed.
    """
    require("torch")
    import torch

    before = torch.get_num_threads()
    products = hessian.size * weights.shape[2]
    torch.set_num_threads(1 if products < _WORTH_THREADS else threads or before)
    try:
        return _descend(weights, scales, hessian)
    finally:
        torch.set_num_threads(before)


def _descend(weights: NDArray[Any], scales: NDArray[Any], hessian: NDArray[Any]) -> NDArray[np.float32]:
    import torch

    scale = torch.from_numpy(np.ascontiguousarray(scales[:, None, :], np.float32))
    goal = torch.from_numpy(np.ascontiguousarray(weights, np.float32)) / scale
    form = torch.from_numpy(np.ascontiguousarray(hessian, np.float32))
    floor = goal.floor()

    def gradient(steps: torch.Tensor) -> torch.Tensor:
        """Of the error, and of the steps in units of real weights: H · (w − w°) · scale²."""
        return (form @ ((steps - goal) * scale)) * scale

    # Each output has the same say, however large its weights are.
    nearest = goal.round()
    cost = ((nearest - goal) * gradient(nearest)).sum(dim=1, keepdim=True)
    per_output = goal.shape[1] / cost.clamp_min(float(cost.max()) * 1e-6 + 1e-30)
    share = (goal - floor).clamp(0.01, 0.99)
    v = torch.logit((share + 0.1) / 1.2).requires_grad_()
    optimizer = torch.optim.Adam([v], _RATE)
    for step in range(_STEPS):
        optimizer.zero_grad()
        soft = (1.2 * torch.sigmoid(v) - 0.1).clamp(0, 1)
        with torch.no_grad():
            slope = 2 * gradient(floor + soft) * per_output
        loss = (soft * slope).sum()  # whose derivative by `soft` is the slope
        progress = (step / _STEPS - _WARM_UP) / (1 - _WARM_UP)
        if progress > 0:
            beta = _BETAS[1] + (_BETAS[0] - _BETAS[1]) * 0.5 * (1 + math.cos(math.pi * progress))
            loss = loss + _WEIGHT * goal.shape[1] * (1 - (2 * soft - 1).abs().pow(beta)).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        rounded = floor + (1.2 * torch.sigmoid(v) - 0.1).clamp(0, 1).round()
    result: NDArray[np.float32] = rounded.clamp(-LEVELS, LEVELS).numpy()
    return result
