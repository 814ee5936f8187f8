"""Scores of the features before the last layer: distances to classes, subspaces, neighbours."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from qact import checks
from qact.scores.logits import unsure
from qact.scores.outputs import Outputs
from qact.scores.registry import register
from qact.scores.score import FEW, Score, spread
from qact.vectors import distances, lengths, unit_vectors

_CHUNK = 512  # samples whose distances to a bank are held at a time


def class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean features (K, D), float64, of each class that is there."""
    parts = [features[labels == k] for k in range(classes)]
    return torch.stack([part.double().mean(0) for part in parts if len(part)])


def whitener(centred: Tensor) -> Tensor:
    """``L`` (D, D) with ``L L^T`` the pseudo-inverse of the covariance of centred rows (N, D)."""
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    floor = values[-1] * len(values) * torch.finfo(values.dtype).eps
    return vectors * torch.where(values > floor, values.clamp(min=1e-300).rsqrt(), 0)


@register("mahalanobis", paper="Lee et al. 2018, arXiv 1807.03888, eq. 2")
class Mahalanobis(Score):
    """``min_c (a - mu_c)^T S^+ (a - mu_c)``, one covariance ``S`` for all classes.

    No invertible affine map of the features changes it.

    Args:
        unit: take features at unit length (Mueller and Hein 2025, arXiv 2505.18032): where networks
            answer outliers with short features, their distance would be small.
    """

    reads = ("logits", "features", "labels")
    white: Tensor
    means: Tensor

    def __init__(self, *, unit: bool = False) -> None:
        super().__init__()
        self.unit = checks.flag("unit", unit)

    def _features(self, outputs: Outputs) -> Tensor:
        a = outputs.of("features").double()
        return unit_vectors(a) if self.unit else a

    def _fit(self, outputs: Outputs) -> None:
        a, y = self._features(outputs), outputs.of("labels")
        means = class_means(a, y, outputs.logits.shape[1])
        white = whitener(a - means[y.unique(return_inverse=True)[1]])
        self._keep(white=white, means=means @ white)

    def _score(self, outputs: Outputs) -> Tensor:
        found = distances(self._features(outputs) @ self.white, self.means).amin(1).square()
        return found.to(outputs.logits.dtype)


@register("relative_mahalanobis", paper="Ren et al. 2021, arXiv 2106.09022")
class RelativeMahalanobis(Mahalanobis):
    """Mahalanobis, less the distance to the mean of all in the covariance of all."""

    white_all: Tensor
    mean_all: Tensor

    def _fit(self, outputs: Outputs) -> None:
        super()._fit(outputs)
        a = self._features(outputs)
        white = whitener(a - a.mean(0))
        self._keep(white_all=white, mean_all=a.mean(0, keepdim=True) @ white)

    def _score(self, outputs: Outputs) -> Tensor:
        all_ = distances(self._features(outputs) @ self.white_all, self.mean_all)[:, 0].square()
        return super()._score(outputs) - all_.to(outputs.logits.dtype)


@register("vim", paper="Wang et al. 2022, arXiv 2203.10807")
class ViM(Score):
    """``alpha |residual| - log sum exp f``: a virtual logit against the others.

    The residual is what of ``a - o``, ``o = -W^+ b``, lies outside the ``dim`` principal directions
    of in-distribution data; ``alpha = sum max_k f_k / sum |residual|`` there.

    Args:
        dim: None for half of the features, at most 1000.

    Raises:
        ValueError: ``dim`` is not below the number of features.
    """

    reads = ("logits", "features")
    origin: Tensor
    outside: Tensor
    alpha: Tensor

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = None if dim is None else checks.integer("dim", dim, 0)

    def _fit(self, outputs: Outputs) -> None:
        head = self._bound().head
        assert head is not None
        W = head.weight.detach().double()
        b = W.new_zeros(len(W)) if head.bias is None else head.bias.detach().double()
        origin = -torch.linalg.pinv(W) @ b
        a = outputs.of("features").double() - origin
        dim = min(a.shape[1] // 2, 1000) if self.dim is None else self.dim
        if dim >= a.shape[1]:
            raise ValueError(f"dim={dim} must be below the {a.shape[1]} features")
        vectors = torch.linalg.eigh(a.T @ a).eigenvectors[:, : a.shape[1] - dim]
        residual = (a @ vectors).norm(dim=1).sum()
        largest = outputs.logits.double().amax(1).sum()
        alpha = largest / residual if residual > 0 else torch.zeros_like(largest)
        kind = outputs.of("features").dtype
        self._keep(origin=origin.to(kind), outside=vectors.to(kind), alpha=alpha.to(kind))

    def _score(self, outputs: Outputs) -> Tensor:
        residual = lengths((outputs.of("features") - self.origin) @ self.outside)[:, 0]
        return self.alpha * residual - outputs.logits.logsumexp(1)


@register("knn", paper="Sun et al. 2022, arXiv 2204.06507")
class KNN(Score):
    """Distance of ``a / |a|`` to its ``k``-th nearest neighbour in-distribution.

    Raises:
        ValueError: ``k`` is below 1, or there are not ``k + 1`` samples to fit on.

    Example:
        >>> from qact.scores import Outputs
        >>> known, z = torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.zeros(2, 2)
        >>> score = KNN(k=1).fit(nn.Linear(2, 2), Outputs(z, known))
        >>> score.score(Outputs(z[:1], torch.tensor([[0.0, 3.0]])))  # at right angles: sqrt(2)
        tensor([1.4142])
    """

    reads = ("logits", "features")
    bank: Tensor

    def __init__(self, k: int = 50) -> None:
        super().__init__()
        self.k = checks.integer("k", k, 1)

    def _fit(self, outputs: Outputs) -> None:
        if len(outputs) < self.k + 1:  # one more: a sample of the bank is no neighbour of itself
            raise ValueError(
                f"k={self.k} needs {self.k + 1} in-distribution samples or more, got {len(outputs)}"
            )
        self._keep(bank=unit_vectors(outputs.of("features")))

    def _within(self, outputs: Outputs) -> Tensor:
        return self._distance(spread(outputs, FEW).of("features"), self.k + 1)

    def _score(self, outputs: Outputs) -> Tensor:
        return self._distance(outputs.of("features"), self.k)

    def _distance(self, features: Tensor, k: int) -> Tensor:
        # |a - b|^2 = 2 - 2 a b for unit vectors: the nearest have the largest products.
        products = [
            (part @ self.bank.T).topk(k, 1, sorted=False).values.amin(1)
            for part in unit_vectors(features).split(_CHUNK)
        ]
        found = torch.cat(products) if products else features.new_empty(0)
        return (2 - 2 * found).clamp(min=0).sqrt()


@register("conjnorm", paper="Peng et al. 2024, arXiv 2402.17888 (without the partition)")
class ConjNorm(Score):
    """``min_c d(a, mu_c)``, the Bregman divergence of ``1/2 |.|_p^2``; ``p = 2`` is Euclid's.

    The paper divides the density by a partition function that it samples; it is left out.

    Raises:
        ValueError: ``p`` is not above 1.

    Example:
        >>> from qact.scores import Outputs
        >>> known, z = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.eye(2)
        >>> known = Outputs(z, known, torch.tensor([0, 1]))
        >>> score = ConjNorm().fit(nn.Linear(2, 2), known)
        >>> score.score(Outputs(z[:1], torch.tensor([[4.0, 0.0]])))  # |(4, 0) - (1, 0)|^2 / 2
        tensor([4.5000])
    """

    reads = ("logits", "features", "labels")
    means: Tensor

    def __init__(self, p: float = 2.0) -> None:
        super().__init__()
        self.p = checks.number("p", p, "above 1", 1)

    def _fit(self, outputs: Outputs) -> None:
        a, y = outputs.of("features"), outputs.of("labels")
        self._keep(means=class_means(a, y, outputs.logits.shape[1]))

    def _score(self, outputs: Outputs) -> Tensor:
        a = outputs.of("features")
        return self.divergence(a.double(), self.means).amin(1).to(a.dtype)

    def divergence(self, a: Tensor, mu: Tensor) -> Tensor:
        """``phi(a) - phi(mu) - <grad phi(mu), a - mu>`` (N, K) for (N, D) and (K, D)."""
        norm = mu.norm(p=self.p, dim=1, keepdim=True).clamp(min=1e-300)
        grad = mu.sign() * norm * (mu.abs() / norm).pow(self.p - 1)
        phi_a = a.norm(p=self.p, dim=1).square() / 2
        # <grad phi(mu), mu> = |mu|_p^2, so half of it is what remains.
        return (phi_a[:, None] + norm[:, 0].square() / 2 - a @ grad.T).clamp(min=0)


@register("sdm", paper="Schmaltz 2025, arXiv 2502.20167 (activation)")
class SDM(Score):
    """``1 - max softmax(d log(2 + q) f)``: similarity, distance and magnitude in one.

    ``q`` is how many of the nearest in-distribution neighbours in a row have the predicted class
    and were predicted rightly; ``d`` is one minus the share of in-distribution samples whose
    nearest neighbour is nearer.

    Args:
        k: most neighbours that are counted.
    """

    reads = ("logits", "features", "labels")
    bank: Tensor
    classes: Tensor
    nearest: Tensor

    def __init__(self, k: int = 50) -> None:
        super().__init__()
        self.k = checks.integer("k", k, 1)

    def _fit(self, outputs: Outputs) -> None:
        if len(outputs) < 2:
            raise ValueError(f"SDM needs 2 in-distribution samples or more, got {len(outputs)}")
        y = outputs.of("labels")
        # -1 is nobody's prediction: a neighbour that was predicted wrongly ends the row.
        self._keep(
            bank=outputs.of("features"),
            classes=torch.where(outputs.logits.argmax(1) == y, y, -1),
        )
        own = spread(outputs, FEW)
        self._keep(nearest=self._neighbours(own.of("features"), 2)[0][:, 1].sort().values)

    def _within(self, outputs: Outputs) -> Tensor:
        return self._scored(spread(outputs, FEW), skip=1)

    def _score(self, outputs: Outputs) -> Tensor:
        return self._scored(outputs)

    def _scored(self, outputs: Outputs, skip: int = 0) -> Tensor:
        f = outputs.logits
        count = min(self.k + skip, len(self.bank))
        distance, where = self._neighbours(outputs.of("features"), count)
        alike = self.classes[where[:, skip:]] == f.argmax(1)[:, None]
        q = alike.long().cumprod(1).sum(1)
        below = torch.searchsorted(self.nearest, distance[:, skip].contiguous())
        d = 1 - below.float() / len(self.nearest)
        return unsure(f * (d * (2.0 + q.float()).log())[:, None].to(f.dtype))

    def _neighbours(self, features: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Distances and places (N, count) of the nearest of the bank, ascending."""
        parts = [
            distances(part, self.bank).topk(count, 1, largest=False)
            for part in features.split(_CHUNK)
        ]
        if not parts:
            return features.new_empty(0, count), torch.empty(0, count, dtype=torch.long)
        return torch.cat([p.values for p in parts]), torch.cat([p.indices for p in parts])


@register("t_similarity", paper="Odonnat et al. 2024, arXiv 2310.14814")
class TSimilarity(Score):
    """Minus the mean product ``1/(M(M-1)) sum_{m != k} h_m h_k`` of the softmax of ``M`` heads.

    The heads are linear, trained on the features by cross-entropy less ``gamma`` times their
    diversity, so that they agree where the labels make them and nowhere else.

    Args:
        heads: ``M``, at least 2.
        gamma: weight of the diversity.
        steps: of Adam, on all data at once.
        seed: of the heads' starts.
    """

    reads = ("logits", "features", "labels")
    weight: Tensor
    bias: Tensor

    def __init__(self, heads: int = 5, gamma: float = 1.0, steps: int = 100, seed: int = 0) -> None:
        super().__init__()
        self.heads = checks.integer("heads", heads, 2)
        self.gamma = checks.within("gamma", gamma, 0)
        self.steps = checks.integer("steps", steps, 1)
        self.seed = checks.integer("seed", seed)

    @torch.enable_grad()
    def _fit(self, outputs: Outputs) -> None:
        a, y = outputs.of("features").detach(), outputs.of("labels")
        draw = torch.Generator().manual_seed(self.seed)
        width, classes = a.shape[1], outputs.logits.shape[1]
        # Features in units of their own, or the step of Adam would mean something else each time.
        unit = float(a.double().std(correction=0)) or 1.0
        start = (
            torch.randn(self.heads, classes, width, generator=draw, dtype=torch.float32)
            * width**-0.5
        )
        weight = nn.Parameter(start.to(a))
        bias = nn.Parameter(a.new_zeros(self.heads, classes))
        optimizer = torch.optim.Adam([weight, bias], lr=0.05)
        labels = y.expand(self.heads, -1).reshape(-1)
        for _ in range(self.steps):
            f = torch.einsum("nd,mkd->mnk", a / unit, weight) + bias[:, None]
            loss = cross_entropy(f.flatten(0, 1), labels)
            loss = loss + self.gamma * similarity(f.softmax(2)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self._keep(weight=weight.detach() / unit, bias=bias.detach())

    def _score(self, outputs: Outputs) -> Tensor:
        f = torch.einsum("nd,mkd->mnk", outputs.of("features"), self.weight) + self.bias[:, None]
        return -similarity(f.softmax(2))


def similarity(p: Tensor) -> Tensor:
    """T-similarity (N,) of softmaxes (M, N, K) of M heads; in [0, 1], ``1/K`` if all are uniform.

    Example:
        >>> similarity(torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]]))
        tensor([0.3333])
    """
    pairs = p.sum(0).square().sum(1) - p.square().sum((0, 2))
    return pairs / (len(p) * (len(p) - 1))
