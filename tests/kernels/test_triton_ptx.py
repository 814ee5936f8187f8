"""What Triton compiles for a card, run on this processor, against the CPU engine.

A few cases of everything; all tests of `test_triton.py` run so by ``QACT_PTX=90 pytest`` of it.
"""

from __future__ import annotations

import os
from functools import lru_cache

import pytest
import torch

pytest.importorskip("triton._utils")  # since 3.3
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled in the interpreter", allow_module_level=True)

import triton_traffic
from ptx.launches import running
from qact.kernels.cpu import block as cpu
from qact.kernels.triton import block, launch
from triton_kernels import PLANS, following

# Alone in a program and shared out; one of everything, odd, multiples of 16; all plans and dtypes.
CASES = [
    ((1, 1, 1), "relu", torch.float32, 90, True),
    ((70, 1, 1), "steps", torch.bfloat16, 80, True),
    ((5, 2, 7), "continuous", torch.float32, 90, True),
    ((5, 2, 7), "normal", torch.float16, 80, True),
    ((40, 3, 16), "uniform", torch.float32, 90, False),
    ((300, 5, 1), "relu", torch.float32, 80, False),
    ((40, 3, 16), "paper", torch.float32, 90, False),
]


def made(shape, dtype):
    draw = torch.Generator().manual_seed(7)
    z, g = ((2 * torch.randn(shape, generator=draw) + 0.3).to(dtype) for _ in range(2))
    numbers = tuple(torch.rand(shape[1], generator=draw) + 0.5 for _ in range(6))
    return z, g, numbers


@pytest.mark.parametrize(("shape", "level", "dtype", "capability", "alone"), CASES)
def test_what_is_compiled_agrees_with_the_cpu(monkeypatch, shape, level, dtype, capability, alone):
    if not alone:
        for name, value in {"ALONE": 0, "TILE": 128, "FEATURES": 4, "WAVES": 16}.items():
            monkeypatch.setattr(launch, name, value)
        monkeypatch.setattr(launch, "_cut", launch._cut.__wrapped__)
    (z, g, numbers), plan = made(shape, dtype), PLANS[level]
    mine, theirs = following(shape[1]), following(shape[1])
    with running(capability) as ran:
        out, *saved = block.forward(z, plan, numbers, mine)
        dz, grads = block.backward(z, g, plan, numbers, *saved)
    want, *kept = cpu.forward(z, plan, numbers, theirs)
    want_dz, want_grads = cpu.backward(z, g, plan, numbers, *kept)
    assert len(ran) == 2 if alone else len(ran) > 4
    rough = 2e-4 + (0 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps)
    torch.testing.assert_close(out.float(), want.float(), rtol=rough, atol=rough)
    assert (dz.float() - want_dz.float()).norm() <= rough * (want_dz.float().norm() + 1e-6)
    assert (grads - want_grads).abs().max() <= 2e-4 * g.float().norm()
    assert int(mine.batches) == int(theirs.batches) == 1
    # Sums in another order may move a value into the next cell; their number and mean stay.
    mass, _, *centre = mine.context
    other, _, *wanted = theirs.context
    torch.testing.assert_close(mass.sum(1), other.sum(1))
    torch.testing.assert_close(centre, wanted, rtol=1e-4, atol=1e-4)


def test_traffic_is_that_of_every_kernel(monkeypatch):
    shape = (8, 1, 64)
    monkeypatch.setitem(triton_traffic.PROGRAMS, shape, 8)
    for name, value in {"ALONE": 0, "TILE": 64}.items():
        monkeypatch.setattr(launch, name, value)
    monkeypatch.setattr(launch, "_cut", lru_cache(launch._cut.__wrapped__))
    found = triton_traffic.traffic(shape, "relu", zeros=False)
    names = [name for name, _ in found]
    assert names[:4] == ["measure", "count", "table", "lookup"]
    assert names[-4:] == ["table", "sum_in", "finish", "recall"]
    assert all(counts.issued > 0 for _, counts in found)
    # Each value is read once, or read and written, in whole sectors.
    passes = {"measure": 1, "lookup": 2, "sum_out": 2, "finish": 3}
    for name, counts in found:
        if name in passes:
            assert counts.moved >= passes[name] * 4 * 512
    counting = {"count", "spread"} if launch.HISTOGRAM else set()
    assert {name for name, counts in found if counts.atomics} == counting
    assert launch._processors(torch.device("cpu")) == 1
