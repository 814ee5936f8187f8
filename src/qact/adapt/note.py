"""NOTE: robust continual test-time adaptation against temporal correlation."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qact import checks
from qact.adapt.entropy import entropy
from qact.adapt.gradient import Gradient
from qact.adapt.memory import ReservoirBank
from qact.adapt.registry import register
from qact.adapt.rows import finite_rows
from qact.statistics.batchnorm import running, store
from qact.statistics.lend import lend


@dataclass(frozen=True)
class InstanceAware:
    """Statistics of a reference, corrected where an image is significantly off (equations 3 to 6).

    ``m_i = m + shrink(m_image - m; k s_m)`` with the standard error ``s_m = sqrt(v / L)`` of a mean
    over ``L`` positions, and ``v_i`` alike with ``s_v = v sqrt(2 / (L - 1))``. The reference is
    what is stored, or with a ``rate`` the batch, and the stored statistics then move by it.
    """

    k: float
    rate: float | None = None

    def __call__(self, module: Any, input: Tensor) -> Tensor:
        """The input, standardised image by image."""
        dim = getattr(module, "dim", 1)
        moved = input.movedim(dim, 1)
        z = moved.flatten(2) if moved.dim() > 2 else moved[:, :, None]
        z = z if z.dtype == torch.float64 else z.float()
        mean, variance = running(module, z)
        if self.rate is not None and z.shape[0] * z.shape[2] > 1:
            batch_variance, batch_mean = torch.var_mean(z, (0, 2), correction=1)
            new = mean.lerp(batch_mean, self.rate), variance.lerp(batch_variance, self.rate)
            store(module, new)
            mean, variance = batch_mean, batch_variance
        mean, variance, places = mean[:, None], variance[:, None], z.shape[2]
        if places > 1:
            own_variance, own_mean = torch.var_mean(z, 2, keepdim=True, correction=1)
            bound = variance + module.eps
            mean = mean + _shrunk(own_mean - mean, self.k * (bound / places).sqrt())
            off = _shrunk(own_variance - variance, self.k * bound * (2 / (places - 1)) ** 0.5)
            variance = (variance + off).clamp_min(0)
        z = (z - mean) * (variance + module.eps).rsqrt()
        return z.reshape(moved.shape).movedim(1, dim).to(input.dtype)


def _shrunk(value: Tensor, bound: Tensor) -> Tensor:
    """``sign(x) max(|x| - bound, 0)``."""
    return value.sign() * (value.abs() - bound).clamp_min(0)


@register("note", paper="Gong et al. 2022, arXiv 2208.05117, equations 3 to 7", learns="parameters")
class NOTE(Gradient):
    """Instance-aware BatchNorm, and entropy minimisation on a prediction-balanced memory.

    Every sample is predicted alone, by stored statistics that are corrected for its own. The
    memory is learnt every ``every`` samples, and moves the stored statistics (and contexts of QAct
    layers) by ``momentum``. The paper trains with the instance-aware norm; here it is put into a
    network trained without it. Defaults are the paper's: Adam, 0.0001.

    Args:
        k: standard errors that an image may be off before it is corrected for.
        capacity: samples in the memory.
        every: samples between updates.
        momentum: of the stored statistics.
        seed: of the memory's choices.
        lr: learning rate.
        **options: of :class:`qact.adapt.gradient.Gradient`; ``context`` has no effect.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        k: float = 4.0,
        capacity: int = 64,
        every: int = 64,
        momentum: float = 0.01,
        seed: int = 0,
        lr: float = 1e-4,
        **options: object,
    ) -> None:
        super().__init__(model, lr=lr, **options)  # type: ignore[arg-type]
        self.k = checks.number("k", k, "a positive number", 0)
        self.capacity = checks.integer("capacity", capacity, 1)
        self.every = checks.integer("every", every, 1)
        self.momentum = checks.number("momentum", momentum, "a rate in (0, 1]", 0, 1)
        self.seed = checks.integer("seed", seed)

    def begin(self) -> None:
        """An empty memory."""
        super().begin()
        self.bank: ReservoirBank | None = None
        self.count = 0

    def statistics(self) -> AbstractContextManager:
        """Stored ones, corrected image by image."""
        return lend(self.model, "running", rule=InstanceAware(self.k))

    def forward_and_adapt(self, x: Tensor) -> Tensor:
        """Predict up to the next update, learn, and go on."""
        parts = []
        while len(x):
            now, x = x.tensor_split([self.every - self.count % self.every])
            with torch.no_grad():
                parts.append(self.logits(now))
            self._remember(now, parts[-1])
        return torch.cat(parts)

    def _remember(self, x: Tensor, logits: Tensor) -> None:
        self.bank = self.bank or ReservoirBank(self.capacity, logits.shape[1], self.seed)
        sound = finite_rows(logits)
        for sample, label in zip(x[sound], logits[sound].argmax(1).tolist(), strict=True):
            self.bank.add(sample, label)
        self.count += len(x)
        if self.count % self.every == 0 and len(self.bank):
            rule = InstanceAware(self.k, self.momentum)
            for _ in range(self.steps):
                with lend(self.model, "running", rule=rule, rate=self.momentum):
                    loss = entropy(self.model(self.bank.samples)).mean()
                self.step(loss)
