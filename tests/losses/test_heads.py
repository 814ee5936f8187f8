"""Heads: layers that learn class vectors and are their own loss."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn, tensor
from torch.nn import functional as F

from qact import losses
from qact.losses.angular import _balanced

HEADS = losses.names(of="head")
D, C, N = 6, 5, 9
STILL = sorted(set(HEADS) - {"noisy_softmax", "large_dropout", "sampled_softmax"})


def made(name, **options):
    return losses.create(name, D, C, **options).double()


@pytest.fixture
def case():
    return torch.randn(N, D, dtype=torch.float64), torch.randint(C, (N,))


def gradients(head, x, y):
    x = x.clone().requires_grad_()
    head.zero_grad()
    value = head(x, y)
    value.backward()
    return value.detach(), x.grad, head.weight.grad.clone()


@pytest.mark.parametrize("name", HEADS)
def test_gradients_by_finite_differences(name, case):
    x, y = case
    head = made(name)
    parameters = [p.detach().clone().requires_grad_() for p in head.parameters()]
    names = [key for key, _ in head.named_parameters()]

    def value(x, *parameters):
        torch.manual_seed(3)  # the same noise, the same classes
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(head, given, (x, y))

    assert torch.autograd.gradcheck(value, (x.requires_grad_(), *parameters), atol=1e-6)


@pytest.mark.parametrize("name", HEADS)
def test_logits_and_what_is_ignored(name, case):
    x, y = case
    head = made(name).eval()
    assert head(x).shape == (N, C)
    some = y.clone()
    some[2] = -100
    kept = torch.arange(N) != 2
    assert head(x, some).isclose(head(x[kept], y[kept]))
    each = made(name, reduction="none").eval()
    each.load_state_dict(head.state_dict())
    assert each(x, some)[2] == 0
    assert each(x, some)[kept].mean().isclose(head(x, some))
    assert head(x, torch.full((N,), -100)) == 0
    weights = made(name, class_weight=torch.rand(C, dtype=torch.float64) + 0.1).eval()
    weights.load_state_dict(head.state_dict())
    of_rows = weights.class_weight[y]
    assert weights(x, y).isclose((each(x, y) * of_rows).sum() / of_rows.sum())


@pytest.mark.parametrize("name", HEADS)
def test_refusals(name, case):
    x, y = case
    head = made(name)
    with pytest.raises(ValueError, match=r"0\.\.4, got 5"):
        head(x, torch.full((N,), C))
    with pytest.raises(ValueError, match=r"\(N, 6\), got \(9, 5\)"):
        head(x[:, :5], y)
    with pytest.raises(ValueError, match=r"got \(0, 6\)"):
        head(x[:0], y[:0])
    with pytest.raises(ValueError, match="classes=0"):
        losses.create(name, D, 0)
    with pytest.raises(TypeError, match="wobble"):
        losses.create(name, D, C, wobble=1)
    with pytest.raises(ValueError, match="reduction='men'"):
        losses.create(name, D, C, reduction="men")


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(name, dtype, case):
    x, y = case
    head = losses.create(name, D, C)
    x = (1e4 * F.normalize(x)).to(dtype).requires_grad_()
    value = head(x, y)
    value.backward()
    assert value.isfinite()
    assert x.grad.isfinite().all()
    assert head.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    "name", ["normalised_softmax", "cosface", "arcface", "sphereface2", "wrapped_cauchy"]
)
def test_neither_length_of_features_nor_of_class_vectors_is_seen(name, case):
    x, y = case
    head = made(name)
    value = head(x, y)
    assert head(3 * x, y).isclose(value)
    with torch.no_grad():
        head.weight *= torch.rand(C, 1, dtype=torch.float64) + 0.5
    assert head(x, y).isclose(value)


def test_sphereface_sees_the_length_of_features_alone(case):
    x, y = case
    head = made("sphereface")
    value = head(x, y)
    assert not head(3 * x, y).isclose(value)
    with torch.no_grad():
        head.weight *= 2
    assert head(x, y).isclose(value)


@pytest.mark.parametrize(
    ("name", "theirs", "options", "their_options"),
    [
        ("normalised_softmax", "NormalizedSoftmaxLoss", {"scale": 20.0}, {"temperature": 0.05}),
        ("cosface", "CosFaceLoss", {"margin": 0.3}, {"margin": 0.3}),
        ("arcface", "ArcFaceLoss", {"margin": 0.5}, {"margin": math.degrees(0.5)}),
        ("sphereface", "SphereFaceLoss", {"margin": 4}, {"margin": 4}),
    ],
)
def test_equals_pytorch_metric_learning(name, theirs, options, their_options, case):
    module = pytest.importorskip("pytorch_metric_learning.losses")
    x, y = case
    head = made(name, **options)
    other = getattr(module, theirs)(C, D, **their_options).double()
    x[:2] = -head.weight.data[y[:2]]  # opposite of their classes
    x[:2] += 0.01 * x[2:4]
    other.W.data = head.weight.data.T.clone()
    value, by_x, by_w = gradients(head, x, y)
    x = x.clone().requires_grad_()
    expected = other(x, y)
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    torch.testing.assert_close(by_x, x.grad, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(by_w, other.W.grad.T, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "options"),
    [("noisy_softmax", {"alpha": 0.0}), ("large_dropout", {"p": 0.0})],
)
def test_without_noise_it_is_cross_entropy_of_a_linear_layer(name, options, case):
    x, y = case
    head = made(name, **options)
    expected = F.cross_entropy(F.linear(x, head.weight), y)
    assert head(x, y).isclose(expected)
    noisy = made(name)
    noisy.load_state_dict(head.state_dict())
    assert noisy.eval()(x, y).isclose(expected)


def test_noise_of_noisy_softmax_only_costs_and_is_zero_at_angle_zero(case):
    x, y = case
    head = made("noisy_softmax", alpha=0.5, reduction="none")
    plain = F.cross_entropy(F.linear(x, head.weight), y, reduction="none")
    for _ in range(5):
        assert (head(x, y) >= plain - 1e-12).all()
    aligned = head.weight[y].detach() * 3
    expected = F.cross_entropy(F.linear(aligned, head.weight), y, reduction="none")
    torch.testing.assert_close(head(aligned, y), expected)


def test_large_dropout_keeps_the_logits_on_average():
    torch.manual_seed(0)
    head, x = made("large_dropout", p=0.5, reduction="none"), torch.ones(4000, D).double()
    seen = F.linear(F.dropout(x, head.p), head.weight)
    assert torch.allclose(seen.mean(0), head(x[:1])[0], atol=0.06)
    assert head.train()(x, torch.zeros(4000, dtype=torch.long)).std() > 0.05


def test_the_bias_of_sphereface2_balances_both_questions():
    scale, margin, balance, t, classes = 40.0, 0.4, 0.7, 3.0, 10
    bias = _balanced(scale * (2 * 0.5**t - 1), scale * margin, balance, classes)
    level = scale * (2 * 0.5**t - 1) + bias
    own = balance / (1 + math.exp(level - scale * margin))
    rest = (1 - balance) * (classes - 1) / (1 + math.exp(-level - scale * margin))
    assert own == pytest.approx(rest)


# Sampled softmax


def sampled(**options):
    options = {"rate": 0.3, "generator": torch.Generator().manual_seed(1)} | options
    return losses.SampledSoftmax(D, 40, **options).double()


@pytest.fixture
def many():
    return torch.randn(N, D, dtype=torch.float64), torch.randint(40, (N,))


@pytest.mark.parametrize("options", [{}, {"scale": 8.0}, {"scale": 8.0, "margin": 0.2}])
@pytest.mark.parametrize("unbiased", [False, True])
def test_at_rate_one_it_is_the_full_loss(options, unbiased, many):
    x, y = many
    head = sampled(rate=1.0, unbiased=unbiased, **options)
    value, by_x, by_w = gradients(head, x, y)
    full = losses.Head(D, 40) if not options else losses.CosFace(D, 40, **{"margin": 0.0} | options)
    full.double().load_state_dict(head.state_dict())
    expected = gradients(full, x, y)
    assert value.isclose(expected[0])
    torch.testing.assert_close(by_x, expected[1])
    torch.testing.assert_close(by_w, expected[2])
    near = sampled(rate=0.999, unbiased=unbiased, **options)  # ceil: all classes, by sampling
    near.load_state_dict(head.state_dict())
    assert near(x, y).isclose(value)
    assert sampled(**options).eval()(x).shape == (N, 40)


@pytest.mark.parametrize("unbiased", [False, True])
def test_classes_that_are_not_drawn_have_zero_gradient(unbiased, many):
    x, y = many
    head = sampled(unbiased=unbiased)
    _, _, by_w = gradients(head, x, y)
    touched = by_w.any(1)
    assert touched.sum() == 12  # 0.3 of 40
    assert touched[y.unique()].all()


def test_the_unbiased_denominator_is_right_on_average(many):
    x, y = many
    head = sampled(rate=0.5, unbiased=True, reduction="none", generator=None)
    logits = head(x)
    own = logits.gather(1, y[:, None])[:, 0]
    with torch.no_grad():
        draws = torch.stack([(head(x, y) + own).exp() for _ in range(400)])
    error = (draws.mean(0) - logits.exp().sum(1)).abs()
    assert (error < 4 * draws.std(0) / 20).all()


def test_sampled_softmax_refuses_a_margin_without_a_scale():
    with pytest.raises(ValueError, match=r"margin=0\.2"):
        sampled(margin=0.2)
    with pytest.raises(ValueError, match=r"rate=0\.0"):
        sampled(rate=0.0)


def test_a_head_of_a_function_refuses_what_the_function_refuses():
    with pytest.raises(ValueError, match=r"margin=-1\.0"):
        losses.CosineHead(D, C, losses.cosface_loss, margin=-1.0)
    assert repr(losses.ArcFace(D, C)) == "ArcFace(6, 5, scale=64.0, margin=0.5)"


def test_a_head_trains_a_network():
    torch.manual_seed(0)
    y = torch.arange(30) % 3
    x = F.one_hot(y, D).float() + 0.1 * torch.randn(30, D)
    body, head = nn.Linear(D, D), losses.CosFace(D, 3, scale=8.0, margin=0.2)
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], 0.05)
    for _ in range(40):
        optimizer.zero_grad()
        head(body(x), y).backward()
        optimizer.step()
    assert (head(body(x)).argmax(1) == y).all()
    assert head(body(x), y) < 0.5 * math.log(3) + tensor(0.5)


@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("rows_at_a_time", [1, 100])
def test_shared_parameters_have_autograds_gradients(reduction, rows_at_a_time, monkeypatch):
    # Loss and gradients in one form, against autograd through the logits, part by part and whole.
    monkeypatch.setattr("qact.losses.rows._CACHED", 5 * rows_at_a_time)
    monkeypatch.setattr("qact.losses.rows._WHOLE", 1)
    functions = {"sphereface2": losses.sphereface2_loss, "wrapped_cauchy": losses.comp_sum_loss}
    x, y = torch.randn(7, 4, dtype=torch.float64), torch.randint(5, (7,))
    share = torch.rand(7, dtype=torch.float64) if reduction == "none" else 1.0
    for name, function in functions.items():
        head = losses.create(name, 4, 5, reduction=reduction).double()
        found = torch.autograd.grad((head(x, y) * share).sum(), list(head.parameters()))
        right = function(head(x), y, reduction=reduction)
        for a, b in zip(
            found, torch.autograd.grad((right * share).sum(), list(head.parameters())), strict=True
        ):
            torch.testing.assert_close(a, b)


ANGULAR = ["arcface", "cosface", "normalised_softmax", "sphereface2", "wrapped_cauchy"]


@pytest.mark.parametrize("unit", [1e-30, 1e-20, 1e20, 1e30])
@pytest.mark.parametrize("name", ANGULAR)
def test_a_loss_of_angles_does_not_see_the_unit(name, unit):
    torch.manual_seed(0)
    head = losses.create(name, embedding_size=6, classes=5)
    x, y = torch.randn(8, 6), torch.randint(5, (8,))
    torch.testing.assert_close(head(unit * x, y), head(x, y), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["sphereface", "noisy_softmax"])
def test_lengths_of_embeddings_do_not_overflow(name):
    torch.manual_seed(0)
    head = losses.create(name, embedding_size=6, classes=5)
    x, y = torch.randn(8, 6).requires_grad_(), torch.randint(5, (8,))
    found = head(1e20 * x, y)
    found.backward()
    assert found.isfinite()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_copied_pickled_and_cast(name):
    torch.manual_seed(0)
    head = losses.create(name, 6, 4).eval()
    x, y = torch.randn(12, 6), torch.arange(12) % 4
    for twin in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        torch.manual_seed(1)
        want = head(x, y)
        torch.manual_seed(1)
        assert torch.equal(twin(x, y), want)
        assert torch.equal(twin(x), head(x))
    for dtype in (torch.float16, torch.bfloat16):
        half = copy.deepcopy(head).to(dtype)
        for given in (x, x.to(dtype), x.double()):
            torch.manual_seed(1)
            found = half(given, y)
            found.backward()
            torch.testing.assert_close(found, want, rtol=0.2, atol=0.2, check_dtype=False)
            assert half.weight.grad.dtype == half(given).dtype == dtype
