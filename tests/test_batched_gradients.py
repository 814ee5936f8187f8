"""Derivatives of many outputs at once: ``vectorize=True`` and ``is_grads_batched=True``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian, jacobian

import qact
from qact import activations, losses, vectors, weights

TARGET = torch.tensor([0, 1, 2, 3, 1])


def points(seed: int = 0) -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))


def made(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    layer = activations.create(name, num_features=4) if name.startswith("qact") else None
    layer = activations.create(name) if layer is None else layer
    layer(torch.randn(64, 4))
    return layer.eval()


def agrees(function, x: Tensor) -> None:
    """The rows of the Jacobian, asked for one by one, are those that are asked for together."""
    torch.testing.assert_close(jacobian(function, x, vectorize=True), jacobian(function, x))


@pytest.mark.parametrize("name", ["golu", "ash", "polynorm", "helu", "swish", "qact", "qact.paper"])
def test_activations(name):
    layer = made(name)
    agrees(layer, points())
    if name not in ("qact.paper", "helu"):
        total = lambda x: (layer(x) * points(1)).sum()  # noqa: E731
        torch.testing.assert_close(
            hessian(total, points(), vectorize=True), hessian(total, points())
        )


@pytest.mark.parametrize("context", ["batch", "running"])
def test_blocks_in_training(context):
    agrees(qact.QAct(4, context=context), points())
    agrees(qact.NormedQAct(4, context=context), points())


@pytest.mark.parametrize("name", ["comp_sum", "entmax", "mmce", "mdca", "z_loss", "soft_top_k"])
def test_losses(name):
    loss = losses.create(name)
    agrees(lambda x: torch.stack([loss(x, TARGET), loss(2 * x, TARGET)]), points())
    with pytest.raises(RuntimeError, match="this loss has no second derivative"):
        hessian(lambda x: loss(x, TARGET), points(), vectorize=True)


@pytest.mark.parametrize("name", ["arcface", "sphereface", "wrapped_cauchy"])
def test_heads(name):
    torch.manual_seed(0)
    head = losses.create(name, 4, 4)
    agrees(lambda x: head(x, TARGET), points())
    given = (head.weight, points())
    agrees(lambda w: torch.func.functional_call(head, {"weight": w}, (given[1], TARGET)), given[0])


def test_weights_contexts_and_unit_rows():
    context = qact.Context(4).add(torch.randn(300, 4))
    for function in (weights.sparsemax, context.rank, context.cdf, vectors.unit_rows):
        agrees(function, points())


def test_a_batch_of_gradients_is_one_gradient_after_the_other():
    x, loss = points().requires_grad_(), losses.create("focal", reduction="none")
    value, grads = loss(x, TARGET), torch.randn(3, 5)
    (got,) = torch.autograd.grad(value, x, grads, is_grads_batched=True, retain_graph=True)
    want = [torch.autograd.grad(value, x, g, retain_graph=True)[0] for g in grads]
    torch.testing.assert_close(got, torch.stack(want))
