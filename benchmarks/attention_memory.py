"""Memory of linear and quadratic attention as the sequence grows: N = 512 ... 8,192.

    python benchmarks/attention_memory.py

The largest sum of what is alive at once in a forward, beside queries, keys and values, by torch's
own record of what was allocated and freed; one head of 32 features, one sequence, float32.
Recorded in `benchmarks/data/attention-memory.json`, and written into docs/attention.md.
"""

import json
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from qact import attention

LENGTHS = (512, 1024, 2048, 4096, 8192)
PATH = Path("benchmarks/data/attention-memory.json")
MARKS = ("<!-- memory -->", "<!-- /memory -->")


@torch.no_grad()
def peak(form: torch.nn.Module, n: int) -> int:
    q, k, v = torch.randn(3, 1, 1, n, 32)
    x = torch.randn(1, n, 32)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        form(q, k, v, x)
    held = most = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def main() -> None:
    torch.set_num_threads(1)
    rows = {}
    for name in [*attention.names(linear=True), "entmax15"]:
        form = attention.form(name, 1, 32)
        form(*torch.randn(3, 1, 1, 16, 32), torch.randn(1, 16, 32))
        rows[name] = [peak(form, n) for n in LENGTHS]
        print(name, *(f"{b / 2**20:.2f}" for b in rows[name]), flush=True)
    about = {"lengths": LENGTHS, "torch": torch.__version__, "heads": 1, "head_dim": 32}
    PATH.write_text(json.dumps(about | {"bytes": rows}, indent=1) + "\n")
    lines = [
        "| MiB | " + " | ".join(f"{n:,}" for n in LENGTHS) + " | times, per 16 times the tokens |",
        "|---|" + "---:|" * (len(LENGTHS) + 1),
    ]
    for name, found in rows.items():
        cells = " | ".join(f"{b / 2**20:.2f}" for b in found)
        lines.append(f"| `{name}` | {cells} | {found[-1] / found[0]:.1f} |")
    page = Path("docs/attention.md")
    head, rest = page.read_text().split(MARKS[0])
    tail = rest.split(MARKS[1])[1]
    page.write_text(f"{head}{MARKS[0]}\n\n" + "\n".join(lines) + f"\n\n{MARKS[1]}{tail}")


if __name__ == "__main__":
    main()
