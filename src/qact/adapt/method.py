"""`Method`: a model that adapts itself while it predicts, and can be put back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qact import checks
from qact.adapt.parameters import has_norms
from qact.adapt.rows import checked, finite_rows
from qact.adapt.transaction import Transactions
from qact.locks import Lock, exclusive
from qact.statistics.lend import adapting
from qact.surgery import Flags


class Method(nn.Module):
    """Base of the adaptation methods; by itself it predicts and learns nothing.

    Called on a batch it returns detached logits (N, C) and may learn from the batch. It works on a
    deep copy, always in ``eval()``. Samples that are not finite are set aside: nothing is learnt
    from them, and their logits are NaN. A ``state_dict`` holds parameters and buffers (and the
    memory of ``"safe"``); what else a stream has built up (optimiser, bank, averages) begins anew
    where it is loaded. Moved to another device or dtype, a method begins its stream anew.

    A batch is a transaction: threads that call the same method wait for each other, and one that
    raises leaves the method as it was before the batch.

    Subclasses override some of: ``collect_params`` (what may change), ``begin`` (the state that a
    stream builds up), ``statistics`` (what norms and contexts read), ``forward_and_adapt`` (one
    batch).

    Args:
        model: a classifier, (N, ...) to logits (N, C).
        episodic: start anew with every batch, instead of going on from the last one.
        inplace: change ``model`` itself. :meth:`release` gives it back.

    Raises:
        TypeError: ``model`` is no module. ValueError: it has no layer that could be adapted.
    """

    name: ClassVar[str] = "method"
    needs_norms: ClassVar[bool] = True
    options: dict[str, Any]

    def __init__(self, model: nn.Module, *, episodic: bool = False, inplace: bool = False) -> None:
        super().__init__()
        self.transactions = Transactions()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model={model!r} must be a torch.nn.Module")
        self.episodic = checks.flag("episodic", episodic)
        self.inplace = checks.flag("inplace", inplace)
        self.options = {}
        self._before = Flags.of(model)
        self.model = model if inplace else copy.deepcopy(model)
        self.configure()
        self.params, self.names = self.collect_params()
        for parameter in self.params:
            parameter.requires_grad_(True)
        tensors = (*self.model.named_parameters(), *self.model.named_buffers())
        self._start = {name: tensor.detach().clone() for name, tensor in tensors}
        self._begun = False
        self._state: set[str] = set()  # names of what the stream changes

    @property
    def alone(self) -> Lock:
        """Within the block no batch of another thread passes."""
        return self.transactions.lock

    @property
    def mode(self) -> str:
        """``"episodic"`` or ``"continual"``."""
        return "episodic" if self.episodic else "continual"

    def configure(self) -> None:
        """Put the model into ``eval()`` without gradients; refuse one that cannot be adapted."""
        if self.needs_norms and not has_norms(self.model):
            raise ValueError(
                f"{self.name!r} adapts normalisation layers, and {type(self.model).__name__} has "
                "none (no BatchNorm, GroupNorm, LayerNorm, InstanceNorm, RMSNorm or QAct)"
            )
        self.model.eval()
        self.model.requires_grad_(False)

    def collect_params(self) -> tuple[list[nn.Parameter], list[str]]:
        """Parameters that the method may change, and their names."""
        return [], []

    def begin(self) -> None:
        """Make the state that a stream builds up: optimiser, memory, averages.

        What is set here is what comes back after an error; a method that overrides neither this nor
        ``collect_params`` changes nothing.
        """

    def statistics(self) -> AbstractContextManager:
        """A block in which norms and contexts read what this method wants them to."""
        return adapting(self.model, "running")

    def logits(self, x: Tensor) -> Tensor:
        """The model's logits under :meth:`statistics`."""
        with self.statistics():
            return checked(self.model(x), len(x))

    def forward_and_adapt(self, x: Tensor) -> Tensor:
        """Logits of a finite batch, after or before learning from it, as the method defines."""
        return self.logits(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, C) of a batch (N, ...), adapting on the way.

        Raises:
            TypeError: ``x`` or the model's output is no tensor. ValueError: ``x`` is empty, or the
                output is not (N, C).
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"x={x!r} must be a tensor (N, ...)")
        if x.dim() < 1 or x.numel() == 0:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected (N, ...) with N >= 1")
        with (
            torch.inference_mode(False),
            torch.set_grad_enabled(bool(self.params)),
            self.transactions.batch(self, self._changing()),
        ):
            if self.episodic or not self._begun:
                self.reset()
            x = x.detach().clone() if x.is_inference() else x.detach()
            sound = finite_rows(x)
            if bool(sound.all()):
                return checked(self.forward_and_adapt(x), len(x)).detach()
            return self._without(x, sound)

    def _without(self, x: Tensor, sound: Tensor) -> Tensor:
        """Adapt to the sound rows only; the others have no prediction."""
        if bool(sound.any()):
            good = checked(self.forward_and_adapt(x[sound]), int(sound.sum())).detach()
        else:  # the model still says how many classes there are
            with torch.no_grad(), adapting(self.model, "running"):
                good = checked(self.model(torch.zeros_like(x[:1])), 1)[:0]
        logits = good.new_full((len(x), *good.shape[1:]), torch.nan)
        logits[sound] = good
        return logits

    def _changing(self) -> set[str]:
        """Names of the attributes that a batch may change; none if it changes nothing at all."""
        if type(self).begin is Method.begin and not self.params:
            return set()
        return {"_begun", *self._state}

    @exclusive
    @torch.inference_mode(False)
    def reset(self) -> None:
        """Put every parameter and buffer back, bit for bit, and forget the stream."""
        self._put_back(self.model)
        before = dict(vars(self))
        with torch.no_grad():
            self.begin()
        new = {name for name, value in vars(self).items() if before.get(name, self) is not value}
        self._begun, self._state = True, self._state | new

    @property
    @exclusive
    def source(self) -> nn.Module:
        """A copy of the model as the method began with it."""
        return self._put_back(copy.deepcopy(self.model))

    @torch.no_grad()
    def _put_back(self, model: nn.Module) -> nn.Module:
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            tensor.copy_(self._start[name])
            tensor.grad = None
        return model

    @exclusive
    def release(self) -> nn.Module:
        """Return the adapted model, every flag of training and ``requires_grad`` as it was."""
        return self._before.restore(self.model)

    def train(self, mode: bool = True) -> Method:
        """Stay in ``eval()``, teachers too: adapting is not training."""
        return super().train(False)

    @exclusive
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Method:
        """Move the start with the model; a stream ends there, for its state is not moved."""
        super()._apply(fn, recurse)
        moved = {name: fn(tensor) for name, tensor in self._start.items()}
        if any(moved[name] is not tensor for name, tensor in self._start.items()):
            self._start, self._begun = moved, False
        return self

    @exclusive
    def state_dict(self, *args: Any, **named: Any) -> dict[str, Any]:  # type: ignore[override]
        """Parameters, buffers and some of the memory, see the class; never halfway a batch."""
        return super().state_dict(*args, **named)

    @exclusive
    def load_state_dict(self, *args: Any, **named: Any) -> Any:
        """Load what :meth:`state_dict` has given."""
        return super().load_state_dict(*args, **named)

    def _load_from_state_dict(self, *args: Any, **named: Any) -> None:
        """Begin before a state is loaded: the first batch would put the source back."""
        if not self._begun:
            self.reset()
        super()._load_from_state_dict(*args, **named)

    @exclusive
    def __deepcopy__(self, memo: dict[int, Any]) -> Method:
        """A copy goes on from here by itself."""
        twin = memo[id(self)] = type(self).__new__(type(self))
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin

    def __enter__(self) -> Method:
        return self

    def __exit__(self, *error: object) -> None:
        if self.inplace:
            self.release()

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"{self.name!r}, {self.mode}, {len(self.params)} parameter tensors"
