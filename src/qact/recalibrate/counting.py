"""Contexts of what passes the layers of a model: counted here, or shard by shard anywhere."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qact import surgery
from qact.context import Context
from qact.recalibrate.sites import Site, entrances, sites
from qact.surgery import Where, evaluating, hooking

BINS = 128  # 1 kB per channel


def chosen_sites(model: nn.Module, where: Where, inputs: bool) -> Sequence[Site]:
    """The layers to record: norms, or linear layers of whose inputs contexts are kept."""
    return entrances(model, where) if inputs else sites(model, where)


def blank(site: Site, bins: int) -> Context:
    """An empty context for a site."""
    own = next(site.module.parameters(), next(site.module.buffers(), torch.empty(0)))
    dtype = torch.float64 if own.dtype == torch.float64 else torch.float32
    return Context(site.channels, bins, device=own.device, dtype=dtype)


@contextmanager
def counting(
    model: nn.Module, chosen: Sequence[Site], contexts: Sequence[Context]
) -> Iterator[None]:
    """Count what passes the sites in a block, each in its context."""
    with hooking(model) as hooks:
        for site, context in zip(chosen, contexts, strict=True):
            hooks.enter_context(site.hook(partial(_count, site=site, context=context)))
        yield


def refuse_unseen(chosen: Sequence[Site], contexts: Sequence[Context]) -> None:
    """Raise RuntimeError if nothing has passed some site."""
    unseen = [s.name for s, c in zip(chosen, contexts, strict=True) if c.is_empty]
    if unseen:
        raise RuntimeError(f"never called: {', '.join(unseen)}; leave these out with where=")


def counted(
    model: nn.Module, chosen: Sequence[Site], contexts: Sequence[Context], source: Any
) -> int:
    """Count all batches of a loader, each site's values in its context; return their number."""
    with torch.no_grad(), evaluating(model), counting(model, chosen, contexts):
        return surgery.call_all(model, source, "source_loader")


def _count(z: Tensor, site: Site, context: Context) -> None:
    try:
        context.add(z.detach(), dim=site.dim)
    except (ValueError, TypeError) as error:
        raise ValueError(f"at layer {site.name!r}: {error}") from error


@dataclass(frozen=True)
class Counter:
    """The contexts of one shard, as bytes: what travels to a worker, and what comes back.

    Called with a shard, it loads and counts it. :meth:`total` adds up what came back. Both are what
    :func:`record` does with ``on=``; by themselves they are for engines that bring their own way
    to run a function, as Spark's ``mapInPandas``. Arguments as :func:`record` has them.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        >>> counter = Counter(model, load=lambda seed: [torch.full((2, 4), seed)])
        >>> (context,), batches = counter.total([counter(0.5), counter(1.0)])
        >>> context.count[0].item(), batches
        (4.0, 2)
    """

    model: nn.Module
    where: Where = None
    bins: int = BINS
    inputs: bool = False
    load: Callable[[Any], Any] | None = None

    def __call__(self, shard: Any) -> bytes:
        """Count one shard."""
        chosen = chosen_sites(self.model, self.where, self.inputs)
        contexts = [blank(site, self.bins) for site in chosen]
        batches = counted(
            self.model, chosen, contexts, [shard] if self.load is None else self.load(shard)
        )
        tensors = {"batches": torch.tensor(batches)}
        for number, context in enumerate(contexts):
            tensors |= {f"{number}.{k}": v.cpu() for k, v in context.state_dict().items()}
        packed = io.BytesIO()
        np.savez_compressed(
            packed, allow_pickle=False, **{k: v.numpy() for k, v in tensors.items()}
        )
        return packed.getvalue()

    def total(self, packs: Iterable[bytes]) -> tuple[list[Context], int]:
        """The contexts of all shards, in the order of the model's layers, and how many batches.

        Counts and grids do not depend on the order of the packs. Moments, means and deviations are
        floating-point sums, the same to the bit if the order is.

        Raises:
            ValueError: a pack is none of this model.
        """
        chosen = chosen_sites(self.model, self.where, self.inputs)
        contexts, batches = [blank(site, self.bins) for site in chosen], 0
        for pack in packs:
            with np.load(io.BytesIO(pack), allow_pickle=False) as found:
                batches += int(found["batches"])
                for number, context in enumerate(contexts):
                    context.merge(self._part(found, number, context))
        return contexts, batches

    def _part(self, found: Any, number: int, like: Context) -> Context:
        begin = f"{number}."
        state = {
            k.removeprefix(begin): torch.from_numpy(found[k]) for k in found if k.startswith(begin)
        }
        part = Context(like.num_features, like.bins, device=like.mass.device, dtype=like.mean.dtype)
        try:
            part.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"a pack of contexts is not of this model: {error}") from error
        return part
