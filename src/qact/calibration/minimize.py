"""Minimise a smooth function of a few numbers, in float64."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

# Largest slope at what counts as a minimum. About 1e-8 is the least that can be reached: there the
# value no longer changes in its last digit.
FLAT = 1e-6


def minimize(
    function: Callable[[Tensor], Tensor], start: Tensor, steps: int = 200, rounds: int = 20
) -> Tensor:
    """Return where L-BFGS with strong Wolfe line search ends: where the gradient vanishes.

    Values and numbers are to be of order one: bring the problem to its own units first. L-BFGS also
    stops where a step changes little, minimum or not; it is started afresh from there, without the
    curvature that it remembered, up to ``rounds`` times.

    Warns:
        UserWarning: the gradient is not zero even then.

    Example:
        >>> minimize(lambda x: (x - 3).square().sum(), torch.zeros(2, dtype=torch.float64))
        tensor([3., 3.], dtype=torch.float64)
    """
    x = start.detach().clone().requires_grad_()

    def closure() -> Tensor:
        x.grad = None
        value = function(x)
        value.backward()
        return value

    with torch.enable_grad():
        for _ in range(rounds):
            optimizer = torch.optim.LBFGS(
                [x],
                max_iter=steps,
                tolerance_grad=1e-4 * FLAT,
                tolerance_change=1e-15,
                line_search_fn="strong_wolfe",
            )
            optimizer.step(closure)
            closure()
            slope = float(x.grad.abs().max()) if x.grad is not None else 0.0
            if slope <= FLAT:
                break
        else:
            warnings.warn(f"the fit has not converged: its slope is {slope:.2g}", stacklevel=2)
    return x.detach()
