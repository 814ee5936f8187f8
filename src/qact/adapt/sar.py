"""SAR: sharpness-aware and reliable entropy minimisation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from qact import checks
from qact.adapt.entropy import entropy
from qact.adapt.gradient import Gradient
from qact.adapt.registry import register
from qact.vectors import lengths

# Top layers that stay frozen, by the paper's names for ResNets and ViTs.
TOP = ("layer4", "blocks.9", "blocks.10", "blocks.11", "norm")


@register("sar", paper="Niu et al. 2023, arXiv 2302.12400, equations 2 to 5", learns="parameters")
class SAR(Gradient):
    """TENT on sure samples, towards flat minima, and back to the source when it collapses.

    The gradient is taken at ``w + rho g / |g|`` (sharpness-aware minimisation), of samples with an
    entropy below ``margin ln C`` before and after that move. If the running mean of their entropy
    (weights 0.9, 0.1) falls below ``collapse``, the model is reset. Defaults are the paper's for
    ResNets: SGD, 0.00025. The authors' code (github.com/mr-eggplant/SAR, main.py, sar.py) has the
    same numbers; it scales the rate by ``batch / 32`` for batches below 32, which is left to the
    caller here, and keeps the running mean of the entropy through a reset, which forgets it here.

    Args:
        rho: radius of the move.
        margin: in units of ln C.
        collapse: entropy below which the model has collapsed.
        frozen: names or patterns of parts whose norms stay as they are; the paper freezes the top.
            ``()`` where the model has no other norms.
        lr: learning rate.
        optimizer: see :class:`qact.adapt.gradient.Gradient`.
        **options: of :class:`qact.adapt.gradient.Gradient`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        rho: float = 0.05,
        margin: float = 0.4,
        collapse: float = 0.2,
        frozen: tuple[str, ...] = TOP,
        lr: float = 0.00025,
        optimizer: str = "sgd",
        **options: object,
    ) -> None:
        if not isinstance(frozen, (tuple, list)) or not all(isinstance(n, str) for n in frozen):
            raise TypeError(f"frozen={frozen!r} must be a tuple of names")
        self.untouched = tuple(frozen)
        super().__init__(model, lr=lr, optimizer=optimizer, **options)  # type: ignore[arg-type]
        self.rho = checks.number("rho", rho, "a positive radius", 0)
        self.margin = checks.number("margin", margin, "a positive share of ln C", 0)
        self.collapse = checks.number("collapse", collapse, "a positive entropy", 0)

    def begin(self) -> None:
        """No entropy has been averaged yet."""
        super().begin()
        self.average: float | None = None

    def forward_and_adapt(self, x: Tensor) -> Tensor:
        """Predict, move to the worst point nearby, and step from there."""
        for _ in range(self.steps):
            logits = self.logits(x)
            losses, bound = entropy(logits), self.margin * math.log(logits.shape[1])
            sure = losses.detach() < bound
            if bool(sure.any()) and losses.requires_grad:
                self._sharp_step(x, losses[sure].mean(), sure, bound)
        if self.average is not None and self.average < self.collapse:
            self.reset()
        return logits

    def _sharp_step(self, x: Tensor, loss: Tensor, sure: Tensor, bound: float) -> None:
        loss.backward()
        with torch.no_grad():
            moved = [p for p in self.params if p.grad is not None]
            before = [p.clone() for p in moved]
            gradients = [p.grad for p in moved if p.grad is not None]
            norm = lengths(torch.cat([lengths(g.flatten()) for g in gradients]))[0]
            for p, g in zip(moved, gradients, strict=True):
                p.add_(self.rho * g / (norm + 1e-12))
        self.optimizer.zero_grad()
        second = entropy(self.logits(x))[sure]
        second = second[second.detach() < bound]
        worst = second.mean() if len(second) else None
        if worst is not None and bool(torch.isfinite(worst)):
            value = worst.item()
            self.average = value if self.average is None else 0.9 * self.average + 0.1 * value
            worst.backward()
        with torch.no_grad():
            for p, w in zip(moved, before, strict=True):
                p.copy_(w)
        if worst is not None:
            self.optimizer.step()
        self.optimizer.zero_grad()
