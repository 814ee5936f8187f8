"""What a missing package says, wherever one is needed; the hints name extras that there are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from qact import extras

ROOT = Path(__file__).parents[1]
BENCH = ("typer", "rich", "sklearn", "matplotlib", "safetensors", "scipy", "jinja2")
NAMED = re.compile(r"(?:qact|pip install \"\.)\[(\w+)\]|needed\(\"[^\"]*\", \"(\w+)\"\)")

WITHOUT = """
import sys
code = sys.argv.pop()
sys.modules.update(dict.fromkeys({missing}))  # as if they were not installed
exec(code)
"""


def without(packages: tuple[str, ...], code: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run Python code where some packages are missing."""
    script = WITHOUT.format(missing=packages)
    command = [sys.executable, "-c", script, *arguments, code]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("packages", "code", "extra"),
    [
        (BENCH, "from qact.bench import Recipe", "bench"),
        (("rich",), "import qact; from qact import bench", "bench"),
        (("sklearn",), "import qact; qact.sklearn", "sklearn"),
        (("sklearn",), "import qact; qact.shift.load('digits')", "sklearn"),
        (("lightning", "pytorch_lightning"), "import qact; qact.lightning", "lightning"),
        (
            ("pyarrow",),
            "from qact.monitor import Store; import tempfile;"
            "Store(tempfile.mkdtemp() + '/w')._write(None, None, '', ())",
            "monitor",
        ),
        (("river",), "from qact.monitor import create; create('adwin')", "monitor"),
        (("torchmetrics",), "import qact.integrations.torchmetrics", "torchmetrics"),
        (("matplotlib",), "from qact.calibration.plots import _axes; _axes(1)", "bench"),
        (
            ("numba",),
            "import torch, qact; qact.QAct(2, engine='cpu')(torch.rand(4, 2))",
            "cpu",
        ),
        (
            ("PIL",),
            "from pathlib import Path; from qact.datasets.folders import _pixels;"
            "_pixels(Path('a.png'), None)",
            "images",
        ),
    ],
)
def test_what_is_missing_names_the_extra(packages, code, extra):
    found = without(packages, code)
    assert found.returncode == 1
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("qact.extras.MissingExtraError: ")
    assert last.endswith(extras.hint(extra))


def test_a_broken_package_of_ours_is_no_missing_extra():
    with pytest.raises(ModuleNotFoundError, match="nonsense") as caught, extras.needed("x", "cpu"):
        import qact.nonsense  # noqa: F401
    assert not isinstance(caught.value, extras.MissingExtraError)


def test_without_the_bench_the_console_script_says_what_is_behind_it():
    app = "from qact.cli import app; app()"
    for arguments in ([], ["--help"]):
        found = without(BENCH, app, *arguments)
        assert (found.returncode, found.stderr) == (0, "")
        assert extras.hint("bench") in found.stdout
    found = without(BENCH, app, "--version")
    assert re.fullmatch(r"qact \d+\.\d+\.\d+\n", found.stdout)
    found = without(BENCH, app, "bench", "--quick")
    assert found.returncode == 2
    assert (
        found.stderr
        == f"qact: the command line needs typer, which is not installed: {extras.hint('bench')}\n"
    )


def test_the_commands_that_are_named_are_those_that_there_are():
    get_command = pytest.importorskip("typer.main").get_command
    from qact.cli import COMMANDS
    from qact.cli.commands import commands

    assert tuple(sorted(get_command(commands).commands)) == COMMANDS


def test_every_extra_that_is_named_is_there():
    project = (ROOT / "pyproject.toml").read_text()
    section = project.split("[project.optional-dependencies]")[1].split("\n[")[0]
    known = set(re.findall(r"^(\w+) = \[", section, re.M))
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.py")]
    named = {a or b for page in pages for a, b in NAMED.findall(page.read_text())}
    assert {"bench", "cpu", "sklearn"} <= named <= known


def test_every_hint_serves_a_clone_too():
    """A bare `pip install "qact[...]"` fails for somebody who has a clone."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.py")]
    for page in pages:
        text = " ".join(page.read_text().split())
        for place in re.finditer(r"pip install [\"']qact\[", text):
            assert 'pip install ".[' in text[place.end() : place.end() + 60], page.name
