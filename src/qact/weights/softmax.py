"""softmax, and what is softmax of scores that were scaled, clipped, drawn or bounded first."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from qact import checks
from qact.kernels import engines
from qact.weights.masking import asked, closed, counted, exponential, opened, unscaled
from qact.weights.module import PerHead
from qact.weights.registry import mapped, register

# Highest power first, in the entropy in nats (Velickovic et al. 2024, arXiv 2410.01104).
TEMPERATURE = (-0.037, 0.481, -2.3, 4.917, -1.791)


@mapped("softmax", paper="Bridle 1990", formula="e^z_i / sum_j e^z_j")
def softmax(scores: Tensor, dim: int = -1, mask: Tensor | None = None) -> Tensor:
    """``e^z_i / sum_j e^z_j``, torch's own, with masks; a row without a score gets zeros.

    Example:
        >>> softmax(torch.tensor([[0.0, 0.0], [-torch.inf, -torch.inf]]))
        tensor([[0.5000, 0.5000],
                [0.0000, 0.0000]])
    """
    z = asked(scores, dim, mask)
    p = torch.softmax(z, dim)
    # A row of -inf, or one with a NaN, is NaN throughout: one column tells whether there is any.
    if engines.concrete(p) and not math.isnan(p.detach().select(dim, 0).sum().item()):
        return p if p.dtype == scores.dtype else p.to(scores.dtype)
    empty = (z == -torch.inf).all(dim, keepdim=True)
    return torch.where(empty, 0.0, torch.softmax(z.masked_fill(empty, 0.0), dim)).to(scores.dtype)


@register(
    "ssmax",
    paper="Nakanishi 2025, arXiv 2501.19399",
    formula="softmax(s log(n) z), s learnt, n kept scores",
    parameters=("s",),
    temperature="s",
)
class SSMax(PerHead):
    """:func:`ssmax` with a learnt ``s`` per head, which starts at 1.

    Example:
        >>> SSMax()(torch.tensor([1.0, 0.0]))
        tensor([0.6667, 0.3333], grad_fn=<...>)
    """

    def __init__(self, heads: int = 1, dim: int = -1, s: float = 1.0) -> None:
        super().__init__(heads, dim)
        self.s = nn.Parameter(torch.full((heads,), float(s)))

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the weights, like the scores."""
        return ssmax(scores, self.dim, mask, self.placed(self.s, scores))


def ssmax(
    scores: Tensor, dim: int = -1, mask: Tensor | None = None, s: float | Tensor = 1.0
) -> Tensor:
    """``n^(s z_i) / sum_j n^(s z_j) = softmax(s log(n) z)`` with ``n`` the scores of a row.

    Scalable-Softmax (arXiv 2501.19399): the weights of a row do not flatten as it grows.
    Masked scores do not count, so ``n`` is the row's length under a causal mask.

    Example:
        >>> z = torch.zeros(100).index_fill(0, torch.tensor(0), 1.0)
        >>> ssmax(z, s=2.0)[0]
        tensor(0.9902)
    """
    z, keep = opened(scores, dim, mask)
    return closed(exponential(s * counted(keep, dim, z).log() * z, keep, dim), keep, scores)


@mapped(
    "clipped",
    paper="Bondarenko et al. 2023, arXiv 2306.12929",
    formula="clip((zeta - gamma) softmax(z) + gamma, 0, 1)",
    simplex=False,
    sparse=True,
)
def clipped(
    scores: Tensor,
    dim: int = -1,
    mask: Tensor | None = None,
    zeta: float = 1.0,
    gamma: float = -0.03,
) -> Tensor:
    """``clip((zeta - gamma) softmax(z) + gamma, 0, 1)``; the sum may leave 1.

    Clipped softmax (arXiv 2306.12929): shares below ``-gamma / (zeta - gamma)`` are exactly
    0, and get no gradient, so that a head can do nothing without large scores.

    Raises:
        ValueError: ``zeta`` below 1 or ``gamma`` above 0.

    Example:
        >>> clipped(torch.tensor([0.0, 4.0]))
        tensor([0.0000, 0.9815])
    """
    if not (zeta >= 1 and gamma <= 0):
        raise ValueError(f"zeta={zeta!r} must be at least 1, and gamma={gamma!r} at most 0")
    z, keep = opened(scores, dim, mask)
    stretched = (zeta - gamma) * exponential(z, keep, dim) + gamma
    return closed(stretched.clamp(0, 1), keep, scores)


@mapped(
    "self_adjust",
    paper="Zheng et al. 2025, arXiv 2502.18277",
    formula="(z - m)/(M - m) softmax(z), m = min(z, 0), M = max(z, 0) of the row",
    simplex=False,
    sparse=True,
    shift=False,
)
def self_adjust(
    scores: Tensor, dim: int = -1, mask: Tensor | None = None, normalised: bool = True
) -> Tensor:
    """``(z - m)/(M - m) softmax(z)`` with ``m = min(min z, 0)``, ``M = max(max z, 0)``.

    Self-adjust softmax (arXiv 2502.18277): its gradient does not vanish at one-hot. Without
    ``normalised`` it is ``z softmax(z)``, which may be negative. A row of zeros, where ``M = m``,
    has the coefficient 1.

    Example:
        >>> self_adjust(torch.tensor([1.0, 0.0]))
        tensor([0.7311, 0.0000])
    """
    z, keep = opened(scores, dim, mask)
    p = exponential(z, keep, dim)
    if not checks.flag("normalised", normalised):
        return closed(z * p, keep, scores)
    low, high = z.amin(dim, keepdim=True).clamp_max(0), z.amax(dim, keepdim=True).clamp_min(0)
    flat = high == low
    coefficient = torch.where(flat, 1.0, (z - low) / torch.where(flat, 1.0, high - low))
    return closed(coefficient * p, keep, scores)


@mapped(
    "adaptive_temperature",
    paper="Velickovic et al. 2024, arXiv 2410.01104",
    formula="softmax(beta z), beta = max(c(H), 1) if H > 1/2, else 1",
)
def adaptive_temperature(scores: Tensor, dim: int = -1, mask: Tensor | None = None) -> Tensor:
    """``softmax(beta z)`` with ``beta = max(c(H), 1)`` where the entropy ``H > 0.5``, else 1.

    Sharper rows for inference on inputs longer than in training (arXiv 2410.01104); ``c`` is the
    authors' polynomial in the entropy of ``softmax(z)`` in nats, with its largest value 2.42 at
    ``H = 4.41``; from ``H = 5.95`` on, very long flat rows, it is below 1 and nothing is sharpened.
    No gradient flows through ``beta``.

    Example:
        >>> adaptive_temperature(torch.arange(10.0) / 2)[-1] > softmax(torch.arange(10.0) / 2)[-1]
        tensor(True)
    """
    z, keep = opened(scores, dim, mask)
    with torch.no_grad():
        p = closed(exponential(z, keep, dim), keep, z)
        # Not torch.special.entr: the exporter of torch 2.6 cannot take it apart.
        H = -(p * p.clamp_min(torch.finfo(p.dtype).tiny).log()).sum(dim, keepdim=True)
        c = torch.zeros_like(H)
        for coefficient in TEMPERATURE:
            c = c * H + coefficient
        beta = torch.where(H > 0.5, c.clamp_min(1.0), 1.0)
    return closed(exponential(beta * z, keep, dim), keep, scores)


@mapped(
    "gumbel",
    paper="Jang et al. 2017, arXiv 1611.01144, eq. 2",
    formula="softmax((log pi + g)/tau), g = -log(-log u)",
    random=True,
    onnx=False,
)
def gumbel(
    scores: Tensor,
    dim: int = -1,
    mask: Tensor | None = None,
    tau: float = 1.0,
    hard: bool = False,
) -> Tensor:
    """``softmax((z + g)/tau)`` with Gumbel noise ``g``: a draw from ``softmax(z)``, relaxed.

    Gumbel-softmax (arXiv 1611.01144, eq. 2): the largest stands at ``i`` with probability
    ``softmax(z)_i``. ``hard`` returns it one-hot, with the gradient of the relaxed draw.

    Raises:
        ValueError: ``tau`` is not positive.

    Example:
        >>> gumbel(torch.tensor([0.0, 100.0]), hard=True)
        tensor([0., 1.])
    """
    checks.number("tau", tau, "a positive temperature", 0)
    z, keep = opened(scores, dim, mask)
    noise = -torch.empty_like(z).exponential_().log()
    soft = closed(exponential((z + noise) / tau, keep, dim), keep, z)
    if not checks.flag("hard", hard):
        return soft.to(scores.dtype)
    top = torch.zeros_like(soft).scatter(dim, soft.argmax(dim, keepdim=True), 1.0)
    return closed(top + (soft - soft.detach()), keep, scores)


@mapped(
    "sdm",
    paper="Schmaltz 2025, arXiv 2509.12760",
    formula="softmax(d log(2 + q) z)",
)
def sdm(
    scores: Tensor,
    dim: int = -1,
    mask: Tensor | None = None,
    q: float | Tensor = math.e - 2,
    d: float | Tensor = 1.0,
) -> Tensor:
    """``(2 + q)^(d z_i) / sum_j (2 + q)^(d z_j) = softmax(d log(2 + q) z)``, in the base ``2 + q``.

    Similarity-distance-magnitude activation: ``q >= 0`` counts the nearest training neighbours in a
    row that have the same class and were predicted rightly, ``d`` in [0, 1] is one minus the
    empirical distribution function of the distance to the nearest; see
    :func:`qact.weights.neighbourhood`. Both are numbers, or one per row with size 1 at ``dim``.

    Example:
        >>> sdm(torch.tensor([1.0, 0.0]), q=2, d=0.5)
        tensor([0.6667, 0.3333])
    """
    z, keep = opened(scores, dim, mask)
    if isinstance(q, (int, float)):
        checks.within("q", q, 0)
    if isinstance(d, (int, float)) and not 0 <= d <= 1:
        raise ValueError(f"d={d!r} must lie in [0, 1]")
    q, d = (torch.as_tensor(v, dtype=z.dtype, device=z.device) for v in (q, d))
    base = d * torch.log(2 + q)
    return closed(exponential(base * z, keep, dim), keep, scores)


@mapped(
    "era",
    paper="Kang et al. 2025, arXiv 2510.08549",
    formula="softmax(W(-h)), h = A softmax(z) + B, sum h = e^(H0 - 1)",
)
def era(
    scores: Tensor,
    dim: int = -1,
    mask: Tensor | None = None,
    entropy: float = 1.0,
    tau: float = 4.0,
    exact: bool = True,
) -> Tensor:
    """``softmax(W_{-1}(-h))``: weights whose entropy is at least ``entropy``, whatever the scores.

    Entropy regularizing activation (arXiv 2510.08549). With ``C = e^(H0 - 1)`` and
    ``h_max = log(tau)/tau`` the softmax is mapped by a line to ``h = A p + B``, ``sum h = C``,
    ``h <= h_max``; ``W_{-1}(-h)`` is the logarithm of the ``p`` with ``-p log p = h``, so that the
    entropy is ``C/Z + log Z >= H0``. Order is kept. The authors' code has
    ``-1 - sqrt(2u) - 3u/4``, ``u = -1 - log h``, for ``W`` (``exact=False``).

    Args:
        scores: see :func:`qact.weights.entmax`, as ``dim`` and ``mask``.
        entropy: ``H0`` in nats, in ``[1 + log h_max, 1 + log(n h_max)]``. A row with fewer than
            that many kept scores gets uniform weights.
        tau: at least e.
        exact: ``W`` itself by Newton steps, or the authors' approximation.

    Raises:
        ValueError: ``entropy`` cannot be had from that many scores.

    Example:
        >>> p = era(torch.tensor([100.0, *[0.0] * 9]), entropy=1.5)
        >>> bool(torch.special.entr(p).sum() >= 1.5)
        True
    """
    if not math.e <= tau < math.inf:
        raise ValueError(f"tau={tau!r} must be at least e")
    z, keep = opened(scores, dim, mask)
    most, count = math.log(tau) / tau, scores.shape[dim]
    low, high = 1 + math.log(most), 1 + math.log(count * most)
    if not low <= entropy <= high:
        raise ValueError(
            f"entropy={entropy!r} must lie in [{low:.4f}, {high:.4f}] for {count} scores, "
            f"tau={tau:g}"
        )
    n, C = counted(keep, dim, z), math.exp(entropy - 1)
    A = ((most - C / n) / (1 - 1 / n).clamp_min(1e-9)).clamp_min(0)
    h = A * exponential(z, keep, dim) + (C - A) / n
    info = torch.finfo(z.dtype)
    log_h = h.clamp(info.tiny, most).log()  # of a share that vanishes, W is -inf
    u = (-1 - log_h).clamp_min(info.tiny)
    w = -1 - torch.sqrt(2 * u) - 0.75 * u
    if checks.flag("exact", exact):
        # Newton on w + log(-w) = log h, but where W branches off: its slope vanishes there, and the
        # approximation is exact. The root has the derivative W' = W / (h (1 + W)).
        root, known = w.detach(), log_h.detach()
        for _ in range(5):
            step = (root + (-root).log() - known) / (1 + 1 / root)
            root = torch.where(u > info.eps**0.5, root - step, root)
        w = root + (log_h - known) / (1 + 1 / root).clamp_min(info.eps)
    return closed(exponential(w, keep, dim), keep, scores)


@mapped(
    "normalised",
    paper="Richter and Wattenhofer 2020, arXiv 2005.09561",
    formula="gain (z - mean)/std + bias over the row",
    simplex=False,
    sparse=False,
    scale=True,
)
def normalised(
    scores: Tensor,
    dim: int = -1,
    mask: Tensor | None = None,
    gain: float | Tensor = 1.0,
    bias: float | Tensor = 0.0,
) -> Tensor:
    """``gain (z - mean)/std + bias`` over a row: weights of any sign, outside the simplex.

    Normalised attention (arXiv 2005.09561): at ``gain`` 1 and ``bias`` 0 of mean 0 and variance 1.
    A row of equal scores gets ``bias``. Where the paper puts the affine part is not known to us: it
    is taken as gain and bias of the standardised scores.

    Example:
        >>> normalised(torch.tensor([0.0, 4.0]))
        tensor([-1.,  1.])
    """
    z, keep = opened(scores, dim, mask)
    z, n = unscaled(z, dim), counted(keep, dim, z)
    centred = (z - z.sum(dim, keepdim=True) / n).masked_fill(~keep, 0.0)
    variance = centred.square().sum(dim, keepdim=True) / n
    # Equal scores have no spread, and must not have an infinite derivative for it.
    std = torch.sqrt(torch.where(variance > 0, variance, 1.0))
    return closed(gain * centred / std + bias, keep, scores)
