"""What the heads of a network do: entropy, rank, sinks, largest scores, the bound of dispersion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qact import notebook
from qact.attention.normaliser import Normaliser
from qact.attention.quadratic import Mapped
from qact.surgery import batches as batches_of
from qact.surgery import call, evaluating, hooking

HEADS = ("layer", "head", "entropy", "rank", "sink", "largest score", "bound")


@dataclass(frozen=True)
class LayerDiagnosis:
    """One layer, each a tensor (H,), means over the queries of all batches unless said otherwise.

    Args:
        name: of the attention in the model.
        entropy: of a query's weights over their logarithm of keys, in [0, 1] on the simplex: 1 is
            uniform. Weights that do not sum to 1 are divided by their sum.
        rank: numerical rank of the matrix of weights: singular values above 1e-3 of the largest.
        sink: weight of the first key, as a share of the row.
        largest: largest score, over everything.
        bound: largest weight that softmax could give, ``e^(M - m)/n`` with the range ``M - m`` of
            the scores, at most 1: where it is small the head must disperse.
    """

    name: str
    entropy: Tensor
    rank: Tensor
    sink: Tensor
    largest: Tensor
    bound: Tensor


@dataclass(frozen=True)
class Diagnosis:
    """All layers, in the order of the model; printed and in notebooks a table."""

    layers: tuple[LayerDiagnosis, ...]

    def sink_share(self, above: float = 0.3) -> float:
        """The share of heads whose mean weight on the first key is ``above`` (arXiv 2410.10781)."""
        return float((torch.cat([layer.sink for layer in self.layers]) > above).float().mean())

    def _rows(self) -> list[tuple[str, ...]]:
        rows = []
        for d in self.layers:
            for h in range(len(d.entropy)):
                numbers = d.entropy[h], d.rank[h], d.sink[h], d.largest[h], d.bound[h]
                rows.append((d.name, str(h), *(f"{float(n):.3f}" for n in numbers)))
        return rows

    def __str__(self) -> str:
        rows = [HEADS, *self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )

    def _repr_html_(self) -> str:
        """Shown by notebooks."""
        return notebook.table("Attention", HEADS, self._rows())


def dispersion_bound(scores: Tensor, dim: int = -1) -> Tensor:
    """``min(1, e^(M - m)/n)``: the largest weight that softmax can give to scores of that range.

    Velickovic et al. 2024, arXiv 2410.01104: with bounded scores it falls as ``1/n``. Scores of
    ``-inf`` are left out.

    Example:
        >>> dispersion_bound(torch.tensor([0.0, 1.0, *[0.0] * 98]))
        tensor(0.0272)
    """
    kept = scores != -torch.inf
    high = scores.masked_fill(~kept, -torch.inf).amax(dim)
    low = scores.masked_fill(~kept, torch.inf).amin(dim)
    return torch.exp((high - low).clamp(0, 80)).div(kept.sum(dim).clamp_min(1)).clamp_max(1)


@contextmanager
def watching(model: nn.Module, seen: Any) -> Iterator[None]:
    """Call ``seen(name, scores, weights)`` for each map of attention scores within the block."""
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, Mapped | Normaliser)]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no attention of this package with a map of scores; "
            'qact.convert(model, normaliser="softmax") gives it one'
        )
    with hooking(model) as hooks:
        for name, form in found:
            place = name.removesuffix(".form").removesuffix(".normaliser")
            hook = partial(_heard, name=place, seen=seen)
            hooks.enter_context(form.map.register_forward_hook(hook))
        yield


def _heard(module: nn.Module, args: Any, output: Tensor, name: str, seen: Any) -> None:
    scores, mask = (*args, None)[:2]
    if mask is not None:
        boolean = mask.dtype == torch.bool
        scores = scores.masked_fill(~mask, -torch.inf) if boolean else scores + mask
    seen(name, scores.detach(), output.detach())


@torch.no_grad()
def diagnose(model: nn.Module, batches: Tensor | Iterable[Any]) -> Diagnosis:
    """Describe each head of each attention of ``model`` on ``batches``, in ``eval()``.

    Args:
        model: a network with :class:`qact.attention.Attention`, or one that ``qact.convert(model,
            normaliser=...)`` has made.
        batches: a batch, or several, in the forms that :func:`qact.record` takes.

    Raises:
        ValueError: there is no attention with a map of scores, or ``batches`` is empty.

    Example:
        >>> from qact.attention import Attention
        >>> layer = Attention(8, 2)
        >>> diagnose(layer, torch.randn(4, 6, 8)).layers[0].entropy.shape
        torch.Size([2])
    """
    parts: dict[str, list[list[Tensor]]] = {}

    def seen(name: str, scores: Tensor, weights: Tensor) -> None:
        parts.setdefault(name, []).append(_measured(scores, weights))

    with evaluating(model), watching(model, seen):
        for batch in batches_of(batches):
            call(model, batch)
    if not parts:
        raise ValueError("batches are empty, or reach no attention: there is nothing to describe")
    layers = []
    for name, found in parts.items():
        entropy, rank, sink, largest, bound = (torch.stack(p) for p in zip(*found, strict=True))
        means = entropy.mean(0), rank.mean(0), sink.mean(0), largest.amax(0), bound.mean(0)
        layers.append(LayerDiagnosis(name, *means))
    return Diagnosis(tuple(layers))


def _measured(scores: Tensor, weights: Tensor) -> list[Tensor]:
    """Entropy, rank, sink, largest score and bound per head of one batch."""
    w = weights.float().clamp_min(0)
    p = w / w.sum(-1, keepdim=True).clamp_min(1e-12)
    kept = (scores != -torch.inf).sum(-1).clamp_min(2).expand(p.shape[:-1])
    entropy = torch.special.entr(p).sum(-1) / kept.to(p.dtype).log()
    values = torch.linalg.svdvals(weights.float())
    rank = (values > 1e-3 * values[..., :1]).sum(-1).to(p.dtype)
    bound = dispersion_bound(scores.float())
    return [
        entropy.mean((0, 2)),
        rank.mean(0),
        p[..., 0].mean((0, 2)),
        scores.float().amax((0, 2, 3)),
        bound.mean((0, 2)),
    ]
