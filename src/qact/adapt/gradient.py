"""`Gradient`: a method that learns by steps of an optimiser on scales and shifts."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from qact import checks
from qact.adapt.method import Method
from qact.adapt.parameters import affine_parameters
from qact.nn.layer import MODES
from qact.statistics.lend import lend, rule_of
from qact.statistics.rules import batch_with_gradient

OPTIMIZERS = ("adam", "sgd")
NARROW = (torch.float16, torch.bfloat16)


class Gradient(Method):
    """Base of the methods that minimise a loss without labels, a step or more per batch.

    Norms and contexts read the batch, and gradients flow through its statistics. A model in float16
    or bfloat16 is copied into float32: there a step of 0.001 is lost, or divided by zero. Logits
    come back in the dtype of the model.

    Args:
        lr: learning rate.
        steps: steps per batch.
        optimizer: ``"adam"`` (betas 0.9, 0.999) or ``"sgd"`` (momentum 0.9), without decay.
        context: what norms and contexts read: ``"batch"``, ``"mixed"`` or ``"running"``.
        **options: of :class:`Method`.
    """

    untouched: tuple[str, ...] = ()  # parts whose norms stay as they are

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float = 1e-3,
        steps: int = 1,
        optimizer: str = "adam",
        context: str = "batch",
        **options: bool,
    ) -> None:
        super().__init__(model, **options)
        self.lr = 0.0 if lr == 0 else checks.number("lr", lr, "0 or a positive number", 0)
        self.steps = checks.integer("steps", steps, 1)
        self.kind = checks.choice("optimizer", optimizer, OPTIMIZERS)
        self.context = checks.choice("context", context, MODES)

    def configure(self) -> None:
        """Freeze the model, and widen a narrow one."""
        super().configure()
        dtypes = {p.dtype for p in self.model.parameters()}
        self.narrow = next((dtype for dtype in NARROW if dtype in dtypes), None)
        if self.narrow is not None:
            if self.inplace:
                raise ValueError(
                    f"inplace=True: {self.name!r} learns in float32, and the model is in "
                    f"{self.narrow}; pass model.float(), or let it be copied"
                )
            self.model.float()

    def forward(self, x: Tensor) -> Tensor:
        """As in :class:`Method`; a narrow model's batch is widened with it."""
        if self.narrow is None or not isinstance(x, Tensor):
            return super().forward(x)
        return super().forward(x.float() if x.dtype in NARROW else x).to(self.narrow)

    def collect_params(self) -> tuple[list[nn.Parameter], list[str]]:
        """Scales and shifts of norms and QAct layers that are not to be left alone."""
        names, params = zip(*affine_parameters(self.model, self.untouched), strict=True)
        return list(params), list(names)

    def begin(self) -> None:
        """A fresh optimiser."""
        if self.kind == "adam":
            self.optimizer: torch.optim.Optimizer = torch.optim.Adam(self.params, lr=self.lr)
        else:
            self.optimizer = torch.optim.SGD(self.params, lr=self.lr, momentum=0.9)

    def statistics(self) -> AbstractContextManager:
        """The batch's, with their gradient."""
        return reading(self.model, self.context)

    def loss(self, logits: Tensor, x: Tensor) -> Tensor | None:
        """What to minimise on this batch, a scalar; None for no step."""
        return None

    def forward_and_adapt(self, x: Tensor) -> Tensor:
        """Predict, then take a step; the logits are those before the last step."""
        for _ in range(self.steps):
            logits = self.logits(x)
            self.step(self.loss(logits, x) if bool(torch.isfinite(logits).all()) else None)
        return logits

    def step(self, loss: Tensor | None) -> None:
        """One step of the optimiser, unless the loss is missing or not finite."""
        if loss is not None and loss.requires_grad and bool(torch.isfinite(loss)):
            loss.backward()
            self.optimizer.step()
        self.optimizer.zero_grad()


def reading(model: nn.Module, context: str) -> AbstractContextManager:
    """:func:`qact.adapting`, with gradients through the statistics of the batch."""
    rule = batch_with_gradient if context == "batch" else rule_of(context)
    return lend(model, context, rule=rule)
