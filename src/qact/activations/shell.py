"""The base of the modules: a thin shell over a function."""

from __future__ import annotations

from torch import Tensor, nn

from qact import checks
from qact.rank.layout import channel_dim


class Shell(nn.Module):
    """A module that shows its options, and takes ``inplace`` as every activation of torch might.

    ``inplace`` is accepted for the sake of exchange, without effect: the backward needs the input.
    """

    shown: tuple[str, ...] = ()

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = checks.flag("inplace", inplace)

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.shown)


def along(parameter: Tensor, input: Tensor, dim: int) -> Tensor:
    """A parameter (C,) so that it broadcasts against ``input`` with channels at ``dim``.

    Raises:
        ValueError: the input has no such dimension, or another number of channels there.

    Example:
        >>> import torch
        >>> along(torch.ones(3), torch.zeros(2, 3, 5, 5), 1).shape
        torch.Size([3, 1, 1])
    """
    if parameter.numel() == 1:
        return parameter
    dim = channel_dim(input, dim)
    if input.shape[dim] != parameter.shape[0]:
        raise ValueError(
            f"the input has {input.shape[dim]} channels at dim {dim} (shape {tuple(input.shape)}); "
            f"this activation has {parameter.shape[0]}"
        )
    return parameter.reshape(-1, *[1] * (input.dim() - dim - 1), *parameter.shape[1:])
