"""Early warning: how far a model's present contexts are from those of its training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from qact.adapt.method import Method
from qact.nn.layer import QAct
from qact.recalibrate.recording import present, recorded
from qact.statistics.drift import Drift, compared, contexts, watched
from qact.surgery import call_all, evaluating


def drift(model: nn.Module, batches: Tensor | Iterable[Any] | None = None) -> Drift:
    """Report per layer how far the present context is from the stored one.

    Layers are those of QAct, and those whose outputs :func:`qact.record` has recorded: norms, and
    the scores of attention (``where=qact.attention.Scores``).

    The present context is that of ``batches``, passed through the model with stored contexts, so a
    layer's drift is that of its own inputs. For a :class:`qact.adapt.Method` without ``batches`` it
    is what the method has made of the contexts, against those it started with: 0 for one that reads
    the batch and stores nothing.

    Small batches drift by chance: with ``n`` independent values KS is about ``0.87 / sqrt(n)``. So
    there is a p-value beside it: how often samples of the stored context are as far, with as many
    values as the samples are worth at the least, since those of one image are alike. It takes the
    stored context as known, which an average of a few small training batches is not; a
    :class:`qact.monitor.Monitor` calibrates on held-out images instead.

    Args:
        model: a model with QAct layers, or a method that adapts one. It stays as it is.
        batches: a batch (N, ...), or several, in the forms that :func:`qact.record` takes.

    Raises:
        TypeError: ``model`` is no module, or ``batches`` yields no tensors.
        ValueError: there is no such layer, or nothing to compare with.
        RuntimeError: a stored context has seen no data.

    Example:
        >>> import torch, qact
        >>> model = nn.Sequential(nn.Linear(3, 4), qact.QAct(4))
        >>> for _ in range(10):
        ...     _ = model(torch.randn(64, 3))
        >>> near = drift(model.eval(), torch.randn(512, 3)).worst.ks.mean()
        >>> far = drift(model, 3 * torch.randn(512, 3) + 1).worst.ks.mean()
        >>> bool(near < 0.1 < 0.2 < far)
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={model!r} must be a torch.nn.Module")
    inner, source = (model.model, model.source) if isinstance(model, Method) else (model, model)
    if batches is None:
        if inner is source:
            raise ValueError("batches=None: pass the batches whose contexts shall be compared")
        return compared(contexts(source), contexts(inner))
    heard, layers = recorded(source), any(isinstance(m, QAct) for m in source.modules())
    stored = (contexts(source) if layers or not heard else {}) | heard
    with torch.no_grad(), evaluating(inner), watched(inner) as (own, sizes), present(inner) as rest:
        if not call_all(inner, batches):
            raise ValueError("batches are empty: there is nothing to compare")
    return compared(stored, own | rest, sizes)
