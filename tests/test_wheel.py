"""The wheel, in an environment with the core or one extra alone: what the README says for it runs.

The environment is new and has the wheel. Everything else is lent by the one that runs the tests,
and of that only what the wheel's own metadata ask for, followed to the end: an import of anything
more fails as it would for a user. So nothing is downloaded.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

from qact.extras import hint

packaging = pytest.importorskip("packaging.requirements")

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]

# Runs before everything in the new environment.
GUARD = """
import re, sys
from importlib.machinery import PathFinder
class Guard(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in hidden else PathFinder.find_spec(name, path, target)
    @classmethod
    def find_distributions(cls, *args, **named):
        for found in PathFinder.find_distributions(*args, **named):
            if re.sub("[-_.]+", "-", found.name or "").lower() in shown:
                yield found
hidden, shown = frozenset({hidden}), frozenset({shown})
sys.meta_path[sys.meta_path.index(PathFinder)] = Guard
"""

USE = """
import torch, qact
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
new = qact.convert(model, example_inputs=torch.randn(3, 4))
new(torch.randn(64, 4)).sum().backward()
with qact.adapting(new.eval(), "batch"):
    assert new(torch.randn(8, 4)).shape == (8, 2)
assert "site-packages" in qact.__file__
"""
COMPILED = "import torch, qact; qact.QAct(2, engine='cpu')(torch.rand(64, 2))"
FIRST = """
import torch, qact
layer = qact.QAct(4)
layer(torch.randn(16, 4, 8, 8).requires_grad_()).sum().backward()
"""
TABLE = """
import numpy as np, qact
X = np.random.default_rng(0).normal(size=(60, 3))
model = qact.sklearn.ShiftRobustClassifier((8,), max_iter=5, random_state=0).fit(X, X[:, 0] > 0)
assert model.adapt(X + 1).predict(X + 1).shape == (60,)
assert len(qact.shift.load("digits", limit=20).test[0]) == 20
"""
FOLDER = """
import numpy as np, qact
from pathlib import Path
from PIL import Image
for label in "ab":
    for i in range(12):
        Path("data", label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(f"data/{label}/{i}.png")
assert qact.shift.from_folder("data", size=8).num_classes == 2
"""
TORCHMETRICS = """
import torch
from qact.integrations.torchmetrics import CalibrationError
metric = CalibrationError()
metric.update(torch.tensor([[0.2, 0.8]]), torch.tensor([1]))
assert abs(float(metric.compute()) - 0.2) < 1e-6
"""
LIGHTNING = "import qact; qact.lightning.RecordContexts(batches=2)"
TENSORBOARD = """
from pathlib import Path
from torch.utils.tensorboard import SummaryWriter
SummaryWriter("logs").add_scalar("loss", 1.0, 1)
"""
ONNX = """
import torch, qact, onnxruntime
model = torch.nn.Sequential(torch.nn.Linear(3, 4), qact.QAct(4))
model(torch.randn(64, 3))
x = torch.randn(5, 3)
torch.onnx.export(model.eval(), (x,), "m.onnx", dynamo=True)
found = onnxruntime.InferenceSession("m.onnx").run(None, {"input": x.numpy()})[0]
assert abs(found - model(x).detach().numpy()).max() < 1e-5
"""
MONITOR = """
import torch
from qact.monitor import Monitor, Store, record
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8)).eval()
reference = record(model, torch.randn(200, 4))
with Monitor(model, reference, window=32, store="windows") as monitor:
    for x in torch.randn(4, 32, 4):
        model(x)
assert Store("windows").total().images == 128
"""
DASK = """
import distributed, qact
with distributed.Client(n_workers=1, processes=False, dashboard_address=None) as client:
    with qact.cluster.connect(client) as cluster:
        assert list(cluster.in_order(abs, [-2, 1])) == [2, 1]
"""
RAY = "import ray, qact.integrations.cluster.ray"
TORCHAO = "from qact.integrations.torchao import context_observer"
TRITON = "import qact.kernels.triton.block"

# Per extra: what is run, beside the use that needs none.
RUNS: dict[str | None, list[str]] = {
    None: [],
    "cpu": [COMPILED],
    "triton": [TRITON],
    "images": [FOLDER],
    "sklearn": [TABLE],
    "lightning": [LIGHTNING],
    "bench": [COMPILED, TABLE],
    "tensorboard": [TENSORBOARD],
    "onnx": [ONNX],
    "torchmetrics": [TORCHMETRICS],
    "monitor": [MONITOR],
    "dask": [DASK],
    "ray": [RAY],
    "torchao": [TORCHAO],
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The built wheel; hatchling comes from the environment if it is there, else from the index."""
    folder = tmp_path_factory.mktemp("wheel")
    here = ["--no-build-isolation"] if find_spec("hatchling") else []
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *here, "-w", str(folder)]
    built = subprocess.run([*command, str(ROOT)], capture_output=True, text=True)
    if built.returncode and not here and "hatchling" in built.stderr:
        pytest.skip("hatchling is not installed, and no index has it")
    assert built.returncode == 0, built.stderr
    (found,) = folder.glob("*.whl")
    return found


def closure(requirements: list[str], extra: str | None) -> set[str]:
    """The distributions that an installation with one extra brings, by normal name."""
    found: set[str] = set()
    todo = [(text, extra) for text in requirements]
    while todo:
        text, asked = todo.pop()
        one = packaging.Requirement(text)
        if one.marker and not one.marker.evaluate({"extra": asked or ""}):
            continue
        name = normal(one.name)
        if name in found:
            continue
        found.add(name)
        try:
            more = distribution(name).requires or []
        except PackageNotFoundError:
            pytest.skip(f"{name} is not installed here")
        todo += [(text, wanted) for text in more for wanted in (None, *one.extras)]
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


class Environment:
    """An environment with the wheel and one extra."""

    def __init__(self, folder: Path, wheel: Path, extra: str | None) -> None:
        self.folder = folder
        venv.create(folder / "env", with_pip=False)
        self.bin = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
        python = str(self.bin / "python")
        pip = [sys.executable, "-m", "pip", "--python", python]
        subprocess.run([*pip, "install", "-q", "--no-deps", "--no-index", str(wheel)], check=True)
        ask = "from importlib.metadata import requires; print('\\n'.join(requires('qact')))"
        wanted = self.python(ask).stdout.splitlines()
        there = closure(wanted, extra)
        hidden = {
            module
            for module, owners in packages_distributions().items()
            if there.isdisjoint(map(normal, owners))
        }
        hidden -= {"pip", "setuptools", "pkg_resources", "_distutils_hack"}
        hidden -= set(sys.stdlib_module_names) | {"qact"}
        home = next((folder / "env").rglob("site-packages"))
        guard = GUARD.format(hidden=sorted(hidden), shown=sorted(there | {"qact"}))
        (home / "lent_guard.py").write_text(guard)
        lenders = [path for path in map(Path, sys.path) if path.name == "site-packages"]
        lines = ["import lent_guard", *map(str, lenders)]
        (home / "lent.pth").write_text("\n".join(lines) + "\n")

    def run(self, *command: str) -> subprocess.CompletedProcess:
        """Run a command of the environment outside of the clone."""
        own = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        place = {"cwd": self.folder, "env": own | {"OMP_NUM_THREADS": "1"}}
        return subprocess.run(
            [str(self.bin / command[0]), *command[1:]], capture_output=True, text=True, **place
        )

    def python(self, code: str) -> subprocess.CompletedProcess:
        """Run Python code."""
        return self.run("python", "-c", code)


@pytest.mark.parametrize("extra", RUNS)
def test_an_extra_alone_runs_what_the_readme_says(extra, wheel, tmp_path):
    place = Environment(tmp_path, wheel, extra)
    found = place.python("\n".join((USE, *RUNS[extra])))
    assert found.returncode == 0, found.stderr
    told = place.run("qact", "--help")
    assert told.returncode == 0, told.stderr
    assert "download" in told.stdout
    if extra == "bench":
        done = place.run("qact", "bench", "--quick", "--out", "runs")
        assert done.returncode == 0, done.stderr
        assert {"results.csv", "report.html"} <= {f.name for f in (tmp_path / "runs").iterdir()}


def test_the_first_call_of_an_installation_compiles_nothing_from_python(wheel, tmp_path):
    """The build has lowered the kernels, and Numba has none of its own to keep."""
    place = Environment(tmp_path, wheel, "cpu")
    done = place.python(FIRST)
    assert (done.returncode, done.stderr) == (0, "")
    home = next((tmp_path / "env").rglob("site-packages"))
    kept = {path.suffix for path in (home / "qact/kernels/cpu/__pycache__").glob("*kernel*")}
    assert kept == {".o"}


@pytest.mark.parametrize(
    ("code", "extra"),
    [("from qact.bench import Recipe", "bench"), (COMPILED, "cpu"), (TABLE, "sklearn")],
)
def test_the_core_alone_says_what_is_missing(core, code, extra):
    assert core.python(code).stderr.rstrip().endswith(hint(extra))


def test_the_console_script_of_the_core_alone(core):
    assert re.match(r"qact \d+\.\d+", core.run("qact", "--version").stdout)
    asked = core.run("qact", "bench", "--quick")
    assert (asked.returncode, asked.stdout) == (2, "")
    assert asked.stderr.rstrip().endswith(hint("bench"))


@pytest.fixture(scope="module")
def core(wheel, tmp_path_factory) -> Environment:
    """The wheel and no extra."""
    return Environment(tmp_path_factory.mktemp("core"), wheel, None)


def test_every_extra_is_tried():
    section = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1]
    names = set(re.findall(r"^(\w+) = \[", section.split("\n[")[0], re.M))
    assert names | {None} == set(RUNS)
