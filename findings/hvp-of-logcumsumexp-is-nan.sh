#!/usr/bin/env bash
# torch 2.13.0 (2.15.0 the same): `torch.autograd.functional.jvp` and `hvp` are NaN for every function that passes
# through `logcumsumexp`, at ordinary finite values. They differentiate the backward pass by its incoming gradient at
# zero, and the backward pass of logcumsumexp takes the logarithm of that gradient. Sum of squares of logcumsumexp of
# -1, -0.5, 0, 0.5, 1, the vector (1, ..., 1):
#   autograd.functional.hvp               NaN in each place
#   autograd.functional.vhp, hessian @ v  3.447, 2.385, ...
#   torch.func.jvp of torch.func.grad     the same; and hvp of log(cumsum(exp(x)))
# Way round: `vhp`, as a Hessian is symmetric, or torch.func.jvp.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import torch
from torch.autograd import functional as A

print(f"torch {torch.__version__}")
x, v = torch.linspace(-1, 1, 5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)


def fused(x):
    return x.logcumsumexp(0)


def plain(x):
    return x.exp().cumsum(0).log()


def squares(f):
    return lambda x: f(x).square().sum()


step = 1e-4
grad = torch.func.grad(squares(plain))
right = (grad(x + step * v) - grad(x - step * v)) / (2 * step)
print("central differences   ", right)
products = {
    "vhp": A.vhp(squares(fused), x, v)[1],
    "hessian": A.hessian(squares(fused), x) @ v,
    "func": torch.func.jvp(torch.func.grad(squares(fused)), (x,), (v,))[1],
    "hvp, log(cumsum(exp))": A.hvp(squares(plain), x, v)[1],
}
for name, product in products.items():
    print(f"{name:22}", product)
    assert torch.allclose(product, right, rtol=1e-5), name
directions = {"jvp": A.jvp(fused, x, v)[1], "hvp": A.hvp(squares(fused), x, v)[1]}
for name, found in directions.items():
    print(f"{name:22}", found)
    assert found.isnan().all(), name
for f in (fused, plain):
    forward = torch.func.jvp(f, (x,), (v,))[1]
    assert torch.allclose(forward, torch.ones_like(x)), forward  # logcumsumexp(x + c) = c + ...
assert torch.allclose(A.jvp(plain, x, v)[1], torch.ones_like(x))
PY
