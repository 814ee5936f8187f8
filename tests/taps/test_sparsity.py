"""Sparse inputs: the share that was asked for, exact at its ends, the mode in the bias."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qact
from qact.taps import accuracy_sparsity, sparsify, sparsity_curve


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.GELU(), nn.Flatten(),
        nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 3),
    ).eval()  # fmt: skip


X = torch.randn(200, 2, 6, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(200) % 3


def test_share_zero_is_the_model_bit_for_bit(net):
    plain = net(X)
    with sparsify(net, X, 0.0), qact.tap(net, "7") as seen:
        net(X)
    assert torch.equal(seen["7"], plain)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_the_share_on_calibration_data_is_the_quantile(net, share, center):
    with sparsify(net, X.split(50), share, ["0", "5", "7"], center=center) as sparse:
        net(X)
    assert set(sparse.shares) == {"0", "5", "7"}
    for name in sparse.shares:  # the input of 5 and 7 moves with what the layers before leave out
        assert sparse.shares[name] == pytest.approx(share, abs=0.03 if name == "0" else 0.12)


@pytest.mark.parametrize("center", [True, False])
def test_a_share_below_that_of_exact_zeros_takes_them_all(center):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    x = torch.randn(400, 8)
    zeros = float((net[:2](x) == 0).double().mean())
    with sparsify(net, x, 0.3, "2", center=center) as sparse:
        net(x)
    assert zeros > 0.4
    assert sparse.shares["2"] >= zeros - 1e-9


def test_only_what_is_near_is_changed_and_the_mode_folds_into_the_bias(net):
    layer = net[5]
    with qact.tap(net, "5", side="input") as plain:
        net(X)
    with sparsify(net, X, 0.6, "5"), qact.tap(net, "5", side="input") as sparse, qact.tap(
        net, "5"
    ) as out:  # fmt: skip
        net(X)
    x, z = plain["5"], sparse["5"]
    changed = x != z
    modes = torch.stack([z[:, c].mode().values for c in range(z.shape[1])])
    assert (z == modes)[changed].all()
    reach = (x - z).abs()[changed].max()
    assert ((x - modes).abs()[~changed & (z != modes)] >= reach).all()
    folded = F.linear(z - modes, layer.weight, layer.bias + layer.weight @ modes)
    torch.testing.assert_close(folded, out["5"], atol=1e-5, rtol=1e-4)


def test_centring_by_the_mode_costs_less_where_values_stand_off_zero():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(16, 32)), torch.randn(500, 16) + 3
    error = {}
    for center in (True, False):
        with sparsify(net, x, 0.5, center=center):
            sparse = net(x)
        error[center] = float((sparse - net(x)).square().mean())
    assert error[True] < 0.3 * error[False]


def test_what_is_left_out_may_pass_a_map_of_low_rank(net):
    plain, errors = net(X), []
    for rank in (0, 2, 6, 12, 24):
        with sparsify(net, X, 0.8, "5", rank=rank), qact.tap(net, "5") as seen:
            net(X)
        exact = net[5](net[:5](X))
        errors.append(float((seen["5"] - exact).square().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10 < errors[0]  # full rank is exact
    assert torch.equal(net(X), plain)


def test_a_stream_that_is_followed_keeps_its_share(net):
    far = 3 * X + 4
    found = {}
    for follow in (None, 100.0):
        with sparsify(net, X, 0.5, "0", follow=follow) as sparse:
            for batch in far.split(40):
                net(batch)
        found[follow] = sparse.shares["0"]
    assert found[100.0] == pytest.approx(0.5, abs=0.03)
    assert abs(found[None] - 0.5) > 0.2


def test_savings_are_the_shares_weighted_by_multiplications(net):
    with sparsify(net, X, 0.5, ["5", "7"]) as sparse:
        net(X)
    work = {"5": 32 * 24, "7": 24 * 3}
    by_hand = sum(sparse.shares[n] * w for n, w in work.items()) / sum(work.values())
    assert sparse.saved == pytest.approx(by_hand)


def test_curves_of_accuracy(net):
    labels = net(X).argmax(1)
    curve = sparsity_curve(
        net, X, [(X[:120], labels[:120]), (X[120:], labels[120:])], [0, 0.3, 0.95]
    )
    assert curve[0].accuracy == 1
    assert [p.found for p in curve] == sorted(p.found for p in curve)
    assert accuracy_sparsity(curve, 0.0) >= curve[0].found  # ReLU leaves zeros without being asked
    assert accuracy_sparsity(curve, 1.0) == curve[-1].found


def test_contexts_that_are_there_need_no_other_pass(net):
    observing = qact.tap(net, ["5"], side="input").observe(bins=512)
    observing.run(X)
    one, two = (sparsify(net, given, 0.5, "5") for given in (observing, X))
    assert one._levels["5"][1] == two._levels["5"][1]


REFUSALS = {
    "share": (lambda n: sparsify(n, X, 1.0), "share=1.0"),
    "rank": (lambda n: sparsify(n, X, 0.5, "0", rank=2), "'0' is a Conv2d; choose a linear layer"),
    "kind": (lambda n: sparsify(n, X, 0.5, "1"), "'1' is a ReLU"),
    "follow": (lambda n: sparsify(n, X, follow=0.0), "follow=0.0"),
    "contexts": (lambda n: sparsify(n, {"5": qact.Context(32).add(torch.randn(9, 32))}, 0.5, "7"),
                 "no context for 7"),
    "nan": (lambda n: sparsify(n, X * torch.nan), "at '0': it holds nan"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(net, case):
    use, words = REFUSALS[case]
    with pytest.raises(ValueError, match=words):
        use(net)
