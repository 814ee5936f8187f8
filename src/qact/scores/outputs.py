"""What a score reads of a network: logits, the features before the last layer, the input itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qact import checks, surgery
from qact.context import Context
from qact.recalibrate.sites import INPUTS
from qact.surgery.batches import arguments
from qact.vectors import wide

KEPT = 256  # inputs that a fit keeps for scores that differentiate


@dataclass(frozen=True)
class Outputs:
    """What one pass has given for N samples; scores are computed of nothing else.

    Half precision becomes float32: distances and thresholds need its digits.

    Args:
        logits: (N, K).
        features: (N, D), what enters the last linear layer.
        labels: (N,), integer; of in-distribution data that something is fitted on.
        inputs: the first argument of the network; of a fit, its first samples alone.
    """

    logits: Tensor
    features: Tensor | None = None
    labels: Tensor | None = None
    inputs: Tensor | None = None

    def __post_init__(self) -> None:
        checks.tensors(logits=self.logits)
        if self.logits.ndim != 2 or not self.logits.is_floating_point():
            raise ValueError(
                f"logits must be (N, K) floating, got {tuple(self.logits.shape)} "
                f"{self.logits.dtype}"
            )
        for name in ("features", "labels"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.logits):
                raise ValueError(f"{len(self.logits)} logits and {len(value)} {name} do not fit")
        object.__setattr__(self, "logits", wide(self.logits))
        if self.features is not None:
            object.__setattr__(self, "features", wide(self.features))

    def __len__(self) -> int:
        return len(self.logits)

    def first(self, count: int) -> Outputs:
        """The first ``count`` samples."""
        parts = (self.logits, self.features, self.labels, self.inputs)
        return Outputs(*(None if part is None else part[:count] for part in parts))  # type: ignore[arg-type]

    def of(self, name: str) -> Tensor:
        """One of the parts, or an error that says what is missing."""
        part = getattr(self, name)
        if part is None:
            raise ValueError(f"{name} are missing in these outputs; {_HINTS[name]}")
        return part


_HINTS = {
    "features": "a network needs a last nn.Linear for them, see head=",
    "labels": "the loader must yield (input, label) pairs",
    "inputs": "give the input itself, or Outputs(..., inputs=x)",
}


class Reader:
    """Pass a batch through a network in ``eval()``, and keep what its last linear layer sees.

    Args:
        model: a classifier; it returns logits, or an object that has them as ``.logits``.
        head: the last linear layer or its name; by default the last ``nn.Linear`` in the model.

    Raises:
        ValueError: there is no such layer, or its output is not the model's.
    """

    def __init__(self, model: nn.Module, head: str | nn.Linear | None = None) -> None:
        self.model = model
        named = model.get_submodule(head) if isinstance(head, str) else head
        linear = [m for m in surgery.inner(model).modules() if isinstance(m, nn.Linear)]
        if named is not None and not isinstance(named, nn.Linear):
            raise ValueError(f"head={head!r} must be an nn.Linear, got {type(named).__name__}")
        self.head = named if named is not None else (linear[-1] if linear else None)

    @torch.no_grad()
    def __call__(self, batch: Any) -> Outputs:
        """Outputs of one batch, in any of the forms that loaders have; labels where it has some."""
        given = arguments(batch, self.model)
        first = next(iter(given.values())) if isinstance(given, dict) else given[0]
        logits, features = self.read(batch)
        return Outputs(logits, features, _labels(batch, len(logits)), first)

    def read(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """Logits and features, differentiable if gradients are enabled."""
        entering: list[Tensor] = []
        leaving: list[Tensor] = []
        with surgery.evaluating(self.model), surgery.hooking(self.model) as hooks:
            if self.head is not None:
                hooks.enter_context(surgery.tapped(self.head, entering.append, "input"))
                hooks.enter_context(surgery.tapped(self.head, leaving.append))
            found = surgery.call(self.model, batch)
        logits = getattr(found, "logits", found)
        if self.head is None:
            return logits, None
        if not leaving or leaving[-1] is not logits:
            raise ValueError(
                f"what {type(self.model).__name__} returns is not the output of its last nn.Linear "
                f"({self.head}); name the layer that makes the logits with head="
            )
        return logits, entering[-1]

    def gather(self, data: Any) -> Outputs | Context:
        """Outputs of all in-distribution data in one pass, or the context that is given or stored.

        Raises:
            ValueError: nothing is stored, the loader is empty, or outputs are not finite.
        """
        if data is None:
            data = getattr(self.head, INPUTS, None)
            if data is None:
                raise ValueError(
                    "the model has no stored context of its features; give a loader, or record one "
                    "with qact.record(model, loader, inputs=True)"
                )
        if isinstance(data, Context):
            width = None if self.head is None else self.head.in_features
            if data.num_features != width:
                raise ValueError(
                    f"a context of {data.num_features} channels is not one of the {width} features "
                    f"of {type(self.model).__name__}: it is of another layer or model"
                )
            data.require_data()
            return data
        found = data if isinstance(data, Outputs) else self._all(data)
        if not len(found):
            raise ValueError("the in-distribution data are empty: there is nothing to fit")
        for name in ("logits", "features"):
            part = getattr(found, name)
            if part is not None and not torch.isfinite(part).all():
                bad = int((~torch.isfinite(part)).any(1).sum())
                raise ValueError(
                    f"{name} of {bad} of {len(part)} in-distribution samples are not "
                    "finite; nothing was fitted"
                )
        return found

    def _all(self, data: Any) -> Outputs:
        parts, inputs, kept = [], [], 0
        for batch in surgery.batches(data, "data"):
            one = self(batch)
            if kept < KEPT and one.inputs is not None:
                inputs.append(one.inputs[: KEPT - kept])
                kept += len(inputs[-1])
            parts.append(one)
        if not parts:
            raise ValueError("the in-distribution loader is empty: there is nothing to fit")

        def joined(name: str) -> Tensor | None:
            found = [getattr(part, name) for part in parts]
            return None if any(part is None for part in found) else torch.cat(found)

        logits = torch.cat([part.logits for part in parts])
        return Outputs(logits, joined("features"), joined("labels"), torch.cat(inputs))


def _labels(batch: Any, count: int) -> Tensor | None:
    """The second element of a batch, where that can only be labels."""
    if not isinstance(batch, tuple | list) or len(batch) < 2 or not isinstance(batch[1], Tensor):
        return None
    whole = batch[1].shape == (count,) and not batch[1].is_floating_point()
    return batch[1].long() if whole else None
