"""Accuracy, likelihood and Brier score, in float64.

Every function takes class probabilities ``(N, C)`` of any floating dtype and integer labels
``(N,)``, computes in float64 and returns a Python float.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qact.calibration.checks import checked


def accuracy(probs: Tensor, labels: Tensor) -> float:
    """Return the share of samples whose most probable class is the label; first class on ties.

    Example:
        >>> import torch
        >>> accuracy(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 0]))
        0.5
    """
    wide, y = checked(probs, labels)
    return (wide.argmax(1) == y).double().mean().item()


def negative_log_likelihood(probs: Tensor, labels: Tensor) -> float:
    """Return ``-(1/N) sum_i ln p_i[y_i]`` in nats; ``inf`` if a true class has probability 0.

    Nothing is clipped: a method that calls the truth impossible is infinitely wrong. From logits,
    build the probabilities in float64 (``logits.double().softmax(1)``) so that none underflows.

    Example:
        >>> import torch
        >>> round(negative_log_likelihood(torch.tensor([[0.5, 0.5]]), torch.tensor([1])), 4)
        0.6931
    """
    wide, y = checked(probs, labels)
    # + 0.0 turns the -0.0 of a perfect prediction into 0.0.
    return -wide.gather(1, y[:, None]).log().mean().item() + 0.0


def brier_score(probs: Tensor, labels: Tensor) -> float:
    """Return ``(1/N) sum_i sum_c (p_ic - [y_i = c])^2``, in [0, 2] (Brier 1950, all classes).

    Example:
        >>> import torch
        >>> brier_score(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([1, 0]))
        0.25
    """
    wide, y = checked(probs, labels)
    return (wide - torch.nn.functional.one_hot(y, wide.shape[1])).square().sum(1).mean().item()
