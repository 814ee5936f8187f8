"""One grammar of `where`: the same words mean the same parts in every room."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qact
from qact.surgery import is_norm, parse, select


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 1)
        self.bn1 = nn.BatchNorm2d(4)
        self.act1 = nn.ReLU()
        self.gate = nn.Sigmoid()

    def forward(self, x):
        return self.gate(self.act1(self.bn1(self.conv1(x))))


def network() -> nn.Sequential:
    parts = {"stem": nn.Conv2d(3, 4, 1), "layer1": nn.Sequential(Block(), Block())}
    return nn.Sequential(nn.ModuleDict(parts)["stem"], nn.Sequential(Block(), Block()), Block())


WORDS = [
    ("1", {"1.0.bn1", "1.1.bn1"}, {"1.0.act1", "1.1.act1", "1.0.gate", "1.1.gate"}),
    ("1.0", {"1.0.bn1"}, {"1.0.act1", "1.0.gate"}),
    (["1.0", "2"], {"1.0.bn1", "2.bn1"}, {"1.0.act1", "1.0.gate", "2.act1", "2.gate"}),
    (("1.0", ["1.1"]), {"1.0.bn1", "1.1.bn1"}, None),
    ({"2"}, {"2.bn1"}, {"2.act1", "2.gate"}),
    ("*.0.*", {"1.0.bn1"}, {"1.0.act1", "1.0.gate"}),
    ("1.0.bn1", {"1.0.bn1"}, None),
    ("1.?.act1", None, {"1.0.act1", "1.1.act1"}),
    (nn.BatchNorm2d, {"1.0.bn1", "1.1.bn1", "2.bn1"}, None),
    (nn.Sigmoid, None, {"1.0.gate", "1.1.gate", "2.gate"}),
    (lambda m, n: n.endswith("bn1"), {"1.0.bn1", "1.1.bn1", "2.bn1"}, None),
    (None, {"1.0.bn1", "1.1.bn1", "2.bn1"}, {"1.0.act1", "1.1.act1", "2.act1"}),
    ("1.0.conv1", {"1.0.conv1"}, None),
    ("*.conv1", {"1.0.conv1", "1.1.conv1", "2.conv1"}, None),
    (["*.conv1", "2"], {"1.0.conv1", "1.1.conv1", "2.conv1", "2.bn1"}, None),
]


@pytest.mark.parametrize(("where", "norms", "activations"), WORDS)
def test_record_recalibrated_and_convert_understand_the_same(where, norms, activations):
    x = torch.rand(3, 3, 5, 5)
    if norms is not None:
        model = qact.record(network().eval(), x, where=where)
        found = {n for n, m in model.named_modules() if hasattr(m, "source_context")}
        assert found == norms
        plain = model(x)
        with qact.recalibrated(model, where=where):
            assert not torch.equal(model(x + 1), plain)
    if activations is not None:
        made = qact.convert(network(), "golu", where=where)
        assert {row.name for row in qact.summary(made).converted} == activations


WRONG = [
    (3, TypeError, "where=3 must be a name"),
    (nn.ReLU(), TypeError, r"where=ReLU\(\) must be a name"),
    (dict, TypeError, "where=<class 'dict'> must be a name"),
    ("", ValueError, "where='' must be a name"),
    ((), ValueError, r"where=\(\) must be a name"),
    (["1", []], ValueError, r"where=\[\] must be a name"),
    (["1", 4], TypeError, "where=4 must be a name"),
    (lambda m, n: n, TypeError, "predicate where returned ''"),
    (lambda m: True, ValueError, "predicate where raised TypeError"),
]


@pytest.mark.parametrize(("where", "error", "match"), WRONG)
def test_what_is_no_where_is_refused_alike(where, error, match):
    model = network()
    before = {n: type(m) for n, m in model.named_modules()}
    with pytest.raises(error, match=match):
        qact.record(model, torch.rand(2, 3, 4, 4), where=where)
    with pytest.raises(error, match=match.replace("''", "'(1.0.act1)?'")):
        qact.convert_(model, where=where)
    assert {n: type(m) for n, m in model.named_modules()} == before


def test_a_container_of_nothing_that_serves_is_an_error():
    model = nn.Sequential(nn.Sequential(nn.ReLU(), nn.Flatten()), nn.BatchNorm1d(4))
    with pytest.raises(TypeError, match="channels cannot be told"):
        qact.record(model, torch.rand(2, 4), where="0")
    with pytest.raises(ValueError, match="has no layer '7'"):
        qact.record(model, torch.rand(2, 4), where="7")


def test_select_keeps_the_order_of_the_model():
    found = [name for name, _ in select(network(), ["2", "1.0"], is_norm)]
    assert found == ["1.0.bn1", "2.bn1"]


def test_the_root_has_an_empty_name():
    norm = nn.LayerNorm(4)
    assert select(norm, None, is_norm) == [("", norm)] == select(norm, "*", is_norm)
    assert not parse("norm", is_norm)(norm, "")
