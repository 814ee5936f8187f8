"""The report's beginning and figures: what was found, curves over severity, reliability."""

from __future__ import annotations

from html import escape

from qact.bench.recipe.adaptations import describe
from qact.bench.report import figures
from qact.bench.report.markup import figure, name_of, note, section, signed, terms
from qact.bench.report.summary import Method, Summary
from qact.bench.report.words import counted, seeds


def head(summary: Summary, title: str) -> str:
    """Return the title and what was measured, in one sentence."""
    recipe = summary.results.recipe
    images = recipe.shift.images or summary.results.environment.get("images", {}).get("test", "?")
    text = (
        f"{len(summary.activations)} activations in the same network, {seeds(*summary.spread())}, "
        f"{images} test images under {counted(summary.corruptions, 'corruption')}; "
        f"every method is measured with the same images, batches and estimators."
    )
    owed = len(recipe.cells()) - len(summary.results.cells)
    if owed > 0:
        text += f" Unfinished: {owed} of {len(recipe.cells())} networks are missing."
    return f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(text)}</p>'


def findings(summary: Summary) -> str:
    """Return the strongest control and how the best adaptation of the others stands to it."""
    control = summary.control()
    best = summary.shifted(control, "accuracy") if control else None
    if control is None or best is None:
        return ""
    spread = "" if best.sd is None else f" ± {100 * best.sd:.1f}"
    tiles = [(f"{100 * best.mean:.1f}%{spread}", f"strongest control: {name_of(control)}")]
    for name in summary.activations:
        if not summary.is_control(name):
            tiles += _gap_tile(summary, [m for m in summary.methods if m[0] == name])
    boxes = "".join(f"<div><b>{escape(a)}</b><span>{escape(b)}</span></div>" for a, b in tiles)
    text = (
        "Accuracy under shift: mean over corruptions and severities from 1 on. The strongest "
        "control, and the best adaptation of each other activation, are picked on these very test "
        "images, so small differences mean nothing. Intervals: Student's t over seeds, paired."
    )
    return f'<div class="finding">{boxes}</div>\n{note(text)}'


def _gap_tile(summary: Summary, methods: list[Method]) -> list[tuple[str, str]]:
    gaps = {method: summary.gap(method, "accuracy") for method in methods}
    known = {method: gap for method, gap in gaps.items() if gap is not None}
    if not known:
        return []
    method, gap = max(known.items(), key=lambda item: item[1].mean)
    text = f"points for {name_of(method)}, against it"
    interval = gap.interval()
    if interval is not None:
        text += f"; 95% interval {signed(interval[0])} to {signed(interval[1])}"
    return [(signed(gap.mean), text)]


def severity_curves(summary: Summary) -> str:
    """Return the curves over severity and what the adaptations mean."""
    least, most = summary.spread()
    bands = "; bands are one standard deviation over seeds" if most > 1 else ""
    caption = (
        f"Mean over {counted(summary.corruptions, 'corruption')} and {seeds(least, most)}{bands}. "
        "The broad grey line repeats the strongest control in every panel."
    )
    regimes = terms({name: escape(describe(name)) for name in summary.adaptations})
    return section("Over severity", figure(figures.curves(summary), caption) + regimes)


def reliability(summary: Summary) -> str:
    """Return the reliability diagrams of the most corrupted and of the clean images."""
    caption = (
        "Each dot: the images of one confidence bin, at their mean confidence and accuracy; the "
        "bar is its distance to perfect calibration (dashed), paler where the bin holds few "
        "images, and the band the 95% interval of its accuracy (Wilson). Below: share of the "
        "images per bin. Pooled over corruptions and seeds."
    )
    parts = ""
    for severity in sorted({summary.severities[0], summary.severities[-1]}, reverse=True):
        count = max(sum(b[0] for b in summary.bins(m, severity)) for m in summary.methods)
        title = f"Severity {severity}{' (clean)' if severity == 0 else ''}"
        drawn = figures.diagrams(summary, severity)
        parts += figure(drawn, f"{title}, {count:,} predictions per panel. {caption}")
        caption = "Read as above."
    return section("Reliability", parts)
