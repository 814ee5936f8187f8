"""Safe adaptation: stored contexts that follow the stream as far as the evidence goes.

What breaks test-batch statistics is that a batch of few classes is measured against itself. It can
be told from a batch of another domain: its drift is no larger than the error of a sample with so
few classes. So each layer, from the first to the last, follows a memory of the latest samples by
the share that :mod:`qact.adapt.shrinkage` gives it. Early layers, whose inputs vary within each
image much more than between images, follow at once; late and dense layers wait for classes enough.

Which classes there are only the predictions tell, and where a severe shift has made the source
predict one class for everything they tell nothing. So an update labels its samples anew once early
layers have followed, and follows on while that shows more classes. And a memory is of one domain:
if the newest samples differ from it by more than their error, the older ones are dropped.

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
from qact.adapt.followers import Follower, followers
from qact.adapt.method import Method
from qact.adapt.recent import another_domain, latest, worth
from qact.adapt.registry import register
from qact.adapt.rows import finite_rows
from qact.adapt.shrinkage import effective_size

MEMORY = ("memory", "labels", "last", "waiting")
GROWTH = 1.5  # of the effective size, for which another pass is worth its time


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
        passes: most passes of one update. There is another one as long as the labels of the last
            raise ``n_eff`` by half.
        **options: of :class:`Method`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        caution: float = 3.0,
        capacity: int = 128,
        every: int = 16,
        passes: int = 4,
        **options: bool,
    ) -> None:
        super().__init__(model, **options)
        self.caution = checks.number("caution", caution, "a positive factor", 0)
        self.capacity = checks.integer("capacity", capacity, 1)
        self.every = checks.integer("every", every, 1)
        self.passes = checks.integer("passes", passes, 1)

    def begin(self) -> None:
        """Nothing has been seen."""
        self.memory: Tensor | None = None
        self.labels = torch.empty(0, dtype=torch.long)
        self.last: Tensor | None = None
        self.waiting = 0
        self.followers = followers(self.model)

    def get_extra_state(self) -> dict[str, Any]:
        """The memory: without it the next update would begin at the source."""
        return {name: getattr(self, name) for name in MEMORY}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """A memory that was saved; the contexts that were stored from it come with the rest."""
        for name in MEMORY:
            setattr(self, name, state[name])
        for follower in self.followers:
            follower.share = 1.0  # what is stored may not be the source

    @torch.no_grad()
    def forward_and_adapt(self, x: Tensor) -> Tensor:
        """Predict from what is stored; where enough is new, follow it and predict again."""
        logits = self.logits(x)
        usable = worth(x, self.last) & finite_rows(logits)
        fresh = int(usable.sum())
        if not fresh or not self.followers:
            return logits
        due = min(self.every, max(1, len(self.labels)))
        self.waiting += fresh
        self.last = x[-1:].clone()
        if self.waiting < due:
            self._remember(x[usable], logits[usable])
            return logits
        self._forget(x[usable], logits[usable])
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

    def _forget(self, x: Tensor, logits: Tensor) -> None:
        """Drop what was there before the waiting samples if these are of another domain."""
        samples, labels = self._joined(x, logits.argmax(1))
        old = max(0, len(labels) - self.waiting)
        if self.memory is None or not old:
            return
        parts = (samples[:old], labels[:old]), (samples[old:], labels[old:])
        if another_domain(*parts, logits.shape[1], self.caution):
            self.memory, self.labels = self.memory[old:], self.labels[old:]

    def _follow(self, x: Tensor, logits: Tensor, usable: Tensor) -> Tensor:
        """Passes over memory and batch, as long as new labels show clearly more classes."""
        classes, batch = logits.shape[1], len(x)
        samples, labels = self._joined(x, logits.argmax(1))
        able = torch.cat([usable.new_ones(len(labels) - batch), usable])
        size = 0.0
        for _ in range(self.passes):
            kept = able.clone()
            kept[able] = latest(labels[able], classes, self.capacity)
            found = effective_size(labels[kept], classes)
            if found <= GROWTH * size:
                break
            size, wanted = found, kept.clone()
            wanted[-batch:] = True
            samples, able, kept = samples[wanted], able[wanted], kept[wanted]
            with self._following(kept, size):
                logits = self.logits(samples)
            labels = logits.argmax(1)
        self.memory, self.labels = samples[kept], labels[kept]
        return logits[-batch:]

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
