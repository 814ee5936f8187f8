"""How unlike a class a sample is: what conformal sets are made of, by the names of TorchCP.

Of probabilities ``p`` of one sample, class ``k`` with ``r`` classes and a mass ``m`` strictly above
it, and ``u`` uniform in [0, 1] (1 where nothing is drawn)::

    threshold   1 - p_k                              Sadinle et al. 2019 (LAC, THR)
    adaptive    m + u p_k                            Romano et al. 2020, arXiv 2006.02544 (APS)
    raps        m + u p_k + lam max(0, r + 1 - k0)   Angelopoulos et al. 2021, arXiv 2009.14193
    saps        u p_max,  or p_max + (r - 1 + u) lam where r > 0   Huang et al. 2024, 2310.06430
    top_k       r + u                                Angelopoulos et al. 2021, sec. 2
    margin      max_{j != k} p_j - p_k               Lofstrom et al. 2015

Classes of equal probability share their ``r`` and ``m``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Score = Callable[[Tensor, Tensor, float, int], Tensor]


def above(p: Tensor) -> tuple[Tensor, Tensor]:
    """How many classes, and how much mass, lie strictly above each of (N, C): two of (N, C).

    Example:
        >>> above(torch.tensor([[0.5, 0.25, 0.25]]))
        (tensor([[0, 1, 1]]), tensor([[0.0000, 0.5000, 0.5000]]))
    """
    ordered = p.sort(1, descending=True).values
    rank = torch.searchsorted(-ordered, -p)
    before = torch.cat([torch.zeros_like(p[:, :1]), ordered.cumsum(1)], 1)
    return rank, before.gather(1, rank)


def _threshold(p: Tensor, u: Tensor, penalty: float, free: int) -> Tensor:
    return 1 - p


def _adaptive(p: Tensor, u: Tensor, penalty: float, free: int) -> Tensor:
    return above(p)[1] + u * p


def _raps(p: Tensor, u: Tensor, penalty: float, free: int) -> Tensor:
    rank, mass = above(p)
    return mass + u * p + penalty * (rank + 1 - free).clamp(min=0)


def _saps(p: Tensor, u: Tensor, penalty: float, free: int) -> Tensor:
    rank, top = above(p)[0], p.amax(1, keepdim=True)
    return torch.where(rank == 0, u * top, top + (rank - 1 + u) * penalty)


def _top_k(p: Tensor, u: Tensor, penalty: float, free: int) -> Tensor:
    return above(p)[0] + u


def _margin(p: Tensor, u: Tensor, penalty: float, free: int) -> Tensor:
    best = p.topk(2, 1).values
    others = torch.where(p == best[:, :1], best[:, 1:], best[:, :1])
    return others - p


NONCONFORMITY: dict[str, Score] = {
    "threshold": _threshold,
    "adaptive": _adaptive,
    "raps": _raps,
    "saps": _saps,
    "top_k": _top_k,
    "margin": _margin,
}
ALIASES = {"lac": "threshold", "thr": "threshold", "aps": "adaptive", "topk": "top_k"}
DRAWN = ("adaptive", "raps", "saps", "top_k")  # those with a u
