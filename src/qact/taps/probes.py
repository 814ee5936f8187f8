"""Linear probes: what can be read off a layer, and what a probe would have read anyway."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from qact import checks
from qact.calibration.minimize import minimize
from qact.taps.steering import Direction


@dataclass(frozen=True)
class Probe:
    """Logistic regression of classes on activations: ``softmax(W h + b)``.

    Args:
        weight: ``W`` (K, C), float64.
        bias: ``b`` (K,).
    """

    weight: Tensor
    bias: Tensor

    def logits(self, values: Tensor) -> Tensor:
        """(N, K) of activations (N, C)."""
        return values.double() @ self.weight.mT + self.bias

    def accuracy(self, values: Tensor, labels: Tensor) -> float:
        """Share of right answers."""
        return float((self.logits(values).argmax(1) == labels).double().mean())

    def direction(
        self, name: str, target: float = 0.5, fingerprint: str | None = None
    ) -> Direction:
        """Of a probe of two classes: where class 1 has probability ``target``, for steering.

        Raises:
            ValueError: there are more classes.
        """
        if len(self.weight) != 2:
            raise ValueError(f"the probe has {len(self.weight)} classes; a concept has two")
        normal, bias = self.weight[1] - self.weight[0], float(self.bias[1] - self.bias[0])
        return Direction({name: normal.float()}, "concept", {name: bias}, target, fingerprint)


def probe(values: Tensor, labels: Tensor, *, decay: float = 1.0) -> Probe:
    """Fit a logistic probe to activations.

    The minimum of ``sum_i cross_entropy(W z_i + b, y_i) + decay / 2 |W|^2`` over standardised
    activations ``z``, in float64 (Alain and Bengio 2016, arXiv 1610.01644).

    Args:
        values: pooled activations (N, C), as ``tap.read("mean")`` gives them.
        labels: classes (N,), integer, at least two.
        decay: weight of the penalty, positive.

    Raises:
        ValueError: shapes do not fit, values are not finite, or there is one class alone.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> probe(x, torch.tensor([0, 0, 1, 1])).accuracy(x, torch.tensor([0, 0, 1, 1]))
        1.0
    """
    checks.tensors(values=values, labels=labels)
    checks.number("decay", decay, "a positive number", 0)
    if values.dim() != 2 or labels.shape != values.shape[:1]:
        raise ValueError(
            f"values have shape {tuple(values.shape)} and labels {tuple(labels.shape)}; a probe "
            "needs (N, C), pooled, and (N,)"
        )
    x = values.detach().double()
    if not bool(torch.isfinite(x).all()):
        raise ValueError("the values hold something that is not finite")
    classes = int(labels.max()) + 1
    if classes < 2 or len(labels.unique()) < 2:
        raise ValueError(
            f"labels hold {labels.unique().tolist()} alone; a probe tells classes apart"
        )
    mean, std = x.mean(0), x.std(0, correction=0)
    std = torch.where(std > 0, std, 1.0)
    z, y = (x - mean) / std, labels.long()

    def loss(flat: Tensor) -> Tensor:
        weight, bias = flat[:-classes].reshape(classes, -1), flat[-classes:]
        fit = F.cross_entropy(z @ weight.mT + bias, y, reduction="sum")
        # The biases' common offset is free: hold it at zero, so that there is one minimum.
        return (fit + decay / 2 * weight.square().sum() + bias.mean().square()) / len(y)

    flat = minimize(loss, z.new_zeros(classes * (z.shape[1] + 1)))
    weight, bias = flat[:-classes].reshape(classes, -1) / std, flat[-classes:]
    return Probe(weight, bias - weight @ mean)


@dataclass(frozen=True)
class Probed:
    """A probe on held-out samples, and what it would have found in labels without meaning.

    Args:
        accuracy: with the labels.
        chance: of the most frequent class.
        shuffled: accuracy of probes trained on shuffled labels, against the true ones.
        control: accuracy of a control task, random classes of groups of inputs, on held-out ones.
    """

    accuracy: float
    chance: float
    shuffled: tuple[float, ...]
    control: float

    @property
    def selectivity(self) -> float:
        """Accuracy less that of the control task (Hewitt and Liang 2019, arXiv 1909.03368)."""
        return self.accuracy - self.control


def probed(
    values: Tensor,
    labels: Tensor,
    *,
    groups: Tensor | None = None,
    held_out: float = 0.5,
    shuffles: int = 5,
    decay: float = 1.0,
    seed: int = 0,
) -> Probed:
    """Fit a probe on one part of the samples and score it on the rest, with two controls.

    - Shuffled labels: a probe that still beats chance has read the split, not the layer.
    - A control task: each group (a word, an object, a value of the input) has a random class, so
      that nothing but memory of groups can be read. What is above it is the probe's selectivity.

    Args:
        values: (N, C).
        labels: (N,), integer.
        groups: (N,), integer: which samples are of one kind; None takes every sample as its own,
            and the control is then of chance.
        held_out: share of the samples that score.
        shuffles: how many shuffled controls.
        decay: as in :func:`probe`.
        seed: of the split and the controls.
    """
    checks.number("held_out", held_out, "a share in (0, 1)", 0, 1 - 1e-12)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    cut = round(len(labels) * (1 - held_out))
    seen, rest = order[:cut], order[cut:]

    def score(y: Tensor, against: Tensor) -> float:
        return probe(values[seen], y, decay=decay).accuracy(values[rest], against[rest])

    shuffled = tuple(
        score(labels[seen][torch.randperm(cut, generator=generator, device="cpu")], labels)
        for _ in range(shuffles)
    )
    kinds = torch.arange(len(labels)) if groups is None else groups.unique(return_inverse=True)[1]
    classes = int(labels.max()) + 1
    assigned = torch.arange(int(kinds.max()) + 1) % classes
    assigned = assigned[torch.randperm(len(assigned), generator=generator)]
    control = assigned[kinds]
    return Probed(
        score(labels[seen], labels),
        float(labels[rest].bincount().max()) / len(rest),
        shuffled,
        score(control[seen], control),
    )
