#!/usr/bin/env bash
# triton 3.7.0: what `tl.histogram` costs a value grows with the number of bins: every lane compares
# every value of its warp with each of its bins. For 1,024 values and 4 warps on sm_90, population
# counts in the kernel: 16 for 64 bins, 256 for 1,024, 1,024 for 4,096. So one histogram of 8,192 bins
# is dearer than adding to global memory. From 3.8.0 on there are none: a value is one atomic of shared
# memory, however many bins there are. No GPU is needed: kernels are compiled, not run.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/counted.py" <<'PY'
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def counted(values, out, VALUES: tl.constexpr, BINS: tl.constexpr):
    seen = tl.histogram(tl.load(values + tl.arange(0, VALUES)), BINS)
    tl.store(out + tl.arange(0, BINS), seen)


found = []
for bins in (64, 1024, 4096):
    kinds = {"values": "*i32", "out": "*i32", "VALUES": "constexpr", "BINS": "constexpr"}
    source = ASTSource(counted, kinds, {"VALUES": 1024, "BINS": bins})
    kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    found.append((kernel.asm["ptx"].count("popc."), kernel.asm["ptx"].count("atom.")))
    print(f"triton {triton.__version__}, {bins} bins: {found[-1][0]} popc, {found[-1][1]} atom")
popc, atoms = zip(*found)
if sys.argv[1] == "grows":
    assert popc == (16, 256, 1024), popc
else:
    assert popc == (0, 0, 0) and atoms == (8, 8, 8), found
PY
for version in 3.7.0 3.8.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet "triton==$version"
done
cd "$folder"
TRITON_CACHE_DIR="$folder/a" "$folder/3.7.0/bin/python" counted.py grows
TRITON_CACHE_DIR="$folder/b" "$folder/3.8.0/bin/python" counted.py constant
