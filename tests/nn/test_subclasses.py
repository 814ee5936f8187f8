"""Layers derived from ours: what they rank, and not what they are given, is what others hear of."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qact
from qact import NormedQAct, QAct, adapt
from qact.activations import intervals
from qact.nn.derived import computes
from qact.nn.distributed import convert_sync_
from qact.rank import levels


class Centred(QAct):
    """Ranks three times its input, less two."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(3 * input - 2)


class Doubled(QAct):
    """A level of its own."""

    @property
    def level(self):  # type: ignore[no-untyped-def]
        given = super().level
        return given.affine(torch.tensor([2.0] * self.num_features), torch.zeros(self.num_features))


class Kept(QAct):
    """Computes what its parent does."""

    same_in_eval = True

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)


class Named(qact.Context):
    pass


def trained(layer: nn.Module, steps: int = 30) -> nn.Module:
    model = nn.Sequential(layer)
    for _ in range(steps):
        model(torch.randn(200, 4))
    return model.eval()


def test_drift_is_of_what_is_ranked():
    model = trained(Centred(4, levels="uniform"))
    same = qact.drift(model, [torch.randn(400, 4) for _ in range(5)])
    moved = qact.drift(model, [torch.randn(400, 4) + 1 for _ in range(5)])
    assert float(same.worst.ks.max()) < 0.06
    # A shift of one deviation: 2 Phi(1/2) - 1.
    assert float(moved.worst.ks.mean()) == pytest.approx(0.383, abs=0.05)


@pytest.mark.parametrize("name", ["batch", "safe", "mixed"])
def test_adaptation_is_to_what_is_ranked(name):
    """As by a layer behind one that scales: the same outputs, batch by batch."""

    class Scale(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * x - 2

    layer = trained(Centred(4))[0]
    plain = QAct(4).eval()
    plain.load_state_dict(layer.state_dict())
    head = nn.Linear(4, 3)
    one = adapt.create(name, nn.Sequential(layer, head).eval())
    two = adapt.create(name, nn.Sequential(Scale(), plain, head).eval())
    for _ in range(4):
        x = torch.randn(64, 4) * 2 + 1
        torch.testing.assert_close(one(x), two(x), rtol=1e-5, atol=1e-5)


@pytest.mark.own_seed  # for which no value is far out in a tail
@pytest.mark.parametrize("training", [False, True])
def test_a_level_of_its_own_is_read(training):
    torch.manual_seed(0)
    layer, plain = Doubled(4, levels="normal"), QAct(4, levels="normal")
    for _ in range(3):
        x = torch.randn(100, 4)
        layer(x), plain(x)
    layer.train(training), plain.train(training)
    x = torch.randn(50, 4, requires_grad=True)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(layer(x), 2 * plain(x), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("smooth", [True, False])
def test_a_level_of_its_own_is_exported_once(smooth):
    """It stood in the table and behind it: ranks to the fourth."""

    class Squared(QAct):
        @property
        def level(self):  # type: ignore[no-untyped-def]
            return levels.Level(lambda rank, count: rank**2)

    layer = Squared(8, smooth=smooth, grounded=False)
    for _ in range(3):
        layer(torch.randn(256, 8))
    z = torch.randn(200, 8)
    made = torch.export.export(layer.eval(), (z,)).module()
    ranks = layer.context.rank(z, smooth=smooth, grounded=False, bandwidth="0.2std")
    with torch.no_grad():
        torch.testing.assert_close(made(z), ranks**2, rtol=0, atol=1e-4)
        torch.testing.assert_close(layer(z), ranks**2, rtol=0, atol=1e-4)


def test_who_computes_the_same():
    assert computes(QAct(2), QAct)
    assert computes(Kept(2), QAct)
    assert not computes(Centred(2), QAct)
    assert not computes(Doubled(2), QAct)


def test_no_sync_in_the_place_of_a_class_of_its_own():
    model = nn.Sequential(nn.Linear(3, 4), Centred(4))
    with pytest.raises(TypeError, match=r"'1': 'Centred'.*SyncQAct"):
        convert_sync_(model)
    assert type(model[1]) is Centred


def test_a_warm_start_fits_what_is_known_alone():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.GELU()), torch.randn(200, 3)
    with pytest.raises(TypeError, match="Centred, whose forward or level is its own"):
        qact.convert(model, to=Centred, warm_start=[x])
    assert type(model[1]) is nn.GELU


def test_no_bounds_of_what_is_not_known():
    centred = trained(Centred(4))[0]
    with pytest.raises(NotImplementedError, match="Centred"):
        intervals.interval(centred, intervals.Box(-torch.ones(1, 4), torch.ones(1, 4)))
    turning = levels.Level(lambda rank, count: (rank - 0.5) ** 2, name="turning")
    layer = QAct(4, levels=turning)
    layer(torch.randn(200, 4))
    with pytest.raises(NotImplementedError, match="turning"):
        intervals.interval(layer.eval(), intervals.Box(-torch.ones(1, 4), torch.ones(1, 4)))


def test_contexts_are_cloned_as_what_they_are():
    context = Named(3).add(torch.randn(50, 3))
    copied = context.clone()
    assert type(copied) is Named
    copied.add(torch.randn(50, 3))
    assert float(context.count[0]) == 50


def test_a_listener_hears_within_its_block():
    layer, heard = trained(Centred(4))[0], []
    with layer.heard(heard.append):
        layer(torch.zeros(2, 4))
    layer(torch.zeros(2, 4))
    assert len(heard) == 1
    assert torch.equal(heard[0], torch.full((2, 4), -2.0))


def test_a_block_tells_what_its_quantile_ranks():
    block = NormedQAct(4)
    for _ in range(5):
        block(torch.randn(100, 4) * 3 + 1)
    heard: list[Tensor] = []
    x = torch.randn(100, 4)
    for mode in (False, True):
        block.train(mode)
        with block.quantile.heard(heard.append):
            block(x)
    assert [h.shape for h in heard] == [x.shape] * 2
