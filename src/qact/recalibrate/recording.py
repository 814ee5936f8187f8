"""What every layer sees on source data: one context per layer, stored in the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from qact import surgery
from qact.context import Context
from qact.recalibrate.counting import (
    BINS,
    Counter,
    blank,
    chosen_sites,
    counted,
    counting,
    refuse_unseen,
)
from qact.recalibrate.sites import INPUTS, NAME, Site, sites
from qact.surgery import Where, lasting

if TYPE_CHECKING:
    from qact.integrations.cluster import Cluster


@lasting
def record(
    model: nn.Module,
    source_loader: Tensor | Iterable[Any],
    *,
    where: Where = None,
    bins: int = BINS,
    inputs: bool = False,
    load: Callable[[Any], Any] | None = None,
    on: Cluster | None = None,
) -> nn.Module:
    """Store in ``model`` what its pre-activations look like on source data; returns ``model``.

    One pass in ``eval()`` without gradients. Each chosen layer gets a :class:`qact.Context` of its
    output as the child ``source_context``: buffers that travel in the ``state_dict``, ``8 bins``
    bytes per channel and a few more, while every other name stays as it was. What was recorded
    before is replaced. If anything goes wrong, the model is left as it was.

    Args:
        model: any network; its norm layers are recorded, or what ``where`` chooses.
        source_loader: batches of source data, or one batch: tensors, tuples or lists whose first
            element is the input, or mappings that are passed as keyword arguments. Labels are not
            needed.
        where: a layer's name, the name of a module around norms, a pattern (``"stages.*"``), a
            type, a predicate ``(module, name) -> bool``, or a list of these; None chooses every
            norm layer that is not part of a QAct.
        bins: resolution of the contexts.
        inputs: record what enters the chosen linear layers instead, as the child ``input_context``:
            of the last one, the features that :mod:`qact.scores` reads.
        load: ``source_loader`` holds shards instead, names of files say, and ``load(shard)`` gives
            the batches of one. Shards are counted each by itself and merged in their
            order, so that the same shards give the same bits wherever they are counted.
        on: a cluster of :func:`qact.cluster.connect`, to whose workers batches or shards go.

    Raises:
        ValueError: no layer fits, the loader is empty, or an activation is not finite.
        RuntimeError: a chosen layer is never called.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
        >>> _ = record(model, [torch.randn(64, 4)])
        >>> model[1].source_context
        Context(8, bins=128)
    """
    chosen = chosen_sites(model, where, inputs)
    if on is None and load is None:
        contexts = [blank(site, bins) for site in chosen]
        batches = counted(model, chosen, contexts, source_loader)
    else:
        counter = Counter(model, where, bins, inputs, load)
        shards = surgery.batches(source_loader, "source_loader")
        packs = map(counter, shards) if on is None else on.in_order(counter, shards)
        contexts, batches = counter.total(packs)
    if not batches:
        raise ValueError("the source loader is empty: there is nothing to record")
    refuse_unseen(chosen, contexts)
    for site, context in zip(chosen, contexts, strict=True):
        setattr(site.module, site.keeps, context.compact())
    return model


def recorded(model: nn.Module) -> dict[str, Context]:
    """The contexts that :func:`record` has stored of outputs, by the names of their layers."""
    found = {name: getattr(module, NAME, None) for name, module in model.named_modules()}
    return {name: context for name, context in found.items() if isinstance(context, Context)}


@contextmanager
def present(model: nn.Module) -> Iterator[dict[str, Context]]:
    """Contexts of what passes, in a block, the layers whose outputs were recorded, by name.

    Raises:
        RuntimeError: a layer has not been called when the block ends.
    """
    kept = recorded(model)
    if not kept:
        yield {}
        return
    chosen = sites(model, None, lambda m: isinstance(getattr(m, NAME, None), Context))
    contexts = [blank(site, kept[site.name].bins) for site in chosen]
    with counting(model, chosen, contexts):
        yield {site.name: context for site, context in zip(chosen, contexts, strict=True)}
    refuse_unseen(chosen, contexts)


@lasting
def attach(
    model: nn.Module,
    state: Mapping[str, Tensor] | None = None,
    *,
    where: Where = None,
    bins: int = BINS,
    inputs: bool = False,
) -> nn.Module:
    """Give ``model`` empty contexts, so that a recorded ``state_dict`` loads strictly.

    Layers that have room already keep what they have.

    Args:
        model: a network as the recorded one was.
        state: the recorded ``state_dict``, which says by itself which layers have a context, of
            their outputs or inputs, and of how many bins. The other arguments are not looked at.
        where: without a state, as :func:`record` had it; so ``bins`` and ``inputs``.

    Raises:
        ValueError: no layer fits, or ``state`` holds no recorded context, or one of a layer that
            ``model`` does not have.

    Example:
        >>> import torch
        >>> build = lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        >>> state = record(build(), [torch.randn(64, 4)], bins=64).state_dict()
        >>> attach(build(), state).load_state_dict(state)
        <All keys matched successfully>
    """
    if state is None:
        wanted = [(site, bins) for site in chosen_sites(model, where, inputs) if not site.context]
    else:
        wanted = list(_lacking(model, state))
    for site, bins in wanted:
        setattr(site.module, site.keeps, blank(site, bins))
    return model


def _lacking(model: nn.Module, state: Mapping[str, Tensor]) -> Iterator[tuple[Site, int]]:
    """The sites whose contexts in ``state`` find no room in ``model``, with their bins."""
    names, found = [name for name, _ in model.named_modules()], 0
    for key, mass in state.items():
        *place, keeps, last = "", *key.split(".")
        if keeps not in (NAME, INPUTS) or last != "mass":
            continue
        found, layer = found + 1, ".".join(place[1:])
        if layer not in names:
            owner = type(model).__name__
            raise ValueError(f"the state has a context of {layer!r}; {owner} has no such layer")
        named = partial(_is_named, layer)
        (site,) = chosen_sites(model, named, keeps == INPUTS)
        if site.context is None or site.context.bins != mass.shape[-1]:
            yield site, mass.shape[-1]
    if not found:
        raise ValueError("the state holds no recorded context; call qact.record first")


def _is_named(layer: str, module: nn.Module, name: str) -> bool:
    return name == layer


def remove(model: nn.Module) -> nn.Module:
    """Take all recorded contexts out of ``model`` again."""
    for module in list(model.modules()):
        for name in (NAME, INPUTS):
            if isinstance(getattr(module, name, None), Context):
                delattr(module, name)
    return model
