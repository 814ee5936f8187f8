"""How often the suggested action of an alarm is the right one: the figures of docs/monitor.md.

    python benchmarks/monitor_actions.py run            (or run --group holdout)
    python benchmarks/monitor_actions.py table

A small CNN on the digits is served streams of 384 held-out images: corruptions at severities 1, 3
and 5, shuffled in calls of 64 and of 4 and sorted by class, mixtures of all corruptions, and shifts
of what images show (turned, mirrored, moved, negative; a long tail of classes). The first window of
256 images gives the suggestion; then the stream is served by every action. A suggestion is right if
its accuracy is within 2 points of the best action's, and ``retrain`` if no action comes within 10
points of the accuracy without a shift. Rules were written with the four corruptions for validation
and with a look at the other content; they are counted on the fifteen of the benchmark and
on that. Rows go to benchmarks/data/monitor-actions.jsonl.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import monitor as shared
import qact
from qact.monitor import Monitor, record, suggest
from qact.shift import streams

OUT = Path(__file__).parent / "data" / "monitor-actions.jsonl"
ACTIONS = ("source", "batch", "safe", "recalibrate")
KINDS = (("iid", 64), ("iid", 4), ("sorted", 64))
CONTENT = {
    "none": lambda x: x,
    "turned by 90": lambda x: x.rot90(1, (2, 3)),
    "turned by 180": lambda x: x.rot90(2, (2, 3)),
    "mirrored": lambda x: x.flip(3),
    "moved by 3": lambda x: x.roll((3, -3), (2, 3)),
    "moved by 6": lambda x: x.roll((6, 6), (2, 3)),
    "negative": lambda x: 1 - x,
}
WINDOW, SERVED, NEAR, FAR = 256, 384, 0.02, 0.10


def network():
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(64 * 16, 10)),
    )


def parts(seed):
    """A trained network, and labelled images for the reference and for streams."""
    digits = load_digits()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(digits.target)))
    x = torch.from_numpy(digits.images).float()[:, None][order] / 16
    x, y = F.interpolate(x, 16, mode="bilinear"), torch.from_numpy(digits.target)[order]
    torch.manual_seed(seed)
    model = shared.trained(network(), x[:600], y[:600], 20)
    return model, (x[600:1300], y[600:1300]), (x[1300:], y[1300:])


def served(model, action, batches):
    if action == "recalibrate":
        with torch.no_grad(), qact.recalibrated(model, context="running"):
            return torch.cat([model(x) for x in batches])
    with qact.adapt.create(action, model) as method:
        return torch.cat([method(x) for x in batches])


def cells(group):
    names = qact.shift.corruptions(group)
    for severity in (5, 3, 1):
        for kind, batch in KINDS:
            yield from ((name, severity, kind, batch) for name in names)
        yield "all", severity, "mixed", 64
    for name in CONTENT:
        yield from ((name, 0, kind, batch) for kind, batch in (*KINDS, ("imbalanced", 64)))


def batches_of(x, y, name, severity, kind, batch, group):
    names = qact.shift.corruptions(group) if name == "all" else [name if severity else "fog"]
    planned = streams.stream(
        kind, x, y, batch=batch, corruptions=names, severity=severity, seed=severity
    )
    change = CONTENT.get(name, lambda x: x)
    found, count = [], 0
    for images, labels, _ in planned:
        if count < SERVED:
            found.append((change(images), labels))
            count += len(images)
    return found


def run(group, seeds):
    done = set()
    if OUT.exists():
        rows = map(json.loads, OUT.read_text().splitlines())
        done = {(r["group"], r["seed"], *r["cell"]) for r in rows}
    for seed in range(seeds):
        model, (x, y), (fresh, truth) = parts(seed)
        reference = record(model, list(zip(x.split(100), y.split(100), strict=True)))
        qact.record(model, x.split(100))
        with torch.no_grad():
            clean = float((model(fresh).argmax(1) == truth).double().mean())
        for cell in cells(group):
            if (group, seed, *cell) in done:
                continue
            stream = batches_of(fresh[:SERVED], truth[:SERVED], *cell, group)
            images, labels = [x for x, _ in stream], torch.cat([y for _, y in stream])
            monitor = Monitor(model, reference, window=min(WINDOW, len(labels)))
            with monitor, torch.no_grad():
                for part in images:
                    model(part)
            verdict = monitor.verdicts[0]
            found = suggest(verdict, monitor.windows[0], reference)
            accuracy = {
                name: float((served(model, name, images).argmax(1) == labels).double().mean())
                for name in ACTIONS
            }
            row = {
                "group": group,
                "seed": seed,
                "cell": list(cell),
                "clean": round(clean, 4),
                "action": found.action,
                "reason": found.reason,
                "estimate": {n: round(a, 4) for n, a in found.accuracy.items()},
                "accuracy": {n: round(a, 4) for n, a in accuracy.items()},
                "alike": round(verdict.alike or 0.0, 4),
                "spread": round(verdict.spread or 0.0, 3),
                "p": {n: round(p, 5) for n, p in verdict.p_values.items()},
            }
            with OUT.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(cell, found.action, row["accuracy"], flush=True)


def right(row, action=None):
    action, best = action or row["action"], max(row["accuracy"].values())
    if action == "retrain":
        return best < row["clean"] - FAR
    return row["accuracy"][action] >= best - NEAR


def gets(row, action=None):
    action = action or row["action"]
    return row["accuracy"]["source" if action == "retrain" else action]


def table(group):
    rows = [r for r in map(json.loads, OUT.read_text().splitlines()) if r["group"] == group]

    def kind(row):
        name, severity, order, batch = row["cell"]
        if not severity:
            return "no shift" if name == "none" else "other content"
        return f"{'mixed' if name == 'all' else order}, calls of {batch}"

    print("| stream | cells | suggested | right | accuracy | " + " | ".join(ACTIONS) + " |")
    print("|---|---|---|---|---|" + "---|" * len(ACTIONS))
    for name in [*dict.fromkeys(map(kind, rows)), "all"]:
        part = [r for r in rows if name in ("all", kind(r))]
        counts = Counter(r["action"] for r in part).most_common()
        said = ", ".join(f"`{action}` {count}" for action, count in counts)
        shares = [100 * np.mean([right(r) for r in part]), 100 * np.mean([gets(r) for r in part])]
        fixed = [
            f"{100 * np.mean([right(r, a) for r in part]):.0f}%, "
            f"{100 * np.mean([gets(r, a) for r in part]):.1f}"
            for a in ACTIONS
        ]
        cells = [f"{shares[0]:.0f}%", f"{shares[1]:.1f}", *fixed]
        print(f"| {name} | {len(part)} | {said} | " + " | ".join(cells) + " |")
    for action, count in Counter(r["action"] for r in rows).most_common():
        part = [r for r in rows if r["action"] == action]
        print(f"{action}: {count}, right {100 * np.mean([right(r) for r in part]):.0f}%")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--group", choices=("standard", "holdout"), default="standard")
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    run(asked.group, asked.seeds) if asked.what == "run" else table(asked.group)
