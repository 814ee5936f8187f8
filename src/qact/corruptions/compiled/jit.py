"""How the passes are compiled: once, kept on disk.

What is kept follows the file of a pass, not the files that it inlines from: whoever edits those
deletes ``__pycache__/*.nb?``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

from qact.kernels.cpu import places as places  # before Numba looks for one

# No fastmath: sums and products stay as they are written.
jit: Callable[..., Any] = njit(nogil=True, cache=True, error_model="numpy")
inline: Callable[..., Any] = njit(nogil=True, inline="always", error_model="numpy")
