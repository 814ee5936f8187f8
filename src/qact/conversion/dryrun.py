"""One pass with example inputs: who calls which activation, and with what shape."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qact.adapt import adapting
from qact.conversion import functions
from qact.conversion.dims import Dims
from qact.conversion.graft import Grafted
from qact.conversion.sites import Event, Use
from qact.surgery import evaluating, hooked, hooking, is_activation

PLAIN = (type(None), bool, int, float, str)


class Record:
    """What a pass showed.

    ``passes[owner]`` has one list of events per call of the owner; ``plain[owner]`` the arguments
    of its ``forward`` that were no tensors; ``output`` is the model's, in ``eval()``.
    """

    def __init__(self) -> None:
        self.passes: dict[nn.Module, list[list[Event]]] = {}
        self.plain: dict[nn.Module, dict[str, Any]] = {}
        self.output: Any = None

    def visited(self, module: nn.Module) -> bool:
        """Whether the pass came by."""
        return module in self.passes or any(
            event.what is module for run in self.passes.values() for part in run for event in part
        )

    def events(self, owner: nn.Module) -> list[Event]:
        """The events of one call of ``owner``: of the call that had most."""
        return max(self.passes.get(owner, [[]]), key=len)


def observe(model: nn.Module, inputs: Any, wanted: set[nn.Module]) -> Record:
    """Run ``model`` on ``inputs`` in ``eval()``; again in training if some of ``wanted`` slept.

    The model is left as it was: modes, buffers, hooks and the random state.

    Raises:
        ValueError: the model does not run on these inputs.
    """
    record = Record()
    with (
        untouched(model, training=False),
        adapting(model, "batch", norms=False),
        _listening(model, wanted, record),
    ):
        record.output = run(model, inputs)
    asleep = (m for m in model.modules() if m in wanted or functions.mentioned(type(m)))
    if not all(record.visited(module) for module in asleep):
        _in_training(model, inputs, wanted, record)
    return record


def _in_training(model: nn.Module, inputs: Any, wanted: set[nn.Module], record: Record) -> None:
    """Add what runs in training alone, such as auxiliary heads."""
    more = Record()
    try:
        with untouched(model, training=True), _listening(model, wanted, more):
            run(model, inputs)
    except ValueError:  # a norm may want more than one value; what was not seen stays as it is
        return
    for owner in more.passes:
        if owner not in record.passes:
            record.passes[owner] = more.passes[owner]
            record.plain[owner] = more.plain.get(owner, {})


def run(model: nn.Module, inputs: Any) -> Any:
    """Call ``model`` on a tensor, a tuple of arguments, or a dict of named ones."""
    try:
        if isinstance(inputs, Mapping):
            return model(**inputs)
        if isinstance(inputs, tuple | list):
            return model(*inputs)
        return model(inputs)
    except Exception as error:
        raise ValueError(
            f"the model does not run on example_inputs {described(inputs)}: "
            f"{type(error).__name__}: {error}"
        ) from error


def described(inputs: Any) -> str:
    """Inputs in a few words, for messages."""
    if isinstance(inputs, Tensor):
        return f"of shape {tuple(inputs.shape)} ({inputs.dtype}, {inputs.device})"
    if isinstance(inputs, Mapping):
        return ", ".join(f"{key} {described(value)}" for key, value in inputs.items())
    if isinstance(inputs, tuple | list):
        return ", ".join(described(value) for value in inputs)
    return f"{inputs!r}"


@contextmanager
def untouched(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Run without gradients in the given mode; give back modes, buffers and the random state."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()] if training else []
    cuda = range(torch.cuda.device_count())
    fork = torch.random.fork_rng(devices=cuda)
    with fork, torch.no_grad(), _eager(), evaluating(model, training=training):
        try:
            yield
        finally:
            for buffer, value in buffers:
                buffer.copy_(value)


def _eager() -> Any:
    """Compiled parts run as written: hooks and modes are seen, and nothing is compiled twice."""
    return torch.compiler.set_stance("force_eager")


@contextmanager
def _listening(model: nn.Module, wanted: set[nn.Module], record: Record) -> Iterator[None]:
    """Note every activation that runs within the block, under the module that called it."""
    stack: list[tuple[nn.Module, list[Event]]] = []
    inputs: list[Use | None] = []

    def is_one(module: nn.Module) -> bool:
        return module in wanted or is_activation(module)

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        stack.append((module, []))
        if not is_one(module):
            record.plain.setdefault(module, _plain(module, args, kwargs))
        tensor = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
        inputs.append(None if tensor is None else _use(tensor, dims.dim(tensor)))

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        _, events = stack.pop()
        use = inputs.pop()
        if not is_one(module):
            record.passes.setdefault(module, []).append(events)
        elif stack and not is_one(stack[-1][0]) and use is not None:
            stack[-1][1].append(Event(module, None, _checked(use, output)))
        elif not stack:
            record.passes[module] = [[Event(module, None, use and _checked(use, output))]]

    def called(function: Any, read: Any, args: Any, kwargs: Any, output: Tensor) -> None:
        name = functions.spelled(function)
        if name is None or not stack or is_one(stack[-1][0]):
            return
        shape, dim, tensor = read
        made = functions.stand_in(name, args, kwargs)
        use = Use(shape, dim, tensor.device, True)
        if made is not None:
            stack[-1][1].append(Event(made, name, use))

    dims = Dims(called)
    with hooking(model) as hooks:
        for module in model.modules():
            hooks.enter_context(hooked(module, enter=enter, leave=leave))
        hooks.enter_context(dims)
        yield


def _use(input: Tensor, dim: int) -> Use:
    return Use(tuple(input.shape), dim, input.device, True)


def _checked(use: Use, output: Any) -> Use:
    same = isinstance(output, Tensor) and tuple(output.shape) == use.shape
    return Use(use.shape, use.dim, use.device, same)


def _plain(module: nn.Module, args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments of this call that are no tensors, by name."""
    try:
        bound = signature(type(module)).bind(module, *args, **kwargs)
    except (TypeError, ValueError):
        return {}
    bound.apply_defaults()
    return {k: v for k, v in bound.arguments.items() if isinstance(v, PLAIN)}


def signature(kind: Any) -> inspect.Signature:
    """The signature of a class's ``forward``, with ``self``."""
    written = kind.base if issubclass(kind, Grafted) else kind
    return inspect.signature(written.forward)
