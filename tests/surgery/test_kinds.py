"""What counts as a norm and as an activation: one list, whoever asks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qact
from qact.activations.faults import faulty
from qact.activations.kan import AFKAN
from qact.surgery import channels, is_activation, is_norm
from qact.surgery.kinds import GATES, HIDDEN

NORMS = [
    (nn.BatchNorm1d(4), (4, 1)),
    (nn.BatchNorm3d(4), (4, 1)),
    (nn.SyncBatchNorm(4), (4, 1)),
    (nn.InstanceNorm2d(4), (4, 1)),
    (nn.GroupNorm(2, 4), (4, 1)),
    (nn.LayerNorm(4), (4, -1)),
    (nn.LayerNorm((4, 2)), (4, -2)),
    (nn.RMSNorm(4), (4, -1)),
    (qact.nn.normed.ChannelNorm(4, dim=-1), (4, -1)),
]


@pytest.mark.parametrize(("norm", "place"), NORMS, ids=lambda v: type(v).__name__)
def test_norms_of_torch(norm, place):
    assert is_norm(norm)
    assert not is_activation(norm)
    assert channels(norm) == place


def test_norms_of_timm_with_and_without_an_activation_inside():
    layers = pytest.importorskip("timm.layers")
    last = {"LayerNorm", "LayerNormAct", "RmsNorm", "SimpleNorm", "LayerNormFp32", "RmsNormFp32"}
    first = {"BatchNormAct2d", "FrozenBatchNormAct2d", "LayerNorm2d", "LayerNormAct2d"}
    first |= {"RmsNorm2d", "SimpleNorm2d", "GroupNorm1", "LayerNorm2dFp32", "RmsNorm2dFp32"}
    for name in last | first:
        norm = getattr(layers, name)(4).eval()
        assert is_norm(norm), name
        assert channels(norm) == (4, 1 if name in first else -1), name
        assert norm(torch.rand(2, 4, 4, 4)).shape == (2, 4, 4, 4)
    assert is_norm(layers.GroupNormAct(4, num_groups=2))
    assert not is_norm(layers.EvoNorm2dS0(8))
    assert not is_norm(layers.GlobalResponseNormMlp(4))


def test_a_norm_of_another_package_is_recorded():
    timm = pytest.importorskip("timm.layers")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), timm.RmsNorm(4), nn.Linear(4, 2)).eval()
    x = torch.randn(400, 3)
    qact.record(model, x)
    with qact.recalibrated(model):
        assert model(x).isclose(model[2](model[1](model[0](x))), atol=0.05).all()


@pytest.mark.parametrize("kind", HIDDEN + GATES)
def test_activations_of_torch(kind):
    module = kind(0.1, 0.2) if kind is nn.Threshold else kind()
    assert is_activation(module)
    assert not is_norm(module)


@pytest.mark.parametrize(
    "module",
    [
        nn.Softmax(1),
        nn.LogSoftmax(1),
        nn.MultiheadAttention(4, 2),
        nn.Identity(),
        nn.Dropout(),
        AFKAN(2, 2),
        qact.Context(3),
    ],
)
def test_what_is_none(module):
    assert not is_activation(module)


@pytest.mark.parametrize(
    "module", [qact.QAct(3), qact.LazyQAct(), qact.SyncQAct(3), qact.NormedQAct(3)]
)
def test_ours(module):
    assert is_activation(module)


def test_faults_in_activations_leave_attention_alone():
    # MultiheadAttention stands in torch's file of activations, and returns a tuple.
    model, x = nn.MultiheadAttention(4, 2, batch_first=True).eval(), torch.rand(2, 3, 4)
    with faulty(model, 0.5, where="activations"):
        y, _ = model(x, x, x)
    assert torch.equal(y, model(x, x, x)[0])


def test_init_reads_the_whole_block_of_the_paper_as_the_activation():
    # Behind its last norm the variance is 1, so the next layer keeps it with a gain of 1.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256), qact.QAct.paper(256), nn.Linear(256, 256))
    qact.init_(model)
    assert float(model[2].weight.detach().std()) * 16 == pytest.approx(1, rel=0.02)
    x = torch.randn(512, 256)
    assert float(model(x).detach().std()) == pytest.approx(1, rel=0.05)
