"""Which parts of a model were training, and which parameters had gradients, to be put back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Flags:
    """The flags of a model by name, so that a copy of it can have them too.

    Args:
        training: of every module.
        requires_grad: of every parameter.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval())
        >>> flags = Flags.of(model)
        >>> flags.restore(model.eval().requires_grad_(False))[1].training, model[0].training
        (False, True)
    """

    training: dict[str, bool]
    requires_grad: dict[str, bool]

    @classmethod
    def of(cls, model: nn.Module) -> Flags:
        """Those that ``model`` has now."""
        return cls(
            {name: module.training for name, module in model.named_modules()},
            {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        )

    def restore(self, model: nn.Module) -> nn.Module:
        """Put them back; gradients go."""
        for name, module in model.named_modules():
            module.training = self.training.get(name, module.training)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.requires_grad[name])
            parameter.grad = None
        return model
