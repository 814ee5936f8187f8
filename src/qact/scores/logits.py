"""Scores of the logits alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from qact import checks
from qact.scores.outputs import Outputs
from qact.scores.registry import register
from qact.scores.score import Score


def unsure(logits: Tensor) -> Tensor:
    """``1 - max_k p_k``, of the other classes alone: nothing cancels where a network is sure."""
    top = logits.max(1, keepdim=True)
    others = (logits - top.values).exp().scatter(1, top.indices, 0).sum(1)
    return others / (1 + others)


@register("msp", paper="Hendrycks and Gimpel 2017, arXiv 1610.02136")
class MSP(Score):
    """``1 - max_k softmax(f)_k``.

    Example:
        >>> from qact.scores import Outputs
        >>> MSP().score(Outputs(torch.zeros(1, 10)))
        tensor([0.9000])
    """

    def _score(self, outputs: Outputs) -> Tensor:
        return unsure(outputs.logits)


@register("max_logit", paper="Hendrycks et al. 2022, arXiv 1911.11132")
class MaxLogit(Score):
    """``-max_k f_k``.

    Example:
        >>> from qact.scores import Outputs
        >>> MaxLogit().score(Outputs(torch.tensor([[1.0, 3.0]])))
        tensor([-3.])
    """

    def _score(self, outputs: Outputs) -> Tensor:
        return -outputs.logits.amax(1)


@register("energy", paper="Liu et al. 2020, arXiv 2010.03759")
class Energy(Score):
    """``E = -T log sum_k exp(f_k / T)``.

    Example:
        >>> from qact.scores import Outputs
        >>> Energy().score(Outputs(torch.zeros(1, 10)))
        tensor([-2.3026])

    Raises:
        ValueError: ``temperature`` is not positive.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = checks.number("temperature", temperature, "a positive number", 0)

    def _score(self, outputs: Outputs) -> Tensor:
        return -self.temperature * (outputs.logits / self.temperature).logsumexp(1)


@register("gen", paper="Liu et al. 2023 (CVPR), Generalized Entropy score")
class GEN(Score):
    """Generalised entropy ``sum_{k <= M} p_(k)^gamma (1 - p_(k))^gamma`` of the M largest.

    Raises:
        ValueError: ``gamma`` is not in (0, 1), or ``top`` below 1.

    Example:
        >>> from qact.scores import Outputs
        >>> GEN(gamma=0.5).score(Outputs(torch.zeros(1, 2)))  # twice (1/4)^(1/2)
        tensor([1.])
    """

    def __init__(self, gamma: float = 0.1, top: int = 100) -> None:
        super().__init__()
        self.gamma = checks.number("gamma", gamma, "in (0, 1)", 0, 1 - 1e-12)
        self.top = checks.integer("top", top, 1)

    def _score(self, outputs: Outputs) -> Tensor:
        f = outputs.logits
        p = f.softmax(1).topk(min(self.top, f.shape[1]), 1).values
        q = torch.cat([unsure(f)[:, None], 1 - p[:, 1:]], 1)
        return (p * q).pow(self.gamma).sum(1)


@register("kl_matching", paper="Hendrycks et al. 2022, arXiv 1911.11132")
class KLMatching(Score):
    """``min_k KL(p || d_k)``, ``d_k`` the mean softmax of what is predicted as class ``k``."""

    typical: Tensor

    def _fit(self, outputs: Outputs) -> None:
        p, predicted = outputs.logits.softmax(1), outputs.logits.argmax(1)
        self._keep(typical=torch.stack([p[predicted == k].mean(0) for k in predicted.unique()]))

    def _score(self, outputs: Outputs) -> Tensor:
        log_p = outputs.logits.log_softmax(1)
        p = log_p.exp()
        own = torch.where(p > 0, p * log_p, 0).sum(1, keepdim=True)  # 0 log 0 = 0
        return (own - p @ self.typical.clamp(min=torch.finfo(p.dtype).tiny).log().T).amin(1)


@register("label_nonuniformity", paper="Ji et al. 2023, Leveraging Label Non-Uniformity")
class LabelNonUniformity(Score):
    """Minus the Wasserstein distance of ``p`` to uniform at 0/1 cost, ``1/2 sum |p_k - 1/K|``.

    Example:
        >>> from qact.scores import Outputs
        >>> LabelNonUniformity().score(Outputs(torch.tensor([[0.0, 0.0], [99.0, 0.0]])))
        tensor([-0.0000, -0.5000])
    """

    def _score(self, outputs: Outputs) -> Tensor:
        p = outputs.logits.softmax(1)
        return -(p - 1 / p.shape[1]).abs().sum(1) / 2


@register("evidential", paper="Ulmer et al. 2023, arXiv 2110.03051 (vacuity)")
class Evidential(Score):
    """Vacuity ``K / sum_k alpha_k`` of the Dirichlet ``alpha = 1 + evidence(f)``, in (0, 1].

    Args:
        evidence: ``"relu"``, ``"softplus"`` or ``"exp"``, as the head was trained; for an ordinary
            classifier ``"exp"`` has the order of the energy.

    Raises:
        ValueError: there is no such ``evidence``.

    Example:
        >>> from qact.scores import Outputs
        >>> Evidential().score(Outputs(torch.tensor([[3.0, -1.0]])))  # 2 / (4 + 1)
        tensor([0.4000])
    """

    def __init__(self, evidence: str = "relu") -> None:
        super().__init__()
        self.evidence = checks.choice("evidence", evidence, ("relu", "softplus", "exp"))

    def _score(self, outputs: Outputs) -> Tensor:
        made = {"relu": torch.relu, "softplus": softplus, "exp": torch.exp}[self.evidence]
        evidence = made(outputs.logits.double())
        return (evidence.shape[1] / (1 + evidence).sum(1)).to(outputs.logits.dtype)


@register("rel_u", paper="Gomes et al. 2024, arXiv 2306.01710")
class RelU(Score):
    """``p^T D p``: how alike ``p`` is to what was predicted wrongly rather than rightly.

    ``D = relu(lam E_wrong[p p^T] - (1 - lam) E_right[p p^T])`` off the diagonal, over its norm.
    Where that is all zero, or nothing was wrong, ``D = 1 1^T - I``: Gini's ``1 - sum p^2``.

    Args:
        lam: weight of the wrong samples, in [0, 1].
        temperature: of the softmax.

    Raises:
        ValueError: ``lam`` is not in [0, 1], or ``temperature`` not positive.
    """

    reads = ("logits", "labels")
    distance: Tensor

    def __init__(self, lam: float = 0.5, temperature: float = 1.0) -> None:
        super().__init__()
        self.lam = checks.within("lam", lam, 0, 1 + 1e-12)
        self.temperature = checks.number("temperature", temperature, "a positive number", 0)

    def _fit(self, outputs: Outputs) -> None:
        p = (outputs.logits / self.temperature).softmax(1)
        wrong = outputs.logits.argmax(1) != outputs.of("labels")
        D = self.lam * _second(p[wrong]) - (1 - self.lam) * _second(p[~wrong])
        D = ((D + D.T) / 2).relu().fill_diagonal_(0)
        if not wrong.any() or not D.any():
            D = torch.ones_like(D).fill_diagonal_(0)
        else:
            D /= D.norm()
        self._keep(distance=D)

    def _score(self, outputs: Outputs) -> Tensor:
        p = (outputs.logits / self.temperature).softmax(1)
        return ((p @ self.distance) * p).sum(1)


def _second(p: Tensor) -> Tensor:
    """``E[p p^T]``, zero of no samples."""
    return p.T @ p / max(len(p), 1)


@register("centroid", paper="Sikar et al. 2024, When to Accept Automated Predictions")
class CentroidDistance(Score):
    """Distance of ``p`` to the mean softmax of the right predictions of its class.

    Attributes:
        safety: the least distance of a wrong prediction of each class (inf without one): none of
            those it was fitted on lies nearer.
    """

    reads = ("logits", "labels")
    centroids: Tensor
    safety: Tensor

    def _fit(self, outputs: Outputs) -> None:
        p, predicted = outputs.logits.softmax(1), outputs.logits.argmax(1)
        right = predicted == outputs.of("labels")
        classes = range(p.shape[1])
        # A class without a right sample has no centre: what is predicted as it is infinitely far.
        centres = [p[right & (predicted == k)] for k in classes]
        self._keep(
            centroids=torch.stack(
                [c.mean(0) if len(c) else torch.full_like(p[0], torch.inf) for c in centres]
            )
        )
        distance = self._score(outputs)
        wrong = [distance[~right & (predicted == k)] for k in classes]
        self._keep(
            safety=torch.stack([d.min() if len(d) else d.new_tensor(torch.inf) for d in wrong])
        )

    def _score(self, outputs: Outputs) -> Tensor:
        predicted = outputs.logits.argmax(1)
        return (outputs.logits.softmax(1) - self.centroids[predicted]).norm(dim=1)


@register("tempnet", paper="Qiu et al. 2024, arXiv 2404.04575 (its minimum over tau)")
class TempNet(Score):
    r"""Minus the temperature that each sample asks for: how far apart its logits are.

    ``tau*`` minimises ``tau log sum_k exp((f_k - f_y)/tau) + (rho - log K) tau`` in ``[low,
    high]``. Its derivative is ``H(softmax(f/tau)) + rho - log K``, which grows with ``tau``: there
    the softmax lies ``rho`` nats from uniform, and ``tau*`` has the unit of the logits. Newton
    steps on ``log tau``, kept inside a bracket by bisection.

    Args:
        rho: how far, in (0, log K) to have an effect.
        low: least ``tau``.
        high: largest ``tau``.
    """

    def __init__(self, rho: float = 0.3, low: float = 0.01, high: float = 1e4) -> None:
        super().__init__()
        self.rho = checks.number("rho", rho, "a positive number", 0)
        self.low = checks.number("low", low, "a positive number", 0)
        self.high = checks.number("high", high, "above low", self.low)

    def temperature(self, logits: Tensor) -> Tensor:
        """Return ``tau*`` (N,)."""
        f = (logits - logits.amax(1, keepdim=True)).double()
        target = math.log(f.shape[1]) - self.rho
        low = f.new_full((len(f),), math.log(self.low))
        high = torch.full_like(low, math.log(self.high))
        t = (low + high) / 2
        for _ in range(30):
            z = f / t.exp()[:, None]
            log_p = z.log_softmax(1)
            p = log_p.exp()
            gap = -torch.where(p > 0, p * log_p, 0).sum(1) - target
            low, high = torch.where(gap < 0, t, low), torch.where(gap < 0, high, t)
            slope = (p * z.square()).sum(1) - (p * z).sum(1).square()  # dH / d log tau = Var(z)
            step = t - gap / slope
            t = torch.where((step >= low) & (step <= high), step, (low + high) / 2)
        return t.exp().to(logits.dtype)

    def _score(self, outputs: Outputs) -> Tensor:
        return -self.temperature(outputs.logits)
