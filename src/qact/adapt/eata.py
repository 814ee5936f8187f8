"""EATA: efficient anti-forgetting test-time adaptation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

from qact import checks
from qact.adapt.entropy import entropy
from qact.adapt.gradient import NARROW, Gradient
from qact.adapt.registry import register
from qact.adapt.rows import finite_rows

CHUNK = 64  # source samples per gradient


@register("eata", paper="Niu et al. 2022, arXiv 2204.02610, equations 3 to 9", learns="parameters")
class EATA(Gradient):
    """TENT on samples that are sure and new, held by the Fisher information of the source.

    A sample counts if its entropy is below ``margin ln C`` and its probabilities have a cosine
    below ``redundant`` with the running mean of those that counted (weights 0.9, 0.1). It weighs
    ``exp(margin ln C - entropy)``. The penalty is ``beta sum_i F_i (w_i - w_i^0)^2``. Defaults are
    the paper's for CIFAR-10: SGD, 0.005. The authors' code (github.com/mr-eggplant/EATA, main.py)
    has those for ImageNet alone (beta 2000, redundant 0.05, margin 0.4, momentum 0.9, 0.00025);
    beta 1 and redundant 0.4 for CIFAR-10 stand in github.com/mariodoebler/test-time-adaptation
    (cfgs/cifar10_c/eata.yaml), there with Adam, 0.001.

    Args:
        source: unlabelled source samples (N, ...) for the Fisher information (2,000 in the paper);
            without them the penalty is left out, which the paper calls ETA.
        beta: weight of the penalty; 1 for CIFAR-10, 2000 for ImageNet.
        margin: in units of ln C.
        redundant: cosine from which on a sample is redundant; 0.4 for CIFAR-10, 0.05 for ImageNet.
        lr: learning rate.
        optimizer: see :class:`qact.adapt.gradient.Gradient`.
        **options: of :class:`qact.adapt.gradient.Gradient`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        source: Tensor | None = None,
        beta: float = 1.0,
        margin: float = 0.4,
        redundant: float = 0.4,
        lr: float = 0.005,
        optimizer: str = "sgd",
        **options: object,
    ) -> None:
        super().__init__(model, lr=lr, optimizer=optimizer, **options)  # type: ignore[arg-type]
        self.beta = checks.number("beta", beta, "a positive weight", 0)
        self.margin = checks.number("margin", margin, "a positive share of ln C", 0)
        self.redundant = checks.number("redundant", redundant, "a cosine in (0, 1]", 0, 1)
        if source is not None:
            if not (isinstance(source, Tensor) and source.dim() > 1):
                raise ValueError(f"source={source!r} must be a tensor of samples (N, ...)")
            sound = source.detach()[finite_rows(source)].clone()
            if len(sound) < 2:
                raise ValueError(
                    f"source has {len(sound)} finite samples of {len(source)}; it needs 2 or more"
                )
            source = sound.float() if sound.dtype in NARROW else sound
        self.fisher = None if source is None else self._fisher(source)

    def begin(self) -> None:
        """No prediction has counted yet."""
        super().begin()
        self.mean: Tensor | None = None

    def loss(self, logits: Tensor, x: Tensor) -> Tensor | None:
        """Weighted entropy of the samples that count, and the penalty."""
        losses, bound = entropy(logits), self.margin * math.log(logits.shape[1])
        p = logits.detach().softmax(1)
        counts = losses.detach() < bound
        if self.mean is not None:
            counts &= cosine_similarity(self.mean[None], p, dim=1).abs() < self.redundant
        if not bool(counts.any()):
            return None
        new = p[counts].mean(0)
        self.mean = new if self.mean is None else 0.9 * self.mean + 0.1 * new
        chosen = losses[counts]
        return (chosen * (bound - chosen.detach()).exp()).mean() + self._penalty()

    def _penalty(self) -> Tensor | float:
        if self.fisher is None:
            return 0.0
        origin = [self._start[name] for name in self.names]
        parts = zip(self.fisher, self.params, origin, strict=True)
        return self.beta * torch.stack([(f.to(p) * (p - w) ** 2).sum() for f, p, w in parts]).sum()

    def _fisher(self, source: Tensor) -> list[Tensor]:
        """Mean squared gradient of the loss to the model's own labels, chunk by chunk."""
        chunks = [c for c in source.split(CHUNK) if len(c) > 1]
        total = [torch.zeros_like(p) for p in self.params]
        with torch.enable_grad():
            for chunk in chunks:
                logits = self.logits(chunk)
                loss = cross_entropy(logits, logits.detach().argmax(1))
                for sum_, gradient in zip(
                    total, torch.autograd.grad(loss, self.params), strict=True
                ):
                    sum_ += gradient**2 / len(chunks)
        return total
