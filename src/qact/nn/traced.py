"""A layer under torch.fx: one node of the graph, as the layers of torch are."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx import Proxy


def node(layer: nn.Module, input: Any) -> Any:
    """The call of ``layer`` as a node, where torch.fx traces its ``forward``; else None.

    A tracer takes ``torch.nn`` alone for leaves, and what a layer asks of its input (dtype, shape,
    whether a kernel is there) a graph cannot answer.
    """
    if not isinstance(input, Proxy):
        return None
    tracer: Any = input.tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(layer), (input,), {})
