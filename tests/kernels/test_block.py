"""The fused block against its parts: BatchNorm of torch, the exact reference, BatchNorm."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import qact
from qact.kernels import library
from qact.kernels.block import block
from qact.kernels.plan import Plan
from qact.nn.normed import ChannelNorm, NormedQAct
from qact.rank.bandwidth import parse
from qact.rank.levels import Level, steps
from qact.rank.rule import Rule

SHAPES = [(40, 3, 3, 5), (130, 5), (7, 2, 31), (64, 17), (2, 1, 16, 16), (300, 33)]
LEVELS = ["uniform", "normal", "relu", "steps"]


def parts(layer: NormedQAct) -> NormedQAct:
    """The same layer with the exact reference in the middle, in float64, one part at a time."""
    exact = copy.deepcopy(layer).double()
    exact.quantile.engine = "reference"
    exact.norm_in.register_forward_hook(lambda *_: None)  # a hook keeps the parts apart
    return exact


def run(layer: nn.Module, x: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    x = x.detach().to(next(layer.parameters()).dtype).requires_grad_()
    layer.zero_grad()
    y = layer(x)
    y.backward(g.to(y.dtype))
    return y.detach(), x.grad, *(p.grad.clone() for p in layer.parameters())


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-6))


def agreeing(a: Tensor, b: Tensor, channels: int) -> Tensor:
    """Where both outputs of a ReLU stand at its floor, or both above it."""

    def above(y: Tensor) -> Tensor:
        floor = y.transpose(0, 1).reshape(channels, -1).amin(1)
        return y > floor.reshape(1, -1, *[1] * (y.dim() - 2)) + 1e-4

    return (above(a) == above(b)).float()


def scramble(layer: nn.Module, seed: int) -> None:
    make = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        with torch.no_grad():
            parameter.copy_(torch.rand(parameter.shape, generator=make) + 0.5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("gradient", ["full", "density"])
def test_one_pass_equals_three(shape, levels, after, gradient):
    torch.manual_seed(sum(shape))
    x, g = torch.randn(shape) * 3 + 2, torch.randn(shape)
    step = levels == "steps"
    options = {"levels": levels, "gradient": gradient, "smooth": not step, "bandwidth": 0.4}
    layer = NormedQAct(shape[1], after=after, engine="cpu", **options)
    scramble(layer, 0)
    exact = parts(layer)
    got, want = run(layer, x, g), run(exact, x, g)
    values = x.numel() / shape[1]
    if step:
        # A value within rounding of its neighbour may take the neighbour's level.
        assert ((got[0] - want[0]).abs() > 1e-4).sum() <= 2
    else:
        assert (got[0] - want[0]).abs().max() < (0.01 if values >= 256 else 0.02)
    bound = 0.01 if values >= 256 else 0.03
    # At the kink of a ReLU a value may be on either side, and its gradient with it.
    same = agreeing(got[0], want[0], shape[1]) if levels == "relu" else torch.ones_like(x)
    assert relative(got[1] * same, want[1] * same) < bound
    names = [name for name, _ in layer.named_parameters()]
    for name, a, b in zip(names, got[2:], want[2:], strict=True):
        # Sums of terms of either sign, and zero where a norm makes them so: as good as the terms.
        assert (a - b).norm() <= bound * b.norm() + bound * values**0.5 * g.norm(), name


@pytest.mark.parametrize("levels", LEVELS)
def test_running_statistics_are_those_of_the_parts(levels):
    torch.manual_seed(0)
    step = levels == "steps"
    options = {"levels": levels, "smooth": not step, "after": True}
    layer = NormedQAct(6, engine="cpu", **options)
    other = copy.deepcopy(layer)
    other.norm_in.register_forward_hook(lambda *_: None)
    for _ in range(4):
        x = torch.randn(50, 6, 4) * torch.rand(6, 1) + torch.randn(6, 1)
        layer(x)
        other(x)
    for (name, a), (_, b) in zip(layer.named_buffers(), other.named_buffers(), strict=True):
        if "context" not in name:
            torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3, msg=name)
    q = torch.linspace(0.02, 0.98, 25)
    a, b = (m.quantile.context.quantile(q) for m in (layer, other))
    torch.testing.assert_close(a, b, rtol=0, atol=0.02)
    assert int(layer.quantile.context.batches) == 4
    torch.testing.assert_close(layer.quantile.context.count, other.quantile.context.count)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("after", [True, False])
def test_eval_is_one_table(levels, after):
    torch.manual_seed(1)
    step = levels == "steps"
    layer = NormedQAct(5, after=after, levels=levels, smooth=not step, engine="cpu")
    scramble(layer, 1)
    if after:
        with torch.no_grad():
            layer.norm_out.weight[0] = -1.0
            layer.norm_out.weight[1] = 0.0
    for _ in range(3):
        layer(torch.randn(64, 5, 7) * 2 + 1)
    layer.eval()
    x = torch.randn(33, 5, 3) * 2 + 1
    with torch.no_grad():
        got = layer(x)
    want = layer(x)  # with a graph: the parts one after the other
    assert want.requires_grad
    if step:
        assert ((got - want).abs() > 1e-4).float().mean() < 0.02
    else:
        torch.testing.assert_close(got, want.detach(), rtol=0, atol=0.02)


def test_the_table_of_eval_follows_every_change():
    layer = qact.QAct(3)
    layer(torch.randn(64, 3))
    layer.eval()
    x = torch.randn(20, 3)
    with torch.no_grad():
        before = layer(x)
        assert layer.stored() is layer.stored()
        layer.weight.mul_(2.0)
        torch.testing.assert_close(layer(x), 2 * before)
        layer.load_state_dict(qact.QAct(3).state_dict() | {"weight": torch.ones(3) * 3})
        with pytest.raises(RuntimeError, match="seen no data"):
            layer(x)
    layer.train()
    layer(torch.randn(64, 3) * 9)
    with torch.no_grad():
        assert not torch.equal(layer.eval()(x), before)


def test_hooks_and_partial_eval_keep_the_parts_apart():
    layer = NormedQAct(4, after=True)
    x = torch.randn(32, 4)
    seen = []
    layer.quantile.register_forward_hook(lambda m, a, out: seen.append(out))
    layer(x)
    assert len(seen) == 1
    frozen = NormedQAct(4)
    frozen(x)
    before = frozen.norm_in.running_mean.clone()
    frozen.norm_in.eval()
    frozen(x + 5)
    assert torch.equal(frozen.norm_in.running_mean, before)


def test_only_small_tables_are_kept_beside_the_input():
    def kept(layer: nn.Module, x: Tensor) -> int:
        sizes: dict[int, int] = {}

        def pack(t: Tensor) -> Tensor:
            if t.data_ptr() != x.data_ptr():
                sizes[t.data_ptr()] = t.numel() * t.element_size()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = layer(x)
        del y
        return sum(sizes.values())

    for shape in ((32, 16, 16, 16), (128, 64, 4, 4), (128, 512)):
        x = torch.randn(shape, requires_grad=True)
        c = shape[1]
        norm = nn.BatchNorm1d(c) if len(shape) == 2 else nn.BatchNorm2d(c)
        control = kept(nn.Sequential(norm, nn.ReLU()), x)
        # Tables of few values are kept too: making them again costs a seventh of a step.
        bound = control + (8 * x.numel() if len(shape) == 2 else 0)
        assert kept(qact.QAct(c, engine="cpu"), x) <= bound, shape
        assert kept(NormedQAct(c, engine="cpu"), x) <= bound, shape
        assert kept(qact.QAct.paper(c, engine="cpu"), x) <= 1.01 * control, shape


@pytest.mark.parametrize("levels", ["uniform", "normal", "steps"])
def test_a_scale_of_zero_learns(levels):
    layer = qact.QAct(3, levels=levels, smooth=levels != "steps", engine="cpu")
    with torch.no_grad():
        layer.weight.zero_()
    exact = copy.deepcopy(layer).double()
    exact.engine = "reference"
    x, g = torch.randn(600, 3), torch.randn(600, 3)
    for got, want in zip(run(layer, x, g)[2:], run(exact, x, g)[2:], strict=True):
        assert relative(got, want) < 0.01


def test_threads_do_not_change_a_bit():
    x, g = torch.randn(64, 37, 9), torch.randn(64, 37, 9)
    layer = qact.QAct.paper(37, engine="cpu")
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(run(copy.deepcopy(layer), x, g))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_threads_of_our_own_do_the_same(monkeypatch):
    from qact.kernels.cpu import pool

    x, g = torch.randn(64, 37, 9), torch.randn(64, 37, 9)
    layer = qact.QAct(37, engine="cpu")
    before = run(copy.deepcopy(layer), x, g)
    monkeypatch.setattr(pool, "_TEAM", None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    after = run(copy.deepcopy(layer), x, g)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_spoils_its_channel_and_no_statistics(bad):
    layer = qact.QAct.paper(3, engine="cpu")
    x = torch.randn(64, 3)
    layer(x)
    stored = layer.quantile.context.mass.clone()
    x = torch.randn(64, 3)
    x[5, 1] = bad
    x.requires_grad_()
    y = layer(x)
    y.sum().backward()
    assert torch.isnan(y[:, 1]).all()
    assert torch.isfinite(y[:, [0, 2]]).all()
    assert torch.isfinite(x.grad[:, [0, 2]]).all()
    assert torch.equal(layer.quantile.context.mass[1], stored[1])
    assert not torch.equal(layer.quantile.context.mass[0], stored[0])


@pytest.mark.parametrize("engine", ["cpu", "eager"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_norm_that_is_not_finite_spoils_its_channel(engine, bad, name):
    layer = qact.NormedQAct(3, engine=engine)
    layer(torch.randn(64, 3))
    stored = layer.quantile.context.mass.clone()
    getattr(layer.norm_in, name).data[1] = bad
    x = torch.randn(64, 3, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert torch.isnan(y[:, 1]).all()
    assert torch.isfinite(y[:, [0, 2]]).all()
    assert torch.isfinite(x.grad[:, [0, 2]]).all()
    assert torch.isfinite(layer.norm_in.running_mean).all()
    assert torch.equal(layer.quantile.context.mass[1], stored[1])


@pytest.mark.slow
def test_forty_million_values_fit_in_a_bin():
    layer = qact.QAct(1, engine="cpu")
    x = torch.cat([torch.full((40_000_000,), 0.37), torch.randn(1_000_000)])
    layer(x[:, None])
    c = layer.context
    mass, moment = c.mass.double(), c.moment.double()
    place = c.offset.double()[:, None] + torch.arange(mass.shape[1])
    mean = (place * mass + moment).sum() * 2.0 ** c.exponent.double() / mass.sum()
    assert mean.item() == pytest.approx(x.double().mean().item(), abs=1e-3)


def plan_cases() -> list[tuple[Plan, str]]:
    full = Rule(bandwidth=parse("0.2std"))
    step = Rule(smooth=False, bandwidth=parse(0.5), gradient="density", sentinels=1.0)
    return [
        (Plan(full, "relu"), "relu"),
        (Plan(full, "normal", eps_in=1e-5), "norm in"),
        (Plan(step, "steps", 100, 1e-5, 1e-5), "paper"),
    ]


@pytest.mark.parametrize(("plan", "name"), plan_cases())
@pytest.mark.parametrize("shape", [(40, 5, 1), (7, 5, 3), (2, 5, 70)])
def test_bfloat16_is_float32_rounded_at_both_ends(plan, name, shape):
    pytest.importorskip("numba")
    from qact.kernels.cpu.block import backward, forward

    z, grad = (10.0 ** torch.randint(-2, 3, shape) * torch.randn(shape) for _ in range(2))
    z, grad = z.bfloat16(), grad.bfloat16()
    z[0, 2, 0], grad[1, 3, 0], grad[1, 1, 0] = torch.nan, torch.nan, torch.inf
    affine = tuple(torch.rand(5) + 0.5 for _ in range(6))
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        out, *saved = forward(z.to(dtype), plan, affine)
        dz, grads = backward(z.to(dtype), grad.to(dtype), plan, affine, *saved)
        assert out.dtype == dz.dtype == dtype
        found.append((out.bfloat16(), dz.bfloat16(), grads, saved[0]))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("plan", "name"), plan_cases())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_pass_opcheck(plan, name, dtype):
    z = torch.randn(40, 3, 5).to(dtype).requires_grad_()
    affine = [torch.rand(3).add(0.5).requires_grad_() for _ in range(6)]
    torch.library.opcheck(library.block, (z, *affine, plan.numbers()), atol=1e-4, rtol=1e-4)
    _, *saved = library.block(z, *affine, plan.numbers())
    arguments = (z.detach(), torch.randn(40, 3, 5).to(dtype))
    arguments += tuple(a.detach() for a in affine)
    saved = [s.detach() for s in saved]
    torch.library.opcheck(library.block_backward, (*arguments, *saved, plan.numbers()))
    buffers = [b.clone() for b in qact.Context(3).tensors]
    batches = torch.tensor(0)
    inputs = (z.detach(), *arguments[2:4], saved[0], *buffers, batches, 0.1, plan.numbers())
    torch.library.opcheck(library.follow, inputs)


@pytest.mark.parametrize("make", [qact.QAct, NormedQAct, qact.QAct.paper])
def test_compiled_training_and_eval_without_a_break(make):
    torch.manual_seed(0)
    torch.compiler.reset()
    model = nn.Sequential(nn.Conv2d(3, 8, 3), make(8), nn.Conv2d(8, 4, 3))
    other = copy.deepcopy(model)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    for k in range(3):
        x = torch.randn(16, 3, 9, 9) + k
        one, two = model(x), compiled(x)
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
        one.square().sum().backward()
        two.square().sum().backward()
    for (name, a), (_, b) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3, msg=name)
    for (name, a), (_, b) in zip(model.named_buffers(), other.named_buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=name)
    model.eval(), other.eval()
    x = torch.randn(5, 3, 9, 9)
    with torch.no_grad():
        want = model(x)
        torch.testing.assert_close(want, compiled(x), rtol=1e-3, atol=2e-3)
    y = compiled(x.requires_grad_())
    torch.testing.assert_close(want, y.detach(), rtol=1e-3, atol=2e-2)
    y.sum().backward()


def test_vmap_makes_contexts_of_slices():
    x, weight = torch.randn(4, 50, 3), torch.rand(3) + 0.5
    plan = Plan(Rule(bandwidth=parse("0.2std")), "relu")

    def one(x: Tensor, weight: Tensor) -> Tensor:
        return block(x[:, :, None], plan, (None, None, weight, None, None, None))[..., 0]

    got = torch.vmap(one, in_dims=(0, None))(x, weight)
    want = torch.stack([one(slice_, weight) for slice_ in x])
    torch.testing.assert_close(got, want)
    g = torch.func.vmap(torch.func.grad(lambda x, w: one(x, w).square().sum()), (0, None))(
        x, weight
    )
    for slice_, grad in zip(x, g, strict=True):
        leaf = slice_.clone().requires_grad_()
        one(leaf, weight).square().sum().backward()
        torch.testing.assert_close(leaf.grad, grad)


def test_levels_that_do_not_fuse_take_the_general_way():
    x = torch.randn(64, 4, requires_grad=True)
    for level in ("gelu", torch.sin, steps(1000), Level(lambda u, n: u * 2)):
        smooth = level != steps(1000)
        qact.functional.quantile_activation(x, levels=level, smooth=smooth).sum().backward()
    with pytest.raises(ValueError, match="triton"):
        qact.functional.quantile_activation(x, engine="triton").sum()


def test_channel_norm_follows_like_batch_norm():
    ours, theirs = ChannelNorm(4), nn.BatchNorm1d(4)
    for momentum in (0.1, None):
        ours.momentum = theirs.momentum = momentum
        for _ in range(3):
            x = torch.randn(30, 4) * 3 + 1
            theirs(x)
            ours.follow(x.mean(0), x.var(0, correction=0), 30)
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)
        torch.testing.assert_close(ours.running_var, theirs.running_var)
        assert ours.num_batches_tracked == theirs.num_batches_tracked


def test_an_operator_tells_how_large_its_outputs_are():
    """Inductor keeps graphs by arguments alone, and must not take those of another table size."""
    from qact.kernels import plan as plans

    one = plans.Plan(plans.Rule(), "relu", eps_in=1e-5, eps_out=1e-3)
    assert plans.Plan.of(one.arguments()) == plans.Plan.of(one.numbers()) == one
    assert one.arguments()[len(one.numbers()) :] == [plans.LEAST]
