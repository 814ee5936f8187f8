"""Which activation stands where: one for a whole network, or one per position.

A *position* is the name of the activation's module in its network, as ``named_modules`` has it:
``"stem.2"``, ``"stages.0.1.act2"``. :func:`qact.models.positions` lists those of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Union

from torch import nn

from qact.activations import activation
from qact.registry import Entry, Registry
from qact.surgery.where import named

ActivationFactory = Callable[[int], nn.Module]
Choice = str | ActivationFactory | None
Act = Union[str, ActivationFactory, Mapping[str, Choice], "Placement"]


class Placement:
    """The activations of a network, decided position by position.

    Args:
        choose: called with each position; returns a registered name (:func:`qact.activation`), a
            factory ``f(channels)``, or None for no activation there.

    Example:
        >>> from qact.models import Placement, resnet_small
        >>> first = Placement(lambda position: "qact" if position == "stem.2" else "relu")
        >>> type(resnet_small(act=first).stem[2]).__name__
        'QAct'
    """

    def __init__(self, choose: Callable[[str], Choice]) -> None:
        self._choose = choose
        self._prefix = ""
        self.positions: list[str] = []

    def within(self, name: str) -> Placement:
        """Return the same placement for the part ``name`` of the network."""
        part = Placement(self._choose)
        part._prefix, part.positions = f"{self._prefix}{name}.", self.positions
        return part

    def __call__(self, name: str, channels: int) -> nn.Module:
        """Return a fresh module for the position ``name`` with ``channels`` channels."""
        position = self._prefix + name
        self.positions.append(position)
        return made(self._choose(position), channels)

    def extra(self, name: str, channels: int) -> nn.Module:
        """Return the module of a position that stays empty unless it is named itself."""
        return self(name, channels)

    def finish(self) -> None:
        """Complain of what was asked for and found no place; networks call it at their end."""


class _Everywhere(Placement):
    """One choice for all ordinary positions."""

    def __init__(self, choice: Choice) -> None:
        super().__init__(lambda position: choice)

    def within(self, name: str) -> Placement:
        return self  # the position does not matter

    def extra(self, name: str, channels: int) -> nn.Module:
        return nn.Identity()


class _Patterns(Placement):
    """The first shell pattern that matches decides; extra positions need a key of their own."""

    def __init__(self, table: Mapping[str, Choice]) -> None:
        super().__init__(self._first)
        self._table, self._used = dict(table), set[str]()

    def within(self, name: str) -> Placement:
        part = _Patterns(self._table)
        part._prefix, part.positions = f"{self._prefix}{name}.", self.positions
        part._used = self._used
        return part

    def extra(self, name: str, channels: int) -> nn.Module:
        named = self._prefix + name in self._table
        return self(name, channels) if named else nn.Identity()

    def finish(self) -> None:
        idle = [pattern for pattern in self._table if pattern not in self._used]
        if idle:
            raise ValueError(
                f"no activation stands at {', '.join(map(repr, idle))} that an earlier pattern has "
                f"not taken; positions: {', '.join(self.positions)}"
            )

    def _first(self, position: str) -> Choice:
        keys = [position] if position in self._table else []
        keys += [pattern for pattern in self._table if named(pattern, position)]
        if not keys:
            patterns = ", ".join(map(repr, self._table)) or "none"
            raise ValueError(f"no pattern matches the position {position!r}; given: {patterns}")
        self._used.add(keys[0])
        return self._table[keys[0]]


def made(choice: Choice, channels: int) -> nn.Module:
    """Return a fresh module for ``channels`` channels from a name, a class, a factory or None."""
    if choice is None or isinstance(choice, str | type):
        return activation(choice, channels)
    return choice(channels)


def placed(act: Act) -> Placement:
    """Return what was given as ``act`` as a :class:`Placement`.

    Args:
        act: a registered name or a factory ``f(channels)``, for every position; a mapping from
            positions, shell patterns of them, or parts of the network around them to these, of
            which the position itself or else the first match decides; or a :class:`Placement`.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(act, Placement):
        return act
    if isinstance(act, Mapping):
        return _Patterns(act)
    if isinstance(act, str) or callable(act):
        return _Everywhere(act)
    raise TypeError(
        f"act={act!r} must be a name, a factory of the channels, a mapping of positions to these, "
        "or a Placement"
    )


PLACEMENTS = Registry("placement", Entry)


@PLACEMENTS.register("everywhere", paper="the usual way: one activation for the whole network")
def everywhere(act: Act) -> Act:
    """Return the placement at every position: ``act`` itself."""
    return act


@PLACEMENTS.register("sums", paper="ours: only where a residual sum has been taken")
def sums(act: str | ActivationFactory = "qact", other: Choice = "relu") -> Act:
    """Return the placement at the stem and after residual sums; ``other`` inside the branches.

    The pooled features of a residual network have no activation here.

    Example:
        >>> from qact.models import resnet_small, sums
        >>> net = resnet_small(act=sums())
        >>> [type(m).__name__ for m in (net.stages[0][0].act1, net.stages[0][0].act2)]
        ['ReLU', 'QAct']
    """

    def choose(position: str) -> Choice:
        if position.endswith((".act1", ".act_in", ".act_mid")):
            return other
        return None if position == "features" else act

    return Placement(choose)


@PLACEMENTS.register("branches", paper="ours: only inside residual branches")
def branches(act: str | ActivationFactory = "qact", other: str | ActivationFactory = "relu") -> Act:
    """Return the placement inside the branches of residual blocks alone: :func:`sums` turned round.

    Example:
        >>> from qact.models import branches, resnet_small
        >>> net = resnet_small(act=branches())
        >>> [type(m).__name__ for m in (net.stages[0][0].act1, net.stages[0][0].act2)]
        ['QAct', 'ReLU']
    """
    return sums(other, act)


@PLACEMENTS.register("paper", paper="Challa et al. 2024, arXiv 2405.11573: the authors' code")
def paper(act: str | ActivationFactory = "qact.paper", other: Choice = "relu") -> Act:
    """Return the placement of the paper's code, for any activation.

    In a residual network: the stem, the activation after each residual sum, and the pooled
    features; the first activation of each basic block stays ``other`` (8 of 18 in ResNet-18).
    Blocks with bottlenecks, and networks without residual blocks, get it everywhere: for those
    nothing is published.

    Example:
        >>> from qact.models import paper, resnet18
        >>> from qact.nn.normed import PaperQAct
        >>> net = resnet18(act=paper(), width_multiplier=0.125)
        >>> sum(isinstance(module, PaperQAct) for module in net.modules())
        10
    """

    def choose(position: str) -> Choice:
        return other if position.endswith(".act1") else act

    return Placement(choose)
