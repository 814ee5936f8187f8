"""The figures of docs/monitor.md: overhead, false alarms, power, estimated accuracy.

    python benchmarks/monitor.py overhead
    python benchmarks/monitor.py rates --data digits        (or table, or cifar10 --root FOLDER)
    python benchmarks/monitor.py power
    python benchmarks/monitor.py table

``rates`` splits held-out images into a reference and fresh windows, again and again, and counts how
often an alarm at 0.05 and 0.01 fires; every split calibrates anew. ``power`` sends windows of 64
digits under each of fifteen corruptions at five severities to every detector and counts windows to
the first alarm. Rows are appended to benchmarks/data/monitor.jsonl as they come, and a cell that is
there is not computed again. ``FOLDER`` has ``load.py`` and ``resnet18-cifar10-relu.npz``'s loader
beside it, as said there; of other data, any ``(images, labels)`` of :func:`pool` will do.
"""

import argparse
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

import qact
from qact.monitor import Monitor, Reference, accuracy, create
from qact.monitor.collect import Collector
from qact.monitor.window import Open

OUT = Path(__file__).parent / "data" / "monitor.jsonl"
SIZES, RATES = (16, 64, 256, 1024), (0.05, 0.01)
MOST = 50  # windows of a stream


def rows_of(model, x, batch=100):
    """Sampled rows of every signal of all images."""
    parts = []
    collector = Collector(model, None, lambda rows, size: parts.append(rows))
    collector.attach()
    with torch.no_grad():
        for part in x.split(batch):
            model(part)
    collector.detach()
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def window_of(rows, index, reference):
    """The window of some of these images, on the reference's frames."""
    window = Open(dict(reference.frames), 0.0)
    window.add({name: z[index] for name, z in rows.items()})
    return window.closed(0.0, "", "")


def picked(rows, index):
    return {name: z[index] for name, z in rows.items()}


def trained(net, x, y, epochs=30):
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.05)
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(net(x[index]), y[index]).backward()
            optimizer.step()
    return net.eval()


def small_net(channels, classes):
    return nn.Sequential(
        *(nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes)),
    )


def pool(data, root=None):
    """A trained network and held-out images with labels."""
    if data == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(digits.target)))
        x = torch.from_numpy(digits.images).float()[:, None][order] / 16
        x, y = F.interpolate(x, 32, mode="bilinear"), torch.from_numpy(digits.target)[order]
        torch.manual_seed(0)
        return trained(small_net(1, 10), x[:300], y[:300]), x[300:], y[300:]
    if data == "table":
        from sklearn.datasets import make_classification

        x, y = make_classification(6000, 20, n_informative=8, n_classes=4, random_state=0)
        x[:, :5] = np.exp(x[:, :5])  # skewed, counted and mostly zero columns, as tables have them
        x[:, 5:8] = np.round(x[:, 5:8])
        x[:, 8:10] = np.maximum(x[:, 8:10], 0)
        x, y = torch.from_numpy(x).float(), torch.from_numpy(y)
        torch.manual_seed(0)
        layers = [nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU()]
        layers += [nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4)]
        return (
            trained(nn.Sequential(nn.BatchNorm1d(20), *layers), x[:1000], y[:1000]),
            x[1000:],
            y[1000:],
        )
    sys.path[:0] = [str(Path(root) / "data")]
    import load as images

    sys.path[:0] = [str(Path(root) / "weights")]
    del sys.modules["load"]
    import load as weights

    model = qact.models.resnet18(act="relu")
    model.load_state_dict(weights.state("relu"))
    x, y = images.load("cifar10", "test", n=2500)
    mean, std = (torch.tensor(t)[:, None, None] for t in (weights.MEAN, weights.STD))
    return (
        model.eval(),
        (torch.from_numpy(x).permute(0, 3, 1, 2) / 255 - mean) / std,
        torch.from_numpy(y),
    )


def write(row):
    OUT.parent.mkdir(exist_ok=True)
    with OUT.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def read(kind):
    if not OUT.exists():
        return []
    return [r for r in map(json.loads, OUT.read_text().splitlines()) if r["kind"] == kind]


def rates(data, root, splits, draws):
    model, x, _ = pool(data, root)
    rows = rows_of(model, x)
    done = {(r["data"], r["split"]) for r in read("rates")}
    fresh_most = 1024
    kept = min(len(x) - fresh_most, 1024)
    for split in range(splits):
        if (data, split) in done:
            continue
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(split))
        reference = Reference.of([picked(rows, order[:kept])], draws=draws, seed=split)
        fresh = order[kept:]
        found = {}
        for size in SIZES:
            # Disjoint windows; those of a split share their reference.
            parts = [part for part in fresh.split(size) if len(part) == size][:32]
            verdicts = [reference.test(window_of(rows, part, reference)) for part in parts]
            found[size] = {
                "p": [round(v.p, 5) for v in verdicts],
                "least": [round(min(v.p_values.values()), 5) for v in verdicts],
            }
        write({"kind": "rates", "data": data, "split": split, "images": kept, "found": found})


def rivals(x, z, source, source_z):
    """p-values of a window of images ``x`` with softmax outputs ``z`` by tests of others."""
    pixels = stats.ks_2samp(source, x, axis=0, method="asymp").pvalue
    scores = stats.ks_2samp(source_z, z, axis=0, method="asymp").pvalue
    return {
        "KS of pixels": min(1.0, float(np.nanmin(pixels)) * x.shape[1]),
        "KS of softmax": min(1.0, float(np.nanmin(scores)) * z.shape[1]),
    }


def mmd(source):
    """MMD of pixels by frouros, p by permutations; None where it is not installed."""
    try:
        from frouros.callbacks import PermutationTestDistanceBased
        from frouros.detectors.data_drift import MMD
    except ImportError:
        return None
    test = PermutationTestDistanceBased(num_permutations=199, random_state=0, num_jobs=1, name="p")
    detector = MMD(callbacks=[test])
    detector.fit(X=source)
    return lambda x: float(detector.compare(X=x)[1]["p"]["p_value"])


def power(size=64, repeats=3, rate=0.01, peers=False):
    model, x, y = pool("digits")
    with torch.no_grad():
        softmax = torch.cat([model(part).softmax(1) for part in x.split(250)]).numpy()
    rows, kept = rows_of(model, x), 800
    reference = Reference.of([picked(rows, torch.arange(kept))])
    best = softmax[:kept].max(1), softmax[:kept].argmax(1) == y[:kept].numpy()
    reference.confidence, reference.hits = (torch.from_numpy(part) for part in best)
    flat = F.avg_pool2d(x, 4).flatten(1).numpy()  # 64 pixels, in favour of the rivals
    distance = mmd(flat[:256]) if peers else None
    done = {(r["corruption"], r["severity"]) for r in read("power")}
    cells = [(name, s) for s in range(1, 6) for name in qact.shift.corruptions("standard")]
    for name, severity in [("none", 0), *cells]:
        if (name, severity) in done:
            continue
        shifted = x[kept:] if not severity else qact.shift.corrupt(x[kept:], name, severity)
        seen, pixels = rows_of(model, shifted), F.avg_pool2d(shifted, 4).flatten(1).numpy()
        with torch.no_grad():
            z = torch.cat([model(part).softmax(1) for part in shifted.split(250)])
        runs, estimates = {}, {}
        right = (z.argmax(1) == y[kept:]).float()
        for repeat in range(repeats):
            draw = torch.Generator().manual_seed(repeat)
            detectors = {n: create(n, rate) for n in ("window", "cusum", "martingale")}
            first: dict[str, int] = {}
            for step in range(1, (MOST if severity else 10) + 1):
                index = torch.randint(len(shifted), (size,), generator=draw)
                window = window_of(seen, index, reference)
                p = reference.test(window).p
                fired = {n: d.update(p) for n, d in detectors.items()}
                others = rivals(pixels[index], z[index].numpy(), flat[:kept], softmax[:kept])
                if distance is not None and "MMD of pixels" not in first and step <= 8:
                    others["MMD of pixels"] = distance(pixels[index])
                fired |= {n: p <= rate for n, p in others.items()}
                for n, one in fired.items():
                    if one:
                        first.setdefault(n, step)
                if step == 1:
                    truth = float(right[index].mean())
                    for n, guess in accuracy.estimate(reference, window).items():
                        estimates.setdefault(n, []).append(guess - truth)
                if severity and set(fired) <= set(first):
                    break
            columns = [*detectors, "KS of pixels", "KS of softmax"]
            for n in columns + ["MMD of pixels"] * (distance is not None):
                runs.setdefault(n, []).append(first.get(n))
        errors = {n: [round(e, 4) for e in part] for n, part in estimates.items()}
        row = {"corruption": name, "severity": severity, "accuracy": round(float(right.mean()), 4)}
        write({"kind": "power", **row, "runs": runs, "errors": errors})


def overhead(rounds=12, batch=32, sample=0.125):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, x = qact.models.resnet18(act="relu").eval(), torch.randn(batch, 3, 32, 32)
    reference = Reference.of([rows_of(model, torch.randn(64, 3, 32, 32), 32)], draws=99)
    monitor = Monitor(model, reference, window=64, sample=sample)
    reference.null(64)
    ratios = []
    with torch.no_grad():
        for _ in range(rounds):
            times = {"plain": 0.0, "watched": 0.0}
            for name in ("plain", "watched", "watched", "plain"):
                if name == "watched":
                    monitor.start()
                for _ in range(4):
                    begin = time.thread_time()
                    model(x)
                    times[name] += time.thread_time() - begin
                if name == "watched":
                    monitor.stop()
            ratios.append(times["watched"] / times["plain"])
    write(
        {
            "kind": "overhead",
            "sample": sample,
            "signals": len(reference.signals),
            "windows": len(monitor.windows),
            "ratio": round(statistics.median(ratios), 4),
            "quartiles": [round(q, 4) for q in statistics.quantiles(ratios, n=4)[::2]],
        }
    )


def tables():
    for data in ("digits", "cifar10", "table"):
        found = [r for r in read("rates") if r["data"] == data]
        if not found:
            continue
        print(f"\n{data}: {len(found)} splits, references of {found[0]['images']} images\n")
        print("| n | windows | " + " | ".join(f"alarm at {rate:g}" for rate in RATES) + " |")
        print("|---|---|" + "---|" * len(RATES))
        for size in SIZES:
            p = np.array([q for r in found for q in r["found"][str(size)]["p"]])
            cells = [f"{100 * (p <= rate).mean():.2f}%" for rate in RATES]
            print(f"| {size} | {len(p)} | {' | '.join(cells)} |")
    shifted = [r for r in read("power") if r["severity"]]
    names = list(shifted[0]["runs"]) if shifted else []
    print("\n| severity | accuracy | " + " | ".join(names) + " |")
    for severity in range(1, 6):
        part = [r for r in shifted if r["severity"] == severity]
        if not part:
            continue
        cells = []
        for n in names:
            cap = 8 if n.startswith("MMD") else MOST
            runs = [cap + 1 if run is None else run for r in part for run in r["runs"][n]]
            missed = sum(run is None for r in part for run in r["runs"][n]) / len(runs)
            cells.append(f"{statistics.mean(runs):.1f} ({100 * missed:.0f}%)")
        mean = statistics.mean(r["accuracy"] for r in part)
        print(f"| {severity} | {100 * mean:.1f}% | " + " | ".join(cells) + " |")
    for n in shifted[0]["errors"] if shifted else ():
        for severity in range(1, 6):
            errors = [e for r in shifted if r["severity"] == severity for e in r["errors"][n]]
            if errors:
                size = statistics.mean(map(abs, errors))
                mean = statistics.mean(errors)
                print(f"{n} at {severity}: mean error {mean:+.3f}, mean absolute {size:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("overhead", "rates", "power", "table"))
    parser.add_argument("--data", choices=("digits", "cifar10", "table"), default="digits")
    parser.add_argument("--root")
    parser.add_argument("--splits", type=int, default=150)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--peers", action="store_true", help="MMD by frouros too, slowly")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.what == "rates":
        rates(asked.data, asked.root, asked.splits, asked.draws)
    else:
        power_ = partial(power, peers=asked.peers)
        {"overhead": overhead, "power": power_, "table": tables}[asked.what]()
