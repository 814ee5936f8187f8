"""What a folder of corrupted images was made of: written beside them, held against them later."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from qact import checks

FILE = "manifest.json"
FORMAT = "qact-corrupted/1"


def read(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a folder, None if there is none.

    Raises:
        ValueError: it cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        why = checks.reason(error)
        raise ValueError(f"{path} is damaged: {why}; write the folder anew") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT or "files" not in found:
        raise ValueError(f"{path} is not in the format {FORMAT!r}")
    return found


def write(folder: Path, content: dict[str, Any]) -> None:
    """Replace the manifest in one step."""
    part = folder / f".{FILE}.part"
    with part.open("w", encoding="utf-8") as file:
        json.dump({"format": FORMAT, **content}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, folder / FILE)
