"""Gates of experts: identities of their papers, losses of balance at their ends, mixtures."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from qact.activations.experts import (
    Gate,
    Mixture,
    SoftMoE,
    importance_loss,
    laplace_scores,
    load_loss,
    sparsity_loss,
    threshold_gate,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_laplace_gate():
    gate, x = Gate(3, 4, "laplace"), torch.randn(6, 3)
    by_hand = torch.cdist(x, gate.weight).neg() + gate.bias
    torch.testing.assert_close(gate(x), by_hand.softmax(1))
    ends = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    alike = laplace_scores(torch.zeros(1, 2), ends).softmax(1)
    torch.testing.assert_close(alike, torch.full((1, 3), 1 / 3))
    scores = laplace_scores(x[:, :2], ends)
    assert scores.argmax(1).equal(torch.cdist(x[:, :2], ends).argmin(1))
    torch.testing.assert_close(laplace_scores(x[:, :2] + 7, ends + 7), scores)


def test_activation_gate():
    x = torch.randn(6, 3)
    plain, sharp = Gate(3, 4, temperature=0.5), Gate(3, 4, temperature=1e-4)
    by_hand = (x @ plain.weight.T + plain.bias) / 0.5
    torch.testing.assert_close(plain(x), by_hand.softmax(1))
    torch.testing.assert_close(sharp(x).amax(1), torch.ones(6), atol=1e-3, rtol=0)
    bent = Gate(3, 4, activation="gelu")
    scores = nn.functional.gelu(x @ bent.weight.T + bent.bias)
    torch.testing.assert_close(bent(x), scores.softmax(1))
    turned = Gate(3, 4, transform=nn.Sequential(nn.Linear(3, 3), nn.Tanh()))
    torch.testing.assert_close(turned(x).sum(1), torch.ones(6))
    moved = turned.transform(x) @ turned.weight.T + turned.bias
    torch.testing.assert_close(turned(x), moved.softmax(1))


def test_threshold_gate():
    gates = torch.randn(50, 6).softmax(1)
    counts = []
    for t in (0.0, 1e-6, 0.3, 0.6, 0.9, 1.0):
        kept = threshold_gate(gates, t)
        counts.append((kept != 0).sum(1))
        for row, mine in zip(gates, kept, strict=True):  # by hand: the smallest set
            order, total, expected = row.argsort(descending=True), 0.0, set()
            for j in order.tolist():
                if expected and (total >= t):
                    break
                expected.add(j)
                total += float(row[j])
            assert set(mine.nonzero().flatten().tolist()) == expected or t == 1
        assert mine[mine != 0].equal(row[mine != 0])
    assert (counts[0] == 1).all()
    assert (counts[1] == 1).all()
    assert (counts[-1] == 6).all()
    assert all((a <= b).all() for a, b in pairwise(counts))
    alone = torch.ones(2, 4) / 4
    assert threshold_gate(alone, 0.5).nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    leaf = gates.clone().requires_grad_()
    threshold_gate(leaf, 0.5).sum().backward()
    assert leaf.grad.equal((threshold_gate(gates, 0.5) != 0).float())


def test_losses_of_balance():
    even, one, uniform = torch.eye(9), torch.eye(9)[[2] * 9], torch.full((4, 9), 1 / 9)
    for loss, values in (
        (sparsity_loss, (1, 1, 3)),
        (importance_loss, (1, 9, 1)),
        (load_loss, (1, 9, 1)),
    ):
        for gates, value in zip((even, one, uniform), values, strict=True):
            assert loss(gates).item() == pytest.approx(value, rel=1e-5)
            assert loss(gates[None]).item() == pytest.approx(value, rel=1e-5)
    gates, chosen = torch.randn(20, 5).softmax(1), torch.rand(20, 5) < 0.4
    expected = 5 * sum(
        float(chosen[:, j].sum() / chosen.sum()) * float(gates[:, j].mean()) for j in range(5)
    )
    assert load_loss(gates, chosen).item() == pytest.approx(expected, rel=1e-5)


def test_balance_can_be_trained():
    gate, x = Gate(4, 3), torch.randn(200, 4)
    with torch.no_grad():
        gate.bias[0] += 5
    optimiser = torch.optim.Adam(gate.parameters(), 0.1)
    before = importance_loss(gate(x)).item()
    for _ in range(60):
        optimiser.zero_grad()
        importance_loss(gate(x)).backward()
        optimiser.step()
    assert before > 2
    assert importance_loss(gate(x)).item() < 1.05


@pytest.mark.parametrize("options", [{}, {"threshold": 1.0}, {"normaliser": "entmax15"}])
def test_a_mixture_is_its_sum(options):
    experts = [nn.Linear(4, 3) for _ in range(5)]
    mixture, x = Mixture(Gate(4, 5, **options), experts), torch.randn(2, 6, 4)
    gates = mixture.gate(x)
    dense = sum(gates[..., j, None] * expert(x) for j, expert in enumerate(experts))
    torch.testing.assert_close(mixture(x), dense)


def test_experts_run_where_they_are_used():
    seen = []

    class Counting(nn.Linear):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    gate = Gate(4, 5, threshold=0.3)
    mixture, x = Mixture(gate, [Counting(4, 3) for _ in range(5)]), torch.randn(40, 4)
    mixture(x)
    assert seen == (gate(x) != 0).sum(0).tolist()
    assert sum(seen) < 200


def test_pruning_score():
    gate = Gate(3, 3, threshold=0.0)
    with torch.no_grad():  # the third expert is never the first, the second answers nothing
        gate.bias.copy_(torch.tensor([0.0, 0.0, -1e3]))
    mixture, x = Mixture(gate, [nn.Linear(3, 2) for _ in range(3)]), torch.randn(30, 3)
    nn.init.zeros_(mixture.experts[1].weight)
    nn.init.zeros_(mixture.experts[1].bias)
    gates = gate(x)
    mine = gates[:, 0] != 0
    expected = (gates[mine, 0] * mixture.experts[0](x[mine]).norm(dim=1)).mean()
    found = mixture.saliency(x)
    torch.testing.assert_close(found, torch.stack([expected, 0 * expected, 0 * expected]))


def test_soft_moe():
    experts = [nn.Linear(4, 4) for _ in range(3)]
    moe, x = SoftMoE(4, experts, slots=2), torch.randn(5, 7, 4)
    dispatch, combine = moe.weights(x)
    assert dispatch.shape == (5, 6, 7)
    torch.testing.assert_close(dispatch.sum(-1), torch.ones(5, 6))
    torch.testing.assert_close(combine.sum(-1), torch.ones(5, 7))
    unit = x / x.norm(dim=-1, keepdim=True)
    logits = torch.einsum("btd,ds->bts", unit, moe.phi / moe.phi.norm(dim=0))
    slots = torch.einsum("bts,btd->bsd", logits.softmax(1), x)
    answers = torch.stack([experts[s // 2](slots[:, s]) for s in range(6)], 1)
    torch.testing.assert_close(moe(x), torch.einsum("bts,bsd->btd", logits.softmax(2), answers))
    order = torch.randperm(7)
    torch.testing.assert_close(moe(x[:, order]), moe(x)[:, order])
    with torch.no_grad():
        moe.phi.zero_()
    mean = x.mean(1, keepdim=True)
    torch.testing.assert_close(moe.weights(x)[0] @ x, mean.expand(-1, 6, -1))
    loss = moe(x).square().mean()
    loss.backward()
    assert math.isfinite(float(moe.phi.grad.norm()))


def test_refusals():
    with pytest.raises(ValueError, match="kind='soft'"):
        Gate(3, 4, "soft")
    with pytest.raises(ValueError, match=r"threshold=1\.5"):
        Gate(3, 4, threshold=1.5)
    with pytest.raises(ValueError, match="experts is empty"):
        Mixture(nn.Identity(), [])
    with pytest.raises(ValueError, match=r"the gate gives \(2, 4\) for 2 inputs and 3 experts"):
        Mixture(Gate(3, 4), [nn.Linear(3, 3)] * 3)(torch.ones(2, 3))
