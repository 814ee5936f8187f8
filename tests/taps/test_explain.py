"""Patching and the drift report: exact where all is put right, by hand where it is linear."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qact
from qact.taps import patch
from qact.taps.report import spearman


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(8)
        self.a = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.b = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU(inplace=True))
        self.head = nn.Linear(8, 3)
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        x = self.norm(self.stem(x))
        x = x + self.a(x)
        return self.head(x + self.b(x))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = Residual()
    model(torch.randn(64, 4))
    return model.eval()


X = torch.randn(48, 4, generator=torch.Generator().manual_seed(1))
Y = torch.arange(48) % 3
SHIFTED = 1.7 * X + 0.6


def test_patching_every_layer_is_the_clean_run_exactly(net):
    clean = net(X)
    with qact.tap(net, lambda module, name: name != "") as seen:
        net(X)
    with patch(net, seen):
        assert torch.equal(net(SHIFTED), clean)
        with pytest.raises(ValueError, match="sample 48 passes at 'stem', where 48 were read"):
            net(SHIFTED[:1])
    with patch(net, {"a": seen["a"]}):  # one branch, batch by batch, against the sums by hand
        found = torch.cat([net(SHIFTED[:20]), net(SHIFTED[20:])])
    base = net.norm(net.stem(SHIFTED))
    x = base + seen["a"]
    torch.testing.assert_close(found, net.head(x + net.b(x)))


def test_the_report_measures_what_patching_brings_back(net):
    report = qact.explain_drift(net, (X, Y), (SHIFTED, Y))
    assert [layer.name for layer in report.layers] == ["norm", "a.1", "b.1"]
    norm, a, b = report.layers
    assert (norm.cut, a.cut, b.cut) == (True, False, False)
    assert norm.restored == report.clean
    assert report.share(norm) == pytest.approx(1, abs=1e-12)
    with qact.tap(net, "a.1") as seen:
        net(X)
    with patch(net, seen):
        logits = net(SHIFTED)
    loss = [F.cross_entropy(z.double(), Y).item() for z in (net(SHIFTED), logits)]
    assert a.restored.loss == pytest.approx(loss[1], rel=1e-9)
    assert a.gain == pytest.approx(loss[0] - loss[1], rel=1e-6)
    assert a.restored.accuracy == float((logits.argmax(1) == Y).double().mean())
    assert report.costliest in (a, b)
    assert "norm *" in str(report)
    assert "* everything passes here" in str(report)


def test_batches_and_a_single_one_give_the_same_report(net):
    whole = qact.explain_drift(net, (X, Y), (SHIFTED, Y))
    parts = qact.explain_drift(
        net, [(X[:16], Y[:16]), (X[16:], Y[16:])], [(SHIFTED[:16], Y[:16]), (SHIFTED[16:], Y[16:])]
    )
    for one, two in zip(whole.layers, parts.layers, strict=True):
        assert one.gain == pytest.approx(two.gain, abs=1e-6)
        assert one.ks == pytest.approx(two.ks, abs=0.05)


def test_contexts_put_right_one_at_a_time_undo_an_affine_shift():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        net[0].bias.zero_()
    net.eval()
    x, y = torch.randn(400, 4), torch.arange(400) % 3
    report = qact.explain_drift(net, (x, y), (3 * x, y), restore="context")
    assert not report.layers[0].cut
    assert report.share(report.layers[0]) == pytest.approx(1, abs=0.02)


def test_the_gradient_is_that_by_hand_and_takes_two_passes(net):
    net.passes = 0
    report = qact.explain_drift(net, (X, Y), (SHIFTED, Y), gradient=True)
    assert net.passes == 2
    x = net.norm(net.stem(SHIFTED)).detach()
    clean = net.norm(net.stem(X))
    inner = net.a[1](net.a[0](x)).detach().requires_grad_()
    y = x + F.relu(inner)
    last = net.b[1](net.b[0](y))
    loss = F.cross_entropy(net.head(y + F.relu(last)), Y)
    slope = torch.autograd.grad(loss, [inner, last])
    y_clean = clean + net.a(clean)
    gaps = inner - net.a[1](net.a[0](clean)), last - net.b[1](net.b[0](y_clean))
    for layer, g, d in zip(report.layers[1:], slope, gaps, strict=True):
        assert layer.gain == pytest.approx(float((g * d).sum()), rel=1e-4)
    assert report.layers[1].restored.accuracy != report.layers[1].restored.accuracy  # not measured
    assert all(p.grad is None for p in net.parameters())


def test_for_small_shifts_the_gradient_foretells_what_is_measured(net):
    net, x, y = net.double(), X.double(), Y
    near = x + 1e-5 * torch.randn_like(x)
    told, found = (
        qact.explain_drift(net, (x, y), (near, y), gradient=g).layers for g in (True, False)
    )
    for a, b in zip(told, found, strict=True):
        assert a.gain == pytest.approx(b.gain, rel=1e-2)
    net.float()


def test_captum_finds_the_same_attribution(net):
    attr = pytest.importorskip("captum.attr")
    report = qact.explain_drift(net, (X, Y), (SHIFTED, Y), gradient=True)

    def loss(x):
        return -F.cross_entropy(net(x), Y, reduction="none")

    for layer in report.layers[:2]:  # behind the third stands an operation in place
        module = net.get_submodule(layer.name)
        by = attr.LayerGradientXActivation(loss, module, multiply_by_inputs=False)
        with qact.tap(net, layer.name) as clean:
            net(X)
        with qact.tap(net, layer.name) as shifted:
            net(SHIFTED)
        gap = clean[layer.name] - shifted[layer.name]
        assert layer.gain == pytest.approx(
            float((by.attribute(SHIFTED) * gap).sum()) / 48, rel=1e-4
        )


def test_a_patched_direction_may_work_by_a_part_that_varies_and_a_part_that_acts():
    """The illusion of subspaces: x = (s, 0, s) and the output reads the second and the third."""
    net = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [0.0], [1.0]]))
        net[1].weight.copy_(torch.tensor([[0.0, 1.0, 1.0]]))
    source, base = torch.tensor([[5.0]]), torch.tensor([[1.0]])
    with qact.tap(net, "0") as seen:
        net(source)
    disconnected, dormant = torch.eye(3)[:2]

    def effect(direction):
        with patch(net, seen, along=direction):
            return float(net(base) - (0 if direction is None else 1))

    assert effect(None) == 5
    assert effect(disconnected) == effect(dormant) == 0
    assert effect(disconnected + dormant) == pytest.approx(2)  # (5 - 1) / 2 leaks to where it acts
    assert effect(torch.eye(3)) == pytest.approx(4)


def test_a_table_and_a_picture(net):
    report = qact.explain_drift(net, (X, Y), (SHIFTED, Y))
    assert report._repr_html_().count("<tr") == 1 + 2 + 3
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    ax = report.plot()
    heights = [bar.get_height() for bar in ax.patches]
    assert heights == [report.share(layer) for layer in report.layers]
    pyplot.close(ax.figure)


def test_spearman_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    a, b = [3.0, 1.0, 1.0, 5.0, 2.0], [2.0, 2.0, 0.0, 1.0, 7.0]
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert spearman([1.0, 1.0], [1.0, 2.0]) != spearman([1.0, 1.0], [1.0, 2.0])


REFUSALS = {
    "restore": (lambda n: qact.explain_drift(n, (X, Y), (X, Y), restore="all"), "restore='all'"),
    "gradient": (
        lambda n: qact.explain_drift(n, (X, Y), (X, Y), restore="context", gradient=True),
        "foretells restore='activations'",
    ),
    "labels": (lambda n: qact.explain_drift(n, (X, Y), (X, Y.flip(0))), "batch 0 of clean and"),
    "batches": (lambda n: qact.explain_drift(n, (X, Y), [(X, Y)] * 2), "clean has 1 batches"),
    "no labels": (lambda n: qact.explain_drift(n, [X], [X]), "clean must be batches of"),
    "empty": (lambda n: qact.explain_drift(n, [], []), "clean is empty"),
    "nan": (lambda n: qact.explain_drift(n, (X, Y), (X * torch.nan, Y)), "at 'norm': it holds nan"),
    "no logits": (lambda n: qact.explain_drift(nn.Sequential(nn.BatchNorm1d(4), nn.Flatten(0)),
                                               (X, Y), (X, Y)), "the model returns .192,"),
    "where": (lambda n: qact.explain_drift(n, (X, Y), (X, Y), where="c"), "unknown place 'c'"),
    "direction": (lambda n: patch(n, {}, along=torch.zeros(3)), "are zero or dependent"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(net, case):
    use, words = REFUSALS[case]
    with pytest.raises((ValueError, TypeError), match=words):
        use(net)
