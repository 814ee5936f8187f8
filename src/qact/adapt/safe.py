"""Safe adaptation: stored contexts that follow the stream as far as the evidence goes.

What breaks test-batch statistics is that a batch of few classes is measured against itself. It can
be told from a batch of another domain: its drift is no larger than the error of a sample with so
few classes. So each layer, from the first to the last, follows a memory of the latest samples by
the share that :mod:`qact.adapt.shrinkage` gives it. Early layers, whose inputs vary within each
image much more than between images, follow at once; late and dense layers wait for classes enough.

All of it is written into the stored contexts (and BatchNorm statistics) of the copy. A prediction
reads nothing else, so single samples are predicted alone, and a reset is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qact import checks
from qact.adapt.method import Method
from qact.adapt.registry import register
from qact.adapt.shrinkage import Follower, effective_size, followers


@register(
    "safe",
    paper="this project; James-Stein shrinkage, class balance as in arXiv 2208.05117",
    learns="statistics",
)
class Safe(Method):
    """Statistics of a class-balanced memory, shrunk to the source by what the memory can prove.

    A layer whose inputs have drifted by ``D^2`` stores the mixture of its source and of the memory,
    the latter by ``[1 - caution (rho / n_eff) (1 + 1 / D^2)]_+``, where ``n_eff`` is the effective
    size of the memory (:func:`qact.adapt.shrinkage.effective_size` of the predicted classes) and
    ``rho`` the share of the variance that lies between samples. A dense layer (``rho = 1``) that
    sees a single class (``n_eff = 1``) follows nothing.

    Args:
        caution: how many times its expected error counts against a sample.
        capacity: samples in the memory; the latest ``capacity / C`` of each predicted class.
        every: new samples between two updates of what is stored, once the memory has as many.
        **options: of :class:`Method`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        caution: float = 3.0,
        capacity: int = 128,
        every: int = 16,
        **options: bool,
    ) -> None:
        super().__init__(model, **options)
        self.caution = checks.number("caution", caution, "a positive factor", 0)
        self.capacity = checks.integer("capacity", capacity, 1)
        self.every = checks.integer("every", every, 1)
        self.followers = followers(self.model)

    def begin(self) -> None:
        """Nothing has been seen."""
        self.memory: Tensor | None = None
        self.labels = torch.empty(0, dtype=torch.long)
        self.last: Tensor | None = None
        self.waiting = 0
        for follower in self.followers:
            follower.share = 0.0

    @torch.no_grad()
    def forward_and_adapt(self, x: Tensor) -> Tensor:
        """Predict from what is stored; where enough is new, follow it and predict again."""
        logits = self.logits(x)
        usable = worth(x, self.last)
        fresh = int(usable.sum())
        if not fresh or not self.followers:
            return logits
        due = min(self.every, max(1, len(self.labels)))
        self.waiting += fresh
        self.last = x[-1:].clone()
        if self.waiting < due:
            self._remember(x[usable], logits[usable])
            return logits
        self.waiting = 0
        return self._follow(x, logits, usable)

    def _remember(self, x: Tensor, logits: Tensor) -> None:
        samples, labels = self._joined(x, logits.argmax(1))
        kept = latest(labels, logits.shape[1], self.capacity)
        self.memory, self.labels = samples[kept], labels[kept]

    def _joined(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self.memory is None:
            return x, labels
        return torch.cat([self.memory, x]), torch.cat([self.labels, labels])

    def _follow(self, x: Tensor, logits: Tensor, usable: Tensor) -> Tensor:
        """One pass: its memory's rows are followed, its last rows are the batch."""
        classes = logits.shape[1]
        samples, labels = self._joined(x, logits.argmax(1))
        able = torch.cat([usable.new_ones(len(labels) - len(x)), usable])
        kept = torch.zeros_like(able)
        kept[able] = latest(labels[able], classes, self.capacity)
        wanted = kept.clone()
        wanted[-len(x) :] = True
        size = effective_size(labels[kept], classes)
        with self._following(kept[wanted], size):
            logits = self.logits(samples[wanted])
        self.memory, self.labels = samples[kept], logits.argmax(1)[kept[wanted]]
        return logits[-len(x) :]

    @contextmanager
    def _following(self, rows: Tensor, size: float) -> Iterator[None]:
        """In a forward pass each layer follows these rows of its input, then reads what it has."""
        handles = [
            follower.layer.register_forward_pre_hook(self._hook(follower, rows, size))
            for follower in self.followers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, follower: Follower, rows: Tensor, size: float) -> Any:
        whole = bool(rows.all())

        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            follower.follow(args[0] if whole else args[0][rows], size, self.caution)

        return hook


def latest(labels: Tensor, classes: int, capacity: int) -> Tensor:
    """Which labels (N,), in order of arrival, are among the last ``capacity / classes`` of theirs.

    At least one of each class, and ``capacity`` in all.

    >>> latest(torch.tensor([0, 1, 0, 0]), 2, 4).tolist()
    [False, True, True, True]
    """
    same = torch.nn.functional.one_hot(labels, classes)
    later = (same.flip(0).cumsum(0).flip(0) * same).sum(1)  # 1 for the last of its class
    kept = later <= max(1, capacity // classes)
    return kept & (kept.flip(0).cumsum(0).flip(0) <= capacity)


def worth(x: Tensor, last: Tensor | None) -> Tensor:
    """Which samples (N,) may be learnt from: not one value throughout, not the last one again."""
    flat = x.flatten(1)
    varied = (flat.amax(1) > flat.amin(1)) | (flat.shape[1] == 1)
    before = torch.cat([x[:1] if last is None else last, x[:-1]])
    again = (x == before).flatten(1).all(1)
    if last is None:
        again[0] = False
    return varied & ~again
