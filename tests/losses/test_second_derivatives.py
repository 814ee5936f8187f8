"""Second derivatives of losses: those of finite differences, or refused, whatever needs one."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from qact import losses

N, C = 8, 3
TARGET = torch.arange(N) % C


def functions(name: str):
    """A loss as a function of tensors alone, and tensors for it."""
    torch.manual_seed(0)
    of = losses.entry(name).of
    if of != "head":
        loss = losses.create(name).double()
        size = C if of == "logits" else 4
        return lambda x: loss(x, TARGET), [torch.randn(N, size, dtype=torch.float64)]
    head = losses.create(name, 4, C).double()
    names = [key for key, _ in head.named_parameters()]

    def of_all(x, *parameters):
        torch.manual_seed(3)  # the same noise, the same classes
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(head, given, (x, TARGET))

    parameters = [p.detach() for p in head.parameters()]
    return of_all, [torch.randn(N, 4, dtype=torch.float64), *parameters]


def first(function, tensors, wanted, graph):
    value = function(*tensors).square()  # so that the gradient that comes in has one too
    return torch.autograd.grad(value, [tensors[i] for i in wanted], create_graph=graph)


def derived(total, tensors):
    """The gradients, or None where they are refused."""
    try:
        return torch.autograd.grad(total, tensors)
    except RuntimeError as error:
        if "no second derivative" not in str(error):
            raise
        return None


NAMES = [n for of in ("logits", "embeddings", "head") for n in losses.names(of=of)]


@pytest.mark.parametrize("name", NAMES)
def test_right_or_refused_whatever_needs_a_gradient(name):
    function, tensors = functions(name)
    places = range(len(tensors))
    for wanted in itertools.chain.from_iterable(
        itertools.combinations(places, k) for k in range(1, len(tensors) + 1)
    ):

        def leaves(step: float, moves: list[Tensor], wanted=wanted) -> list[Tensor]:
            found = [t.clone() for t in tensors]
            for i, move in zip(wanted, moves, strict=True):
                found[i] = (found[i] + step * move).requires_grad_()
            return found

        moves = [torch.randn_like(tensors[i]) for i in wanted]
        given = leaves(0, moves)
        found = first(function, given, wanted, True)
        # Beside a term that has a derivative, a part that is missing would go unseen.
        total = sum(g.sum() for g in found) + sum(given[i].sum() for i in wanted)
        second = derived(total, [given[i] for i in wanted])
        if second is None:
            continue
        got = sum(((s - 1) * m).sum() for s, m in zip(second, moves, strict=True))
        ahead, behind = (
            sum(g.sum() for g in first(function, leaves(step, moves), wanted, False))
            for step in (1e-6, -1e-6)
        )
        torch.testing.assert_close(got, (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-5)


def test_cosines_of_a_head_have_one():
    """Whoever takes a head's logits to another loss may take its second derivative."""
    head = losses.create("cosface", 4, C).double()
    x = torch.randn(N, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: head.cosines(x), x)


def test_transforms_of_torch_are_refused_or_right():
    z = torch.randn(N, C)
    grad = torch.func.grad(lambda z: losses.cross_entropy(z, TARGET))(z)
    want = (z.softmax(1) - torch.nn.functional.one_hot(TARGET)) / N
    torch.testing.assert_close(grad, want)
    with pytest.raises(RuntimeError, match=r"torch\.func cannot follow; qact.losses.cross_entropy"):
        torch.func.grad(lambda z: losses.focal_loss(z, TARGET))(z)
