"""`gradcheck` in float64, the written-out full gradient, and the gradients of the parameters."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from qact import Context, levels
from qact.functional import quantile_activation

RULES = ("sides", "continuous", False)


def sample(*shape: int) -> Tensor:
    """Float64 values with none at zero, where grounding jumps or has a kink."""
    z = torch.randn(*shape, dtype=torch.float64)
    return (z + 0.05 * z.sign()).requires_grad_()


@pytest.mark.parametrize("bandwidth", [0.5, "scott", "silverman", "0.2std"])
@pytest.mark.parametrize("grounded", RULES)
@pytest.mark.parametrize("level", ["uniform", "normal"])
def test_bandwidths(level, grounded, bandwidth):
    def function(z):
        return quantile_activation(
            z, levels=level, grounded=grounded, bandwidth=bandwidth, engine="reference"
        )

    assert gradcheck(function, sample(7, 2))


@pytest.mark.parametrize("grounded", RULES)
@pytest.mark.parametrize("level", [*levels.ACTIVATIONS, "normal", "uniform"])
def test_levels_with_weight_and_bias(level, grounded):
    # Scores away from the kinks of relu, leaky_relu, elu, selu (0) and hardswish (-3, 3).
    z = sample(6, 2)
    weight = torch.tensor([0.9, 1.3], dtype=torch.float64, requires_grad=True)
    bias = torch.tensor([0.11, -0.07], dtype=torch.float64, requires_grad=True)

    def function(z, weight, bias):
        return quantile_activation(
            z, levels=level, weight=weight, bias=bias, grounded=grounded, engine="reference"
        )

    assert gradcheck(function, (z, weight, bias))


@pytest.mark.parametrize("grounded", RULES)
def test_table_and_its_values(grounded):
    z = sample(6, 2)
    values = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)

    def function(z, values):
        level = levels.table(values)
        return quantile_activation(z, levels=level, grounded=grounded, engine="reference")

    assert gradcheck(function, (z, values))


@pytest.mark.parametrize(
    ("shape", "dim"),
    [
        ((4,), 0),
        ((3, 5), 0),
        ((5, 2), 1),
        ((5, 2), -1),
        ((2, 5), -2),
        ((2, 2, 3), 0),
        ((2, 2, 3), 1),
        ((3, 2, 2), -1),
        ((2, 2, 2, 2), 0),
        ((2, 2, 2, 2), 1),
        ((2, 2, 2, 2), 2),
        ((2, 2, 2, 2), 3),
        ((2, 2, 2, 2), -3),
    ],
)
def test_every_dim(shape, dim):
    channels = shape[dim]
    weight = torch.linspace(0.5, 1.5, channels, dtype=torch.float64).requires_grad_()

    def function(z, weight):
        return quantile_activation(
            z, dim=dim, weight=weight, levels="gelu", bandwidth="0.2std", engine="reference"
        )

    z = sample(*shape)
    if z.numel() > channels:
        assert gradcheck(function, (z, weight))
    else:  # one value a channel: a constant channel, which passes no gradient
        (grad,) = torch.autograd.grad(function(z, weight).sum(), z)
        assert torch.equal(grad, torch.zeros_like(z))


@pytest.mark.parametrize("grounded", RULES)
def test_stored_and_mixed_contexts(grounded):
    context = Context(2, dtype=torch.float64).add(torch.randn(50, 2, dtype=torch.float64))
    for prior in (None, 3.0):

        def function(z, prior=prior):
            return quantile_activation(
                z, context=context, prior=prior, grounded=grounded, engine="reference"
            )

        assert gradcheck(function, sample(5, 2))


def test_sentinels():
    def function(z):
        return quantile_activation(z, sentinels=1.0, bandwidth=0.5, engine="reference")

    assert gradcheck(function, sample(6, 2))
    assert gradcheck(function, -sample(6, 1).detach().abs().requires_grad_())


def pairwise(z: Tensor, h: float) -> tuple[Tensor, Tensor]:
    """Kernel values phi_h(z_i - z_j) (n, n), and how many values stand on the side of each (n,)."""
    gap = (z[:, None] - z[None]) / h
    side = torch.where(z < 0, (z < 0).sum(), (z >= 0).sum()).double()
    return torch.exp(-gap.square() / 2) / (h * math.sqrt(2 * math.pi)), side


def by_formula(z: Tensor, g: Tensor, h: float, grounded: str | bool) -> tuple[Tensor, Tensor]:
    """The density term and the full gradient, written out as in docs/mathematics.md."""
    n, (kernel, side) = len(z), pairwise(z, h)
    if grounded != "continuous":
        weight = 0.5 / side if grounded else torch.full_like(z, 1 / n)
        direct = g * (kernel @ weight)
        return direct, direct - weight * (kernel.T @ g)
    rank = torch.special.ndtr((z[:, None] - z[None]) / h).mean(1)
    q = torch.special.ndtr(-z / h).mean()
    a = torch.where(z < 0, 0.5 / q, 0.5 / (1 - q))
    final = 0.5 + a * (rank - q)
    direct = g * a * kernel.mean(1)
    at_zero = -2 * (g * a * torch.minimum(final, 1 - final)).sum()
    phi_zero = torch.exp(-0.5 * (z / h) ** 2) / (h * math.sqrt(2 * math.pi))
    return direct, direct - (kernel.T @ (g * a)) / n - at_zero * phi_zero / n


@pytest.mark.parametrize("grounded", RULES)
@pytest.mark.parametrize("engine", ["reference", "eager", "cpu"])
def test_the_formula_of_both_gradients(grounded, engine):
    h = 0.5
    z, g = sample(400), torch.randn(400, dtype=torch.float64)
    for gradient, want in zip(
        ("density", "full"), by_formula(z.detach(), g, h, grounded), strict=True
    ):
        output = quantile_activation(
            z[:, None], grounded=grounded, bandwidth=h, gradient=gradient, engine=engine
        )
        (got,) = torch.autograd.grad(output, z, g[:, None])
        bound = 1e-9 if engine == "reference" else 0.01
        assert (got - want).norm() <= bound * want.norm()


@pytest.mark.parametrize("engine", ["reference", "eager", "cpu"])
def test_the_step_rank_borrows_the_gradient_of_its_twin(engine):
    z, g = sample(300, 1), torch.randn(300, 1, dtype=torch.float64)
    for gradient in ("full", "density"):
        grads = []
        for smooth in (True, False):
            options = {"grounded": "sides", "smooth": smooth, "gradient": gradient}
            output = quantile_activation(z, engine=engine, **options)
            grads.append(torch.autograd.grad(output, z, g)[0])
        torch.testing.assert_close(*grads)


def test_full_gradient_knows_that_the_rank_ignores_shift_and_scale():
    # The ungrounded rank with a scaled bandwidth is invariant, so both directions carry nothing.
    z = sample(500, 1)
    for engine in ("reference", "eager", "cpu"):
        output = quantile_activation(z, grounded=False, engine=engine)
        (grad,) = torch.autograd.grad(output, z, torch.randn_like(z))
        bound = 1e-9 if engine == "reference" else 0.01
        assert grad.sum().abs() <= bound * grad.abs().sum()
        assert (grad * z).sum().abs() <= bound * (grad * z).abs().sum()


@pytest.mark.parametrize("engine", ["eager", "cpu"])
@pytest.mark.parametrize("smooth", [True, False])
def test_parameters_of_the_level(engine, smooth):
    z = torch.randn(300, 3)
    g = torch.randn(300, 3)
    for word in ("gelu", "normal", "table"):
        got, want = [], []
        for grads, name in ((got, engine), (want, "reference")):
            generator = torch.Generator().manual_seed(1)
            weight = torch.tensor([0.5, 1.0, -2.0], requires_grad=True)
            bias = torch.tensor([0.5, 0.0, -1.0], requires_grad=True)
            values = torch.randn(3, 9, generator=generator).requires_grad_()
            inputs = [values] if word == "table" else [weight, bias]
            level = levels.table(values) if word == "table" else word
            extra = {} if word == "table" else {"weight": weight, "bias": bias}
            output = quantile_activation(z, levels=level, smooth=smooth, engine=name, **extra)
            grads.extend(torch.autograd.grad(output, inputs, g))
        for a, b in zip(got, want, strict=True):
            assert (a - b).norm() <= 0.01 * b.norm()


@pytest.mark.parametrize("engine", ["eager", "cpu"])
def test_second_derivatives_are_refused_or_right(engine):
    def second(name):
        z = torch.linspace(-2, 2, 300, dtype=torch.float64).reshape(-1, 1).requires_grad_()
        output = quantile_activation(z, engine=name, bandwidth=0.5)
        (first,) = torch.autograd.grad(output.square().sum(), z, create_graph=True)
        return torch.autograd.grad(first.square().sum(), z)[0]

    want = second("reference")
    try:
        got = second(engine)
    except RuntimeError:
        return
    assert (got - want).norm() <= 0.05 * want.norm()


def test_density_gradient_leaves_the_context_alone():
    # One value has a gradient: only it moves under "density", all move under "full".
    z = sample(50, 1)
    g = torch.zeros(50, 1, dtype=torch.float64)
    g[7] = 1.0
    for engine in ("reference", "eager", "cpu"):
        for gradient in ("density", "full"):
            output = quantile_activation(z, gradient=gradient, bandwidth=0.5, engine=engine)
            (grad,) = torch.autograd.grad(output, z, g)
            moved = int((grad != 0).sum())
            assert moved == 1 if gradient == "density" else moved > 25
