"""Docstrings say "Example:" for one example; griffe knows the section as "Examples:"."""

from __future__ import annotations

from typing import Any

import griffe


class OneExample(griffe.Extension):
    """Show the section as code, as griffe does for several examples."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
