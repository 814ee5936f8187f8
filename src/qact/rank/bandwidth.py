"""How far the kernel of the smooth rank reaches: ``h``, in the units of the pre-activation.

A bandwidth is a positive number (the paper's code uses 0.5), a rule for the channel's spread
(``"scott"``, ``"silverman"``) or a plain multiple of it (``"0.2std"``). Only the last three follow
a rescaling of the data, and with them the gradient is scale-invariant as the rank itself is.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bandwidth:
    """``h = absolute + relative * std * n ** power`` for a context of ``n`` values."""

    absolute: float = 0.0
    relative: float = 0.0
    power: float = 0.0

    def width(self, std: Tensor, count: Tensor) -> Tensor:
        """``h`` per channel, from the standard deviation and the number of values, both (C,)."""
        if self.relative == 0.0:
            return torch.full_like(std, self.absolute)
        return self.relative * std * count.clamp_min(1) ** self.power


def parse(spec: float | str | Bandwidth) -> Bandwidth:
    """Return the bandwidth that a user's word or number means.

    ``"scott"``: ``std * n^(-1/5)``. ``"silverman"``: ``std * (3n/4)^(-1/5)``. Both as in
    `scipy.stats.gaussian_kde` (Scott 1992; Silverman 1986, eq. 3.28), with the population ``std``.

    >>> parse(0.5)
    Bandwidth(absolute=0.5, relative=0.0, power=0.0)
    >>> parse("0.2std").relative
    0.2
    """
    if isinstance(spec, Bandwidth):
        return spec
    if isinstance(spec, str):
        if spec == "scott":
            return Bandwidth(relative=1.0, power=-0.2)
        if spec == "silverman":
            return Bandwidth(relative=0.75**-0.2, power=-0.2)
        match = re.fullmatch(r"([0-9.eE+-]+)\s*std", spec)
        if match:
            return Bandwidth(relative=_positive(match.group(1), spec))
    elif isinstance(spec, (int, float)) and not isinstance(spec, bool):
        return Bandwidth(absolute=_positive(spec, spec))
    raise ValueError(_explain(spec))


def _positive(text: str | float, spec: object) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(_explain(spec)) from None
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(_explain(spec))
    return value


def _explain(spec: object) -> str:
    return (
        f"bandwidth={spec!r} is not a bandwidth; give a positive number in the units of the input, "
        "'scott', 'silverman', or a multiple of the spread such as '0.2std'"
    )
