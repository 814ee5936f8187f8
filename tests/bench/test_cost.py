import torch
from torch import nn

from qact.bench.data import load_inputs
from qact.bench.measure.cost import _kept, costs
from qact.bench.recipe.rivals import rival
from qact.bench.train.network import build


def test_kept_memory_is_that_of_the_saved_tensors():
    model = nn.Sequential(nn.Linear(100, 200), nn.Tanh(), nn.Linear(200, 50))
    x = torch.randn(30, 100)
    # The input and the tanh's output: the weights are not counted, and nothing twice.
    assert _kept(lambda: model(x), model) == 4 * 30 * (100 + 200)


def test_costs_are_measured_and_leave_the_network_alone(tiny):
    inputs = load_inputs(tiny.data)
    model = build(tiny, rival("relu"), 0, inputs).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = costs(model, inputs, tiny.training, ("frozen", "batch-200", "batch-400"))
    assert found["step_ms"] > 0
    assert found["kept_mib"] > 0
    assert set(found["predict_ms"]) == {"frozen", "batch-200"}  # too few images for the last
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
