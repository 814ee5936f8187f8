"""Heads of cosines between embeddings and class vectors; their losses are in ``margins``."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, softplus

from qact import checks
from qact.losses import margins
from qact.losses.heads import Head
from qact.losses.registry import register
from qact.losses.rows import once, rowwise
from qact.losses.softmax import comp_sum_loss
from qact.vectors import lengths, unit_rows


class Angular(Head):
    """A head that sees embeddings and class vectors at unit length."""

    def cosines(self, embeddings: Tensor) -> Tensor:
        """Return the cosines between embeddings and class vectors, (N, C)."""
        return linear(unit_rows(embeddings), unit_rows(self.vectors))


class CosineHead(Angular):
    """A head of cosines; its logits are ``scale`` times these.

    Args:
        embedding_size: D.
        classes: C.
        function: a loss of cosines: :func:`qact.losses.cosface_loss`, ...
        scale: of the function.
        options: of the function, and those of :class:`Head`.

    Raises:
        ValueError: shapes or labels do not fit the classes.

    Example:
        >>> head = CosineHead(3, 5, margins.cosface_loss, scale=30.0, margin=0.2)
        >>> head(torch.randn(4, 3), torch.arange(4)).shape
        torch.Size([])
    """

    def __init__(
        self,
        embedding_size: int,
        classes: int,
        function: Callable[..., Tensor] = margins.normalised_softmax_loss,
        *,
        scale: float = 30.0,
        class_weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        **options: Any,
    ) -> None:
        super().__init__(
            embedding_size,
            classes,
            class_weight=class_weight,
            ignore_index=ignore_index,
            reduction=reduction,
        )
        self.scale, self.options = scale, options
        self.function = partial(function, scale=scale, **options)
        self.function(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))  # refuses bad options

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return logits, (N, C)."""
        return self.scale * self.cosines(embeddings)

    def loss(self, embeddings: Tensor, target: Tensor) -> Tensor:
        """Return the loss of embeddings and targets that are classes."""
        return self._of(self.function, self.cosines(embeddings), target)

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        options = {"scale": self.scale} | self.options
        return ", ".join([super().extra_repr(), *(f"{k}={v!r}" for k, v in options.items())])


@register("normalised_softmax", paper="Wang et al. 2017, arXiv 1704.06369", of="head")
class NormalisedSoftmax(CosineHead):
    """:func:`qact.losses.normalised_softmax_loss` with the class vectors that it learns.

    Raises:
        ValueError: shapes or labels do not fit the classes.

    Example:
        >>> head = NormalisedSoftmax(2, 2, scale=1.0)
        >>> _ = head.weight.data.copy_(torch.eye(2))
        >>> round(head(torch.tensor([[3.0, 0.0]]), torch.tensor([0])).item(), 4)  # log(1 + e^-1)
        0.3133
    """

    def __init__(
        self, embedding_size: int, classes: int, *, scale: float = 20.0, **options: Any
    ) -> None:
        function = margins.normalised_softmax_loss
        super().__init__(embedding_size, classes, function, scale=scale, **options)


@register("cosface", paper="Wang et al. 2018, arXiv 1801.09414, eq. 4", of="head")
class CosFace(CosineHead):
    """:func:`qact.losses.cosface_loss` with the class vectors that it learns.

    Raises:
        ValueError: shapes or labels do not fit the classes.

    Example:
        >>> head = CosFace(2, 2, margin=0.5, scale=1.0)
        >>> _ = head.weight.data.copy_(torch.eye(2))
        >>> round(head(torch.tensor([[3.0, 0.0]]), torch.tensor([0])).item(), 4)  # log(1 + e^-0.5)
        0.4741
    """

    def __init__(
        self,
        embedding_size: int,
        classes: int,
        *,
        margin: float = 0.35,
        scale: float = 64.0,
        **options: Any,
    ) -> None:
        function = margins.cosface_loss
        super().__init__(embedding_size, classes, function, margin=margin, scale=scale, **options)


@register("arcface", paper="Deng et al. 2019, arXiv 1801.07698, eq. 3", of="head")
class ArcFace(CosineHead):
    """:func:`qact.losses.arcface_loss` with the class vectors that it learns; radians.

    Raises:
        ValueError: shapes or labels do not fit the classes.

    Example:
        >>> head = ArcFace(2, 2, margin=math.pi / 3, scale=1.0)
        >>> _ = head.weight.data.copy_(torch.eye(2))
        >>> round(head(torch.tensor([[3.0, 0.0]]), torch.tensor([0])).item(), 4)  # log(1 + e^-0.5)
        0.4741
    """

    def __init__(
        self,
        embedding_size: int,
        classes: int,
        *,
        margin: float = 0.5,
        scale: float = 64.0,
        **options: Any,
    ) -> None:
        function = margins.arcface_loss
        super().__init__(embedding_size, classes, function, margin=margin, scale=scale, **options)


@register("sphereface", paper="Liu et al. 2017, arXiv 1704.08063, eq. 7", of="head")
class SphereFace(Head):
    """SphereFace: the scale is the embedding's length, ``z_y = ||x|| psi(cos theta_y)``.

    ``psi`` is that of :func:`qact.losses.sphereface_loss`, and all other logits are ``||x|| cos``.

    Args:
        embedding_size: D.
        classes: C.
        margin: an integer of at least 1; 1 is a linear layer with class vectors of length 1.
        options: of :class:`Head`.

    Raises:
        ValueError: ``margin`` is not as described; shapes or labels do not fit the classes.

    Example:
        >>> head = SphereFace(2, 2, margin=2)  # psi(pi/2) = -1: log(1 + e^2)
        >>> _ = head.weight.data.copy_(torch.eye(2))
        >>> round(head(torch.tensor([[0.0, 1.0]]), torch.tensor([0])).item(), 4)
        2.1269
    """

    def __init__(
        self, embedding_size: int, classes: int, *, margin: int = 4, **options: Any
    ) -> None:
        super().__init__(embedding_size, classes, **options)
        self.margin = checks.integer("margin", margin, 1)

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return logits, (N, C)."""
        return linear(embeddings, unit_rows(self.vectors))

    def loss(self, embeddings: Tensor, target: Tensor) -> Tensor:
        """Return the loss of embeddings and targets that are classes."""
        weight = unit_rows(self.vectors)
        own = (embeddings * weight.index_select(0, target)).sum(1, keepdim=True)
        lift = _Lift.apply(own, lengths(embeddings), self.margin)
        # Into the fresh product, so that no second array of its size is made.
        logits = linear(embeddings, weight).scatter_add_(1, target[:, None], lift)
        return self._of(comp_sum_loss, logits, target)


class _Lift(torch.autograd.Function):
    """``|x| (psi(c) - c)`` of ``z = |x| c`` and ``|x|``, with ``psi`` of SphereFace."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, length: Tensor, margin: int) -> Tensor:
        c = (z / length.clamp_min(torch.finfo(z.dtype).tiny)).clamp_(-1, 1)
        psi, slope = margins.sphereface_psi(c, margin)
        ctx.save_for_backward(slope - 1, psi - c * slope, z, length)
        return length * (psi - c)

    @staticmethod
    @once
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        by_z, by_length, *_ = ctx.saved_tensors
        return upstream * by_z, upstream * by_length, None


@register("sphereface2", paper="Wen et al. 2022, arXiv 2108.01513", of="head")
class SphereFace2(Angular):
    """:func:`qact.losses.sphereface2_loss` with the class vectors and the bias that it learns.

    The bias starts where both kinds of question pull with the same force at right angles.

    Args:
        embedding_size: D.
        classes: C.
        margin: ``m``, at least 0.
        balance: the weight of the own class, in (0, 1).
        scale: ``r``.
        t: exponent of ``g``, at least 1; 1 leaves the cosine.
        options: of :class:`Head`.

    Raises:
        ValueError: ``t`` is not as described; shapes or labels do not fit the classes.
    """

    def __init__(
        self,
        embedding_size: int,
        classes: int,
        *,
        margin: float = 0.4,
        balance: float = 0.7,
        scale: float = 40.0,
        t: float = 3.0,
        **options: Any,
    ) -> None:
        super().__init__(embedding_size, classes, **options)
        self.scale, self.t = scale, checks.within("t", t, 1)
        self.of_scores = margins.sphereface2_form(margin, balance, scale)
        level = scale * (2 * 0.5**t - 1)
        self.bias = nn.Parameter(torch.tensor(_balanced(level, scale * margin, balance, classes)))

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return logits, (N, C)."""
        return margins.sphereface2_scores(self.cosines(embeddings), self.bias, self.scale, self.t)

    def loss(self, embeddings: Tensor, target: Tensor) -> Tensor:
        """Return the loss of embeddings and targets that are classes."""
        return self._of(
            partial(rowwise, self._form, shared=(self.bias,)), self.cosines(embeddings), target
        )

    def _form(self, c: Tensor, y: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value, by_score = self.of_scores(margins.sphereface2_scores(c, bias, self.scale, self.t), y)
        slope = ((c + 1) / 2).clamp_min_(0).pow_(self.t - 1).mul_(self.scale * self.t)
        return value, slope.mul_(by_score), by_score.sum(1, keepdim=True)


def _balanced(level: float, margin: float, balance: float, classes: int) -> float:
    """The ``b`` with ``l sigmoid(m - s - b) = (1 - l) (C - 1) sigmoid(m + s + b)``, ``s`` level."""
    ratio = balance / ((1 - balance) * max(1, classes - 1))
    # With u = exp(s + b): e^-m u^2 + (1 - ratio) u - ratio e^-m = 0.
    root = math.sqrt((1 - ratio) ** 2 + 4 * ratio * math.exp(-2 * margin))
    return math.log(2 * ratio) - margin - math.log(1 - ratio + root) - level


@register("wrapped_cauchy", paper="Han 2023, ICML; logits as in its authors' code", of="head")
class WrappedCauchy(Angular):
    """WCDAS: logits are ``s`` times the wrapped Cauchy density of the angle to each class vector.

    Both the concentration of each class, ``sigmoid(g_c)``, and ``s = 1 + softplus(a)`` are learnt.
    The paper's text leaves open where the density stands; this is its authors' code.

    Args:
        embedding_size: D.
        classes: C.
        start: of every ``g_c``.
        options: of :class:`Head`.

    Raises:
        ValueError: shapes or labels do not fit the classes.

    Example:
        >>> head = WrappedCauchy(2, 2)
        >>> _ = head.weight.data.copy_(torch.eye(2))
        >>> head.logits(torch.tensor([[3.0, 0.0]])).detach()  # 1.6931 times 1.5/pi and 0.3/pi
        tensor([[0.8084, 0.1617]])
    """

    def __init__(
        self, embedding_size: int, classes: int, *, start: float = 0.0, **options: Any
    ) -> None:
        super().__init__(embedding_size, classes, **options)
        self.concentration = nn.Parameter(torch.full((classes,), float(start)))
        self.log_scale = nn.Parameter(torch.zeros(()))

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return logits, (N, C)."""
        concentration, scale = self._shared()
        return margins.wrapped_cauchy(self.cosines(embeddings), concentration) * scale

    def loss(self, embeddings: Tensor, target: Tensor) -> Tensor:
        """Return the loss of embeddings and targets that are classes."""
        function = partial(rowwise, margins.wrapped_cauchy_form, shared=self._shared())
        return self._of(function, self.cosines(embeddings), target)

    def _shared(self) -> tuple[Tensor, Tensor]:
        return self.concentration.sigmoid(), 1 + softplus(self.log_scale)
