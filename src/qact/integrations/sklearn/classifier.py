"""For scikit-learn: a classifier whose neurons know their context."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qact import checks, extras
from qact.context import Context
from qact.nn.layer import QAct
from qact.surgery import hooking, lasting, tapped

with extras.needed("qact.sklearn", "sklearn"):
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data


class ShiftRobustClassifier(ClassifierMixin, BaseEstimator):
    r"""A multilayer perceptron of quantile activations that adapts to unlabelled data.

    Features are standardised and mapped to the normal score of their rank, then pass through linear
    layers with a :class:`qact.QAct` behind each. ``adapt`` replaces the stored contexts of all
    these layers by those of new data: an increasing distortion of a feature, its drift in scale or
    offset, is undone by the ranks. Every prediction depends on its own sample and the stored
    contexts alone, before and after ``adapt``.

    Args:
        hidden_layer_sizes: neurons per hidden layer; ``()`` is logistic regression on ranks.
        max_iter: most epochs of training.
        batch_size: most samples per step; small tables are cut into about eight steps of 16
            samples or more.
        learning_rate: of AdamW, decaying to zero along a half cosine.
        weight_decay: of AdamW.
        validation_fraction: share of the samples to stop early on; 0 trains ``max_iter`` epochs, as
            do fewer than 50 samples.
        n_iter_no_change: epochs without a lower validation loss before training stops.
        prior: how many samples the source contexts count for in ``adapt``.
        random_state: seed or generator of the weights, the split and the order.

    Attributes:
        classes_, n_features_in_, feature_names_in_: as everywhere in scikit-learn.
        n_iter_: epochs of training.
        network_: the ``torch.nn.Module`` (float64), from standardised features to logits.

    Raises:
        ValueError: an option does not fit, or ``X`` and ``y`` do not.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> model = ShiftRobustClassifier((16,), max_iter=40, random_state=0).fit(X, y)
        >>> bool(model.adapt(3 * X + 1).score(3 * X + 1, y) > 0.9)
        True
    """

    def __init__(
        self,
        hidden_layer_sizes: tuple[int, ...] = (64, 64),
        *,
        max_iter: int = 100,
        batch_size: int = 128,
        learning_rate: float = 1e-2,
        weight_decay: float = 1e-2,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        prior: float = 16.0,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.prior = prior
        self.random_state = random_state

    @lasting
    def fit(self, X: Any, y: Any) -> ShiftRobustClassifier:
        """Train on ``X`` (n_samples, n_features) and labels ``y`` (n_samples,)."""
        self._check_options()
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, index = np.unique(y, return_inverse=True)
        self.mean_, scale = X.mean(0), X.std(0)
        self.scale_ = np.where(scale > 0, scale, 1.0)
        random = check_random_state(self.random_state)
        inputs = torch.from_numpy((X - self.mean_) / self.scale_).float()
        train, held = self._split(inputs, torch.from_numpy(index), random)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random.randint(2**31 - 1))
            self.network_ = self._train(train, held).eval().double()
        self._source = {n: c.clone() for n, c in _contexts(self.network_).items()}
        return self

    @lasting
    def adapt(self, X: Any) -> ShiftRobustClassifier:
        """Let the contexts be those of unlabelled ``X``, with the source as ``prior`` samples.

        Starts from the source contexts each time. The classes of ``X`` should be about as frequent
        as they were in training: a rank cannot tell a drift of a feature from one of the classes.
        """
        inputs = self._inputs(X)
        self.reset()
        with torch.no_grad():
            _follow(self.network_, inputs, self.prior)
        return self

    def reset(self) -> ShiftRobustClassifier:
        """Go back to the source contexts: what ``fit`` left."""
        check_is_fitted(self)
        for name, context in _contexts(self.network_).items():
            context.load_state_dict(self._source[name].state_dict())
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities (n_samples, n_classes), in the order of ``classes_``."""
        inputs = self._inputs(X)
        with torch.no_grad():
            return self.network_(inputs).softmax(1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each sample, (n_samples,)."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    def _inputs(self, X: Any) -> Tensor:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return torch.from_numpy((X - self.mean_) / self.scale_)

    def _split(
        self, X: Tensor, y: Tensor, random: np.random.RandomState
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:
        """Samples to train and to stop on; stratified if every class has two."""
        held = round(self.validation_fraction * len(y))
        counts = torch.bincount(y)
        if held == 0 or len(y) < 50:
            return (X, y), None
        strata = y.numpy() if counts.min() >= 2 and held >= len(counts) else None
        a, b = train_test_split(
            np.arange(len(y)), test_size=held, random_state=random, stratify=strata
        )
        return (X[a], y[a]), (X[b], y[b])

    def _train(
        self, train: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor] | None
    ) -> nn.Sequential:
        X, y = train
        network = self._build(X.shape[1], len(self.classes_))
        optimizer = torch.optim.AdamW(
            network.parameters(), self.learning_rate, weight_decay=self.weight_decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.max_iter)
        best, least, since = None, float("inf"), 0
        for epoch in range(1, self.max_iter + 1):
            self.n_iter_: int = epoch
            _epoch(network, optimizer, X, y, min(self.batch_size, max(16, len(y) // 8)))
            schedule.step()
            if held is None:
                continue
            loss = _loss(network, *held)
            since = 0 if loss < least else since + 1
            if loss < least:
                best, least = copy.deepcopy(network.state_dict()), loss
            if since >= self.n_iter_no_change:
                break
        if best is not None:
            network.load_state_dict(best)
        return network

    def _build(self, features: int, classes: int) -> nn.Sequential:
        """Ranks of the features, then linear layers with activations between."""
        first = QAct(features, levels="normal", grounded=False, affine=False, momentum=None)
        layers: list[nn.Module] = [first]
        for size in self.hidden_layer_sizes:
            layers += [nn.Linear(features, size), QAct(size, grounded=False)]
            features = size
        return nn.Sequential(*layers, nn.Linear(features, classes))

    def _check_options(self) -> None:
        for size in self.hidden_layer_sizes:
            checks.integer("hidden_layer_sizes", size, 1)
        for name, least in (("max_iter", 1), ("batch_size", 2), ("n_iter_no_change", 1)):
            checks.integer(name, getattr(self, name), least)
        checks.number("learning_rate", self.learning_rate, "a positive number", 0)
        checks.number("prior", self.prior, "a positive number of samples", 0)
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"validation_fraction={self.validation_fraction!r} must be in [0, 1)")


def _epoch(
    network: nn.Module, optimizer: torch.optim.Optimizer, X: Tensor, y: Tensor, size: int
) -> None:
    """One pass in batches of about ``size``: no batch is a rest of a few samples."""
    network.train()
    for part in torch.randperm(len(y)).tensor_split(max(1, round(len(y) / size))):
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(network(X[part]), y[part]).backward()
        optimizer.step()


@torch.no_grad()
def _loss(network: nn.Module, X: Tensor, y: Tensor) -> float:
    return F.cross_entropy(network.eval()(X), y).item()


def _contexts(network: nn.Module) -> dict[str, Context]:
    return {n: m.context for n, m in network.named_modules() if isinstance(m, QAct)}


def _follow(network: nn.Sequential, inputs: Tensor, prior: float) -> None:
    """Layer by layer, the context becomes that of ``inputs`` and of the source together."""

    def meet(layer: QAct, input: Tensor) -> None:
        context, before = layer.context, layer.context.count
        _scale(context, prior / before)
        context.add(input, dim=layer.dim)
        _scale(context, before / context.count)  # scores next to 0 and 1 depend on the number

    with hooking(network) as hooks:
        for layer in network:
            if isinstance(layer, QAct):
                hooks.enter_context(tapped(layer, partial(meet, layer), "input"))
        network(inputs)


def _scale(context: Context, factor: Tensor) -> None:
    context.mass *= factor[:, None]
    context.moment *= factor[:, None]
