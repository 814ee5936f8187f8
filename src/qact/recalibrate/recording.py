"""What every layer sees on source data: one context per layer, stored in the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qact.context import Context
from qact.recalibrate.sites import INPUTS, NAME, Site, entrances, sites
from qact.surgery import Where, call_all, evaluating, hooking, lasting

BINS = 128  # 1 kB per channel


@lasting
def record(
    model: nn.Module,
    source_loader: Tensor | Iterable[Any],
    *,
    where: Where = None,
    bins: int = BINS,
    inputs: bool = False,
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

    Raises:
        ValueError: no layer fits, the loader is empty, or an activation is not finite.
        RuntimeError: a chosen layer is never called.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
        >>> _ = record(model, [torch.randn(64, 4)])
        >>> model[1].source_context
        Context(8, bins=128)
    """
    chosen = entrances(model, where) if inputs else sites(model, where)
    contexts = [_blank(site, bins) for site in chosen]
    with torch.no_grad(), evaluating(model), _counting(model, chosen, contexts):
        if not call_all(model, source_loader, "source_loader"):
            raise ValueError("the source loader is empty: there is nothing to record")
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
    contexts = [_blank(site, kept[site.name].bins) for site in chosen]
    with _counting(model, chosen, contexts):
        yield {site.name: context for site, context in zip(chosen, contexts, strict=True)}


@contextmanager
def _counting(
    model: nn.Module, chosen: Sequence[Site], contexts: Sequence[Context]
) -> Iterator[None]:
    """Count what passes the sites in a block, each in its context."""
    with hooking(model) as hooks:
        for site, context in zip(chosen, contexts, strict=True):
            hooks.enter_context(site.hook(partial(_count, site=site, context=context)))
        yield
    unseen = [s.name for s, c in zip(chosen, contexts, strict=True) if c.is_empty]
    if unseen:
        raise RuntimeError(f"never called: {', '.join(unseen)}; leave these out with where=")


@lasting
def attach(
    model: nn.Module, *, where: Where = None, bins: int = BINS, inputs: bool = False
) -> nn.Module:
    """Give ``model`` empty contexts, so that a recorded ``state_dict`` loads strictly.

    Layers that have a context keep it. Arguments as :func:`record` had them.

    Example:
        >>> build = lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        >>> recorded = record(build(), [torch.randn(64, 4)])
        >>> attach(build()).load_state_dict(recorded.state_dict())
        <All keys matched successfully>
    """
    for site in entrances(model, where) if inputs else sites(model, where):
        if site.context is None:
            setattr(site.module, site.keeps, _blank(site, bins))
    return model


def remove(model: nn.Module) -> nn.Module:
    """Take all recorded contexts out of ``model`` again."""
    for module in list(model.modules()):
        for name in (NAME, INPUTS):
            if isinstance(getattr(module, name, None), Context):
                delattr(module, name)
    return model


def _blank(site: Site, bins: int) -> Context:
    own = next(site.module.parameters(), next(site.module.buffers(), torch.empty(0)))
    dtype = torch.float64 if own.dtype == torch.float64 else torch.float32
    return Context(site.channels, bins, device=own.device, dtype=dtype)


def _count(z: Tensor, site: Site, context: Context) -> None:
    try:
        context.add(z.detach(), dim=site.dim)
    except (ValueError, TypeError) as error:
        raise ValueError(f"at layer {site.name!r}: {error}") from error
