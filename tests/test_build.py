"""The hook of the build: kernels lowered where that can be done, and never a reason to fail."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("hatchling")
ROOT = Path(__file__).parents[1]
FOLDER = "qact/kernels/cpu/lowered/"
posix = pytest.mark.skipif(os.name != "posix", reason="groups of processes")


@pytest.fixture
def build(monkeypatch):
    """The hook's module, in an environment that says nothing about it."""
    for name in ("QACT_LOWER", "PIP_NO_INDEX", "UV_NO_INDEX", "UV_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class App:
    """What a hook may tell the user through."""

    def __init__(self):
        self.told = []

    def display_warning(self, text):
        self.told.append(text)


def hook(build, root=ROOT):
    return build.Lowered(str(root), {}, None, None, "", "wheel", App())


def built(hook, version="standard"):
    """What a build would force into a wheel, after everything that the hook does."""
    data = {"force_include": {}}
    hook.initialize(version, data)
    hook.finalize(version, data, "")
    assert not Path(hook.aside).exists()
    return data["force_include"]


@pytest.mark.parametrize(
    ("says", "asked"),
    [
        ({}, ["numba>=0.60"]),
        ({"QACT_LOWER": "all"}, ["numba>=0.60"]),
        ({"QACT_LOWER": "0"}, []),
        ({"PIP_NO_INDEX": "1"}, []),
        ({"UV_OFFLINE": "1"}, []),
    ],
)
def test_numba_is_asked_for_where_it_is_not_there(build, monkeypatch, says, asked):
    monkeypatch.setattr(build, "has_wheels", lambda: True)
    monkeypatch.setattr(build, "has_numba", lambda environment: False)
    for name, value in says.items():
        monkeypatch.setenv(name, value)
    assert hook(build).dependencies() == asked
    monkeypatch.setattr(build, "has_numba", lambda environment: True)
    assert hook(build).dependencies() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("platform.python_implementation", lambda: "PyPy"),
        ("platform.machine", lambda: "riscv64"),
        ("platform.libc_ver", lambda: ("", "")),  # musl
        ("sysconfig.get_config_var", lambda name: 1),  # without a global lock
        ("sys.version_info", (3, 15)),
    ],
)
def test_numba_is_not_asked_for_where_it_has_no_wheels(build, monkeypatch, name, value):
    usual = {
        "platform.python_implementation": lambda: "CPython",
        "platform.machine": lambda: "x86_64",
        "platform.libc_ver": lambda: ("glibc", "2.36"),
        "sysconfig.get_config_var": lambda name: None,
        "sys.version_info": (3, 14),
    }
    monkeypatch.setattr(build, "sys", SimpleNamespace(**vars(sys)))
    build.sys.platform = "linux"
    for place, use in usual.items():
        module, _, attribute = place.partition(".")
        monkeypatch.setattr(getattr(build, module), attribute, use)
    assert build.has_wheels()
    module, _, attribute = name.partition(".")
    monkeypatch.setattr(getattr(build, module), attribute, value)
    assert not build.has_wheels()


def test_the_environment_outside_is_the_one_without_what_isolates(build, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "overlay")
    monkeypatch.setenv("PYTHONNOUSERSITE", "1")
    assert not any(name.startswith("PYTHON") for name in build.outside())
    assert build.outside()["PATH"] == os.environ["PATH"]


def test_what_was_lowered_is_put_into_the_wheel(build, monkeypatch):
    asked = []
    monkeypatch.setattr(build, "lower", lambda *of: asked.append(of))
    ((folder, goal),) = built(hook(build)).items()
    assert asked == [(ROOT / "src", Path(folder), False)]
    assert ROOT not in Path(folder).parents
    assert f"{goal}/" == FOLDER


def test_an_editable_installation_has_it_beside_its_sources(build, monkeypatch):
    asked = []
    monkeypatch.setattr(build, "lower", lambda *of: asked.append(of))
    assert built(hook(build), "editable") == {}
    assert asked == [(ROOT / "src", ROOT / "src" / FOLDER, False)]


def refused(*of):
    raise PermissionError("no")


@pytest.mark.parametrize("lower", [lambda *of: "no", refused])
def test_a_failure_is_said_and_is_one_only_where_lowering_was_asked_for(build, monkeypatch, lower):
    monkeypatch.setattr(build, "lower", lower)
    one = hook(build)
    assert built(one) == {}
    assert one.app.told == ["kernels will be compiled at first use: no"]
    monkeypatch.setenv("QACT_LOWER", "all")
    with pytest.raises(RuntimeError, match="QACT_LOWER=all, but no"):
        built(hook(build))
    monkeypatch.setenv("QACT_LOWER", "0")
    assert built(hook(build)) == {}


def test_without_numba_nothing_is_started(build, monkeypatch):
    monkeypatch.setattr(build, "has_numba", lambda environment: False)
    monkeypatch.setattr(build, "failure", refused)
    assert build.lower(ROOT, ROOT, False) == "Numba is not installed"


def test_a_command_is_run_beside_the_sources_without_options_of_numba(build, monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    asked = []
    monkeypatch.setattr(build, "has_numba", lambda environment: "PYTHONPATH" in environment)
    monkeypatch.setattr(build, "failure", lambda *of: asked.append(of))
    monkeypatch.setenv("PYTHONPATH", "overlay")
    assert build.lower(Path("sources"), Path("there"), True) is None
    ((command, environment),) = asked
    assert command[1:] == ["-m", "qact.kernels.cpu.lower", "there", "--all"]
    assert environment["PYTHONPATH"] == os.pathsep.join(["sources", "overlay"])
    assert "NUMBA_DISABLE_JIT" not in environment


def test_the_last_line_of_a_command_that_fails_is_its_reason(build):
    code = "import sys; print('before'); sys.exit('why')"
    environment = dict(os.environ)
    assert build.failure([sys.executable, "-c", code], environment) == "why"
    assert build.failure([sys.executable, "-c", "print(1)"], environment) is None


# Starts a process that would live for long, says which, and waits.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open(sys.argv[1] + ".part", "w") as file:
    file.write(str(child.pid))
import os
os.replace(sys.argv[1] + ".part", sys.argv[1])
time.sleep(600)
"""
BUILD = """
import importlib.util, os, signal, sys
# A shell has it ignored in what it runs aside.
signal.signal(signal.SIGINT, signal.default_int_handler)
spec = importlib.util.spec_from_file_location("hatch_build", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.failure([sys.executable, "-c", sys.argv[2], sys.argv[3]], dict(os.environ))
"""


def ended(path):
    """Whether a process whose number is in a file ends within seconds."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        stat = Path(f"/proc/{path.read_text()}/stat")
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def written(path):
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_what_takes_too_long_is_ended_with_all_that_it_has_started(build, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "SECONDS", 3.0)
    command = [sys.executable, "-c", PARENT, str(tmp_path / "child")]
    assert build.failure(command, dict(os.environ)) == "it took more than 3 s"
    assert not (tmp_path / "child").exists() or ended(tmp_path / "child")  # if it came so far


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_an_interrupted_build_leaves_no_process(tmp_path):
    command = [sys.executable, "-c", BUILD, str(ROOT / "hatch_build.py"), PARENT]
    building = subprocess.Popen([*command, str(tmp_path / "child")], stderr=subprocess.DEVNULL)
    assert written(tmp_path / "child")
    building.send_signal(signal.SIGINT)
    building.wait(60)
    assert ended(tmp_path / "child")


@pytest.mark.slow
def test_an_installation_without_numba_is_built_and_has_nothing_lowered(tmp_path):
    """No network, no isolation: only what hatchling needs is there."""
    venv.create(tmp_path / "env", with_pip=False)
    home = next((tmp_path / "env").rglob("site-packages"))
    for name in ("hatchling", "pathspec", "packaging", "pluggy", "trove_classifiers", "tomlkit"):
        spec = importlib.util.find_spec(name)
        if spec is not None:
            place = Path(spec.origin)
            place = place.parent if place.name == "__init__.py" else place
            (home / place.name).symlink_to(place)
    found = wheel(tmp_path, python=tmp_path / "env" / "bin" / "python")
    assert not [name for name in found.namelist() if name.startswith(FOLDER)]
    assert "qact/kernels/cpu/ahead.py" in found.namelist()


def wheel(folder, python):
    """The wheel that a Python builds by itself."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "QACT_"))}
    pip = [sys.executable, "-m", "pip", "--python", str(python), "wheel", "-q", "--no-deps"]
    command = [*pip, "--no-build-isolation", "--no-index", "-w", str(folder / "made"), str(ROOT)]
    done = subprocess.run(command, env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "made").glob("*.whl")
    return zipfile.ZipFile(path)
