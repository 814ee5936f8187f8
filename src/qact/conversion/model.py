"""`convert` and `convert_`: the activations of any model, exchanged."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from qact.conversion.attention import exchange
from qact.conversion.build import Maker, home
from qact.conversion.graft import unfuse
from qact.conversion.plan import Plan, plan
from qact.conversion.rehearsal import rehearse
from qact.conversion.report import NOTE, note
from qact.conversion.sites import Site
from qact.conversion.warm import Source, warm
from qact.surgery import kinds
from qact.surgery import where as _where
from qact.surgery.edit import Edit, move_hooks
from qact.surgery.flags import lasting
from qact.surgery.wrapped import check, inner, wrapper


@lasting
def convert(
    model: nn.Module,
    to: Any = "qact",
    *,
    where: Any = None,
    example_inputs: Any = None,
    warm_start: Any = None,
    normaliser: Any = None,
    **options: Any,
) -> nn.Module:
    """Copy ``model`` with its activations exchanged for others; the model itself stays.

    Modules are found wherever they are registered, and functions (``F.relu``, ``torch.relu``,
    ``x.relu()``, ``F.gelu``, ...) in every ``forward`` that torch.fx can follow. An object that is
    used several times gives way to a layer per use. Everything else keeps its parameters, names,
    dtype, device, mode and hooks; the hooks of an exchanged module move to its successor.

    With ``example_inputs`` a dry run in ``eval()`` finds the number of channels and their
    dimension: the one that the last Linear, convolution or norm wrote its features to, followed
    through reshapes and permutations (see the tutorial). A second run, with the old functions in
    the new places, must give the same output. Without ``example_inputs`` a QAct takes its channels
    from its first batch, at dim -1 if the nearest layer in the module is a Linear or LayerNorm.

    Args:
        model: any module, compiled or wrapped in DistributedDataParallel too.
        to: a name of :func:`qact.list_activations`, an entry, a module class, :func:`qact.layer`,
            or a function that returns a fresh module. It is given what it takes of
            ``num_features``, ``dim``, ``device`` and ``dtype``. A QAct has the level of what it
            replaces (``levels="gelu"`` for GELU) unless ``options`` say otherwise.
        where: a name (of an activation, or of a module around some), a pattern (``"layer4.*"``), a
            class, a tuple of these, or a predicate ``(module, name) -> bool`` that is asked of
            every activation. A function is asked about as the module that does the same. None
            takes the activations between layers: ReLU, GELU, SiLU and their like, not gates.
        example_inputs: a tensor, a tuple of arguments, or a dict of named ones.
        warm_start: a batch, an iterable of batches (of pairs, the first is the input), or a
            function that runs a model on the data: contexts are counted and parameters fitted, per
            channel by least squares, so that the new network starts close to the old one.
        normaliser: exchange softmax in attention for this map instead, and leave activations alone:
            a name of :func:`qact.weights.names`, or a module, of which every attention gets a copy.
            ``where`` is then asked of attention, ``example_inputs`` show that with softmax in its
            new place the output is the same, ``warm_start`` fits the temperature of a map that has
            one, and ``options`` are the map's.
        **options: of the activation.

    Returns:
        The copy; if ``model`` is itself an activation, the new layer.

    Raises:
        TypeError: ``model``, ``to``, ``where`` or ``warm_start`` is of a kind that does not serve.
        ValueError: nothing matches; the inputs do not fit; a ``forward`` that must be rewritten
            cannot be traced; channels change from call to call; an unknown name.

    Example:
        >>> import torch, qact
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
        >>> new = convert(net, example_inputs=torch.randn(4, 3, 4, 4))
        >>> type(new[1]).__name__, new[1].num_features, net[1]
        ('QAct', 8, ReLU())
    """
    check(model, in_place=False)
    if normaliser is not None:
        wrap, core = wrapper(model), copy.deepcopy(inner(model))
        _attending(core, to, normaliser, options, where, warm_start, example_inputs)
        return wrap(core)
    make = Maker(to, options)
    wrap, core = wrapper(model), inner(model)
    held = _is_root(core, where)
    core = nn.Sequential(core) if held else core
    source, inputs = _data(warm_start, example_inputs, core)
    found = plan(core, where, inputs, held)
    core, found = copy.deepcopy((core, found))
    _carry_out(core, found, make, inputs, source)
    return wrap(core[0] if held else core)  # type: ignore[index]


@lasting
def convert_(
    model: nn.Module,
    to: Any = "qact",
    *,
    where: Any = None,
    example_inputs: Any = None,
    warm_start: Any = None,
    normaliser: Any = None,
    **options: Any,
) -> nn.Module:
    """:func:`convert` in place; returns ``model``. After an error it is as it was.

    Raises:
        TypeError, ValueError: as :func:`convert`; and if ``model`` is itself an activation, which
            nothing holds, or is wrapped in DistributedDataParallel.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> convert_(net, "golu")[1]
        GoLU()
    """
    check(model, in_place=True)
    if normaliser is not None:
        core = inner(model)
        _attending(core, to, normaliser, options, where, warm_start, example_inputs)
        return model
    make, core = Maker(to, options), inner(model)
    if _is_root(core, where):
        raise ValueError(
            f"the model is itself an activation ({type(core).__name__}), and nothing holds it: "
            "write model = qact.convert(model)"
        )
    source, inputs = _data(warm_start, example_inputs, core)
    _carry_out(core, plan(core, where, inputs, False), make, inputs, source)
    return model


def _attending(
    model: nn.Module,
    to: Any,
    normaliser: Any,
    options: dict[str, Any],
    where: Any,
    warm_start: Any,
    example_inputs: Any,
) -> None:
    if to != "qact":
        raise ValueError(f"to={to!r} and normaliser={normaliser!r} are two conversions: call twice")
    exchange(model, normaliser, options, where, *_data(warm_start, example_inputs, model))


def _data(warm_start: Any, example_inputs: Any, model: nn.Module) -> tuple[Source | None, Any]:
    if warm_start is None:
        return None, example_inputs
    source = Source(warm_start, example_inputs, model)
    return source, source.first


def _is_root(model: nn.Module, where: Any) -> bool:
    return kinds.is_activation(model) or isinstance(model, _where.classes(where))


def _carry_out(model: nn.Module, found: Plan, make: Maker, inputs: Any, source: Any) -> None:
    """Edit ``model``, or leave it as it was and raise."""
    with Edit() as edit:
        for owner, kind in found.grafts:
            edit.become(owner, kind)
        unfuse(model, {site.owner for site in found.sites}, edit)
        if inputs is not None:
            rehearse(model, found, inputs, edit)
        layers = _made(model, found.sites, make)
        fits = {} if source is None else warm(model, layers, source, edit)
        for site, layer in layers.items():
            edit.put(site.owner, site.key, layer)
        for site, layer in layers.items():
            move_hooks(site.module, layer)
        edit.set(model, NOTE, note(model, found, list(layers.values()), fits))


def _made(model: nn.Module, sites: list[Site], make: Maker) -> dict[Site, nn.Module]:
    layers: dict[Site, nn.Module] = {}
    for site in sites:
        layer = make(site, *home(site, model))
        if any(layer is other for other in layers.values()):
            raise ValueError(f"to={make.name!r} returned the same module twice: make a fresh one")
        layers[site] = layer
    return layers
