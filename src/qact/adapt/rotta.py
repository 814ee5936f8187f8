"""RoTTA: robust test-time adaptation in dynamic scenarios."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from qact import checks
from qact.adapt.augment import View, Views, given
from qact.adapt.entropy import entropy, soft_cross_entropy
from qact.adapt.gradient import Gradient
from qact.adapt.memory import TimelyBank
from qact.adapt.registry import register
from qact.adapt.rows import checked
from qact.adapt.teacher import copy_, follow_, twin
from qact.statistics.lend import adapting, lend
from qact.statistics.rules import Moving


@register(
    "rotta", paper="Yuan et al. 2023, arXiv 2303.13899, equations 5 to 9", learns="parameters"
)
class RoTTA(Gradient):
    """A balanced memory moves statistics and parameters slowly; a teacher predicts.

    Statistics and contexts are stored ones, which move by ``alpha`` towards those of the memory at
    each update, every ``every`` samples. The student learns the teacher's prediction on views,
    weighted by ``e^-age / (1 + e^-age)``. Defaults are the paper's: Adam, 0.001.

    Args:
        alpha: rate of the statistics.
        nu: rate of the teacher.
        capacity: samples in the memory.
        every: samples between updates.
        time: weight of age in the memory.
        doubt: weight of entropy in the memory.
        augment: makes a view of a batch; by default :class:`qact.adapt.augment.Views`.
        seed: of the views.
        **options: of :class:`qact.adapt.gradient.Gradient`; ``context`` has no effect.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        alpha: float = 0.05,
        nu: float = 0.001,
        capacity: int = 64,
        every: int = 64,
        time: float = 1.0,
        doubt: float = 1.0,
        augment: View | None = None,
        seed: int = 0,
        **options: object,
    ) -> None:
        super().__init__(model, **options)  # type: ignore[arg-type]
        self.alpha = checks.number("alpha", alpha, "a rate in (0, 1]", 0, 1)
        self.nu = checks.number("nu", nu, "a rate in (0, 1]", 0, 1)
        self.capacity = checks.integer("capacity", capacity, 1)
        self.every = checks.integer("every", every, 1)
        self.weights = tuple(
            0.0 if value == 0 else checks.number(name, value, "0 or a positive weight", 0)
            for name, value in (("time", time), ("doubt", doubt))
        )
        self.seed = checks.integer("seed", seed)
        self._augment = given(augment)
        self.teacher = twin(self.model)

    def begin(self) -> None:
        """An empty memory; the teacher is the source."""
        super().begin()
        copy_(self.teacher, self.model)
        self.augment = self._augment or Views(seed=self.seed)
        self.bank: TimelyBank | None = None
        self.count = 0

    def forward_and_adapt(self, x: Tensor) -> Tensor:
        """The teacher's logits of the whole batch, then one sample after the other is learnt."""
        with torch.no_grad(), adapting(self.teacher, "running"):
            logits = checked(self.teacher(x), len(x))
        self.bank = self.bank or TimelyBank(self.capacity, logits.shape[1], *self.weights)
        labels, doubts = logits.argmax(1).tolist(), entropy(logits).tolist()
        for sample, label, doubt in zip(x, labels, doubts, strict=True):
            if math.isfinite(doubt):
                self.bank.add(sample, label, doubt)
            self.count += 1
            if self.count % self.every == 0:
                self._update(self.bank)
        return logits

    def _update(self, bank: TimelyBank) -> None:
        if not len(bank):
            return
        x = bank.samples
        with torch.no_grad(), self._moving(self.teacher):
            target = self.teacher(x)
        for _ in range(self.steps):
            with self._moving(self.model):
                logits = self.model(self.augment(x))
            weights = torch.sigmoid(-bank.ages).to(logits)
            self.step((weights * soft_cross_entropy(logits, target)).mean())
        follow_(self.teacher, self.model, 1 - self.nu)

    def _moving(self, model: nn.Module) -> AbstractContextManager:
        return lend(model, "running", rule=Moving(self.alpha), rate=self.alpha)
