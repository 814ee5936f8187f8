"""Losses, the Fourier head, SoftPool and perpendicular gradients, against what they must equal."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from qact import weights


def logits(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(20, 5, dtype=dtype, generator=g), torch.randint(0, 5, (20,), generator=g)


@pytest.mark.parametrize("alpha", [1, 1.3, 1.5, 2.0, 3.0])
def test_the_gradient_of_a_loss_is_prediction_minus_label(alpha):
    z, y = logits()
    z.requires_grad_()
    loss = weights.entmax_loss(z, y, alpha)
    (g,) = torch.autograd.grad(loss.sum(), z)
    torch.testing.assert_close(g, weights.entmax(z.detach(), alpha=alpha) - F.one_hot(y, 5))
    assert (loss >= 0).all()
    assert torch.autograd.gradcheck(lambda z: weights.entmax_loss(z, y, alpha), (z,))


def test_the_sparsemax_loss_in_its_own_form():
    z, y = logits()
    p = weights.sparsemax(z)
    s = p > 0
    tau = (z - p).masked_fill(~s, -torch.inf).amax(1)
    own = z.gather(1, y[:, None])[:, 0]
    want = -own + 0.5 * ((z**2 - tau[:, None] ** 2) * s).sum(1) + 0.5
    torch.testing.assert_close(weights.sparsemax_loss(z, y), want)


@pytest.mark.parametrize(("alpha", "margin"), [(2.0, 1.0), (1.5, 2.0)])
def test_a_loss_is_zero_from_its_margin_on(alpha, margin):
    label = torch.tensor([0])
    for gap, zero in ((margin, True), (margin + 1, True), (margin - 0.1, False)):
        loss = weights.entmax_loss(torch.tensor([[gap, 0.0, -1.0]]).double(), label, alpha)
        assert (abs(float(loss)) < 1e-12) == zero


def test_losses_refuse_what_does_not_fit():
    z, y = logits()
    with pytest.raises(ValueError, match=r"logits must be \(N, C\)"):
        weights.sparsemax_loss(z, y[:3])
    with pytest.raises(TypeError, match="labels must be integers"):
        weights.sparsemax_loss(z, y.float())


def test_a_fourier_density():
    torch.manual_seed(0)
    head = weights.FourierHead(4, 9, 6)
    x = 3 * torch.randn(5, 4)
    places = torch.linspace(-1, 1, 4001)
    p = head.density(x, places)
    assert p.min() > -1e-5
    torch.testing.assert_close(torch.trapezoid(p, places), torch.ones(5), rtol=0, atol=1e-4)
    shares = head(x).exp() - 1e-5
    torch.testing.assert_close(shares.sum(-1), torch.ones(5), rtol=0, atol=1e-5)
    with torch.no_grad():  # the definition, by complex numbers one by one
        a = head.coefficients(x)[0].double()
        a = [complex(a[k], a[7 + k]) for k in range(7)]
        c = [sum(a[j] * a[j + k].conjugate() for j in range(7 - k)) for k in range(7)]
        at = [
            0.5
            + sum(
                (
                    c[k] / c[0].real * complex(math.cos(math.pi * k * z), math.sin(math.pi * k * z))
                ).real
                for k in range(1, 7)
            )
            for z in head.centres.tolist()
        ]
    torch.testing.assert_close(shares[0], torch.tensor(at) / sum(at), rtol=1e-3, atol=1e-5)


def test_a_fourier_head_without_frequencies_is_uniform():
    head = weights.FourierHead(4, 9, 3)
    with torch.no_grad():
        head.coefficients.weight.zero_()
        head.coefficients.bias.zero_()[0] = 2.0  # the real part of a_0 alone
    torch.testing.assert_close(head(torch.randn(2, 4)).exp(), torch.full((2, 9), 1 / 9 + 1e-5))
    assert head.penalty(torch.randn(2, 4)).abs().max() == 0


def test_soft_pool_lies_between_mean_and_maximum():
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    got = weights.soft_pool2d(x, 2)
    assert (got >= F.avg_pool2d(x, 2) - 1e-12).all()
    assert (got <= F.max_pool2d(x, 2) + 1e-12).all()
    torch.testing.assert_close(
        weights.soft_pool2d(torch.ones(1, 1, 4, 4), 3, 1), torch.ones(1, 1, 2, 2)
    )
    weight = F.avg_pool2d(x.exp(), (3, 2), 2)
    torch.testing.assert_close(
        weights.SoftPool2d((3, 2), 2)(x), F.avg_pool2d(x.exp() * x, (3, 2), 2) / weight
    )
    value = weights.soft_pool2d(torch.tensor([[[[0.0, math.log(3)]]]]), (1, 2))
    assert value.item() == pytest.approx(0.823959, abs=1e-6)
    assert torch.autograd.gradcheck(lambda x: weights.soft_pool2d(x, 2), (x.requires_grad_(),))


def test_perpendicular_gradients():
    w = torch.randn(4, 3, requires_grad=True)
    w.grad = torch.randn(4, 3)
    norm = w.grad.norm()
    still = torch.ones(2, requires_grad=True)
    weights.perpendicular_([w, still])
    assert abs(float((w * w.grad).sum())) < 1e-5
    torch.testing.assert_close(w.grad.norm(), norm)
    assert still.grad is None
    along = torch.tensor([1.0, 1.0], requires_grad=True)
    along.grad = torch.tensor([2.0, 2.0])
    weights.perpendicular_([along])
    assert torch.equal(along.grad, torch.zeros(2))
