"""CoTTA: continual test-time adaptation with a teacher and random restoration."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qact import checks
from qact.adapt.augment import View, Views, given
from qact.adapt.entropy import soft_cross_entropy
from qact.adapt.gradient import Gradient, reading
from qact.adapt.registry import register
from qact.adapt.rows import checked
from qact.adapt.teacher import copy_, follow_, twin


@register(
    "cotta", paper="Wang et al. 2022, arXiv 2203.13591, equations 1 to 8", learns="parameters"
)
class CoTTA(Gradient):
    """All parameters follow a slow teacher, and a few jump back to the source at random.

    The teacher's prediction is the mean over ``views`` of the images when the source is not sure of
    them (mean confidence below ``sure``), else that of the images themselves; it is also what is
    returned. Defaults are the paper's for CIFAR-10: Adam, 0.001.

    Args:
        keep: of the teacher, per step.
        restore: probability of a weight to jump back.
        sure: confidence of the source above which there are no views; 0.92 for CIFAR-10.
        views: how many.
        augment: makes a view of a batch; by default :class:`qact.adapt.augment.Views`.
        seed: of views and restoration.
        **options: of :class:`qact.adapt.gradient.Gradient`.
    """

    needs_norms = False

    def __init__(
        self,
        model: nn.Module,
        *,
        keep: float = 0.999,
        restore: float = 0.01,
        sure: float = 0.92,
        views: int = 32,
        augment: View | None = None,
        seed: int = 0,
        **options: object,
    ) -> None:
        super().__init__(model, **options)  # type: ignore[arg-type]
        share = "a share, 0 to 1"
        self.keep = checks.number("keep", keep, share, 0, 1)
        self.restore = 0.0 if restore == 0 else checks.number("restore", restore, share, 0, 1)
        self.sure = 0.0 if sure == 0 else checks.number("sure", sure, share, 0, 1)
        self.views = checks.integer("views", views, 1)
        self.seed = checks.integer("seed", seed)
        self._augment = given(augment)
        self.teacher, self.anchor = twin(self.model), twin(self.model)

    def collect_params(self) -> tuple[list[nn.Parameter], list[str]]:
        """All of them."""
        names, params = zip(*self.model.named_parameters(), strict=True)
        return list(params), list(names)

    def begin(self) -> None:
        """The teacher is the source again."""
        super().begin()
        copy_(self.teacher, self.model)
        self.augment = self._augment or Views(seed=self.seed)
        self.draw = torch.Generator().manual_seed(self.seed)

    def forward_and_adapt(self, x: Tensor) -> Tensor:
        """The teacher's logits; student, teacher and restoration after each."""
        for _ in range(self.steps):
            target = self._target(x)
            self.step(soft_cross_entropy(self.logits(x), target).mean())
            follow_(self.teacher, self.model, self.keep)
            self._restore()
        return target

    @torch.no_grad()
    def _target(self, x: Tensor) -> Tensor:
        with reading(self.anchor, self.context):
            confidence = checked(self.anchor(x), len(x)).softmax(1).amax(1).mean()
        with reading(self.teacher, self.context):
            if confidence >= self.sure:
                return self.teacher(x)
            return torch.stack([self.teacher(self.augment(x)) for _ in range(self.views)]).mean(0)

    @torch.no_grad()
    def _restore(self) -> None:
        for name, parameter in zip(self.names, self.params, strict=True):
            jumps = (
                torch.rand(parameter.shape, generator=self.draw, dtype=torch.float32, device="cpu")
                < self.restore
            )
            source = self._start[name].to(parameter)
            parameter.copy_(torch.where(jumps.to(parameter.device), source, parameter))
