"""What a rank in the context of its own batch does not have, and where it is to be had."""

from __future__ import annotations

from typing import Any, NoReturn

from qact.first_order import refusing

_INSTEAD = "in eval() with context='running', or with engine='reference'"

once = refusing(
    "a rank in the context of its own batch has no second derivative here; differentiate twice "
    + _INSTEAD
)


def no_jvp(ctx: Any, *tangents: Any) -> NoReturn:
    """Stand as ``jvp`` of an operation: refuse forward-mode differentiation."""
    raise RuntimeError(
        "a rank in the context of its own batch has no derivative in forward mode here; "
        "differentiate backward, or " + _INSTEAD
    )
