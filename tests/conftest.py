"""Shared by the whole suite: repeatable property tests."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("qact", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("qact")
