"""ROID: universal test-time adaptation by weight ensembling, diversity and prior correction."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from qact import checks
from qact.adapt.augment import View, Views, given
from qact.adapt.entropy import entropy, soft_likelihood_ratio, symmetric_cross_entropy
from qact.adapt.gradient import Gradient
from qact.adapt.registry import register


@register(
    "roid", paper="Marsden et al. 2024, arXiv 2306.00650, equations 2 to 9", learns="parameters"
)
class ROID(Gradient):
    """A certainty- and diversity-weighted likelihood ratio, and a pull back to the source.

    Samples weigh ``exp(diversity * certainty / temperature)``, both scaled to [0, 1] over the
    batch; those of less than average diversity weigh nothing. Predictions shall agree on views.
    After each step ``w <- keep w + (1 - keep) w_source``. Probabilities are multiplied by the
    batch's smoothed class shares (the prior correction). Defaults are the paper's: Adam, 0.001.

    Args:
        keep: of the weights, per step.
        memory: of the running mean of predictions.
        temperature: of the weights.
        consistency: whether predictions on views count.
        prior_correction: whether outputs are corrected.
        augment: makes a view of a batch; by default :class:`qact.adapt.augment.Views`, no noise.
        seed: of the views.
        **options: of :class:`qact.adapt.gradient.Gradient`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        keep: float = 0.99,
        memory: float = 0.9,
        temperature: float = 1 / 3,
        consistency: bool = True,
        prior_correction: bool = True,
        augment: View | None = None,
        seed: int = 0,
        **options: object,
    ) -> None:
        super().__init__(model, **options)  # type: ignore[arg-type]
        self.keep = checks.number("keep", keep, "a share in (0, 1]", 0, 1)
        self.memory = checks.number("memory", memory, "a share in (0, 1]", 0, 1)
        self.temperature = checks.number("temperature", temperature, "a positive number", 0)
        self.consistency = checks.flag("consistency", consistency)
        self.prior_correction = checks.flag("prior_correction", prior_correction)
        self.seed = checks.integer("seed", seed)
        self._augment = given(augment)

    def begin(self) -> None:
        """The running mean of predictions is uniform again."""
        super().begin()
        self.augment = self._augment or Views(noise=0.0, seed=self.seed)
        self.mean: Tensor | None = None

    def forward_and_adapt(self, x: Tensor) -> Tensor:
        """Predict, learn, correct."""
        logits = super().forward_and_adapt(x).detach()
        return logits + smoothed_prior(logits).log() if self.prior_correction else logits

    def loss(self, logits: Tensor, x: Tensor) -> Tensor | None:
        """Weighted likelihood ratio and consistency, summed over the batch's size."""
        weights = self._weights(logits.detach())
        chosen = weights > 0
        loss = (weights * soft_likelihood_ratio(logits))[chosen].sum()
        if self.consistency and bool(chosen.any()):
            again = self.logits(self.augment(x[chosen]))
            loss = loss + (weights[chosen] * symmetric_cross_entropy(again, logits[chosen])).sum()
        return loss / len(logits)

    def step(self, loss: Tensor | None) -> None:
        """A step, then the pull back to the source."""
        super().step(loss)
        with torch.no_grad():
            for name, parameter in zip(self.names, self.params, strict=True):
                parameter.lerp_(self._start[name].to(parameter), 1 - self.keep)

    def _weights(self, logits: Tensor) -> Tensor:
        p, classes = logits.softmax(1), logits.shape[1]
        mean = p.new_full((classes,), 1 / classes) if self.mean is None else self.mean
        diversity = _scaled(1 - cosine_similarity(mean[None], p, dim=1))
        certainty = _scaled(-entropy(logits))
        self.mean = self.memory * mean + (1 - self.memory) * p.mean(0)
        weights = torch.exp(diversity * certainty / self.temperature)
        return weights * (diversity >= diversity.mean())


def smoothed_prior(logits: Tensor) -> Tensor:
    """Class shares (C,) of the batch's predictions, the smoother the fewer samples there are."""
    shares = logits.softmax(1).mean(0)
    smooth = max(1 / len(logits), 1 / len(shares)) / shares.max()
    return (shares + smooth) / (1 + smooth * len(shares))


def _scaled(values: Tensor) -> Tensor:
    """To [0, 1] over the batch; equal values become 0."""
    low, high = values.aminmax()
    return (values - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny)
