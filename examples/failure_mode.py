"""The failure mode: the same input has contradictory labels in different contexts.

K contexts are images of one base distribution: shifted and scaled, bent by an increasing map,
flipped, or rotated. The label says where a point stands in its own context, so that one input is
of class 0 here and of class 1 there, and no function of the input alone can be right. Batches come
from one context. Three networks, equal but for what follows each hidden layer:

    none       ReLU
    BatchNorm  BatchNorm, ReLU: the control, for batch statistics are a context too
    QAct       qact.QAct, with its defaults (smooth rank), and with a step or a grounded rank

    python examples/failure_mode.py --out failure-mode.svg
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import torch
from torch import Tensor, nn

import qact

CONTEXTS = 32
BATCH = 512  # of one context, in training and at test time
Draw = Callable[[int, int, torch.Generator], tuple[Tensor, Tensor]]

METHODS: dict[str, Callable[[int], list[nn.Module]]] = {
    "none": lambda width: [nn.ReLU()],
    "BatchNorm": lambda width: [nn.BatchNorm1d(width), nn.ReLU()],
    "QAct": lambda width: [qact.QAct(width, grounded=False)],
    "QAct step": lambda width: [qact.QAct(width, grounded=False, smooth=False)],
    "QAct gnd": lambda width: [qact.QAct(width)],
}


@dataclass(frozen=True)
class Family:
    """A family of contexts: ``draw(k, n, generator)`` gives ``n`` points of context ``k``."""

    name: str
    dim: int
    draw: Draw
    methods: tuple[str, ...]
    steps: int
    test: Draw | None = None  # where other contexts are met at test time


# --- on the line: y = 1 above the median of the context ----------------------------------------


def place(s: Tensor, k: int, far: float = 1.0) -> Tensor:
    """Shift and scale: 32 centres from -10 to 10, scales 1/2, 1 and 2."""
    shift = 20 * k / (CONTEXTS - 1) - 10
    return (far * shift + far * 2.0 ** (k % 3 - 1) * s)[:, None]


def normal(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, generator=generator)


def lopsided(n: int, generator: torch.Generator) -> Tensor:
    """Exponential, its median moved to zero."""
    return torch.empty(n).exponential_(generator=generator) - math.log(2)


def shifted(k: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    s = normal(n, generator)
    return place(s, k), s > 0


def elsewhere(k: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Contexts that training never saw, ten times as far out and as wide."""
    s = normal(n, generator)
    return place(s, k, far=10.0), s > 0


def bent(k: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """An increasing map of its own for every context, and then shift and scale."""
    s = normal(n, generator)
    maps = [s, s**3, torch.exp(1.5 * s) - 1, 1 - torch.exp(-1.5 * s)]
    return place(maps[k % 4], k), s > 0


def flipped(base: Callable[[int, torch.Generator], Tensor]) -> Draw:
    """Every second context is a mirror image."""

    def draw(k: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        s = base(n, generator)
        return place(-s if k % 2 else s, k // 2 * 2), s > 0

    return draw


# --- in the plane: y = 1 on one side of the cloud's own axis ------------------------------------


def rotated(cloud: Callable[[int, torch.Generator], Tensor], most: float) -> Draw:
    """Contexts turned by angles from ``-most`` to ``most`` degrees."""

    def draw(k: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        s = cloud(n, generator)
        angle = math.radians(most) * (2 * (k + 0.5) / CONTEXTS - 1)
        cos, sin = math.cos(angle), math.sin(angle)
        return s @ torch.tensor([[cos, sin], [-sin, cos]]), s[:, 1] > 0

    return draw


def round_cloud(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, 2, generator=generator)


def long_cloud(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, 2, generator=generator) * torch.tensor([3.0, 1.0])


def lopsided_cloud(n: int, generator: torch.Generator) -> Tensor:
    """A tail along one side of the first axis: only the full turn maps it to itself."""
    s = torch.randn(n, 2, generator=generator)
    s[:, 0] = 3 * lopsided(n, generator)
    return s


PROVED, LINE, PLANE = 40, 80, 160  # steps; no number of them helps where a proof says so
FEW = ("none", "BatchNorm", "QAct")
FAMILIES = (
    Family("shift and scale", 1, shifted, tuple(METHODS), LINE),
    Family("  ten times as far", 1, shifted, (*FEW, "QAct step"), LINE, test=elsewhere),
    Family("increasing maps", 1, bent, (*FEW, "QAct step"), LINE),
    Family("flips, symmetric", 1, flipped(normal), FEW, PROVED),
    Family("flips, lopsided", 1, flipped(lopsided), (*FEW, "QAct step"), LINE),
    Family("rotations, round", 2, rotated(round_cloud, 180), FEW, PROVED),
    Family("rotations, long", 2, rotated(long_cloud, 60), FEW, PLANE),
    Family("rotations, lopsided", 2, rotated(lopsided_cloud, 180), FEW, PLANE),
)


# --- training and measuring ---------------------------------------------------------------------


def network(dim: int, method: str, width: int = 8) -> nn.Sequential:
    after = METHODS[method]
    first = [nn.Linear(dim, width), *after(width)]
    return nn.Sequential(*first, nn.Linear(width, width), *after(width), nn.Linear(width, 1))


def train(family: Family, method: str, seed: int, steps: int) -> nn.Module:
    """Adam, each batch from one context."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = network(family.dim, method)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        k = int(torch.randint(CONTEXTS, (), generator=generator))
        x, y = family.draw(k, BATCH, generator)
        loss = nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return model.eval()


@torch.no_grad()
def measure(model: nn.Module, draw: Draw, seed: int) -> dict[str, float]:
    """Accuracy in percent on fresh points: batches of one context, mixed ones, single samples."""
    generator = torch.Generator().manual_seed(1000 + seed)
    batches = [draw(k, BATCH, generator) for k in range(CONTEXTS)]
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    order = torch.randperm(len(x), generator=generator)

    def accuracy(parts: list[tuple[Tensor, Tensor]]) -> float:
        return 100 * fmean(((model(x)[:, 0] > 0) == y).float().mean().item() for x, y in parts)

    with qact.adapting(model, context="batch"):  # QAct and BatchNorm read the test batch
        one = accuracy(batches)
        mixed = accuracy([(x[part], y[part]) for part in order.split(BATCH)])
    return {"one": one, "mixed": mixed, "single": accuracy([(x, y)])}


def ceiling(draw: Draw, dim: int) -> float:
    """What a function of the input alone can reach: majority votes in cells of equal mass.

    They are counted on one half of 2 million points and tested on the other.
    """
    generator = torch.Generator().manual_seed(0)
    parts = [draw(k, 2_000_000 // CONTEXTS, generator) for k in range(CONTEXTS)]
    x, y = (torch.cat(part) for part in zip(*parts, strict=True))
    side = 1000 if dim == 1 else 40
    cell = torch.zeros(len(x), dtype=torch.long)
    for column in x.T:
        few = column[:: len(x) // 100_000].sort().values
        edges = few[:: 100_000 // side][1:].contiguous()
        cell = cell * (side + 1) + torch.searchsorted(edges, column.contiguous())
    votes = torch.zeros(int(cell.max()) + 1)
    votes.scatter_add_(0, cell[::2], 2 * y[::2].float() - 1)
    return 100 * ((votes[cell[1::2]] > 0) == y[1::2]).float().mean().item()


def run(
    seeds: int = 3, share: float = 1.0, families: tuple[Family, ...] = FAMILIES
) -> dict[tuple[str, str], list[dict[str, float]]]:
    """Train and measure; ``{(family, method): [accuracies of a seed, ...]}``."""
    results: dict[tuple[str, str], list[dict[str, float]]] = {}
    models: dict[tuple[Draw, str, int], nn.Module] = {}
    for family in families:
        for method in family.methods:
            for seed in range(seeds):
                key = (family.draw, method, seed)
                if key not in models:
                    models[key] = train(family, method, seed, max(1, round(share * family.steps)))
                found = measure(models[key], family.test or family.draw, seed)
                results.setdefault((family.name, method), []).append(found)
    return results


def cell(found: list[dict[str, float]] | None, protocol: str) -> str:
    """Mean and standard deviation over seeds."""
    if not found:
        return "-"
    values = [accuracies[protocol] for accuracies in found]
    spread = f" {stdev(values):3.1f}" if len(values) > 1 else ""
    return f"{fmean(values):.1f}{spread}"


def table(results: dict[tuple[str, str], list[dict[str, float]]], seeds: int) -> str:
    """Both tables as plain text, 80 columns."""
    lines = [
        f"Accuracy in %, mean and standard deviation over {seeds} seeds; chance is 50."
        if seeds > 1
        else "Accuracy in %, one seed; chance is 50.",
        f"{CONTEXTS} contexts, batches of {BATCH}. On the line such ranks reach "
        f"{100 * rank_limit(BATCH):.1f} on average.",
        "",
        "Test batches from one context ('any': the best function of the input alone)",
        "",
        f"{'':19} {'any':>5} " + " ".join(f"{method:>9}" for method in METHODS),
    ]
    for family in FAMILIES:
        cells = [cell(results.get((family.name, method)), "one") for method in METHODS]
        best = ceiling(family.test or family.draw, family.dim)
        lines.append(f"{family.name:19} {best:5.1f} " + " ".join(f"{c:>9}" for c in cells))
    lines += ["", "Shift and scale: what the test batch is", ""]
    lines.append(f"{'':25} " + " ".join(f"{method:>9}" for method in METHODS))
    for protocol, name in (
        ("one", "one context"),
        ("mixed", "all contexts mixed"),
        ("single", "single samples"),
    ):
        cells = [cell(results.get((FAMILIES[0].name, method)), protocol) for method in METHODS]
        lines.append(f"{name:25} " + " ".join(f"{c:>9}" for c in cells))
    return "\n".join(lines)


def rank_limit(n: int) -> float:
    """The best accuracy of ranks in a batch of ``n``: 1 - E|M - n/2| / n, M ~ Binomial(n, 1/2)."""
    return 1 - math.comb(n, n // 2) / 2.0 ** (n + 1)


# --- the figure ---------------------------------------------------------------------------------

BLUE, ORANGE, GREY = "#2f6db3", "#d9822b", "#9aa0a6"
COLOURS = {"none": GREY, "BatchNorm": ORANGE, "QAct": BLUE, "QAct step": "#0b2e5c"}


def draw_figure(results: dict[tuple[str, str], list[dict[str, float]]], out: Path) -> None:
    """Contexts, their ranks, and the accuracies."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "qact"  # the same file from the same numbers
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(10, 4.2), layout="constrained")
    grid = figure.add_gridspec(4, 3, width_ratios=(1, 1, 1.5))
    generator = torch.Generator().manual_seed(0)
    left = right = None
    for row, k in enumerate((8, 13, 18, 23)):
        x, y = bent(k, 20_000, generator)
        rank = qact.functional.quantile_activation(x, grounded=False, smooth=False)
        left = figure.add_subplot(grid[row, 0], sharex=left)
        right = figure.add_subplot(grid[row, 1], sharex=right)
        for axes, values, span in ((left, x, (-12.0, 16.0)), (right, rank, (0.0, 1.0))):
            for label, colour in ((0, ORANGE), (1, BLUE)):
                part = values[y == bool(label), 0].numpy()
                axes.hist(
                    part,
                    80 if axes is left else 20,
                    range=span,
                    color=colour,
                    histtype="stepfilled",
                    alpha=0.75,
                )
            axes.set_yticks([])
            axes.spines[["top", "left", "right"]].set_visible(False)
            axes.tick_params(labelbottom=row == 3)
        left.set_ylabel(f"context {k}", rotation=0, ha="right", va="center")
    figure.axes[0].set_title("input, by label", loc="left", fontsize=10)
    figure.axes[1].set_title("its rank in the context", loc="left", fontsize=10)

    bars = figure.add_subplot(grid[:, 2])
    for index, (method, colour) in enumerate(COLOURS.items()):
        for row, family in enumerate(FAMILIES):
            found = results.get((family.name, method))
            for accuracies in found or ():
                height = row + 0.18 * (index - 1.5)
                bars.plot(accuracies["one"], height, "o", color=colour, ms=4.5)
        bars.plot([], [], "o", color=colour, label=method)
    bars.axvline(50, color=GREY, lw=0.8, zorder=0)
    bars.set_yticks(range(len(FAMILIES)), [family.name.strip() for family in FAMILIES])
    bars.invert_yaxis()
    bars.set_xlim(44, 101)
    bars.grid(axis="y", lw=0.3)
    bars.set_axisbelow(True)
    bars.spines[["top", "right"]].set_visible(False)
    bars.set_xlabel("accuracy in %, one dot a seed")
    bars.legend(
        ncols=4,
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        frameon=False,
        fontsize=8,
        handletextpad=0.1,
        columnspacing=1.0,
    )
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None, dpi=150)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds (default 3)")
    parser.add_argument("--longer", type=float, default=1, help="train that many times as long")
    parser.add_argument("--out", type=Path, help="write the figure here (.svg, .png or .pdf)")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {options.seeds}")
    if not options.longer > 0:
        parser.error(f"--longer must be positive, got {options.longer}")
    torch.set_num_threads(1)  # small tensors; more threads only wait for one another
    results = run(options.seeds, options.longer)
    print(table(results, options.seeds))
    if options.out:
        draw_figure(results, options.out)
        print(f"\nwrote {options.out}")


if __name__ == "__main__":
    main()
