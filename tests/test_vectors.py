"""Whatever squares vectors gives the same for vectors in another unit, and in half precision."""

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from qact import Context, adapt, attention, scores
from qact.activations.experts import SoftMoE, laplace_scores, sparsity_loss
from qact.adapt.recent import class_share
from qact.calibration import QuantileClassifier
from qact.scores.pooled import pooled_quantile
from qact.taps.concepts import intrinsic_dimension
from qact.taps.quantise import awq_scales, kurtosis
from qact.vectors import distances, lengths, standard, unit_of, unit_rows, unit_vectors
from qact.weights import neighbourhood, perpendicular_
from qact.weights import rank as rank_weights

SIZES = [2.0**k for k in (-120, -100, -70, 64, 100, 120)]


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("size", [*SIZES, 1.0])
def test_lengths_and_unit_vectors_of_any_size(size):
    x = drawn(20, 7) * size
    x[3], x[4] = 0, x[5] / 2**60 / size  # tiny beside the others
    length = x.double().square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(lengths(x).double(), length, rtol=1e-6, atol=0)
    expected = (x.double() / length.where(length > 0, 1)).float()
    for found in (unit_vectors(x), unit_rows(x)):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_units_round_nothing_and_cover_a_dtype():
    x = drawn(50, 8)
    assert torch.equal(unit_vectors(x), normalize(x, dim=-1))
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        info = torch.finfo(dtype)
        powers = torch.tensor([2.0**k for k in range(-11, 15)], dtype=dtype)
        assert torch.equal(unit_of(powers[:, None] * 1.5, 1)[:, 0], powers)
        ends = torch.tensor([[info.max, 0.0], [info.tiny, 0.0], [0.0, 0.0]], dtype=dtype)
        expected = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]], dtype=dtype)
        assert torch.equal(unit_vectors(ends), expected)
    assert unit_of(torch.empty(0, 3)) == 1
    assert unit_vectors(torch.empty(0, 3)).shape == (0, 3)


@pytest.mark.parametrize("size", SIZES)
def test_gradients_of_unit_vectors(size):
    x, upstream = drawn(5, 4), drawn(5, 4, seed=1)
    exact = x.double().requires_grad_()
    (expected,) = torch.autograd.grad((normalize(exact) * upstream).sum(), exact)
    scaled = (x * size).requires_grad_()
    (found,) = torch.autograd.grad((unit_vectors(scaled) * upstream).sum(), scaled)
    torch.testing.assert_close((found.double() * size), expected, rtol=1e-5, atol=1e-6)


def test_near_points_beside_a_far_one_keep_their_distances():
    x = torch.tensor([[1e30, 0.0], [1.0, 2.0], [1.0, 5.0]])
    found = distances(x, x[1:])
    torch.testing.assert_close(found, torch.tensor([[1e30, 1e30], [0.0, 3.0], [3.0, 0.0]]))
    assert distances(torch.empty(0, 2), x).shape == (0, 3)
    lost = torch.tensor([[torch.nan, 0.0], [torch.inf, 0.0], [1.0, 2.0]])
    assert distances(lost, x[1:]).isfinite().tolist() == [[False] * 2, [False] * 2, [True] * 2]
    large = x.double() * 1e250
    torch.testing.assert_close(distances(large, large[1:]), found.double() * 1e250)


def network(size=1.0):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    with torch.no_grad():
        net[0].weight *= size
        net[0].bias *= size
        net[2].weight /= size
        net[2].bias.zero_()
    return net


def of_features(net, x):
    features = net[:2](x)
    return scores.Outputs(net(x), features, labels=torch.arange(len(x)) % 4)


INVARIANT = ["mahalanobis", "relative_mahalanobis", "vim", "knn", "sdm", "t_similarity"]


@pytest.mark.parametrize("size", [2.0**-100, 2.0**64, 2.0**100])
@pytest.mark.parametrize("name", INVARIANT)
def test_scores_of_features_in_another_unit(name, size):
    x, other = drawn(80, 6), 2 * drawn(20, 6, seed=1)
    options = {"k": 5} if name == "knn" else {}
    found = []
    for net in (network(), network(size)):
        score = scores.create(name, **options).fit(net, of_features(net, x))
        found.append(score.score(of_features(net, other)))
    torch.testing.assert_close(found[1], found[0], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", [*INVARIANT, "conjnorm", "energy", "msp", "gen", "react", "scale"])
def test_scores_of_half_precision_are_those_of_its_numbers(name):
    net, options = network(), {"k": 5} if name == "knn" else {}
    parts = [of_features(net, 300 * drawn(40, 6, seed=seed)) for seed in (0, 1)]
    half = [scores.Outputs(p.logits.half(), p.features.half(), p.labels) for p in parts]
    wide = [
        scores.Outputs(p.logits.half().double(), p.features.half().double(), p.labels)
        for p in parts
    ]
    found, expected = (scores.create(name, **options).fit(net, a).score(b) for a, b in (half, wide))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-3, atol=1e-3)


def test_scores_that_no_number_can_be_are_refused():
    net = network(2.0**100)
    with pytest.raises(ValueError, match=r"none of the 40 in-distribution scores of ConjNorm"):
        scores.create("conjnorm").fit(net, of_features(net, drawn(40, 6)))


@pytest.mark.parametrize("size", [2.0**-100, 2.0**64, 2.0**100])
@pytest.mark.parametrize("name", ["lame", "t3a"])
def test_adaptation_by_features_in_another_unit(name, size):
    x = drawn(40, 6)
    plain, scaled = (adapt.create(name, network(s))(x) for s in (1.0, size))
    # T3A's logits have the unit of the features, LAME's have none.
    expected = plain * size if name == "t3a" else plain
    torch.testing.assert_close(scaled, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("size", [2.0**-100, 2.0**64, 2.0**100])
@pytest.mark.parametrize("name", ["taylorshift", "lssa"])
def test_attention_that_normalises_sees_no_unit(name, size):
    torch.manual_seed(0)
    form = attention.create(name, 2, 8)
    q, k, v = (drawn(1, 2, 12, 8, seed=seed) for seed in range(3))
    torch.testing.assert_close(form(q * size, k * size, v), form(q, k, v), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1.0, 30.0, 1e4, 1e19, 1e30])
@pytest.mark.parametrize("name", ["soft", "favor"])
def test_kernels_of_attention_of_large_queries(name, size):
    torch.manual_seed(0)
    form = attention.create(name, 2, 8)
    q, k = (drawn(1, 2, 12, 8, seed=seed) * size for seed in range(2))
    q.requires_grad_()
    found = form.weights(q, k)
    with torch.no_grad():
        expected = form.double().weights(q.double(), k.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=1e-3)
    assert torch.isfinite(torch.autograd.grad(found.square().sum(), q)[0]).all()


def test_a_key_that_is_masked_takes_nothing_from_the_others():
    torch.manual_seed(0)
    form = attention.create("favor", 1, 8)
    q, k, v = (drawn(1, 1, 5, 8, seed=seed) for seed in range(3))
    far = torch.cat([k, 1e3 * k[:, :, :1], 1e-3 * k[:, :, :1]], 2).requires_grad_()
    keep = torch.tensor([True] * 5 + [False] * 2)[None, None, None]
    more = torch.cat([v, v[:, :, :2]], 2)
    found = form(q, far, more, mask=keep)
    torch.testing.assert_close(found, form(q, k, v))
    (gradient,) = torch.autograd.grad(found.sum(), far)
    assert torch.isfinite(gradient).all()
    assert not gradient[:, :, 5:].any()


@pytest.mark.parametrize("size", SIZES)
def test_experts_see_no_unit(size):
    torch.manual_seed(0)
    moe, x = SoftMoE(8, [nn.Linear(8, 3)] * 2), drawn(5, 9, 8)
    for found, expected in zip(moe.weights(x * size), moe.weights(x), strict=True):
        torch.testing.assert_close(found, expected)
    gates = drawn(6, 4).abs()
    torch.testing.assert_close(sparsity_loss(gates * size), sparsity_loss(gates))
    a, b = drawn(6, 4, seed=1), drawn(3, 4, seed=2)
    torch.testing.assert_close(laplace_scores(a * size, b * size), laplace_scores(a, b) * size)


@pytest.mark.parametrize("size", SIZES)
def test_what_has_no_unit_of_its_own(size):
    x, labels = drawn(30, 5), torch.arange(30) % 3
    assert class_share(x * size, labels) == pytest.approx(class_share(x, labels), rel=1e-4)
    torch.testing.assert_close(kurtosis(x * size, 0), kurtosis(x, 0))
    ranked = rank_weights(x, smooth=True)
    torch.testing.assert_close(rank_weights(x * size, smooth=True), ranked)
    found = neighbourhood(x * size, x * size, labels, labels, labels)
    for one, other in zip(found, neighbourhood(x, x, labels, labels, labels), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("of_gradient", [1.0, *SIZES])
@pytest.mark.parametrize("of_weight", [1.0, *SIZES])
def test_the_perpendicular_gradient_has_the_gradients_unit(of_weight, of_gradient):
    g, w = drawn(6), drawn(6, seed=1)
    expected = g.double() - (g.double() @ w.double()) / w.double().square().sum() * w.double()
    expected *= g.double().norm() / expected.norm()
    given = (w * of_weight).requires_grad_()
    given.grad = g * of_gradient
    perpendicular_([given])
    torch.testing.assert_close(given.grad.double() / of_gradient, expected, rtol=1e-5, atol=1e-6)


def test_unit_rows_have_second_derivatives_and_transforms():
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(unit_rows, x)
    row = x.detach()[0]
    length = row.norm()
    want = (torch.eye(3, dtype=torch.float64) - row.outer(row) / length**2) / length
    found = torch.func.jacfwd(lambda r: unit_rows(r[None])[0])(row)
    torch.testing.assert_close(found, want)


@pytest.mark.parametrize("size", [1e-30, 1e-8, 1.0, 1e25])
def test_columns_are_standardised_in_any_unit(size):
    x = size * torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    x[:, 0] += size * x[:, 0].sign() / 2  # two classes with a gap between
    x[:, 2] = size * 0.1  # constant, but for the rounding of its mean
    mean, deviation = standard(x)
    wide = x.double().numpy()
    torch.testing.assert_close(mean.double().numpy(), wide.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        deviation[:2].double().numpy(), wide[:, :2].std(0), rtol=1e-6, atol=0
    )
    assert deviation[2] == 1
    y = (x[:, 0] > 0).long()
    found = QuantileClassifier(3, 2, steps=50).fit(x, y).predict(x)
    assert (found == y).float().mean() > 0.9


def test_neighbours_of_features_that_are_nearly_alike():
    """All 1e-4 from each other: squares of float32 lengths know nothing of that."""
    x = 1 + 1e-4 * torch.randn(60, 128, generator=torch.Generator().manual_seed(0))
    unit = unit_vectors(x)
    wide = unit.double().numpy()
    apart = ((wide[:, None] - wide) ** 2).sum(2) ** 0.5
    want = torch.from_numpy(apart).fill_diagonal_(torch.inf).topk(3, largest=False).indices
    knn = adapt.lame.AFFINITIES["knn"](unit, 3)
    assert torch.equal(knn, torch.zeros(60, 60).scatter_(1, want, 1.0))
    found = intrinsic_dimension(x[:, :3].double() * torch.tensor([1.0, 1.0, 0.0]) + 1e3, 10)
    assert 1.5 < found.mean() < 2.7  # a plane, wherever it stands


def test_a_quantile_of_channels_of_other_units():
    x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    x = torch.stack([1e-6 * x[:, 0], x[:, 1] + 1e9], 1)
    context = Context(2).add(x)
    for level in (0.1, 0.25, 0.4):  # a twentieth of a percent of the small channel's range
        want = x[:, 0].double().quantile(2 * level)
        assert abs(float(pooled_quantile(context, level)) - want) < 5e-8


def test_scales_for_quantised_weights_have_no_unit():
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 8, generator=draw)
    x = torch.randn(100, 8, generator=draw) * torch.logspace(-2, 1, 8)
    for size in (1e-9, 1e9):
        torch.testing.assert_close(awq_scales(weight, size * x)[0], awq_scales(weight, x)[0])
