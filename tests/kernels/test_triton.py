"""The Triton engine against the exact reference and the CPU engine.

Without a GPU its kernels run in Triton's interpreter, which must be chosen before Triton is
imported: so in a process of its own, started by `test_in_the_interpreter`. Or what is compiled for
a card runs here, lane by lane (`benchmarks/ptx`): `QACT_PTX=90 pytest` this file.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from qact import Context, QAct, levels
from qact.kernels import columns, engines, reference, stored
from qact.kernels.following import Following, Norm
from qact.kernels.plan import Plan
from qact.rank.bandwidth import parse
from qact.rank.rule import Rule

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402
from triton.runtime.interpreter import GridExecutor  # noqa: E402

from ptx import launches  # noqa: E402
from qact.kernels.cpu import block as cpu  # noqa: E402
from qact.kernels.triton import bins, block, launch, passes, recall, tiles  # noqa: E402
from qact.nn.normed import NormedQAct  # noqa: E402

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
COMPILED = 0 if INTERPRETED else int(os.environ.get("QACT_PTX", "0"))  # for such a card
GPU = torch.cuda.is_available() and not INTERPRETED and not COMPILED
DEVICE = "cuda" if GPU else "cpu"
here = pytest.mark.skipif(
    not (INTERPRETED or COMPILED or GPU),
    reason="no GPU; run in the interpreter, in a process of its own",
)
interpreted = pytest.mark.skipif(not INTERPRETED, reason="counts what the interpreter launches")


@pytest.fixture(autouse=True)
def compiled():
    """Launches run what is compiled, on this processor."""
    with launches.running(COMPILED) if COMPILED else nullcontext():
        yield


@pytest.mark.skipif(INTERPRETED or COMPILED > 0, reason="this is one of the others")
def test_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, __file__], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def shrink(monkeypatch, alone: int, tile: int, features: int = 32) -> None:
    """Make even small tensors fall into several programs."""
    monkeypatch.setattr(launch, "ALONE", alone)
    monkeypatch.setattr(launch, "TILE", tile)
    monkeypatch.setattr(launch, "FEATURES", features)
    monkeypatch.setattr(launch, "WAVES", 4)
    monkeypatch.setattr(launch, "_cut", getattr(launch._cut, "__wrapped__", launch._cut))


@pytest.fixture(params=["alone", "shared"])
def cut(request, monkeypatch):
    if request.param == "shared":
        shrink(monkeypatch, 0, 128, 4)


def affine(channels: int, seed: int = 1) -> tuple[Tensor, ...]:
    make = torch.Generator().manual_seed(seed)
    scales = [torch.rand(channels, generator=make) + 0.5 for _ in range(3)]
    shifts = [torch.randn(channels, generator=make) for _ in range(3)]
    return tuple(t for pair in zip(scales, shifts, strict=True) for t in pair)


def move(tensors):
    return tuple(None if t is None else t.to(DEVICE) for t in tensors)


def both(z: Tensor, g: Tensor, plan: Plan, numbers) -> tuple[list[Tensor], list[Tensor]]:
    """Output, gradient and the affines' gradients: of this engine, and of the CPU engine."""
    mine, theirs = move(numbers), [None if t is None else t.cpu() for t in numbers]
    out, *saved = block.forward(z.to(DEVICE), plan, mine)
    dz, grads = block.backward(z.to(DEVICE), g.to(DEVICE), plan, mine, *saved)
    want, *kept = cpu.forward(z.float(), plan, tuple(theirs))
    want_dz, want_grads = cpu.backward(z.float(), g.float(), plan, tuple(theirs), *kept)
    return [out.cpu(), dz.cpu(), grads.cpu()], [want, want_dz, want_grads]


def close(z: Tensor, g: Tensor, plan: Plan, numbers, tight: float = 2e-4) -> None:
    got, want = both(z, g, plan, numbers)
    assert (got[0] - want[0]).abs().max() <= tight
    size = want[1].norm() + 1e-6 * g.norm()
    assert (got[1] - want[1]).norm() <= tight * size
    for row, other, number in zip(got[2], want[2], numbers, strict=True):
        if number is not None:
            assert (row - other).abs().max() <= tight * (other.abs().max() + g.norm())


RULES = {
    "default": Rule(),
    "ungrounded": Rule(grounded=False, bandwidth=parse("silverman")),
    "density": Rule(gradient="density", bandwidth=parse("0.2std")),
    "paper": Rule(gradient="density", bandwidth=parse(0.5), sentinels=1.0),
    "absolute": Rule(bandwidth=parse(0.3), sentinels=2.0),
    "continuous": Rule("continuous", bandwidth=parse("0.2std")),
    "continuous absolute": Rule("continuous", bandwidth=parse(0.3), sentinels=2.0),
}
NORMS = [(None, None), (1e-5, 1e-5)]
PLANS = [("uniform", 0), ("normal", 0), ("relu", 0), ("steps", 20)]


@here
@pytest.mark.parametrize("norms", NORMS)
@pytest.mark.parametrize(("kind", "steps"), PLANS)
def test_agrees_with_the_cpu(cut, kind, steps, norms):
    z, g = torch.randn(40, 2, 4) * 2 + 0.4, torch.randn(40, 2, 4)
    close(z, g, Plan(Rule(), kind, steps, *norms), affine(2))


@here
@pytest.mark.parametrize("name", [name for name in RULES if name != "default"])
def test_every_rule(cut, name):
    behind = name in ("density", "absolute", "continuous absolute")
    norms = (None, 1e-3) if behind else (1e-3, None)
    z, g = torch.randn(60, 2, 1) * 2 - 0.4, torch.randn(60, 2, 1)
    close(z, g, Plan(RULES[name], "normal", 0, *norms), affine(2))
    close(z, g, Plan(replace(RULES[name], smooth=False), "steps", 7, *norms), (None,) * 6)


@here
@pytest.mark.parametrize("name", ["continuous", "continuous absolute"])
@pytest.mark.parametrize("gap", [0.01, 0.5, 50.0])
def test_a_side_without_values(cut, name, gap):
    z, g = torch.randn(60, 2, 1).abs() + gap, torch.randn(60, 2, 1)
    z[:, 1] *= -1
    close(z, g, Plan(RULES[name], "normal"), affine(2))


@here
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 2, 7), (2, 3, 33), (70, 1, 1), (90, 5, 1)])
def test_odd_shapes(cut, shape):
    z, g = torch.randn(shape) + 0.1, torch.randn(shape)
    close(z, g, Plan(Rule(), "uniform", 0, None, 1e-5), affine(shape[1]))


@here
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    z, g, plan = torch.randn(40, 2, 2).to(dtype), torch.randn(40, 2, 2).to(dtype), Plan(Rule())
    got, want = both(z, g, plan, (None,) * 6)
    assert got[0].dtype == got[1].dtype == dtype
    step = torch.finfo(dtype).eps
    assert ((got[0].float() - want[0]).abs() <= step * want[0].abs() + 1e-6).all()
    assert ((got[1].float() - want[1]).abs() <= step * want[1].abs() + 1e-4 * want[1].max()).all()


def norm(x: Tensor, eps: float | None, weight: Tensor, bias: Tensor) -> Tensor:
    if eps is None:
        return x
    return torch.nn.functional.batch_norm(x, None, None, weight, bias, True, 0.0, eps)


def exact(z: Tensor, plan: Plan, numbers) -> Tensor:
    """Norm, the definition, norm, in float64."""
    smooth = plan.kind != "steps"
    rule = Rule(plan.rule.grounded, smooth, plan.rule.bandwidth, plan.rule.gradient)
    level = levels.parse(plan.kind) if smooth else levels.steps(plan.steps)
    y = norm(z, plan.eps_in, numbers[0], numbers[1])
    value = reference.apply(y, reference.observe(y), level.affine(*numbers[2:4]), rule)
    return norm(value, plan.eps_out, numbers[4], numbers[5])


def sample(name: str, n: int) -> Tensor:
    g = torch.randn(n, generator=torch.Generator().manual_seed(n))
    u = torch.rand(n, generator=torch.Generator().manual_seed(n + 1))
    return {
        "normal": g,
        "lognormal": g.exp(),
        "humps": torch.where(u < 0.3, 0.05 * g - 1, 0.3 * g + 1),
        "tied": (2 * g).round() / 2,
        "relu": g.relu(),
        "negative": -g.abs() - 0.1,
        "one_positive": torch.cat([-g[1:].abs(), torch.tensor([0.3])]),
        "shifted": 2 * g + 100,
        "cauchy": torch.tan(torch.pi * (u - 0.5)),
    }[name]


NAMES = ["normal", "lognormal", "humps", "tied", "relu", "negative", "one_positive", "shifted"]


@here
@pytest.mark.parametrize("grounded", ["sides", "continuous", False])
def test_smooth_ranks_within_one_in_400(grounded):
    z = torch.stack([sample(name, 400) for name in [*NAMES, "cauchy"]], 1)[:, :, None]
    plan = Plan(Rule(grounded=grounded))
    got = block.forward(z.to(DEVICE), plan, (None,) * 6)[0].cpu()
    want = reference.apply(z.double(), reference.observe(z), levels.parse("uniform"), plan.rule)
    assert (got - want).abs().max() <= 1 / 400


@here
@pytest.mark.parametrize("norms", NORMS)
@pytest.mark.parametrize(("kind", "steps"), [("normal", 0), ("relu", 0), ("steps", 20)])
@pytest.mark.parametrize("gradient", ["full", "density"])
def test_gradients_within_one_percent(kind, steps, norms, gradient):
    if kind == "relu":  # the norm behind would send a gradient into the kink
        norms = (norms[0], None)
    z = torch.stack([sample(name, 400) for name in NAMES[:3]], 1)[:, :, None]
    plan = Plan(Rule(gradient=gradient), kind, steps, *norms)
    numbers = [t.double().requires_grad_() for t in affine(z.shape[1])]
    leaf = z.double().requires_grad_()
    out = exact(leaf, plan, numbers)
    g = torch.randn(z.shape)
    if kind == "relu":  # no value near the kink passes a gradient
        plain = Plan(plan.rule, "normal", 0, plan.eps_in)
        g = g * (exact(z.double(), plain, [t.detach() for t in numbers]).abs() > 0.1)
    wanted = torch.autograd.grad(out, [leaf, *numbers], g.double(), allow_unused=True)
    mine = move(t.detach().float() for t in numbers)
    got, *saved = block.forward(z.to(DEVICE), plan, mine)
    dz, grads = block.backward(z.to(DEVICE), g.to(DEVICE), plan, mine, *saved)
    if kind == "steps" and norms == (None, None):
        torch.testing.assert_close(got.cpu().double(), out.detach(), rtol=0, atol=2e-6)
    assert (dz.cpu() - wanted[0]).norm() <= 0.01 * wanted[0].norm()
    for k, (row, want) in enumerate(zip(grads.cpu(), wanted[1:], strict=True)):
        # Those of the first norm are differences of large numbers, if the gradient is full
        # next to nothing.
        if want is not None and (k > 1 or gradient == "density"):
            bound = 0.02 if k < 2 else 0.01
            assert (row - want).norm() <= bound * (want.norm() + g.norm())


@here
@pytest.mark.parametrize("name", ["tied", "relu", "negative", "one_positive"])
@pytest.mark.parametrize("sentinels", [0.0, 1.0])
def test_steps_are_exact(cut, name, sentinels):
    z = sample(name, 120)[:, None, None]
    for grounded in (True, False):
        rule = Rule(grounded, False, parse("scott"), "full", sentinels)
        got = block.forward(z.to(DEVICE), Plan(rule, "steps", 100), (None,) * 6, keep=False)[0]
        want = reference.apply(z.double(), reference.observe(z), levels.steps(100), rule)
        torch.testing.assert_close(got.cpu().double(), want, rtol=0, atol=1e-6)


@here
@pytest.mark.parametrize(
    ("alone", "runs", "weight", "steps"),
    [(True, 256, 0.0, 1), (True, 256, 1.0, 70), (False, 256, -2.0, 9), (False, 2, 1.0, 70)],
)
def test_steps_of_channels_that_are_sorted_in_runs(monkeypatch, alone, runs, weight, steps):
    """Ties, both zeros, either order; all runs of a channel at once, or a few."""
    shrink(monkeypatch, 200 if alone else 0, 128)
    for name, value in {"RUN": 64, "RUNS": runs, "LEVELS": 64, "ALL": 64}.items():
        monkeypatch.setattr(launch, name, value)
    z = torch.cat([sample("tied", 120), torch.tensor([0.0, -0.0] * 16), 30 * torch.rand(18)])
    z = torch.stack([z, torch.nextafter(sample("normal", 170), torch.tensor(9.0))], 1)
    z = z.reshape(34, 5, 2).transpose(1, 2).contiguous()
    assert launch.cut(z).alone == alone
    scales = (torch.full((2,), weight), torch.zeros(2), None, None, None, None)
    plan = Plan(Rule(True, False, sentinels=0.1), "steps", steps, 1e-5, 1e-5)
    got = block.forward(z.to(DEVICE), plan, move(scales), keep=False)[0]
    torch.testing.assert_close(got.cpu(), cpu.forward(z, plan, scales)[0], rtol=0, atol=2e-6)


@here
@pytest.mark.parametrize(
    ("kind", "steps", "bad"),
    [("normal", 0, float("nan")), ("normal", 0, -float("inf")), ("steps", 5, float("inf"))],
)
def test_what_is_not_finite_spoils_its_channel_alone(cut, kind, steps, bad):
    z, g = torch.randn(10, 3, 4), torch.randn(10, 3, 4)
    plan, numbers = Plan(Rule(), kind, steps, 1e-5, 1e-5), move(affine(3))
    clean = both(z, g, plan, affine(3))[0]
    z[7, 1, 2] = bad
    out, *saved = block.forward(z.to(DEVICE), plan, numbers)
    dz, grads = block.backward(z.to(DEVICE), g.to(DEVICE), plan, numbers, *saved)
    for got, want in zip((out, dz, grads), clean, strict=True):
        assert torch.isnan(got[:, 1]).all()
        assert torch.equal(got[:, [0, 2]].cpu(), want[:, [0, 2]])


@here
@pytest.mark.parametrize(("kind", "steps"), [("relu", 0), ("steps", 5)])
@pytest.mark.parametrize("bad", [float("nan"), -float("inf")])
def test_a_norm_that_is_not_finite_spoils_its_channel_alone(cut, kind, steps, bad):
    z, g = torch.randn(40, 3, 4), torch.randn(40, 3, 4)
    plan, numbers = Plan(Rule(), kind, steps, 1e-5, 1e-5), affine(3)
    clean = both(z, g, plan, numbers)[0]
    numbers[0][1] = bad
    out, *saved = block.forward(z.to(DEVICE), plan, move(numbers))
    dz, grads = block.backward(z.to(DEVICE), g.to(DEVICE), plan, move(numbers), *saved)
    for got, want in zip((out, dz, grads), clean, strict=True):
        assert torch.isnan(got[:, 1]).all()
        assert torch.equal(got[:, [0, 2]].cpu(), want[:, [0, 2]])


@here
def test_every_channel_has_gradients_in_a_unit_of_its_own(monkeypatch):
    """Beside a channel whose gradients are a billion times larger, and near the largest numbers."""
    shrink(monkeypatch, 0, 128, 4)
    size = torch.tensor([1.0, 1e9, 1e-12, 1e36])[:, None]  # sums of 60 of them are numbers yet
    z, g = torch.randn(60, 4, 1), torch.randn(60, 4, 1) * size
    got, want = both(z, g, Plan(Rule(), "normal"), (None,) * 6)
    unlike = ((got[1] - want[1]) / size).norm(dim=0) / (want[1] / size).norm(dim=0)
    assert unlike.max() <= 2e-4


def needs_histograms() -> None:
    if not launch.HISTOGRAM:
        pytest.skip(f"triton {triton.__version__} counts by products")


def counted_by(histogram: bool, monkeypatch) -> None:
    """Bins are counted by histograms, or by products of matrices."""
    monkeypatch.setattr(launch, "HISTOGRAM", histogram)
    monkeypatch.setattr(launch, "_cut", getattr(launch._cut, "__wrapped__", launch._cut))


@here
@pytest.mark.parametrize(
    ("shape", "kind", "tail"),  # behind a long tail are more bins than are counted at a time
    [
        ((70, 3, 1), "relu", 1.0),
        ((300, 1, 1), "relu", 60.0),
        ((7, 5, 12), "steps", 60.0),
        ((9, 2, 64), "normal", 1.0),
    ],
)
def test_both_ways_of_counting_are_one(cut, monkeypatch, kind, shape, tail):
    needs_histograms()
    draw = torch.Generator().manual_seed(3)
    z, g = (torch.randn(shape, generator=draw) for _ in range(2))
    z[0] *= tail
    plan, numbers = Plan(Rule(), kind, 9, 1e-5, 1e-5), move(affine(shape[1]))
    found = []
    for histogram in (True, False):
        counted_by(histogram, monkeypatch)
        out, *saved = block.forward(z.to(DEVICE), plan, numbers)
        found.append(
            [out, *saved, *block.backward(z.to(DEVICE), g.to(DEVICE), plan, numbers, *saved)]
        )
    *same, dz, grads = zip(*found, strict=True)
    assert all(torch.equal(one, other) for one, other in same[:2])
    for one, other in (dz, grads):
        assert (one - other).norm() <= 2e-6 * other.norm()


@here
@pytest.mark.parametrize(
    ("k", "span", "histogram"),
    [
        (1, 512, False),
        (4, 512, False),
        (1, 512, True),
        (4, 512, True),
        (1, 1024, True),
        (4, 1024, True),
    ],
)
def test_bins_add_up_what_falls_into_them(k, span, histogram):
    """A tile of values in all bins and beyond them, against NumPy's sums in float64."""
    if histogram:
        needs_histograms()
    shape = (32, 16) if k == 1 else (128, k)
    draw = torch.Generator().manual_seed(5)
    cell = torch.randint(-20, span + 28, shape, generator=draw)
    cell[: shape[0] // 2] = 77  # many in one bin
    place = torch.rand(shape, generator=draw)
    part = torch.randint(0, 257, shape, generator=draw)
    part[0], part[1] = 256, 0
    g = torch.randn(shape, generator=draw) * 1e3
    g[2, 0], g[3, 0] = -4e4, 4e4
    there = torch.rand(shape, generator=draw) < 0.9

    @triton.jit
    def added(
        cell, place, part, g, there, out, ROWS: tl.constexpr, V: tl.constexpr,
        K: tl.constexpr, SPAN: tl.constexpr, HISTOGRAM: tl.constexpr,
    ):  # fmt: skip
        at = tl.arange(0, ROWS)[:, None] * V + tl.arange(0, V)[None, :]
        mask = tl.load(there + at)
        cells, parts, places = tl.load(cell + at), tl.load(part + at), tl.load(place + at)
        zero = bins.blank(K, SPAN, tl.int32, HISTOGRAM)
        number, sums = bins.tally(zero, zero, cells, parts, mask, K, SPAN, HISTOGRAM)
        zero = bins.blank(K, SPAN, tl.float32, HISTOGRAM)
        whole, right = bins.weigh(
            zero, zero, cells, places, tl.load(g + at), mask, K, SPAN, HISTOGRAM
        )
        channel = tl.arange(0, K)
        if K == 1:
            row, most, exists = out, SPAN - 1, True
        else:
            row, most, exists = out + channel * SPAN, channel * 0 + SPAN - 1, channel >= 0
        bins.put(row, 0, most, exists, number.to(tl.float32), K, SPAN)
        bins.put(row + K * SPAN, 0, most, exists, sums.to(tl.float32), K, SPAN)
        bins.put(row + 2 * K * SPAN, 0, most, exists, whole, K, SPAN)
        bins.put(row + 3 * K * SPAN, 0, most, exists, right, K, SPAN)

    out = torch.full((4, k, span), float("nan"), device=DEVICE)
    given = (cell.int(), place, part.float(), g, there)
    added[(1,)](
        *move(given), out, ROWS=shape[0], V=shape[1], K=k, SPAN=span, HISTOGRAM=histogram,
        enable_fp_fusion=False,
    )  # fmt: skip
    inside = there & (cell >= 0) & (cell < span)
    at = (cell + (torch.arange(k) * span if k > 1 else 0))[inside]
    weights = (torch.ones(shape), part, g.double(), g.double() * place.double())
    want = torch.stack(
        [torch.bincount(at, w[inside].double(), minlength=k * span) for w in weights]
    ).reshape(4, k, span)
    assert torch.equal(out[:2].cpu().double(), want[:2])
    assert (out[2:].cpu() - want[2:]).abs().max() <= 2.0**-22 * 4e4 * shape[0]


@here
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_gradient_stays_in_its_channel(cut, bad):
    z, g = torch.randn(40, 2, 1), torch.randn(40, 2, 1)
    plan = Plan(Rule())
    clean = both(z, g, plan, (None,) * 6)[0][1]
    _, *saved = block.forward(z.to(DEVICE), plan, (None,) * 6)
    g[3, 1] = bad
    dz, _ = block.backward(z.to(DEVICE), g.to(DEVICE), plan, (None,) * 6, *saved)
    assert torch.equal(dz[:, 0].cpu(), clean[:, 0])
    assert not torch.isfinite(dz[3, 1]).any()


@here
@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_extremes(cut, factor):
    z, g = torch.randn(60, 2, 1) * factor, torch.randn(60, 2, 1)
    z[:, 1] = 0.7 * factor  # a constant channel ranks in the middle and passes no gradient
    plan = Plan(Rule(grounded=False))
    out, *saved = block.forward(z.to(DEVICE), plan, (None,) * 6)
    dz, _ = block.backward(z.to(DEVICE), g.to(DEVICE), plan, (None,) * 6, *saved)
    want = reference.apply(
        z[:, :1].double(), reference.observe(z[:, :1]), levels.parse("uniform"), plan.rule
    )
    assert (out[:, :1].cpu() - want).abs().max() <= 1 / 400
    assert (out[:, 1].cpu() - 0.5).abs().max() <= 1e-5
    assert torch.equal(dz[:, 1].cpu(), torch.zeros(60, 1))
    assert torch.isfinite(dz).all()


@here
def test_a_scale_of_zero_still_has_a_gradient():
    z, g, plan = torch.randn(60, 1, 1), torch.randn(60, 1, 1), Plan(Rule(), "normal")
    ones = (None, None, torch.ones(1), torch.zeros(1), None, None)
    zeros = (None, None, torch.zeros(1), torch.zeros(1), None, None)
    results = []
    for numbers in (move(ones), move(zeros)):
        _, *saved = block.forward(z.to(DEVICE), plan, numbers)
        results.append(block.backward(z.to(DEVICE), g.to(DEVICE), plan, numbers, *saved)[1])
    torch.testing.assert_close(results[0], results[1])


@here
def test_identical_calls_are_identical_to_the_bit(cut):
    z, g = torch.randn(50, 2, 4).to(DEVICE), torch.randn(50, 2, 4).to(DEVICE)
    plan, numbers, results = Plan(Rule(), "normal", 0, 1e-5, 1e-5), move(affine(2)), []
    for _ in range(2):
        out, *saved = block.forward(z, plan, numbers)
        results.append((out, *block.backward(z, g, plan, numbers, *saved)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@here
def test_channels_laid_out_otherwise_count_the_same_bins(monkeypatch):
    z, plan = torch.randn(50, 3, 4).to(DEVICE), Plan(Rule(), "uniform")
    alone = block.forward(z, plan, (None,) * 6)[0]
    shrink(monkeypatch, 0, 64)
    assert (block.forward(z, plan, (None,) * 6)[0] - alone).abs().max() <= 1e-6


def running(channels: int, device: str, bins: int = 512) -> Following:
    """A context, and the statistics of the norms around it, one with a momentum and one without."""
    context = Context(channels, bins).to(device)
    norms = [
        Norm(
            torch.zeros(channels, device=device),
            torch.ones(channels, device=device),
            torch.tensor(0, device=device),
            momentum,
        )
        for momentum in (0.1, None)
    ]
    return Following(context.tensors, context.batches, 0.1, *norms)


def flat(following: Following) -> list[Tensor]:
    norms = [t for norm in following[3:] for t in norm[:3]]
    return [t.cpu() for t in (*following.context, following.batches, *norms)]


@here
@pytest.mark.parametrize("kind", ["uniform", "steps"])
def test_what_follows_moves_as_on_the_cpu(cut, kind):
    plan = Plan(Rule(), kind, 10, 1e-5, 1e-5)
    mine, theirs = running(3, DEVICE), running(3, "cpu")
    for k in range(5):  # on the grid of the last, beyond it, and where most of it lies idle
        z = torch.randn(40, 3, 2) + k
        if k > 1:
            z[0, 0, 0] = 30.0 if k == 2 else 3.0
        if k == 4:
            z[0, 1] = torch.nan
        _, state, *_ = block.forward(z.to(DEVICE), plan, move(affine(3)), mine)
        cpu.forward(z, plan, affine(3), theirs)
    assert int(mine.batches) == int(mine.before.batches) == int(mine.behind.batches) == 5
    # Sums in another order move a mean by its rounding, and a value that lies between two of the
    # 256 parts of a bin falls into the other one. The interpreter adds in the order of the CPU.
    part = 0.0 if INTERPRETED else 3 / 256
    for number, (ours, others) in enumerate(zip(flat(mine), flat(theirs), strict=True)):
        atol = 1e-4 + part * (number == 1)
        torch.testing.assert_close(ours, others, rtol=1e-4, atol=atol, equal_nan=True)
    again = running(3, DEVICE)
    block.follow(z.to(DEVICE), plan, move(affine(3))[:2], state, again)
    assert again.context[0].sum(1).cpu()[0] == 80
    assert again.context[0].sum(1).cpu()[1] == 0
    assert int(again.batches) == 0


@here
def test_what_is_kept_is_what_was_promised(cut):
    from qact.kernels.plan import code_columns, table_columns

    for plan in (Plan(Rule()), Plan(Rule(), "steps", 5)):
        for n in (40, 520):
            for keep in (True, False):
                z = torch.randn(n, 2, 1).to(DEVICE)
                *_, tables, codes = block.forward(z, plan, (None,) * 6, keep=keep)
                assert tables.shape == (2, table_columns(n, plan) if keep else 0)
                assert codes.shape == (2, code_columns(n, plan) if keep else 0)


# As large as networks have them; lane by lane on this processor, a few of their channels.
NETWORKS = [(128, 64, 1024), (128, 512, 16), (25216, 384, 1), (128, 512, 1)]
FEW = [(64, 1, 1024), (128, 4, 16), (25216, 2, 1), (128, 17, 1)]


@here
@pytest.mark.skipif(INTERPRETED, reason="too much for the interpreter")
@pytest.mark.parametrize("shape", NETWORKS if GPU else FEW)
@pytest.mark.parametrize(("kind", "steps"), PLANS)
def test_shapes_of_networks(shape, kind, steps):
    z, g = torch.randn(shape), torch.randn(shape)
    close(z, g, Plan(Rule(), kind, steps, 1e-5, 1e-5), affine(shape[1]), 2e-3)


# Neither reads nor writes a number: memory, and other words for it.
MEMORY = {"empty", "new_empty", "empty_like", "empty_strided"}
FREE = MEMORY | {"view", "select", "unbind", "detach", "unsqueeze", "squeeze", "permute"}


class Watch(TorchDispatchMode):
    """The operations of PyTorch outside of kernels, and the kernels."""

    def __init__(self, monkeypatch) -> None:
        super().__init__()
        self.operations: list[str] = []
        self.launches: list[str] = []
        run = GridExecutor.__call__

        def launched(executor, *args, **named):
            self.launches.append(executor.fn.__name__)
            with _disable_current_modes():  # the interpreter copies tensors
                return run(executor, *args, **named)

        monkeypatch.setattr(GridExecutor, "__call__", launched)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name not in FREE:
            self.operations.append(name)
        return func(*args, **(kwargs or {}))

    def taken(self) -> tuple[int, list[str]]:
        seen = len(self.launches), self.operations
        self.launches, self.operations = [], []
        return seen


@pytest.fixture
def engine(monkeypatch):
    """Layers on the CPU take this engine."""
    monkeypatch.setitem(engines.BLOCKS, "cpu", "qact.kernels.triton.block")
    monkeypatch.setattr(engines, "concrete", lambda z, device="cpu": device == "cuda")


@here
def test_offsets_reach_beyond_what_32_bits_hold(monkeypatch):
    """Of tensors that need no memory: where a tile's values lie, against Python's integers."""

    @triton.jit
    def place(out, t, C, L, n, ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr):
        c, exists = tiles.channel(C, K)
        offset, _, mask = tiles.tile(t, c, exists, C, L, n, ROWS, V, K)
        lane = tl.arange(0, ROWS)[:, None] * offset.shape[1] + tl.arange(0, offset.shape[1])[None]
        tl.store(out + lane, tl.where(mask, offset, -1))

    for outer, channels, inner, k in ((9000, 3000, 128, 1), (2**22, 1000, 1, 8)):
        n, rows, side = outer * inner, 8, 1 if inner == 1 else 32
        last = -(-n // (rows * side)) - 1
        out = torch.empty(rows, side if k == 1 else k, dtype=torch.int64, device=DEVICE)
        place[(1,)](out, last, channels, inner, n, ROWS=rows, V=side, K=k)
        i = last * rows * side + torch.arange(rows * side).reshape(rows, side)
        want = i // inner * channels * inner + i % inner
        if k > 1:
            want = want + torch.arange(k)
        assert torch.equal(out.cpu(), torch.where(i < n, want, -1))
        assert want.max() > 2**31


@here
@pytest.mark.skipif(DEVICE == "cpu", reason="4 GB for each tensor")
@pytest.mark.parametrize("shape", [(40, 64, 2**20 - 4), (2**19, 4099, 1)])
@pytest.mark.parametrize(("kind", "steps"), [("relu", 0), ("steps", 100)])
def test_tensors_of_more_than_two_billion_values(shape, kind, steps):
    """The last channels, which lie beyond 2^31, by themselves."""
    z = torch.randn(shape, device=DEVICE, dtype=torch.bfloat16)
    plan, numbers = Plan(Rule(), kind, steps, 1e-5, 1e-5), move(affine(shape[1]))
    out, *saved = block.forward(z, plan, numbers)
    few = z[:, -3:].contiguous()
    want, *kept = block.forward(few, plan, tuple(t[-3:] for t in numbers))
    assert torch.equal(out[:, -3:], want)
    del out
    dz, grads = block.backward(z, z, plan, numbers, *saved)
    other, others = block.backward(few, few, plan, tuple(t[-3:] for t in numbers), *kept)
    torch.testing.assert_close(dz[:, -3:], other, rtol=1e-2, atol=1e-6)
    torch.testing.assert_close(grads[:, -3:], others, rtol=1e-3, atol=1e-3)


@here
def test_a_bin_may_hold_a_hundred_million_values(monkeypatch):
    """A million times as many values in every bin are the same ranks."""
    shrink(monkeypatch, 0, 64)
    z, plan, times = torch.randn(100, 2, 1), Plan(Rule(grounded=False)), 2**20
    z[:, 0] = 0.7  # all in one bin, and not at its edge
    how, what = launch.cut(z), launch.words(plan, 100)
    state = torch.empty(2, 12, dtype=torch.float64, device=DEVICE)
    parts = passes.count(z.to(DEVICE), state, (None,) * 6, how, what).sum(0, keepdim=True)
    results = []
    for many in (1, times):
        tables, seen = torch.zeros(2, what.columns, device=DEVICE), running(2, DEVICE)
        larger = replace(how, n=how.n * many)
        passes.tabulate(
            parts * many, tables, None, state, (None,) * 6, larger, what, True, seen, False
        )
        results.append((tables, seen.context[0] / many, seen.context[1] / many))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_channels_that_cannot_be_counted_are_refused():
    with pytest.raises(ValueError, match="134217728 values is too long"):
        launch.words(Plan(Rule()), 2**27)


@here
def test_tables_that_were_kept_are_those_made_anew(monkeypatch):
    z, g, plan = torch.randn(200, 3, 1), torch.randn(200, 3, 1), Plan(Rule(), "relu", 0, 1e-5, 1e-5)
    z[0, 1], z[1, 1] = 1e6, -1e6  # tails that no room is kept for
    numbers = (None,) * 6
    _, state, tables, codes = block.forward(z.to(DEVICE), plan, numbers)
    fits = 2 * state[:, columns.BINS] + 4 <= tables.shape[1]
    assert fits.tolist() == [True, False, True]
    kept = block.backward(z.to(DEVICE), g.to(DEVICE), plan, numbers, state, tables, codes)
    made = block.backward(z.to(DEVICE), g.to(DEVICE), plan, numbers, state, tables[:, :0], codes)
    assert all(torch.equal(a, b) for a, b in zip(kept, made, strict=True))


LAYERS = {
    "block": (NormedQAct, (4, 4)),
    "block with a norm behind": (lambda c: NormedQAct(c, after=True), (4, 5)),
    "layer": (QAct, (4, 3)),
    "paper": (QAct.paper, (6, 5)),
}


@interpreted
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_what_the_host_does(cut, request, engine, monkeypatch, name, layout):
    """Launches, and nothing beside them: no operation on the data, nothing that waits for it."""
    make, (forward, backward) = LAYERS[name]
    layer, x = make(2), torch.randn(20, 2, 2, 4)
    monkeypatch.setattr(block, "try_once", lambda *args: None)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    x, grad = x.requires_grad_(), torch.randn_like(x)
    small = "alone" in request.node.name
    # As of large maps: what was made in the forward pass is there in the backward pass.
    if not small and name != "paper":
        monkeypatch.setattr(block, "table_columns", lambda values, plan: 4096)
    with Watch(monkeypatch) as watch:
        out = layer(x)
        assert watch.taken() == (1 if small else forward, [])
        out.backward(grad)
        assert watch.taken() == (1 if small else backward, [])
    assert out.stride() == x.stride() == x.grad.stride()
    layer.eval()
    with torch.no_grad():
        layer(x)  # makes the table
        with watch:
            watch.taken()
            layer(x)
            assert watch.taken() == (1, [])


@here
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [NormedQAct, QAct.paper])
def test_a_stored_context_is_looked_up_as_in_pytorch(make, dtype):
    layer = make(5)
    with torch.no_grad():
        layer(torch.randn(300, 5))
        layer.eval()
        x = torch.randn(40, 5) * 2
        x[3, 1], x[4, 2], x[5, 3] = torch.nan, torch.inf, -torch.inf
        x = x.to(dtype)
        wanted = stored.lookup(x[:, :, None], layer.stored())[:, :, 0].to(dtype)
        table = replace(
            layer.stored(),
            **{
                name: value.to(DEVICE)
                for name, value in vars(layer.stored()).items()
                if isinstance(value, Tensor)
            },
        )
        got = recall.lookup(x[:, :, None].to(DEVICE), table)[:, :, 0]
    assert got.dtype == dtype
    torch.testing.assert_close(
        got.cpu(), wanted, rtol=torch.finfo(dtype).eps, atol=1e-6, equal_nan=True
    )


@interpreted
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("broken", ["sum_in", "table", "count"])
def test_a_kernel_that_does_not_compile_leaves_the_work_to_eager_pytorch(
    engine, monkeypatch, broken
):
    """One warning names the reason; gradients and statistics are those of eager PyTorch."""
    shrink(monkeypatch, 0, 128, 4)
    monkeypatch.setattr(engines, "_given_up", {})
    monkeypatch.setattr(block, "words", launch._words)  # nothing has been tried yet
    run = GridExecutor.__call__

    def fails(executor, *args, **named):
        if executor.fn.__name__ == broken:
            raise ValueError("no such instruction on this card")
        return run(executor, *args, **named)

    monkeypatch.setattr(GridExecutor, "__call__", fails)
    eager, mine = NormedQAct(2, engine="eager"), NormedQAct(2)
    x = torch.randn(20, 2, 8)
    theirs, ours = x.clone().requires_grad_(), x.clone().requires_grad_()
    eager(theirs).square().sum().backward()
    with pytest.warns(UserWarning, match="no such instruction") as said:
        mine(ours).square().sum().backward()
    assert len(said) == 1
    torch.testing.assert_close(ours.grad, theirs.grad)
    for name, buffer in eager.named_buffers():
        torch.testing.assert_close(mine.get_buffer(name), buffer)
    mine.quantile.engine = "triton"
    with pytest.raises(engines.UnusableError, match="no such instruction"):
        mine(x)


@here
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_steps_keep_the_order_that_the_norm_would_round_away(sign):
    """Neighbouring floats far from zero tie behind a norm; by the definition they are in order."""
    neighbours = 1000 + 2.0**-14 * torch.arange(40)
    x = torch.cat([neighbours, 500 * torch.randn(24)])[:, None, None]
    y = (x - x.mean()) / x.std(correction=0) + 3
    assert len(y.unique()) < len(x.unique())
    numbers = (sign * torch.ones(1), 3 * torch.ones(1), None, None, None, None)
    plan = Plan(Rule(grounded=False, smooth=False), "steps", 20, 1e-5)
    got = block.forward(x.to(DEVICE), plan, move(numbers), keep=False)[0].cpu().flatten()
    order = sign * x.flatten()
    reached = (order[None] <= order[:, None]).sum(1)
    want = (21 * reached // 64).clamp_max(20) / 21
    torch.testing.assert_close(got, want)
