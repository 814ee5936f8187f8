"""What `import qact` costs: torch and numpy, and none of the slow or optional packages."""

import subprocess
import sys

import pytest
import torch

from qact._compat import constant_result

HEAVY = ("torch._dynamo", "numba", "scipy", "sklearn", "matplotlib", "pandas", "typer", "timm")


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import qact", ("torch", "numpy", *HEAVY)),
        ("import qact; qact.QAct(3), qact.adapt, qact.convert, qact.record, qact.shift", HEAVY),
    ],
)
def test_importing_imports_nothing_heavy(code, unwanted):
    probe = f"{code}; import sys; print([m for m in {unwanted} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_our_mark_of_a_constant_is_that_of_torch():
    ours, theirs = constant_result(lambda: 1), torch.compiler.assume_constant_result(lambda: 1)
    assert vars(ours) == vars(theirs) != {}
