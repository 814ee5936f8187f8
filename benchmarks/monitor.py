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
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from sklearn.metrics import pairwise_distances
from sklearn.metrics.pairwise import rbf_kernel
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
    collector = Collector(model, None, lambda rows, *_: parts.append(rows))
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


def pool(data, root=None, net=True):
    """A trained network, or None, and held-out images with labels."""
    if data == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(digits.target)))
        x = torch.from_numpy(digits.images).float()[:, None][order] / 16
        x, y = F.interpolate(x, 32, mode="bilinear"), torch.from_numpy(digits.target)[order]
        torch.manual_seed(0)
        return net and trained(small_net(1, 10), x[:300], y[:300]), x[300:], y[300:]
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


def mmd(source, permutations=499):
    """MMD with the kernel and width of Gretton et al. 2012 (median), p by permutations."""
    gamma = 1 / np.median(pairwise_distances(source, metric="sqeuclidean"))
    draw = np.random.default_rng(0)
    own = rbf_kernel(source, gamma=gamma)

    def p_value(x):
        both = len(source) + len(x)
        kernel = np.empty((both, both))
        kernel[: len(source), : len(source)] = own
        kernel[len(source) :] = rbf_kernel(x, np.concatenate([source, x]), gamma=gamma)
        kernel[: len(source), len(source) :] = kernel[len(source) :, : len(source)].T
        weight = np.full(both, 1 / len(source))
        weight[len(source) :] = -1 / len(x)
        weights = np.stack([weight, *(draw.permutation(weight) for _ in range(permutations))], 1)
        found = np.einsum("ip,ip->p", weights, kernel @ weights)
        return float((found >= found[0] - 1e-12).sum() / (permutations + 1))

    return p_value


def streams(shifted, size, repeats, windows):
    """Indices of the windows of each stream; the same for every test."""
    for repeat in range(repeats):
        draw = torch.Generator().manual_seed(repeat)
        yield (torch.randint(len(shifted), (size,), generator=draw) for _ in range(windows))


def cells():
    return [(name, s) for s in range(1, 6) for name in qact.shift.corruptions("standard")]


def moved(x, name, severity):
    return qact.shift.corrupt(x, name, severity) if severity else x


def pixels_of(x):
    """64 pixels, in favour of the rivals."""
    return F.avg_pool2d(x, 4).flatten(1).numpy()


def power_of_mmd(size=64, repeats=3, rate=0.01, kept=800):
    """MMD on the very windows of :func:`power`; it needs no network."""
    _, x, _ = pool("digits", net=False)
    test = mmd(pixels_of(x[:kept]))
    done = {(r["corruption"], r["severity"]) for r in read("mmd")}
    for name, severity in [("none", 0), *cells()]:
        if (name, severity) in done:
            continue
        pixels = pixels_of(moved(x[kept:], name, severity))
        runs, p = [], []
        for stream in streams(pixels, size, repeats, MOST if severity else 40):
            found = []
            for index in stream:
                found.append(test(pixels[index]))
                if severity and found[-1] <= rate:
                    break
            runs.append(next((k + 1 for k, one in enumerate(found) if one <= rate), None))
            p += found if not severity else []
        row = {"corruption": name, "severity": severity, "runs": {"MMD of pixels": runs}}
        write({"kind": "mmd", **row, **({"p": p} if p else {})})


def power(size=64, repeats=3, rate=0.01, kept=800):
    model, x, y = pool("digits")
    with torch.no_grad():
        softmax = torch.cat([model(part).softmax(1) for part in x.split(250)]).numpy()
    reference = Reference.of([rows_of(model, x[:kept])])
    best = softmax[:kept].max(1), softmax[:kept].argmax(1) == y[:kept].numpy()
    reference.confidence, reference.hits = (torch.from_numpy(part) for part in best)
    flat = pixels_of(x)
    done = {(r["corruption"], r["severity"]) for r in read("power")}
    for name, severity in [("none", 0), *cells()]:
        if (name, severity) in done:
            continue
        shifted = moved(x[kept:], name, severity)
        seen, pixels = rows_of(model, shifted), pixels_of(shifted)
        with torch.no_grad():
            z = torch.cat([model(part).softmax(1) for part in shifted.split(250)])
        runs, estimates = {}, {}
        right = (z.argmax(1) == y[kept:]).float()
        for stream in streams(shifted, size, repeats, MOST if severity else 10):
            detectors = {n: create(n, rate) for n in ("window", "cusum", "martingale")}
            first: dict[str, int] = {}
            for step, index in enumerate(stream, 1):
                window = window_of(seen, index, reference)
                p = reference.test(window).p
                fired = {n: d.update(p) for n, d in detectors.items()}
                others = rivals(pixels[index], z[index].numpy(), flat[:kept], softmax[:kept])
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
            for n in fired:
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
    others = {(r["corruption"], r["severity"]): r["runs"] for r in read("mmd")}
    for r in shifted:  # the same windows by a test that takes longer
        r["runs"] |= others.get((r["corruption"], r["severity"]), {})
    names = list(shifted[0]["runs"]) if shifted else []
    print("\n| severity | accuracy | " + " | ".join(names) + " |")
    for severity in range(1, 6):
        part = [r for r in shifted if r["severity"] == severity]
        if not part:
            continue
        cells = []
        for n in names:
            runs = [MOST + 1 if run is None else run for r in part for run in r["runs"][n]]
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
    parser.add_argument("what", choices=("overhead", "rates", "power", "mmd", "table"))
    parser.add_argument("--data", choices=("digits", "cifar10", "table"), default="digits")
    parser.add_argument("--root")
    parser.add_argument("--splits", type=int, default=150)
    parser.add_argument("--draws", type=int, default=2000)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.what == "rates":
        rates(asked.data, asked.root, asked.splits, asked.draws)
    else:
        {"overhead": overhead, "power": power, "mmd": power_of_mmd, "table": tables}[asked.what]()
