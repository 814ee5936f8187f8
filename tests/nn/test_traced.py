"""torch.fx takes a layer of ours for a leaf, as it takes those of torch."""

import pickle
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

import qact
from qact import NormedQAct, QAct

X = torch.randn(16, 2, 6, 6, generator=torch.Generator().manual_seed(0))


def trained(layer):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), layer, nn.Flatten())
    for _ in range(3):
        net(X)
    return net


@pytest.mark.parametrize("make", [QAct, NormedQAct, QAct.paper, qact.layer("qact")])
@pytest.mark.parametrize("train", [False, True])
def test_a_traced_network_is_the_network(make, train):
    net = trained(make(4)).train(train)
    graph = torch.fx.symbolic_trace(deepcopy(net))
    assert [n.target for n in graph.graph.nodes if n.op == "call_module"] == ["0", "1", "2", "3"]
    copied = pickle.loads(pickle.dumps(graph))
    for _ in range(2):
        wanted = net(2 * X)
        assert torch.equal(graph(2 * X), wanted)
        assert torch.equal(copied(2 * X), wanted)
    for own, other in zip(net.buffers(), graph.buffers(), strict=True):
        assert torch.equal(own, other)


def test_torch_fuses_the_convolution_before_it():
    net = trained(QAct(4)).eval()
    torch.testing.assert_close(fuse(net)(X), net(X), rtol=0, atol=1e-4)


def test_stacked_contexts_are_refused():
    nets = [trained(QAct(4)).eval() for _ in range(2)]
    states = torch.func.stack_module_state(nets)

    def call(parameters, buffers):
        return torch.func.functional_call(nets[0], (parameters, buffers), (X,))

    with pytest.raises(RuntimeError, match="contexts of several networks are stacked under"):
        torch.vmap(call)(*states)
    buffers = dict(nets[0].named_buffers())
    found = torch.vmap(call, in_dims=(0, None))(states[0], buffers)
    torch.testing.assert_close(found[0], nets[0](X), rtol=0, atol=2e-4)  # lines, and cubics
