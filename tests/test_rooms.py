"""The order of the house: a room imports only from rooms before it, and no file in a circle."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "qact"

# From the ground up. What stands in one line could stand in any order.
ORDER = (
    *("_compat", "_aliases", "locks", "atomic", "checks"),
    *("registry", "extras", "files", "notebook", "terminal"),
    *("first_order", "rank", "vectors", "kernels"),
    *("context", "functional", "surgery"),
    "nn",
    "weights",
    *("activations", "statistics", "losses", "corruptions", "attention"),
    *("models", "calibration", "recalibrate", "datasets", "shift", "taps"),
    "scores",
    *("adapt", "conversion", "integrations"),
    "bench",
    "monitor",
    "cli",
)
# Above the house: the public names. Only what nobody imports may go through that door.
ROOT = "__init__"
THROUGH_THE_DOOR = {"bench", "cli"}


def files() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


FILES = files()


def imports(name: str, path: Path, *, later: bool) -> set[str]:
    """Modules of ours that a file imports; ``later`` counts what its functions import too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[int] = set()
    for node in ast.walk(tree):
        checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not later
        if checking or inside:
            skipped |= {id(child) for child in ast.walk(node)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in FILES else node.module)
    return {module for module in found if module in FILES and module != name}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ROOT


def test_every_room_has_its_place():
    assert {room(name) for name in FILES} - {ROOT} == set(ORDER)
    packages = [path for path in SOURCE.iterdir() if (path / "__init__.py").exists()]
    assert len(packages) <= 22


@pytest.mark.parametrize("module", sorted(set(FILES) - {"qact"}))
def test_arrows_point_one_way(module):
    own = room(module)
    wrong = []
    for other in imports(module, FILES[module], later=True):
        if room(other) == ROOT:
            if own not in THROUGH_THE_DOOR:
                wrong.append(other)
        elif ORDER.index(room(other)) > ORDER.index(own):
            wrong.append(other)
    assert not wrong, f"{own} stands below {', '.join(map(room, wrong))}"


def test_no_file_goes_in_a_circle():
    graph = {name: imports(name, path, later=False) for name, path in FILES.items()}
    # What is taken from a package's own face does not count: it is there when its parts are.
    open_: dict[str, int] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name in open_:
            return
        for other in graph[name]:
            if not name.startswith(f"{other}."):
                visit(other, (*trail, name))
        open_[name] = 1

    for name in graph:
        visit(name, ())


def private(path: Path) -> list[str]:
    """Names of torch in a file that begin with an underscore."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            found.append(ast.unparse(node))
    return sorted(
        {
            name
            for name in found
            if re.fullmatch(r"(torch|nn|F)(\.\w+)*\._[a-zA-Z]\w*(\.\w+)*", name)
        }
    )


def test_one_file_reaches_into_torch():
    """So that one file says which version has what."""
    reach = {name: private(path) for name, path in FILES.items()}
    assert reach.pop("qact._compat")
    assert {name: names for name, names in reach.items() if names} == {}
