"""Which code runs: what is left to eager PyTorch where a compiled engine does not work."""

import pytest
import torch

import qact
from qact.kernels import engines, stored
from qact.nn.normed import NormedQAct


@pytest.fixture
def broken(monkeypatch):
    """A lookup that fails at its first call on a kind of device, as a kernel for another card."""
    monkeypatch.setattr(engines, "_given_up", {})

    def fails(z, table):
        raise engines.UnusableError("lookup does not run here") from ValueError("wrong card")

    def choose(engine, z):
        return stored.lookup if engines._given_up else fails

    monkeypatch.setattr(engines, "_lookup", choose)


READERS = {
    "layer": lambda layer, z: layer(z),
    "context": lambda layer, z: layer.context.rank(z),
    "operator": lambda layer, z: torch.compile(layer, backend="eager")(z),
}


@pytest.mark.parametrize("name", READERS)
@torch.no_grad()
def test_every_reader_of_a_stored_context_falls_back(broken, name):
    """One warning names the cause, and the numbers are those of plain PyTorch."""
    layer = qact.QAct(3)
    z = torch.randn(40, 3)
    layer(z)
    layer.eval()
    with pytest.warns(UserWarning, match="ValueError: wrong card") as said:
        got = READERS[name](layer, z)
    assert len([w for w in said if "compiled engine" in str(w.message)]) == 1
    eager = READERS["context"](layer, z) if name == "context" else layer(z)
    torch.testing.assert_close(got, eager, rtol=0, atol=0)
    reference = layer.context.clone().rank(z.double()).float()
    torch.testing.assert_close(layer.context.rank(z), reference, rtol=0, atol=1e-4)


def test_a_graph_is_compiled_without_kernels_that_do_not_run(monkeypatch):
    """They are tried before: inside of a graph nothing could take their place."""

    class Broken:
        @staticmethod
        def probe(device):
            raise engines.UnusableError("whole does not run here") from ValueError("no ptxas")

    found = engines._imported
    monkeypatch.setattr(engines, "_given_up", {})
    monkeypatch.setattr(engines, "BLOCKS", {"cpu": "broken"})
    monkeypatch.setattr(engines, "_imported", lambda n: Broken if n == "broken" else found(n))
    z, layer = torch.randn(40, 3), NormedQAct(3)
    with pytest.warns(UserWarning, match="ValueError: no ptxas") as said:
        got = torch.compile(layer, backend="eager")(z)
    assert len([w for w in said if "compiled engine" in str(w.message)]) == 1
    torch.testing.assert_close(
        got, torch.compile(NormedQAct(3, engine="eager"), backend="eager")(z)
    )


@torch.no_grad()
def test_a_block_in_eval_falls_back(broken):
    block = NormedQAct(3)
    z = torch.randn(40, 3)
    block(z)
    block.eval()
    with pytest.warns(UserWarning, match="wrong card"):
        got = block(z)
    torch.testing.assert_close(got, block.quantile(block.norm_in(z)), rtol=0, atol=1e-5)


@torch.no_grad()
def test_an_engine_asked_for_by_name_raises(broken):
    layer = qact.QAct(3, engine="cpu")
    layer(torch.randn(40, 3))
    layer.eval()
    with pytest.raises(engines.UnusableError, match="does not run"):
        layer(torch.randn(40, 3))
    assert engines._given_up == {}
