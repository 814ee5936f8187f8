"""Where Triton cannot be installed, its kernels have no doctests to collect."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("triton") else ["src/qact/kernels/triton/*"]
