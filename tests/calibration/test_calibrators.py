import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qact.calibration import (
    BayesianBinning,
    BetaCalibration,
    DirichletCalibration,
    HistogramBinning,
    IsotonicCalibration,
    MatrixScaling,
    PlattScaling,
    QuantileTemperature,
    SplineCalibration,
    TemperatureScaling,
    VectorScaling,
    calibration_error,
    negative_log_likelihood,
)
from qact.calibration.calibrator import log_odds
from qact.calibration.isotonic import interpolated, isotonic

ALL = [
    TemperatureScaling,
    VectorScaling,
    PlattScaling,
    IsotonicCalibration,
    HistogramBinning,
    BetaCalibration,
    BayesianBinning,
    SplineCalibration,
    MatrixScaling,
    DirichletCalibration,
    QuantileTemperature,
    lambda: QuantileTemperature("batch"),
]
# Maps of the probabilities themselves, not of log-odds in a unit of their own.
OF_PROBABILITIES = (BetaCalibration, BayesianBinning, DirichletCalibration)
ORDER_KEEPING = [TemperatureScaling, QuantileTemperature, lambda: QuantileTemperature("batch")]


def case(n=2000, classes=4, temperature=1.0, seed=0):
    """Logits, and labels drawn from ``softmax(logits / temperature)``."""
    generator = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    p = (z / temperature).softmax(1)
    return z, torch.multinomial(p, 1, generator=generator)[:, 0]


def fitted(make, *data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return make().fit(*data)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_is_found(temperature):
    model = TemperatureScaling().fit(*case(20_000, temperature=temperature))
    assert model.temperature == pytest.approx(temperature, rel=0.05)


def test_temperature_is_the_minimum_of_the_likelihood():
    optimize = pytest.importorskip("scipy.optimize")
    z, y = case(temperature=2.3)

    def nll(log_t):
        return negative_log_likelihood((z / math.exp(log_t)).softmax(1), y)

    best = optimize.minimize_scalar(nll, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9})
    model = TemperatureScaling().fit(z, y)
    assert math.log(model.temperature) == pytest.approx(best.x, abs=1e-5)


@pytest.mark.parametrize("make", ALL)
def test_what_is_overconfident_becomes_calibrated(make):
    z, y = case(4000, temperature=3.0)
    new, truth = case(4000, temperature=3.0, seed=1)
    model = fitted(make, z, y)
    options = {"p": 2, "binning": "equal_mass", "debias": True}
    before = calibration_error(new.softmax(1), truth, **options)
    after = calibration_error(model.predict(new), truth, **options)
    assert before > 0.2
    assert after < 0.05


@pytest.mark.parametrize("make", ORDER_KEEPING)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(60, 120))
def test_the_argmax_never_changes(make, seed, classes, n):
    z, y = case(n, classes, seed=seed)
    model = fitted(make, z, y)
    new = 5 * torch.randn(50, classes, dtype=torch.float64)
    assert torch.equal(model.predict(new).argmax(1), new.argmax(1))


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("kind", ["plain", "all right", "all wrong", "one class", "equal logits"])
def test_ten_samples_warn_and_stay_finite(make, kind):
    z, y = case(10, 3)
    if kind == "all right":
        y = z.argmax(1)
    if kind == "all wrong":
        y = z.argmin(1)
    if kind == "one class":
        y = torch.zeros(10, dtype=torch.long)
    if kind == "equal logits":
        z = torch.zeros(10, 3)
    with pytest.warns(UserWarning, match="is fitted on 10 samples; take at least"):
        model = make().fit(z, y)
    for new in (z, 100 * torch.randn(20, 3), torch.zeros(1, 3)):
        p = model.predict(new)
        assert torch.isfinite(p).all()
        assert (p >= 0).all()
        assert torch.allclose(p.sum(1), torch.ones(len(p), dtype=torch.float64))


def test_temperature_at_its_bound_says_so():
    z, _ = case(200)
    z = z - z.mean(1, keepdim=True)
    z = z / z.square().mean().sqrt()
    with pytest.warns(UserWarning, match=r"temperature 0\.01, the bound"):
        assert TemperatureScaling().fit(z, z.argmax(1)).temperature == pytest.approx(0.01)
    with pytest.warns(UserWarning, match="temperature 300, the bound"):
        assert TemperatureScaling().fit(3 * z, z.argmin(1)).temperature == pytest.approx(300)


SCALES = [1e-6, 1e-3, 0.01, 7.3, 1e3, 1e6]


@pytest.mark.parametrize("make", [make for make in ALL if make not in OF_PROBABILITIES])
@pytest.mark.parametrize("scale", SCALES)
def test_no_calibrator_depends_on_the_unit_of_two_class_logits(make, scale):
    z, y = case(1000, 2, temperature=2.0)
    expected = fitted(make, z, y).predict(z)
    moved = scale * z + 3 * scale
    assert torch.allclose(fitted(make, moved, y).predict(moved), expected, atol=1e-6)


@pytest.mark.parametrize("make", [TemperatureScaling, VectorScaling, *ALL[-2:]])
@pytest.mark.parametrize("scale", SCALES)
def test_rescaling_calibrators_depend_on_no_unit(make, scale):
    z, y = case(1000, 5, temperature=2.0)
    expected = fitted(make, z, y).predict(z)
    moved = scale * z - 50 * scale
    assert torch.allclose(fitted(make, moved, y).predict(moved), expected, atol=1e-6)


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("shift", [-1e6, -3000.0, 3000.0, 1e6])
def test_what_all_classes_share_changes_nothing(make, shift):
    z, y = case(1000, 5, temperature=2.0)
    expected = fitted(make, z, y).predict(z)
    assert torch.allclose(fitted(make, z + shift, y).predict(z + shift), expected, atol=1e-6)


def by_scipy(function, start):
    """The minimum by scipy's Newton-like search, refined until nothing moves."""
    optimize = pytest.importorskip("scipy.optimize")
    best = optimize.minimize(function, start, method="Nelder-Mead", tol=1e-14)
    for _ in range(5):
        best = optimize.minimize(
            function, best.x, method="Nelder-Mead", options={"xatol": 1e-12, "fatol": 1e-16}
        )
    return best


@pytest.mark.parametrize(("shift", "scale"), [(0, 1), (3000, 1), (-1e6, 1), (5, 1e-6), (-5, 1e6)])
def test_platt_is_scipys_minimum_wherever_the_scores_stand(shift, scale):
    z, y = case(400, 2, temperature=2.0)
    s = z[:, 1] - z[:, 0]
    n = y.sum().item()
    target = torch.full_like(s, 1 / (len(y) - n + 2))
    target[y == 1] = (n + 1) / (n + 2)

    def loss(values):
        return torch.nn.functional.binary_cross_entropy_with_logits(
            values[0] * s + values[1], target
        ).item()

    a, b = by_scipy(loss, [1.0, 0.0]).x
    moved = scale * s + shift
    model = fitted(PlattScaling, torch.stack([torch.zeros_like(moved), moved], 1), y)
    found = model.predict(torch.stack([torch.zeros_like(moved), moved], 1))[:, 1]
    assert torch.allclose(found, torch.sigmoid(a * s + b), atol=1e-6)
    assert model.weight[1].item() == pytest.approx(a / scale, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-6, 0.01, 1.0, 1e6])
def test_temperature_is_scipys_minimum_at_any_scale(scale):
    optimize = pytest.importorskip("scipy.optimize")
    z, y = case(temperature=0.33)

    def nll(log_t):
        return negative_log_likelihood((z / math.exp(log_t)).softmax(1), y)

    best = optimize.minimize_scalar(nll, bounds=(-4, 3), method="bounded", options={"xatol": 1e-9})
    model = TemperatureScaling().fit(scale * z, y)
    assert math.log(model.temperature / scale) == pytest.approx(best.x, abs=1e-5)


def test_vector_scaling_is_scipys_minimum():
    z, y = case(300, 2, temperature=2.0)
    z = z + torch.tensor([1.0, -2.0], dtype=z.dtype)
    model = fitted(VectorScaling, z, y)
    temperature, mean = model._unit, z.mean(0)

    def loss(values):
        w, b = torch.tensor(values[:2]), torch.tensor(values[2:])
        centred = (mean - mean.mean()) / temperature
        logits = w * (z - mean) / temperature + centred + b
        prior = ((w - 1).square().sum() + b.square().sum()) / 2
        return (torch.nn.functional.cross_entropy(logits, y) + prior / len(z)).item()

    best = by_scipy(loss, [1.0, 1.0, 0.0, 0.0]).x
    assert torch.allclose(model.weight * temperature, torch.tensor(best[:2]), atol=1e-5)
    linear = (model.weight * z + model.bias).softmax(1)
    assert torch.allclose(model.predict(z), linear, atol=1e-12)


def test_histogram_bins_have_an_answer_beyond_what_was_seen():
    z = torch.tensor([[0.0, 0.0], [2.0, 0.0]]).repeat(100, 1)  # the cuts fall among equal values
    y = torch.tensor([0, 0, 1, 0]).repeat(50)
    model = fitted(lambda: HistogramBinning(3), z, y)
    seen, beyond = model.predict(torch.tensor([[2.0, 0.0], [9.0, 0.0]]))
    assert torch.equal(seen, beyond)
    near = model.predict(torch.tensor([[2.0 + 1e-6, 0.0], [2.0 - 1e-6, 0.0]]))
    assert torch.equal(near, seen.expand(2, 2))


def test_a_search_that_ends_too_early_is_begun_again_or_says_so():
    from qact.calibration.minimize import minimize

    far = torch.tensor([1e4, 1e-2], dtype=torch.float64)
    found = minimize(lambda x: (far * (x - 3)).square().sum(), torch.zeros(2, dtype=torch.float64))
    assert torch.allclose(found, torch.full((2,), 3.0, dtype=torch.float64), atol=1e-2)
    with pytest.warns(UserWarning, match="the fit has not converged: its slope is 1"):
        minimize(lambda x: x.sum(), torch.zeros(1, dtype=torch.float64), rounds=2)


@pytest.mark.parametrize("make", ALL)
def test_leading_dimensions_are_free(make):
    z, y = case(600, 3)
    flat = fitted(make, z, y)
    shaped = fitted(make, z.reshape(10, 60, 3), y.reshape(10, 60))
    assert torch.allclose(flat.predict(z).reshape(10, 60, 3), shaped.predict(z.reshape(10, 60, 3)))
    assert flat.predict(z[0]).shape == (3,)
    assert flat.predict(z[:0]).shape == (0, 3)


@pytest.mark.parametrize("make", ALL)
def test_narrow_and_large_logits(make):
    z, y = case(600, 3)
    model = fitted(make, z.half(), y)
    assert torch.allclose(model.predict(z.half()), model.predict(z.half().double()))
    extreme = torch.tensor([[1e4, 0.0, -1e4], [0.0, 1e-4, 0.0]])
    assert torch.isfinite(model.predict(extreme)).all()


def test_platt_is_scikit_learns_sigmoid_on_a_binary_problem():
    calibration = pytest.importorskip("sklearn.calibration")
    if not hasattr(calibration, "_sigmoid_calibration"):
        pytest.skip("scikit-learn moved its sigmoid")
    z, y = case(500, 2, temperature=2.0)
    s = z[:, 1] - z[:, 0]
    a, b = calibration._sigmoid_calibration(s.numpy(), y.numpy())  # 1 / (1 + exp(a s + b))
    found = PlattScaling().fit(z, y).predict(z)[:, 1]
    assert torch.allclose(found, torch.sigmoid(-(a * s + b)), atol=1e-3)


def test_isotonic_is_scikit_learns():
    oracle = pytest.importorskip("sklearn.isotonic")
    x = torch.randint(0, 30, (300,)).double() / 7  # with ties
    y = (torch.rand(300, dtype=torch.float64) < x / 5).double()
    reference = oracle.IsotonicRegression(out_of_bounds="clip").fit(x.numpy(), y.numpy())
    new = torch.linspace(-1, 6, 200, dtype=torch.float64)
    expected = torch.from_numpy(reference.predict(new.numpy()))
    assert torch.allclose(interpolated(new, *isotonic(x, y)), expected, atol=1e-9)


def test_histogram_binning_gives_frequencies():
    z, y = case(1500, 3, temperature=2.0)
    model = HistogramBinning(5).fit(z, y)
    p = z.softmax(1)[:, 0]
    order = p.argsort()
    top = order[1200:]  # the highest of 5 bins of equal mass
    expected = ((y[top] == 0).sum() + 0.5) / 301
    edges, rates = model._bins[0]
    assert len(edges) == 4
    assert rates[-1] == pytest.approx(expected.item(), abs=1e-6)


def test_log_odds_of_softmax():
    z = torch.randn(50, 4, dtype=torch.float64)
    assert torch.allclose(log_odds(z), z.softmax(1).logit())
    assert log_odds(torch.tensor([[300.0, 0.0]], dtype=torch.float64)).tolist() == [[300, -300]]


def test_quantile_temperature_follows_the_quantile():
    # The confident half is right as often as it says, the other is overconfident.
    z, _ = case(6000, 3)
    margin = log_odds(z).amax(1)
    high = margin > margin.median()
    p = torch.where(high[:, None], z, z / 4).softmax(1)
    y = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(0))[:, 0]
    model, plain = QuantileTemperature().fit(z, y), TemperatureScaling().fit(z, y)
    assert model.slope > 0.5  # hotter where confidence is low
    assert negative_log_likelihood(model.predict(z), y) < negative_log_likelihood(
        plain.predict(z), y
    )
    alone = torch.cat([model.predict(row[None]) for row in z[:20]])
    assert torch.allclose(alone, model.predict(z)[:20])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, z, y: m.predict(z), RuntimeError, "is not fitted"),
        (lambda m, z, y: m.fit(z, y).predict(z[:, :2]), ValueError, "must have 4 classes"),
        (lambda m, z, y: m.fit(z[:, :1], y), ValueError, "two columns"),
        (
            lambda m, z, y: m.fit(z, y[:5]),
            ValueError,
            r"labels must be \(2000,\) for .* \(2000, 4\), got \(5,\)",
        ),
        (lambda m, z, y: m.fit(z, y + 1), ValueError, r"labels must be 0\.\.3, got 1\.\.4"),
        (lambda m, z, y: m.fit(z * torch.nan, y), ValueError, "finite"),
        (lambda m, z, y: m.fit(z[:0], y[:0]), ValueError, "no sample"),
        (lambda m, z, y: m.fit(z.long(), y), TypeError, "int64"),
        (lambda m, z, y: m.fit(z, y.double()), TypeError, "float64"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("make", [TemperatureScaling, IsotonicCalibration])
def test_wrong_use_is_named(make, call, error, message):
    with pytest.raises(error, match=message):
        call(make(), *case())
