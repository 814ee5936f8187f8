"""Scores that differentiate the network by its input: two to K passes instead of one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qact import checks
from qact.context import Context
from qact.scores.logits import unsure
from qact.scores.outputs import Outputs
from qact.scores.registry import register
from qact.scores.score import Score
from qact.scores.shaping import share
from qact.vectors import lengths, wide


class Differentiating(Score):
    """What its subclasses share: gradients by the input, fitted on the first samples alone."""

    reads: tuple[str, ...] = ("logits", "inputs")

    def _within(self, outputs: Outputs) -> Tensor:
        return self.score(outputs.first(len(outputs.of("inputs"))))

    def _read(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        logits, features = self._bound().read(x)
        return wide(logits), None if features is None else wide(features)

    def _gradient(self, x: Tensor, value: Callable[[Tensor], Tensor]) -> Tensor:
        """Of a value of the logits, summed over samples, by ``x``."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(value(self._read(x)[0]).sum(), x)[0]


@register("odin", paper="Liang et al. 2018, arXiv 1706.02690, eq. 1 and 2")
class ODIN(Differentiating):
    """``1 - max softmax(f(x') / T)``, ``x' = x - eps sign(grad_x CE(f / T, argmax f))``.

    Args:
        temperature: ``T``; with 1 and ``eps=0`` it is :class:`qact.scores.MSP`.
        eps: of the perturbation, in units of the inputs that the network gets.
    """

    def __init__(self, temperature: float = 1000.0, eps: float = 0.0014) -> None:
        super().__init__()
        self.temperature = checks.number("temperature", temperature, "a positive number", 0)
        self.eps = checks.within("eps", eps, 0)

    def _score(self, outputs: Outputs) -> Tensor:
        x = outputs.of("inputs")
        slope = self._gradient(x, lambda f: -(f / self.temperature).log_softmax(1).amax(1))
        return unsure(self._read(x - self.eps * slope.sign())[0] / self.temperature)


@register("adascale", paper="Regmi 2025, arXiv 2503.08023 (AdaSCALE-A)")
class AdaSCALE(Differentiating):
    """SCALE with a level per sample, ``low + (1 - F(Q)) (high - low)``.

    ``Q`` is how far the largest features move when the share ``pixels`` of the input with the
    smallest gradient of the largest logit is moved by ``step`` along its sign: ``sum relu(a~)``
    over the ``k1`` largest of ``a`` and ``lam sum |a - a~|`` over the ``k2`` largest. ``F`` is its
    distribution in-distribution, a :class:`qact.Context` of one channel.

    Args:
        low: least level of SCALE; equal to ``high`` it is SCALE.
        high: largest level.
        k1: share of the features over which ``relu(a~)`` is summed.
        k2: share of those over which ``|a - a~|`` is.
    """

    reads = ("logits", "features", "inputs")
    shift: Context

    def __init__(
        self,
        low: float = 0.75,
        high: float = 0.85,
        *,
        k1: float = 0.05,
        k2: float = 0.01,
        lam: float = 10.0,
        pixels: float = 0.05,
        step: float = 0.5,
    ) -> None:
        super().__init__()
        self.low, self.high, self.pixels = share("low", low), share("high", high), pixels
        self.k1, self.k2, self.lam, self.step = share("k1", k1), share("k2", k2), lam, step
        self.shift = Context(1)

    def _fit(self, outputs: Outputs) -> None:
        self.shift.reset_parameters()
        kept = outputs.first(len(outputs.of("inputs")))
        self.shift.add(self.moved(kept)[:, None].float())

    def moved(self, outputs: Outputs) -> Tensor:
        """Return ``Q`` (N,)."""
        x, a = outputs.of("inputs"), outputs.of("features")
        gradient = self._gradient(x, lambda f: f.amax(1)).flatten(1)
        count = int(gradient.shape[1] * self.pixels)
        where = gradient.abs().topk(count, 1, largest=False).indices
        by = torch.zeros_like(gradient).scatter(
            1, where, self.step * gradient.sign().gather(1, where)
        )
        after = self._read(x + by.view_as(x))[1]
        assert after is not None  # it reads features
        order = a.argsort(1, descending=True)
        top1, top2 = (order[:, : max(1, int(a.shape[1] * k))] for k in (self.k1, self.k2))
        shift = (a - after).abs().gather(1, top2).sum(1)
        return after.relu().gather(1, top1).sum(1) + self.lam * shift

    def _score(self, outputs: Outputs) -> Tensor:
        a = outputs.of("features")
        if not len(a):
            return a.new_empty(0)
        q = self.moved(outputs)[:, None].float()
        rank = self.shift.cdf(q)
        level = (self.low + (1 - rank) * (self.high - self.low)).nan_to_num(self.low)
        kept = (a.shape[1] - (a.shape[1] * level).round()).clamp(min=1).long()
        top = a.sort(1, descending=True).values.cumsum(1).gather(1, kept - 1)
        return self._energy(a * (a.sum(1, keepdim=True) / top).exp())


@register("stable_propagation", paper="Petersen et al. 2024, arXiv 2402.08324")
class StablePropagation(Differentiating):
    """The chance that noise of the input moves the prediction, to first order.

    The network is linear to noise: ``N(x, s^2 I)`` becomes ``N(f, s^2 J J^T)``, and independent
    ``Cauchy(x, s)`` makes margins of scale ``s |J_y - J_k|_1``. The score is the largest chance
    over ``k`` that logit ``k`` exceeds that of the prediction ``y``, in [0, 1/2]. One backward pass
    per class.

    Args:
        scale: ``s``, in units of the inputs that the network gets.
        law: ``"normal"`` or ``"cauchy"``.
    """

    def __init__(self, scale: float = 0.05, law: str = "normal") -> None:
        super().__init__()
        self.scale = checks.number("scale", scale, "a positive number", 0)
        self.law = checks.choice("law", law, ("normal", "cauchy"))

    def _score(self, outputs: Outputs) -> Tensor:
        with torch.enable_grad():
            x = outputs.of("inputs").detach().requires_grad_()
            f, _ = self._read(x)
            rows = [
                torch.autograd.grad(f[:, k].sum(), x, retain_graph=True)[0].flatten(1)
                for k in range(f.shape[1])
            ]
        f, J = f.detach(), torch.stack(rows, 1)
        y = f.argmax(1, keepdim=True)
        margin = f.gather(1, y) - f
        apart = J.gather(1, y[..., None].expand(-1, -1, J.shape[2])) - J
        size = lengths(apart)[..., 0] if self.law == "normal" else apart.abs().sum(2)
        spread = self.scale * size
        ratio = margin / spread.clamp(min=torch.finfo(f.dtype).tiny)
        chance = (
            torch.special.ndtr(-ratio) if self.law == "normal" else 0.5 - ratio.atan() / torch.pi
        )
        return chance.scatter(1, y, 0).amax(1)
