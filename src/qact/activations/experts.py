"""Gates of experts: who answers for an input, by any map from scores to weights; losses of balance.

Gates are (..., E): one row of weights per input, one column per expert.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qact import checks, weights
from qact.activations.registry import activation as _activation
from qact.vectors import lengths, unit_vectors

KINDS = ("linear", "laplace")


def laplace_scores(x: Tensor, centres: Tensor, bias: Tensor | None = None) -> Tensor:
    """``-|a_i - x| + b_i``, (..., E): with softmax the Laplace gate (arXiv 2410.02935).

    Moving centres and inputs by the same vector changes nothing; the nearest centre has the largest
    score, but for the bias.

    Args:
        x: (..., D).
        centres: ``a``, (E, D).
        bias: ``b``, (E,).

    Example:
        >>> laplace_scores(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[-5., -0.]])
    """
    apart = lengths(x[..., None, :] - centres)[..., 0]
    return -apart if bias is None else bias - apart


def threshold_gate(gates: Tensor, threshold: float) -> Tensor:
    """Keep the fewest experts whose weights sum to ``threshold``; the others get 0 (XMoE).

    Yang et al. 2024, arXiv 2403.18926: 1 keeps all, a threshold near 0 the first alone, and their
    number grows with it. What is kept keeps its weight. Equal weights are taken in order.

    Args:
        gates: (..., E), at least 0, rows of sum 1.
        threshold: in [0, 1].

    Example:
        >>> threshold_gate(torch.tensor([[0.5, 0.2, 0.3]]), 0.7)
        tensor([[0.5000, 0.0000, 0.3000]])
    """
    if _share(threshold) == 1:  # whatever rounding makes of the sum
        return gates
    order = gates.detach().argsort(dim=-1, descending=True, stable=True)
    sorted_ = gates.detach().gather(-1, order)
    before = sorted_.cumsum(-1) - sorted_
    keep = before < threshold
    keep[..., 0] = True
    return gates * torch.zeros_like(keep).scatter(-1, order, keep)


def _share(threshold: float) -> float:
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold!r} must be a share in [0, 1]")
    return float(threshold)


def sparsity_loss(gates: Tensor) -> Tensor:
    """``mean |f / |f|_2|_1`` of gates (..., E): 1 for one expert, ``sqrt(E)`` for all alike.

    SpeechMoE, You et al. 2021, arXiv 2105.03036, eq. 6.

    >>> sparsity_loss(torch.eye(4)), sparsity_loss(torch.ones(3, 4) / 4)
    (tensor(1.), tensor(2.))
    """
    return unit_vectors(gates).abs().sum(-1).mean()


def importance_loss(gates: Tensor) -> Tensor:
    """``E sum_j (mean_i f_ij)^2`` of gates (..., E): 1 for balanced experts, E for a single one.

    SpeechMoE, You et al. 2021, arXiv 2105.03036, eq. 7.

    >>> importance_loss(torch.eye(4)), importance_loss(torch.eye(4)[:1])
    (tensor(1.), tensor(4.))
    """
    mean = gates.flatten(0, -2).mean(0)
    return len(mean) * mean.square().sum()


def load_loss(gates: Tensor, chosen: Tensor | None = None) -> Tensor:
    """``E sum_j c_j P_j``: the share of choices that expert j gets, times its mean weight.

    Switch Transformer, Fedus et al. 2021, arXiv 2101.03961, eq. 4: 1 for balanced experts. The
    shares have no gradient.

    Args:
        gates: (..., E), before some are dropped.
        chosen: which experts are used, a mask of the same shape; None is the first of each row.

    Example:
        >>> load_loss(torch.eye(4)), load_loss(torch.eye(4)[:1])
        (tensor(1.), tensor(4.))
    """
    rows = gates.flatten(0, -2)
    if chosen is None:
        chosen = F.one_hot(rows.argmax(-1), rows.shape[-1])
    share = chosen.detach().to(rows.dtype).flatten(0, -2).sum(0)
    return rows.shape[-1] * (share / share.sum().clamp_min(1) * rows.mean(0)).sum()


class Gate(nn.Module):
    """``map(act(s(x)) / tau)``: weights of experts (..., E) for inputs (..., D).

    With ``kind="linear"``, ``s(x) = W x + b``; an identity in the place of ``act`` is the
    dense-to-sparse gate, and a function the activation gate (Nguyen et al. 2024, arXiv 2401.13875).
    With ``"laplace"`` it is :func:`laplace_scores`. As ``tau -> 0`` one expert is left.

    Args:
        features: ``D``.
        experts: ``E``.
        kind: ``"linear"`` or ``"laplace"``.
        activation: of the scores, by any name in ``qact.list_activations()``, a module class or
            None. One that reads a batch has its channels last: give such a module itself.
        temperature: ``tau``.
        normaliser: any of ``qact.weights.names()``; ``"entmax15"`` leaves experts out by itself.
        threshold: of :func:`threshold_gate`; None keeps all.
        transform: of the inputs, in front of the scores (Nguyen et al. 2023, arXiv 2310.14188).

    Example:
        >>> gate = Gate(8, 4, activation="gelu")
        >>> gate(torch.randn(5, 8)).sum(-1).allclose(torch.ones(5))
        True
    """

    def __init__(
        self,
        features: int,
        experts: int,
        kind: str = "linear",
        *,
        activation: str | Callable[..., nn.Module] | nn.Module | None = None,
        temperature: float = 1.0,
        normaliser: str = "softmax",
        threshold: float | None = None,
        transform: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.kind = checks.choice("kind", kind, KINDS)
        self.temperature = checks.number("temperature", temperature, "a positive number", 0)
        self.threshold = None if threshold is None else _share(threshold)
        self.transform = transform
        made = activation if isinstance(activation, nn.Module) else _activation(activation, experts)
        self.activation, self.normaliser = made, weights.create(normaliser)
        plain = nn.Linear(
            checks.integer("features", features, 1), checks.integer("experts", experts, 1)
        )
        self.weight, self.bias = plain.weight, plain.bias

    def dense(self, x: Tensor) -> Tensor:
        """Weights before any are dropped: what losses of balance read."""
        x = x if self.transform is None else self.transform(x)
        if self.kind == "laplace":
            scores = laplace_scores(x, self.weight, self.bias)
        else:
            scores = F.linear(x, self.weight, self.bias)
        return self.normaliser(self.activation(scores) / self.temperature)

    def forward(self, x: Tensor) -> Tensor:
        """Weights of experts."""
        gates = self.dense(x)
        return gates if self.threshold is None else threshold_gate(gates, self.threshold)

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        experts, features = self.weight.shape
        return (
            f"{features}, experts={experts}, kind={self.kind!r}, temperature={self.temperature}, "
            f"threshold={self.threshold}"
        )


class Mixture(nn.Module):
    """``y = sum_j g_j(x) f_j(x)``; an expert runs on the inputs alone whose gate is not 0.

    Args:
        gate: a module from (n, D) to (n, E), such as :class:`Gate`.
        experts: E modules from (n, D) to (n, D').

    Example:
        >>> mixture = Mixture(Gate(8, 3, threshold=0.5), [nn.Linear(8, 2) for _ in range(3)])
        >>> mixture(torch.randn(5, 7, 8)).shape
        torch.Size([5, 7, 2])
    """

    def __init__(self, gate: nn.Module, experts: Sequence[nn.Module]) -> None:
        super().__init__()
        if not experts:
            raise ValueError("experts is empty")
        self.gate, self.experts = gate, nn.ModuleList(experts)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the answers."""
        rows = x.flatten(0, -2)
        gates = self._gates(rows)
        total: Any = None
        for j, expert in enumerate(self.experts):
            used = (gates[:, j] != 0).nonzero().flatten()
            part = gates[used, j, None] * expert(rows[used])
            total = part.new_zeros(len(rows), part.shape[1]) if total is None else total
            total = total.index_add(0, used, part)
        return total.unflatten(0, x.shape[:-1])

    @torch.no_grad()
    def saliency(self, x: Tensor) -> Tensor:
        """REAP (E,): ``mean of g_j(x) |f_j(x)|`` over the inputs that reach expert j, else 0.

        Lasby et al. 2025, arXiv 2510.13999: drop the experts of the lowest.
        """
        rows = x.flatten(0, -2)
        gates, found = self._gates(rows), []
        for j, expert in enumerate(self.experts):
            used = gates[:, j] != 0
            sizes = gates[used, j] * lengths(expert(rows[used]))[:, 0]
            found.append(sizes.mean() if len(sizes) else sizes.sum())
        return torch.stack(found)

    def _gates(self, rows: Tensor) -> Tensor:
        gates = self.gate(rows)
        if gates.shape != (len(rows), len(self.experts)):
            raise ValueError(
                f"the gate gives {tuple(gates.shape)} for {len(rows)} inputs and "
                f"{len(self.experts)} experts"
            )
        return gates


class SoftMoE(nn.Module):
    """Soft mixture: experts see mixtures of tokens, and tokens get mixtures of their answers.

    ``D = softmax over tokens of X Phi``, ``C = softmax over slots``, ``Y = C f(D^T X)``, with ``p``
    slots for each expert (Puigcerver et al. 2023, arXiv 2308.00951, eq. 1 to 3). No token is
    dropped, and no loss of balance is needed. ``scale`` times the unit vectors of X and Phi are
    multiplied, as in section 2.3 there.

    Args:
        features: ``D`` of the tokens.
        experts: modules from (..., D) to (..., D').
        slots: ``p`` for each expert.
        normaliser: any of ``qact.weights.names()`` in the place of both softmaxes.

    Shape: tokens (..., T, D) to (..., T, D').

    Example:
        >>> SoftMoE(8, [nn.Linear(8, 6) for _ in range(4)], slots=2)(torch.randn(5, 9, 8)).shape
        torch.Size([5, 9, 6])
    """

    def __init__(
        self,
        features: int,
        experts: Sequence[nn.Module],
        slots: int = 1,
        *,
        normaliser: str = "softmax",
    ) -> None:
        super().__init__()
        if not experts:
            raise ValueError("experts is empty")
        self.experts, self.slots = nn.ModuleList(experts), checks.integer("slots", slots, 1)
        count = len(experts) * slots
        self.phi = nn.Parameter(torch.randn(checks.integer("features", features, 1), count))
        self.scale = nn.Parameter(torch.ones(()))
        self.dispatching, self.combining = (weights.create(normaliser) for _ in range(2))

    def weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``D`` (..., S, T), slots by tokens, and ``C`` (..., T, S): rows of both sum to 1."""
        unit, phi = unit_vectors(x), self.scale * unit_vectors(self.phi, 0)
        scores = unit @ phi
        return self.dispatching(scores.mT), self.combining(scores)

    def forward(self, x: Tensor) -> Tensor:
        """Dispatch, ask the experts, combine."""
        dispatch, combine = self.weights(x)
        seen = (dispatch @ x).split(self.slots, -2)
        answers = [expert(part) for expert, part in zip(self.experts, seen, strict=True)]
        return combine @ torch.cat(answers, -2)
