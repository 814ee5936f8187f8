"""Warm start: contexts from one pass of the original network, then a fit of every layer to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from qact.conversion.dryrun import run, untouched
from qact.conversion.fit import fit_
from qact.conversion.rehearsal import Stand
from qact.conversion.sites import Site
from qact.kernels import eager
from qact.nn.derived import computes
from qact.nn.layer import QAct
from qact.nn.normed import NormedQAct
from qact.rank.layout import fold
from qact.surgery import Edit, batches
from qact.surgery.batches import arguments


class Teacher(Stand):
    """The old function, which lets the context of the new layer follow its input."""

    def __init__(self, site: Site, layer: Any) -> None:
        super().__init__(site)
        self.layer = layer

    def forward(self, input: Tensor) -> Tensor:
        """Apply it, and count the input."""
        core: Any = self.layer
        z = input.detach()
        if isinstance(core, NormedQAct):
            z = self._normed(core, z)
            core = core.quantile
        seen = eager.observe(fold(z, core.dim), core.rule, core.context.bins)
        core.context.follow(seen.to(core.context.mass.dtype), None)
        return super().forward(input)

    def _normed(self, layer: NormedQAct, z: Tensor) -> Tensor:
        """``z`` behind the first norm, whose statistics are those of the first batch."""
        norm: Any = layer.norm_in
        if norm.num_batches_tracked == 0:
            wide = fold(z.float(), layer.quantile.dim)
            variance, mean = torch.var_mean(wide, (0, 2), correction=0)
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
            norm.num_batches_tracked += 1
        return norm.eval()(z)


class Source:
    """A loader, a batch or a function, read as batches; the first one can be looked at."""

    def __init__(self, source: Any, example: Any, model: nn.Module) -> None:
        self.function: Callable[[nn.Module], Any] | None = None
        if callable(source) and not isinstance(source, Iterable):
            if example is None:
                raise ValueError("warm_start is a function: give example_inputs too")
            self.function, self.first = source, example
            return
        given = batches(source, "warm_start")
        first = next(given, None)
        if first is None:
            raise ValueError("warm_start holds no batch to calibrate on")
        self.first = arguments(first, model) if example is None else example
        self.batches: Iterator[Any] = chain([first], given)

    def pass_over(self, model: nn.Module) -> None:
        """Run ``model`` on all of it, once."""
        if self.function is not None:
            self.function(model)
            return
        for batch in self.batches:
            run(model, arguments(batch, model))


def warm(
    model: nn.Module, layers: dict[Site, nn.Module], source: Source, edit: Edit
) -> dict[Site, float]:
    """Set contexts and parameters of ``layers`` from one pass; return how much each fit explains.

    Raises:
        TypeError: a layer is no QAct. ValueError: the source is empty or does not fit.
    """
    for site, layer in layers.items():
        if not isinstance(layer, QAct | NormedQAct):
            raise TypeError(
                f"warm_start fits QAct and NormedQAct; {site.name!r} becomes a "
                f"{type(layer).__name__}: leave warm_start out"
            )
        if not _fits(layer):
            raise TypeError(
                f"warm_start fits what QAct and NormedQAct compute; {site.name!r} becomes a "
                f"{type(layer).__name__}, whose forward or level is its own: leave warm_start out, "
                "or let that class say same_in_eval = True if it computes the same"
            )
        if isinstance(site.module, QAct | NormedQAct):
            raise ValueError(f"{site.name!r} is a {type(site.module).__name__}: it has no function")
    seen = {site: layer for site, layer in layers.items() if site.uses}
    modes = {layer: layer.training for layer in seen.values()}
    for site, layer in seen.items():
        edit.put(site.owner, site.key, Teacher(site, layer))
    with untouched(model, training=False):
        source.pass_over(model)
    for layer in seen.values():
        layer.train(modes[layer])
    return {site: _fitted(site, layer) for site, layer in seen.items()}


def _fits(layer: nn.Module) -> bool:
    """Whether nothing on the way through a layer is a subclass's own."""
    if isinstance(layer, NormedQAct):
        return computes(layer, NormedQAct) and computes(layer.quantile, QAct)
    return computes(layer, QAct)


def _fitted(site: Site, layer: Any) -> float:
    core = layer.quantile if isinstance(layer, NormedQAct) else layer
    if core.context.is_empty:
        raise ValueError(f"warm_start gave {site.name!r} nothing, or nothing finite")
    return fit_(layer, site.module)
