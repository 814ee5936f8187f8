"""Every engine against the exact definition, and the definition against scipy and plain numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import gaussian_kde, norm
from torch import Tensor

from qact import Context, levels
from qact._compat import replace
from qact.functional import quantile_activation
from qact.kernels import eager, reference
from qact.kernels.block import block
from qact.kernels.plan import fuse
from qact.rank.bandwidth import parse
from qact.rank.rule import Rule

PASSES = ("eager", "cpu")
RULES = ("sides", "continuous", False)
SMOOTH_BOUND = 1 / 400


def sample(name: str, n: int) -> Tensor:
    """``n`` values of one of the shapes that a context takes in practice."""
    make = torch.Generator().manual_seed(n)
    g, u = torch.randn(n, generator=make), torch.rand(n, generator=make).clamp(1e-6, 1 - 1e-6)
    extra = torch.randn(n, 2, generator=make)
    return {
        "normal": g,
        "shifted": 2 * g + 100,
        "shifted_down": 2 * g - 100,
        "lognormal": g.exp(),
        "student": g / (extra.square().sum(1) / 2).sqrt(),
        "cauchy": torch.tan(torch.pi * (u - 0.5)),
        "humps": torch.where(u < 0.3, 0.05 * g - 1, 0.3 * g + 1),
        "tied": (2 * g).round() / 2,
        "relu": g.relu(),
        "positive": g.abs() + 0.1,
        "negative": -g.abs() - 0.1,
        "one_positive": torch.cat([-g[1:].abs(), torch.tensor([0.3])]),
        "constant": torch.full((n,), 0.7),
        "coin": (u < 0.5).float(),
    }[name]


EVERY = [
    "normal",
    "shifted",
    "shifted_down",
    "lognormal",
    "student",
    "cauchy",
    "humps",
    "tied",
    "relu",
    "positive",
    "negative",
    "one_positive",
    "constant",
    "coin",
]
# A bandwidth in the units of the data is for data whose spread is about 1.
UNIT_SPREAD = [
    name for name in EVERY if name not in ("shifted", "shifted_down", "student", "cauchy")
]
CASES = [(name, b) for name in EVERY for b in ("scott", "silverman", "0.2std")] + [
    (name, 0.5) for name in UNIT_SPREAD
]


def everywhere(z: Tensor) -> Tensor:
    """Values (400 at most), the middles between them, and points well beyond: (1, Q) float64."""
    ordered = z.double().unique()
    ordered = ordered[torch.linspace(0, len(ordered) - 1, min(len(ordered), 400)).long()]
    span = (ordered[-1] - ordered[0]).clamp_min(1.0)
    beyond = span * torch.tensor([0.01, 0.1, 0.5, 3.0], dtype=torch.float64)
    middles = (ordered[1:] + ordered[:-1]) / 2
    return torch.cat([ordered[0] - beyond, ordered, middles, ordered[-1] + beyond])[None]


def plain_rank(
    q: np.ndarray, z: np.ndarray, h: float | None, *, grounded: bool | str
) -> np.ndarray:
    """The definition in a few lines of numpy; ``h`` None is the step rank."""
    weight = np.full(len(z), 1 / len(z))
    if grounded == "continuous" and h is not None:
        rank, zero = (norm.cdf((at[:, None] - z[None]) / h) @ weight for at in (q, np.zeros(1)))
        side = np.maximum(np.where(q < 0, zero, 1 - zero), 0.5 / (len(z) + 1))
        return 0.5 + (rank - zero) / (2 * side)
    if grounded:
        weight = np.where(z < 0, 0.5 / max((z < 0).sum(), 1), 0.5 / max((z >= 0).sum(), 1))
    low = 0.5 if grounded and not (z < 0).any() else 0.0
    gap = q[:, None] - z[None]
    return low + ((gap >= 0) if h is None else norm.cdf(gap / h)) @ weight


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("grounded", RULES)
def test_reference_is_the_definition(name, grounded):
    z = sample(name, 256)
    q = everywhere(z)
    seen = reference.observe(z[:, None, None])
    h = 0.3 * max(float(z.double().std(correction=0)), 1e-3)
    for smooth in (True, False):
        rule = Rule(grounded=grounded, smooth=smooth, bandwidth=parse(h))
        got = reference.rank(q, seen, rule)[0].numpy()
        want = plain_rank(
            q[0].numpy(), z.double().numpy(), h if smooth else None, grounded=grounded
        )
        np.testing.assert_allclose(got, want, atol=1e-9)


@pytest.mark.parametrize("name", ["normal", "lognormal", "student", "humps", "relu"])
@pytest.mark.parametrize("word", ["scott", "silverman"])
def test_ungrounded_rank_and_density_are_those_of_scipy(name, word):
    z = sample(name, 300).double()
    n, spread = len(z), float(z.std(correction=0))
    factor = {"scott": n ** (-1 / 5), "silverman": (n * 3 / 4) ** (-1 / 5)}[word]
    kde = gaussian_kde(z.numpy(), bw_method=factor * spread / float(z.std()))
    rule = Rule(grounded=False, bandwidth=parse(word))
    q = everywhere(z)
    exact = np.array([kde.integrate_box_1d(-np.inf, float(x)) for x in q[0]])
    for engine in PASSES:
        seen = eager.observe(z[:, None, None], rule, engine=engine)
        level = levels.parse("uniform")
        got = eager.apply(q.T[:, :, None], seen, level, rule, engine=engine).flatten()
        assert np.abs(got.numpy() - exact).max() <= SMOOTH_BOUND, engine
        slope = eager.density(q.T[:, :, None], seen, rule).flatten().numpy()
        peak = kde(q[0].numpy()).max()
        assert np.abs(slope - kde(q[0].numpy())).max() <= 0.01 * peak, engine
    exact_reference = reference.rank(q, reference.observe(z[:, None, None]), rule)[0]
    np.testing.assert_allclose(exact_reference.numpy(), exact, atol=1e-9)


def bound_of(rule: Rule, z: Tensor) -> float:
    """How far a rank may be off: grounded "continuous", a side's rank is divided by its mass."""
    if rule.grounded != "continuous":
        return SMOOTH_BOUND
    plain = replace(rule, grounded=False)
    below = float(reference.rank(torch.zeros(1, 1), reference.observe(z), plain))
    return SMOOTH_BOUND * max(1.0, 0.25 / max(min(below, 1 - below), 1e-9))


@pytest.mark.parametrize(("name", "bandwidth"), CASES)
@pytest.mark.parametrize("engine", PASSES)
def test_smooth_rank_within_one_in_400_everywhere(name, bandwidth, engine):
    level = levels.parse("uniform")
    for n in (256, 1500):
        z = sample(name, n)[:, None, None]
        q = everywhere(z.flatten())
        # The same points for both: the engine sees them in single precision.
        q = q.float().double()
        for grounded in RULES:
            rule = Rule(grounded=grounded, bandwidth=parse(bandwidth))
            seen = eager.observe(z, rule, engine=engine)
            got = eager.apply(q.T[:, :, None].float(), seen, level, rule, engine=engine)
            want = reference.rank(q, reference.observe(z), rule)[0]
            assert (got.flatten() - want).abs().max() <= bound_of(rule, z), (n, grounded)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("engine", PASSES)
def test_step_rank_of_a_batch(name, engine):
    for n in (256, 1500):
        z = sample(name, n)[:, None]
        for grounded in RULES:
            for sentinels in (0.0, 1.0):
                options = {"grounded": grounded, "smooth": False, "sentinels": sentinels}
                got = quantile_activation(z, engine=engine, **options)
                want = quantile_activation(z.double(), engine="reference", **options)
                assert (got - want).abs().max() <= 1 / 400 + 1 / n


@pytest.mark.own_seed  # most draws are within the bound
@pytest.mark.parametrize(("name", "bandwidth"), [c for c in CASES if c[0] != "constant"])
def test_density_within_one_percent_of_its_peak(name, bandwidth):
    for n in (256, 1500):
        z = sample(name, n)[:, None, None]
        q = everywhere(z.flatten()).float().double()
        for grounded in RULES:
            rule = Rule(grounded=grounded, bandwidth=parse(bandwidth))
            got = eager.density(q.T[:, :, None].float(), eager.observe(z, rule), rule).flatten()
            want = reference.density(q, reference.observe(z), rule)[0]
            # The continuous rule stretches what the kernel sends to a side without values: there
            # the density falls from its peak at zero within a bandwidth, between few edges.
            empty = grounded == "continuous" and name in ("positive", "negative")
            assert (got - want).abs().max() <= (0.03 if empty else 0.01) * want.max(), (n, grounded)


LEVELS = ["uniform", "normal", "gelu", "relu", "steps", "table"]
KNOTS = torch.tensor([[-1.0, -0.2, 0.1, 0.9, 1.0, 3.0]])


def level_of(word: str) -> levels.Level:
    return levels.table(KNOTS) if word == "table" else levels.parse(word)


def clear_of_kinks(z: Tensor, word: str, rule: Rule, margin: float = 1e-4) -> Tensor:
    """Which values are two bins, and a margin of rank, clear of where the level's slope jumps."""
    kinks = {"relu": [0.5], "table": [k / 5 for k in range(6)]}.get(word, [])
    width = eager.observe(z, rule).grid.width(torch.float64)
    exact = reference.observe(z)
    flat = z.flatten().double()[None]
    low, high = (reference.rank(flat + s * width, exact, rule)[0] for s in (-2.0, 2.0))
    clear = torch.ones_like(low, dtype=torch.bool)
    for kink in kinks:
        clear &= (low > kink + margin) | (high < kink - margin)
    return clear[:, None, None]


def in_own_context(z: Tensor, rule: Rule, level: levels.Level, engine: str) -> Tensor:
    if engine == "fused":
        return block(z, fuse(rule, level), (None,) * 6)
    seen = eager.observe(z, rule, engine=engine)
    return eager.apply(z, seen, level, rule, own=True, engine=engine)


def gradients(z: Tensor, grad: Tensor, rule: Rule, level: levels.Level, engine: str):
    mine = z.clone().requires_grad_()
    output = in_own_context(mine, rule, level, engine)
    theirs = z.double().requires_grad_()
    exact = reference.apply(theirs, reference.observe(theirs), level, rule)
    (got,) = torch.autograd.grad(output, mine, grad)
    (want,) = torch.autograd.grad(exact, theirs, grad.double())
    return got, want


@pytest.mark.own_seed  # most draws are within the bound
@pytest.mark.parametrize(("name", "bandwidth"), CASES)
@pytest.mark.parametrize("engine", [*PASSES, "fused"])
def test_gradients_within_one_percent(name, bandwidth, engine):
    z = sample(name, 400)[:, None, None]
    noise = torch.randn(z.shape)
    seen = []
    for word in LEVELS:
        for grounded in RULES:
            for smooth in (True, False):
                # Where terms cancel to nothing there is no norm left to compare with.
                floor = 1e-4 * float(noise.norm())
                for gradient in ("density", "full"):
                    rule = Rule(grounded, smooth, parse(bandwidth), gradient)
                    if engine == "fused" and fuse(rule, level_of(word)) is None:
                        continue
                    margin = SMOOTH_BOUND if engine == "fused" else 1e-4
                    clear = clear_of_kinks(z, word, rule, margin)
                    got, want = gradients(z, noise * clear, rule, level_of(word), engine)
                    error = float((got - want).norm() / want.norm().clamp_min(floor))
                    # The fused engine is as good as the density term, of which the rest is taken.
                    part = 0.5 if engine == "fused" else 0.1
                    floor = max(floor, part * float(want.norm()))
                    seen.append((error, word, str(grounded), smooth, gradient))
    assert max(seen)[0] <= 0.01, sorted(seen)[-4:]


@pytest.mark.parametrize(("name", "bandwidth"), CASES)
def test_fused_smooth_rank_of_a_batch(name, bandwidth):
    for n in (256, 1500):
        z = sample(name, n)[:, None, None]
        for grounded in RULES:
            rule = Rule(grounded=grounded, bandwidth=parse(bandwidth))
            got = in_own_context(z, rule, levels.parse("uniform"), "fused").flatten()
            want = reference.rank(z.flatten().double()[None], reference.observe(z), rule)[0]
            assert (got - want).abs().max() <= SMOOTH_BOUND, (n, grounded)


@pytest.mark.parametrize("name", EVERY)
def test_fused_steps_of_a_batch(name):
    for n in (256, 1500):
        z = sample(name, n)[:, None, None]
        for grounded in RULES:
            rule = Rule(grounded=grounded, smooth=False)
            for level in (levels.steps(100), levels.steps(7), levels.steps(255)):
                got = in_own_context(z, rule, level, "fused")
                want = reference.apply(z.double(), reference.observe(z), level, rule)
                assert (got - want).abs().max() < 1e-6, (n, grounded, level.name)


def test_kinks_touch_few_values():
    z = sample("normal", 400)[:, None, None]
    for word in ("relu", "table"):
        assert clear_of_kinks(z, word, Rule()).float().mean() > 0.6


@pytest.mark.parametrize("name", EVERY)
def test_stored_context_smooth_rank(name):
    for n in (256, 1500):
        z = sample(name, n)
        # As documented: tails as heavy as Cauchy's want more bins than the default.
        context = Context(1, bins=1024 if name == "cauchy" else 512).add(z[:, None])
        q = everywhere(z).float()
        for bandwidth in ("scott", "silverman", "0.2std"):
            for grounded in RULES:
                rule = Rule(grounded=grounded, bandwidth=parse(bandwidth))
                got = context.rank(q.T, grounded=grounded, bandwidth=bandwidth)
                want = reference.rank(q.double(), reference.observe(z[:, None, None]), rule)
                bound = bound_of(rule, z[:, None, None])
                assert (got.flatten() - want[0]).abs().max() <= bound, (n, bandwidth)


@pytest.mark.parametrize("grounded", RULES)
def test_stored_context_step_rank_is_good_to_about_one_bin(grounded):
    z = torch.randn(5000)
    q = everywhere(z).float()
    got = Context(1).add(z[:, None]).rank(q.T, grounded=grounded, smooth=False).flatten()
    rule = Rule(grounded=grounded, smooth=False)
    want = reference.rank(q.double(), reference.observe(z[:, None, None]), rule)[0]
    assert (got - want).abs().max() <= 0.01


@pytest.mark.parametrize("name", ["tied", "coin", "constant"])
def test_stored_context_step_rank_of_ties_is_exact(name):
    z = sample(name, 500)[:, None]
    for grounded in RULES:
        got = Context(1).add(z).rank(z, grounded=grounded, smooth=False)
        want = plain_rank(z[:, 0].numpy(), z[:, 0].numpy(), None, grounded=grounded)
        np.testing.assert_allclose(got[:, 0].numpy(), want, atol=1e-6)


@pytest.mark.parametrize("engine", PASSES)
@pytest.mark.parametrize("level", ["uniform", "gelu"])
@pytest.mark.parametrize("grounded", RULES)
def test_mixed_context(engine, level, grounded):
    context = Context(3).add(torch.randn(600, 3))
    z = torch.randn(64, 3) * torch.tensor([1.0, 2.0, 0.5]) + torch.tensor([0.0, 1.0, -0.5])
    for prior in (4.0, 16.0, 500.0):
        options = {"prior": prior, "levels": level, "grounded": grounded, "bandwidth": "0.2std"}
        got = quantile_activation(z, context=context, engine=engine, **options)
        want = quantile_activation(z.double(), context=context, engine="reference", **options)
        assert (got - want).abs().max() <= (SMOOTH_BOUND if level == "uniform" else 0.02)


@pytest.mark.parametrize("engine", PASSES)
@pytest.mark.parametrize("outlier", [1e4, -1e4, 1e30, -1e30])
def test_sides_of_zero_survive_an_outlier(engine, outlier):
    # In single precision a small negative value disappears beside the offset of a wide grid.
    z = torch.cat([torch.randn(299), torch.tensor([outlier])])[:, None]
    for smooth in (True, False):
        got = quantile_activation(z, smooth=smooth, engine=engine)
        want = quantile_activation(z.double(), smooth=smooth, engine="reference")
        assert (got - want).abs().max() <= SMOOTH_BOUND + (0 if smooth else 1 / 300)


@pytest.mark.parametrize("engine", ["eager", "cpu", "reference"])
def test_identical_calls_are_identical_to_the_bit(engine):
    z = torch.randn(16, 4, 6, 6) * 3
    grad = torch.randn(16, 4, 6, 6)
    for options in ({}, {"levels": "gelu"}, {"smooth": False, "levels": "steps"}):
        results = []
        for _ in range(2):
            mine = z.clone().requires_grad_()
            output = quantile_activation(mine, engine=engine, **options)
            results.append((output, *torch.autograd.grad(output, mine, grad)))
        for first, second in zip(*results, strict=True):
            assert torch.equal(first, second)


@pytest.mark.parametrize("engine", PASSES)
def test_channels_do_not_touch_each_other(engine):
    z, grad = torch.randn(64, 3), torch.randn(64, 3)
    scale = torch.tensor([1.0, 1e12, 1e-12])
    together = z.clone().requires_grad_()
    output = quantile_activation(together, engine=engine)
    (got,) = torch.autograd.grad(output, together, grad * scale)
    for c in range(3):
        alone = z[:, c : c + 1].clone().requires_grad_()
        single = quantile_activation(alone, engine=engine)
        (want,) = torch.autograd.grad(single, alone, grad[:, c : c + 1] * scale[c])
        assert torch.equal(single[:, 0], output[:, c])
        assert (got[:, c] - want[:, 0]).norm() <= 1e-5 * want.norm()


@pytest.mark.parametrize("engine", PASSES)
def test_a_bad_gradient_stays_in_its_channel(engine):
    z, grad = torch.randn(64, 2), torch.randn(64, 2)
    clean = z.clone().requires_grad_()
    (want,) = torch.autograd.grad(quantile_activation(clean, engine=engine), clean, grad)
    for value in (math.nan, math.inf):
        bad = grad.clone()
        bad[3, 1] = value
        mine = z.clone().requires_grad_()
        (got,) = torch.autograd.grad(quantile_activation(mine, engine=engine), mine, bad)
        assert (got[:, 0] - want[:, 0]).norm() <= 1e-5 * want[:, 0].norm()
        assert not torch.isfinite(got[3, 1])


@pytest.mark.parametrize("engine", ["eager", "cpu", "reference"])
@pytest.mark.parametrize("factor", [1e-30, 1e-20, 1e-6, 1e6, 1e20, 1e30])
@pytest.mark.parametrize("smooth", [True, False])
def test_ranks_do_not_depend_on_the_unit(engine, factor, smooth):
    z = (256 * torch.randn(300, 2)).round() / 256  # none so near that a unit's rounding ties them
    for grounded in RULES:
        want = quantile_activation(z, grounded=grounded, smooth=smooth, engine=engine)
        got = quantile_activation(z * factor, grounded=grounded, smooth=smooth, engine=engine)
        assert (got - want).abs().max() <= (1e-3 if smooth else 0)


@pytest.mark.parametrize("engine", ["eager", "cpu", "reference"])
@pytest.mark.parametrize("factor", [1e-100, 1e-60, 1e60, 1e100])
def test_double_precision_reaches_further(engine, factor):
    z = torch.randn(300, 2, dtype=torch.float64)
    want = quantile_activation(z, engine=engine)
    assert (quantile_activation(z * factor, engine=engine) - want).abs().max() <= 1e-3
