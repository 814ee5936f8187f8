"""At the output: Fenchel-Young losses of sparse maps, the Fourier head, SoftPool, two helpers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qact import checks
from qact.vectors import distances, unit_of
from qact.weights.masking import opened
from qact.weights.sparse import entmax


def entmax_loss(logits: Tensor, labels: Tensor, alpha: float = 1.5) -> Tensor:
    """``(p - e_y) z + H(p)`` with ``p = entmax(z)``, one number per row; its gradient: ``p - e_y``.

    The Fenchel-Young loss of alpha-entmax (Peters et al. 2019, arXiv 1905.05702), with the Tsallis
    entropy ``H(p) = (1 - sum p^alpha) / (alpha (alpha - 1))``. It is 0 exactly where ``p`` is
    one-hot at the label, from a margin of ``1/(alpha - 1)`` on. ``alpha = 1`` is cross-entropy.

    Args:
        logits: (N, C), floating; half precision is computed in float32.
        labels: (N,) integer, in 0..C-1.
        alpha: at least 1.

    Returns:
        (N,), in the dtype of the computation.

    Raises:
        ValueError, TypeError: shapes, labels or ``alpha`` do not fit.

    Example:
        >>> entmax_loss(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 0]))
        tensor([0.0000, 0.3905])
    """
    checks.tensors(logits=logits, labels=labels)
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"logits must be (N, C) and labels (N,), got {shapes}")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    z, _ = opened(logits, 1)
    if alpha == 1:
        return F.cross_entropy(z, labels.long(), reduction="none")
    # By the envelope theorem p is held still: dL/dz = p - e_y.
    return fenchel_young(z, labels.long(), alpha)[0]


def fenchel_young(z: Tensor, labels: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """The loss of :func:`entmax_loss` and ``p``, which has no gradient; for ``alpha`` above 1.

    Example:
        >>> fenchel_young(torch.tensor([[2.0, 0.0]]), torch.tensor([1]), 2.0)
        (tensor([2.]), tensor([[1., 0.]]))
    """
    p, own = entmax(z, 1, None, alpha).detach(), z.gather(1, labels[:, None])
    # A class at -inf adds 0, and not 0 times infinity.
    gain = (p * (z - own).clamp_min(torch.finfo(z.dtype).min)).sum(1)
    # Where p > 0, p^(a-1) = (a - 1) z - tau: sum p^a = (a - 1) p (z - max z) + (max p)^(a-1), no
    # power of every p is needed.
    ahead = (z.amax(1) - own[:, 0]).detach()
    power = (alpha - 1) * (gain.detach() - ahead) + p.amax(1) ** (alpha - 1)
    return gain + (1 - power) / (alpha * (alpha - 1)), p


def sparsemax_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """``-z_y + sum_S (z_j^2 - tau^2)/2 + 1/2``, one number per row; the gradient is ``p - e_y``.

    Martins and Astudillo 2016, arXiv 1602.02068: :func:`entmax_loss` for ``alpha = 2``. It
    is 0 exactly where the label's logit leads by 1.

    Example:
        >>> sparsemax_loss(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 0]))
        tensor([0.0000, 0.2500])
    """
    return entmax_loss(logits, labels, 2.0)


class FourierHead(nn.Module):
    """A classifier of ordered classes: a density on [-1, 1] by its Fourier series, read at bins.

    Gillman et al. 2024, arXiv 2410.22269. One linear layer gives complex ``a_0..a_m``, of
    which the autocorrelation ``c_k = sum_l a_l conj(a_(l+k))`` makes the density
    ``p(z) = 1/2 + sum_k Re((c_k / Re c_0) e^(i pi k z))``: it is never negative, and integrates to
    1. A class has the share of its bin's centre; logits are the logarithm, plus ``1e-5`` inside.

    Args:
        in_features: of the input.
        num_classes: bins of equal width over [-1, 1], in order.
        frequencies: ``m``.

    Shape: ``(..., in_features)`` to logits ``(..., num_classes)``.

    Example:
        >>> FourierHead(8, 10, 4)(torch.randn(2, 8)).exp().sum(-1)
        tensor([1.0001, 1.0001], grad_fn=<...>)
    """

    def __init__(self, in_features: int, num_classes: int, frequencies: int) -> None:
        super().__init__()
        self.num_classes = checks.integer("num_classes", num_classes, 1)
        self.frequencies = checks.integer("frequencies", frequencies, 1)
        self.coefficients = nn.Linear(in_features, 2 * (frequencies + 1))
        edges = torch.linspace(-1, 1, num_classes + 1)
        self.centres: Tensor
        self.register_buffer("centres", (edges[1:] + edges[:-1]) / 2, persistent=False)

    def series(self, input: Tensor) -> Tensor:
        """``c_k / Re c_0`` for ``k = 0..m``, complex (..., m + 1)."""
        parts = self.coefficients(input).float().unflatten(-1, (2, -1))
        a = torch.complex(parts[..., 0, :], parts[..., 1, :])
        m = self.frequencies
        c = [(a[..., : m + 1 - k] * a[..., k:].conj()).sum(-1) for k in range(m + 1)]
        return torch.stack(c, -1) / c[0].real.clamp_min(1e-12)[..., None]

    def density(self, input: Tensor, places: Tensor) -> Tensor:
        """``p`` at ``places`` in [-1, 1], (..., len(places))."""
        c = self.series(input)[..., 1:]
        k = torch.arange(1, self.frequencies + 1, device=places.device)
        angle = math.pi * k[:, None] * places.float()
        return 0.5 + c.real @ angle.cos() - c.imag @ angle.sin()

    def penalty(self, input: Tensor) -> Tensor:
        """``sum_k 2 pi^2 k^2 abs(c_k)^2``, the roughness of a density; its factor is the user's."""
        k = torch.arange(self.frequencies + 1, device=input.device)
        return (2 * math.pi**2 * k.square() * self.series(input).abs().square()).sum(-1)

    def forward(self, input: Tensor) -> Tensor:
        """Return logits (..., num_classes)."""
        p = self.density(input, self.centres).clamp_min(0)
        return torch.log(p / p.sum(-1, keepdim=True) + 1e-5).to(input.dtype)


def soft_pool2d(
    input: Tensor, kernel_size: int | Sequence[int], stride: int | Sequence[int] | None = None
) -> Tensor:
    """``sum_i softmax(a)_i a_i`` over each window (Stergiou et al. 2021, arXiv 2101.00440).

    Between the mean and the maximum of the window. No padding; a rest at the border is left out.

    Args:
        input: (N, C, H, W).
        kernel_size: of the window, one number or two.
        stride: of the windows; None is ``kernel_size``.

    Example:
        >>> soft_pool2d(torch.tensor([[[[0.0, math.log(3)]]]]), (1, 2))
        tensor([[[[0.8240]]]])
    """
    if input.dim() != 4:
        raise ValueError(f"input must be (N, C, H, W), got {tuple(input.shape)}")
    kernel = (kernel_size,) * 2 if isinstance(kernel_size, int) else tuple(kernel_size)
    step = kernel if stride is None else (stride,) * 2 if isinstance(stride, int) else tuple(stride)
    windows = input.unfold(2, kernel[0], step[0]).unfold(3, kernel[1], step[1]).flatten(4)
    return (torch.softmax(windows, -1, dtype=_wide(input)) * windows).sum(-1).to(input.dtype)


def _wide(input: Tensor) -> torch.dtype:
    return torch.float64 if input.dtype == torch.float64 else torch.float32


class SoftPool2d(nn.Module):
    """:func:`soft_pool2d` as a module.

    Example:
        >>> SoftPool2d(2)(torch.ones(1, 3, 4, 4)).shape
        torch.Size([1, 3, 2, 2])
    """

    def __init__(
        self, kernel_size: int | Sequence[int], stride: int | Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, input: Tensor) -> Tensor:
        """Return the pooled map."""
        return soft_pool2d(input, self.kernel_size, self.stride)

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}"


@torch.no_grad()
def perpendicular_(parameters: Iterable[Tensor]) -> None:
    """Take from each gradient its part along the weights: ``g - (<w,g>/<w,w>) w``, of the old norm.

    perpGrad (Prieto et al. 2025, arXiv 2501.04697), called between ``backward`` and the
    optimizer's step: a network of scale-invariant predictions cannot go on by growing its logits.
    As in the authors' code the rest is rescaled to the norm that the gradient had.

    Example:
        >>> w = torch.tensor([1.0, 0.0], requires_grad=True)
        >>> w.grad = torch.tensor([3.0, 4.0])
        >>> perpendicular_([w])
        >>> w.grad
        tensor([0., 5.])
    """
    for w in parameters:
        grad = w.grad
        if grad is None:
            continue
        along, unit = w / unit_of(w), unit_of(grad)
        g, size = grad / unit, (along * along).sum()
        rest = g - torch.where(size > 0, (along * g).sum() / size, 0.0) * along
        norm = rest.norm()
        rest *= torch.where(norm > 0, g.norm() / norm, 0.0)
        grad.copy_(rest * unit)


@torch.no_grad()
def neighbourhood(
    features: Tensor, train: Tensor, labels: Tensor, predicted: Tensor, guess: Tensor
) -> tuple[Tensor, Tensor]:
    """``q`` and ``d`` of :func:`qact.weights.sdm` for each row of ``features``.

    ``q`` counts, from the nearest training row on, neighbours of the class that is guessed here and
    that were predicted rightly, up to the first that is not. ``d = 1 - F(distance to the nearest)``
    with ``F`` the distribution function of the training rows' own nearest distances.

    Args:
        features: (N, D), to be judged.
        train: (M, D) with M >= 2, ``labels`` (M,) and the network's ``predicted`` (M,) there.
        labels: of the training rows.
        predicted: for the training rows.
        guess: (N,) the classes predicted for ``features``.

    Returns:
        ``q`` (N, 1) and ``d`` (N, 1), as ``sdm(scores, 1, q=q, d=d)`` takes them.

    Example:
        >>> train, labels = torch.tensor([[0.0], [1.0], [9.0]]), torch.tensor([0, 0, 1])
        >>> neighbourhood(torch.tensor([[0.2]]), train, labels, labels, torch.tensor([0]))
        (tensor([[2.]]), tensor([[1.]]))
    """
    order = distances(features, train)
    nearest, index = order.sort(1)
    alike = (labels[index] == guess[:, None]) & (predicted[index] == labels[index])
    q = alike.long().cumprod(1).sum(1, keepdim=True)
    own = distances(train, train).fill_diagonal_(torch.inf).amin(1).sort().values
    d = 1 - torch.searchsorted(own, nearest[:, :1].contiguous()) / len(own)
    return q.to(features.dtype), d.to(features.dtype)
