"""Minimise a smooth convex function of a few numbers, in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def minimize(function: Callable[[Tensor], Tensor], start: Tensor, steps: int = 200) -> Tensor:
    """Return where L-BFGS with strong Wolfe line search ends.

    Example:
        >>> minimize(lambda x: (x - 3).square().sum(), torch.zeros(2, dtype=torch.float64))
        tensor([3., 3.], dtype=torch.float64)
    """
    x = start.detach().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [x],
        max_iter=steps,
        tolerance_grad=1e-10,
        tolerance_change=1e-13,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = function(x)
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)
    return x.detach()
