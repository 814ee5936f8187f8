"""What every loss of logits in the registry keeps: gradients, precision, refusals, reductions."""

import pytest
import torch
from torch import tensor

from qact import losses
from qact.losses import rows

LOGITS = losses.names(of="logits")
SOFT = losses.names(of="logits", soft=True)
BATCH = ("mmce", "dca", "mdca")  # whose penalty is one number for the batch
CLASSES = 5


def case(n=7, classes=CLASSES, dtype=torch.float64):
    return torch.randn(n, classes, dtype=dtype), torch.randint(classes, (n,))


def difference(z, y, function, step=1e-6):
    """Gradient by central differences, one number at a time."""
    found = torch.zeros_like(z)
    for i in range(z.numel()):
        up, down = z.clone(), z.clone()
        up.view(-1)[i] += step
        down.view(-1)[i] -= step
        found.view(-1)[i] = (function(up, y) - function(down, y)) / (2 * step)
    return found


@pytest.mark.parametrize("name", LOGITS)
@pytest.mark.parametrize("seed", range(2))
def test_gradient_by_finite_differences(name, seed):
    torch.manual_seed(seed)
    z, y = case()
    loss = losses.create(name)
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, y), z, eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(LOGITS) - {"cross_entropy", "label_smoothing"}))
def test_weights_of_rows_reach_their_gradients(name):
    z, y = case()
    loss, share = losses.create(name, reduction="none"), torch.rand(len(y), dtype=z.dtype)
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: (loss(z, y) * share).sum(), z, atol=1e-6)
    value = loss(z, y).sum()
    first = torch.autograd.grad(value, z, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(value, z)[0], first)  # a second walk takes it anew


@pytest.mark.parametrize("name", LOGITS)
def test_parts_of_a_batch_are_the_batch(name, monkeypatch):
    z, y = case(9, dtype=torch.float32)
    whole, parts = z.clone().requires_grad_(), z.clone().requires_grad_()
    loss = losses.create(name)
    one = loss(whole, y)
    one.backward()
    monkeypatch.setattr(rows, "_CACHED", 2 * CLASSES)
    monkeypatch.setattr(rows, "_WHOLE", 1)
    monkeypatch.setattr(rows, "_SHORT", 0)
    other = loss(parts, y)
    other.backward()
    # Terms about 1 in size, of both signs in ldr_kl: a sum near 0 keeps the rounding of its terms.
    assert other.item() == pytest.approx(one.item(), rel=1e-6, abs=1e-6)
    torch.testing.assert_close(parts.grad, whole.grad)


@pytest.mark.parametrize("name", LOGITS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("short", [0, 100])
def test_no_overflow_at_large_logits(name, dtype, short, monkeypatch):
    monkeypatch.setattr(rows, "_SHORT", short)
    z = tensor([[1e4, -1e4, 0.0, 5.0], [-1e4, 1e4, 1e4, 3.0], [0.0, 0.0, 0.0, 0.0]]).to(dtype)
    for target in (0, 1, 3):
        x = z.clone().requires_grad_()
        value = losses.create(name)(x, torch.full((3,), target))
        value.backward()
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert x.grad.dtype == dtype
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", LOGITS)
def test_half_precision_is_the_loss_of_the_same_numbers(name):
    z, y = case(dtype=torch.float16)
    z.requires_grad_()
    wide = z.detach().double().requires_grad_()
    loss = losses.create(name)
    loss(z, y).backward()
    loss(wide, y).backward()
    assert loss(z, y).item() == pytest.approx(loss(wide, y).item(), rel=1e-5, abs=1e-6)
    torch.testing.assert_close(z.grad.double(), wide.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", LOGITS)
def test_ignored_rows_count_for_nothing(name):
    z, y = case()
    some = y.clone()
    some[[1, 4]] = -100
    kept = some >= 0
    z.requires_grad_()
    loss = losses.create(name)
    value = loss(z, some)
    value.backward()
    assert value.item() == pytest.approx(loss(z[kept], y[kept]).item(), rel=1e-12)
    assert not z.grad[~kept].any()
    assert z.grad[kept].any()
    other = losses.create(name, ignore_index=int(y[0]))  # a class may be the one to ignore
    assert other(z, y).item() == pytest.approx(loss(z[y != y[0]], y[y != y[0]]).item(), rel=1e-12)


@pytest.mark.parametrize("name", LOGITS)
def test_when_all_rows_are_ignored_the_loss_is_zero(name):
    z, _ = case()
    z.requires_grad_()
    value = losses.create(name)(z, torch.full((len(z),), -100))
    value.backward()
    assert abs(value.item()) < 1e-100
    assert not z.grad.any()


@pytest.mark.parametrize("name", sorted(set(LOGITS) - set(BATCH)))
def test_reductions_and_class_weights(name):
    z, y = case()
    y[2] = -100
    weight = torch.rand(CLASSES, dtype=torch.float64) + 0.5
    plain = losses.create(name, reduction="none")(z, y)
    assert plain.shape == y.shape
    assert plain[2] == 0
    kept = plain[y >= 0]
    assert losses.create(name, reduction="sum")(z, y).isclose(kept.sum())
    assert losses.create(name)(z, y).isclose(kept.mean())
    if name == "label_smoothing":  # torch weighs the smoothed part by the classes it lies on
        return
    of_rows = weight[y[y >= 0]]
    weighted = losses.create(name, weight=weight)
    assert weighted(z, y).isclose((kept * of_rows).sum() / of_rows.sum())
    assert "weight" not in weighted.state_dict()


@pytest.mark.parametrize("name", sorted(set(LOGITS) - {"soft_top_k"}))
def test_one_class_has_a_finite_loss(name):
    z = torch.zeros(3, 1, requires_grad=True)
    value = losses.create(name)(z, torch.zeros(3, dtype=torch.long))
    value.backward()
    assert value.isfinite()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("name", LOGITS)
def test_nan_stays_nan(name):
    z, y = case()
    z[1, 2] = torch.nan
    value = losses.create(name, reduction="none")(z, y)
    if name in BATCH:
        assert value.isnan().any()
    else:
        assert value.isnan().tolist() == [i == 1 for i in range(len(y))]


@pytest.mark.parametrize("name", LOGITS)
@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda z, y: (z, y.index_fill(0, tensor(3), CLASSES)), ValueError, "0..4, got 5"),
        (lambda z, y: (z, y.index_fill(0, tensor(3), -1)), ValueError, "0..4, got -1"),
        (lambda z, y: (z[:0], y[:0]), ValueError, r"got \(0, 5\)"),
        (lambda z, y: (z, y[:3]), ValueError, r"\(7,\), got \(3,\)"),
        (lambda z, y: (z.long(), y), TypeError, "must be floating, got torch.int64"),
        (lambda z, y: (z, y.float()), TypeError, "float32"),
        (lambda z, y: (z, y.tolist()), TypeError, "must be a tensor, got list"),
        (lambda z, y: (z[0], y), ValueError, r"got \(5,\)"),
    ],
)
def test_refusals_repeat_the_value(name, change, error, text):
    with pytest.raises(error, match=text):
        losses.create(name)(*change(*case()))


OPTIONS = {
    "comp_sum": {"tau": -0.5},
    "confidence_penalty": {"beta": -1.0},
    "cross_entropy": {"label_smoothing": 1.0},
    "dca": {"strength": -1.0},
    "dual_focal": {"gamma": -1.0},
    "entmax": {"alpha": 0.5},
    "focal": {"gamma": float("nan")},
    "generalized_cross_entropy": {"q": 1.5},
    "label_smoothing": {"smoothing": 1.5},
    "aldr_kl": {"alpha": 1.0},
    "ldr_kl": {"scale": 0.0},
    "logit_norm": {"temperature": 0.0},
    "margin_smoothing": {"margin": -1.0},
    "maxsup": {"alpha": -1.0},
    "mdca": {"strength": -1.0},
    "mmce": {"strength": -1.0},
    "soft_top_k": {"k": 0},
    "squared_hinge": {"power": 3},
    "z_loss": {"a": 0.0},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_wrong_options_are_refused_with_their_value(name):
    ((_option, value),) = OPTIONS[name].items()
    with pytest.raises(ValueError, match=repr(value).replace(".", r"\.")):
        losses.create(name, **OPTIONS[name])(*case())
    with pytest.raises(TypeError, match="wobble"):
        losses.create(name, wobble=1)
    with pytest.raises(ValueError, match="reduction='men'"):
        losses.create(name, reduction="men")(*case())


@pytest.mark.parametrize("name", SOFT)
def test_soft_targets_at_one_class_are_that_class(name):
    z, y = case()
    hot = torch.nn.functional.one_hot(y, CLASSES).to(z.dtype)
    loss = losses.create(name, reduction="none")
    torch.testing.assert_close(loss(z, hot), loss(z, y))
    with pytest.raises(ValueError, match=r"\(7, 4\)"):
        loss(z, hot[:, :4])


@pytest.mark.parametrize("name", SOFT)
def test_gradient_with_soft_targets_by_finite_differences(name):
    z, _ = case()
    target = (torch.rand_like(z) > 0.5).to(z.dtype) * torch.rand_like(z)
    z.requires_grad_()
    loss = losses.create(name)
    assert torch.autograd.gradcheck(lambda z: loss(z, target), z, atol=1e-6)


def test_there_is_no_second_derivative_and_it_is_said():
    z, y = case()
    z.requires_grad_()
    (first,) = torch.autograd.grad(losses.focal_loss(z, y), z, create_graph=True)
    assert torch.equal(first, torch.autograd.grad(losses.focal_loss(z, y), z)[0])
    with pytest.raises(RuntimeError, match="no second derivative"):
        first.sum().backward()


@pytest.mark.parametrize("name", ["focal", "logit_norm", "gumbel"])
def test_autocast_changes_nothing(name):
    z, y = case(dtype=torch.float32)
    loss = losses.create(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(z, y) == loss(z.clone(), y)
        assert loss(z, y).dtype == torch.float32


def test_a_module_says_what_it_is():
    assert repr(losses.create("focal", gamma=3.0)) == "LogitLoss(focal_loss, gamma=3.0)"


def test_the_place_of_the_largest_in_short_and_long_rows():
    for classes in (5, 127, 128, 300):
        z = torch.randint(9, (20, classes), dtype=torch.float32)  # most rows have it several times
        z[0], z[1, 3:], z[2, -1] = -torch.inf, -torch.inf, 10.0
        value, place = rows.first_largest(z)
        assert torch.equal(value, z.amax(1, keepdim=True))
        assert place[:, 0].tolist() == z.numpy().argmax(1).tolist()
        z[5, 2] = torch.nan
        value, place = rows.first_largest(z)
        assert value[5].isnan()
        assert 0 <= place[5] < classes


@pytest.mark.parametrize("name", sorted(set(LOGITS) - {"cross_entropy"}))
def test_many_classes_have_the_gradient_of_the_value(name):
    z, y = case(3, 150)
    loss, along = losses.create(name), torch.randn(3, 150, dtype=torch.float64)
    z.requires_grad_()
    slope = (torch.autograd.grad(loss(z, y), z)[0] * along).sum().item()
    step = 1e-6
    with torch.no_grad():
        found = (loss(z + step * along, y) - loss(z - step * along, y)).item() / (2 * step)
    assert slope == pytest.approx(found, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("unit", [1e-30, 1e-20, 1e20, 1e30])
@pytest.mark.parametrize("name", ["logit_norm", "z_loss"])
def test_a_normalised_loss_does_not_see_the_unit(name, unit):
    torch.manual_seed(0)
    z, y = torch.randn(8, 5), torch.randint(5, (8,))
    loss = losses.create(name)
    torch.testing.assert_close(loss(unit * z, y), loss(z, y), rtol=1e-4, atol=1e-6)


def test_quantile_huber_says_which_shapes_do_not_fit():
    with pytest.raises(ValueError, match=r"target of shape \(4,\) must broadcast .* \(4, 5\)"):
        losses.create("quantile_huber")(torch.zeros(4, 5), torch.zeros(4))


@pytest.mark.parametrize("classes", [CLASSES, 40])
@pytest.mark.parametrize("shift", [1e3, -1e6])
@pytest.mark.parametrize("name", LOGITS)
def test_what_logits_have_in_common_costs_no_digit(name, shift, classes):
    """The same float32 numbers, in float64: their sums round by 0.06 at a million."""
    torch.manual_seed(0)
    z, y = torch.randn(9, classes) + shift, torch.randint(classes, (9,))
    loss = losses.create(name, reduction="none")
    one, other = z.clone().requires_grad_(), z.double().requires_grad_()
    got, want = loss(one, y), loss(other, y)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
    slope, exact = (torch.autograd.grad(v.sum(), x)[0] for v, x in ((got, one), (want, other)))
    torch.testing.assert_close(slope.double(), exact, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["sparsemax", "entmax", "cross_entropy", "soft_top_k", "focal"])
def test_a_class_at_minus_infinity_is_no_class(name):
    z, y = torch.tensor([[0.5, -torch.inf, 0.2, -0.1]], requires_grad=True), torch.tensor([2])
    loss = losses.create(name)
    value = loss(z, y)
    torch.testing.assert_close(value, loss(z[:, [0, 2, 3]], torch.tensor([1])))
    (slope,) = torch.autograd.grad(value, z)
    assert slope.isfinite().all()
    assert slope[0, 1] == 0


def test_dual_focal_tells_logits_apart_whose_probabilities_are_one_number():
    z = torch.tensor([[0.0, -1e-12]])
    assert losses.dual_focal_loss(z, torch.tensor([0])) == pytest.approx(0.6931472, rel=1e-6)
    assert losses.dual_focal_loss(z, torch.tensor([1])) == pytest.approx(0.6931472 / 32, rel=1e-6)


def test_soft_targets_of_large_logits():
    z = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)) - 1e6
    target = (torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    target[:, 0] = 1
    for name in SOFT:
        got, want = (losses.create(name)(x, target.to(x.dtype)) for x in (z, z.double()))
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
