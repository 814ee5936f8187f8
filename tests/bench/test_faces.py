"""What a room of the bench hands out hides none of its modules."""

import pkgutil
from importlib import import_module
from types import ModuleType

import pytest

import qact.bench

ROOMS = [m.name for m in pkgutil.iter_modules(qact.bench.__path__) if m.ispkg]


@pytest.mark.parametrize("room", ROOMS)
def test_no_name_of_a_face_is_that_of_a_module(room):
    face = import_module(f"qact.bench.{room}")
    assert all(getattr(face, name) is not None for name in face.__all__)
    for module in pkgutil.iter_modules(face.__path__):
        import_module(f"{face.__name__}.{module.name}")
        assert isinstance(getattr(face, module.name), ModuleType)
