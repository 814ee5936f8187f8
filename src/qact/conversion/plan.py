"""What a conversion will do: the sites that it takes, the new forwards, and what stays and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from qact.conversion import functions, static
from qact.conversion.dryrun import observe
from qact.conversion.graft import Grafted, grafted
from qact.conversion.rewrite import UntraceableError, fixed, rewritten
from qact.conversion.sites import CLOSED, Event, Site, free, held, owners, within
from qact.surgery import joined, kinds
from qact.surgery import where as _where

GATE = "bounds a gate or an output: name it to take it"
WELDED = "norm and activation are one operation"
PARAMETER = "computes a parameter"
UNASKED = "not asked for"
ASLEEP = "not reached by the example inputs"


@dataclass
class Plan:
    """Sites to convert, classes to graft, and what stays: name, what it is, why."""

    sites: list[Site]
    grafts: list[tuple[nn.Module, type[nn.Module]]] = field(default_factory=list)
    left: list[tuple[str, str, str]] = field(default_factory=list)
    # What the dry run gave: the model's output, and the sites that were at work.
    output: Any = None
    seen: list[Site] = field(default_factory=list)


class Survey:
    """Every activation of a model, in the order of its modules, and how each owner calls them."""

    def __init__(self, model: nn.Module, where: Any, inputs: Any) -> None:
        also = {m for m in model.modules() if isinstance(m, _where.classes(where)) and m != model}
        self.model = model
        self.acts = also | {m for m in model.modules() if kinds.is_activation(m)}
        self.record = None if inputs is None else observe(model, inputs, self.acts)
        self.owners = owners("", model, self.acts)
        self.sites: list[Site] = []
        # Per owner, what its forward calls in turn, and the site of each call.
        self.calls: dict[nn.Module, list[tuple[Event, Site]]] = {}
        self.stock = [
            Site(joined(path, key), act, owner, key, "module", joined(path, key))
            for owner, path in self.owners.items()
            for key, act in owner._modules.items()
            if act in self.acts
        ]
        for owner, path in self.owners.items():
            self.sites += [site for site in self.stock if site.owner is owner]
            self._follow(owner, path, where)

    def awake(self, site: Site) -> bool:
        """Whether the dry run, if there was one, came by."""
        return self.record is None or any(
            site is other for calls in self.calls.values() for _, other in calls
        )

    def _follow(self, owner: nn.Module, path: str, where: Any) -> None:
        """Give every call of an activation in the forward of ``owner`` its site."""
        if self.record is None:
            events = static.events(owner, path, self.acts, _where.parse(where, kinds.is_hidden))
        else:
            events = self.record.events(owner)
        self.calls[owner], count, taken = [], Counter[nn.Module](), set[str]()
        for event in events:
            if event.name is not None:
                site = _call(path, owner, event, events, taken)
                self.sites.append(site)
            else:
                site = self._use(path, owner, event.what, count[event.what], taken)
                count[event.what] += 1
            site.hint = event.hint
            self.calls[owner].append((event, site))

    def _use(self, path: str, owner: nn.Module, act: nn.Module, turn: int, taken: set[str]) -> Site:
        """The site of the next use of ``act``: a place that holds it, or else a new one."""
        places = [site for site in self.stock if site.module is act]
        near = [site for site in places if site.owner in within(owner)]
        if turn < len(near):
            return near[turn]
        first = (near or places)[-1]
        key = free(owner, first.key if not first.key.isdigit() else "activation", taken)
        site = Site(joined(path, key), act, owner, key, "repeat", first.asked)
        self.sites.append(site)
        return site


def plan(model: nn.Module, where: Any, inputs: Any, held: bool) -> Plan:
    """Find every activation of ``model`` and choose by ``where``; nothing is changed.

    ``held`` says that the model is an activation, in a box: its name is empty.

    Raises:
        TypeError, ValueError: see :func:`qact.convert`.
    """
    chosen = _where.parse(where, kinds.is_hidden)
    survey = Survey(model, where, inputs)
    if held:
        survey.sites[0].asked = ""
    wanted = [site for site in survey.sites if chosen(site.module, site.asked)]
    taken = [site for site in wanted if survey.awake(site)]
    if not taken:
        raise ValueError(_nothing(model, where, wanted or survey.sites, bool(wanted)))
    rewrite = {site.owner: None for site in taken if site.kind in ("call", "repeat")}
    found = Plan(taken, left=_left(model, survey, taken, wanted))
    found.grafts = [(owner, _graft(owner, survey, taken)) for owner in rewrite]
    if survey.record is not None:
        found.output = survey.record.output
        called = {site for calls in survey.calls.values() for _, site in calls}
        found.seen = [site for site in taken if site in called]
    return found


def _call(path: str, owner: nn.Module, event: Event, events: list[Event], taken: set[str]) -> Site:
    """The site of a function: an attribute that holds it and is used once, or the call itself."""
    name = event.name or ""
    keys = held(owner, name)
    if len(keys) == 1 and sum(other.name == name for other in events) == 1:
        place = joined(path, keys[0])
        return Site(place, event.what, owner, keys[0], "function", place)
    key = free(owner, name, taken)
    return Site(joined(path, key), event.what, owner, key, "call", joined(path, key))


def _graft(owner: nn.Module, survey: Survey, taken: list[Site]) -> type[nn.Module]:
    """The class of ``owner`` with a forward that calls a layer at each site that is taken."""
    calls = survey.calls[owner]
    order = [event.name or event.what for event, _ in calls]
    path = survey.owners[owner]
    start = len(path) + 1 if path else 0
    keys = [site.name[start:] if site in taken else None for _, site in calls]
    seen = None if survey.record is None else survey.record.plain.get(owner)
    base: Any = type(owner)
    try:
        forwards = rewritten(owner, fixed(owner, seen), order, keys)
    except UntraceableError as error:
        names = [e.name or f"{type(e.what).__name__} (again)" for e, s in calls if s in taken]
        raise ValueError(
            f"{path or 'the model'!r} ({base.__name__}) calls {', '.join(names)} in its forward, "
            f"which torch.fx cannot rewrite: {error}. Give it a module per use (nn.ReLU() and so "
            "on), or leave it out with where="
        ) from error
    return grafted(base.base if issubclass(base, Grafted) else base, forwards)


def _left(
    model: nn.Module, survey: Survey, taken: list[Site], wanted: list[Site]
) -> list[tuple[str, str, str]]:
    """What stays: name, what it is, why."""
    found = [
        (site.name, type(site.module).__name__, ASLEEP if site in wanted else unasked(site.module))
        for site in survey.sites
        if site not in taken and not kinds.is_ours(site.module)
    ]
    for owner, path in survey.owners.items():
        if survey.record is not None and not survey.record.visited(owner):
            names = functions.mentioned(type(owner))
            found += [(joined(path, name), f"{name}()", ASLEEP) for name in sorted(names)]
    for name, module in model.named_modules():
        if kinds.is_welded(module):
            found.append((name, type(module).__name__, WELDED))
        elif isinstance(module, CLOSED):
            inside = [m for m in module.modules() if kinds.is_activation(m)]
            found += [(name, type(m).__name__, PARAMETER) for m in inside]
    return found


def unasked(module: nn.Module) -> str:
    """Why an activation was not chosen."""
    return UNASKED if kinds.is_hidden(module) else GATE


def _nothing(model: nn.Module, where: Any, sites: list[Site], asleep: bool) -> str:
    """Why there is nothing to convert, with what there is."""
    if asleep:
        names = ", ".join(repr(site.name) for site in sites[:8])
        return f"the example inputs reach none of the activations where={where!r} takes: {names}"
    wanted = "of hidden layers (where=None)" if where is None else f"matches where={where!r}"
    welded = [type(m).__name__ for m in model.modules() if kinds.is_welded(m)]
    some = ", ".join(f"{s.asked or '(root)'} ({type(s.module).__name__})" for s in sites[:8])
    more = f" and {len(sites) - 8} more" if len(sites) > 8 else ""
    known = f"it has {some}{more}" if sites else "it has none that is known"
    if welded:
        known += f"; {welded[0]} holds its activation inside, and cannot be converted"
    return (
        f"no activation {wanted} in {type(model).__name__}; {known}. A class of your own is "
        "reached by its type, as where=MyActivation"
    )
