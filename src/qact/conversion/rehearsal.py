"""Stand-ins: the old functions in the new places, to see that the edited model is the same."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from qact._compat import tree_leaves
from qact.conversion.dryrun import observe
from qact.conversion.plan import Plan
from qact.conversion.sites import Site
from qact.surgery import Edit


class Stand(nn.Module):
    """What stood at a site, never in place and without its hooks."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.was = copy.copy(site.module)
        if getattr(self.was, "inplace", False):
            vars(self.was)["inplace"] = False

    def forward(self, input: Tensor) -> Tensor:
        """Apply it."""
        return self.was.forward(input)


def rehearse(model: nn.Module, plan: Plan, inputs: Any, edit: Edit) -> None:
    """Run the edited model with a stand-in at each site, and note what each site is given.

    Raises:
        ValueError: it computes something else than before, a site is not reached, or a site is
            given inputs with different numbers of channels.
    """
    stands: dict[nn.Module, Site] = {}
    for site in plan.sites:
        stand = Stand(site)
        stands[stand] = site
        edit.put(site.owner, site.key, stand)
    record = observe(model, inputs, set(stands))
    for calls in record.passes.values():
        for event in (event for part in calls for event in part):
            if event.what in stands and event.use is not None:
                stands[event.what].uses.append(event.use)
    for site in plan.seen:
        if not site.uses:
            raise ValueError(
                f"{site.name!r} ({type(site.module).__name__}) is at work, but not through this "
                "attribute: its model keeps it elsewhere too (in a list, or a closure)"
            )
    for site in plan.sites:
        _agree(site)
    if not close(plan.output, record.output):
        raise ValueError(
            "the model relies on an activation that overwrites its input in place (or on Python "
            "state that its trace does not show): with the same functions out of place it gives "
            "another output"
        )


def _agree(site: Site) -> None:
    sizes = sorted({use.channels for use in site.uses})
    if len(sizes) > 1:
        shapes = ", ".join(str(use.shape) for use in site.uses)
        raise ValueError(
            f"{site.name!r} ({type(site.module).__name__}) is called with {sizes} channels "
            f"(shapes {shapes}); a layer with a context has one number of channels"
        )


def close(before: Any, after: Any) -> bool:
    """Whether two outputs agree up to rounding."""
    old, new = tree_leaves(before), tree_leaves(after)
    pairs = [(a, b) for a, b in zip(old, new, strict=False) if isinstance(a, Tensor)]
    return len(old) == len(new) and all(_same(a, b) for a, b in pairs)


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or not a.is_floating_point():
        return a.shape == b.shape
    size = float(a.detach().abs().nan_to_num().max()) if a.numel() else 0.0
    loose = 1e-2 if a.dtype in (torch.float16, torch.bfloat16) else 1e-4
    return torch.allclose(a, b, rtol=loose, atol=loose * size, equal_nan=True)
