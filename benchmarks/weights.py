"""Maps against the package entmax, torch's softmax and a sort: time, memory, agreement; pictures.

    python benchmarks/weights.py                (needs entmax 1.3: pip install entmax)
    python benchmarks/weights.py --map softmax  (this one alone; the other rows stay)
    python benchmarks/weights.py --pictures     (docs/images/weights-*.svg, weights/*.svg, qact.svg)

Forward and backward, rows of 197, 1,024 and 32,000 normal scores in float32, all in one process and
one thread, interleaved, in processor time; a ratio is the median over rounds of neighbours. Memory
is the largest sum of what is alive at once within a forward and a backward, beside the scores and
the gradient that comes in. `--engine torch` takes Numba away.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import qact
from qact import weights
from qact.bench.report.figures import drawn_as_svg
from qact.kernels import engines, row_rank

PATH = Path("benchmarks/data/weights.json")
SIZES = {197: 8192, 1024: 2048, 32_000: 64}  # length of a row: rows
STYLE = Path("src/qact/bench/report/templates/report.css")
Function = Callable[[Tensor], Tensor]


def run(function: Function, z: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, float]:
    z = z.detach().requires_grad_()
    begin = time.process_time()
    output = function(z)
    output.backward(grad)
    return output.detach(), z.grad, time.process_time() - begin


def peak(function: Function, z: Tensor, grad: Tensor) -> int:
    """Bytes of the largest moment, by torch's own record of what was allocated and freed."""
    z = z.detach().requires_grad_()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        function(z).backward(grad)
    held = most = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def compare(ours: Function, theirs: Function, length: int, rounds: int) -> dict[str, Any]:
    torch.manual_seed(length)
    z, grad = torch.randn(SIZES[length], length), torch.randn(SIZES[length], length)
    ratios = []
    for turn in range(rounds + 2):
        pair = (ours, theirs) if turn % 2 else (theirs, ours)  # who comes second finds a warm cache
        runs = {function: run(function, z, grad) for function in pair}
        ratios.append(runs[theirs][2] / runs[ours][2])
    (a, da, _), (b, db, _) = runs[ours], runs[theirs]
    exact, slope, _ = run(theirs, z.double(), grad.double())
    memory = peak(ours, z, grad), peak(theirs, z, grad)
    quarters = statistics.quantiles(ratios[2:], n=4)
    return {
        "rows": SIZES[length],
        "length": length,
        "times_faster": round(statistics.median(ratios[2:]), 2),
        "quartiles": [round(quarters[0], 2), round(quarters[2], 2)],
        "memory_share": round(memory[0] / memory[1], 3),
        "weights_differ": float((a - b).abs().max()),
        "gradients_differ": float((da - db).abs().max()),
        "from_float64": [float((t - exact).abs().max()) for t in (a, b)],
        "gradients_from_float64": [float((t - slope).abs().max()) for t in (da, db)],
    }


def ranked_by_sorting(z: Tensor) -> Tensor:
    """:func:`qact.weights.rank` with a sort and two searches for the ranks."""
    normal = weights.normal_rank(z, torch.ones_like(z, dtype=torch.bool))
    ranks = row_rank.by_sorting(z.detach()) / z.shape[-1] + (normal - normal.detach())
    powers = ranks**4
    return powers / powers.sum(-1, keepdim=True)


def measure(rounds: int, engine: str, only: str | None) -> None:
    entmax: Any = None if only in ("softmax", "rank") else import_module("entmax")
    if engine == "torch":
        engines.fused = lambda *_: False
    learnt = weights.create("entmax_learnt", alpha=1.3)
    alpha = torch.tensor(1.3, requires_grad=True)
    pairs = [
        ("sparsemax", weights.sparsemax, lambda z: entmax.sparsemax(z, dim=-1)),
        ("entmax15", weights.entmax15, lambda z: entmax.entmax15(z, dim=-1)),
        ("entmax", lambda z: weights.entmax(z, alpha=1.3), lambda z: entmax.entmax_bisect(z, 1.3)),
        ("entmax_learnt", learnt, lambda z: entmax.entmax_bisect(z, alpha)),
        ("softmax", weights.softmax, lambda z: torch.softmax(z, -1)),
        ("rank", weights.rank, ranked_by_sorting),
    ]
    rivals = {"softmax": "torch", "rank": "a sort"}
    whole = json.loads(PATH.read_text()) if PATH.exists() else {}
    rows = [] if only is None else whole[engine]["rows"]
    rows = [row for row in rows if row["map"] != only]
    for name, ours, theirs in pairs if only is None else [p for p in pairs if p[0] == only]:
        for length in SIZES:
            row = compare(ours, theirs, length, rounds)
            rows.append({"map": name, "against": rivals.get(name, "entmax")} | row)
            print(json.dumps(rows[-1]), flush=True)
    whole[engine] = {"torch": torch.__version__, "threads": 1, "rounds": rounds, "rows": rows}
    PATH.write_text(json.dumps(whole, indent=1) + "\n")


def draw_to(path: str, draw: Callable[[Any], None], size: tuple[float, float], about: str) -> None:
    """An SVG whose colours follow the page's theme, as the report has them."""
    style = STYLE.read_text().split("* {")[0]
    head, _, body = drawn_as_svg(draw, size, about).partition(">")
    place = Path("docs/images") / path
    place.parent.mkdir(exist_ok=True)
    place.write_text(f"{head}><style>{style} svg {{ color: var(--ink); }}</style>{body}")


def curve(name: str, t: Tensor) -> tuple[Tensor, Tensor]:
    """The weight of a score ``t`` beside 1, 0 and -1, and its derivative."""
    others = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64).expand(len(t), 3)
    z = torch.cat([t[:, None], others], 1).requires_grad_()
    torch.manual_seed(0)
    w = _made(name)(z)[:, 0]
    (slope,) = torch.autograd.grad(w.sum(), z)
    return w.detach(), slope[:, 0]


def contexts(figure: Any) -> None:
    """QAct's value in three stored contexts: what is ranked decides the function."""
    z, t = (
        torch.randn(20_000, generator=torch.Generator().manual_seed(0)),
        torch.linspace(-3, 3, 301),
    )
    axes = figure.subplots()
    for label, seen in (("normal", z), ("1 + normal/2", 1 + z / 2), ("exponential", z.exp())):
        layer = qact.QAct(1)
        layer(seen[:, None])
        axes.plot(t, layer.eval()(t[:, None]).detach()[:, 0], label=label)
    axes.set(xlabel="x", title="QAct(x) by its context")
    figure.legend(loc="outside right upper")


def pictures() -> None:
    """One picture per family, one per map, and one of QAct."""
    draw_to("qact.svg", contexts, (4.6, 2.4), "QAct in three contexts")
    t = torch.linspace(-4, 4, 401, dtype=torch.float64)
    for name in weights.names():

        def alone(figure: Any, name: str = name) -> None:
            axes = figure.subplots()
            w, slope = curve(name, t[::4])
            axes.plot(t[::4], w, label="weight")
            axes.plot(t[::4], slope, "--", label="derivative")
            axes.set(title=name)

        draw_to(f"weights/{name}.svg", alone, (2.4, 1.8), f"{name}: weight and derivative")
    families: dict[str, list[str]] = {}
    for name in weights.names(random=False):
        families.setdefault(weights.entry(name).family, []).append(name)
    for family, names in families.items():

        def draw(figure: Any, names: list[str] = names) -> None:
            left, right = figure.subplots(1, 2)
            for k, name in enumerate(names):
                w, slope = curve(name, t)
                dashed = "--" if k >= 5 else "-"
                left.plot(t, w, dashed, label=name)
                right.plot(t, slope, dashed)
            left.set(xlabel="score t, beside 1, 0 and -1", title="weight of t")
            right.set(xlabel="score t", title="derivative by t")
            figure.legend(loc="outside right upper")

        about = f"The family {family}: weights and derivatives"
        draw_to(f"weights-{family}.svg", draw, (8.8, 2.8), about)


def _made(name: str) -> torch.nn.Module:
    if name == "context_rank":
        torch.manual_seed(0)
        module = weights.create(name, num_classes=4).double()
        module(torch.randn(4000, 4, dtype=torch.float64))
        return module.eval()
    return weights.create(name, **({"entropy": 1.0} if name == "era" else {})).double()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--map", help="measure this one alone")
    parser.add_argument("--engine", choices=("numba", "torch"), default="numba")
    parser.add_argument("--pictures", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.pictures:
        pictures()
    else:
        measure(options.rounds, options.engine, options.map)


if __name__ == "__main__":
    main()
