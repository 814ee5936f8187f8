"""What a graph may hold as constants while ``torch.export`` or ``torch.jit.trace`` makes it.

The former puts fake tensors, which have shapes and no numbers, in the place of a module's
parameters and buffers. A table made of those would be made anew at every call of the exported
graph, by an FFT that no other runtime has. Made of the numbers themselves it is a constant.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

import torch
from torch import Tensor, nn

from qact import _compat
from qact._compat import constant_result, is_exporting


def exporting() -> bool:
    """Whether a graph is made that others will run: ``torch.export``, ONNX, ``torch.jit.trace``."""
    return torch.jit.is_tracing() or is_exporting()


def refuse_live_context(module: nn.Module, mode: str) -> None:
    """Raise RuntimeError where a graph cannot have the context of its own batch, and would."""
    live = module.training or mode != "running"
    if live and (torch.jit.is_tracing() or (torch.compiler.is_compiling() and _for_onnx())):
        state = "training" if module.training else f"eval() with context={mode!r}"
        raise RuntimeError(
            f"this layer is in {state}, where the context is made of the batch; ONNX and "
            "torch.jit.trace hold a stored context only: call eval(), with context='running'"
        )


@constant_result
def _for_onnx() -> bool:
    return torch.onnx.is_in_onnx_export()


@constant_result
def constant(module: nn.Module, make: str) -> tuple[Any, ...]:
    """What the method ``make`` returns while ``module`` holds its numbers; nothing is traced."""

    def made() -> tuple[Any, ...]:
        with torch.no_grad(), _concrete(module):
            return getattr(module, make)()

    # What traces a thread's operations does not see another's.
    with ThreadPoolExecutor(1) as untraced:
        return untraced.submit(copy_context().run, made).result()


@contextmanager
def _concrete(module: nn.Module) -> Iterator[None]:
    swapped = [
        (held, name, tensor, _number(tensor))
        for held in _compat.tensors_by_name(module)
        for name, tensor in held.items()
        if tensor is not None
    ]
    for held, name, _, number in swapped:
        held[name] = number
    try:
        yield
    finally:
        for held, name, tensor, _ in swapped:
            held[name] = tensor


def _number(tensor: Tensor) -> Tensor:
    """The tensor itself, or the one that a fake one stands for."""
    number = _compat.real(tensor) if _compat.is_fake(tensor) else tensor
    if number is None:
        raise RuntimeError(
            "this tracer gives no access to the stored context; export the layer with torch.export "
            "or torch.onnx.export(dynamo=True)"
        )
    return number.detach()
