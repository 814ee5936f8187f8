"""Bounds against faults, found after training: FT-ClipAct, FitAct and ProAct.

All three take a trained network, put a bounded function where each ReLU stood, and leave its
weights, statistics and mode as they are; after an error the ReLUs stand where they stood.
``batches`` is a list of (images, labels) to measure on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qact.activations.bounded import ClipAct, FitAct, ProAct, _Bounded
from qact.activations.faults import faulty
from qact.surgery import Edit, call_all, evaluating, frozen, hooking, lasting, tapped

Batches = Sequence[tuple[Tensor, Tensor]]
Score = Callable[[nn.Module], float]

RATES = (1e-7, 1e-6, 3e-6, 1e-5, 3e-5)


@torch.no_grad()
def accuracy(model: nn.Module, batches: Batches) -> float:
    """Share of right answers; an answer that is not finite is wrong."""
    right = total = 0
    with evaluating(model):
        for images, labels in batches:
            logits = model(images)
            hit = (logits.argmax(1) == labels) & torch.isfinite(logits).all(1)
            right, total = right + int(hit.sum()), total + len(labels)
    return right / total


def under_faults(
    batches: Batches, rates: Sequence[float] = RATES, trials: int = 2, seed: int = 0
) -> Score:
    """A score for :func:`clip_search_`: the mean accuracy over rates of weight faults."""

    def score(model: nn.Module) -> float:
        found = []
        for k, rate in enumerate(rates):
            for trial in range(trials):  # the same faults for every candidate
                with faulty(model, rate, seed=seed + 1000 * k + trial):
                    found.append(accuracy(model, batches))
        return sum(found) / len(found)

    return score


@torch.no_grad()
def largest(model: nn.Module, batches: Batches) -> dict[str, Tensor]:
    """The largest output (C,) of each channel of each ReLU, by the ReLU's name."""
    found: dict[str, Tensor] = {}

    def note(output: Tensor, name: str) -> None:
        top = output.movedim(1, -1).flatten(0, -2).amax(0)
        found[name] = torch.maximum(found.get(name, top), top)

    with evaluating(model), hooking(model) as hooks:
        for name, module in _relus(model):
            hooks.enter_context(tapped(module, partial(note, name=name)))
        call_all(model, batches)
    return found


def _relus(model: nn.Module) -> list[tuple[str, nn.Module]]:
    places = model.named_modules(remove_duplicate=False)
    found: list[tuple[str, nn.Module]] = [(n, m) for n, m in places if isinstance(m, nn.ReLU)]
    if not found:
        raise ValueError(f"{type(model).__name__} has no nn.ReLU to put a bound on")
    if len({id(m) for _, m in found}) < len(found):
        raise ValueError("one nn.ReLU stands in several places; give each place its own")
    return found


@lasting
def clip_search_(model: nn.Module, batches: Batches, score: Score, rounds: int = 3) -> nn.Module:
    """FT-ClipAct (arXiv 1912.00941): one threshold per layer, searched for resilience.

    Every ReLU becomes a :class:`ClipAct` at the largest value seen. Then, layer by layer, the
    interval from zero to that value is cut in three; of its four ends the one with the best
    ``score`` (see :func:`under_faults`) is kept, and the search goes on between its neighbours.
    """
    with Edit() as edit:
        made = []
        for name, top in largest(model, batches).items():
            made.append(ClipAct(max(float(top.max()), 1e-6)))
            edit.replace(model, name, made[-1])
        for module in made:
            low, high = 0.0, float(module.threshold)
            for _ in range(rounds):
                ends = [low + (high - low) * k / 3 for k in range(4)]
                scores = [_scored(model, module, end, score) for end in ends]
                best = max(range(4), key=lambda k: (scores[k], k))  # of equals, the widest
                module.threshold.fill_(ends[best])
                low, high = ends[max(best - 1, 0)], ends[min(best + 1, 3)]
    return model


def _scored(model: nn.Module, module: ClipAct, threshold: float, score: Score) -> float:
    module.threshold.fill_(threshold)
    return score(model)


@lasting
def fit_bounds_(
    model: nn.Module,
    batches: Batches,
    *,
    epochs: int = 20,
    lr: float = 1e-2,
    decay: float = 4e-4,
    tolerance: float = 0.01,
) -> nn.Module:
    """FitAct (arXiv 2112.13544): one bound per channel, trained with the weights frozen.

    Every ReLU becomes a :class:`FitAct` at its channels' largest values; the bounds then learn by
    cross-entropy and ``decay`` times their mean square, which draws them in. An epoch that costs
    more than ``tolerance`` of the accuracy is undone, and is the last.
    """
    with Edit() as edit:
        made: list[_Bounded] = []
        for name, top in largest(model, batches).items():
            made.append(_started(FitAct(len(top)), top))
            edit.replace(model, name, made[-1])
        _train(model, made, batches, epochs, lr, decay, tolerance, None)
    return model


def _started(module: _Bounded, top: Tensor) -> _Bounded:
    """``module`` with its bound at the largest values."""
    module.bound.data.copy_(top.clamp_min(1e-3))
    return module.to(top.device)


@lasting
def progressive_bounds_(
    model: nn.Module,
    batches: Batches,
    *,
    epochs: int = 1,
    lr: float = 1e-2,
    decay: float = 1e-2,
    tolerance: float = 0.01,
) -> nn.Module:
    """ProAct (arXiv 2406.06313): bounds per layer, per channel in the last, trained one by one.

    From the last layer to the first, the bound of one layer alone is trained: by cross-entropy
    with the labels and with the answers of the unbounded network, and ``decay`` times its mean
    square. Parameters added: one per layer, and the width of the last instead of one.
    """
    teacher = copy.deepcopy(model).eval()
    with Edit() as edit:
        tops = largest(model, batches)
        made: list[_Bounded] = []
        for place, (name, top) in enumerate(tops.items(), 1):
            last = place == len(tops)
            made.append(_started(FitAct(len(top)), top) if last else _started(ProAct(), top.max()))
            edit.replace(model, name, made[-1])
        for module in reversed(made):
            _train(model, [module], batches, epochs, lr, decay, tolerance, teacher)
    return model


def _train(
    model: nn.Module,
    trained: Sequence[_Bounded],
    batches: Batches,
    epochs: int,
    lr: float,
    decay: float,
    tolerance: float,
    teacher: nn.Module | None,
) -> None:
    with evaluating(model), frozen(model):
        bounds = [module.bound.requires_grad_() for module in trained]
        optimizer = torch.optim.Adam(bounds, lr)
        best = accuracy(model, batches)
        for _ in range(epochs):
            kept = [bound.detach().clone() for bound in bounds]
            for images, labels in batches:
                logits = model(images)
                loss = F.cross_entropy(logits, labels)
                if teacher is not None:
                    with torch.no_grad():
                        answers = teacher(images).softmax(1)
                    loss = loss + F.cross_entropy(logits, answers)
                loss = loss + decay * sum(bound.square().mean() for bound in bounds)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                for bound in bounds:
                    bound.data.clamp_(min=1e-3)
            if accuracy(model, batches) < best - tolerance:
                for bound, value in zip(bounds, kept, strict=True):
                    bound.data.copy_(value)
                break
