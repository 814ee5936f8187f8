"""The table of a layer in `eval()`, and whether it may answer: asked at every call, in few steps.

What a call costs beside its data is Python alone, so here dictionaries are read where attributes
would be searched for. Whatever is out of the ordinary is left to the layer's own way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qact import _compat
from qact.kernels import engines
from qact.kernels.recall import held, versions
from qact.kernels.stored import Stored
from qact.surgery.lending import RULE

READS = "_reads"  # under this key a thread is lent what it reads in eval()
HEARD = "_heard"  # and under this one who is told of the values that are ranked
_ENGINES = (None, "cpu")
_SETTINGS = ("eps", "rule", "_level")  # attributes that a table depends on beside tensors


class Kept:
    """The table that ``make`` makes of a ``layer``, with the versions of all that it was made of.

    ``quantile`` is the layer whose context is read, and ``parts`` are all that are called on the
    way, if the table stands for several; None if it can never answer by itself.
    """

    def __init__(
        self,
        layer: nn.Module,
        make: Callable[[], Stored],
        quantile: nn.Module,
        parts: Sequence[nn.Module] | None,
    ) -> None:
        self._tree = [vars(module) for module in layer.modules()]
        # What a transform of torch.func looks at is of no use when it has ended; and tensors that
        # are plain attributes (a parameter deleted, a hypernetwork's weight put there) are not
        # asked for at every call.
        plain = any(isinstance(value, Tensor) for own in self._tree for value in own.values())
        tensors = held(layer)
        self.key = None if plain or _compat.transforming() else versions(tensors)
        # As long as memory is held, its address is not that of other numbers.
        self._memory = [t.untyped_storage() for t in tensors] if self.key is not None else []
        self._settings = [
            (own, name, own[name]) for own in self._tree for name in _SETTINGS if name in own
        ]
        self._modules = [dict(own["_modules"]) for own in self._tree]
        self._tensors = [own[kind] for own in self._tree for kind in ("_parameters", "_buffers")]
        self._quantile = vars(quantile)
        self._parts = [(part, type(part)) for part in parts or ()]
        self.stored = make()  # behind the versions: what another thread moves meanwhile shows
        compiled = engines.compiled_lookup() if self.stored.table.is_cpu else None
        self._compiled = None if parts is None or self.key is None else compiled

    @property
    def holds(self) -> bool:
        """Whether nothing that the table was made of has changed."""
        for own, modules in zip(self._tree, self._modules, strict=True):
            if own["_modules"] != modules:
                return False
        for own, name, value in self._settings:
            if own.get(name) is not value:
                return False
        now = [t for named in self._tensors for t in named.values() if t is not None]
        return self.key is not None and self.key == versions(now)

    def answer(self, input: Any) -> Tensor | None:
        """The output of the layer, or None where its own way must be gone."""
        quantile, compiled = self._quantile, self._compiled
        if compiled is None or torch.is_grad_enabled() or type(input) is not Tensor:
            return None
        if quantile["training"] or quantile["_mode"] != "running":
            return None
        if READS in quantile or HEARD in quantile:
            return None
        if quantile["engine"] not in _ENGINES or False in [_plain(*p) for p in self._parts]:
            return None
        if not input.is_cpu or input.dtype not in compiled.DTYPES or input.layout != torch.strided:
            return None
        if torch.jit.is_tracing() or _compat.watched() or input.is_neg() or input.is_nested:
            return None
        shape, dim = input.shape, quantile["dim"]
        dim = dim + len(shape) if dim < 0 else dim
        if not 0 <= dim < len(shape) or shape[dim] != quantile["num_features"]:
            return None
        if not input.numel() or not self.holds:
            return None
        return compiled.lookup(input, self.stored, dim)


def _plain(part: nn.Module, kind: type) -> bool:
    """Whether a part is as it was, in eval(), and a call of it runs its class's code alone."""
    own = vars(part)
    if type(part) is not kind or own["training"] or "forward" in own or RULE in own:
        return False
    pre, post = own["_forward_pre_hooks"], own["_forward_hooks"]
    return not (pre or post or own["_backward_pre_hooks"] or own["_backward_hooks"])
