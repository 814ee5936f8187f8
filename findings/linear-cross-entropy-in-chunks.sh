#!/usr/bin/env bash
# torch 2.13.0 (2.15.0 the same), CPU: `linear_cross_entropy(..., options=LinearCrossEntropyOptions())`, the way
# in chunks of the batch that is said to be the same loss for less memory, is not in three places.
#   bfloat16: the running loss is kept in bfloat16, whatever `acc_dtype` and `acc_policy` ask for, and stops
#     growing once a chunk is less than half a step of it. 1,024 rows of 32 features, 32,768 classes, loss 10.55:
#       options=None 10.5, options by default 4 (1,024 chunks), the same with float32 and "accurate" asked for;
#       float16 is right. The gradients do not come from that sum: training goes on, and the logged loss is wrong.
#   ignored rows: their target is read as class 0 and multiplied by 0. With class 0 (padding) masked by a bias
#     of -inf the loss is NaN, where options=None gives that of the other rows.
#   a batch of ignored rows: both say NaN for the mean, but gradients of options=None are 0, those in chunks NaN.
# Way round: reduction="none" and the mean in float32 (the first); a large negative bias (the second).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import math

import torch
from torch.nn import LinearCrossEntropyOptions
from torch.nn import functional as F

torch.manual_seed(0)
print(f"torch {torch.__version__}")
ways = {
    "options=None": None,
    "by default": LinearCrossEntropyOptions(),
    "float32, accurate, row by row": LinearCrossEntropyOptions(
        acc_policy="accurate", acc_dtype=torch.float32, batch_chunk_size=1
    ),
}


def losses(dtype):
    x, weight = torch.randn(1024, 32).to(dtype), (torch.randn(32768, 32) / 10).to(dtype)
    target = torch.randint(32768, (1024,))
    found = {"exact": float(F.cross_entropy(x.double() @ weight.double().T, target))}
    for name, options in ways.items():
        found[name] = float(F.linear_cross_entropy(x, weight, target, options=options))
        rows = F.linear_cross_entropy(x, weight, target, options=options, reduction="none")
        assert abs(float(rows.float().mean()) - found["exact"]) < 0.01, (name, rows)
    print(dtype, {name: round(loss, 3) for name, loss in found.items()})
    return found


half = losses(torch.float16)
assert all(abs(half[name] - half["exact"]) < 0.01 for name in ways), half
brain = losses(torch.bfloat16)
assert abs(brain["options=None"] - brain["exact"]) < 0.05, brain
assert all(brain[name] < 0.6 * brain["exact"] for name in list(ways)[1:]), brain


def ignoring(target, bias, options):
    torch.manual_seed(1)
    x, weight = torch.randn(6, 4), torch.randn(5, 4)
    x.requires_grad_()
    loss = F.linear_cross_entropy(x, weight, target, linear_bias=bias, options=options)
    loss.backward()
    kept = target != -100
    exact = F.cross_entropy((x @ weight.T + bias)[kept], target[kept]).item()
    return loss.item(), x.grad, exact


padding = torch.tensor([-math.inf, 0, 0, 0, 0])
for name, target, bias in (
    ("class 0 masked, two rows ignored", torch.tensor([1, 2, 3, 4, -100, -100]), padding),
    ("all rows ignored", torch.full((6,), -100), torch.zeros(5)),
):
    plain, plain_grad, exact = ignoring(target, bias, None)
    chunked, chunked_grad, _ = ignoring(target, bias, ways["by default"])
    print(f"{name}: loss {plain:.4f} and {chunked:.4f} in chunks, gradient of the first row:")
    print(f"  {plain_grad[0].tolist()}\n  {chunked_grad[0].tolist()}")
    if target.max() > 0:
        assert abs(plain - exact) < 1e-5, (plain, exact)
        assert math.isnan(chunked), chunked
        assert torch.allclose(plain_grad, chunked_grad), (plain_grad, chunked_grad)
    else:
        assert math.isnan(plain), plain
        assert math.isnan(chunked), chunked
        assert plain_grad.eq(0).all(), plain_grad
        assert chunked_grad.isnan().all(), chunked_grad
PY
