"""`convert(model, normaliser=...)`: softmax in the attention of any model, exchanged."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qact.attention import Attention, Form, Normaliser, form
from qact.attention.normaliser import repeated
from qact.attention.quadratic import products
from qact.conversion.build import placed
from qact.conversion.dryrun import run, untouched
from qact.conversion.graft import Grafted, grafted, unfuse
from qact.conversion.multihead import MultiheadAttention
from qact.conversion.rehearsal import close
from qact.conversion.report import NOTE, Row
from qact.conversion.softmax_calls import NotRewrittenError, calls_attention, respelled
from qact.conversion.temperature import temper
from qact.conversion.warm import Source
from qact.surgery import Edit, joined
from qact.surgery import where as _where

KEY = "normaliser"
BACKEND = "qact"  # in the registry of transformers
REGISTRY = "ALL_ATTENTION_FUNCTIONS"
HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads")
# Windows of swin mask by -100; torchvision's do so in a function of their own.
WINDOWS = ("WindowAttention", "WindowMultiHeadAttention")
SHIFTED = ("ShiftedWindowAttention", "ShiftedWindowAttentionV2")
UNASKED = "not asked for"


@dataclass(frozen=True)
class Place:
    """One attention that can be converted: its name, module, heads, and how it is edited."""

    name: str
    module: nn.Module
    heads: int
    edit: Callable[[nn.Module, Edit], None]


def exchange(
    model: nn.Module,
    normaliser: Any,
    options: dict[str, Any],
    where: Any,
    source: Source | None,
    inputs: Any,
) -> None:
    """Give every attention of ``model`` that ``where`` chooses the map; after an error, none.

    Raises:
        TypeError, ValueError: see :func:`qact.convert`.
    """
    places, left = survey(model)
    chosen = _where.parse(where, lambda module: True)
    taken = [place for place in places if chosen(place.module, place.name)]
    left += [(p.name, _kind(p.module), UNASKED) for p in places if p not in taken]
    if not taken:
        raise ValueError(_nothing(model, where, places, left))
    with Edit() as edit:
        before = None if inputs is None else _output(model, inputs)
        layers = {}
        for place in taken:
            layers[place] = _made(normaliser, options, place)
            place.edit(place.module, edit)
            _put(place, Normaliser(place.heads), edit)
        _slow_path(model, taken, edit)
        fits = {}
        if inputs is not None:
            if not close(before, _output(model, inputs)):
                raise ValueError("with softmax in its new place the model gives another output")
            if source is not None:
                fits = _warm(model, layers, source)
        for place, layer in layers.items():
            _put(place, layer, edit)
        edit.set(model, NOTE, _note(model, layers, left, fits))


def survey(model: nn.Module) -> tuple[list[Place], list[tuple[str, str, str]]]:
    """Every attention of ``model``: those that can be converted, and the others with the reason."""
    places: list[Place] = []
    left: list[tuple[str, str, str]] = []
    for name, module in model.named_modules():
        if isinstance(module, Form | Normaliser):
            continue
        try:
            edit = _editor(module)
        except NotRewrittenError as error:
            left.append((name, _kind(module), str(error)))
            continue
        if edit is not None:
            places.append(Place(name, module, _heads(module) or 1, edit))
    return places, left


def _editor(module: nn.Module) -> Callable[[nn.Module, Edit], None] | None:
    """How to let ``module`` ask its normaliser; None if it is no attention.

    Raises:
        NotRewrittenError: it is one that cannot be converted.
    """
    if isinstance(module, Attention) or isinstance(module._modules.get(KEY), Normaliser):
        return lambda module, edit: None
    if isinstance(module, nn.MultiheadAttention):
        if type(module) is not nn.MultiheadAttention:
            raise NotRewrittenError("a MultiheadAttention of a class of its own")
        return lambda module, edit: edit.become(module, MultiheadAttention)
    base: Any = type(module)
    graft = base.forwards if issubclass(base, Grafted) else None
    forward = inspect.unwrap(base.forward if graft is None else graft[0].function)
    if REGISTRY in _names(forward):
        return _registered
    if _masks_softly(type(module).__name__, forward):
        raise NotRewrittenError("masks by -100 in the scores, which only softmax takes for a mask")
    headed = _heads(module) is not None
    if not calls_attention(forward, headed):
        return None
    if not headed:
        raise NotRewrittenError(f"has none of the attributes {', '.join(HEADS)}")
    both = [forward] * 2 if graft is None else [part.function for part in graft]
    new = respelled(both[0], KEY), respelled(both[1], KEY)
    kind = grafted(base if graft is None else base.base, new)
    return lambda module, edit: edit.become(module, kind)


def _masks_softly(kind: str, forward: Any) -> bool:
    own = kind in WINDOWS and any("mask" in name for name in forward.__code__.co_varnames)
    return kind in SHIFTED or own


def _names(forward: Any) -> tuple[str, ...]:
    code = getattr(forward, "__code__", None)
    return () if code is None else code.co_names


def _heads(module: nn.Module) -> int | None:
    for owner in (module, getattr(module, "config", None)):
        for name in HEADS:
            if isinstance(value := getattr(owner, name, None), int):
                return value
    return None


def _kind(module: nn.Module) -> str:
    return type(module).__name__


def _made(normaliser: Any, options: dict[str, Any], place: Place) -> nn.Module:
    """The form or the normaliser of one place, in its dtype, on its device and in its mode."""
    given = copy.deepcopy(normaliser) if isinstance(normaliser, nn.Module) else normaliser
    layer: nn.Module
    if isinstance(place.module, Attention):
        old = place.module.form
        layer = form(given, old.num_heads, old.head_dim, old.causal, **options)
    else:
        layer = Normaliser(place.heads, given, **options)
    return placed(layer, place.module)


def _put(place: Place, layer: nn.Module, edit: Edit) -> None:
    if isinstance(place.module, Attention):
        if isinstance(layer, Form):  # its own softmax stands there already
            edit.put(place.module, "form", layer)
    else:
        edit.put(place.module, KEY, placed(layer, place.module))


def _slow_path(model: nn.Module, taken: list[Place], edit: Edit) -> None:
    """Close the ways of torch round an attention: fused layers and packed batches."""
    mine = {place.module for place in taken}
    layers = [m for m in model.modules() if isinstance(m, nn.TransformerEncoderLayer)]
    unfuse(model, {m for m in layers if not mine.isdisjoint(m.modules())}, edit)


def _registered(module: nn.Module, edit: Edit) -> None:
    """Let a module of transformers ask the registry for :func:`attend`, and masks for it."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask

    forward: Any = inspect.unwrap(type(module).forward)
    forward.__globals__[REGISTRY].register(BACKEND, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(BACKEND, eager_mask)
    config: Any = module.config
    edit.set(config, "_attn_implementation_internal", BACKEND)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """The attention function ``"qact"`` of transformers: weights by the module's normaliser."""
    if kwargs.get("s_aux") is not None:
        raise ValueError(f"{_kind(module)} has a learnt sink in its softmax, which a map has not")
    key, value = (repeated(t, query.shape[1]) for t in (key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = products(query, key, scale)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if position_bias is not None:
        scores = scores + position_bias
    L, S = scores.shape[-2:]
    causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    if attention_mask is None and causal and L > 1:
        attention_mask = torch.ones(L, S, dtype=torch.bool, device=query.device).tril(S - L)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, -torch.inf)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weigh = getattr(module, KEY, None)
    weights = torch.softmax(scores, -1) if weigh is None else weigh(scores)
    weights = F.dropout(weights.to(value.dtype), dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def _output(model: nn.Module, inputs: Any) -> Any:
    with untouched(model, training=False):
        return run(model, inputs)


def _warm(model: nn.Module, layers: dict[Place, nn.Module], source: Source) -> dict[Place, float]:
    """Fit the temperature of each map to the weights of softmax on the source's scores.

    Raises:
        ValueError: a map has no temperature, or the source reaches none of its places.
    """
    mine = {place: layer for place, layer in layers.items() if isinstance(layer, Normaliser)}
    kept: dict[Place, list[Tensor]] = {place: [] for place in mine}
    handles = []
    for place in mine:
        listened: Any = place.module.get_submodule(KEY)
        hook = lambda module, args, kept=kept[place]: kept.append(args[0].detach())  # noqa: E731
        handles.append(listened.map.register_forward_pre_hook(hook))
    with untouched(model, training=False):
        source.pass_over(model)
    for handle in handles:
        handle.remove()
    return {place: temper(layer.map, kept[place], place.name) for place, layer in mine.items()}


def _note(
    model: nn.Module,
    layers: dict[Place, nn.Module],
    left: list[tuple[str, str, str]],
    fits: dict[Place, float],
) -> dict[str, Row]:
    """What :func:`qact.summary` must remember beside what it knew."""
    past: dict[str, Row] = {k: r for k, r in vars(model).get(NOTE, {}).items() if r.now is not None}
    for name, was, why in left:
        past.setdefault(name, Row(name, was, None, why))
    for place, layer in layers.items():
        key = "form" if isinstance(place.module, Attention) else KEY
        name = joined(place.name, key)
        remark = f"fits {fits[place]:.1%}" if place in fits else ""
        was = past[name].was if name in past else "softmax"
        past[name] = Row(name, was, getattr(layer, "label", _kind(layer)), remark)
    return past


def _nothing(
    model: nn.Module, where: Any, places: list[Place], left: list[tuple[str, str, str]]
) -> str:
    """Why no attention is taken."""
    if places:
        names = ", ".join(place.name or "the model itself" for place in places)
        return f"where={where!r} chooses no attention of {_kind(model)}; there are {names}"
    reasons = "".join(f"; {name}: {kind} {why}" for name, kind, why in left)
    return (
        f"{_kind(model)} has no attention that can be converted: torch's MultiheadAttention, a "
        "forward that calls softmax or scaled_dot_product_attention once, or transformers"
        f"{reasons}"
    )
