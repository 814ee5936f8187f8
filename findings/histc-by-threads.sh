#!/usr/bin/env bash
# torch 2.13.0, CPU: `torch.histc` and `torch.histogram` of float32 count in float32, one value after
# the other in each thread, so a bin stops at 16,777,216 per thread. Of 40,000,000 equal values
#   1 thread   counts 16,777,216
#   2 threads  count  33,554,432
# without a word: the histogram depends on how many threads there are. `torch.bincount` with weights
# of float32 stops at 16,777,216 with any number of them; without weights it is exact.
# Way round: float64 values, parts of at most 2^24 values summed in int64, or bincount of indices.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PY'
import torch

print(f"torch {torch.__version__}")
ones, found = torch.ones(40_000_000), {}
for threads in (1, 2):
    torch.set_num_threads(threads)
    found["histc", threads] = int(torch.histc(ones, 1, 0, 2))
    found["histogram", threads] = int(torch.histogram(ones, 1, range=(0.0, 2.0)).hist)
    found["bincount, weights", threads] = int(torch.bincount(ones.int(), weights=ones)[1])
    found["bincount", threads] = int(torch.bincount(ones.int())[1])
for key, count in found.items():
    print(*key, "thread(s):", f"{count:,}", "of 40,000,000")
assert int(torch.histc(ones.double(), 1, 0, 2)) == 40_000_000
assert found == {
    ("histc", 1): 1 << 24, ("histogram", 1): 1 << 24,
    ("histc", 2): 1 << 25, ("histogram", 2): 1 << 25,
    ("bincount, weights", 1): 1 << 24, ("bincount, weights", 2): 1 << 24,
    ("bincount", 1): 40_000_000, ("bincount", 2): 40_000_000,
}, found
PY
