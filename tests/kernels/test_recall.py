"""A stored context read in `eval()`: by cubics near its table, in any precision and order."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

pytest.importorskip("numba")
import qact
from qact import NormedQAct, QAct
from qact._compat import replace
from qact.kernels import pieces, reference
from qact.kernels import stored as plain
from qact.kernels.cpu import lookup as compiled
from qact.kernels.cpu import pool
from qact.kernels.cpu import record as records
from qact.kernels.cpu.frame import FIRST
from qact.kernels.cpu.lookup import DTYPES, lookup
from qact.kernels.stored import Stored, store
from qact.rank import levels
from qact.rank.bandwidth import parse
from qact.rank.layout import Channels
from qact.rank.rule import Rule

N = 3000
CONTEXTS = {
    "normal": lambda g: torch.randn(N, generator=g),
    "far": lambda g: torch.randn(N, generator=g) * 0.01 + 5,
    "bimodal": lambda g: torch.cat([torch.randn(N, generator=g) - 3, torch.rand(N) + 2]),
    "skewed": lambda g: torch.randn(N, generator=g).exp(),
    # Every N-th part of the law has one value: no draw decides how far the outermost are.
    "cauchy": lambda g: torch.tan(torch.pi * ((torch.randperm(N, generator=g) + 0.5) / N - 0.5)),
    "huge": lambda g: torch.randn(N, generator=g) * 1e30,
    "tiny": lambda g: torch.randn(N, generator=g) * 1e-30,
    "tied": lambda g: torch.randint(-2, 3, (N,), generator=g).float(),
    "constant": lambda g: torch.full((N,), -1.5),
    "one": lambda g: torch.full((1,), 0.7),
}
RULES = [Rule(grounded=g, bandwidth=parse("0.2std")) for g in (False, "sides", "continuous")]


def context(name: str, **options) -> qact.Context:
    generator = torch.Generator().manual_seed(len(name))
    return qact.Context(1, **options).add(CONTEXTS[name](generator)[:, None])


def everywhere(c: qact.Context) -> Tensor:
    """Values in the context, around it and far beyond it, (many, 1, 1)."""
    q = c.quantile(torch.linspace(0, 1, 700))[0].float()
    near = q + 0.3 * c.std * torch.linspace(-3, 3, 700)
    far = q[[0, -1]] * 1.5 + c.std * torch.tensor([-20.0, 20.0])
    return torch.cat([q, near, far, torch.zeros(1), torch.tensor([-1e38, 1e38])])[:, None, None]


@pytest.mark.parametrize("name", CONTEXTS)
def test_cubics_lines_and_the_exact_table_are_near_each_other_everywhere(name):
    c = context(name)
    z = everywhere(c)
    for rule in RULES:
        for word, weight, bias in (
            ("uniform", 1, 0),
            ("relu", 1, 0),
            ("relu", -0.7, 0.4),
            ("relu", 2, 1),
            ("relu", 1, 40),
            ("normal", 0, 1),
            ("gelu", 1, 0),
        ):
            level = levels.parse(word).affine(torch.tensor([weight]), torch.tensor([bias]))
            stored = store(c.histogram, level, rule)
            got, case = lookup(z, stored), (rule.grounded, word, weight)
            rounding = 1e-6 * float(torch.maximum(stored.table, stored.least[:, None]).abs().max())
            slack = float(stored.slack) + rounding
            assert (got - plain.lookup(z, stored)).abs().max() <= slack, case
            # Nothing near it is read where lines were asked for.
            exact = store(c.histogram, level, rule, exact=True)
            want = plain.lookup(z, exact)
            assert (lookup(z, exact) - want).abs().max() <= 10 * rounding, case
            # Compared at 17 places of a piece; between them it may err a little more.
            bound = 1.2 * pieces.ERROR * float(exact.range) + rounding
            assert (got - want).abs().max() <= bound, case


@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize("grounded", [False, "sides", "continuous"])
def test_ranks_of_a_frozen_layer_are_those_of_the_reference(name, grounded):
    g = torch.Generator().manual_seed(len(name))
    values = CONTEXTS[name](g)[:, None]
    bins = 1024 if name == "cauchy" else 512  # as documented
    layer = QAct(1, levels="uniform", grounded=grounded, bins=bins).eval()
    layer.context.add(values)
    z = everywhere(layer.context)[:, 0].clamp(-1e35, 1e35)
    if name == "constant":  # its kernel is as wide as the grid says: it, and what is far
        z = torch.tensor([[-1.5], [-2.5], [1.0]])
    with torch.no_grad():
        got = layer(z)[:, 0]
    seen = reference.observe(values[:, :, None])
    want = reference.rank(z.double().T, seen, layer.rule)[0]
    bound = 1 / 400
    if grounded == "continuous":  # a side's rank is divided by its mass
        plain_rule = replace(layer.rule, grounded=False)
        below = float(reference.rank(torch.zeros(1, 1), seen, plain_rule))
        bound *= max(1.0, 0.25 / max(min(below, 1 - below), 1e-9))
    assert (got - want).abs().max() <= bound


def test_usual_contexts_are_cubics_and_odd_ones_keep_their_tables():
    rule = RULES[2]
    for name in ("normal", "bimodal", "far"):
        assert cubic(store(context(name).histogram, levels.parse("gelu"), rule)), name
    narrow = Rule(bandwidth=parse(0.01))  # more turns than there are pieces
    assert not cubic(store(context("bimodal").histogram, levels.parse("gelu"), narrow))
    assert not cubic(store(context("normal").histogram, levels.parse("relu"), rule, exact=True))
    assert not cubic(store(context("normal").histogram, levels.parse("steps"), rule))


def cubic(stored: Stored) -> bool:
    """Whether the first channel's cubics are read."""
    return float(records._placed(stored)[1][0, 2]) != torch.inf


@pytest.mark.parametrize("scale", [2.0, -2.0, 0.0])
@pytest.mark.parametrize("word", ["relu", "gelu"])
def test_an_affine_map_behind_is_that_of_the_output(word, scale):
    c = context("bimodal")
    stored = store(c.histogram, levels.parse(word), RULES[2])
    z, factor, shift = everywhere(c), torch.tensor([scale]), torch.tensor([0.3])
    after = stored.behind(factor.double(), shift.double())
    assert cubic(after) == (scale >= 0 or word == "gelu")  # else the floor becomes a ceiling
    want = lookup(z, stored) * scale + 0.3
    # Where the table takes the floor in, its kink is smeared over a bin.
    near = 1e-6 if cubic(after) else 2 * float(stored.table.diff().abs().max())
    assert (lookup(z, after) - want).abs().max() <= near


def test_without_the_instruction_lines_are_read(monkeypatch):
    stored, z = trained(5), torch.randn(50, 5, 3) * 2
    curved = lookup(z, stored)
    stored.made.clear()
    with monkeypatch.context() as patch:
        patch.setattr(records, "PERMUTES", False)
        lines = lookup(z, stored)
    torch.testing.assert_close(lines, plain.lookup(z, stored), rtol=0, atol=1e-6)
    assert 0 < float((lines - curved).abs().max()) <= float(stored.slack.max()) + 1e-6


@pytest.mark.parametrize(("word", "scale"), [("relu", 1.0), ("uniform", 1.0), ("uniform", -1.0)])
@pytest.mark.parametrize("bins", [8, 128, 512])
def test_beyond_the_cubics_are_the_lines_of_the_table(word, scale, bins):
    """Short tails lie in a window of two registers; of long ones the rest is read one by one."""
    lengths = []
    for name in ("normal", "bimodal", "skewed"):
        c = context(name, bins=bins)
        level = levels.parse(word).affine(torch.tensor([scale]), torch.tensor([0.1]))
        stored = store(c.histogram, level, RULES[2])
        place = torch.arange(-3, stored.table.shape[1] + 3, 0.37, dtype=torch.float64)
        place = place[torch.randperm(len(place))]  # both tails and the bulk side by side
        z = ((place + stored.offset) / stored.inverse.double()).float()[:, None, None]
        record = records._records(stored)[0]
        t = (z[:, 0, 0] - record[records.CENTRE]) * record[records.RATE]
        far = (t < max(record[records.FAR], records.BEGIN)) | (t > records.END)
        got, want = lookup(z, stored), plain.lookup(z.double(), stored)
        near = 2e-6 * float(stored.table.abs().max())
        assert ((got - want).abs()[far].max()) <= near, name
        begin, rise, rest = (record[k] for k in (records.BEHIND, records.RISE, records.REST))
        lengths.append(float(min(rest - begin, begin + records.WINDOW - rise)))  # up, or down
    # Fine bins have long tails, coarse ones have short ones.
    assert max(lengths) > records.WINDOW if bins > 128 else min(lengths) < records.WINDOW


# The same map with a gradient


@pytest.mark.parametrize("options", [{}, {"levels": "gelu"}, {"levels": "uniform"}])
@pytest.mark.parametrize("engine", [None, "eager"])
def test_a_gradient_pass_reads_the_same_numbers(options, engine):
    layer = QAct(3, engine=engine, **options)
    layer(torch.randn(300, 3) * 2 + 0.5)
    layer.eval()
    for dtype in (torch.float32, torch.bfloat16):
        x = (torch.randn(40, 3, 4) * 3).to(dtype).requires_grad_()
        with torch.no_grad():
            want = layer(x)
        got = layer(x)
        assert got.grad_fn is not None
        assert torch.equal(got, want)


@pytest.mark.parametrize("make", [QAct, NormedQAct])
def test_its_gradient_is_the_slope_of_what_it_returns(make):
    layer = make(2, levels="gelu")
    for _ in range(3):
        layer(torch.randn(500, 2) * 2 + 0.5)
    layer.eval()
    step = 0.05  # some bins: a mean slope, of cubics here and of lines there
    x = torch.linspace(-4, 4, 81)[:, None].repeat(1, 2).requires_grad_()
    layer(x).sum().backward()
    with torch.no_grad():
        slope = (layer(x + step) - layer(x - step)) / (2 * step)
        mean = torch.stack([gradient(layer, x + d) for d in torch.linspace(-step, step, 41)])
    error = (mean.mean(0) - slope).abs().max()
    # Both ends of a step may be off by `ERROR` of the range.
    assert error <= 2 * pieces.ERROR * float(layer.stored().range.max()) / (2 * step) + 2e-3
    assert slope.abs().max() > 0.5


def gradient(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(layer(x).sum(), x)[0]


def test_a_gradient_pass_in_float64_reads_lines_between_the_same_numbers():
    layer = QAct(2, levels="gelu", dtype=torch.float64)
    layer(torch.randn(300, 2, dtype=torch.float64))
    layer.eval()
    x = torch.randn(50, 2, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        want = layer(x)
    near = 1e-6 + float(layer.stored().slack.max())
    torch.testing.assert_close(layer(x), want, rtol=0, atol=near)
    # A density is continuous, so its slope at an edge is neither of the two lines'.
    assert torch.autograd.gradcheck(layer, (x,), atol=0.03)


def test_below_the_floor_is_zero_and_a_rising_map_rises():
    layer = NormedQAct(6)
    for _ in range(5):
        layer(torch.randn(512, 6) * 3 + 1)
    layer.eval()
    x = torch.linspace(-12, 12, 4001)[:, None].expand(-1, 6)
    with torch.no_grad():
        y = layer(x)
        want = plain.lookup(x[:, :, None], layer.stored())[:, :, 0]
    assert float(((y == 0) != (want == 0)).float().mean()) < 2e-4
    assert float(y[want == 0].max()) < 2e-3
    assert float(y.diff(dim=0).min()) >= -1e-5


def trained(channels: int, **options) -> Stored:
    layer = NormedQAct(channels, **options)
    for _ in range(3):
        layer(torch.randn(300, channels) * 2 + 0.5)
    return layer.eval().stored()


@pytest.mark.parametrize("step", [False, True])
def test_any_shape_is_read_value_by_value(step):
    options = {"levels": "steps", "smooth": False, "after": True} if step else {}
    for channels in (1, 5, 16, 33):
        stored = trained(channels, **options)
        for outer, inner in (
            (1, 1),
            (3, 5),
            (16, 1),
            (17, 3),
            (19, 16),
            (2, 37),
            (40, 1),
            (1, 300),
        ):
            z = torch.randn(outer, channels, inner) * 3
            z[0, 0, 0], z[-1, -1, -1] = torch.nan, torch.inf
            got = lookup(z, stored)
            # Each channel by itself, as one long run.
            rows = z.transpose(0, 1).reshape(1, channels, -1)
            want = lookup(torch.cat([rows, rows.new_zeros(1, channels, 16)], 2), stored)
            want = want[:, :, : rows.shape[2]].reshape(channels, outer, inner).transpose(0, 1)
            torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)
            want, bound = plain.lookup(z, stored), float(stored.slack.max()) + 1e-6
            torch.testing.assert_close(got, want, rtol=0, atol=bound, equal_nan=True)


@pytest.mark.parametrize("step", [False, True])
@pytest.mark.parametrize("dtype", sorted(DTYPES - {torch.float32}, key=str))
def test_every_number_of_half_precision(dtype, step):
    stored = trained(16, **({"levels": "steps", "smooth": False} if step else {}))
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    for shape in ((1, 16, 4096), (4096, 16, 1), (2048, 16, 2)):
        z = every.reshape(shape)
        got = lookup(z, stored)
        want = lookup(z.float(), stored).to(dtype)
        assert got.dtype == dtype
        torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("make", [QAct, NormedQAct, QAct.paper])
def test_layouts_and_precisions_of_a_frozen_layer(make):
    layer = make(20)
    for _ in range(3):
        layer(torch.randn(64, 20, 3, 4))
    layer.eval()
    x = torch.randn(6, 20, 5, 4)
    tokens = copy.deepcopy(layer)
    tokens.dim = -1
    for part in tokens.modules():
        if hasattr(part, "dim"):
            part.dim = -1
    with torch.no_grad():
        want = layer(x)
        for other in (
            x.to(memory_format=torch.channels_last),
            x.transpose(2, 3).contiguous().transpose(2, 3),
            torch.cat([x, x], 3)[..., ::2][..., [0, 2, 1, 3]][..., [0, 2, 1, 3]],
            x.repeat_interleave(2, 3)[..., ::2],
            torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
        ):
            if torch.equal(other, x):
                assert torch.equal(layer(other), want)
        last = layer(x.to(memory_format=torch.channels_last))
        assert last.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(tokens(x.movedim(1, -1).contiguous()).movedim(-1, 1), want)
        wide = layer(x.double())
        for dtype in (torch.bfloat16, torch.float16):
            low = x.to(dtype)
            assert torch.equal(layer(low), layer(low.float()).to(dtype))
    if make is QAct:  # lines in float64, with a gradient or without one
        torch.testing.assert_close(wide, layer(x.double()).detach(), rtol=0, atol=2e-6)
    if make is QAct.paper:
        assert torch.equal(wide, want.double())
    span = (want.amax((0, 2, 3)) - want.amin((0, 2, 3))).amax().item()
    torch.testing.assert_close(wide, want.double(), rtol=0, atol=2 * pieces.LINES * span)


@pytest.mark.parametrize("levels", ["relu", "normal", "uniform"])
def test_the_map_of_a_context_never_falls(levels):
    """Of skewed, few and bimodal values: a cubic by itself would, by 1e-4 of the range."""
    torch.manual_seed(0)
    rows = [torch.randn(400, 8).exp(), torch.randn(60, 8), torch.randn(400, 8).exp() - 1]
    for z in rows:
        layer = qact.QAct(8, levels=levels, grounded="continuous")
        layer(z)
        places = torch.linspace(z.min() - 1, z.max() + 1, 20_001)[:, None].expand(-1, 8)
        with torch.no_grad():
            y = layer.eval()(places.contiguous())
        assert layer.stored().pieces.good.any()
        falls = (y.cummax(0).values - y).amax(0) / (y.amax(0) - y.amin(0))
        assert falls.max() < 1e-6


def in_threads(monkeypatch, layer: nn.Module, x: Tensor) -> list[Tensor]:
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(layer(x))
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(pool, "_TEAM", None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    return [*found, layer(x)]


def test_threads_do_not_change_a_bit(monkeypatch):
    layer = NormedQAct(70)
    layer(torch.randn(100, 70))
    layer.eval()
    with torch.no_grad():
        for shape in ((100, 70), (8, 70, 3, 3), (4, 70, 8, 8)):
            with monkeypatch.context() as patch:
                first, *others = in_threads(patch, layer, torch.randn(shape))
            assert all(torch.equal(first, other) for other in others)


# What is kept beside a layer, and when it may answer


def frozen(make=NormedQAct, **options) -> nn.Module:
    layer = make(4, **options)
    for _ in range(2):
        layer(torch.randn(64, 4))
    return layer.eval()


@pytest.fixture
def way(monkeypatch):
    """Whether a layer went its own way, in which it asks what its input is, in the last call."""
    asked = []
    own = Channels.of
    monkeypatch.setattr(Channels, "of", lambda *given: asked.append(1) or own(*given))

    def own_way(layer: nn.Module, x: Tensor) -> bool:
        asked.clear()
        with torch.no_grad():
            layer(x)
        return bool(asked)

    return own_way


@pytest.mark.parametrize("make", [QAct, NormedQAct, QAct.paper])
def test_a_table_that_is_kept_answers_at_once(make, way):
    layer, x = frozen(make), torch.randn(8, 4)
    assert way(layer, x)  # it is made
    assert not way(layer, x)
    assert not way(layer, x.bfloat16())
    assert way(layer, x.double())
    quantile = getattr(layer, "quantile", layer)
    with qact.adapting(layer, context="batch"):
        assert way(layer, x)
    assert not way(layer, x)
    quantile.engine = "eager"
    assert way(layer, x)
    quantile.engine = None
    layer.train()
    assert way(layer, x)
    layer.eval()
    assert way(layer, x)  # the context has followed
    assert not way(layer, x)
    layer(x)  # a gradient is kept
    assert layer(x).requires_grad or make is QAct.paper


def test_parts_that_are_touched_are_called(way):
    layer, x = frozen(), torch.randn(8, 4)
    way(layer, x)
    for part in (layer.norm_in, layer.quantile):
        seen = []
        hook = part.register_forward_hook(lambda *_: seen.append(1))  # noqa: B023
        assert way(layer, x)
        assert seen
        hook.remove()
        assert not way(layer, x)
    layer.norm_in.train()
    assert way(layer, x)
    layer.norm_in.eval()
    way(layer, x)
    layer.norm_in.forward = lambda z: z + 1
    with torch.no_grad():
        torch.testing.assert_close(layer(x), layer.quantile(x + 1))


def test_every_change_makes_a_new_table():
    layer, x = frozen(), torch.randn(30, 4)
    other = frozen()

    def changed(act) -> bool:
        with torch.no_grad():
            before = layer(x)
            act()
            after = layer(x)
            fresh = copy.deepcopy(layer)(x)
        assert torch.equal(after, fresh)
        return not torch.equal(before, after)

    def replace_norm() -> None:
        layer.norm_in = copy.deepcopy(layer.norm_in)
        layer.norm_in.running_mean += 0.5

    def swap_data() -> None:
        layer.quantile.bias.data = torch.full((4,), 0.3)

    def cast() -> None:
        layer.quantile.weight.mul_(1.001)
        layer.half().float()

    def replace_rule() -> None:
        layer.quantile.rule = Rule(False, bandwidth=parse(0.9))

    def replace_eps() -> None:
        layer.norm_in.eps = 0.5

    for act in (
        lambda: layer.quantile.weight.mul_(1.5),
        lambda: layer.norm_in.running_var.mul_(2),
        lambda: layer.quantile.context.add(torch.randn(500, 4) * 3),
        lambda: layer.load_state_dict(other.state_dict()),
        replace_norm,
        swap_data,
        cast,
        replace_rule,
        replace_eps,
    ):
        assert changed(act)
    layer.quantile.context.reset_parameters()
    with torch.no_grad(), pytest.raises(RuntimeError, match="seen no data"):
        layer(x)


@pytest.mark.parametrize("make", [QAct, NormedQAct])
def test_a_weight_that_is_no_parameter_is_read_at_every_call(make):
    layer, x = frozen(make), torch.randn(30, 4)
    quantile = getattr(layer, "quantile", layer)
    outputs = []
    with torch.no_grad():
        layer(x)
        del quantile.weight  # a hypernetwork puts its own there
        for scale in (1.0, 2.0):
            quantile.weight = torch.full((4,), scale)
            outputs.append(layer(x))
        quantile.weight.mul_(2)
        outputs.append(layer(x))
    for k in (1, 2):
        torch.testing.assert_close(outputs[k], outputs[0] * 2**k, rtol=1e-5, atol=1e-5)


def test_memory_that_a_table_was_made_of_is_not_given_out_again():
    layer = frozen(QAct)
    with torch.no_grad():
        layer(torch.randn(30, 4))
    address = layer.weight.data_ptr()
    layer.weight = nn.Parameter(torch.ones(4))
    assert address in [memory.data_ptr() for memory in layer._stored._memory]


@pytest.mark.parametrize("make", [QAct, NormedQAct, QAct.paper])
def test_a_traced_graph_computes_what_the_layer_does(make):
    layer, x, other = frozen(make), torch.randn(30, 4), torch.randn(30, 4)
    with torch.no_grad():
        layer(x)
        graph = make_fx(layer)(x)
        slack = 1e-3 * layer(other).abs().max().item()  # it reads lines
        torch.testing.assert_close(graph(other), layer(other), rtol=0, atol=slack)


@pytest.mark.parametrize("make", [QAct, NormedQAct])
def test_tangents_pass_where_no_gradient_is_asked_for(make):
    layer = frozen(make, levels="normal")
    x, step = torch.linspace(-0.5, 0.5, 31)[:, None].repeat(1, 4), 0.02
    with torch.no_grad():
        slope = (layer(x + step) - layer(x - step)) / (2 * step)
        with forward_ad.dual_level():
            dual = layer(forward_ad.make_dual(x, torch.ones_like(x)))
            output, tangent = forward_ad.unpack_dual(dual)
            torch.testing.assert_close(output, layer(x), rtol=0, atol=2e-3)
            assert tangent is not None
            # Of lines over bins; the difference is that of cubics over twice the step.
            torch.testing.assert_close(tangent[2:-2], slope[2:-2], rtol=0.25, atol=0.1)


def test_threads_that_come_first_at_once_read_one_record():
    """Each prepared its own, and the last one freed what another was reading."""
    layer, x = frozen(QAct), torch.randn(16, 4, 64)
    with torch.no_grad():
        want = layer(x)
    stored = layer.stored()
    start = threading.Barrier(2)
    prepared = records.prepared

    def together(given: Stored):  # type: ignore[no-untyped-def]
        start.wait(900)  # both have found nothing
        return prepared(given)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool_:
        patch.setattr(compiled, "prepared", together)
        stored.made.clear()
        read = []
        packed = compiled.run
        patch.setattr(
            compiled, "run", lambda k, frame, *n: read.append(frame[:]) or packed(k, frame, *n)
        )
        outputs = list(pool_.map(lambda _: lookup(x, stored), range(2)))
    assert all(torch.equal(output, want) for output in outputs)
    place = FIRST + 4 * 2
    assert read[0][place] == read[1][place] == stored.made["cpu"][1][0].data_ptr()


def test_refusals_are_those_of_the_layer():
    layer, x = frozen(), torch.randn(8, 4)
    with torch.no_grad():
        layer(x)
        with pytest.raises(ValueError, match="3 channels"):
            layer(torch.randn(8, 3))
        with pytest.raises(TypeError, match="int64"):
            layer(torch.ones(8, 4, dtype=torch.int64))
        with pytest.raises(ValueError, match="out of range"):
            layer(torch.tensor(1.0))
        with pytest.raises(TypeError, match="nested tensor"):
            layer(torch.nested.nested_tensor([torch.randn(2, 4)]))
        assert layer(torch.empty(0, 4)).shape == (0, 4)
        assert layer.quantile(torch.empty(0, 4)).shape == (0, 4)


def test_a_state_and_copies_read_the_same_bits():
    layer, x = frozen(), torch.randn(50, 4)
    with torch.no_grad():
        want = layer(x)
        file = io.BytesIO()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        resumed = NormedQAct(4).eval()
        resumed.load_state_dict(torch.load(file, weights_only=True))
        for twin in (resumed, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert torch.equal(twin(x), want)
            assert torch.equal(twin(x), want)
            twin.quantile.weight.mul_(2)
            assert not torch.equal(twin(x), want)
        assert torch.equal(layer(x), want)
        with torch.inference_mode():
            assert torch.equal(layer(x), want)
            born = NormedQAct(4)
            born.load_state_dict(layer.state_dict())
            assert torch.equal(born.eval()(x), want)
            born.quantile.weight.mul_(2)
            assert not torch.equal(born(x), want)


ELSEWHERE = """
import sys, torch, qact
layer = qact.NormedQAct(20)
layer.load_state_dict(torch.load(sys.argv[1], weights_only=True))
layer.eval()
with torch.no_grad():
    outputs = [layer(x) for x in torch.load(sys.argv[2], weights_only=True)]
torch.save(outputs, sys.argv[3])
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="names processors of x86-64")
@pytest.mark.parametrize("kind", ["haswell", "x86-64"])
def test_processors_with_narrower_vectors(kind, tmp_path):
    layer = NormedQAct(20)
    for _ in range(3):
        layer(torch.randn(200, 20))
    layer.eval()
    inputs = [torch.randn(40, 20), torch.randn(3, 20, 17)]
    with torch.no_grad():
        want = [layer(x) for x in inputs]
    torch.save(layer.state_dict(), tmp_path / "state")
    torch.save(inputs, tmp_path / "inputs")
    features = {"haswell": "+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+popcnt,+sse4.2", "x86-64": ""}
    named = {"NUMBA_CPU_NAME": kind, "NUMBA_CPU_FEATURES": features[kind]}
    settings = {**os.environ, **named, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    files = [str(tmp_path / name) for name in ("state", "inputs", "outputs")]
    subprocess.run([sys.executable, "-c", ELSEWHERE, *files], env=settings, check=True, timeout=900)
    for got, mine in zip(torch.load(files[2], weights_only=True), want, strict=True):
        # Lines where a processor cannot index one register by another.
        bound = {"haswell": 1e-6, "x86-64": float(layer.stored().slack.max()) + 1e-6}[kind]
        torch.testing.assert_close(got, mine, rtol=0, atol=bound)
