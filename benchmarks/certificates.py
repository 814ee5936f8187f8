"""Certified accuracy on the digits: ReLU, GELU and QAct, trained plainly and on their bounds.

    python benchmarks/certificates.py [--seeds 3] [--attack]

Writes benchmarks/data/certificates.json cell by cell, and goes on where it was stopped. With
--attack it trains the networks of seed 0 on their bounds and says what projected gradient descent
finds within the radius of 0.1.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, pstdev

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import qact
from qact.activations.bounds import Bounds, certify
from qact.files import write_atomically

DATA = Path(__file__).parent / "data" / "certificates.json"
RADII = (0.0, 0.02, 0.05, 0.1)
EPS, STEPS, BATCH, HELD_OUT = 0.1, 600, 128, 597
ACTS = ("relu", "relu bare", "gelu", "qact")


def network(act: str) -> nn.Module:
    """Two hidden layers of 64; a norm in front of what is no rank, unless it is bare."""
    name, _, bare = act.partition(" ")

    def block() -> list[nn.Module]:
        norm = [] if bare or name == "qact" else [nn.BatchNorm1d(64)]
        return [nn.Linear(64, 64), *norm, qact.activation(name, 64)]

    return nn.Sequential(*block(), *block(), nn.Linear(64, 10))


def train(act: str, seed: int, robust: bool) -> nn.Module:
    """Adam; of a robust network half of the loss is that of the worst logits in a growing box."""
    torch.manual_seed(seed)
    images, labels = data(seed)[0]
    net = network(act)
    if robust:
        qact.init_(net, "interval")
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for step in range(STEPS):
        index = torch.randint(len(images), (BATCH,))
        x, y = images[index], labels[index]
        loss = F.cross_entropy(net.train()(x), y)
        if robust and step > STEPS // 10:
            eps = EPS * min(1.0, (step - STEPS // 10) / (STEPS // 2))
            box = Bounds(net)((x - eps).clamp(0, 1), (x + eps).clamp(0, 1))
            worst = torch.where(F.one_hot(y, 10).bool(), box.low, box.high)
            loss = (loss + F.cross_entropy(worst, y)) / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return net.eval()


def data(seed: int) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Training and test digits; which are which follows the seed."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    x, y = torch.tensor(images).float()[order] / 16, torch.tensor(labels)[order]
    return (x[HELD_OUT:], y[HELD_OUT:]), (x[:HELD_OUT], y[:HELD_OUT])


def attacked(net: nn.Module, x: torch.Tensor, y: torch.Tensor, eps: float) -> torch.Tensor:
    """Whether each prediction stays right under three attacks of 25 steps, (N,)."""
    right = torch.ones(len(x), dtype=torch.bool)
    for _ in range(3):
        moved = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
        for _ in range(25):
            moved = moved.detach().requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(net(moved), y), moved)
            moved = moved.detach() + 0.2 * eps * slope.sign()
            moved = (x + (moved - x).clamp(-eps, eps)).clamp(0, 1)
        right &= net(moved).argmax(1) == y
    return right


def attack() -> None:
    """Print accuracy under attack beside certified accuracy."""
    for act in ACTS:
        net, (x, y) = train(act, 0, True), data(0)[1]
        proof, right = certify(net, x, y, EPS, within=(0, 1)), attacked(net, x, y, EPS)
        broken = int(((proof.gain < 0) & ~right).sum())
        print(f"{act}: {proof}, attacked {right.double().mean():.4f}, certified broken {broken}")


def main() -> None:
    """Fill in what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--attack", action="store_true")
    options = parser.parse_args()
    if options.attack:
        return attack()
    seeds = range(options.seeds)
    found = json.loads(DATA.read_text()) if DATA.exists() else {}
    for seed in seeds:
        for act in ACTS:
            for robust in (False, True):
                key = f"{act}, {'bounds' if robust else 'plain'}, {seed}"
                if key in found:
                    continue
                net, test = train(act, seed, robust), data(seed)[1]
                proofs = [certify(net, *test, eps, within=(0, 1)) for eps in RADII]
                found[key] = [proofs[0].accuracy, *(proof.certified for proof in proofs[1:])]
                write_atomically(DATA, (json.dumps(found, indent=1) + "\n").encode())
    print("| trained | " + " | ".join(["accuracy", *(f"eps {e}" for e in RADII[1:])]) + " |")
    for act in ACTS:
        for kind in ("plain", "bounds"):
            rows = [row for key, row in found.items() if key.startswith(f"{act}, {kind}, ")]
            cells = [
                f"{100 * mean(c):.1f} ± {100 * pstdev(c):.1f}" for c in zip(*rows, strict=True)
            ]
            print(f"| {act}, {kind} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
