"""What both processes compute, and what one process computes on the joined batch."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qact import NormedQAct, QAct

STEPS = 2


@dataclass(frozen=True)
class Case:
    kind: Any
    options: dict[str, Any]
    sizes: tuple[int, int] = (12, 20)
    dtype: torch.dtype = torch.float32
    shape: tuple[int, ...] = (3, 5)


CASES = {
    "relu": Case(QAct, {}),
    "no samples": Case(QAct, {"levels": "gelu"}, sizes=(0, 24)),
    "learned": Case(QAct, {"levels": "table", "grounded": False}, sizes=(30, 2)),
    "continuous": Case(QAct, {"grounded": "continuous"}),
    "density": Case(QAct, {"levels": "uniform", "gradient": "density"}),
    "step": Case(QAct, {"levels": "steps", "smooth": False}),
    "step, no samples": Case(QAct, {"smooth": False}, sizes=(20, 0)),
    "tokens": Case(QAct, {"dim": -1, "levels": "normal"}, shape=(5, 3)),
    "float64": Case(QAct, {"bandwidth": "scott"}, dtype=torch.float64),
    "normed": Case(NormedQAct, {"after": True}),
    "normed, float64": Case(NormedQAct, {"after": True}, dtype=torch.float64),
    "normed, no samples": Case(NormedQAct, {}, sizes=(0, 24)),
    "paper": Case(QAct.paper, {}),
}


def data(case: Case) -> list[tuple[Tensor, Tensor]]:
    """Input and weights of the loss, for every step, for both processes together."""
    generator = torch.Generator().manual_seed(7)
    shape = (STEPS, 2, sum(case.sizes), *case.shape)
    values = torch.randn(shape, generator=generator, dtype=torch.float64).to(case.dtype)
    return [(x * 2 + 0.3, w) for x, w in values]


def layer(case: Case, engine: str | None) -> nn.Module:
    torch.manual_seed(3)
    made = case.kind(3, engine=engine, dtype=case.dtype, **case.options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def part(case: Case, tensor: Tensor, rank: int) -> Tensor:
    return tensor.split(case.sizes)[rank]


def results(module: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Outputs and input gradients of every step, parameter gradients, and the state."""
    outputs, grads = [], []
    for x, w in batches:
        z = x.clone().requires_grad_()
        y = module(z)
        (y * w).sum().backward()
        outputs.append(y.detach())
        grads.append(z.grad)
    parameters = {name: p.grad for name, p in module.named_parameters()}
    state = copy.deepcopy(dict(module.state_dict()))
    return {"outputs": outputs, "grads": grads, "parameters": parameters, "state": state}
