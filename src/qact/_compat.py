"""Names of PyTorch that are not public, each with the versions that have it, and what it is for.

All of them are in torch 2.6 to 2.13. No other module of qact reaches into PyTorch. What an
old version lacks stands beside them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils import _pytree

# Bases of modules, since 1.1 or earlier: batch norms of every dimension, instance norms with them,
# convolutions, and those that are transposed.
AnyBatchNorm = _BatchNorm
AnyStatisticsNorm = _NormBase
AnyConv = _ConvNd
AnyConvTranspose = _ConvTransposeNd
# Tensors within lists, tuples, dictionaries and what was registered like them (since 1.8).
tree_flatten, tree_unflatten = _pytree.tree_flatten, _pytree.tree_unflatten
tree_leaves, tree_map_only = _pytree.tree_leaves, _pytree.tree_map_only

Part = TypeVar("Part")
Function = TypeVar("Function", bound=Callable[..., object])


def transforming() -> bool:
    """Whether ``torch.func`` is looking on (``torch._C``, since 2.2)."""
    return torch._C._are_functorch_transforms_active()


def batched(tensor: Tensor) -> bool:
    """Whether ``torch.vmap`` has stacked it (``torch._C._functorch``, since 2.0)."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False


def watched() -> bool:
    """Whether something follows operations one by one, which a kernel of our own would hide.

    ``torch.func``, forward-mode differentiation (``forward_ad``, since 1.11), or a dispatch mode,
    as ``make_fx`` is (``torch._C``, since 2.0).
    """
    dual = forward_ad._current_level >= 0
    return dual or transforming() or torch._C._len_torch_dispatch_stack() > 0


def forward_levels() -> int:
    """How many transforms of ``torch.func`` differentiate in forward mode (``_functorch``, 2.0)."""
    stack = torch._C._functorch.get_interpreter_stack() or []
    return sum(level.key() == torch._C._functorch.TransformType.Jvp for level in stack)


def is_batch_of_gradients(grad: Tensor | None) -> bool:
    """Whether ``is_grads_batched=True`` hides a dimension of ``grad`` (``torch._C``, since 2.0)."""
    return grad is not None and torch._C._functorch.is_legacy_batchedtensor(grad)


def gradients_of(batch: Sequence[Tensor | None]) -> list[list[Tensor | None]]:
    """The gradients of a batch, row after row (``torch._remove_batch_dim``, since 1.5)."""
    level = _batch_level()
    hidden = next(g for g in batch if g is not None and is_batch_of_gradients(g))
    size = len(torch._remove_batch_dim(hidden, level, 1, 0))
    columns = [
        [None] * size if g is None else list(torch._remove_batch_dim(g, level, size, 0).unbind())
        for g in batch
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def batch_of(gradients: Sequence[Tensor]) -> Tensor:
    """The batch that hides one dimension of these (``torch._add_batch_dim``, since 1.5)."""
    return torch._add_batch_dim(torch.stack(tuple(gradients)), 0, _batch_level())


def _batch_level() -> int:
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    return level


def lerp_(ours: list[Tensor], theirs: list[Tensor], share: float) -> None:
    """Move each of ``ours`` a share of the way to its partner (``torch._foreach``, since 1.13)."""
    torch._foreach_lerp_(ours, theirs, share)


def applied(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """``function.apply(*arguments)``, all given: their names need not be looked for at every call.

    ``super().apply`` of the class, ``torch._functorch.utils`` (since 2.0).
    """
    if transforming():
        return function.apply(*arguments)
    alive = torch._functorch.utils.unwrap_dead_wrappers(arguments)
    return super(torch.autograd.Function, function).apply(*alive)  # type: ignore[misc]


def in_backward() -> bool:
    """Whether a backward pass runs: gradient checkpointing then repeats a forward pass in it.

    ``torch._C``, since 2.0.
    """
    return torch._C._current_autograd_node() is not None


def without_torch_function() -> AbstractContextManager[Any]:
    """Leave ``__torch_function__`` aside within a block (``torch._C``, since 1.7)."""
    return torch._C.DisableTorchFunction()


def constant_result(function: Function) -> Function:
    """Mark a function whose result a compiler may take for a constant.

    It is what ``torch.compiler.assume_constant_result`` does (the mark since 2.0), less the import
    of the compiler: that takes longer than all the rest of qact, and most programs never compile.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def uncompiled(function: Function) -> Function:
    """``torch.compiler.disable``, less the import of the compiler (``torch._disable_dynamo``, 2.1).

    The wrapper imports it at the first call.
    """
    return torch._disable_dynamo(function)  # type: ignore[return-value]


def compiler() -> Any:
    """``torch._dynamo`` (since 2.0) where it has been imported, or None."""
    return sys.modules.get("torch._dynamo")


COMPILED_CALL = "_compiled_call_impl"


def compiled_call(module: nn.Module) -> bool:
    """Whether ``module.compile()`` has replaced the module's call (``nn.Module``, since 2.2)."""
    return vars(module).get(COMPILED_CALL) is not None


def plain_call(module: nn.Module) -> Callable[..., Any]:
    """A call of ``module`` with its hooks, compiled or not (``nn.Module``, since 1.0)."""
    return module._call_impl


def replace(old: Part, **changes: Any) -> Part:
    """``dataclasses.replace``, written so that torch 2.6 compiles it."""
    names = type(old).__match_args__  # type: ignore[attr-defined]
    return type(old)(**{**{name: getattr(old, name) for name in names}, **changes})


def _exports_of_old() -> bool:
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


# Whether torch.export makes a graph (public since 2.7).
is_exporting = getattr(torch.compiler, "is_exporting", _exports_of_old)


def is_fake(tensor: Tensor) -> bool:
    """Whether a tensor has a shape and no numbers (``torch._subclasses``, since 2.0)."""
    return isinstance(tensor, FakeTensor)


def real(fake: Tensor) -> Tensor | None:
    """The tensor that a fake one stands for: its mode remembers what it was made of (since 2.3)."""
    made = fake.fake_mode.fake_tensor_converter.meta_converter  # type: ignore[attr-defined]
    for number, identity in made.describer.lookup_tensor.items():
        if made.tensor_memo.get(identity) is fake:
            return number
    return None


def has_hooks(module: nn.Module) -> bool:
    """Whether a module of its own, as no global one, has hooks (``nn.Module``, since 2.0)."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def tensors_by_name(module: nn.Module) -> Iterator[dict[str, Any]]:
    """The dictionaries that hold the parameters and buffers of a module and of all in it."""
    for part in module.modules():
        yield part._parameters
        yield part._buffers
