#!/usr/bin/env bash
# triton 3.9.0, sm_90: a scalar that `tl.reduce` returns is not one number but one of every lane. Each lane
# exchanges its partial result with a partner's and combines them with its own in front; so two lanes
# work out f(a, b) and f(b, a). Where f is the usual combination of two means (count, mean, sum of
# squares), which commutes but for rounding, the 32 lanes of a warp end with several means: `v - mean`
# takes another one in each lane, and all of them store theirs to one address of shared memory,
# unguarded, for the other warps. Triton's interpreter gives one number. (That such stores race is
# triton-lang/triton issue 7264; that combinations should commute, issue 4962.)
# Seen: 7 exchanges of the mean (5 in a warp, 2 among four warps); each lane's own operand is first in all;
# the stores are not guarded; of 32 standard normal values come 3.5 different float32 means, at most 9.
# No GPU is needed: the kernel is compiled, and its five steps are repeated in NumPy.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/means.py" <<'PY'
import re

import numpy as np
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def combined(n1, m1, s1, n2, m2, s2):
    n, gap = n1 + n2, m2 - m1
    share = n2 / n
    return n, m1 + gap * share, s1 + s2 + gap * gap * n1 * share


@triton.jit
def centred(x, out, BLOCK: tl.constexpr):
    v = tl.load(x + tl.arange(0, BLOCK))
    _, mean, _ = tl.reduce((v * 0 + 1, v, v * 0), 0, combined)
    tl.store(out + tl.arange(0, BLOCK), v - mean)


kinds = {"x": "*fp32", "out": "*fp32", "BLOCK": "constexpr"}
options = {"num_warps": 4, "enable_fp_fusion": False}
source = ASTSource(centred, kinds, {"BLOCK": 128})
ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]

# Of each exchange: what was sent, and what came. The gap is what came minus one's own, in all lanes.
pairs = re.findall(r"shfl\.sync\.bfly\.b32\s+(%r\d+), (%r\d+),", ptx)
own_first = sum(
    bool(re.search(rf"sub\.\S*f32\s+%r\d+, {re.escape(came)}, {re.escape(own)};", ptx))
    for came, own in pairs
)
stores = re.findall(r"^.*st\.shared.*$", ptx, re.M)
guarded = sum("@" in line for line in stores)
print(f"triton {triton.__version__}: {own_first} exchanged means, one's own in front")
print(f"{len(stores)} stores of partial results, {guarded} of them by chosen lanes")
assert own_first == 7, own_first
assert len(stores) == 3 and guarded == 0, stores


def lanes(v):
    """The means that 32 lanes hold after the five steps of a warp."""
    n, m = np.ones(32, np.float32), v.copy()
    for step in (16, 8, 4, 2, 1):
        other = np.arange(32) ^ step
        n2, m2 = n[other], m[other]
        total = n + n2
        n, m = total, m + (m2 - m) * (n2 / total)
    return m


draw = np.random.default_rng(0)
several = [len(np.unique(lanes(draw.standard_normal(32).astype(np.float32)))) for _ in range(1000)]
print(f"different means in one warp: {np.mean(several):.1f} on average, at most {max(several)}")
assert np.mean(several) > 1.5 and max(several) > 2
PY
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "triton==3.9.0" "numpy==2.4.0"
cd "$folder"
TRITON_CACHE_DIR="$folder/cache" "$folder/venv/bin/python" means.py
