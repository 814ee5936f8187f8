#!/usr/bin/env bash
# triton 3.9.0: a kernel that calls a method of an integer argument, as `n.to(tl.int64)`, runs in the
# interpreter for every n, compiles for n = 3, and does not compile for n = 1: a launch makes an
# argument that equals 1 a constant, and that constant is a Python int without `.to`.
#   CompilationError ... AttributeError("'int' object has no attribute 'to'")
# So tests in the interpreter do not show that a kernel fails for one row or one channel. Here the
# arguments are specialised by Triton's own launcher code and compiled for sm_90; no GPU is needed.
# `tl.cast(n, tl.int64)` takes both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy triton==3.9.0
cd "$folder"
cat > kernels.py <<'PY'
import triton
import triton.language as tl


@triton.jit
def method(pointer, n):
    tl.store(pointer, n.to(tl.int64) * 2)


@triton.jit
def function(pointer, n):
    tl.store(pointer, tl.cast(n, tl.int64) * 2)
PY
TRITON_INTERPRET=1 "$folder/venv/bin/python" - <<'PY'
import torch
from kernels import function, method

for kernel in (method, function):
    for n in (1, 3):
        out = torch.zeros(1, dtype=torch.int64)
        kernel[(1,)](out, n)
        assert out.item() == 2 * n
print("interpreter: both kernels run for 1 and 3")
PY
"$folder/venv/bin/python" - <<'PY'
import torch
import triton
from kernels import function, method
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature


def compiles(kernel, n):
    target = GPUTarget("cuda", 90, 32)
    backend = make_backend(target)
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, kinds, _ = bind(torch.zeros(1, dtype=torch.int64), n)
    names, values = [p.name for p in kernel.params], list(bound.values())
    signature = {name: kind[0] for name, kind in zip(names, kinds)}
    fixed = {(i,): values[i] for i, kind in enumerate(kinds) if kind[0] == "constexpr"}
    try:
        triton.compile(ASTSource(kernel, signature, fixed, {}), target=target)
    except triton.CompilationError as error:
        while error.__cause__ is not None:
            error = error.__cause__
        return str(error).strip().splitlines()[-1]
    return "compiles"


found = {(kernel.__name__, n): compiles(kernel, n) for kernel in (method, function) for n in (1, 3)}
for case, outcome in found.items():
    print(f"triton {triton.__version__}", *case, outcome)
assert found["method", 3] == found["function", 1] == found["function", 3] == "compiles"
assert "'to'" in found["method", 1], found
PY
