"""Bit flips, and the bounds that are there to stop them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import qact
from qact.activations.bounded import ClipAct, FitAct, ProAct
from qact.activations.faults import faulty, flip_bits
from qact.activations.resilience import (
    accuracy,
    clip_search_,
    fit_bounds_,
    largest,
    progressive_bounds_,
    under_faults,
)
from qact.surgery import is_activation, outermost


@pytest.mark.parametrize(
    ("dtype", "integer"),
    [
        (torch.float64, torch.int64),
        (torch.float32, torch.int32),
        (torch.float16, torch.int16),
        (torch.bfloat16, torch.int16),
    ],
)
@pytest.mark.parametrize("rate", [1e-4, 0.01, 0.5])
def test_the_stated_share_of_bits_is_flipped(dtype, integer, rate):
    x = torch.randn(40_000).to(dtype)
    y = flip_bits(x, rate, torch.Generator().manual_seed(1))
    bits = torch.iinfo(integer).bits
    changed = x.view(integer) ^ y.view(integer)
    per_bit = torch.stack([(changed >> b) & 1 for b in range(bits)]).double().mean(1)
    total = x.numel() * bits
    spread = (rate / total) ** 0.5
    assert per_bit.mean().item() == pytest.approx(rate, abs=5 * spread)
    assert (per_bit - rate).abs().max() < 6 * (rate / x.numel()) ** 0.5 + 2 / x.numel()


def test_nothing_everything_and_repetition():
    x = torch.randn(100)
    assert torch.equal(flip_bits(x, 0.0), x)
    both = flip_bits(flip_bits(x, 1.0), 1.0)
    assert torch.equal(both, x)
    one, two = (flip_bits(x, 0.1, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.view(torch.int32), two.view(torch.int32))
    assert flip_bits(x[:0], 0.5).shape == (0,)
    assert flip_bits(x.view(10, 10).t(), 0.0).equal(x.view(10, 10).t())


def test_what_cannot_be_flipped():
    with pytest.raises(TypeError, match=r"torch\.int64"):
        flip_bits(torch.zeros(3, dtype=torch.int64), 0.1)
    with pytest.raises(ValueError, match="rate=2"):
        flip_bits(torch.zeros(3), 2)
    with (
        pytest.raises(ValueError, match="where='bias'"),
        faulty(nn.Linear(2, 2), 0.1, where="bias"),
    ):
        pass


def network(*activations: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), activations[0], nn.Linear(8, 8), activations[-1])


@pytest.mark.parametrize("where", ["weights", "activations", "both"])
def test_a_block_leaves_no_trace(where):
    model = network(nn.ReLU(), qact.QAct(8)).eval()
    model.train()(torch.randn(64, 8))
    model.eval()
    x, before = torch.randn(16, 8), copy.deepcopy(model.state_dict())
    clean = model(x)

    def broken_off():
        with faulty(model, 0.05, where=where, seed=1):
            assert not torch.equal(model(x), clean)
            raise KeyError

    with pytest.raises(KeyError):
        broken_off()
    assert torch.equal(model(x), clean)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_same_seed_gives_the_same_faults():
    model, x = network(nn.ReLU(), nn.GELU()), torch.randn(16, 8)
    found = []
    for seed in (5, 5, 6):
        with faulty(model, 0.01, seed=seed):
            found.append(model(x).nan_to_num())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_parameters_of_activations_do_not_move_the_faults_of_the_weights():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU())
    bounded = nn.Sequential(plain[0], qact.activation("fitact", 30), plain[2], nn.PReLU())
    hit = []
    for model in (plain, bounded):
        with faulty(model, 1e-2, seed=3):
            hit.append([plain[0].weight.clone(), plain[2].weight.clone(), plain[2].bias.clone()])
    for one, two in zip(*hit, strict=True):
        assert torch.equal(one.view(torch.int32), two.view(torch.int32))
    with faulty(bounded, 0.5, seed=3):  # and theirs are hit too
        assert (bounded[1].bound != 6.0).any()


def test_activations_are_found_once():
    model = nn.Sequential(nn.ReLU(), qact.QAct.paper(4), qact.activation("golu"), nn.Linear(4, 4))
    names = [type(m).__name__ for _, m in outermost(model, is_activation)]
    assert names == ["ReLU", "PaperQAct", "GoLU"]


@pytest.fixture(scope="module")
def trained():
    """A small ReLU network that has learned to tell four clouds apart, and its data."""
    torch.manual_seed(0)
    centres = 3 * torch.randn(4, 8)
    labels = torch.arange(400) % 4
    images = centres[labels] + torch.randn(400, 8)
    model = nn.Sequential(
        nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    )
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    batches = [(images[i : i + 100], labels[i : i + 100]) for i in range(0, 400, 100)]
    assert accuracy(model, batches) > 0.95
    return model.eval(), batches


def weights(model):
    return [p.detach().clone() for m in model if isinstance(m, nn.Linear) for p in m.parameters()]


def test_clip_search_bounds_every_layer_and_helps(trained):
    model, batches = copy.deepcopy(trained[0]), trained[1]
    tops = largest(model, batches)
    score = under_faults(batches, rates=(1e-4, 1e-3), trials=8)
    before, clean = score(model), accuracy(model, batches)
    clip_search_(model, batches, score)
    clips = [m for m in model if isinstance(m, ClipAct)]
    assert len(clips) == 2
    for clip, top in zip(clips, tops.values(), strict=True):
        assert 0 < clip.threshold <= top.max()
    held_out = under_faults(batches, rates=(1e-4, 1e-3), trials=20, seed=77)
    assert held_out(model) > held_out(trained[0]) + 0.03  # faults that the search has not seen
    assert score(model) > before
    assert accuracy(model, batches) > clean - 0.05


@pytest.mark.parametrize("method", [fit_bounds_, progressive_bounds_])
def test_trained_bounds_leave_the_weights_and_help(trained, method):
    model, batches = copy.deepcopy(trained[0]), trained[1]
    before, clean = weights(model), accuracy(model, batches)
    method(model, batches)
    for old, new in zip(before, weights(model), strict=True):
        assert torch.equal(old, new)
    assert accuracy(model, batches) >= clean - 0.011
    score = under_faults(batches, rates=(1e-4, 1e-3), trials=20, seed=77)
    assert score(model) > score(trained[0]) + 0.03
    assert all(p.requires_grad for p in model.parameters())


def test_proact_adds_one_bound_per_layer_and_the_width_of_the_last(trained):
    model, batches = copy.deepcopy(trained[0]), trained[1]
    count = sum(p.numel() for p in model.parameters())
    progressive_bounds_(model, batches)
    assert sum(p.numel() for p in model.parameters()) == count + 1 + 32
    assert isinstance(model[1], ProAct)
    assert isinstance(model[3], FitAct)


def test_proact_trains_one_bound_at_a_time_from_the_last(trained, monkeypatch):
    model, batches = copy.deepcopy(trained[0]), trained[1]
    stages = []

    class Spy(torch.optim.Adam):
        def step(self, *args):
            live = [n for n, p in model.named_parameters() if p.requires_grad]
            if not stages or stages[-1] != live:
                stages.append(live)
            return super().step(*args)

    monkeypatch.setattr("torch.optim.Adam", Spy)
    progressive_bounds_(model, batches)
    assert stages == [["3.bound"], ["1.bound"]]


def test_fitact_draws_its_bounds_in(trained):
    model, batches = copy.deepcopy(trained[0]), trained[1]
    tops = list(largest(model, batches).values())
    fit_bounds_(model, batches, epochs=5, tolerance=1.0)
    for module, top in zip((model[1], model[3]), tops, strict=True):
        assert module.bound.shape == (32,)
        assert module.bound.mean() < top.clamp_min(1e-3).mean()


def test_where_there_is_no_relu_it_says_so(trained):
    with pytest.raises(ValueError, match=r"Sequential has no nn\.ReLU"):
        fit_bounds_(nn.Sequential(nn.Linear(8, 4), nn.GELU()), trained[1])
    shared = nn.ReLU()
    with pytest.raises(ValueError, match="several places"):
        fit_bounds_(network(shared, shared), trained[1])
