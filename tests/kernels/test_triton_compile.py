"""Triton's kernels compile for a GPU, whatever a launch knows of its arguments."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton._utils")  # since 3.3
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("nothing is compiled in the interpreter", allow_module_level=True)

from qact.kernels.triton import launch
from triton_kernels import CAPABILITIES, DTYPES, PLANS, SHAPES, compile_all

# One of everything; odd numbers; multiples of 16; one program a channel, and several.
FEW = [
    ((1, 1, 1), "relu", torch.float32, 90),
    ((1, 1, 1), "steps", torch.float16, 80),
    ((5, 2, 7), "normal", torch.bfloat16, 90),
    ((4096, 1, 16), "relu", torch.bfloat16, 90),
    ((17000, 1, 1), "steps", torch.float32, 90),
    ((20000, 33, 1), "uniform", torch.float16, 80),
]


def kernels_of(shape, level, dtype, capability, affine=True):
    return compile_all(shape, PLANS[level], dtype, capability, affine)


@pytest.mark.parametrize(("shape", "level", "dtype", "capability"), FEW)
def test_kernels_compile(shape, level, dtype, capability):
    found = kernels_of(shape, level, dtype, capability)
    assert len(found) >= 2  # forward and backward
    assert all(len(kernel.asm["cubin"]) > 0 for _, kernel in found)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", PLANS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_whole_matrix_compiles(shape, level, dtype, capability):
    for affine in (True, False):
        assert kernels_of(shape, level, dtype, capability, affine)


def test_kernels_chain_no_three_conditions():
    """Triton 3.3 compiles none; nothing newer would show it."""
    for path in sorted(Path(launch.__file__).parent.glob("*.py")):
        functions = [f for f in ast.walk(ast.parse(path.read_text())) if is_kernel(f)]
        chains = [c for f in functions for c in ast.walk(f) if isinstance(c, ast.BoolOp)]
        assert all(len(c.values) == 2 for c in chains), path


def test_kernels_sort_no_infinity():
    """Triton 3.3 takes one of two by a product with zero, which makes NaN of it."""
    found = []
    for path in sorted(Path(launch.__file__).parent.glob("*.py")):
        text = path.read_text()
        found += [
            ast.get_source_segment(text, call)
            for call in ast.walk(ast.parse(text))
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "tl.sort"
        ]
    assert len(found) == 1
    assert "inf" not in found[0]


def is_kernel(node):
    named = getattr(node, "decorator_list", [])
    return isinstance(node, ast.FunctionDef) and "triton.jit" in map(ast.unparse, named)


def test_the_matrix_would_show_a_kernel_that_only_the_interpreter_accepts(monkeypatch):
    import triton
    import triton.language as tl

    from triton_kernels import compiling

    @triton.jit
    def careless(pointer, C):
        tl.store(pointer, C.to(tl.int64))  # an argument of 1 is a constant, and has no `.to`

    with compiling(90), pytest.raises(Exception, match=r"\.to"):
        careless[(1,)](torch.zeros(4, dtype=torch.int64), 1)
    with compiling(90) as found:
        careless[(1,)](torch.zeros(4, dtype=torch.int64), 3)
    assert len(found) == 1
