#!/usr/bin/env bash
# duckdb 2.0.1: sem(x), "the standard error of the mean", divides the standard deviation of the population by
# the root of n; its own stddev(x) is that of a sample, and so is the standard error of scipy, pandas and the
# textbooks. Error bars over few seeds come out too narrow by sqrt((n - 1) / n):
#   0, 1          sem 0.354   stddev / sqrt(n) 0.5
#   0, 1, 2       sem 0.471   stddev / sqrt(n) 0.577
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --only-binary :all: duckdb==2.0.1
"$folder/venv/bin/python" - <<'PY'
import math

import duckdb

print(f"duckdb {duckdb.__version__}")
for n in (2, 3, 10):
    query = f"select sem(x), stddev(x), stddev_pop(x) from range({n}) t(x)"
    ((sem, sample, population),) = duckdb.sql(query).fetchall()
    print(f"n={n}: sem {sem:.4f}, stddev / sqrt(n) {sample / math.sqrt(n):.4f}")
    assert abs(sem - population / math.sqrt(n)) < 1e-12
    assert sem < 0.96 * sample / math.sqrt(n)
PY
