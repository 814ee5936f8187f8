"""`recalibrated`: a network that never heard of QAct, its pre-activations mapped by rank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from qact import checks
from qact.context import Context
from qact.recalibrate.sites import NAME, Site, sites
from qact.recalibrate.transfer import Stream, by_rank
from qact.surgery import Where, hooking
from qact.surgery.lending import lending, lent

CONTEXTS = ("batch", "mixed", "running")
PRIOR = 32.0
TOKEN = "_recalibrating"


@contextmanager
def recalibrated(
    model: nn.Module,
    context: str = "batch",
    *,
    prior: float | None = None,
    memory: float = 256.0,
    shape: float = 1.0,
    where: Where = None,
) -> Iterator[nn.Module]:
    """Map test values onto the source by rank, in recorded layers of ``model``, for a block.

    Adaptive Quantile Recalibration (Mehrbod et al. 2025, arXiv 2511.03148): a pre-activation
    becomes ``Q_source(F(z))``, the value of the same rank in what :func:`qact.record` has stored.
    ``F`` is the rank in the test context:

    - ``"batch"``: the test batch alone;
    - ``"mixed"``: the test batch and the source, which counts as ``prior`` samples: for
      small batches, down to single samples;
    - ``"running"``: the stream of batches since the block began, forgotten with a ``memory``
      measured in samples, and the source as in ``"mixed"``.

    The block leaves no trace, and blocks nest; the innermost one holds. Other threads that use
    ``model`` meanwhile see none of it. Layers in training mode are left alone.

    Args:
        prior: how many samples the source counts for (32); ``"batch"`` has none.
        memory: samples after which a stream has forgotten all but ``1/e``.
        shape: 1 maps by rank, 0 by a line that matches mean and spread, as BatchNorm would.
        where: which of the recorded layers; forms as in :func:`qact.record`. None takes all.

    Raises:
        RuntimeError: nothing was recorded, or not in a layer that ``where`` chooses.
        ValueError: an option does not fit.

    Example:
        >>> import torch, qact
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU()).eval()
        >>> x = torch.randn(200, 3)
        >>> _ = qact.record(model, [x])
        >>> with recalibrated(model, context="batch"):
        ...     y = model(3 * x + 1)
    """
    options = _options(context, prior, shape)
    checks.number("memory", memory, "a positive number of samples", 0)
    with hooking(model) as undo:
        for site in _recorded(model, where):
            stream = Stream(memory) if context == "running" else None
            undo.enter_context(_mapping(site, options | {"stream": stream}))
        yield model


def _options(context: str, prior: float | None, shape: float) -> dict[str, Any]:
    checks.choice("context", context, CONTEXTS)
    if not 0 <= shape <= 1:
        raise ValueError(f"shape={shape!r} must lie in [0, 1]")
    if context == "batch":
        if prior is not None:
            raise ValueError(f"prior={prior!r} has no part in context='batch'; choose 'mixed'")
        return {"prior": 0.0, "shape": shape}
    prior = PRIOR if prior is None else checks.number("prior", prior, "a positive number", 0)
    return {"prior": prior, "shape": shape}


def _has_context(module: nn.Module) -> bool:
    return isinstance(getattr(module, NAME, None), Context)


def _recorded(model: nn.Module, where: Where) -> list[Site]:
    """The chosen layers, all of them with a context."""
    if where is None and not any(map(_has_context, model.modules())):
        raise RuntimeError("no source context is recorded; call qact.record(model, loader)")
    found = sites(model, where, _has_context)
    for site in found:
        if site.context is None or site.context.is_empty:
            raise RuntimeError(
                f"layer {site.name!r} has no recorded source context; call qact.record, or load a "
                "state with one"
            )
    return found


@contextmanager
def _mapping(site: Site, options: dict[str, Any]) -> Iterator[None]:
    """Map what a layer passes on, unless a block within this one does."""
    own = object()

    def change(z: Tensor) -> Tensor | None:
        context = site.context
        if site.module.training or lent(site.module, TOKEN) is not own or context is None:
            return None
        try:
            return by_rank(z, context, dim=site.dim, **options)
        except (ValueError, TypeError) as error:
            raise type(error)(f"at layer {site.name!r}: {error}") from error

    with lending(site.module, TOKEN, own), site.hook(change):
        yield
