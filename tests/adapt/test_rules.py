"""Each rule written down a second time, in plain torch, as its paper has it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, cosine_similarity

from qact import adapt

DRAW = torch.Generator().manual_seed(3)
BATCHES = [scale * torch.randn(16, 3, generator=DRAW) + 1 for scale in (1.0, 2.0, 1.5)]
BOUND = math.log(3)


def network() -> nn.Sequential:
    """Sure of some samples and unsure of others."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(3, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)
    )
    for _ in range(9):
        model(torch.randn(32, 3))
    model[3].weight.data.mul_(5)
    return model.eval()


def twin(model: nn.Module) -> nn.Sequential:
    """A copy that reads its batch; only the norm learns."""
    own = copy.deepcopy(model).requires_grad_(False)
    own[1].train().requires_grad_(True)
    own[1].momentum = 0.0
    return own


def entropy(logits: Tensor) -> Tensor:
    p = logits.softmax(1)
    return -(p * p.log()).sum(1)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def same(a: nn.Module, b: nn.Module) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-4)


def test_eata():
    model, source = network(), BATCHES[2]
    own, margin, origin = twin(model), 0.4 * BOUND, network()[1]
    params = list(own[1].parameters())
    labels = own(source).argmax(1)
    fisher = [
        g**2 for g in torch.autograd.grad(nn.functional.cross_entropy(own(source), labels), params)
    ]
    optimizer, mean, used = torch.optim.SGD(params, lr=0.05, momentum=0.9), None, 0
    eata = adapt.create("eata", model, source=source, beta=3.0, lr=0.05, redundant=0.9)
    for x in BATCHES:
        logits = own(x)
        torch.testing.assert_close(eata(x), logits.detach(), atol=1e-5, rtol=1e-4)
        p, h = logits.detach().softmax(1), entropy(logits)
        mine = h < margin
        if mean is not None:
            mine &= cosine_similarity(mean[None], p) < 0.9
        used += int(mine.sum())
        if not mine.any():  # the published code takes no step then
            continue
        mean = p[mine].mean(0) if mean is None else 0.9 * mean + 0.1 * p[mine].mean(0)
        loss = (h / (h.detach() - margin).exp())[mine].mean()
        for f, w, w0 in zip(fisher, params, origin.parameters(), strict=True):
            loss = loss + 3 * (f * (w - w0.detach()) ** 2).sum()
        descend(optimizer, loss)
        same(eata.model[1], own[1])
    assert 0 < used < 48


@pytest.mark.own_seed  # some samples have to count, before and after the first step
def test_sar():
    model = network()
    own, margin = twin(model), 0.4 * BOUND
    params = list(own[1].parameters())
    optimizer = torch.optim.SGD(params, lr=0.05, momentum=0.9)
    sar, used = adapt.create("sar", model, lr=0.05, collapse=1e-9), 0
    for x in BATCHES:
        logits = own(x)
        torch.testing.assert_close(sar(x), logits.detach(), atol=1e-5, rtol=1e-4)
        first = entropy(logits)
        sure = first < margin
        used += int(sure.sum())
        gradients = torch.autograd.grad(first[sure].mean(), params)
        norm = torch.cat(gradients).norm()
        before = [p.detach().clone() for p in params]
        with torch.no_grad():
            for p, g in zip(params, gradients, strict=True):
                p += 0.05 * g / norm
        second = entropy(own(x))[sure]
        optimizer.zero_grad()
        second[second < margin].mean().backward()
        with torch.no_grad():
            for p, w in zip(params, before, strict=True):
                p.copy_(w)
        optimizer.step()
        same(sar.model[1], own[1])
    assert 0 < used < 48


def test_roid():
    model = network()
    own, source = twin(model), network()[1]
    params = list(own[1].parameters())
    optimizer = torch.optim.Adam(params, lr=0.01)
    roid = adapt.create("roid", model, lr=0.01, augment=lambda x: x + 0.1)
    mean = torch.full((3,), 1 / 3)
    for x in BATCHES:
        logits = own(x)
        p = logits.detach().softmax(1)
        diverse, certain = 1 - cosine_similarity(mean[None], p), -entropy(logits.detach())
        diverse, certain = ((v - v.min()) / (v.max() - v.min()) for v in (diverse, certain))
        weights = (3 * diverse * certain).exp()
        weights[diverse < diverse.mean()] = 0
        mean = 0.9 * mean + 0.1 * p.mean(0)
        q = logits.softmax(1).clamp(max=0.99)
        ratio = -(q * (q / (1 - q) + 1e-5).log()).sum(1)
        chosen = weights > 0
        again, clean = own(x[chosen] + 0.1), logits[chosen]
        agree = -(clean.softmax(1) * again.log_softmax(1)).sum(1) / 2
        agree = agree - (again.softmax(1) * clean.log_softmax(1)).sum(1) / 2
        descend(optimizer, ((weights * ratio).sum() + (weights[chosen] * agree).sum()) / 16)
        with torch.no_grad():
            for w, w0 in zip(params, source.parameters(), strict=True):
                w.copy_(0.99 * w + 0.01 * w0)
        prior = p.mean(0)
        smooth = max(1 / 16, 1 / 3) / prior.max()
        want = p * (prior + smooth) / (1 + 3 * smooth)
        torch.testing.assert_close(
            roid(x).softmax(1), want / want.sum(1, keepdim=True), atol=1e-5, rtol=1e-4
        )
        same(roid.model[1], own[1])


def test_delta():
    model = network()
    own = copy.deepcopy(model).requires_grad_(False)
    own[1].requires_grad_(True)
    optimizer = torch.optim.Adam(own[1].parameters(), lr=0.01)
    delta = adapt.create("delta", model, lr=0.01)
    mean = std = None
    shares = torch.full((3,), 1 / 3)
    for x in BATCHES:
        z = own[0](x)
        now_mean, now_std = z.mean(0), (z.var(0, correction=0) + 1e-5).sqrt()
        mean, std = (now_mean, now_std) if mean is None else (mean, std)
        z = (z - mean) / std  # no gradient passes through the first layer
        mean, std = 0.95 * mean + 0.05 * now_mean, 0.95 * std + 0.05 * now_std
        logits = own[3]((z * own[1].weight + own[1].bias).relu())
        torch.testing.assert_close(delta(x), logits.detach(), atol=1e-5, rtol=1e-4)
        p, h = logits.detach().softmax(1), entropy(logits)
        rare = 1 / shares[p.argmax(1)]
        weights = (BOUND / 2 - h.detach()).exp() * rare / rare.sum() * 16
        shares = 0.95 * shares + 0.05 * p.mean(0)
        descend(optimizer, (weights * h)[h < BOUND / 2].mean())
        same(delta.model[1], own[1])


def test_cotta():
    model = network()
    own = twin(model).requires_grad_(True)
    teacher, anchor = twin(model), twin(model)
    optimizer = torch.optim.Adam(own.parameters(), lr=0.01)
    cotta = adapt.create("cotta", model, lr=0.01, views=2, restore=0, augment=lambda x: 2 * x)
    for x in BATCHES:
        confident = anchor(x).softmax(1).amax(1).mean() >= 0.92
        target = teacher(x if confident else 2 * x).detach()
        torch.testing.assert_close(cotta(x), target, atol=1e-5, rtol=1e-4)
        descend(optimizer, -(target.softmax(1) * own(x).log_softmax(1)).sum(1).mean())
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), own.parameters(), strict=True):
                slow.copy_(0.999 * slow + 0.001 * fast)
        same(cotta.model, own)
        same(cotta.teacher, teacher)


def test_cotta_restores_at_random():
    cotta = adapt.create("cotta", network(), lr=0.1, views=1, restore=0.25)
    for x in BATCHES:
        cotta(x)
    start = torch.cat([p.flatten() for p in network().parameters()])
    back = torch.cat([p.flatten() for p in cotta.model.parameters()]) == start
    assert 0.1 < back.float().mean() < 0.45


def test_rotta():
    """A memory that takes all of a batch: one update, of old and surely known weights."""
    model, x = network(), BATCHES[1]
    rotta = adapt.create("rotta", model, lr=0.01, capacity=48, every=16, augment=lambda z: z + 0.1)
    with torch.no_grad():
        order = model(x).argmax(1).argsort(stable=True)  # the memory stands class by class
    torch.testing.assert_close(rotta(x), model(x).detach())
    ages = (16 - order) / 48

    def robust(own: nn.Sequential, z: Tensor) -> Tensor:
        z = own[0](z)
        mean = 0.95 * own[1].running_mean + 0.05 * z.mean(0)
        variance = 0.95 * own[1].running_var + 0.05 * z.var(0, correction=0)
        own[1].running_mean.copy_(mean.detach())
        own[1].running_var.copy_(variance.detach())
        z = (z - mean) / (variance + 1e-5).sqrt() * own[1].weight + own[1].bias
        return own[3](z.relu())

    teacher, own = copy.deepcopy(model), copy.deepcopy(model)
    optimizer = torch.optim.Adam(own[1].parameters(), lr=0.01)
    target = robust(teacher, x[order]).detach()
    losses = -(target.softmax(1) * robust(own, x[order] + 0.1).log_softmax(1)).sum(1)
    descend(optimizer, ((-ages).exp() / (1 + (-ages).exp()) * losses).mean())
    same(rotta.model, own)
    with torch.no_grad():
        for slow, fast in zip(teacher.parameters(), own.parameters(), strict=True):
            slow.copy_(0.999 * slow + 0.001 * fast)
    same(rotta.teacher, teacher)
    for mine, want in ((rotta.model, own), (rotta.teacher, teacher)):
        for a, b in zip(mine.buffers(), want.buffers(), strict=True):
            torch.testing.assert_close(a, b)


def test_note_corrects_an_image_beyond_four_standard_errors():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(2).eval()
    norm.running_mean.copy_(torch.tensor([0.5, -1.0]))
    norm.running_var.copy_(torch.tensor([2.0, 0.5]))
    model = nn.Sequential(norm, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(8, 3))
    x = torch.randn(5, 2, 8, 8) * torch.tensor([0.2, 1.0, 1.5, 3.0, 1.0])[:, None, None, None]
    x[4] += 3
    found = adapt.create("note", model)(x)
    want = []
    for image in x:
        z = torch.empty_like(image)
        for c in range(2):
            mean, var = norm.running_mean[c], norm.running_var[c]
            own_var, own_mean = torch.var_mean(image[c])
            bound = 4 * ((var + 1e-5) / 64).sqrt()
            gap = own_mean - mean
            mean = mean + gap.sign() * (gap.abs() - bound).clamp_min(0)
            bound = 4 * (var + 1e-5) * (2 / 63) ** 0.5
            gap = own_var - var
            var = var + gap.sign() * (gap.abs() - bound).clamp_min(0)
            z[c] = (image[c] - mean) / (var + 1e-5).sqrt()
        want.append(model[1:](z[None]))
    torch.testing.assert_close(found, torch.cat(want).detach(), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found[4], model(x)[4], atol=0.1)


def test_mixed_statistics_are_those_of_the_union():
    model, x = network(), BATCHES[1]
    z, norm = model[0](x).detach(), model[1]
    mean, variance, share = z.mean(0), z.var(0, correction=0), 16 / (16 + 24)
    gap = mean - norm.running_mean
    variance = share * variance + (1 - share) * norm.running_var + share * (1 - share) * gap**2
    mean = share * mean + (1 - share) * norm.running_mean
    want = model[2:](batch_norm(z, mean, variance, norm.weight, norm.bias))
    for name, options in (("prior", {"N": 24}), ("alpha_bn", {"alpha": share})):
        torch.testing.assert_close(adapt.create(name, model, **options)(x), want.detach())
