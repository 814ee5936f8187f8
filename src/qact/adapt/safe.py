"""Safe adaptation: stored contexts that follow the stream, and refuse what would harm them.

What breaks test-batch statistics is that a batch of few classes is measured against itself. Early
layers hardly know the classes, late layers know little else. So

1. early layers follow the most recent samples, whatever their classes, and late layers stay with
   the source: predictions are then right enough to tell which classes are there;
2. late layers follow a memory that is balanced over these predictions, by a share that its
   effective sample size earns; the rest is the source's;
3. where the early contexts jump, the memory is of another domain and is dropped.

All of it is written into the stored contexts (and BatchNorm statistics) of the copy. A prediction
reads nothing else, so single samples are predicted alone, and a reset is exact.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qact import checks
from qact.adapt.contexts import adapting
from qact.adapt.method import Method
from qact.adapt.registry import register
from qact.adapt.statistics import folded
from qact.context import Context
from qact.distance import wasserstein
from qact.histogram import Histogram
from qact.kernels import eager
from qact.layer import QAct
from qact.layout import fold
from qact.moving import moved


@register(
    "safe",
    paper="this project; early and late layers as in arXiv 2302.05155, balance as in 2208.05117",
    learns="statistics",
)
class Safe(Method):
    """Contexts that follow recent samples early, a class-balanced memory late, and the source else.

    With ``m`` samples in the memory, of which class ``c`` has the share ``s_c``, the effective
    sample size is ``m (exp(H(s)) / C)^balance``, and late layers mix in the memory by
    ``m_eff / (m_eff + prior)``. Early layers mix in ``n`` recent samples by ``n / (n + prior)``.

    Args:
        prior: samples that the source counts for.
        early: share of the norms and QAct layers, in the order of the model, that count as early.
        window: recent samples that early layers follow; a larger batch counts as a whole.
        capacity: samples in the memory, the latest of each predicted class.
        every: new samples between two updates of what is stored.
        balance: how much a memory of few classes is distrusted.
        jump: distance between early contexts, in standard deviations, that ends a domain.
        **options: of :class:`Method`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        prior: float = 16.0,
        early: float = 0.2,
        window: int = 64,
        capacity: int = 128,
        every: int = 16,
        balance: float = 4.0,
        jump: float = 0.5,
        **options: bool,
    ) -> None:
        super().__init__(model, **options)
        self.prior = checks.number("prior", prior, "a positive number of samples", 0)
        self.early = checks.number("early", early, "a share in (0, 1]", 0, 1)
        self.window = checks.integer("window", window, 1)
        self.capacity = checks.integer("capacity", capacity, 1)
        self.every = checks.integer("every", every, 1)
        self.balance = checks.number("balance", balance, "a positive power", 0)
        self.jump = checks.number("jump", jump, "a positive distance", 0)
        self.layers = [m for m in self.model.modules() if followable(m)]
        self.first = math.ceil(self.early * len(self.layers))
        self._source = [snapshot(layer) for layer in self.layers]

    def begin(self) -> None:
        """Nothing has been seen."""
        self.recent: Tensor | None = None
        self.bank: list[deque[Tensor]] = []
        self.waiting = 0

    @torch.no_grad()
    def forward_and_adapt(self, x: Tensor) -> Tensor:
        """Follow first where enough is new, then predict from what is stored."""
        usable = worth(x, self.recent)
        self.waiting += int(usable.sum())
        if self.waiting < self.every:
            logits = self.logits(x)
            self._remember(x[usable], logits[usable])
            return logits
        self.waiting = 0
        self._follow(x[usable])
        return self.logits(x)

    def _follow(self, x: Tensor) -> None:
        """Early layers from recent samples, then late layers from the memory."""
        old = self.recent
        recent = x if old is None else torch.cat([old, x])[-max(self.window, len(x)) :]
        before = [snapshot(layer) for layer in self.layers[: self.first]]
        share = len(recent) / (len(recent) + self.prior)
        with self._writing([share] * self.first):
            logits = self.model(recent)
        if old is not None and self._jumped(before):
            self.bank = []
        self._remember(x, logits[-len(x) :])
        self.recent = recent
        samples = [s for mine in self.bank for s in mine]
        sizes = torch.tensor([float(len(mine)) for mine in self.bank])
        late = effective(sizes, self.balance)
        share = late / (late + self.prior)
        with self._writing([None] * self.first + [share] * (len(self.layers) - self.first)):
            self.model(torch.stack(samples))

    def _remember(self, x: Tensor, logits: Tensor) -> None:
        classes = logits.shape[1]
        if not self.bank:
            quota = max(1, self.capacity // classes)
            self.bank = [deque(maxlen=quota) for _ in range(classes)]
        for sample, label in zip(x, logits.argmax(1).tolist(), strict=True):
            self.bank[label].append(sample.clone())
        if self.waiting and len(x):
            kept = x if self.recent is None else torch.cat([self.recent, x])
            self.recent = kept[-self.window :].clone()

    def _jumped(self, before: list[Any]) -> bool:
        moved_by = [distance(layer, old) for layer, old in zip(self.layers, before, strict=False)]
        return max(moved_by) > self.jump

    @contextmanager
    def _writing(self, shares: list[float | None]) -> Iterator[None]:
        """In each forward pass write (1 - share) source + share batch; beyond the list, source."""
        handles = []
        for index, layer in enumerate(self.layers):
            share = shares[index] if index < len(shares) else 0.0
            if share is not None:
                writer = _Writer(self._source[index], share)
                handles.append(layer.register_forward_pre_hook(writer))
        try:
            with adapting(self.model, "running"):
                yield
        finally:
            for handle in handles:
                handle.remove()


class _Writer:
    """A pre-hook that stores a mixture of the source and of what comes in."""

    def __init__(self, source: Any, share: float) -> None:
        self.source, self.share = source, share

    def __call__(self, module: Any, args: tuple[Tensor, ...]) -> None:
        write(module, self.source, args[0], self.share)


def followable(module: nn.Module) -> bool:
    """Whether a layer keeps statistics of its inputs."""
    return isinstance(module, QAct) or (
        isinstance(module, _BatchNorm) and module.running_mean is not None
    )


def snapshot(module: Any) -> Any:
    """What a layer has stored: a context, or a mean and a variance."""
    if isinstance(module, QAct):
        return module.context.clone()
    return module.running_mean.clone(), module.running_var.clone()


def write(module: Any, source: Any, input: Tensor, share: float) -> None:
    """Store ``(1 - share) source + share input``; a channel that is not finite keeps the source."""
    if isinstance(module, QAct):
        seen = eager.observe(fold(input, module.dim), module.rule, source.bins)
        store(module.context, mixture(source, seen, share))
        return
    mean, variance = source
    own_variance, own_mean = torch.var_mean(folded(module, input), (0, 2), correction=0)
    gap = own_mean - mean
    variance = (1 - share) * variance + share * own_variance + share * (1 - share) * gap**2
    sound = torch.isfinite(own_mean) & torch.isfinite(own_variance)
    module.running_mean.copy_(torch.where(sound, mean + share * gap, mean))
    module.running_var.copy_(torch.where(sound, variance, source[1]))


def mixture(source: Context, seen: Histogram, share: float) -> Histogram:
    """Both as one context of the source's mass."""
    stored = source.histogram
    seen = seen.to(stored.mass.dtype)
    seen = seen.scaled(stored.count / seen.count.clamp_min(1e-30))
    return moved(stored, seen, torch.full_like(stored.mean, share))


def store(context: Context, histogram: Histogram) -> None:
    """Overwrite a context in place."""
    context.take(histogram)


def distance(module: Any, before: Any) -> float:
    """Wasserstein-1 distance to what was stored before, in its deviations, mean over channels."""
    if isinstance(module, QAct):
        w1, std = wasserstein(module.context, before), before.std
    else:
        mean, std = before[0], before[1].sqrt()
        w1 = between_normals(module.running_mean - mean, module.running_var.sqrt() - std)
    return float((w1 / std.clamp_min(torch.finfo(std.dtype).tiny)).mean())


def between_normals(mean: Tensor, std: Tensor) -> Tensor:
    """``W_1 = E |mean + std Z|`` of two normals that are ``mean`` and ``std`` apart.

    >>> between_normals(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0]))
    tensor([2.0000, 0.7979])
    """
    far = mean.abs() / std.abs().clamp_min(torch.finfo(std.dtype).tiny)
    near = math.sqrt(2 / math.pi) * std.abs() * torch.exp(-(far**2) / 2)
    return near + mean.abs() * torch.special.erf(far / math.sqrt(2))


def effective(sizes: Tensor, power: float) -> float:
    """``m (exp(H) / C)^power`` of a memory with so many samples per class.

    >>> effective(torch.tensor([10.0, 10.0]), 2.0), effective(torch.tensor([10.0, 0.0]), 2.0)
    (20.0, 2.5)
    """
    total = sizes.sum()
    shares = sizes / total
    classes = float(torch.special.entr(shares).sum().exp())
    return float(total) * (classes / len(sizes)) ** power


def worth(x: Tensor, recent: Tensor | None) -> Tensor:
    """Which samples (N,) may be learnt from: not one value throughout, not the last one again."""
    flat = x.flatten(1)
    varied = flat.amax(1) > flat.amin(1) if flat.shape[1] > 1 else torch.ones(len(x)).bool()
    before = torch.cat([x[:1] if recent is None else recent[-1:], x[:-1]])
    again = (x == before).flatten(1).all(1)
    if recent is None:
        again[0] = False
    return varied & ~again
