"""What every activation costs against ReLU on a large map: time forward and backward, and memory.

    python benchmarks/activations.py
    python benchmarks/activations.py --compiled
    python benchmarks/activations.py --table        (only writes the page from what is recorded)

Interleaved with ReLU, one thread, in processor time; the ratio is that of the fastest passes, which
other processes have disturbed least. Memory is what the forward
saves for the backward, in units of what ReLU saves. With ``--compiled`` the activation goes
through ``torch.compile`` (inductor, which needs a C++ compiler): that is the fused form of a
composed function. ReLU stays torch's own kernel, and what torch has itself is left out.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import nn

import qact
from qact.activations import entry

SHAPE = (64, 64, 32, 32)
PARTS = ("eager", "compiled")
MARKS = ("<!-- cost -->", "<!-- /cost -->")


def seconds(module: nn.Module, x: torch.Tensor, grad: torch.Tensor) -> float:
    x.grad = None
    begin = time.process_time()
    module(x).backward(grad)
    return time.process_time() - begin


def saved(module: nn.Module, x: torch.Tensor) -> int:
    """Bytes that the forward keeps for the backward; what is kept twice counts once."""
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(x)
    del output
    return sum(found.values())


def measure(name: str, pairs: int, compiled: bool) -> dict[str, object]:
    x = torch.randn(SHAPE, requires_grad=True)
    module, control = qact.activation(name, SHAPE[1]), nn.ReLU()
    memory = saved(module, x) / saved(control, x)
    grad = torch.randn_like(module(x).detach())
    base_grad = torch.randn(SHAPE)
    if compiled:
        torch._dynamo.reset()  # else it gives up after a few modules of one kind
        module = torch.compile(module)
    passes = [(seconds(module, x, grad), seconds(control, x, base_grad)) for _ in range(pairs + 2)]
    ours, base = map(min, zip(*passes, strict=True))
    ratio = ours / base
    kind = {"family": entry(name).family, "pointwise": entry(name).pointwise}
    return {"activation": name, "time": round(ratio, 2), "memory": round(memory, 2), **kind}


def write_page(whole: dict, page: Path) -> None:
    """Put the table between its marks, the cheapest first."""
    eager, compiled = ({r["activation"]: r for r in whole[p]["rows"]} for p in PARTS)
    best = {n: min(r["time"], compiled.get(n, r)["time"]) for n, r in eager.items()}
    lines = ["| | eager | `torch.compile` | memory |", "|---|---:|---:|---:|"]
    for name in sorted(eager, key=lambda n: (best[n], n)):
        other = f"{compiled[name]['time']:.1f}" if name in compiled else "–"
        row = eager[name]
        lines.append(f"| `{name}` | {row['time']:.1f} | {other} | {row['memory']:.1f} |")
    head, rest = page.read_text(encoding="utf-8").split(MARKS[0])
    tail = rest.split(MARKS[1])[1]
    table = "\n".join(lines)
    page.write_text(f"{head}{MARKS[0]}\n\n{table}\n\n{MARKS[1]}{tail}", encoding="utf-8")
    within = sorted(name for name, ratio in best.items() if ratio <= 1.5)
    print(f"{len(within)} of {len(best)} within 1.5: {', '.join(within)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--activations", default="*")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--page", type=Path, default=Path("docs/activations.md"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = Path("benchmarks/data/activations.json")
    whole = json.loads(path.read_text()) if path.exists() else {}
    if options.table:
        return write_page(whole, options.page)
    rows = []
    for name in qact.list_activations(options.activations):
        if options.compiled and entry(name).family in ("standard", "quantile"):
            continue
        try:
            rows.append(measure(name, options.pairs, options.compiled))
        except Exception as error:  # what the compiler refuses has no fused form
            print(f"{name:24} not compiled: {type(error).__name__}", flush=True)
            continue
        line = "{activation:24} {time:6.2f} x time {memory:6.2f} x memory".format(**rows[-1])
        print(line, flush=True)
    part = "compiled" if options.compiled else "eager"
    command = f"python benchmarks/activations.py{' --compiled' if options.compiled else ''}"
    about = {"command": command, "torch": torch.__version__, "shape": SHAPE, "threads": 1}
    known = {row["activation"]: row for row in whole.get(part, {}).get("rows", [])}
    known |= {row["activation"]: row for row in rows}  # of a pattern, the others stay
    merged = [known[name] for name in sorted(known)]
    whole[part] = about | {"pairs": options.pairs, "rows": merged}
    path.write_text(json.dumps(whole, indent=1))
    write_page(whole, options.page)


if __name__ == "__main__":
    main()
