import copy

import torch
from torch import nn

from qact.bench.train.ema import copy_of, follow, settle


def test_the_average_is_the_sum_that_the_formula_says():
    model = nn.Linear(1, 1, bias=False)
    average = copy_of(model)
    expected = average.weight.item()
    for step in range(30):
        model.weight.data.fill_(float(step))
        follow(average, model, 0.9, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert abs(average.weight.item() - expected) < 1e-5
    assert not average.weight.requires_grad


def test_settling_reads_the_statistics_of_the_batches_and_leaves_weights_alone():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = copy.deepcopy(model.state_dict())
    batches = [torch.randn(64, 2) + 3 for _ in range(60)]
    settle(model, batches)
    assert torch.equal(model[0].weight, before["0.weight"])
    assert int(model[1].num_batches_tracked) == 50
    seen = torch.cat([model[0](batch) for batch in batches[30:50]])
    assert torch.allclose(model[1].running_mean, seen.mean(0), atol=0.1)
    assert not model.training
