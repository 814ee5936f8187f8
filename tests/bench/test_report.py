import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from qact.bench import Results, Summary
from qact.bench.report.html import render, write_report

VOID = {"meta", "br", "path", "use", "rect"}


class Balance(HTMLParser):
    """Fails on a tag that is closed out of order."""

    def __init__(self):
        super().__init__()
        self.open, self.ids = [], []

    def handle_starttag(self, tag, attributes):
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="session")
def page(results):
    return render(Summary(results))


def test_tags_are_balanced_and_ids_unique(page):
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))


def test_nothing_is_fetched(page):
    outside = re.sub(r'xmlns(:xlink)?="[^"]*"', "", page)
    assert not re.search(r"https?://|<script|<link|@import|url\((?!#)", outside)


def test_every_reference_inside_the_figures_resolves(page):
    ids = set(re.findall(r'\bid="([^"]*)"', page))
    assert set(re.findall(r'href="#([^"]*)"', page)) <= ids
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= ids


def test_colours_come_from_the_page(page):
    assert "#fe0" not in page
    assert "var(--series-1)" in page
    assert "prefers-color-scheme: dark" in page


def test_text_from_files_is_escaped(results):
    environment = results.environment | {"command": 'qact bench --out "<script>alert(1)</script>"'}
    page = render(Summary(replace(results, environment=environment)))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<b>QAct</b>" not in page


def test_the_same_results_give_the_same_page(results, page):
    assert render(Summary(results)) == page


def test_an_unfinished_bench_is_said_to_be_so(results, tmp_path):
    rows = [row for row in results.rows if row["seed"] == 0]
    cells = {name: notes for name, notes in results.cells.items() if name.endswith("/0")}
    path = write_report(Summary(replace(results, rows=rows, cells=cells)), tmp_path)
    assert "Unfinished: 4 of 6 networks are missing" in path.read_text()


def test_no_rows_at_all_is_refused(results):
    from qact.bench.errors import BenchError

    with pytest.raises(BenchError, match="no measurements"):
        render(Summary(Results(results.recipe)))


def test_risk_over_coverage_is_the_mean_of_the_rows(results, page):
    rows = [
        row["risk"]
        for row in results.rows
        if (row["activation"], row["adaptation"], row["severity"]) == ("qact", "frozen", 5)
    ]
    assert len(rows) == 6  # two corruptions, three seeds
    found = Summary(results).risk(("qact", "frozen"), 5)
    assert found == pytest.approx([sum(column) / 6 for column in zip(*rows, strict=True)])
    errors = [1 - row["accuracy"] for row in results.rows]
    assert [row["risk"][-1] for row in results.rows] == pytest.approx(errors, abs=1e-6)
    assert "Risk and coverage" in page


def test_rows_of_an_older_bench_are_reported_without_risk(results):
    older = [{k: v for k, v in row.items() if k not in ("risk", "aurc")} for row in results.rows]
    text = render(Summary(replace(results, rows=older)))
    assert "Risk and coverage" not in text
    assert "Reliability" in text


def test_every_metric_has_its_table_by_corruption(results, page):
    part = page[page.index("By corruption") : page.index("Against each control")]
    titles = ("Accuracy", "Negative log-likelihood", "ECE, %: plain", "ECE, %: deb", "Brier score")
    assert all(part.count(title) == 1 for title in titles)
    score = Summary(results).shifted(("relu", "frozen"), "brier", "contrast")
    assert f"{score.mean:.3f}" in part


def test_every_control_and_cost_has_its_row(results, page):
    assert "Against each control" in page
    gap = Summary(results).gap(("qact", "frozen"), "accuracy", ("relu", "frozen"))
    sign = "+" if gap.mean > 0 else "\N{MINUS SIGN}"
    assert f"<td>relu</td><td>{sign}{abs(100 * gap.mean):.1f}</td>" in page
    costs = {"step_ms": 1.5, "kept_mib": 2.25, "predict_ms": {"frozen": 0.75}}
    cells = {name: notes | {"costs": costs} for name, notes in results.cells.items()}
    known = Summary(replace(results, cells=cells))
    assert known.costs("qact") == costs
    assert "<td>1.50</td><td>2.25</td><td>0.75</td><td>–</td>" in render(known)
