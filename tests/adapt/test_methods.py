"""What every method owes: the model stays as it was, resets are exact, no graph is kept."""

from __future__ import annotations

import copy
import gc
import math
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

import qact
from qact import adapt
from qact.adapt import adapting

NAMES = adapt.methods()
# AQR records norm layers; a network whose contexts are its own needs no other.
PAIRS = [
    (name, kind)
    for name in NAMES
    for kind in ("batch", "group", "qact", "normed")
    if name != "aqr" or kind in ("batch", "group")
]


def network(kind: str) -> nn.Sequential:
    """A small classifier that has seen a few batches, (N, 1, 8, 8) to 3 logits."""
    torch.manual_seed(1)
    middle = {
        "batch": (nn.BatchNorm2d(4), nn.ReLU()),
        "group": (nn.GroupNorm(2, 4), nn.ReLU()),
        "qact": (qact.QAct(4),),
        "normed": (qact.NormedQAct(4),),
    }[kind]
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), *middle, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )
    for _ in range(5):
        model(torch.randn(32, 1, 8, 8))
    return model.eval()


MODELS = {kind: network(kind) for kind in ("batch", "group", "qact", "normed")}
X = 2 * torch.randn(9, 1, 8, 8, generator=torch.Generator().manual_seed(3)) + 1
QUICK = {"cotta": {"views": 2}, "aqr": {"source": X}}


def create(name: str, kind: str = "batch", **options: object) -> adapt.Method:
    return adapt.create(name, MODELS[kind], **QUICK.get(name, {}), **options)


def tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    every = (*module.named_parameters(), *module.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in every}


def count_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_any_model_any_batch_size_and_the_model_stays_as_it_was(name, kind):
    before = tensors(MODELS[kind])
    method = create(name, kind)
    for size in (9, 1, 2):
        logits = method(X[:size])
        assert logits.shape == (size, 3)
        assert torch.isfinite(logits).all()
        assert not logits.requires_grad
    assert same(before, tensors(MODELS[kind]))
    assert not MODELS[kind].training
    assert all(p.requires_grad and p.grad is None for p in MODELS[kind].parameters())
    hooks = [h for m in method.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks)]
    assert hooks == []


@pytest.mark.parametrize(("name", "kind"), [p for p in PAIRS if p[1] in ("batch", "qact")])
def test_reset_is_exact_and_a_second_run_is_the_first(name, kind):
    options = {"every": 4} if name in ("rotta", "note", "safe") else {}
    method = create(name, kind, **options)
    before = tensors(method.model)
    first = [method(X), method(X.flip(0))]
    method.reset()
    assert same(before, tensors(method.model))
    again = [method(X), method(X.flip(0))]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.own_seed  # in which a drift is proven
@pytest.mark.parametrize("name", ["tent", "safe", "rotta"])
def test_episodic_forgets_continual_does_not(name):
    options = {"tent": {"lr": 0.1}, "safe": {"every": 4, "caution": 1.0}, "rotta": {"every": 4}}[
        name
    ]
    moved = []
    for seed in range(4, 9):  # `safe` wants a drift to be proven, and one stream may not prove it
        other = 2 * torch.randn(9, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) + 1
        episodic, continual = create(name, episodic=True, **options), create(name, **options)
        same_again = []
        for method in (episodic, continual):
            first = method(X)
            for _ in range(6):
                method(other)
            same_again.append(torch.equal(first, method(X)))
        assert same_again[0]
        moved.append(not same_again[1])
    assert sum(moved) >= 3 if name == "safe" else all(moved)
    assert (episodic.mode, continual.mode) == ("episodic", "continual")


def test_zero_learning_rate_is_the_batch():
    for kind in MODELS:
        still = create("tent", kind, lr=0.0)
        for _ in range(3):
            got = still(X)
        torch.testing.assert_close(got, create("batch", kind)(X), atol=1e-5, rtol=1e-5)


def test_a_prior_runs_from_the_batch_to_the_source():
    for kind in MODELS:
        assert torch.equal(create("prior", kind, N=math.inf)(X), create("source", kind)(X))
        assert torch.equal(create("prior", kind, N=0)(X), create("batch", kind)(X))
        assert torch.equal(create("alpha_bn", kind, alpha=0)(X), create("source", kind)(X))
        assert torch.equal(create("alpha_bn", kind, alpha=1)(X), create("batch", kind)(X))
        with adapting(MODELS[kind], "mixed", prior=9.0):
            want = MODELS[kind](X)
        for twin in (create("prior", kind, N=9), create("alpha_bn", kind, alpha=0.5)):
            torch.testing.assert_close(twin(X), want)


def test_a_single_sample_with_a_prior_is_finite():
    for kind in MODELS:
        for value in (0.0, 1e4):
            one = torch.full((1, 1, 8, 8), value)
            assert torch.isfinite(create("prior", kind)(one)).all()


def test_ranks_undo_what_rises():
    source = create("source")
    aqr = create("aqr")
    torch.testing.assert_close(aqr(X), source(X), atol=0.02, rtol=0)
    assert (
        (aqr(3 * X + 1) - source(X)).abs().max() < 0.1 < (source(3 * X + 1) - source(X)).abs().max()
    )
    held = create("aqr", prior=1e6)  # as many samples as the batch hardly matters
    torch.testing.assert_close(held(X), source(X), atol=0.02, rtol=0)
    model = qact.record(copy.deepcopy(MODELS["batch"]), [X])
    assert torch.equal(adapt.create("aqr", model)(X), aqr(X))
    with pytest.raises(RuntimeError, match="no source context is recorded"):
        adapt.create("aqr", MODELS["batch"])


def test_ranks_may_be_mapped_where_there_is_no_norm():
    with pytest.raises(ValueError, match=r"has no BatchNorm.* Choose with where="):
        create("aqr", "qact")
    aqr, source = create("aqr", "qact", where="0"), create("source", "qact")
    torch.testing.assert_close(aqr(X), source(X), atol=0.02, rtol=0)
    assert not torch.allclose(aqr(3 * X + 1), source(3 * X + 1), atol=0.1)


def test_no_affinity_is_the_source():
    lame = create("lame", affinity=lambda z: torch.zeros(len(z), len(z)))
    assert torch.equal(lame(X), create("source")(X))


def fixed_point(logits: list[list[float]], weights: list[list[float]]) -> list[list[float]]:
    """Equation 7 of LAME written down a second time, entry by entry, until nothing moves."""
    p = [[math.exp(v) / sum(map(math.exp, row)) for v in row] for row in logits]
    y, samples, classes = p, range(len(p)), range(len(p[0]))
    for _ in range(100_000):
        pull = [[sum(w[j] * y[j][k] for j in samples) for k in classes] for w in weights]
        raised = [[p[i][k] * math.exp(pull[i][k]) for k in classes] for i in samples]
        new = [[v / sum(row) for v in row] for row in raised]
        if (
            max(abs(a - b) for r, q in zip(new, y, strict=True) for a, b in zip(r, q, strict=True))
            < 1e-15
        ):
            return new
        y = new
    raise AssertionError("the iteration does not converge")


def test_lame_by_hand():
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.5], [0.0, 0.2]])
    found = adapt.lame.agreed(logits, 1 - torch.eye(3)).softmax(1)[:, 0]
    torch.testing.assert_close(found, torch.tensor([0.9496, 0.7128, 0.7548]), atol=5e-5, rtol=0)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 2e-5), (torch.float32, 2e-4)])
@pytest.mark.parametrize("scale", [0.1, 0.5, 2.0])
def test_lame_ends_at_the_fixed_point(dtype, near, scale):
    draw = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(9, 4, generator=draw, dtype=torch.float64)
    weights = scale * torch.rand(9, 9, generator=draw, dtype=torch.float64)
    weights = (weights + weights.T).fill_diagonal_(0)  # symmetric: the bound falls at every step
    wanted = torch.tensor(fixed_point(logits.tolist(), weights.tolist()), dtype=torch.float64)
    found = adapt.lame.agreed(logits.to(dtype), weights.to(dtype)).softmax(1)
    torch.testing.assert_close(found.double(), wanted, atol=near, rtol=0)


def test_affinities_by_hand():
    z = nn.functional.normalize(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))
    apart = torch.cdist(z, z)
    knn, rbf, linear = (adapt.lame.AFFINITIES[name](z, 2) for name in ("knn", "rbf", "linear"))
    near = (apart + 9 * torch.eye(5)).topk(2, largest=False).indices
    assert torch.equal(knn, nn.functional.one_hot(near, 5).sum(1).float())
    width = apart.sort(1).values[:, 1].mean()  # each is the first of its own neighbours
    torch.testing.assert_close(rbf, torch.exp(-(apart**2) / (2 * width**2)))
    torch.testing.assert_close(linear, z @ z.T)
    for name in ("rbf", "linear"):
        lame = create("lame", affinity=name)
        for size in (9, 1):
            assert torch.isfinite(lame(X[:size])).all()


def test_all_supports_are_their_sum():
    every, first = create("t3a", filter_k=-1), create("t3a", filter_k=10_000)
    for x in (X, X.flip(0) + 1):
        torch.testing.assert_close(every(x), first(x))
    assert len(every.supports) == 0


def test_templates_by_hand():
    model = nn.Sequential(nn.Identity(), nn.Linear(2, 2, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(2))
    t3a = adapt.create("t3a", model)
    x = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    # Class 0: its row and (1, 0). Class 1: its row and (0.6, 0.8).
    second = torch.tensor([0.6, 1.8]) / math.hypot(0.6, 1.8)
    torch.testing.assert_close(t3a(x), x @ torch.stack([torch.tensor([1.0, 0.0]), second]).T)


def test_the_surest_supports_stay():
    t3a = create("t3a", filter_k=2)
    for _ in range(5):
        t3a(torch.randn(9, 1, 8, 8))
    assert int(t3a.labels.bincount(minlength=3).max()) <= 2
    assert len(t3a.supports) <= 6


def test_sar_goes_back_when_it_collapses():
    sar = create("sar", collapse=100.0, margin=10.0, lr=0.1)
    before = tensors(sar.model)
    sar(X)
    assert same(before, tensors(sar.model))
    assert sar.average is None


def test_the_fisher_penalty_holds():
    free = create("eata", lr=0.5, margin=10.0, redundant=1.0)
    held = create("eata", lr=0.5, margin=10.0, redundant=1.0, source=X, beta=1e3)
    for method in (free, held):
        for _ in range(3):
            method(X)
    start = dict(MODELS["batch"].named_parameters())
    moved = [
        sum((p - start[n]).abs().sum().item() for n, p in zip(m.names, m.params, strict=True))
        for m in (free, held)
    ]
    assert all(map(math.isfinite, moved))
    assert moved[0] > 0
    assert all(bool((f >= 0).all()) for f in held.fisher)


def test_what_each_family_may_change():
    for name in NAMES:
        learns = adapt.entry(name).learns
        assert (len(create(name).params) > 0) == (learns == "parameters"), name
    _, names = create("tent").collect_params()
    assert names == ["1.weight", "1.bias"]
    assert create("tent", "qact").names == ["1.weight", "1.bias"]


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_are_not_finite_are_set_aside(name):
    spoilt, clean = create(name), create(name)
    x = torch.cat([X[:4], torch.full((2, 1, 8, 8), torch.nan), X[4:]])
    x[4, 0, 0, 0] = math.inf
    got, want = spoilt(x), clean(X)
    assert got[4:6].isnan().all()
    torch.testing.assert_close(torch.cat([got[:4], got[6:]]), want)
    nothing = spoilt(torch.full((3, 1, 8, 8), torch.nan))
    assert nothing.shape == (3, 3)
    assert nothing.isnan().all()
    torch.testing.assert_close(spoilt(X), clean(X))


@pytest.mark.parametrize("name", NAMES)
def test_in_inference_mode(name):
    method, twin = create(name), create(name)
    with torch.inference_mode():
        got = method(X + 0)
    torch.testing.assert_close(got.clone(), twin(X))


def tabular() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()


def test_a_long_stream_leaks_nothing():
    model = tabular()
    banks = {name: {"every": 8, "capacity": 16} for name in ("rotta", "note", "safe")}
    options = {**QUICK, **banks, "aqr": {"source": torch.randn(64, 3)}}
    every = {name: adapt.create(name, model, **options.get(name, {})) for name in NAMES}
    every["t3a"] = adapt.create("t3a", model, filter_k=10)
    counts, kept = [], {}
    for steps in (20, 10):  # memories are full after the first; none may grow in the second
        for name, method in every.items():
            for _ in range(steps):
                logits = method(torch.randn(8, 3))
            kept[name] = weakref.ref(logits)
        del logits
        counts.append(count_tensors())
    assert counts[1] <= counts[0]  # what other tests had left may go in between
    assert [name for name, last in kept.items() if last() is not None] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_thousand_batches_leak_nothing(name):
    options = {**QUICK, "aqr": {"source": torch.randn(64, 3)}}
    method = adapt.create(name, tabular(), **options.get(name, {}))
    counts = []
    for step in range(1, 1001):
        method(torch.randn(8, 3))
        if step in (300, 1000):
            counts.append(count_tensors())
    assert counts[0] == counts[1]


def test_in_place_changes_the_model_and_gives_it_back():
    model = copy.deepcopy(MODELS["batch"])
    model[0].weight.requires_grad_(False)
    model.train()
    before = tensors(model)
    with adapt.create("tent", model, lr=0.1, inplace=True) as tent:
        assert tent.model is model
        tent(X)
    after = tensors(model)
    assert [k for k in before if not torch.equal(before[k], after[k])] == ["1.weight", "1.bias"]
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == [False, *[True] * 5]
    tent.reset()
    assert same(before, tensors(model))


def test_a_method_stays_in_eval():
    method = create("tent")
    method.train()
    assert not method.model.training


def test_options_are_on_the_object():
    tent = create("tent", lr=0.5)
    assert tent.options["lr"] == 0.5
    assert tent.options["steps"] == 1
    assert "tent" in repr(tent)
    assert "continual" in repr(tent)


def test_a_class_serves_as_a_name():
    class Mine(adapt.Method):
        """Nothing."""

    assert torch.equal(adapt.create(Mine, MODELS["batch"])(X), create("source")(X))


def test_steps_and_optimiser_by_hand():
    """Two steps of gradient descent with momentum on the entropy, by plain torch."""
    tent = create("tent", steps=2, optimizer="sgd", lr=0.1)
    twin = copy.deepcopy(MODELS["batch"]).train().requires_grad_(False)
    params = [p.requires_grad_(True) for p in twin[1].parameters()]
    optimizer = torch.optim.SGD(params, lr=0.1, momentum=0.9)
    for x in (X, X.flip(0) + 1):
        for _ in range(2):
            want = twin(x)
            loss = -(want.softmax(1) * want.log_softmax(1)).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.testing.assert_close(tent(x), want.detach())


def test_the_reference_shows_every_method():
    page = (Path(__file__).parents[2] / "docs" / "reference.md").read_text(encoding="utf-8")
    for name in NAMES:
        kind = adapt.entry(name).make
        assert f"::: {kind.__module__}.{kind.__qualname__}\n" in page


def test_every_entry_names_its_paper():
    for name in NAMES:
        assert adapt.entry(name).paper
        assert adapt.entry(name).make.__doc__


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda m: adapt.create("tend", m),
            ValueError,
            r"unknown method 'tend'; did you mean 'tent'.* known: alpha_bn",
        ),
        (lambda m: adapt.create(3, m), TypeError, "name=3"),
        (lambda m: adapt.create("tent", "model"), TypeError, "model='model'"),
        (lambda m: adapt.create("tent", m, lrr=1), TypeError, "no option 'lrr'; it has"),
        (lambda m: adapt.create("tent", m, lr=-1), ValueError, "lr=-1"),
        (lambda m: adapt.create("tent", m, steps=0), ValueError, "steps=0"),
        (lambda m: adapt.create("tent", m, optimizer="lbfgs"), ValueError, "'lbfgs'"),
        (lambda m: adapt.create("tent", m, context="own"), ValueError, "context='own'"),
        (lambda m: adapt.create("tent", m, episodic=1), TypeError, "episodic=1"),
        (lambda m: adapt.create("prior", m, N=-1), ValueError, "N=-1"),
        (lambda m: adapt.create("prior", m, N=math.nan), ValueError, "N=nan"),
        (lambda m: adapt.create("alpha_bn", m, alpha=2), ValueError, "alpha=2"),
        (lambda m: adapt.create("lame", m, affinity="cosine"), ValueError, "'cosine'"),
        (lambda m: adapt.create("lame", m, head="0"), ValueError, "head='0'"),
        (lambda m: adapt.create("t3a", m, filter_k=0), ValueError, "filter_k=0"),
        (lambda m: adapt.create("eata", m, source=[]), ValueError, "source="),
        (lambda m: adapt.create("note", m, k=0), ValueError, "k=0"),
        (lambda m: adapt.create("cotta", m, restore=2), ValueError, "restore=2"),
        (lambda m: adapt.create("rotta", m, alpha=0), ValueError, "alpha=0"),
        (lambda m: adapt.create("rotta", m, time="x"), TypeError, "time='x'"),
        (lambda m: adapt.create("rotta", m, doubt=-1), ValueError, "doubt=-1 must be 0 or"),
        (lambda m: adapt.create("cotta", m, augment=3), TypeError, "augment=3 must be a function"),
        (lambda m: adapt.create("safe", m, caution=0), ValueError, "caution=0"),
        (lambda m: adapt.create("tent", m)([1]), TypeError, "must be a tensor"),
        (lambda m: adapt.create("tent", m)(X[:0]), ValueError, "N >= 1"),
        (lambda m: adapt.create("tent", m[:3])(X), ValueError, r"expected logits \(N, C\)"),
        (lambda m: adapt.create("tent", nn.Linear(2, 2)), ValueError, "Linear has none"),
        (lambda m: adapt.create("lame", nn.Flatten()), ValueError, "no nn.Linear"),
        (lambda m: adapt.methods(learns="much"), ValueError, "'much'"),
        (lambda m: adapt.register("tent", paper="x", learns="nothing"), ValueError, "already"),
        (lambda m: adapt.register("new", paper="", learns="nothing"), ValueError, "its paper"),
        (lambda m: adapt.register("new", paper="x", learns="much"), ValueError, "'much'"),
    ],
)
def test_bad_input_is_refused(call, error, text):
    with pytest.raises(error, match=text):
        call(MODELS["batch"])
