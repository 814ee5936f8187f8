"""Draw every activation of the registry and its derivative, one figure per family.

    python examples/activations.py --out docs/images

Pointwise functions are drawn on [-4, 4]. A gate is drawn as a function of its second half, the
first being 1; Maxout of the pieces x and -x/2. What reads a batch, a layer or channels is given
2,001 normal quantiles as that batch, layer or channels, and drawn over them. The derivative is by
autograd where a function is pointwise, by differences over 51 quantiles elsewhere.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

import qact
from qact.activations import Entry, entry

BLUE, ORANGE, GREY = "#2f6db3", "#d9822b", "#9aa0a6"
COLUMNS = 4
OPTIONS = {"clipact": {"threshold": 2.0}, "fitact": {"bound": 2.0}, "proact": {"bound": 2.0}}
CHANNELS_ARE_THE_SAMPLE = ("topk", "polynorm", "ash", "hard_ash")


def quantiles(count: int = 2001) -> torch.Tensor:
    ranks = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.special.ndtri(ranks).float()


def curve(known: Entry) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Places, values and derivatives of an activation."""
    torch.manual_seed(0)
    options = OPTIONS.get(known.name, {})
    if known.halves:
        x = torch.linspace(-4, 4, 801)
        first = -x / 2 if known.name == "maxout" else torch.ones_like(x)
        y = qact.activation(known.name)(torch.stack([first, x], 1))[:, 0]
        return x, y, torch.gradient(y, spacing=(x,))[0]
    if known.pointwise and known.name != "transported":
        x = torch.linspace(-4, 4, 801).requires_grad_()
        y = qact.activation(known.name, 1, **options).eval()(x[:, None])[:, 0]
        (slope,) = torch.autograd.grad(y.sum(), x)
        return x.detach(), y.detach(), slope
    x = quantiles()
    y = on_sample(known.name, x)
    wide = 25  # steps are drawn by their mean slope
    slope = (y[2 * wide :] - y[: -2 * wide]) / (x[2 * wide :] - x[: -2 * wide])
    return x, y, nn.functional.pad(slope, (wide, wide), value=torch.nan)


@torch.no_grad()
def on_sample(name: str, x: torch.Tensor) -> torch.Tensor:
    if name in CHANNELS_ARE_THE_SAMPLE:
        return qact.activation(name, len(x))(x[None])[0]
    layer = qact.activation(name, 1)
    if name == "transported":  # from the normal law to that of the uniform numbers in [0, 3]
        layer.target.add((torch.arange(len(x)) + 0.5)[:, None] * 3 / len(x))
        layer.source.add(x[:, None])
        return layer.eval()(x[:, None])[:, 0]
    return layer(x[:, None])[:, 0]


def choices(axes: Any) -> None:
    """SmartMixed has no curve of its own: the six that a neuron chooses from."""
    from qact.activations.mixed import POOL

    x = torch.linspace(-4, 4, 801)
    for function in POOL.values():
        axes.plot(x, function(x), color=BLUE, lw=0.9, alpha=0.7)


def draw(family: str, names: list[str], out: Path) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "qact", "svg.fonttype": "none", "font.size": 8})
    from matplotlib import pyplot as plt

    rows = math.ceil(len(names) / COLUMNS)
    size = (2.2 * COLUMNS, 1.9 * rows + 0.3)
    figure, grid = plt.subplots(rows, COLUMNS, figsize=size, layout="constrained", squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(names):
            axes.set_visible(False)
            continue
        name = names[place]
        axes.axhline(0, color=GREY, lw=0.5)
        axes.axvline(0, color=GREY, lw=0.5)
        if name == "smartmixed":
            choices(axes)
        else:
            x, y, slope = curve(entry(name))
            axes.plot(x, slope.clamp(-3, 3), color=ORANGE, lw=1.0, label="derivative")
            axes.plot(x, y, color=BLUE, lw=1.4, label="value")
        axes.set_title(name, loc="left", fontsize=8, fontfamily="monospace")
        axes.set_xlim(-4, 4)
        axes.set_ylim(-1.6, 3.2)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside upper right", ncols=2, frameon=False)
    path = out / f"activations-{family}.svg"
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    plt.close(figure)
    return path


def families() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in qact.list_activations():
        found.setdefault(entry(name).family, []).append(name)
    return dict(sorted(found.items()))


def table(family: str) -> str:
    """The entries of a family in Markdown."""
    lines = ["| name | formula | trains | paper |", "|---|---|---|---|"]
    for name in families()[family]:
        known = entry(name)
        trains = ", ".join(f"`{p}`" for p in known.parameters) or "–"
        lines.append(f"| `{name}` | `{known.formula}` | {trains} | {known.paper} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder for the SVGs")
    parser.add_argument("--tables", action="store_true", help="print the tables of the page")
    options = parser.parse_args(arguments)
    if options.tables:
        print("\n\n".join(f"{family}\n\n{table(family)}" for family in families()))
        return
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for family, names in families().items():
        print(draw(family, names, options.out))


if __name__ == "__main__":
    main()
