"""QuantProb: a probability as the share of quantile levels at which a class is still accepted.

Challa, Danda and others, arXiv 2304.12766. From a pretrained classifier's scores ``s_c``:

1. ``q_c(tau)``: the weighted ``tau``-quantile of ``s_c`` over the training set, positives and
   negatives of class ``c`` with half of the weight each.
2. A network ``g(x, tau)`` learns ``1[s_c(x) > q_c(tau)]`` by binary cross-entropy, ``tau`` an input
   like the others.
3. ``P_c(x)`` is the mean over ``tau`` of ``1[g_c(x, tau) > 0]``.

The authors train a whole network again with ``tau`` as a constant input channel; here ``g`` is a
small network on frozen embeddings, with 100 levels ``k / 101``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from qact import checks
from qact.calibration.calibrator import row_normalised
from qact.calibration.minimize import minimize
from qact.losses.checks import embedded
from qact.surgery import lasting
from qact.vectors import standard

LEVELS = 100


class QuantProb(nn.Module):
    """Probabilities of a pretrained classifier from quantile levels, on frozen embeddings.

    As a module it maps embeddings (N, D) to levels (N, C) in [0, 1]; ``predict_proba`` divides them
    by their sum. Every sample is predicted alone.

    Args:
        num_features: ``D``.
        num_classes: ``C``, at least 2.
        hidden: width of the hidden layer of ``g``.
        steps: steps of Adam.
        batch: samples per step, each with a level drawn at random.
        lr: learning rate.
        seed: of weights, batches and levels.

    Example:
        >>> x = torch.randn(300, 4)
        >>> y = (x[:, 0] > 0).long()
        >>> model = QuantProb(4, 2, steps=300).fit(x, y)
        >>> bool((model.predict(x) == y).float().mean() > 0.9)
        True
    """

    shift: Tensor
    scale: Tensor

    @lasting
    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        hidden: int = 64,
        steps: int = 2000,
        batch: int = 256,
        lr: float = 3e-3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_classes = checks.integer("num_classes", num_classes, 2)
        self.steps = checks.integer("steps", steps, 1)
        self.batch = checks.integer("batch", batch, 1)
        self.lr = checks.number("lr", lr, "a positive number", 0)
        self.seed = checks.integer("seed", seed, 0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(
                nn.Linear(checks.integer("num_features", num_features, 1) + 1, hidden),
                nn.ReLU(),
                nn.Linear(hidden, num_classes),
            )
        self.register_buffer("shift", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(num_features))

    def logits(self, embeddings: Tensor, tau: Tensor) -> Tensor:
        """Return ``g(x, tau)`` (N, C) for embeddings (N, D) and levels (N,) in (0, 1)."""
        x = (embeddings - self.shift) / self.scale
        # A level in (0, 1) becomes an input of unit spread, like the others.
        return self.net(torch.cat([x, (12**0.5 * (tau - 0.5))[:, None]], 1))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return levels (N, C) in [0, 1] for embeddings (N, D)."""
        taus = (torch.arange(LEVELS, device=embeddings.device) + 1.0) / (LEVELS + 1)
        shares = [self.logits(embeddings, tau.expand(len(embeddings))) > 0 for tau in taus]
        return torch.stack(shares).to(embeddings.dtype).mean(0)

    @lasting
    def fit(self, embeddings: Tensor, labels: Tensor, scores: Tensor | None = None) -> QuantProb:
        """Train on frozen embeddings (N, D) and labels (N,).

        Args:
            embeddings: of the training set.
            labels: of the training set, in 0..C-1.
            scores: (N, C), those of the pretrained classifier; None for a logistic regression, one
                class against the rest, as in the paper.

        Raises:
            ValueError: shapes do not fit, or labels are not in 0..C-1.
        """
        x, y = embedded(embeddings.detach(), labels)
        if x.shape[1] != len(self.shift):
            raise ValueError(f"embeddings must be (N, {len(self.shift)}), got {tuple(x.shape)}")
        truth = one_hot(y, self.num_classes).to(x.dtype)
        if scores is not None and scores.shape != truth.shape:
            raise ValueError(f"scores must be {tuple(truth.shape)}, got {tuple(scores.shape)}")
        for buffer, value in zip((self.shift, self.scale), standard(x), strict=True):
            buffer.copy_(value)
        s = one_vs_rest((x - self.shift) / self.scale, truth) if scores is None else scores
        taus = (torch.arange(LEVELS) + 1.0) / (LEVELS + 1)
        q = torch.stack([balanced_quantiles(s[:, c], truth[:, c], taus) for c in range(s.shape[1])])
        self._train(x.float(), s.detach().to(x.device), taus.to(x.device), q.to(x.device))
        return self.eval()

    def _train(self, x: Tensor, s: Tensor, taus: Tensor, q: Tensor) -> None:
        source = torch.Generator().manual_seed(self.seed)
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        self.train()
        for _ in range(self.steps):
            rows = torch.randint(len(x), (self.batch,), generator=source)
            k = torch.randint(len(taus), (self.batch,), generator=source)
            target = (s[rows] > q[:, k].T).float()
            optimizer.zero_grad()
            with torch.enable_grad():
                binary_cross_entropy_with_logits(self.logits(x[rows], taus[k]), target).backward()
            optimizer.step()

    @torch.no_grad()
    def predict_proba(self, embeddings: Tensor) -> Tensor:
        """Return levels (N, C) divided by their sum, float64."""
        return row_normalised(self(embeddings.float()).double())

    def predict(self, embeddings: Tensor) -> Tensor:
        """Return the class of the highest level, (N,) int64."""
        return self.predict_proba(embeddings).argmax(1)


def one_vs_rest(x: Tensor, truth: Tensor) -> Tensor:
    """Return scores (N, C) of logistic regressions with a unit Gaussian prior on the weights."""
    wide, target = x.double(), truth.double()

    def loss(values: Tensor) -> Tensor:
        scores = wide @ values[:-1] + values[-1]
        fit = binary_cross_entropy_with_logits(scores, target, reduction="none").sum(1).mean()
        return fit + values[:-1].square().sum() / (2 * len(wide))

    values = minimize(loss, wide.new_zeros(wide.shape[1] + 1, target.shape[1]))
    return (wide @ values[:-1] + values[-1]).to(x.dtype)


def balanced_quantiles(score: Tensor, positive: Tensor, taus: Tensor) -> Tensor:
    """Return the quantiles (T,) of scores (N,), positives and negatives with half of the weight.

    Interpolated in the cumulative weight; with one kind alone, its plain quantiles.

    Example:
        >>> score, positive = torch.tensor([-1.0, -1.0, -1.0, 3.0]), torch.tensor([0, 0, 0, 1])
        >>> balanced_quantiles(score, positive, torch.tensor([0.4, 0.9]))
        tensor([-1.0000,  2.2000])
    """
    ordered, order = score.double().sort()
    hit = positive[order].double()
    weight = hit / hit.sum().clamp(min=1) + (1 - hit) / (1 - hit).sum().clamp(min=1)
    mass = (weight / weight.sum()).cumsum(0)
    right = torch.searchsorted(mass, taus.double().contiguous()).clamp(1, max(len(mass) - 1, 1))
    right = right.clamp(max=len(mass) - 1)
    left = (right - 1).clamp(min=0)
    gap = mass[right] - mass[left]
    share = torch.where(gap > 0, (taus.double() - mass[left]) / gap.where(gap > 0, 1), 1)
    return torch.lerp(ordered[left], ordered[right], share.clamp(0, 1)).to(score.dtype)
