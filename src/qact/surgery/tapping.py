"""What passes a module, told or changed for a block: the one place where hooks are hung.

Of one place, blocks act in the order in which they were entered: an inner block is told what the
outer ones have made of a value. They act in the thread that entered them alone, and take their
hooks away whatever happens.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qact import _compat, checks
from qact.surgery.edit import PACKS, packing
from qact.surgery.lending import lending, lent, this_thread
from qact.surgery.wrapped import compiled

SIDES = ("output", "input")
Told = Callable[[Tensor], Tensor | None]


@contextmanager
def hooking(model: nn.Module) -> Iterator[ExitStack]:
    """Open a stack for what is tapped in parts of ``model``; all of it ends with the block.

    Within the block, in this thread, every module is called that is written: compiled parts run
    as they were before they were compiled, since their graphs know nothing of later hooks; and
    torch's ``TransformerEncoder`` does not pack a padded batch into a nested tensor for its fused
    layers, which call no hooks.

    Example:
        >>> seen, net = [], nn.Sequential(nn.ReLU())
        >>> with hooking(net) as hooks:
        ...     hooks.enter_context(tapped(net[0], seen.append))
        ...     _ = net(torch.tensor([-1.0, 1.0]))
        >>> seen, len(net[0]._forward_hooks)
        ([tensor([0., 1.])], 0)
    """
    with ExitStack() as stack:
        for encoder in packing(model):
            stack.enter_context(lending(encoder, "_unpacked", True, _unpacked))
        for part in model.modules():
            if compiled(part):
                stack.enter_context(lending(part, "_written", True, _written))
            if _compat.compiled_call(part):
                slot = _compat.COMPILED_CALL
                stack.enter_context(lending(part, "_called", True, _called, slot))
        yield stack


@contextmanager
def tapped(
    module: nn.Module, told: Told, side: str = "output", *, everywhere: bool = False
) -> Iterator[None]:
    """Call ``told``, for a block, with every tensor that this thread draws from ``module``.

    That is the first tensor of what the module returns, or of its arguments, in whatever tuples
    and mappings it stands. A tensor that ``told`` returns takes its place.

    Args:
        module: any module of a model.
        told: a function of the tensor.
        side: ``"output"`` or ``"input"``.
        everywhere: also of calls in other threads.

    Raises:
        TypeError: at a call, if there is no tensor on that side.

    Example:
        >>> net = nn.Sequential(nn.Identity(), nn.ReLU())
        >>> with tapped(net[1], torch.neg, side="input"):
        ...     net(torch.tensor([-1.0, 1.0]))
        tensor([1., 0.])
    """

    def enter(_: nn.Module, args: Any, named: Any) -> Any:
        if not (args and isinstance(args[0], Tensor)):
            return _with((args, named), told, module, "is given")
        new = told(args[0])
        return None if new is None else ((new, *args[1:]), named)

    def leave(_: nn.Module, args: Any, named: Any, output: Any) -> Any:
        return _with(output, told, module, "returns")

    checks.choice("side", side, SIDES)
    place = {"enter": enter} if side == "input" else {"leave": leave}
    with hooked(module, **place, everywhere=everywhere):
        yield


@contextmanager
def hooked(
    module: nn.Module,
    *,
    enter: Callable[..., Any] | None = None,
    leave: Callable[..., Any] | None = None,
    everywhere: bool = False,
    always: bool = False,
) -> Iterator[None]:
    """Tell calls of ``module`` in this thread, before and after, for a block.

    ``enter(module, args, named)`` may return other arguments as a pair, and ``leave(module, args,
    named, output)`` another output. ``everywhere`` tells of calls in other threads too; ``always``
    of those that raised, with None as their output.
    """
    me = None if everywhere else this_thread()
    with ExitStack() as stack:
        if enter is not None:
            hook = _Hook(enter, me)
            stack.enter_context(module.register_forward_pre_hook(hook, with_kwargs=True))
        if leave is not None:
            hook = _Hook(leave, me)
            handle = module.register_forward_hook(hook, with_kwargs=True, always_call=always)
            stack.enter_context(handle)
        yield


class _Hook:
    """A hook that tells calls of one thread, or of all; of a pickled model it tells nobody."""

    def __init__(self, told: Callable[..., Any], thread: int | None) -> None:
        self.told, self.thread = told, thread

    def __call__(self, *call: Any) -> Any:
        mine = self.thread is None or this_thread() == self.thread or _repeats()
        # A graph knows no threads: it is traced with the hooks that stand.
        return self.told(*call) if torch.compiler.is_compiling() or mine else None

    def __deepcopy__(self, memo: Any) -> _Hook:
        return self  # as a function would: a copy made within the block keeps what the block does

    def __reduce__(self) -> tuple[Any, ...]:
        return _Hook, (_silent, None)  # whoever is told here is no part of the model


def _silent(*_: Any) -> None:
    """The hook of a block that is over."""


def _repeats() -> bool:
    """Whether autograd repeats a checkpointed pass in a thread that it has made, for another."""
    return _compat.in_backward() and threading.current_thread().name.startswith("Dummy-")


def _with(value: Any, told: Told, module: nn.Module, verb: str) -> Any:
    """``value`` with its first tensor replaced by what ``told`` returns; None if that is None."""
    if isinstance(value, Tensor):
        return told(value)
    leaves, form = _compat.tree_flatten(value)
    place = next((i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)), None)
    if place is None:
        kinds = ", ".join(sorted({type(leaf).__name__ for leaf in leaves})) or "nothing"
        raise TypeError(f"{type(module).__name__} {verb} {kinds}, and no tensor to tap")
    new = told(leaves[place])
    if new is None:
        return None
    return _compat.tree_unflatten([*leaves[:place], new, *leaves[place + 1 :]], form)


def _unpacked(
    encoder: nn.Module, before: Callable[..., Tensor] | None, *args: Any, **named: Any
) -> Tensor:
    """``forward`` of a twin that does not pack; other threads would see it in the encoder."""
    if before is not None or lent(encoder, "_unpacked") is None:
        return (before or partial(type(encoder).forward, encoder))(*args, **named)
    twin = object.__new__(type(encoder))
    vars(twin).update(vars(encoder), **{PACKS: False})
    return type(encoder).forward(twin, *args, **named)


def _written(wrapper: Any, before: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """What ``torch.compile(module)`` was made of."""
    return (before if lent(wrapper, "_written") is None else wrapper._orig_mod)(*args, **named)


def _called(module: nn.Module, before: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """The call that ``module.compile()`` has replaced."""
    if lent(module, "_called") is None:
        return before(*args, **named)
    return _compat.plain_call(module)(*args, **named)
