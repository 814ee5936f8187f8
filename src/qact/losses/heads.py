"""Last layers that are their own loss: they learn a vector for each class.

``head(embeddings)`` gives logits, for prediction; ``head(embeddings, target)`` gives the loss. Put
one in the place of a network's last linear layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear, normalize

from qact import checks
from qact.losses import margins
from qact.losses.checks import embedded
from qact.losses.registry import register
from qact.losses.rows import REDUCTIONS, kept_rows
from qact.losses.softmax import comp_sum_loss


class Head(nn.Module):
    """A linear classifier without bias, trained by cross-entropy; the base of all heads.

    Args:
        embedding_size: D.
        classes: C.
        class_weight: (C,), as in :func:`qact.losses.rowwise`.
        ignore_index: rows with this target count for nothing.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Attributes:
        weight: (C, D), a vector for each class.

    Example:
        >>> head = Head(3, 5)
        >>> head(torch.zeros(1, 3)), head(torch.zeros(1, 3), torch.tensor([4])).item()  # log 5
        (tensor([[0., 0., 0., 0., 0.]], grad_fn=<...>), 1.609...)
    """

    def __init__(
        self,
        embedding_size: int,
        classes: int,
        *,
        class_weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        shape = (
            checks.integer("classes", classes, 1),
            checks.integer("embedding_size", embedding_size, 1),
        )
        self.weight = nn.Parameter(torch.empty(shape))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # as nn.Linear's
        self.register_buffer("class_weight", class_weight, persistent=False)
        self.ignore_index = checks.integer("ignore_index", ignore_index)
        self.reduction = checks.choice("reduction", reduction, REDUCTIONS)

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.weight)

    def forward(self, embeddings: Tensor, target: Tensor | None = None) -> Tensor:
        """Return logits (N, C) of embeddings (N, D), or with targets (N,) their loss."""
        with torch.autocast(embeddings.device.type, enabled=False):
            if target is None:
                return self.logits(embeddings.to(self.weight.dtype))
            x, y = embedded(embeddings, target, finite=False)
            if x.shape[1] != self.weight.shape[1]:
                raise ValueError(
                    f"embeddings must be (N, {self.weight.shape[1]}), got {tuple(x.shape)}"
                )
            rows = kept_rows(y, self.classes, self.ignore_index)
            if rows is None:
                return self.loss(x, y)
            if not len(rows):
                return x.sum(1) * 0 if self.reduction == "none" else x[rows].sum()
            found = self.loss(x[rows], y[rows])
            whole = self.reduction != "none"
            return found if whole else found.new_zeros(len(x)).index_put((rows,), found)

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return logits, (N, C)."""
        return linear(embeddings, self.weight)

    def loss(self, embeddings: Tensor, target: Tensor) -> Tensor:
        """Return the loss of embeddings and targets that are classes."""
        return self._of(comp_sum_loss, self.logits(embeddings), target)

    def _of(self, function: Callable[..., Tensor], values: Tensor, target: Tensor) -> Tensor:
        weight = self.class_weight if isinstance(self.class_weight, Tensor) else None
        return function(values, target, weight=weight, reduction=self.reduction)

    def cosines(self, embeddings: Tensor) -> Tensor:
        """Return the cosines between embeddings and class vectors, (N, C)."""
        return linear(normalize(embeddings), normalize(self.weight))

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"{self.weight.shape[1]}, {self.classes}"


class CosineHead(Head):
    """A head of cosines; its logits are ``scale`` times these.

    Args:
        embedding_size: D.
        classes: C.
        function: a loss of cosines: :func:`qact.losses.cosface_loss`, ...
        scale: of the function.
        options: of the function, and those of :class:`Head`.

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
    """:func:`qact.losses.normalised_softmax_loss` with the class vectors that it learns."""

    def __init__(
        self, embedding_size: int, classes: int, *, scale: float = 20.0, **options: Any
    ) -> None:
        function = margins.normalised_softmax_loss
        super().__init__(embedding_size, classes, function, scale=scale, **options)


@register("cosface", paper="Wang et al. 2018, arXiv 1801.09414, eq. 4", of="head")
class CosFace(CosineHead):
    """:func:`qact.losses.cosface_loss` with the class vectors that it learns."""

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
    """:func:`qact.losses.arcface_loss` with the class vectors that it learns; radians."""

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
    """

    def __init__(
        self, embedding_size: int, classes: int, *, margin: int = 4, **options: Any
    ) -> None:
        super().__init__(embedding_size, classes, **options)
        self.margin = checks.integer("margin", margin, 1)

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return logits, (N, C)."""
        return linear(embeddings, normalize(self.weight))

    def loss(self, embeddings: Tensor, target: Tensor) -> Tensor:
        """Return the loss of embeddings and targets that are classes."""
        length = embeddings.norm(dim=1)
        cosine = (normalize(embeddings) * normalize(self.weight[target])).sum(1)
        edge = 1 - torch.finfo(cosine.dtype).eps  # where acos has no slope
        cosine = cosine.clamp(-edge, edge)
        lift = length * (margins.sphereface_psi(cosine, self.margin)[0] - cosine)
        # Into the fresh product, so that no second array of its size is made.
        logits = self.logits(embeddings).scatter_add_(1, target[:, None], lift[:, None])
        return self._of(comp_sum_loss, logits, target)


@register("noisy_softmax", paper="Chen, Deng and Du 2017, arXiv 1708.03769", of="head")
class NoisySoftmax(Head):
    """``z_y - alpha ||w_y|| ||x|| (1 - cos theta_y) |xi|``, ``xi ~ N(0, 1)``, in training alone.

    Noise that lowers the own logit, more so far from its class vector: the softmax saturates later.

    Args:
        embedding_size: D.
        classes: C.
        alpha: at least 0; 0 is cross-entropy.
        options: of :class:`Head`.
    """

    def __init__(
        self, embedding_size: int, classes: int, *, alpha: float = 0.1, **options: Any
    ) -> None:
        super().__init__(embedding_size, classes, **options)
        self.alpha = checks.within("alpha", alpha, 0)

    def loss(self, embeddings: Tensor, target: Tensor) -> Tensor:
        """Return the loss of embeddings and targets that are classes."""
        logits = self.logits(embeddings)
        if self.training and self.alpha:
            own = self.weight[target]
            gap = own.norm(dim=1) * embeddings.norm(dim=1) - (own * embeddings).sum(1)
            noise = self.alpha * torch.randn_like(gap).abs() * gap
            logits = logits.scatter_add_(1, target[:, None], -noise[:, None])
        return self._of(comp_sum_loss, logits, target)


@register("sphereface2", paper="Wen et al. 2022, arXiv 2108.01513", of="head")
class SphereFace2(Head):
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
        self.function = partial(
            margins.sphereface2_loss, margin=margin, balance=balance, scale=scale
        )
        self.function(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))
        level = scale * (2 * 0.5**t - 1)
        self.bias = nn.Parameter(torch.tensor(_balanced(level, scale * margin, balance, classes)))

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return logits, (N, C)."""
        return margins.sphereface2_scores(self.cosines(embeddings), self.bias, self.scale, self.t)

    def loss(self, embeddings: Tensor, target: Tensor) -> Tensor:
        """Return the loss of embeddings and targets that are classes."""
        return self._of(self.function, self.logits(embeddings), target)


def _balanced(level: float, margin: float, balance: float, classes: int) -> float:
    """The ``b`` with ``l sigmoid(m - s - b) = (1 - l) (C - 1) sigmoid(m + s + b)``, ``s`` level."""
    ratio = balance / ((1 - balance) * max(1, classes - 1))
    # With u = exp(s + b): e^-m u^2 + (1 - ratio) u - ratio e^-m = 0.
    root = math.sqrt((1 - ratio) ** 2 + 4 * ratio * math.exp(-2 * margin))
    return math.log(2 * ratio) - margin - math.log(1 - ratio + root) - level


@register("wrapped_cauchy", paper="Han 2023, ICML; logits as in its authors' code", of="head")
class WrappedCauchy(Head):
    """WCDAS: logits are ``s`` times the wrapped Cauchy density of the angle to each class vector.

    Both the concentration of each class, ``sigmoid(g_c)``, and ``s = 1 + softplus(a)`` are learnt.
    The paper's text leaves open where the density stands; this is its authors' code.

    Args:
        embedding_size: D.
        classes: C.
        start: of every ``g_c``.
        options: of :class:`Head`.
    """

    def __init__(
        self, embedding_size: int, classes: int, *, start: float = 0.0, **options: Any
    ) -> None:
        super().__init__(embedding_size, classes, **options)
        self.concentration = nn.Parameter(torch.full((classes,), float(start)))
        self.log_scale = nn.Parameter(torch.zeros(()))

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return logits, (N, C)."""
        density = margins.wrapped_cauchy(self.cosines(embeddings), self.concentration.sigmoid())
        return density * (1 + nn.functional.softplus(self.log_scale))


@register("large_dropout", paper="Zhang and Bottou 2024, arXiv 2403.00946", of="head")
class LargeDropout(Head):
    """Cross-entropy of a linear head whose embedding loses nine features in ten while it trains.

    Made for fine-tuning a network that is trained already.

    Args:
        embedding_size: D.
        classes: C.
        p: share of the features that are left out, in [0, 1); 0 is plain fine-tuning.
        options: of :class:`Head`.
    """

    def __init__(
        self, embedding_size: int, classes: int, *, p: float = 0.9, **options: Any
    ) -> None:
        super().__init__(embedding_size, classes, **options)
        self.p = checks.within("p", p, 0, 1)

    def loss(self, embeddings: Tensor, target: Tensor) -> Tensor:
        """Return the loss of embeddings and targets that are classes."""
        return super().loss(dropout(embeddings, self.p, self.training), target)


@register(
    "sampled_softmax",
    paper="An et al. 2021, arXiv 2010.05222; Ruiz et al. 2018, arXiv 1802.04220",
    of="head",
)
class SampledSoftmax(Head):
    """Cross-entropy over the classes of the batch and a random share of the others.

    Partial FC as it stands. With ``unbiased``, what is drawn also stands for what is not: the sum
    over classes in the denominator is right on average (augment-and-reduce for the softmax, its
    bound at the best value of its parameter). Classes that are not drawn have zero gradient.
    At rate 1, and in evaluation, it is the full loss.

    Args:
        embedding_size: D.
        classes: C.
        rate: share of the classes, in (0, 1]; those of the batch are always among them.
        unbiased: whether drawn negatives are weighted by one over their share.
        margin: of CosFace, if ``scale`` is given.
        scale: of the cosines; None for a linear layer.
        generator: source of the choice; torch's global one if None.
        options: of :class:`Head`.
    """

    def __init__(
        self,
        embedding_size: int,
        classes: int,
        *,
        rate: float = 0.1,
        unbiased: bool = False,
        margin: float = 0.0,
        scale: float | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        super().__init__(embedding_size, classes, **options)
        self.rate = checks.number("rate", rate, "in (0, 1]", 0, 1)
        self.unbiased = checks.flag("unbiased", unbiased)
        self.margin = checks.within("margin", margin, 0)
        if margin and scale is None:
            raise ValueError(f"margin={margin!r} is one of cosines; it needs a scale too")
        self.scale = scale if scale is None else checks.number("scale", scale, "positive", 0)
        self.generator = generator

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return logits of all classes, (N, C)."""
        return self._products(embeddings, self.weight)

    def loss(self, embeddings: Tensor, target: Tensor) -> Tensor:
        """Return the loss of embeddings and targets that are classes."""
        class_weight = self.class_weight if isinstance(self.class_weight, Tensor) else None
        if self.rate == 1 or not self.training:
            logits, place = self.logits(embeddings), target
        else:
            some, correction = self._drawn(target)
            logits = self._products(embeddings, self.weight[some])
            logits = logits.add_(correction) if self.unbiased else logits
            place = torch.searchsorted(some, target)
            class_weight = class_weight if class_weight is None else class_weight[some]
        if self.margin and self.scale is not None:
            lower = logits.new_full((len(place), 1), -self.margin * self.scale)
            logits = logits.scatter_add_(1, place[:, None], lower)
        return comp_sum_loss(logits, place, weight=class_weight, reduction=self.reduction)

    def _products(self, embeddings: Tensor, weight: Tensor) -> Tensor:
        if self.scale is None:
            return linear(embeddings, weight)
        return linear(normalize(embeddings) * self.scale, normalize(weight))

    def _drawn(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Classes, in order, and the logarithm of how many each of them stands for."""
        own = target.unique()
        rest = self.classes - len(own)
        drawn = min(rest, max(0, math.ceil(self.rate * self.classes) - len(own)))
        device = target.device if self.generator is None else self.generator.device
        order = torch.rand(self.classes, generator=self.generator, device=device).to(target.device)
        some = order.index_fill_(0, own, 2.0).topk(len(own) + drawn)[1].sort()[0]
        share = math.log(rest / drawn) if drawn else 0.0
        correction = torch.full((len(some),), share, device=target.device)
        return some, correction.index_fill_(0, torch.searchsorted(some, own), 0.0)
