"""Out-of-distribution scores of two full-size networks: ResNet-18 on CIFAR-10, ReLU and QAct.

    python benchmarks/scores.py --features DIR --relu RELU.npz --qact QACT.npz \\
        --train CIFAR10-TRAIN.npz --test CIFAR10-TEST.npz --set cifar100=FILE.npz --set mnist=...
    python benchmarks/scores.py --features DIR --relu RELU.npz --qact QACT.npz --measure
    python benchmarks/scores.py --features ... --inputs   # scores of gradients, on fewer images
    python benchmarks/scores.py --features ... --reasons  # why two of these fail
    python benchmarks/scores.py --features ... --cost     # passes, and pytorch-ood beside
    python benchmarks/scores.py --features ... --fit      # all fits on a loader, end to end
    python benchmarks/scores.py --features ... --rays     # far along a ray: the picture
    python benchmarks/scores.py --table

Files hold ``images`` (N, H, W, C) uint8 and ``labels`` (N,). Each set passes through each network
once; logits and features are kept in ``--features``, and most else is computed from these. A
stopped run goes on where it stood. Weights as in ``fullsize_streams.py``. Rows go to
``benchmarks/data/scores``; ``--table`` writes the tables into the page.
"""

import argparse
import csv
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fullsize_streams import network, normalised
from qact.bench.measure.scores import textures
from qact.bench.report.figures import drawn_as_svg
from qact.scores import Following, Outputs, Panel, Score, create, detection, from_pytorch_ood, names
from qact.scores.registry import SCORES
from qact.shift import corrupt

BATCH = 100
CORRUPTIONS = ("gaussian_noise", "defocus_blur", "fog", "jpeg_compression")
NEAR = ("cifar100", "tinyimagenet")
EACH = 150  # images of each corruption and severity
DATA = Path(__file__).parent / "data" / "scores"
PAGE = Path("docs/results-scores.md")
ONE_PASS = [name for name in names() if SCORES[name].one_pass]
VARIANTS = {  # with an option that is not the paper's, or not its default here
    "mahalanobis, unit": ("mahalanobis", {"unit": True}),
    "scale, 0.65": ("scale", {"level": 0.65}),
    "ash, b": ("ash", {"kind": "b"}),
}
GRADIENTS = {  # of how many images of each set; of what, with which options
    "odin": (300, "odin", {}),
    "adascale": (300, "adascale", {}),
    "adascale, 0.6": (300, "adascale", {"low": 0.6, "high": 0.65}),
    # Of a network that ends in certainty the box must be small for any bound to hold.
    "interval_bounds": (200, "interval_bounds", {"eps": 1e-5}),
    "stable_propagation": (100, "stable_propagation", {}),
}
TOGETHER = ["msp", "energy", "react", "vra", "scale", "ash"]
SHIFTED = ["msp", "energy", "react", "gen", "mahalanobis", "vim", "knn", "nac"]
# AUROC in %, mean of CIFAR-100 and Tiny ImageNet ("Near-OOD"), ResNet-18 trained 100 epochs on
# CIFAR-10 with cross-entropy (95.06% right): OpenOOD v1.5 leaderboard, table CIFAR-10
# (zjysteven/OpenOOD, html_outputs/cifar10.html at commit 2120225; Zhang et al., arXiv 2306.09301).
PUBLISHED = {
    "msp": 88.03,
    "max_logit": 87.52,
    "energy": 87.58,
    "odin": 82.87,
    "gen": 88.20,
    "kl_matching": 79.19,
    "mahalanobis": 84.20,
    "relative_mahalanobis": 89.80,
    "vim": 88.68,
    "knn": 90.64,
    "react": 87.11,
    "ash": 75.27,
    "scale": 82.55,
    "dice": 78.34,
    "nac": 90.93,
}


def images_of(path: Path) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) in [0, 1], grey ones as RGB and smaller ones resized; labels (N,)."""
    with np.load(path, allow_pickle=False) as file:
        images, labels = (torch.from_numpy(file[name]) for name in ("images", "labels"))
    x = images.permute(0, 3, 1, 2).float() / 255
    if x.shape[-1] != 32:  # as OpenOOD does
        x = interpolate(x, (32, 32), mode="bilinear", align_corners=False, antialias=True)
    return x.expand(-1, 3, -1, -1), labels


def sets(options: argparse.Namespace) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, images and labels of every set, what matters most first."""
    test, labels = images_of(options.test)
    clean = options.clean
    yield "cifar10", test[:clean], labels[:clean]
    pairs = [pair.split("=", 1) for pair in options.set]
    for near in (True, False):
        for name, path in (pair for pair in pairs if (pair[0] in NEAR) == near):
            x, y = images_of(Path(path))
            count = options.images if near else options.images // 2
            yield name, x[:count], y[:count]
        if near:
            x, y = images_of(options.train)
            for begin in range(0, min(len(x), options.fitted), 2500):
                yield f"train-{begin}", x[begin : begin + 2500], y[begin : begin + 2500]
    yield "textures", textures(options.images // 2, 3, 32), torch.zeros(options.images // 2).long()
    for name in CORRUPTIONS:
        for severity in range(1, 6):
            part = slice(clean, clean + EACH)
            x = corrupt(test[part], name, severity, seed=0)
            yield f"{name}-{severity}", x, labels[part]


@torch.no_grad()
def passed(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, float]:
    """Logits, features and seconds of processor time of one pass."""
    begin, parts = time.process_time(), []
    for batch in x.split(BATCH):
        features = model.embed(normalised(batch))
        parts.append((model.head(features), features))
    logits, features = map(torch.cat, zip(*parts, strict=True))
    return logits, features, time.process_time() - begin


def make_features(options: argparse.Namespace) -> None:
    """Pass every set through both networks, and keep what comes out."""
    models = {kind: network(kind, getattr(options, kind)) for kind in ("relu", "qact")}
    options.features.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.minutes
    for name, x, y in sets(options):
        for kind, model in models.items():
            file = options.features / f"{kind}-{name}.npz"
            if file.exists() or time.monotonic() > end:
                continue
            logits, features, seconds = passed(model, x)
            part = file.with_suffix(".part.npz")
            arrays = {"logits": logits, "features": features, "labels": y}
            np.savez(part, **{key: value.numpy() for key, value in arrays.items()})
            part.replace(file)
            hit = (logits.argmax(1) == y).float().mean()
            print(
                f"{kind} {name}: {len(x)} images, {seconds:.0f} s, accuracy {hit:.3f}", flush=True
            )


def kept(options: argparse.Namespace, kind: str, name: str) -> Outputs:
    """What a network gave for a set."""
    with np.load(options.features / f"{kind}-{name}.npz", allow_pickle=False) as file:
        return Outputs(*(torch.from_numpy(file[key]) for key in ("logits", "features", "labels")))


def outliers(options: argparse.Namespace) -> list[str]:
    """The sets that are kept, without training images and corruptions."""
    found = [path.stem.removeprefix("relu-") for path in options.features.glob("relu-*.npz")]
    own = ("cifar10", "train", *CORRUPTIONS)
    far = sorted(name for name in found if not name.startswith(own) and name not in NEAR)
    return [*(name for name in NEAR if name in found), *far]


def training(options: argparse.Namespace, kind: str) -> Outputs:
    """All training images that are kept."""
    paths = sorted(options.features.glob(f"{kind}-train-*.npz"))
    parts = [kept(options, kind, path.stem.removeprefix(f"{kind}-")) for path in paths]
    joined = [torch.cat([getattr(p, k) for p in parts]) for k in ("logits", "features", "labels")]
    return Outputs(*joined)


def write(name: str, rows: list[dict[str, Any]]) -> None:
    """Rows of one kind of measurement."""
    DATA.mkdir(parents=True, exist_ok=True)
    with (DATA / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def detected(inside: Tensor, outside: Tensor) -> dict[str, str]:
    """AUROC, average precision of the outliers and FPR95, in %."""
    found = detection(inside, outside)
    return {key: f"{100 * getattr(found, key):.2f}" for key in ("auroc", "aupr_out", "fpr95")}


def measure(options: argparse.Namespace) -> None:
    """Every score of one pass on every set, from what is kept."""
    rows = []
    for kind in ("relu", "qact"):
        model, fit = network(kind, getattr(options, kind)), training(options, kind)
        own = kept(options, kind, "cifar10")
        others = {name: kept(options, kind, name) for name in outliers(options)}
        for name in [*ONE_PASS, *VARIANTS]:
            plain, chosen = VARIANTS.get(name, (name, {}))
            score = create(plain, **chosen).fit(model, fit)
            inside = score.score(own)
            begin = time.process_time()
            for batch in range(10):
                rest = Outputs(
                    *(
                        getattr(own, key)[100 * batch : 100 * batch + 100]
                        for key in ("logits", "features")
                    )
                )
                score.score(rest)
            ms = 100 * (time.process_time() - begin)
            for other, outputs in others.items():
                row = {"network": kind, "score": name, "set": other, "n": len(outputs)}
                rows.append(row | detected(inside, score.score(outputs)) | {"ms": f"{ms:.3f}"})
            print(kind, name, [row["auroc"] for row in rows[-len(others) :]], flush=True)
    write("one-pass", rows)
    write("shift", list(shifted(options)))


def shifted(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """False alarms at 5% under corruption, with a fixed and with a following threshold."""
    for kind in ("relu", "qact"):
        model, fit = network(kind, getattr(options, kind)), training(options, kind)
        clean = kept(options, kind, "cifar10")
        half = len(clean) // 2
        far = [kept(options, kind, name) for name in outliers(options)]
        for name in SHIFTED:
            score = create(name).fit(model, fit)
            score.seen.reset_parameters()  # training images are too easy: held-out ones instead
            values = score.score(clean)
            score.observe(values[:half])
            strange = torch.cat([score.score(part) for part in far])
            for severity in range(6):
                parts = [f"{c}-{severity}" for c in CORRUPTIONS]
                stream = values[half:]
                if severity:
                    stream = torch.cat([score.score(kept(options, kind, p)) for p in parts])
                yield {"network": kind, "score": name, "severity": severity} | alarms(
                    score, stream, strange
                )
            print(kind, name, "shift", flush=True)


def alarms(score: Score, stream: Tensor, strange: Tensor) -> dict[str, str]:
    """Rates in % on a stream of which one in twenty is replaced by a true outlier.

    The stream passes twice in random orders, in batches of 50: first it is followed, then counted.
    """
    draw = torch.Generator().manual_seed(0)
    follows = Following(score, 0.05, memory=400, contamination=0.05)
    fixed = score.threshold(0.05)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    for lap in range(2):
        for batch in stream[torch.randperm(len(stream), generator=draw)].split(50):
            truth = torch.rand(len(batch), generator=draw) < 0.05
            which = torch.randint(len(strange), (len(batch),), generator=draw)
            mixed = torch.where(truth, strange[which], batch)
            flags = follows.flag(mixed)
            if lap:
                seen.append((truth, mixed > fixed, flags))
    truth, by_fixed, by_following = map(torch.cat, zip(*seen, strict=True))
    rates = {
        f"{what}_{how}": flags[of].double().mean().item()
        for how, flags in (("fixed", by_fixed), ("following", by_following))
        for what, of in (("alarms", ~truth), ("caught", truth))
    }
    return {key: f"{100 * value:.1f}" for key, value in rates.items()}


def with_inputs(options: argparse.Namespace) -> None:
    """Scores that differentiate the network, on the first images of every set."""
    images = {name: x for name, x, _ in sets(options) if not name.startswith(CORRUPTIONS)}
    path, rows = DATA / "inputs.csv", []
    if path.exists():
        with path.open() as file:
            rows = list(csv.DictReader(file))
    end = time.monotonic() + 60 * options.minutes
    for name, (count, entry, chosen) in GRADIENTS.items():
        for kind in ("relu", "qact"):
            done = any((row["network"], row["score"]) == (kind, name) for row in rows)
            if done or time.monotonic() > end:
                continue
            model = network(kind, getattr(options, kind))
            fit = [(normalised(images["train-0"][:count]), training(options, kind).labels[:count])]
            score = create(entry, **chosen).fit(model, fit)
            begin = time.process_time()
            found = {
                key: torch.cat([score.score(part) for part in normalised(x[:count]).split(20)])
                for key, x in images.items()
                if not key.startswith("train")
            }
            ms = 1e5 * (time.process_time() - begin) / sum(map(len, found.values()))
            for key in outliers(options):
                row = {"network": kind, "score": name, "set": key, "n": len(found[key])}
                rows.append(row | detected(found["cifar10"], found[key]) | {"ms": f"{ms:.0f}"})
            write("inputs", rows)
            print(kind, name, [row["auroc"] for row in rows[-len(outliers(options)) :]], flush=True)


def peers(model: nn.Module) -> dict[str, Any]:
    """The common detectors of pytorch-ood, of our own network's parts."""
    from pytorch_ood import detector as d

    head = model.head
    W, b = head.weight.detach(), head.bias.detach()

    def maps(x: Tensor) -> Tensor:
        return model.embed(x)[:, :, None, None]

    def tail(z: Tensor) -> Tensor:
        return head(z.flatten(1))

    return {
        "msp": d.MaxSoftmax(model),
        "max_logit": d.MaxLogit(model),
        "energy": d.EnergyBased(model),
        "gen": d.GEN(model),
        "kl_matching": d.KLMatching(model),
        "mahalanobis": d.Mahalanobis(model.embed),
        "relative_mahalanobis": d.RMD(model.embed),
        "vim": d.ViM(model.embed, d=W.shape[1] // 2, w=W, b=b),
        "knn": d.KNN(model.embed, k=50),
        "dice": d.DICE(model.embed, w=W, b=b, p=0.9),
        "react": d.ReAct(maps, tail, percentile=0.9),
        "ash": d.ASH(maps, tail, percentile=0.65, variant="ash-s"),
        "scale": d.SCALE(maps, tail, percentile=0.85),
    }


@torch.no_grad()
def cost(options: argparse.Namespace) -> None:
    """Ratios of processor time, interleaved: against the plain pass, and against pytorch-ood."""
    kind = "relu"
    model, fit = network(kind, getattr(options, kind)), training(options, kind)
    x = normalised(images_of(options.test)[0][:BATCH])
    panel, wide = Panel(TOGETHER).fit(model, fit), Panel().fit(model, fit)
    theirs, found = peers(model), {}
    for name, detector in theirs.items():
        if getattr(detector, "requires_fit", False):
            on = {"react": "feature_maps", "kl_matching": "logits"}.get(name, "features")
            part = fit.logits if on == "logits" else fit.features
            part = part[:, :, None, None] if on == "feature_maps" else part
            getattr(detector, f"fit_{on}")(part, fit.labels)
    common = Panel(list(theirs)).fit(model, fit)

    def one(function: Any) -> float:
        begin = time.process_time()
        function()
        return time.process_time() - begin

    calls = {
        "plain": lambda: model(x),
        "together": lambda: panel.score(x),
        "all_one_pass": lambda: wide.score(x),
        "common": lambda: common.score(x),
        "pytorch_ood": lambda: [detector.predict(x) for detector in theirs.values()],
        "gather": lambda: panel.reader.gather([(x, fit.labels[: len(x)])]),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.rounds):
        for name, function in calls.items():
            times[name].append(one(function))
    base = times["plain"]
    ratios = {name: [t / b for t, b in zip(own, base, strict=True)] for name, own in times.items()}
    for name, values in ratios.items():
        found[name] = [round(f(values), 3) for f in (median, min, max)]
    found["peer_ratio"] = round(
        median(a / b for a, b in zip(times["common"], times["pytorch_ood"], strict=True)), 3
    )
    # What all fits cost on 50,000 images beside their pass: features like those, drawn anew.
    draw = torch.Generator().manual_seed(0)
    index = torch.randint(len(fit), (50_000,), generator=draw)
    jitter = 1 + 0.05 * torch.randn(50_000, fit.features.shape[1], generator=draw)
    many = Outputs(fit.logits[index], fit.features[index] * jitter, fit.labels[index])
    each = {n: one(lambda s=s: s.learn(panel.reader, many)) for n, s in wide.scores.items()}
    found["fit_seconds"] = {name: round(t, 2) for name, t in each.items()}
    found["pass_seconds_50000"] = round(median(base) * 50_000 / BATCH, 1)
    found["fit_ratio"] = round(
        found["gather"][0] + sum(each.values()) / found["pass_seconds_50000"], 3
    )
    found["auroc_gap"] = agreement(options, kind, theirs, common)
    DATA.mkdir(parents=True, exist_ok=True)
    (DATA / "cost.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def agreement(
    options: argparse.Namespace, kind: str, theirs: dict[str, Any], common: Panel
) -> dict[str, float]:
    """Largest difference of AUROC over the sets, per detector, on the same outputs."""
    own = kept(options, kind, "cifar10")
    gaps = dict.fromkeys(theirs, 0.0)
    peer = {name: from_pytorch_ood(detector) for name, detector in theirs.items()}

    def of(name: str, outputs: Outputs) -> Tensor:
        if name in ("react", "ash", "scale"):
            return theirs[name].predict_feature_maps(outputs.features[:, :, None, None])
        return peer[name]._score(outputs)

    inside = {name: of(name, own) for name in theirs}
    mine = common.score(own)
    for other in outliers(options):
        outputs = kept(options, kind, other)
        ours = common.score(outputs)
        for name in theirs:
            a = detection(mine[name], ours[name]).auroc
            b = detection(inside[name], of(name, outputs)).auroc
            gaps[name] = max(gaps[name], abs(a - b))
    return {name: round(gap, 6) for name, gap in gaps.items()}


def fitted(options: argparse.Namespace) -> None:
    """All scores of one pass fitted on a loader, against the plain pass over it, end to end."""
    model = network("relu", options.relu)
    x, y = images_of(options.train)
    x, y = normalised(x[: options.images]), y[: options.images]
    loader = list(zip(x.split(BATCH), y.split(BATCH), strict=True))

    @torch.no_grad()
    def plain() -> None:
        for batch, _ in loader:
            model(batch)

    calls = {"plain": plain, "fit": lambda: Panel().fit(model, loader)}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.rounds):
        for name, call in calls.items():
            begin = time.process_time()
            call()
            times[name].append(time.process_time() - begin)
    ratios = [f / p for f, p in zip(times["fit"], times["plain"], strict=True)]
    found = json.loads((DATA / "cost.json").read_text()) if (DATA / "cost.json").exists() else {}
    found["fit_end_to_end"] = {
        "images": len(x),
        "ratio": [round(of(ratios), 3) for of in (median, min, max)],
    }
    (DATA / "cost.json").write_text(json.dumps(found, indent=1) + "\n")
    print(found["fit_end_to_end"], times)


@torch.no_grad()
def reasons(options: argparse.Namespace) -> None:
    """Why AdaSCALE and interval bounds fail here: sizes of features, gains within a box."""
    images = {name: normalised(x[:50]) for name, x, _ in sets(options)}
    inside, outside = images["cifar10"], images[outliers(options)[0]]
    for kind in ("relu", "qact"):
        model = network(kind, getattr(options, kind))
        size = [model.embed(x).topk(25, 1).values.sum(1).mean().item() for x in (inside, outside)]
        print(f"{kind}: the 5% largest features sum to {size[0]:.3g}, of outliers {size[1]:.3g}")
        for eps in (0.0, 1e-6, 1e-5, 1e-4):
            score = create("interval_bounds", eps=eps)
            score.fit(model, [(inside[:10], torch.zeros(10, dtype=torch.int64))])
            gains = [score.score(x[:20]).median().item() for x in (inside, outside)]
            print(f"{kind}: gain within {eps:g}, median {gains[0]:.3g}, of outliers {gains[1]:.3g}")


@torch.no_grad()
def rays(options: argparse.Namespace) -> None:
    """Mean of the largest softmax at ``t x`` for test images ``x``, and its picture."""
    x = normalised(images_of(options.test)[0][:50])
    steps = [10 ** (k / 4) for k in range(17)]
    found: dict[str, Any] = {"t": [round(t, 4) for t in steps]}
    for kind in ("relu", "qact"):
        model = network(kind, getattr(options, kind))
        p = torch.stack([model(t * x).softmax(1).amax(1) for t in steps])
        found[kind] = {
            "mean": [round(v, 5) for v in p.mean(1).tolist()],
            "low": [round(v, 5) for v in p.quantile(0.1, 1).tolist()],
            "high": [round(v, 5) for v in p.quantile(0.9, 1).tolist()],
        }
    DATA.mkdir(parents=True, exist_ok=True)
    (DATA / "rays.json").write_text(json.dumps(found) + "\n")
    print(found)


def picture(found: dict[str, Any]) -> str:
    """Confidence along rays, as an SVG with the bench's style."""
    from fullsize import STYLE

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        looks = {"relu": ("BatchNorm + ReLU", "#fe0300"), "qact": ("BatchNorm + QAct", "#fe0102")}
        for kind, (label, colour) in looks.items():
            axes.plot(found["t"], found[kind]["mean"], color=colour, label=label)
            for end in ("low", "high"):
                axes.plot(found["t"], found[kind][end], ":", color=colour, linewidth=1)
        axes.set_xscale("log")
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("t: the image is t times its distance from the mean image")
        axes.set_ylabel("largest probability")
        figure.legend(loc="outside upper left", ncols=2)

    svg = drawn_as_svg(draw, (6.0, 3.4), "Confidence far along a ray, ReLU and QAct")
    head, _, body = svg.partition(">")
    style = STYLE.read_text().split("* {")[0]
    return f"{head}><style>{style} svg {{ color: var(--ink); }}</style>{body}"


def read(name: str) -> list[dict[str, str]]:
    """Rows of a measurement, none if it was not made."""
    path = DATA / f"{name}.csv"
    if not path.exists():
        return []
    with path.open() as file:
        return list(csv.DictReader(file))


def tables() -> dict[str, list[str]]:
    """The tables of the page, by their marks in it."""
    rows = read("one-pass") + read("inputs")
    sets_ = list(dict.fromkeys(row["set"] for row in rows))
    scores = sorted({row["score"] for row in rows})

    def cell(kind: str, name: str, of: str, key: str = "auroc") -> float:
        every = [
            float(r[key]) for r in rows if (r["network"], r["score"], r["set"]) == (kind, name, of)
        ]
        return every[0] if every else math.nan

    def near(kind: str, name: str, key: str = "auroc") -> float:
        return fmean(cell(kind, name, of, key) for of in NEAR)

    def far(kind: str, name: str, key: str = "auroc") -> float:
        return fmean(cell(kind, name, of, key) for of in sets_ if of not in NEAR)

    summary = [
        "| score | near: ReLU | QAct | OpenOOD | far: ReLU | QAct | FPR95 near: ReLU | QAct "
        "| ms per 100 |",
        "|---|" + "---:|" * 8,
    ]
    for name in sorted(scores, key=lambda name: -near("relu", name)):
        published = f"{PUBLISHED[name]:.1f}" if name in PUBLISHED else "–"
        ms = next(row["ms"] for row in rows if row["score"] == name)
        summary.append(
            f"| `{name}` | {near('relu', name):.1f} | {near('qact', name):.1f} | {published} "
            f"| {far('relu', name):.1f} | {far('qact', name):.1f} "
            f"| {near('relu', name, 'fpr95'):.1f} | {near('qact', name, 'fpr95'):.1f} "
            f"| {float(ms):{'.0f' if float(ms) >= 100 else '.2g'}} |"
        )
    found = {"summary": summary}
    for kind in ("relu", "qact"):
        lines = [f"| score | {' | '.join(sets_)} |", "|---|" + "---:|" * len(sets_)]
        for name in scores:
            cells = [
                f"{cell(kind, name, of):.1f} ({cell(kind, name, of, 'aupr_out'):.0f})"
                for of in sets_
            ]
            lines.append(f"| `{name}` | {' | '.join(cells)} |")
        found[kind] = lines
    shift = read("shift")
    lines = [
        "| network | score | threshold | 0 | 1 | 2 | 3 | 4 | 5 | caught at 0 | at 5 |",
        "|---|---|---|" + "---:|" * 8,
    ]
    for kind in ("relu", "qact"):
        for name in dict.fromkeys(row["score"] for row in shift):
            own = [r for r in shift if (r["network"], r["score"]) == (kind, name)]
            for how in ("fixed", "following"):
                alarms_ = " | ".join(row[f"alarms_{how}"] for row in own)
                caught = " | ".join(own[k][f"caught_{how}"] for k in (0, 5))
                lines.append(f"| {kind} | `{name}` | {how} | {alarms_} | {caught} |")
    found["shift"] = lines
    return found


def write_page() -> None:
    """The tables between their marks, and the picture."""
    page = PAGE.read_text(encoding="utf-8")
    for mark, lines in tables().items():
        begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
        before, after = page.split(begin)[0], page.split(end)[1]
        page = f"{before}{begin}\n\n" + "\n".join(lines) + f"\n{end}{after}"
    PAGE.write_text(page, encoding="utf-8")
    if (DATA / "rays.json").exists():
        image = picture(json.loads((DATA / "rays.json").read_text()))
        (PAGE.parent / "images" / "rays.svg").write_text(image)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--features", type=Path, help="folder of what is kept")
    parser.add_argument("--relu", type=Path, help="weights")
    parser.add_argument("--qact", type=Path, help="weights")
    parser.add_argument("--train", type=Path, help="images to fit on")
    parser.add_argument("--test", type=Path, help="in-distribution images")
    parser.add_argument("--set", action="append", default=[], help="NAME=FILE, outliers")
    parser.add_argument("--clean", type=int, default=2500, help="clean in-distribution images")
    parser.add_argument("--images", type=int, default=2000, help="of a near set; half for far")
    parser.add_argument("--fitted", type=int, default=5000, help="training images of the fit")
    parser.add_argument("--minutes", type=float, default=1e6, help="then stop, to go on later")
    parser.add_argument("--rounds", type=int, default=9, help="of a timing")
    for what in ("measure", "inputs", "reasons", "cost", "fit", "rays", "table"):
        parser.add_argument(f"--{what}", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    asked = {"measure": measure, "inputs": with_inputs, "reasons": reasons, "cost": cost}
    asked |= {"fit": fitted, "rays": rays}
    chosen = [function for what, function in asked.items() if getattr(options, what)]
    for function in chosen or ([] if options.table else [make_features]):
        function(options)
    if options.table:
        write_page()


if __name__ == "__main__":
    main()
