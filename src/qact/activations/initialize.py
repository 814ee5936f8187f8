"""`init_`: weights that suit the activations of a model, whichever they are."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qact import checks
from qact._compat import AnyConv, AnyConvTranspose
from qact.activations import activation as _activation
from qact.activations import signal
from qact.activations.batch import Dice
from qact.activations.bounds import behind_sums
from qact.nn.layer import QAct
from qact.nn.normed import NormedQAct
from qact.surgery import hooking, inner, is_activation, is_norm, lasting, outermost, tapped

SCHEMES = ("variance", "edge", "lsuv", "interval")
SAMPLES = 4096


@lasting
@torch.no_grad()
def init_(
    model: nn.Module,
    scheme: str = "variance",
    *,
    activation: str | type[nn.Module] | nn.Module | None = None,
    inputs: Tensor | None = None,
    sigma: float = 1.0,
) -> nn.Module:
    """Initialise every linear and convolutional layer of ``model`` in place, and return it.

    - ``"variance"``: deviation ``gain / sqrt(fan_in)``, biases zero, with the gain of the function
      that the layer reads (:func:`qact.activations.signal.gain`; VI3NR, arXiv 2504.19270).
    - ``"edge"``: ``sigma_w / sqrt(fan_in)`` and biases of deviation ``sigma_b``, on the edge of
      chaos of the function that follows (arXiv 1902.06853), at variance ``sigma**2``.
    - ``"lsuv"``: orthogonal weights, then each layer in turn is scaled until its output on
      ``inputs`` has variance ``sigma**2`` (Mishkin and Matas 2015, arXiv 1511.06422). Weights that
      are orthogonal already are kept: what a first call has set, a second one leaves.
    - ``"interval"``: deviation ``sqrt(2 pi) / fan_in``, biases zero, so that interval bounds keep
      their width from one ReLU to the next; half of it behind a sum, which adds the widths of its
      terms (Shi et al. 2021, arXiv 2103.17268, for certified training, with BatchNorm in every
      layer; :mod:`qact.activations.bounds`).

    Which activation belongs to a layer is read from the order in which modules were registered; a
    layer with none before it takes its inputs to be of variance 1. ``activation`` names one for
    all layers. Activations of any kind serve: what reads a batch is given a Gaussian one.

    Raises:
        ValueError: the scheme is unknown, has no solution, or lacks ``inputs``.

    Warns:
        UserWarning: ``"variance"`` is a fixed point, but an unstable one (the variance map has a
            slope above 1 there, as with SiLU, GELU and Mish), and the layers are so many and so
            narrow that chance alone leads away from it.

    Example:
        >>> import qact
        >>> model = nn.Sequential(
        ...     nn.Linear(256, 256), qact.activation("golu"), nn.Linear(256, 256)
        ... )
        >>> _ = qact.init_(model)
        >>> round(float(model[2].weight.detach().std() * 16), 1)  # the gain of GoLU
        1.8
    """
    checks.choice("scheme", scheme, SCHEMES)
    checks.number("sigma", sigma, "a positive deviation", 0)
    if scheme == "lsuv":
        if inputs is None:
            raise ValueError("scheme='lsuv' measures the layers: give inputs, a batch of the data")
        return _lsuv(model, inputs, sigma)
    if scheme == "interval":
        return _keeping_widths(model)
    made, drift = _made(activation), _Drift(sigma)
    for layer, before, after in _layers(model):
        # A layer without an activation before it reads data, whatever the others read.
        read = None if before is None else (made or before)
        follows = made or after
        if scheme == "edge" and follows is not None:
            sigma_w, sigma_b = _edge(follows, sigma**2)
            _normal(layer, math.sqrt(sigma**2 - sigma_b**2) if read is None else sigma_w, sigma_b)
        else:
            _normal(layer, sigma if read is None else _gain(read, sigma), 0.0)
            drift.through(layer, read)
    if not any(is_norm(module) for module in model.modules()):  # which would set it right
        drift.warn()
    return model


class _Drift:
    """How far chance leads the variance of a signal away from an unstable fixed point."""

    def __init__(self, sigma: float) -> None:
        self._read: list[tuple[nn.Module | None, int]] = []  # what a layer reads, and how many
        self._sigma = sigma

    def through(self, layer: Any, read: nn.Module | None) -> None:
        """Go on through a layer, which reads the activation ``read`` or data."""
        rank = read is not None and _reads_batch(read)  # it has no scale: what was off is forgotten
        self._read.append((None if rank else read, layer.weight[0].numel()))

    def warn(self) -> None:
        """Warn of an error of more than half that grows from layer to layer."""
        q, known = self._sigma**2, dict[str, tuple[float, float]]()
        error, steepest = 0.0, (0.0, "")  # of the variance, relative and squared
        steady = 0.0  # what it would be at slope 1: narrow layers alone are no drift
        for read, width in self._read:
            if read is None:
                error = steady = 0.0
                continue
            name = repr(read)
            if name not in known:  # the same function again and again, mostly
                f = _scalar(copy.deepcopy(read).double().eval())
                slope = signal.variance_slope(f, _gain(read, self._sigma), q)
                known[name] = slope, signal.sampling_error(f, 1, q)
            slope, chance = known[name]
            error, steady = slope**2 * error + chance**2 / width, steady + chance**2 / width
            steepest = max(steepest, (slope, type(read).__name__))
        if error > 0.25 and error > 4 * steady:
            warnings.warn(
                f"the variance of the signal is unstable: behind {steepest[1]} a deviation grows "
                f"{steepest[0]:.3f}-fold per layer, and in this network it is off by "
                f"{100 * math.sqrt(error):.0f}% at the end by chance alone; use "
                "scheme='lsuv', which measures the layers, or layers that normalise",
                stacklevel=5,
            )


def _made(activation: str | type[nn.Module] | nn.Module | None) -> nn.Module | None:
    if activation is None or isinstance(activation, nn.Module):
        return activation
    return _activation(activation, 1)


def _layers(model: nn.Module) -> list[tuple[nn.Module, nn.Module | None, nn.Module | None]]:
    """Each layer with weights, the last activation before it and the first behind it."""
    order = [m for _, m in outermost(model, lambda m: is_weighted(m) or is_activation(m))]
    found = []
    for place, module in enumerate(order):
        if is_weighted(module):
            before = next((m for m in reversed(order[:place]) if is_activation(m)), None)
            after = next((m for m in order[place:] if is_activation(m)), None)
            found.append((module, before, after))
    return found


def is_weighted(module: nn.Module) -> bool:
    """Whether :func:`init_` sets the weights of ``module``."""
    return isinstance(module, nn.Linear | AnyConv)


def _gain(module: nn.Module, sigma: float) -> float:
    """The gain of a module; one that reads its batch is given Gaussian quantiles."""
    twin = copy.deepcopy(module).double().eval()  # never the module itself: it may keep statistics
    if not _reads_batch(module):
        return signal.gain(_scalar(twin), sigma)
    ranks = (torch.arange(SAMPLES, dtype=torch.float64) + 0.5) / SAMPLES
    z = sigma * torch.special.ndtri(ranks)
    output = twin.train()(z[:, None].expand(-1, _channels(module)))
    return sigma / float(output.square().mean().sqrt())


def _edge(module: nn.Module, q: float) -> tuple[float, float]:
    if _reads_batch(module):
        raise ValueError(
            f"{type(module).__name__} reads its batch: it has no edge of chaos; "
            "use scheme='variance'"
        )
    return signal.edge_of_chaos(_scalar(copy.deepcopy(module).double().eval()), q)


def _scalar(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """A pointwise module as a function of a vector; the mean over channels if it has some."""
    channels = _channels(module)
    if channels <= 1:
        return lambda x: module(x[:, None])[:, 0]
    return lambda x: module(x[:, None].expand(-1, channels)).mean(1)


def _reads_batch(module: nn.Module) -> bool:
    return isinstance(module, QAct | NormedQAct | Dice)


def _channels(module: nn.Module) -> int:
    """The number of channels that a module insists on; 1 if it takes any."""
    if isinstance(module, NormedQAct):
        return module.quantile.num_features
    names = ("num_features", "num_parameters")
    return next((n for n in (getattr(module, name, None) for name in names) if n), 1)


def _fan_in(layer: Any) -> int:
    if isinstance(layer, AnyConvTranspose):
        return layer.weight.numel() // (layer.weight.shape[1] * layer.groups)
    return layer.weight[0].numel()


def _keeping_widths(model: nn.Module) -> nn.Module:
    """``n E|w|`` is 2, the inverse of what ReLU leaves of a width on average."""
    opened = inner(model)
    halved = behind_sums(opened)
    for name, layer in opened.named_modules():
        if is_weighted(layer):
            wide = math.sqrt(2 * math.pi / _fan_in(layer))
            _normal(layer, wide / 2 if name in halved else wide, 0.0)
    return model


def _normal(layer: Any, scale: float, bias: float) -> None:
    layer.weight.normal_(0.0, scale / math.sqrt(_fan_in(layer)))
    if layer.bias is not None:
        layer.bias.normal_(0.0, bias) if bias else layer.bias.zero_()


def _lsuv(model: nn.Module, inputs: Tensor, sigma: float, tolerance: float = 0.01) -> nn.Module:
    layers: list[Any] = [m for m in model.modules() if is_weighted(m)]
    for layer in layers:
        if not _orthogonal(layer.weight):
            nn.init.orthogonal_(layer.weight)
        if layer.bias is not None:
            layer.bias.zero_()
    for layer in layers:
        for _ in range(10):
            spread = _spread(model, layer, inputs)
            if not spread > 0:
                raise ValueError(f"the output of {layer} on these inputs does not vary")
            if abs(spread / sigma - 1) < tolerance:
                break
            layer.weight *= sigma / spread
    return model


def _orthogonal(weight: Tensor) -> bool:
    """Whether the rows (or columns, if there are fewer) are orthogonal and of one length."""
    rows = weight.flatten(1).double()
    rows = rows if rows.shape[0] <= rows.shape[1] else rows.T
    gram = rows @ rows.T
    unit = torch.eye(len(gram), dtype=gram.dtype, device=gram.device) * gram.diagonal().mean()
    return bool(gram.diagonal().min() > 0) and torch.allclose(
        gram, unit, atol=1e-4 * float(unit[0, 0])
    )


def _spread(model: nn.Module, layer: nn.Module, inputs: Tensor) -> float:
    """The deviation of a layer's output; the model's statistics stay as they are."""
    seen: list[float] = []
    state = {k: v.clone() for k, v in model.state_dict().items()}
    try:
        with hooking(model) as hooks:
            hooks.enter_context(tapped(layer, lambda output: seen.append(float(output.std()))))
            model(inputs)
    finally:
        model.load_state_dict(state)
    return seen[-1]
