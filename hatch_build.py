"""The CPU's kernels, lowered where an installation is built from sources, for a short first call.

Three quarters of what Numba would do at the first call are done here (`qact.kernels.cpu.lower`).
A failure is no reason to fail: where Numba cannot be had, or does not do, nothing is lowered, and
kernels are compiled at first use. ``QACT_LOWER=0`` asks for that; ``QACT_LOWER=all`` lowers for
every kind of processor, as a wheel for others wants it, or fails.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PLACE = Path("qact", "kernels", "cpu", "lowered")
SECONDS = 300.0  # a build that takes longer goes on without


class Lowered(BuildHookInterface):
    """Adds the folder that `qact.kernels.cpu.ahead` reads."""

    def dependencies(self) -> list[str]:
        """Numba, if it is to be had as a wheel and is not there: what is there is the right one."""
        offline = any(map(os.environ.get, ("PIP_NO_INDEX", "UV_NO_INDEX", "UV_OFFLINE")))
        if asked() == "0" or offline or not has_wheels() or has_numba(outside()):
            return []
        return ["numba>=0.60"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Lower the kernels; where the sources are to be edited, beside them."""
        self.aside = tempfile.mkdtemp()
        if asked() == "0":
            return
        source, editable = Path(self.root, "src"), version == "editable"
        folder = source / PLACE if editable else Path(self.aside, "lowered")
        try:
            reason = lower(source, folder, asked() == "all")
        except OSError as error:
            reason = str(error)
        if reason is not None and asked() == "all":
            raise RuntimeError(f"QACT_LOWER=all, but {reason}")
        if reason is not None:
            self.app.display_warning(f"kernels will be compiled at first use: {reason}")
        elif not editable:
            build_data["force_include"][str(folder)] = PLACE.as_posix()

    def finalize(self, version: str, build_data: dict[str, Any], artifact: str) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self.aside, ignore_errors=True)


def asked() -> str:
    """What the variable of the environment says."""
    return os.environ.get("QACT_LOWER", "")


def has_wheels() -> bool:
    """Whether there are wheels of Numba for this Python; it would need a compiler without."""
    usual = platform.python_implementation() == "CPython" and sys.version_info < (3, 15)
    if not usual or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return False
    if sys.platform == "linux" and platform.libc_ver()[0] != "glibc":
        return False
    system = f"{sys.platform} {platform.machine().lower()}"
    return system in ("linux x86_64", "linux aarch64", "darwin arm64", "win32 amd64")


def outside() -> dict[str, str]:
    """The environment that is installed into, without what isolates a build from it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def has_numba(environment: dict[str, str]) -> bool:
    """Whether Python finds Numba there."""
    code = "import importlib.util as u; raise SystemExit(u.find_spec('numba') is None)"
    return not subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode


def lower(source: Path, folder: Path, every_kind: bool) -> str | None:
    """Lower the kernels into a folder, by the Numba of outside or of this build; or say why not."""
    environment = next(filter(has_numba, (outside(), dict(os.environ))), None)
    if environment is None:
        return "Numba is not installed"
    # Numba's own options would be in what it writes.
    environment = {k: v for k, v in environment.items() if not k.startswith("NUMBA_")}
    paths = filter(None, [str(source), environment.get("PYTHONPATH")])
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "qact.kernels.cpu.lower", str(folder)]
    return failure(command + ["--all"] * every_kind, environment)


def failure(command: list[str], environment: dict[str, str]) -> str | None:
    """Run a command that starts others; the last line that it said, if it fails."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(
        command, env=environment, text=True, start_new_session=os.name == "posix", **streams
    )
    try:
        told, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"it took more than {SECONDS:.0f} s"
    finally:  # also where the build is interrupted
        if process.poll() is None:
            end(process)
    return told.strip().rpartition("\n")[2] if process.returncode else None


def end(process: subprocess.Popen[str]) -> None:
    """End a process, and those that it has started where they are of its group."""
    if os.name == "posix":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.communicate()
