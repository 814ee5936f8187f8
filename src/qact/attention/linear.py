"""Forms by their features, whose time and memory are linear in the tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from qact import checks
from qact.attention.factored import Linear, exponentials
from qact.attention.form import joint, tokens
from qact.attention.registry import register
from qact.vectors import lengths, unit_of, unit_vectors


def elu_exponent(t: Tensor) -> Tensor:
    """``log(elu(t) + 1)``, whose digits the sum loses below zero: log(1 + t) above, t below."""
    return torch.where(t > 0, torch.log1p(torch.relu(t)), t)


@register(
    "elu",
    paper="Katharopoulos et al. 2020, arXiv 2006.16236",
    formula="phi(q) phi(k) / sum, phi = elu + 1",
    linear=True,
)
class Elu(Linear):
    """The linear transformer (arXiv 2006.16236): ``phi = elu + 1``.

    Example:
        >>> q, k = torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.0, 0.0], [1.0, 1.0]]]])
        >>> Elu(1, 2).weights(q, k)[0, 0]  # features 1 and 2
        tensor([[0.3333, 0.6667]])
    """

    def factors(self, q: Tensor, k: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """``elu + 1`` of both."""
        return exponentials(elu_exponent(q), elu_exponent(k), keep)


@register(
    "favor",
    paper="Choromanski et al. 2021, arXiv 2009.14794",
    formula="phi(x) = exp(omega x - |x|^2/2)/sqrt m of q and k over d^(1/4), omega orthogonal",
    linear=True,
)
class Favor(Linear):
    """FAVOR+: positive random features whose product is ``e^(q k / sqrt D)`` in the mean.

    ``phi(x) = exp(omega x - |x|^2/2) / sqrt(m)`` (arXiv 2009.14794), Gaussian ``omega`` orthogonal
    in blocks of ``D``. Large exponents cancel in a row and are taken off.

    Args:
        num_heads, head_dim, causal: see :class:`Form`.
        features: ``m``; the error falls as ``1/sqrt(m)``.
        orthogonal: rows of ``omega`` at right angles, for a smaller variance.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> q, k = torch.full((1, 1, 1, 4), 0.5), torch.tensor([[[[0.0] * 4, [0.5] * 4]]])
        >>> w = Favor(1, 4, features=4096).weights(q, k)[0, 0]
        >>> torch.allclose(w, torch.tensor([0.0, 0.5]).softmax(0), atol=0.05)  # q k / sqrt(D) = 1/2
        True
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        causal: bool = False,
        features: int = 64,
        orthogonal: bool = True,
    ) -> None:
        super().__init__(num_heads, head_dim, causal)
        self.m = checks.integer("features", features, 1)
        self.omega: Tensor
        self.register_buffer("omega", directions(self.m, head_dim, orthogonal))

    def factors(self, q: Tensor, k: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """The positive features."""
        a, b = (x * self.head_dim**-0.25 @ self.omega.to(x.dtype).T for x in (q, k))
        # What a row has in common cancels: of a query, its length; of all keys, the least length.
        return exponentials(a, b - self._halved_squares(k, keep), keep)

    def _halved_squares(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """``(|x|^2 - m^2) / 2`` of ``x / D^(1/4)``, ``m`` the least length of a head.

        By its factors, which are numbers where squares are none.
        """
        size = lengths(x) * self.head_dim**-0.25
        kept = size.detach() if keep is None else size.detach().masked_fill(~keep, torch.inf)
        least = kept.amin(-2, keepdim=True).nan_to_num()
        return (size - least) * (size + least) / 2


def directions(m: int, d: int, orthogonal: bool = True) -> Tensor:
    """``m`` Gaussian directions (m, d); orthogonal ones have the lengths of Gaussian ones."""
    if not orthogonal:
        return torch.randn(m, d)
    Q, R = torch.linalg.qr(torch.randn(-(-m // d), d, d))
    # Without these signs the directions are not uniform: the algorithm prefers some.
    Q = Q * R.diagonal(dim1=-2, dim2=-1).sign()[:, None]
    return Q.flatten(0, 1)[:m] * torch.randn(m, d).norm(dim=1, keepdim=True)


@register(
    "taylorshift",
    paper="Nauen et al. 2024, arXiv 2403.02920",
    formula="t(q k^T)/sum, t(x) = 1 + x + x^2/2",
    linear=True,
)
class TaylorShift(Linear):
    """Taylor softmax of ``q k^T`` in linear time: ``phi(x) = [1, x, x (x) x / sqrt 2]``.

    TaylorShift (arXiv 2403.02920): queries and keys have length 1, queries times a temperature per
    head. ``1 + D + D^2`` features: worth it from about ``D^2`` tokens on.

    Example:
        >>> q, k = torch.ones(1, 1, 1, 1), torch.tensor([[[[0.0], [1.0]]]])
        >>> TaylorShift(1, 1, normalise=False).weights(q, k)[0, 0]  # 1 and 2.5
        tensor([[0.2857, 0.7143]])
    """

    def __init__(
        self, num_heads: int, head_dim: int, causal: bool = False, normalise: bool = True
    ) -> None:
        super().__init__(num_heads, head_dim, causal)
        self.normalise = checks.flag("normalise", normalise)
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1)) if normalise else None

    def normed(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys whose product is the score."""
        if self.temperature is None:
            return q, k
        return self.temperature.to(q.dtype) * unit_vectors(q), unit_vectors(k)

    def factors(self, q: Tensor, k: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """The features of order 0, 1 and 2."""
        return tuple(  # type: ignore[return-value]
            torch.cat(
                [
                    torch.ones_like(x[..., :1]),
                    x,
                    (x[..., :, None] * x[..., None, :]).flatten(-2) / math.sqrt(2),
                ],
                -1,
            )
            for x in self.normed(q, k)
        )


@register(
    "hedgehog",
    paper="Zhang et al. 2024, arXiv 2402.04347 (the authors' code)",
    formula="phi(x) = [softmax(Wx), softmax(-Wx)], W learnt per head",
    linear=True,
)
class Hedgehog(Linear):
    """Learnt features that mimic softmax: ``[softmax(Wx), softmax(-Wx)]`` or ``[e^(Wx), e^(-Wx)]``.

    Hedgehog (arXiv 2402.04347): ``W`` per head, which starts as the identity (our choice);
    :meth:`distillation` is the loss by which it learns the weights of softmax.

    Args:
        num_heads, head_dim, causal: see :class:`Form`.
        kind: ``"softmax"`` or ``"exp"``.

    Example:
        >>> q, k = torch.zeros(1, 1, 1, 1), torch.randn(1, 1, 2, 1)
        >>> Hedgehog(1, 1).weights(q, k).detach()[0, 0]  # (1/2)(s + (1 - s)), even
        tensor([[0.5000, 0.5000]])
    """

    def __init__(
        self, num_heads: int, head_dim: int, causal: bool = False, kind: str = "softmax"
    ) -> None:
        super().__init__(num_heads, head_dim, causal)
        self.kind = checks.choice("kind", kind, ("softmax", "exp"))
        self.query = nn.Parameter(torch.eye(head_dim).repeat(num_heads, 1, 1))
        self.key = nn.Parameter(torch.eye(head_dim).repeat(num_heads, 1, 1))

    def factors(self, q: Tensor, k: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """The learnt features."""
        both = (q, self.query), (k, self.key)
        q, k = (t * self.head_dim**-0.25 @ w.to(t.dtype) for t, w in both)
        if self.kind == "softmax":
            a, b = (torch.cat([t.softmax(-1), (-t).softmax(-1)], -1) for t in (q, k))
            return a, b
        a, b = (torch.cat([t, -t], -1) for t in (q, k))
        return exponentials(a, b, keep)

    def distillation(self, q: Tensor, k: Tensor) -> Tensor:
        """The cross-entropy of these weights against those of softmax, a mean over rows.

        Its least value is the mean entropy of the softmax rows.
        """
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.head_dim)
        mask = joint(None, self.causal, q, k)
        scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
        target = scores.softmax(-1)
        return -(target * self.weights(q, k).clamp_min(1e-12).log()).sum(-1).mean()


@register(
    "cosformer",
    paper="Qin et al. 2022, arXiv 2202.08791",
    formula="relu(q) relu(k) cos(pi (i - j)/2M) / sum",
    linear=True,
    rows=False,  # a query without a positive feature has no weights
)
class CosFormer(Linear):
    """``relu(q_i) relu(k_j) cos(pi/2 (i - j)/M)``, normalised by rows, as two linear attentions.

    cosFormer (arXiv 2202.08791), by ``cos(a - b) = cos a cos b + sin a sin b``.

    Args:
        num_heads, head_dim, causal: see :class:`Form`.
        length: ``M``, at least the number of tokens; None is that number.

    Raises:
        ValueError: there are more tokens than ``length``.

    Example:
        >>> x = torch.ones(1, 1, 2, 1)
        >>> CosFormer(1, 1).weights(x, x)[0, 0]  # 1 and cos(pi/4), divided by their sum
        tensor([[0.5858, 0.4142],
                [0.4142, 0.5858]])
    """

    def __init__(
        self, num_heads: int, head_dim: int, causal: bool = False, length: int | None = None
    ) -> None:
        super().__init__(num_heads, head_dim, causal)
        self.length = None if length is None else checks.integer("length", length, 1)

    def factors(self, q: Tensor, k: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """The features at their places."""
        n = max(q.shape[-2], k.shape[-2])
        if self.length is not None and self.length < n:
            raise ValueError(f"length={self.length} must be at least the {n} tokens")
        # Without their units, of which products might vanish or overflow: they cancel in a row.
        return self._placed(q / unit_of(q, -1), n), self._placed(k / unit_of(k, (-2, -1)), n)

    def _placed(self, t: Tensor, n: int) -> Tensor:
        place = torch.arange(t.shape[-2], dtype=t.dtype, device=t.device)[:, None]
        angle = math.pi / 2 * place / (self.length or n)
        t = torch.relu(t)
        return torch.cat([t * angle.cos(), t * angle.sin()], -1)


@register(
    "rank_augmented",
    paper="Fan et al. 2024, arXiv 2411.07635 (the authors' code)",
    formula="phi(q) a_j phi(k_j)/sum, a = softmax(mean phi(q) phi(k)/sqrt d), output times o(x)",
    linear=True,
    causal=False,
    input=True,
)
class RankAugmented(Linear):
    """Linear attention whose keys are weighed by a global query, and whose output by the token.

    RALA (arXiv 2411.07635): ``phi = elu + 1``; ``a_j = N softmax_j(mean_i phi(q_i) phi(k_j)/sqrt
    D)`` raises the rank of ``sum_j a_j phi(k_j) v_j``, a projection of the token that of the
    output. Without the rotation and the depthwise convolution of the authors' network.

    Example:
        >>> k = torch.tensor([[[[0.0, 0.0], [1.0, 1.0]]]])
        >>> RankAugmented(1, 2).weights(torch.zeros(1, 1, 1, 2), k).detach()[0, 0]  # 1, 2 e^sqrt(2)
        tensor([[0.1084, 0.8916]])
    """

    causal_form = False

    def __init__(self, num_heads: int, head_dim: int, causal: bool = False) -> None:
        super().__init__(num_heads, head_dim, causal)
        self.modulation = nn.Linear(num_heads * head_dim, num_heads * head_dim)
        nn.init.zeros_(self.modulation.weight)
        nn.init.ones_(self.modulation.bias)  # it starts as plain attention

    def factors(self, q: Tensor, k: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """``elu + 1`` of both, keys times their weight."""
        a, b = elu_exponent(q), elu_exponent(k)
        whole = a.exp().mean(-2, keepdim=True) @ b.exp().transpose(-1, -2)
        return exponentials(a, b + whole.transpose(-1, -2) / math.sqrt(self.head_dim), keep)

    def finish(self, output: Tensor, x: Tensor | None) -> Tensor:
        """The modulated output."""
        o = self.modulation(tokens(x, "rank_augmented"))
        return output * o.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
