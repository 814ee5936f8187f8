"""The faces of the rooms: what they name is there, and says in its first line what it does."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

import qact

SOURCE = Path(qact.__file__).parent
# Rooms whose extras may be missing, and engines, are not asked.
LEFT = {"integrations", "kernels", "cli"}
ROOMS = sorted(
    ".".join(("qact", *path.parent.relative_to(SOURCE).parts))
    for path in SOURCE.rglob("__init__.py")
    if path.parent != SOURCE and path.relative_to(SOURCE).parts[0] not in LEFT
)
# A first line begins with a verb, so with none of these.
NOUN = re.compile(r"(The|A|An|All|What|How|Whether|Which|Where|When|Within the block)\b")


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_has_what_it_names(name):
    room = import_module(name)
    for public in getattr(room, "__all__", ()):
        thing = getattr(room, public)
        if inspect.isfunction(thing):
            first = (inspect.getdoc(thing) or "").split("\n")[0]
            assert first, f"{name}.{public} has no docstring"
            assert not NOUN.match(first), f"{name}.{public}: {first}"
