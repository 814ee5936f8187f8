"""`summary`: what stands in a model now, what was converted, and what was left and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from qact import notebook
from qact.attention import Normaliser
from qact.conversion.plan import Plan, unasked
from qact.conversion.sites import Site
from qact.surgery import kinds
from qact.surgery.wrapped import inner

NOTE = "_qact_converted"
WIDTH = 80
HOW = {"call": "a call", "function": "a function", "repeat": "shared"}


@dataclass(frozen=True)
class Row:
    """One activation: its path, what it was, what it is now (None: it was left), and a remark."""

    name: str
    was: str
    now: str | None
    note: str = ""


@dataclass(frozen=True)
class Summary:
    """Rows of :func:`summary`: two tables, of at most 80 columns where they are printed."""

    model: str
    rows: tuple[Row, ...]

    @property
    def converted(self) -> tuple[Row, ...]:
        """What is an activation of this package."""
        return tuple(row for row in self.rows if row.now is not None)

    @property
    def left(self) -> tuple[Row, ...]:
        """What is another activation, with the reason."""
        return tuple(row for row in self.rows if row.now is None)

    @property
    def title(self) -> str:
        """One line: how many were converted, and how many left."""
        return f"{self.model}: {len(self.converted)} converted, {len(self.left)} left"

    def _tables(self) -> Iterator[tuple[Sequence[str], Sequence[Sequence[str]]]]:
        if self.converted:
            rows = [(r.name, r.was, r.now or "", r.note) for r in self.converted]
            yield ("converted", "was", "is", ""), rows
        if self.left:
            yield ("left", "is", "why"), [(r.name, r.was, r.note) for r in self.left]

    def __str__(self) -> str:
        return "\n\n".join([self.title, *(_table(*part) for part in self._tables())])

    def _repr_html_(self) -> str:
        """Shown by notebooks."""
        parts = [notebook.table(self.title, *part) for part in self._tables()]
        return "".join(parts) or notebook.table(self.title, (), ())


def summary(model: nn.Module) -> Summary:
    """Report what :func:`qact.convert` replaced in ``model``, what it did not, and why.

    A model that was never converted is described too: the activations of this package that it
    has, and the others as not asked for.

    Raises:
        TypeError: ``model`` is no module.

    Example:
        >>> import torch, qact
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())
        >>> print(summary(qact.convert(net, example_inputs=torch.randn(3, 4))))
        Sequential: 1 converted, 1 left
        <BLANKLINE>
        converted  was   is
        1          ReLU  QAct  8 channels at dim -1
        <BLANKLINE>
        left  is       why
        3     Sigmoid  bounds a gate or an output: name it to take it
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={model!r} must be a module")
    model = inner(model)
    past: dict[str, Row] = vars(model).get(NOTE, {})
    rows = {}
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in inside or not (kinds.is_activation(module) or _is_new(past, name, module)):
            continue
        inside |= set(module.modules())
        old, kind = past.get(name), _kind(module)
        if old is not None and old.now == kind:
            rows[name] = Row(name, old.was, kind, _note(module, old.note))
        elif kinds.is_ours(module):
            rows[name] = Row(name, "", kind, _note(module, ""))
        else:
            reason = old.note if old else unasked(module)
            rows[name] = Row(name, kind, None, reason)
    # Calls and welded layers are no modules of their own: only the conversion knew of them.
    rows = {name: row for name, row in past.items() if row.now is None} | rows
    return Summary(type(model).__name__, tuple(rows.values()))


def note(
    model: nn.Module, plan: Plan, layers: list[nn.Module], fits: dict[Site, float]
) -> dict[str, Row]:
    """What :func:`summary` must remember: the past of each layer, and the reason of what stays."""
    past: dict[str, Row] = {k: r for k, r in vars(model).get(NOTE, {}).items() if r.now is not None}
    for name, was, why in plan.left:
        past.setdefault(name, Row(name, was, None, why))
    for site, layer in zip(plan.sites, layers, strict=True):
        was = type(site.module).__name__
        remarks = [HOW.get(site.kind, "")] + ([f"fits {fits[site]:.1%}"] if site in fits else [])
        past[site.name] = Row(site.name, was, _kind(layer), ", ".join(filter(None, remarks)))
    return past


def _is_new(past: dict[str, Row], name: str, module: nn.Module) -> bool:
    return name in past and past[name].now == _kind(module)


def _kind(module: nn.Module) -> str:
    """The name of its class, of the map that it holds, or of what its first input makes of it."""
    if isinstance(module, Normaliser):
        return module.label
    return (getattr(module, "cls_to_become", None) or type(module)).__name__


def _note(module: nn.Module, how: str) -> str:
    core: Any = getattr(module, "quantile", module)
    channels = getattr(core, "num_features", None)
    if channels is None:
        return how
    place = f" at dim {core.dim}" if hasattr(core, "dim") else ""
    size = f"{channels} channels{place}" if channels else f"lazy{place}"
    return f"{size}; {how}" if how else size


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side; a name that is too long for the line has a line of its own."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    widths[0] = max(len(heads[0]), min(widths[0], WIDTH - sum(widths[1:]) - 2 * len(widths[1:])))
    lines = []
    for row in (heads, *rows):
        name, *cells = row
        if len(name) > widths[0]:
            lines.append(name)
            name = ""
        padded = (c.ljust(w) for c, w in zip((name, *cells), widths, strict=True))
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
