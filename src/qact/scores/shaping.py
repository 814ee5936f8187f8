"""Energies of changed features or weights: clipped, cut, scaled, pruned."""

from __future__ import annotations

import torch
from torch import Tensor

from qact import checks
from qact.context import Context
from qact.scores.outputs import Outputs
from qact.scores.pooled import pooled_quantile, quantile
from qact.scores.registry import register
from qact.scores.score import Score


def share(name: str, value: float) -> float:
    """A share of values, in [0, 1]."""
    return checks.within(name, value, 0, 1 + 1e-12)


@register("react", paper="Sun et al. 2021, arXiv 2111.12797")
class ReAct(Score):
    """Energy of ``min(a, c)``, ``c`` the ``level`` quantile of all in-distribution features.

    Raises:
        ValueError: ``level`` is not in [0, 1].
    """

    reads = ("logits", "features")
    from_context = True
    clip: Tensor

    def __init__(self, level: float = 0.9) -> None:
        super().__init__()
        self.level = share("level", level)

    def _fit(self, outputs: Outputs) -> None:
        self._keep(clip=quantile(outputs.of("features"), self.level))

    def _fit_context(self, context: Context) -> None:
        self._keep(clip=pooled_quantile(context, self.level))

    def _score(self, outputs: Outputs) -> Tensor:
        return self._energy(outputs.of("features").minimum(self.clip))


@register("vra", paper="Xu et al. 2023, arXiv 2302.11716 (VRA, VRA+)")
class VRA(Score):
    """Energy of features that are 0 below ``alpha``, cut at ``beta`` above, ``+ gamma`` between.

    ``gamma`` is added first, then the cuts are made, as in the authors' code.

    Args:
        low: which quantile of all in-distribution features ``alpha`` is.
        high: which one ``beta`` is.
        gamma: of VRA+; 0 is VRA, and with ``low=0`` and features from 0 on that is ReAct.

    Raises:
        ValueError: a quantile is not in [0, 1], or ``gamma`` negative.
    """

    reads = ("logits", "features")
    from_context = True
    alpha: Tensor
    beta: Tensor

    def __init__(self, low: float = 0.5, high: float = 0.95, gamma: float = 0.0) -> None:
        super().__init__()
        self.low, self.high = share("low", low), share("high", high)
        self.gamma = checks.within("gamma", gamma, 0)

    def _fit(self, outputs: Outputs) -> None:
        a = outputs.of("features")
        self._keep(alpha=quantile(a, self.low), beta=quantile(a, self.high))

    def _fit_context(self, context: Context) -> None:
        low, high = (pooled_quantile(context, q) for q in (self.low, self.high))
        self._keep(alpha=low, beta=high)

    def _score(self, outputs: Outputs) -> Tensor:
        return self._energy(self.rectify(outputs.of("features")))

    def rectify(self, a: Tensor) -> Tensor:
        """Return the rectified features, shape of ``a``."""
        return torch.where(a < self.alpha, 0, (a + self.gamma).minimum(self.beta))


@register("ash", paper="Djurisic et al. 2023, arXiv 2209.09858 (ASH-P, -B, -S)")
class ASH(Score):
    """Energy of features of which only the largest share ``1 - level`` of each sample is kept.

    Args:
        level: the share that is set to zero.
        kind: ``"p"`` leaves the rest, ``"b"`` gives all of it one value of the same sum, ``"s"``
            multiplies it by ``exp(sum before / sum after)``.
    """

    reads = ("logits", "features")

    def __init__(self, level: float = 0.65, kind: str = "s") -> None:
        super().__init__()
        self.level, self.kind = share("level", level), checks.choice("kind", kind, ("p", "b", "s"))

    def _score(self, outputs: Outputs) -> Tensor:
        a = outputs.of("features")
        top, where = a.topk(remaining(a.shape[1], self.level), 1)
        before = a.sum(1, keepdim=True)
        if self.kind == "b":
            top = (before / top.shape[1]).expand_as(top)
        elif self.kind == "s":
            top = top * (before / top.sum(1, keepdim=True)).exp()
        return self._energy(torch.zeros_like(a).scatter(1, where, top))


@register("scale", paper="Xu et al. 2024, arXiv 2310.00227")
class SCALE(Score):
    """Energy of ``a exp(r)``, ``r = sum a / sum`` of its largest share ``1 - level``.

    Example:
        >>> scale_factor(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), 0.5)  # exp(10 / 7)
        tensor([[4.1727]])
    """

    reads = ("logits", "features")

    def __init__(self, level: float = 0.85) -> None:
        super().__init__()
        self.level = share("level", level)

    def _score(self, outputs: Outputs) -> Tensor:
        a = outputs.of("features")
        return self._energy(a * scale_factor(a, self.level))


def scale_factor(a: Tensor, level: float) -> Tensor:
    """``exp(r)`` (N, 1) of SCALE for features (N, D)."""
    top = a.topk(remaining(a.shape[1], level), 1, sorted=False).values
    return (a.sum(1, keepdim=True) / top.sum(1, keepdim=True)).exp()


def remaining(count: int, level: float) -> int:
    """How many of ``count`` values are kept, at least one."""
    return max(1, count - round(count * level))


@register("dice", paper="Sun and Li 2022, arXiv 2111.09805")
class DICE(Score):
    """Energy of the last layer without the share ``level`` of weights that contribute least.

    The contribution of ``W_kj`` is ``W_kj E[a_j]``, in-distribution.
    """

    reads = ("logits", "features")
    from_context = True
    weight: Tensor

    def __init__(self, level: float = 0.9) -> None:
        super().__init__()
        self.level = share("level", level)

    def _fit(self, outputs: Outputs) -> None:
        self._prune(outputs.of("features").double().mean(0))

    def _fit_context(self, context: Context) -> None:
        self._prune(context.mean)

    def _prune(self, mean: Tensor) -> None:
        weight = self._bound().head.weight.detach()  # type: ignore[union-attr]
        contribution = weight * mean.to(weight)
        self._keep(weight=weight * (contribution > quantile(contribution, self.level)))

    def _score(self, outputs: Outputs) -> Tensor:
        bias = self._bound().head.bias  # type: ignore[union-attr]
        logits = outputs.of("features").to(self.weight) @ self.weight.T
        return -(logits if bias is None else logits + bias).logsumexp(1)
