"""What a QAct layer costs: time and memory, as ratios to BatchNorm + ReLU.

    python benchmarks/speed.py                    # everything, about 15 minutes on 2 cores
    python benchmarks/speed.py --part blocks      # or: engines, growth, step
    python benchmarks/speed.py --device cuda      # on a GPU: see speed_cuda.py for its columns
    python benchmarks/speed.py --markdown         # the recorded figures, as the docs have them

One protocol: every rival is warmed up, then all run in turn, A B C A B C, in one process; a ratio
is the median over rounds of the rival's time to the control's in the same round. `forward` and
`both` (forward and backward) are training with the running context following; `eval` reads the
stored context. Memory is what autograd keeps beside the input. Results are written after every
part to `benchmarks/data/speed-<device>.json`, with device and versions.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numba
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import qact
import speed_cuda
from published import Published
from qact.models import resnet18
from qact.nn.normed import NormedQAct
from speed_cuda import CONTROL, MAPS, one_pass

HERE = Path(__file__).resolve().parent
# Beside the shapes of batch 128.
MORE = [(512, 64, 32, 32), (512, 512, 4, 4), (1024, 512), (32, 384, 197)]
Rivals = dict[str, Callable[[int], nn.Module]]


BLOCKS: Rivals = {
    CONTROL: lambda c: nn.Sequential(nn.BatchNorm1d(c), nn.ReLU()),
    "BatchNorm + GELU": lambda c: nn.Sequential(nn.BatchNorm1d(c), nn.GELU()),
    "NormedQAct": NormedQAct,
    "QAct": qact.QAct,
    "QAct.paper": qact.QAct.paper,
}
ENGINES: Rivals = {
    CONTROL: BLOCKS[CONTROL],
    "fused": BLOCKS["NormedQAct"],
    "five Numba passes": lambda c: general(c, None),
    "eager PyTorch": lambda c: general(c, "eager"),
    "eager, torch.compile": lambda c: torch.compile(general(c, "eager"), dynamic=False),
}


def general(channels: int, engine: str | None) -> nn.Module:
    """The same layer by the general engine: a function for a level is not fused."""
    act = qact.QAct(channels, engine=engine, levels=lambda score: score.relu())
    return nn.Sequential(nn.BatchNorm1d(channels), act)


def timed(work: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def rounds(works: dict[str, Callable[[], object]], device: str, budget: float) -> dict[str, dict]:
    """Milliseconds and ratio to the first, as many rounds as the budget in seconds allows."""
    for work in works.values():
        work()
    once = {name: timed(work, device) for name, work in works.items()}
    count = max(3, min(50, int(budget / sum(once.values()))))
    times = [{name: timed(work, device) for name, work in works.items()} for _ in range(count)]
    control = next(iter(works))
    return {
        name: {
            "ms": round(1e3 * statistics.median(t[name] for t in times), 4),
            "ratio": round(statistics.median(t[name] / t[control] for t in times), 3),
            "rounds": count,
        }
        for name in works
    }


def failures(works: dict[str, Callable[[], object]]) -> dict[str, str]:
    """What does not run here, and why: a compiler may be missing, or refuse."""
    failed = {}
    for name, work in works.items():
        try:
            work()
        except Exception as error:  # any compiler's
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
    return failed


def kept(module: nn.Module, x: Tensor) -> int:
    """Bytes that autograd keeps for the backward pass, beside the input."""
    sizes: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        if t.data_ptr() != x.data_ptr():
            sizes[t.data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = module(x)
    del y
    return sum(sizes.values())


def folded(shape: tuple[int, ...]) -> tuple[int, ...]:
    """All positions in one dimension, so that one BatchNorm serves every shape."""
    return (*shape[:2], math.prod(shape[2:])) if len(shape) > 2 else shape


def compare(rivals: Rivals, shape: tuple[int, ...], dtype: torch.dtype, args) -> list[dict]:
    x = torch.randn(folded(shape), device=args.device, dtype=dtype)
    x = x.mul_(2).add_(0.5).requires_grad_()
    modules = {n: make(shape[1]).to(args.device, dtype) for n, make in rivals.items()}
    results = []
    for mode in ("forward", "both", "eval"):
        for module in modules.values():
            module.train(mode != "eval")
        chosen = {n: one_pass(m, x, mode) for n, m in modules.items()}
        for name, reason in failures(chosen).items():
            del chosen[name]
            results.append(
                {"rival": name, "mode": mode, "ms": None, "ratio": None, "error": reason}
            )
        for name, numbers in rounds(chosen, args.device, args.seconds).items():
            results.append({"rival": name, "mode": mode} | numbers)
    for module in modules.values():
        module.train()
    ran = [row["rival"] for row in results if row["mode"] == "both" and row["ms"] is not None]
    memory = {name: kept(modules[name], x) for name in ran}
    for row in results:
        row |= {"shape": shape, "dtype": str(dtype).removeprefix("torch.")}
        if row["rival"] in memory:
            row["kept"] = round(memory[row["rival"]] / memory[CONTROL], 3)
    return results


def blocks(args) -> list[dict]:
    rows = []
    for shape in MAPS + ([] if args.quick else MORE):
        rows += compare(BLOCKS, shape, torch.float32, args)
        show(rows[-len(BLOCKS) * 3 :], f"{shape}, float32")
    for shape in MAPS[::3]:
        rows += compare(BLOCKS, shape, torch.bfloat16, args)
        show(rows[-len(BLOCKS) * 3 :], f"{shape}, bfloat16")
    return rows


def engines(args) -> list[dict]:
    rows = []
    for shape in (MAPS[0], MAPS[3], MAPS[4]):
        chosen = dict(ENGINES)
        if args.device == "cuda":
            del chosen["five Numba passes"]
        if shape != MAPS[3]:  # a minute each to compile
            del chosen["eager, torch.compile"]
        rows += compare(chosen, shape, torch.float32, args)
        show(rows[-len(chosen) * 3 :], f"{shape}: engines")
        slow: Rivals = {"fused": BLOCKS["QAct.paper"], "published formulation": Published}
        if shape == (128, 512):  # sums over all pairs: n^2 numbers for every channel
            slow["reference"] = lambda c: qact.QAct(c, engine="reference")
        x = torch.randn(folded(shape), device=args.device, requires_grad=True)
        chosen_works = {
            n: one_pass(m(shape[1]).to(args.device), x, "both") for n, m in slow.items()
        }
        for name, numbers in rounds(chosen_works, args.device, args.seconds).items():
            rows.append({"rival": name, "mode": "both", "shape": shape} | numbers)
        show(rows[-len(slow) :], f"{shape}: against the published formulation")
    return rows


def growth(args) -> list[dict]:
    """Time per value must not grow with the number of levels, nor with the batch."""
    rows = []
    base = {"levels": lambda n: paper_like(n), "batch": lambda n: BLOCKS["QAct"](64)}
    for axis, sizes in (("levels", (10, 50, 100, 250)), ("batch", (32, 128, 512))):
        batch = {n: n if axis == "batch" else 128 for n in sizes}
        chosen = {}
        for n in sizes:
            x = torch.randn(batch[n], 64, 256, device=args.device, requires_grad=True)
            chosen[f"{n} {axis}"] = one_pass(base[axis](n).to(args.device), x, "both")
        for (name, numbers), n in zip(
            rounds(chosen, args.device, args.seconds).items(), sizes, strict=True
        ):
            values = batch[n] * 64 * 256
            per_value = {"ns_per_value": round(1e6 * numbers["ms"] / values, 3)}
            rows.append({"rival": name, "mode": "both", "shape": (batch[n], 64, 16, 16)})
            rows[-1] |= numbers | per_value
        show(rows[-len(sizes) :], f"growth with {axis}")
    return rows


def paper_like(n: int) -> nn.Module:
    level = qact.rank.levels.steps(n)
    options = {"smooth": False, "bandwidth": 0.5, "gradient": "density", "affine": False}
    return NormedQAct(64, after=True, levels=level, **options)


def step(args) -> list[dict]:
    """A whole training step of ResNet-18 on CIFAR images."""
    acts = {
        CONTROL: lambda c: nn.ReLU(inplace=True),
        "BatchNorm + GELU": lambda c: nn.GELU(),
        "QAct behind BatchNorm": qact.QAct,
        "QAct.paper behind BatchNorm": qact.QAct.paper,
    }
    chosen = {}
    x = torch.randn(args.batch, 3, 32, 32, device=args.device)
    y = torch.randint(10, (args.batch,), device=args.device)
    for name, act in acts.items():
        model = resnet18(act=act).to(args.device)
        chosen[name] = train_step(model, torch.optim.SGD(model.parameters(), 1e-3), x, y)
    model = merged(resnet18(act=qact.QAct)).to(args.device)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    chosen["NormedQAct in their place"] = train_step(model, optimizer, x, y)
    rows = [
        {"rival": name, "mode": "step", "shape": tuple(x.shape)} | numbers
        for name, numbers in rounds(chosen, args.device, 4 * args.seconds).items()
    ]
    show(rows, f"ResNet-18, one training step, batch {args.batch}")
    return rows


def merged(model: nn.Module) -> nn.Module:
    """One block where a BatchNorm stands right before an activation."""
    for block in model.modules():
        if hasattr(block, "bn1"):
            channels = block.bn1.num_features
            block.bn1, block.act1 = nn.Identity(), NormedQAct(channels)
    return model


def train_step(model: nn.Module, optimizer, x: Tensor, y: Tensor) -> Callable[[], None]:
    def work() -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return work


def bandwidth(device: str) -> float:
    """Bytes read and written per second by a plain copy of 256 MiB."""
    a = torch.ones(1 << 26, device=device)
    b = torch.empty_like(a)
    b.copy_(a)
    best = min(timed(lambda: b.copy_(a), device) for _ in range(5))
    return 2 * a.numel() * 4 / best


def show(rows: list[dict], title: str) -> None:
    table = Table(title=title, title_justify="left")
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    table.add_column("", overflow="fold")
    for mode in modes:
        table.add_column(f"{mode}, ms", justify="right")
        table.add_column("ratio", justify="right")
    table.add_column("kept" if "kept" in rows[0] else "", justify="right")
    for name in dict.fromkeys(row["rival"] for row in rows):
        mine = {row["mode"]: row for row in rows if row["rival"] == name}
        pairs = [(mine[m]["ms"], mine[m]["ratio"]) for m in modes]
        cells = [c for p in pairs for c in ("-" if v is None else f"{v:.3g}" for v in p)]
        extra = mine[modes[0]].get("kept", mine[modes[0]].get("ns_per_value"))
        table.add_row(name, *cells, "" if extra is None else f"{extra:.2f}")
    Console(width=80).print(table)


def markdown(record: dict) -> str:
    """The recorded ratios, one row per shape and mode, for the docs."""
    about = record["about"]
    lines = [f"{about['device']}, {about['threads']} threads, torch {about['torch']}."]
    lines[0] += f" A plain copy moves {about['copy_GB_per_s']} GB/s."
    for part in PARTS:
        rows = [r for r in record.get(part, []) if r["ratio"] is not None]
        for rivals in dict.fromkeys(_rivals(rows, _key(r)) for r in rows):
            keys = [k for k in dict.fromkeys(map(_key, rows)) if _rivals(rows, k) == rivals]
            lines += ["", "| " + " | ".join(["", f"{rivals[0]}, ms", *rivals[1:]]) + " |"]
            lines.append("|---" * (len(rivals) + 1) + "|")
            for key in keys:
                same = [r for r in rows if _key(r) == key]
                cells = [f"{same[0]['ms']:.3g}", *(f"{r['ratio']:.2f}" for r in same[1:])]
                lines.append("| " + " | ".join([" ".join(key), *cells]) + " |")
    return "\n".join(lines)


def _key(row: dict) -> tuple[str, ...]:
    name = "x".join(map(str, row["shape"]))
    return (name, *([row["dtype"]] if row.get("dtype") == "bfloat16" else []), row["mode"])


def _rivals(rows: list[dict], key: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(r["rival"] for r in rows if _key(r) == key))


def about(args) -> dict:
    cuda = args.device == "cuda"
    lines = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    named = [line.split(":", 1)[1].strip() for line in lines.splitlines() if "model name" in line]
    return {
        "command": f"python benchmarks/speed.py --device {args.device}",
        "device": torch.cuda.get_device_name() if cuda else (named or [platform.processor()])[0],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numba": numba.__version__,
        "python": platform.python_version(),
        "copy_GB_per_s": round(bandwidth(args.device) / 1e9, 2),
    }


PARTS = {"blocks": blocks, "engines": engines, "growth": growth, "step": step}
CUDA_PARTS = {"engines": engines, "growth": growth} | speed_cuda.PARTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--part", choices=tuple(PARTS | CUDA_PARTS))
    parser.add_argument("--seconds", type=float, default=4.0, help="per table and mode")
    parser.add_argument("--batch", type=int, default=32, help="of the ResNet-18 step")
    parser.add_argument("--quick", action="store_true", help="only the shapes of batch 128")
    parser.add_argument("--markdown", action="store_true", help="print what is recorded")
    args = parser.parse_args()
    path = HERE / "data" / f"speed-{args.device}.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    if args.markdown:
        print((markdown if args.device == "cpu" else speed_cuda.markdown)(record))
        return
    record["about"] = about(args)
    args.copy, args.dry = 1e9 * record["about"]["copy_GB_per_s"], False
    for name, part in (CUDA_PARTS if args.device == "cuda" else PARTS).items():
        if args.part in (None, name):
            torch.manual_seed(0)
            record[name] = part(args)
            path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
