"""Modules that the program writes: filled from a template, kept in the user's cache, loaded.

Numba keeps what it compiles beside a file, so there is one. ``QACT_CACHE_DIR`` says where; where
nothing can be written, every process compiles anew.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
import tempfile
import textwrap
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from qact.kernels.cpu import elementary


def filled(template: str, lines: dict[str, list[str]], words: dict[str, Any]) -> str:
    """The template with its holes filled.

    A hole for ``lines`` stands on a line of its own, and they take over its indentation.

    Example:
        >>> filled("def f():\\n    {body}\\n    return {y}\\n", {"body": ["x = 1"]}, {"y": "x"})
        'def f():\\n    x = 1\\n    return x\\n'
    """
    holes = re.compile(r"( *)\{(" + "|".join(lines) + r")\}\n")
    text = holes.sub(lambda h: textwrap.indent("\n".join([*lines[h[2]], ""]), h[1]), template)
    for name, word in words.items():
        text = text.replace(f"{{{name}}}", str(word))
    return text


def load(text: str) -> ModuleType:
    """The module of this text, from the cache; its file is written anew if it differs."""
    source = Path(elementary.__file__).read_text(encoding="utf-8")
    name = f"qact_pointwise_{hashlib.sha256((text + source).encode()).hexdigest()[:16]}"
    path = _folder() / f"{name}.py"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            file.write(text)
        os.replace(file.name, path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    # Numba asks for the module by its name when it loads what it has kept.
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@lru_cache(maxsize=1)
def _folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("QACT_CACHE_DIR") or Path(root) / "qact")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="qact-"))
