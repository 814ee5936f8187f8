"""What every entry of the registry must do, whatever its formula."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import qact
from qact.activations import entry

NAMES = qact.list_activations()
C = 6
# Derivatives that are not those of the forward, by the authors' design: tested by themselves.
SURROGATE = {"helu", "smartmixed"}


def made(name: str, dtype: torch.dtype = torch.float32, **options: object) -> nn.Module:
    """The module with its parameters moved a little, so that no term of its formula is idle."""
    torch.manual_seed(1)
    module = qact.activation(name, C, **options).to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.rand_like(parameter)
    return module


def data(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Values that stay a hundredth away from the kinks, which stand at multiples of a half."""
    x = 2 * torch.randn(shape, dtype=dtype)
    near = x - (2 * x).round() / 2
    return torch.where(near.abs() < 0.02, x + 0.05, x)


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_knows_itself(name):
    known = entry(name)
    assert known.paper
    assert known.formula
    assert known.family
    module = qact.activation(name, C)
    trained = {key for key, parameter in module.named_parameters() if parameter.requires_grad}
    assert trained == set(known.parameters)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(4, C), (2, C, 5), (2, C, 3, 3)])
def test_shapes(name, shape):
    module = made(name)
    got = module(data(*shape))
    want = (shape[0], C // 2 if entry(name).halves else C, *shape[2:])
    assert got.shape == want
    assert torch.isfinite(got).all()


@pytest.mark.parametrize("name", NAMES)
def test_inplace_is_accepted(name):
    module, twin = made(name, inplace=True).eval(), made(name).eval()
    _filled(module, twin)
    x = data(4, C, 3, 3)
    torch.testing.assert_close(module(x.clone()), twin(x))


def _filled(*modules: nn.Module) -> None:
    """Let modules that keep statistics see the same batch."""
    torch.manual_seed(2)
    x = torch.randn(64, C, 3, 3)
    for module in modules:
        dtype = next((t.dtype for t in module.parameters()), x.dtype)
        module.train()
        with torch.no_grad():
            module(x.to(dtype))
        module.eval()


@pytest.mark.parametrize("name", NAMES)
def test_eval_does_not_look_at_neighbours(name):
    module = made(name)
    _filled(module)
    x = data(5, C, 3, 3)
    alone = torch.cat([module(row[None]) for row in x])
    torch.testing.assert_close(module(x), alone)


@pytest.mark.parametrize("name", NAMES)
def test_pointwise_is_what_it_says(name):
    module = made(name).train()
    x = data(8, C, 3, 3)
    y = x.clone()
    y[0, 0, 0, 0] += 1.3
    torch.manual_seed(3)
    before = module(x)
    torch.manual_seed(3)
    after = copy.deepcopy(module)(y)
    moved = (before - after).abs() > 1e-6
    moved[0, 0, 0, 0] = False
    if entry(name).pointwise:
        assert not moved.any()
    elif not entry(name).halves and name != "topk":  # its neighbours change only when one gives way
        assert moved.any()


@pytest.mark.parametrize(
    "name", [n for n in NAMES if n not in SURROGATE and not n.startswith("qact")]
)
def test_gradcheck(name):
    module = made(name, torch.float64)
    x = data(3, C, 2, dtype=torch.float64).requires_grad_()
    parameters = [p for p in module.parameters() if p.requires_grad]

    def run(x, *_):
        return copy.deepcopy(module)(x) if not parameters else module(x)

    assert torch.autograd.gradcheck(run, (x, *parameters), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_that_of_float32(name, dtype):
    """Nothing overflows on the way: an output is infinite only where the true value is too large.

    Gradients are finite wherever the true one fits.
    """
    wide = made(name)
    _filled(wide)
    narrow = copy.deepcopy(wide).to(dtype)
    if hasattr(wide, "freeze"):
        wide.freeze(), narrow.freeze()
    for module in (wide, narrow):  # the same parameters, to the last bit
        for target, source in zip(module.parameters(), narrow.parameters(), strict=True):
            target.data = source.detach().to(target.dtype)
    magnitudes = torch.logspace(-3, 4, 60)
    x = torch.cat([-magnitudes.flip(0), magnitudes]).view(20, C, 1).to(dtype)
    a, b = x.float().requires_grad_(), x.clone().requires_grad_()
    want, got = wide(a), narrow(b)
    assert got.dtype == dtype
    limit = torch.finfo(dtype).max
    fits = want.abs() < limit / 2
    assert torch.isfinite(got[fits]).all()
    rough = 2e-2 if dtype == torch.bfloat16 else 4e-3
    torch.testing.assert_close(got[fits].float(), want[fits], rtol=rough, atol=rough)
    want[fits].sum().backward()
    got[fits].sum().backward()
    fits = a.grad.abs() < limit / 2
    assert torch.isfinite(b.grad[fits]).all()


@pytest.mark.parametrize("name", NAMES)
def test_extreme_values_stay_finite(name):
    """In float32 no input up to 1e4 yields a NaN, forwards or backwards."""
    module = made(name)
    _filled(module)
    x = torch.tensor([-1e4, -100.0, -1e-8, 0.0, 1e-8, 1e4]).repeat(4, 1).requires_grad_()
    y = module(x)
    y.sum().backward()
    assert not torch.isnan(y).any()
    assert not torch.isnan(x.grad).any()


DROPS = {"clipact", "fitact", "proact"}  # a NaN is a fault, and faults are what it is there to stop


@pytest.mark.parametrize("name", sorted(set(NAMES) - DROPS))
def test_nan_is_not_hidden(name):
    module = made(name)
    _filled(module)
    x = torch.ones(2, C)
    x[0] = torch.nan
    y = module(x)
    assert torch.isnan(y[0]).any() or not torch.isfinite(y[0]).all()
    assert torch.isfinite(y[1]).all()


@pytest.mark.parametrize("name", NAMES)
def test_compiles_without_a_break(name):
    if name.startswith("qact"):
        pytest.skip("compiled by the tests of the layer")
    torch._dynamo.reset()
    module = made(name)
    _filled(module)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    x = data(4, C, 3, 3)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    want, got = module(a), compiled(b)
    torch.testing.assert_close(got, want)
    slope = torch.randn_like(want)
    want.backward(slope)
    got.backward(slope)
    torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_copies_and_states_travel(name):
    module, twin = made(name), qact.activation(name, C)
    _filled(module)
    twin.load_state_dict(module.state_dict())
    x = data(3, C, 2)
    torch.testing.assert_close(twin.eval()(x), module(x))
    torch.testing.assert_close(copy.deepcopy(module)(x), module(x))


class Side(nn.Module):
    """Many activations side by side: one export serves them all."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        self.each = nn.ModuleList(modules)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(module(x) for module in self.each)


def test_onnx(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    # A quantile in a stored context is a search, which ONNX does not have.
    names = [n for n in NAMES if n != "transported"]
    modules = [made(name) for name in names]
    _filled(*modules)
    x = data(4, C, 3, 3)
    both = Side(modules).eval()
    path = tmp_path / "side.onnx"
    torch.onnx.export(both, (x,), str(path), dynamo=True, verbose=False)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        for name, got, want in zip(names, outputs, both(x), strict=True):
            torch.testing.assert_close(
                torch.from_numpy(got), want, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("name", NAMES)
def test_an_input_without_the_dim_is_a_value_error(name):
    module = made(name)
    if not hasattr(module, "dim") or getattr(module, "num_features", C) is None:
        pytest.skip("takes an input of any shape")
    for shape, valid in (((), "it has no dimensions"), ((C,), "valid values are -1 to 0")):
        with pytest.raises(ValueError, match=f"dim=1 is out of range .*; {valid}"):
            module(torch.zeros(shape))


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_leaves_the_state_alone(name):
    module = made(name)
    _filled(module)
    before = copy.deepcopy(module.state_dict())
    for shape in ((0, C), (0, C, 3, 3), (2, C, 0)):
        for mode in (True, False):
            module.train(mode)
            try:
                assert module(torch.zeros(shape)).numel() == 0
            except ValueError as error:
                assert mode
                assert "empty batch" in str(error)  # noqa: PT017
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key]), key
