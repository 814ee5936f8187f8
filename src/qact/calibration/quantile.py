"""The quantile classifier: a probability is where a logit stands in its context.

A linear head, one class against the rest, followed by a quantile level without BatchNorm (Challa et
al. 2024, arXiv 2405.11573v1, section 4): ``u_c = F_c(w_c.x + b_c)`` with ``F_c`` the grounded rank
of :class:`qact.QAct` among the logits of class ``c`` in the context. It is trained by binary
cross-entropy with weight ``(C - 1)/C`` on positives and ``1/C`` on negatives: 0.9 and 0.1 for ten
classes, the paper's numbers.

Grounding puts half of the mass on each side of zero. So if the signs of the logits are right,
positives spread uniformly over (1/2, 1) *however sure the head is*, and the mean confidence of the
right class is near 3/4. That spread does not depend on the shift, as long as the context follows
it: confidences are much the same at every severity, whatever the accuracy does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qact import checks
from qact.calibration.calibrator import row_normalised
from qact.context import Context
from qact.losses.checks import embedded
from qact.nn.layer import QAct
from qact.surgery import evaluating, lasting
from qact.vectors import standard


class QuantileClassifier(nn.Module):
    """One-vs-rest linear head and quantile level on frozen embeddings.

    As a module it maps embeddings (N, D) to levels (N, C) in [0, 1], which are no distribution over
    classes; ``predict_proba`` divides them by their sum. In ``eval()`` a level is read in the
    stored context, that of the embeddings of the fit, or in the batch, as :func:`qact.adapting`
    or ``context`` say.

    Args:
        num_features: ``D``.
        num_classes: ``C``, at least 2.
        context: ``"running"``, ``"batch"`` (the paper's protocol) or ``"mixed"``, see
            :class:`qact.QAct`.
        positive: weight of the positives, in (0, 1), the negatives have the rest; None for
            ``(C - 1) / C``.
        steps: steps of Adam, each on all samples at once: they are the context.
        lr: its learning rate.
        seed: of the initial weights.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(300, 4)
        >>> y = (x[:, 0] > 0).long()
        >>> model = QuantileClassifier(4, 2).fit(x, y)
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
        context: str = "running",
        positive: float | None = None,
        steps: int = 300,
        lr: float = 0.02,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_classes = checks.integer("num_classes", num_classes, 2)
        weight = (num_classes - 1) / num_classes if positive is None else positive
        self.positive = checks.number("positive", weight, "a weight in (0, 1)", 0, 1 - 1e-9)
        self.steps = checks.integer("steps", steps, 1)
        self.lr = checks.number("lr", lr, "a positive number", 0)
        self.linear = nn.Linear(checks.integer("num_features", num_features, 1), num_classes)
        # The step rank: smoothing would move the median away from zero. The paper's gradient: with
        # the full one, which knows that a rank cannot rise for all, validation accuracy was lower.
        self.quantile = QAct(
            num_classes,
            levels="uniform",
            smooth=False,
            gradient="density",
            affine=False,
            context=context,
        )
        self.register_buffer("shift", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(num_features))
        noise = torch.randn(self.linear.weight.shape, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            self.linear.weight.copy_(noise / num_features**0.5)
            self.linear.bias.zero_()

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return the scores (N, C) before the level; their sign is the one-vs-rest decision."""
        return self.linear((embeddings - self.shift) / self.scale)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return levels (N, C) in [0, 1] for embeddings (N, D)."""
        return self.quantile(self.logits(embeddings))

    @lasting
    def fit(self, embeddings: Tensor, labels: Tensor) -> QuantileClassifier:
        """Train on frozen embeddings (N, D) with labels (N,); their logits become the context.

        Raises:
            ValueError: shapes do not fit, or labels are not in 0..C-1.
        """
        x, y = embedded(embeddings.detach(), labels)
        x = x.to(self.linear.weight.dtype)
        if x.shape[1] != len(self.shift):
            raise ValueError(f"embeddings must be (N, {len(self.shift)}), got {tuple(x.shape)}")
        if y.min() < 0 or y.max() >= self.num_classes:
            raise ValueError(
                f"labels must be 0..{self.num_classes - 1}, got {int(y.min())}..{int(y.max())}"
            )
        for buffer, value in zip((self.shift, self.scale), standard(x), strict=True):
            buffer.copy_(value)
        target = nn.functional.one_hot(y, self.num_classes).to(x.dtype)
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        self.train()
        with torch.enable_grad():
            for _ in range(self.steps):
                optimizer.zero_grad()
                self._loss(self(x), target).backward()
                optimizer.step()
        with torch.no_grad():
            self.quantile.context = self._context(x)
        return self.eval()

    def _loss(self, level: Tensor, target: Tensor) -> Tensor:
        # No rank of N samples is nearer to 0 or 1 than 1/(2N): a logarithm needs no more.
        u = level.clamp(0.5 / len(level), 1 - 0.5 / len(level))
        weight = target * self.positive + (1 - target) * (1 - self.positive)
        return -(weight * (target * u.log() + (1 - target) * (1 - u).log())).sum(1).mean()

    def _context(self, x: Tensor) -> Context:
        old = self.quantile.context
        context = Context(self.num_classes, old.bins, device=old.mass.device, dtype=old.mass.dtype)
        return context.add(self.logits(x).detach())

    @torch.no_grad()
    def predict_proba(self, embeddings: Tensor) -> Tensor:
        """Return levels (N, C) divided by their sum, float64; the module's mode is untouched."""
        with evaluating(self):
            levels = self(embeddings.to(self.linear.weight.dtype))
        return row_normalised(levels.double())

    def predict(self, embeddings: Tensor) -> Tensor:
        """Return the class of the highest level, (N,) int64."""
        return self.predict_proba(embeddings).argmax(1)
