"""A warm start: contexts counted, parameters fitted, the function nearly the old one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qact
from qact.conversion.fit import fit_


def mlp(activation) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 16), activation, nn.Linear(16, 16), activation, nn.Linear(16, 3)
    )


def gap(new: nn.Module, old: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        a, b = new.eval()(x), old.eval()(x)
    return float((a - b).square().mean() / b.var())


@pytest.mark.parametrize(
    ("activation", "options", "bound"),
    [
        (nn.ReLU(), {}, 0.05),
        (nn.GELU(), {}, 0.05),
        (nn.SiLU(), {"grounded": False}, 0.02),
        (nn.Mish(), {"levels": "table"}, 0.02),
        (nn.PReLU(), {"levels": "table"}, 0.02),
        (nn.Tanh(), {"levels": "uniform"}, 0.1),
        (nn.Tanh(), {}, 0.02),
    ],
)
def test_the_converted_network_starts_close_to_the_original(activation, options, bound):
    old, x = mlp(activation), torch.randn(512, 4)
    where = type(activation)
    new = qact.convert(old, where=where, warm_start=x, **options)
    cold = qact.convert(old, where=where, example_inputs=x, **options)
    cold(x)
    fresh = torch.randn(256, 4)
    assert gap(new, old, fresh) < bound
    assert gap(new, old, fresh) < gap(cold, old, fresh)
    new.train()(x).sum().backward()
    assert all(p.grad is not None for p in new.parameters())


@pytest.mark.parametrize(("to", "bound"), [("qact.paper", 0.25), (qact.NormedQAct, 0.02)])
def test_the_blocks_with_norms_are_fitted_too(to, bound):
    old, x = mlp(nn.ReLU()), torch.randn(512, 4)
    new = qact.convert(old, to, warm_start=x)
    cold = qact.convert(old, to, example_inputs=x)
    cold(x)
    assert gap(new, old, x) < min(bound, gap(cold, old, x))


def test_loaders_batches_and_functions_give_the_same_start():
    old, x = mlp(nn.ReLU()), torch.randn(64, 4)
    batches = list(x.split(16))
    starts = [
        batches,
        [(batch, torch.zeros(16)) for batch in batches],
        iter(batches),
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=16),
        lambda model: [model(batch) for batch in batches],
    ]
    made = [qact.convert(old, warm_start=s, example_inputs=x[:2]).state_dict() for s in starts]
    for other in made[1:]:
        for name, value in other.items():
            torch.testing.assert_close(value, made[0][name])
    assert int(made[0]["1.context.batches"]) == 4


def test_the_old_network_is_left_alone():
    old = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
    state = {name: value.clone() for name, value in old.state_dict().items()}
    qact.convert(old, warm_start=torch.randn(32, 4))
    assert old.training
    assert all(torch.equal(value, state[name]) for name, value in old.state_dict().items())
    broken = copy_of_state = {k: v.clone() for k, v in old.state_dict().items()}
    with pytest.raises(ValueError, match="does not run"):
        qact.convert_(old, warm_start=[torch.randn(32, 4), torch.randn(3, 3)])
    assert list(old.state_dict()) == list(broken)
    assert all(torch.equal(old.state_dict()[k], copy_of_state[k]) for k in broken)


def test_a_gaussian_context_gives_back_the_function():
    """``f(w s + b)`` with ``w s + b = z``, as for Gaussian z: GELU fits exactly."""
    torch.manual_seed(1)
    layer = qact.QAct(2, levels="gelu", grounded=False, bandwidth=0.05)
    scale, shift = torch.tensor([2.0, 0.5]), torch.tensor([1.0, -1.0])
    ranks = (torch.arange(4096) + 0.5) / 4096
    layer.context.add(torch.special.ndtri(ranks)[:, None] * scale + shift)
    assert fit_(layer, nn.GELU()) > 0.9999
    torch.testing.assert_close(layer.weight.detach(), scale, rtol=0.02, atol=0.02)
    torch.testing.assert_close(layer.bias.detach(), shift, rtol=0.02, atol=0.02)


def test_constant_channels_do_no_harm():
    layer = qact.QAct(2)
    z = torch.randn(64, 2) * torch.tensor([1.0, 0.0]) + torch.tensor([0.0, 3.0])
    layer.context.add(z)
    fit_(layer, nn.ReLU())
    assert all(p.isfinite().all() for p in layer.parameters())
    assert layer.eval()(z).isfinite().all()
