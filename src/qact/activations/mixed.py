"""SmartMixed: every neuron chooses one of six functions, first by sampling, then for good."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qact import checks
from qact.activations.registry import register
from qact.activations.shell import Shell, along

POOL = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
}


def choose(logits: Tensor, temperature: float = 0.5, sample: bool = True) -> Tensor:
    """One-hot rows (C, K) whose gradient is that of a softmax (straight through).

    ``sample`` adds Gumbel noise first: the hard Gumbel-softmax of phase 1 (arXiv 2510.22450).
    Without it the largest logit wins.

    Example:
        >>> choose(torch.tensor([[0.0, 3.0, 1.0]]), sample=False)
        tensor([[0., 1., 0.]])
    """
    if sample:
        return F.gumbel_softmax(logits, temperature, hard=True, dim=-1)
    soft = (logits / temperature).softmax(-1)
    hard = F.one_hot(logits.argmax(-1), logits.shape[-1]).to(soft.dtype)
    return hard - soft.detach() + soft


def mixed(input: Tensor, choice: Tensor, dim: int = 1) -> Tensor:
    """``sum_k choice[c, k] f_k(x_c)`` over the six functions, ``choice`` (C, 6) one-hot.

    Omidvar 2025, arXiv 2510.22450. The pool: ReLU, sigmoid, tanh, leaky ReLU, ELU, SELU.

    Example:
        >>> mixed(torch.tensor([[-2.0, -2.0]]), torch.eye(6)[[0, 2]])
        tensor([[ 0.0000, -0.9640]])
    """
    weights = along(choice.to(input.dtype), input, dim)
    columns = weights.unbind(-1)
    # Plain kernels of torch: each saves its own output, so phase 1 costs six of them.
    return torch.stack([w * f(input) for w, f in zip(columns, POOL.values(), strict=True)]).sum(0)


@register(
    "smartmixed",
    paper="Omidvar 2025, arXiv 2510.22450",
    formula="one of six functions per channel",
    parameters=("logits",),
    needs_features=True,
)
class SmartMixed(Shell):
    """Module of :func:`mixed` in two phases.

    Phase 1, from the start: in training every forward samples a choice per channel, in ``eval()``
    the largest logit decides. :meth:`freeze` begins phase 2: the choice stands, the logits are no
    longer trained, and only the chosen functions are computed, each on its own channels.
    """

    shown = ("num_features", "temperature", "dim", "frozen")

    def __init__(
        self,
        num_features: int,
        temperature: float = 0.5,
        dim: int = 1,
        inplace: bool = False,
    ) -> None:
        super().__init__(inplace)
        self.num_features = checks.integer("num_features", num_features, 1)
        self.temperature = checks.number("temperature", temperature, "a positive number", 0)
        self.dim, self.frozen = checks.integer("dim", dim), False
        self.logits = nn.Parameter(torch.zeros(num_features, len(POOL)))

    def freeze(self) -> SmartMixed:
        """Begin phase 2: fix the present choice of every channel."""
        self.frozen = True
        self.logits.requires_grad_(False)
        return self

    @property
    def choice(self) -> list[str]:
        """The name of each channel's function, by its largest logit."""
        names = list(POOL)
        return [names[index] for index in self.logits.argmax(-1).tolist()]

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`mixed` with the choice of the present phase."""
        if self.frozen:
            return self._grouped(input)
        sample = self.training
        return mixed(input, choose(self.logits, self.temperature, sample), self.dim)

    def _grouped(self, input: Tensor) -> Tensor:
        chosen, parts, order = self.choice, [], []
        for name in dict.fromkeys(chosen):
            mine = [c for c, other in enumerate(chosen) if other == name]
            index = torch.tensor(mine, device=input.device)
            parts.append(POOL[name](input.index_select(self.dim, index)))
            order += mine
        back = torch.tensor(order, device=input.device).argsort()
        return torch.cat(parts, self.dim).index_select(self.dim, back)
