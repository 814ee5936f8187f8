"""What contexts of a whole corpus take: seconds and bytes for a million images.

    python benchmarks/cluster.py              # about two minutes on one core
    python benchmarks/cluster.py --markdown   # the recorded figures, as the docs have them

A full-size ResNet-18 of CIFAR images, its 20 norms recorded by `qact.recalibrate.Counter` in shards
of 1,000 images of noise, batches of 100: processor seconds of one thread, with and without
counting, bytes of what a worker sends back, and seconds that adding one such pack takes.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch

from qact.models import resnet18
from qact.recalibrate import Counter

DATA = Path(__file__).parent / "data" / "cluster.json"
SHARD, BATCH, SHARDS = 1_000, 100, 3


def load(seed: int) -> tuple[torch.Tensor, ...]:
    """The batches of a shard."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(SHARD, 3, 32, 32, generator=draw).split(BATCH)


def measured() -> dict:
    """Everything of the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = resnet18(act="relu").eval()
    counter = Counter(model, load=load)
    counter(0)  # compiles
    plain, counted, packs = [], [], []
    for seed in range(SHARDS):  # in turn, so that another load meets both alike
        begin = time.process_time()
        with torch.no_grad():
            for batch in load(seed):
                model(batch)
        middle = time.process_time()
        packs.append(counter(seed))
        counted.append(time.process_time() - middle)
        plain.append(middle - begin)
    begin = time.process_time()
    counter.total(packs)
    return {
        "command": "python benchmarks/cluster.py",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "seconds_plain": round(min(plain), 3),
        "seconds_counted": round(min(counted), 3),
        "seconds_added": round((time.process_time() - begin) / SHARDS, 4),
        "bytes": max(map(len, packs)),
    }


def markdown(found: dict) -> str:
    """Per shard, per million images, and for a billion on 1,000 cores in shards of 100,000."""
    million = 1e6 / SHARD
    rows = [
        ("forward pass alone, core hours", found["seconds_plain"] * million / 3600, ".2f"),
        ("the same, counted, core hours", found["seconds_counted"] * million / 3600, ".2f"),
    ]
    lines = ["| | a million images | a billion |", "|---|---:|---:|"]
    lines += [f"| {name} | {value:{form}} | {1000 * value:,.0f} |" for name, value, form in rows]
    packs = 10, 10_000  # of 100,000 images
    sent = [found["bytes"] * n / 1e6 for n in packs]
    added = [found["seconds_added"] * n for n in packs]
    lines.append(f"| packs of 100,000 images, MB sent | {sent[0]:.1f} | {sent[1]:,.0f} |")
    lines.append(f"| adding them up, seconds of one core | {added[0]:.1f} | {added[1]:,.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--markdown", action="store_true", help="print what is recorded")
    options = parser.parse_args()
    if not options.markdown:
        DATA.write_text(json.dumps(measured(), indent=1) + "\n", encoding="utf-8")
    print(markdown(json.loads(DATA.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
