"""`Registry`: names are unique, entries have a paper, and who errs is told what there is."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module

import pytest

from qact.registry import Entry, Registry, unknown


@dataclass(frozen=True)
class Coloured(Entry):
    colour: str = "grey"


@pytest.fixture
def registry():
    made = Registry("apple", Coloured)
    made.add("elstar", str, paper="van der Graaf 1972", colour="red")
    made.add("gala", int, paper="Kidd 1962", colour="red")
    made.add("golden", int, paper="Mullins 1905", colour="yellow")
    return made


def test_names_by_pattern_and_fact(registry):
    assert list(registry) == ["elstar", "gala", "golden"]
    assert registry.names("g*") == ["gala", "golden"]
    assert registry.names(colour="red") == ["elstar", "gala"]
    assert len(registry) == 3
    assert "gala" in registry
    assert "pear" not in registry
    assert registry["gala"].make is int


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda r: r["gaal"], ValueError, "unknown apple 'gaal'; did you mean 'gala'"),
        (lambda r: r[3], ValueError, "unknown apple 3; known: elstar, gala, golden"),
        (lambda r: r.register("gala", paper="x"), ValueError, "an apple named 'gala' is reg"),
        (lambda r: r.register("", paper="x"), ValueError, "name='' must be a name for an apple"),
        (lambda r: r.register("idared", paper=""), ValueError, "must name its paper, got ''"),
        (lambda r: r.register("idared"), ValueError, "must name its paper, got None"),
        (lambda r: r.register("idared", paper="x", taste=1), TypeError, "no field 'taste'"),
        (lambda r: r.names(taste=1), ValueError, "no field 'taste'; it has name, make, paper, col"),
    ],
)
def test_refusals(registry, call, error, text):
    with pytest.raises(error, match=text):
        call(registry)
    assert len(registry) == 3


def test_a_room_is_imported_at_the_first_look_up(tmp_path, monkeypatch):
    (tmp_path / "orchard").mkdir()
    (tmp_path / "orchard" / "__init__.py").write_text("")
    (tmp_path / "orchard" / "home.py").write_text(
        "from qact.registry import Entry, Registry\n"
        "APPLES = Registry('apple', Entry, room='orchard')\n"
    )
    (tmp_path / "orchard" / "boskoop.py").write_text(
        "from orchard.home import APPLES\nAPPLES.add('boskoop', str, paper='Ottolander 1856')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from orchard.home import APPLES

    assert "orchard.boskoop" not in sys.modules
    assert APPLES.names() == ["boskoop"]
    for name in ("orchard", "orchard.home", "orchard.boskoop"):
        monkeypatch.delitem(sys.modules, name)


def test_a_room_that_fails_is_tried_again():
    registry = Registry("apple", Entry, room="no_such_orchard")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_orchard"):
            registry.names()


def test_errors_are_of_the_rooms_own_kind():
    class AppleError(ValueError):
        pass

    with pytest.raises(AppleError):
        Registry("apple", Entry, error=AppleError)["x"]
    assert isinstance(unknown("apple", "x", [], error=AppleError), AppleError)


ROOMS = {
    "activations": ("activation", "relu"),
    "calibration": ("calibrator", "temperature"),
    "losses": ("loss", "triplet"),
    "models": ("model", "resnet18"),
}


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_the_same_verbs(room, monkeypatch):
    kind, known = ROOMS[room]
    found = import_module(f"qact.{room}")
    monkeypatch.setattr(registry_of(room), "_entries", dict(registry_of(room)._entries))
    assert known in found.names()
    assert found.names(known[:-1] + "?") == [known]
    assert all(found.entry(name).paper for name in found.names())
    with pytest.raises(ValueError, match=f"unknown {kind} '{known}x'; did you mean '{known}'"):
        found.create(f"{known}x")
    facts = {"paper": "mine"} | ({"formula": "x"} if room == "activations" else {})
    with pytest.raises(ValueError, match=f"named '{known}' is registered already"):
        found.register(known, **facts)
    found.register("mine", **facts)(lambda **options: 3)
    assert found.create("mine") == 3


def registry_of(room):
    found = import_module(f"qact.{room}.registry")
    registry = getattr(found, {"calibration": "CALIBRATORS"}.get(room, room.upper()))
    registry.names()  # the room has been imported
    return registry


def test_who_takes_a_name_before_the_room_is_imported_is_refused_himself():
    code = """
from torch import nn
from qact.activations import create, register
class Mine(nn.Identity): pass
try:
    register("relu", paper="mine", formula="x")(Mine)
except ValueError as error:
    assert "registered already" in str(error)
assert type(create("relu")) is nn.ReLU
"""
    subprocess.run([sys.executable, "-c", code], check=True)
