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

A drift that is proven need not be worth following: a source that is good in spite of it loses by
it. So source and follower predict the same samples, and the follower stands back unless its
predictions hold more information (:mod:`qact.adapt.information`).

All of it is written into the stored contexts (and BatchNorm statistics) of the copy. A prediction
reads nothing else, so single samples are predicted alone, and a reset is exact.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qact import checks
from qact.adapt.followers import Follower, followers
from qact.adapt.information import Evidence
from qact.adapt.method import Method
from qact.adapt.recent import another_domain, latest, worth
from qact.adapt.registry import register
from qact.adapt.rows import checked, finite_rows
from qact.adapt.shrinkage import class_shares, effective_size
from qact.statistics.lend import adapting

GROWTH = 1.5  # of the effective size, for which another pass is worth its time
ONE = 1.5  # effective size below which a source sees a single class


class Memory(NamedTuple):
    """Samples and what is known of each, in order of arrival.

    ``shares`` are the classes of the batch that a sample came with, (N, C). A memory that is
    balanced by predicted labels collects the wrong ones: of a batch of one class it keeps all those
    that were taken for another. So how many classes there are is counted before anything is left
    out.
    """

    samples: Tensor
    labels: Tensor
    shares: Tensor
    source: Tensor  # logits of the source

    @classmethod
    def of(cls, x: Tensor, logits: Tensor, source: Tensor, usable: Tensor) -> Memory:
        """A batch with its predictions."""
        labels = logits.argmax(1)
        shares = class_shares(labels[usable], logits.shape[1]).expand(len(x), -1)
        return cls(x, labels, shares, source)

    def rows(self, index: Tensor) -> Memory:
        """Some of the samples."""
        return Memory(*(part[index] for part in self))

    def labelled(self, logits: Tensor, usable: Tensor) -> Memory:
        """With new labels, and new shares for the last batch."""
        labels, batch = logits.argmax(1), len(usable)
        shares = class_shares(labels[-batch:][usable], logits.shape[1]).expand(batch, -1)
        return self._replace(labels=labels, shares=torch.cat([self.shares[:-batch], shares]))


class Followed(NamedTuple):
    """Where some passes have led."""

    seen: Memory
    kept: Tensor
    logits: Tensor
    size: float  # n_eff

    def fresh(self, usable: Tensor, waiting: int) -> tuple[Tensor, Tensor]:
        """Logits of source and follower for the newest samples."""
        able = torch.cat([usable.new_ones(len(self.logits) - len(usable)), usable])
        return self.seen.source[able][-waiting:], self.logits[able][-waiting:]


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
    sees a single class (``n_eff = 1``) follows nothing. And all layers keep their source as long as
    what has followed says no more about the latest samples than a sure source
    (:class:`qact.adapt.information.Evidence`).

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

    def configure(self) -> None:
        """Keep the source beside the model: statistics of its own, the same parameters."""
        super().configure()
        shared: dict[int, Any] = {id(p): p for p in self.model.parameters()}
        self._twin = (copy.deepcopy(self.model, shared),)  # in a tuple: it is no submodule

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Safe:
        super()._apply(fn, recurse)
        for twin in self._twin:
            twin._apply(fn)
        return self

    def begin(self) -> None:
        """Nothing has been seen."""
        self.memory: Memory | None = None
        self.last: Tensor | None = None
        self.waiting = 0
        self.following = False  # what is stored is the source
        self.evidence = Evidence(2.0 * self.capacity)
        self.followers = followers(self.model)

    def get_extra_state(self) -> dict[str, Any]:
        """The memory: without it the next update would begin at the source."""
        if not self._begun:
            self.reset()
        state = {name: getattr(self, name) for name in ("last", "waiting", "following")}
        state |= {"totals": self.evidence.totals, "count": self.evidence.count}
        return state | {"memory": None if self.memory is None else self.memory._asdict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """A memory that was saved; the contexts that were stored from it come with the rest."""
        memory = state["memory"]
        self.memory = None if memory is None else Memory(**memory)
        self.last, self.waiting, self.following = (
            state[name] for name in ("last", "waiting", "following")
        )
        self.evidence.totals, self.evidence.count = state["totals"], state["count"]
        for follower in self.followers:
            follower.share = 1.0  # what is stored may not be the source

    @torch.no_grad()
    def forward_and_adapt(self, x: Tensor) -> Tensor:
        """Predict from what is stored; where enough is new, follow it and predict again."""
        source = self._from_source(x)
        logits = self.logits(x) if self.following else source
        usable = worth(x, self.last) & finite_rows(logits) & finite_rows(source)
        fresh = int(usable.sum())
        if not fresh or not self.followers:
            return logits
        due = min(self.every, 1 if self.memory is None else len(self.memory.labels))
        self.waiting += fresh
        self.last = x[-1:].clone()
        new = Memory.of(x, logits, source, usable)
        if self.waiting < due:
            seen = self._joined(new.rows(usable))
            self.memory = seen.rows(latest(seen.labels, logits.shape[1], self.capacity))
            return logits
        self._forget(new.rows(usable))
        logits = self._follow(new, usable)
        self.waiting = 0
        return logits

    def _from_source(self, x: Tensor) -> Tensor:
        """The logits of the model as it was given."""
        (twin,) = self._twin
        with adapting(twin, "running"):
            return checked(twin(x), len(x))

    def _joined(self, new: Memory) -> Memory:
        if self.memory is None:
            return new
        return Memory(*map(torch.cat, zip(self.memory, new, strict=True)))

    def _forget(self, new: Memory) -> None:
        """Drop what was there before the waiting samples if these are of another domain."""
        seen = self._joined(new)
        old = max(0, len(seen.labels) - self.waiting)
        if self.memory is None or not old:
            return
        parts = [(part[:old], part[old:]) for part in (seen.samples, seen.labels)]
        before, after = zip(*parts, strict=True)
        if another_domain(before, after, new.source.shape[1], self.caution):
            self.memory = Memory(*(part[old:] for part in self.memory))
            self.evidence = Evidence(self.evidence.half_life)

    def _follow(self, new: Memory, usable: Tensor) -> Tensor:
        """Follow memory and batch if that is worth it, else go back to the source."""
        seen, was = self._joined(new), self.following
        found = self._passes(seen, usable, bold=False)
        self.evidence.add(*found.fresh(usable, self.waiting))
        self.following = self.evidence.worth(found.size)
        if not (was or self.following) and found.size < ONE:
            # One class, or a source that takes all for one, and then nothing would ever follow. So
            # what the few other labels seem to show is tried; it has to prove what one class must.
            tried = self._passes(seen, usable, bold=True)
            trial = Evidence(self.evidence.half_life)
            trial.add(*tried.fresh(usable, self.waiting))
            if trial.proven(1.0):
                found, self.evidence, self.following = tried, trial, True
        self.memory = found.seen.rows(found.kept)
        if not self.following:
            for follower in self.followers:
                follower.restore()
        return (found.logits if self.following else found.seen.source)[-len(usable) :]

    def _passes(self, seen: Memory, usable: Tensor, bold: bool) -> Followed:
        """Passes over memory and batch, as long as new labels show clearly more classes.

        Classes are counted in the batches that the samples came with; ``bold``, in what is kept.
        """
        classes, batch = seen.source.shape[1], len(usable)
        able = torch.cat([usable.new_ones(len(seen.labels) - batch), usable])
        size = 0.0
        for _ in range(self.passes):
            kept = able.clone()
            kept[able] = latest(seen.labels[able], classes, self.capacity)
            shares = class_shares(seen.labels[kept], classes) if bold else seen.shares[kept].mean(0)
            found = effective_size(shares, int(kept.sum()))
            if found <= GROWTH * size:
                break
            size, wanted = found, kept.clone()
            wanted[-batch:] = True
            seen, able, kept = seen.rows(wanted), able[wanted], kept[wanted]
            with self._following(kept, size):
                logits = self.logits(seen.samples)
            seen = seen.labelled(logits, usable)
        return Followed(seen, kept, logits, size)

    @contextmanager
    def _following(self, rows: Tensor, size: float) -> Iterator[None]:
        """In a forward pass each layer follows these rows of its input, then reads what it has."""
        whole = bool(rows.all())

        def follow(follower: Follower, input: Tensor) -> None:
            follower.follow(input if whole else input[rows], size, self.caution)

        with ExitStack() as undo:
            for follower in self.followers:
                undo.enter_context(follower.hearing(partial(follow, follower)))
            yield
