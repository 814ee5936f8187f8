"""The model as it was trained."""

from __future__ import annotations

from qact.adapt.method import Method
from qact.adapt.registry import register


@register("source", paper="the un-adapted model; QAct context 'running'", learns="nothing")
class Source(Method):
    """Stored statistics and contexts: every sample is predicted alone.

    Options are those of :class:`Method`.
    """

    needs_norms = False
