import io
from dataclasses import replace

from rich.console import Console
from typer.testing import CliRunner

from qact.bench import Summary, list_rivals
from qact.bench.report.html import render
from qact.bench.report.ranking import drawn, ranked, score, seconds
from qact.bench.report.terminal import print_ranking
from qact.cli.commands import commands


def printed(summary):
    out = io.StringIO()
    print_ranking(summary, Console(file=out, width=100))
    return out.getvalue()


def test_the_best_stands_first(results):
    summary = Summary(results)
    means = {
        name: sum(score(summary, name, a).mean for a in summary.adaptations)
        for name in summary.activations
    }
    assert ranked(summary) == sorted(means, key=lambda name: -means[name])
    lines = printed(summary).splitlines()
    first = next(line for line in lines if line.strip().startswith("1 "))
    assert ranked(summary)[0] in first
    assert f"{100 * score(summary, ranked(summary)[0], 'frozen').mean:.1f}" in first


def test_without_shift_the_clean_accuracy_ranks(results):
    clean = replace(results.recipe, shift=replace(results.recipe.shift, severities=(0,)))
    rows = [row for row in results.rows if row["severity"] == 0]
    summary = Summary(replace(results, recipe=clean, rows=rows))
    assert score(summary, "relu", "frozen") == summary.at(("relu", "frozen"), 0, "accuracy")
    assert "2 activations" in printed(summary)


def test_costs_are_relative_to_relu(results):
    summary = Summary(results)
    assert seconds(summary, "relu") == 1.0
    assert "1.0x" in printed(summary)
    assert seconds(summary, "nothing") is None


def test_a_pattern_chooses_and_ranks(tiny, tmp_path, monkeypatch):
    small = replace(tiny, training=replace(tiny.training, epochs=1))
    monkeypatch.setattr("qact.bench.recipe.recipe.Recipe", lambda: small)
    monkeypatch.setattr("qact.bench.report.terminal.FEW", 2)
    arguments = ["bench", "--jobs", "1", "--activations", "hard*", "--activation", "relu"]
    out = ["--out", str(tmp_path / "x")]
    found = CliRunner().invoke(commands, [*arguments, *out])
    assert found.exit_code == 0, found.output
    assert "4 activations by accuracy under shift" in found.output
    for name in ("relu", "hard_ash", "hardswish", "hardtanh"):
        assert name in found.output
    none = CliRunner().invoke(commands, ["bench", "--activations", "nothing*", *out])
    assert none.exit_code == 2
    assert "no activation matches 'nothing*'" in none.output


def test_figures_show_few_of_many(results, monkeypatch):
    summary = Summary(results)
    assert drawn(summary) is summary
    assert "The figures show" not in render(summary)
    monkeypatch.setattr("qact.bench.report.ranking.FEW", 1)
    part = drawn(summary)
    assert part.activations == ["relu"] or part.activations == ["qact"]
    assert {method[0] for method in part.methods} == set(part.activations)
    assert len(summary.activations) == 2
    page = render(summary)
    assert "The figures show 1 of the 2 activations" in page
    assert page.count("qact") > 3  # the tables have all


def test_what_halves_the_channels_is_no_rival(tmp_path):
    names = {rival.name for rival in list_rivals("all")}
    assert {"relu", "qact", "qact.paper", "golu", "dice"} <= names
    assert not names & {"glu", "maxout", "simple_gate"}
    found = CliRunner().invoke(commands, ["bench", "--activation", "glu", "--out", str(tmp_path)])
    assert found.exit_code == 2
    assert "'glu' cannot stand where ReLU stood" in found.output
