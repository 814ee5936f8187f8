"""Batches as loaders give them, read alike by `record`, `drift`, warm starts and bounds."""

from __future__ import annotations

from collections import UserDict

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import qact
from qact.surgery import batches, call
from qact.surgery.batches import arguments

X, Y = torch.randn(64, 3), torch.zeros(64)


class Net(nn.Module):
    """Called with named arguments, as models of transformers are."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, pixel_values, scale=1.0):
        return self.body(scale * pixel_values)


ONE = [
    X,
    (X, Y),
    [X, Y],
    [(X, torch.tensor(1.0)), Y],
    {"pixel_values": X, "labels": Y},
    UserDict(pixel_values=X, attention=Y),
    ({"pixel_values": X}, Y),
    [UserDict(pixel_values=X)],
]


def ours() -> Net:
    torch.manual_seed(0)
    model = Net(nn.Linear(3, 4), nn.LayerNorm(4), qact.QAct(4))
    model(X)
    return model.eval()


def theirs() -> Net:
    torch.manual_seed(0)
    return Net(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU()).eval()


@pytest.mark.parametrize("batch", ONE, ids=lambda b: type(b).__name__)
def test_every_form_is_the_same_batch(batch):
    assert torch.equal(call(theirs(), batch), theirs()(X))
    recorded = qact.record(theirs(), [batch, batch]).state_dict()
    plain = qact.record(theirs(), [X, X]).state_dict()
    assert all(torch.equal(recorded[key], plain[key]) for key in plain)
    assert torch.equal(qact.drift(ours(), [batch]).worst.ks, qact.drift(ours(), X).worst.ks)
    made = qact.convert(theirs(), warm_start=[batch], example_inputs=X).state_dict()
    wanted = qact.convert(theirs(), warm_start=X, example_inputs=X).state_dict()
    assert all(torch.equal(made[key], wanted[key]) for key in wanted)
    assert qact.convert(theirs(), example_inputs=None, warm_start=[batch]) is not None


def test_a_loader_of_torch():
    loader = DataLoader(TensorDataset(X, Y), batch_size=16)
    assert qact.record(theirs(), loader).body[1].source_context.count.tolist() == [64] * 4


def test_one_batch_stands_for_a_loader():
    for alone in (X, {"pixel_values": X}, UserDict(pixel_values=X)):
        assert qact.record(theirs(), alone).body[1].source_context.count.tolist() == [64] * 4
        assert len(list(batches(alone))) == 1


@pytest.mark.parametrize(
    ("loader", "error", "match"),
    [
        (3, TypeError, "source_loader=3 must be a batch"),
        ("abc", TypeError, "source_loader='abc' must be a batch"),
        ([], ValueError, "empty"),
        ([3], TypeError, "yields int; give tensors"),
        ([()], TypeError, r"yields tuple of \(\); give"),
        ([("a", X)], TypeError, r"yields tuple of \(str, Tensor\)"),
        ([{"image": X}], ValueError, r"takes pixel_values, scale; the batch has 'image'"),
    ],
)
def test_what_is_no_batch(loader, error, match):
    model = theirs()
    with pytest.raises(error, match=match):
        qact.record(model, loader)
    assert not hasattr(model.body[1], "source_context")


def test_a_forward_that_takes_everything_gets_everything():
    class Wide(Net):
        def forward(self, **named):
            assert set(named) == {"pixel_values", "labels"}
            return self.body(named["pixel_values"])

    assert set(arguments({"pixel_values": X, "labels": Y}, Wide())) == {"pixel_values", "labels"}
    assert set(arguments({"pixel_values": X, "labels": Y}, Net())) == {"pixel_values"}


def test_batches_move_to_the_device_of_the_model():
    model = Net(nn.Linear(3, 4)).to("meta")
    assert call(model, {"pixel_values": X, "labels": Y}).device.type == "meta"
    assert call(model, ((X, torch.tensor(2.0)), Y)).device.type == "meta"
