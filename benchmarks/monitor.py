"""The figures of docs/monitor.md: overhead, false alarms, run lengths, power, estimated accuracy.

    python benchmarks/monitor.py overhead                   (or overhead --threads 2)
    python benchmarks/monitor.py rates --data table         (or digits, or cifar10 --root FOLDER)
    python benchmarks/monitor.py lengths
    python benchmarks/monitor.py power
    python benchmarks/monitor.py mmd
    python benchmarks/monitor.py table

``rates`` splits held-out images into a reference and one window, again and again, and counts how
often an alarm at 0.05 and 0.01 fires; every split draws its reference and calibrates anew. The
table is made, of 199,000 rows, so that splits hardly share any. ``lengths`` lets sound windows of
the table run until a detector fires, each run beside a reference of its own. ``power`` sends
windows of 64 digits under each of fifteen corruptions at five severities to every detector and
counts windows to the first alarm; ``mmd`` is one more test of these. Rows are appended to
benchmarks/data/monitor.jsonl as they come, and what is there is not computed again. ``FOLDER`` has
``data/load.py``, which reads CIFAR-10, and ``weights/load.py``, which reads a trained ResNet-18; of
other data, any ``(images, labels)`` of :func:`pool` will do.
"""

import argparse
import itertools
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
BLOCK = 25  # splits of a row of rates
CIFAR = 2500  # test images of CIFAR-10 that are used, and layers that are watched
LAYERS = ["stem.1", "stages.1.1.bn1", "stages.3.1.bn2"]
LENGTH = 1000  # windows of a run at which it is cut off


def rows_of(model, x, batch=100, where=None, positions=16):
    """Sampled rows of every signal of all images."""
    parts = []
    keep = lambda rows, *_: parts.append(rows)  # noqa: E731
    collector = Collector(model, where, keep, positions=positions)
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

        x, y = make_classification(
            200_000, 6, n_informative=4, n_classes=3, n_clusters_per_class=1, random_state=0
        )
        x[:, 0] = np.exp(x[:, 0])  # skewed, counted and mostly zero columns, as tables have them
        x[:, 1] = np.round(x[:, 1])
        x[:, 2] = np.maximum(x[:, 2], 0)
        x, y = torch.from_numpy(x).float(), torch.from_numpy(y)
        torch.manual_seed(0)  # small, so that thousands of references can be drawn
        layers = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)]
        net = trained(nn.Sequential(nn.BatchNorm1d(6), *layers), x[:1000], y[:1000])
        return net, x[1000:], y[1000:]
    sys.path[:0] = [str(Path(root) / "data")]
    import load as images

    sys.path[:0] = [str(Path(root) / "weights")]
    del sys.modules["load"]
    import load as weights

    model = qact.models.resnet18(act="relu")
    model.load_state_dict(weights.state("relu"))
    x, y = images.load("cifar10", "test", n=CIFAR)
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


def rates(data, root, sizes, splits, draws):
    model, x, _ = pool(data, root)
    # Of a full-size network three layers and four places, which leave time for hundreds of splits.
    fewer = {"where": LAYERS, "positions": 4} if data == "cifar10" else {}
    rows = rows_of(model, x, **fewer)
    kept = min(len(x) - max(SIZES), 1024)
    done = {(r["data"], r["size"], r["block"]) for r in read("rates")}
    for size, block in itertools.product(sizes, range(-(-splits // BLOCK))):
        if (data, size, block) in done:
            continue
        p = []
        for split in range(block * BLOCK, (block + 1) * BLOCK):
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(split))
            reference = Reference.of([picked(rows, order[:kept])], draws=draws, seed=split)
            # One window: several with one reference are not independent.
            window = window_of(rows, order[kept : kept + size], reference)
            p.append(round(reference.test(window).p, 5))
        row = {"data": data, "size": size, "block": block, "images": kept, "pool": len(x)}
        write({"kind": "rates", **row, "draws": draws, "p": p})


def lengths(runs, rate=0.01, size=64, kept=1024, draws=1999):
    """Sound windows until each detector fires, beside references of their own."""
    model, x, _ = pool("table")
    rows = rows_of(model, x)
    done = {r["run"] for r in read("lengths")}
    for run in (run for run in range(runs) if run not in done):
        draw = torch.Generator().manual_seed(run)
        reference = Reference.of(
            [picked(rows, torch.randint(len(x), (kept,), generator=draw))], draws=draws, seed=run
        )
        detectors = {
            name: create(name, rate) for name in ("window", "cusum", "martingale", "adwin")
        }
        first, p = {}, []
        while len(first) < len(detectors) and len(p) < LENGTH:
            index = torch.randint(len(x), (size,), generator=draw)
            p.append(reference.test(window_of(rows, index, reference)).p)
            for name, detector in detectors.items():
                if detector.update(p[-1]):
                    first.setdefault(name, len(p))
        row = {"run": run, "rate": rate, "size": size, "images": kept, "windows": len(p)}
        write({"kind": "lengths", **row, "first": {n: first.get(n) for n in detectors}})


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


def overhead(threads, rounds=24, batch=32, sample=0.125):
    """Seconds of watched passes in terms of plain ones, interleaved; with the tests of windows."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, x = qact.models.resnet18(act="relu").eval(), torch.randn(batch, 3, 32, 32)
    reference = Reference.of([rows_of(model, torch.randn(64, 3, 32, 32), 32)], draws=99)
    monitor = Monitor(model, reference, window=64, sample=sample)
    # A thread's own time, where there is one: other processes of the machine do not count.
    clock = time.thread_time if threads == 1 else time.perf_counter
    ratios = []
    with torch.no_grad():
        for _ in range(rounds):
            times = {"plain": 0.0, "watched": 0.0}
            for name in ("plain", "watched", "watched", "plain"):
                if name == "watched":
                    monitor.start()
                for _ in range(4):
                    begin = clock()
                    model(x)
                    times[name] += clock() - begin
                if name == "watched":
                    monitor.stop()
            ratios.append(times["watched"] / times["plain"])
    write(
        {
            "kind": "overhead",
            "threads": threads,
            "sample": sample,
            "signals": len(reference.signals),
            "windows": monitor.count,
            "rounds": rounds,
            "ratio": round(statistics.median(ratios), 4),
            "quartiles": [round(q, 4) for q in statistics.quantiles(ratios, n=4)[::2]],
        }
    )


def interval(hits, count):
    """Clopper and Pearson's, 95%."""
    ends = stats.binomtest(hits, count).proportion_ci(0.95)
    return f" ({100 * ends.low:.1f} to {100 * ends.high:.1f})"


def table_of_rates():
    print("| data, reference | rate | " + " | ".join(f"n = {size}" for size in SIZES) + " |")
    print("|---|---|" + "---|" * len(SIZES))
    for data in ("digits", "cifar10", "table"):
        found = [r for r in read("rates") if r["data"] == data]
        for rate in RATES if found else ():
            cells = []
            for size in SIZES:
                p = np.array([q for r in found if r["size"] == size for q in r["p"]])
                hits = int((p <= rate).sum())
                shown = f"{100 * hits / max(len(p), 1):.1f}% of {len(p)}"
                cells.append(shown + interval(hits, len(p)) if len(p) else "")
            name = f"{data}, {found[0]['images']} of {found[0]['pool']}"
            print(f"| {name} | {rate:g} | {' | '.join(cells)} |")


def table_of_lengths():
    found = read("lengths")
    for name in found[0]["first"] if found else ():
        runs = [r["first"][name] for r in found]
        known = [min(run or LENGTH, LENGTH) for run in runs]
        error = statistics.stdev(known) / len(known) ** 0.5
        cut = sum(run is None for run in runs)
        print(
            f"{name}: {statistics.mean(known):.0f} +- {error:.0f} windows to an alarm at "
            f"{found[0]['rate']:g}, {len(runs)} runs, {cut} cut off at {LENGTH}"
        )


def tables():
    table_of_rates()
    table_of_lengths()
    for r in read("overhead"):
        low, high = (100 * (q - 1) for q in r["quartiles"])
        print(
            f"overhead with {r.get('threads', 1)} thread(s), one image in {1 / r['sample']:g}: "
            f"{100 * (r['ratio'] - 1):+.1f}%, quartiles {low:+.1f}% to {high:+.1f}%"
        )
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
    commands = {"overhead": overhead, "rates": rates, "lengths": lengths, "power": power}
    commands |= {"mmd": power_of_mmd, "table": tables}
    parser.add_argument("what", choices=commands)
    parser.add_argument("--data", choices=("digits", "cifar10", "table"), default="digits")
    parser.add_argument("--root")
    parser.add_argument("--sizes", type=int, nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument("--splits", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=499)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    options = {
        "rates": (asked.data, asked.root, asked.sizes, asked.splits, asked.draws),
        "lengths": (asked.runs,),
        "overhead": (asked.threads,),
    }
    commands[asked.what](*options.get(asked.what, ()))
