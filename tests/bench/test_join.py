from dataclasses import replace

import pytest
from typer.testing import CliRunner

from qact.bench import Summary
from qact.bench.errors import RecipeError
from qact.bench.store.join import differences, join, side_by_side
from qact.cli.commands import commands

invoke = CliRunner().invoke


def part(results, activation):
    """The rows of one activation, as a bench of its own."""
    recipe = replace(results.recipe, activations=(activation,))
    rows = [row for row in results.rows if row["activation"] == activation]
    cells = {k: v for k, v in results.cells.items() if k.startswith(f"{activation}/")}
    about = {activation: results.activations[activation]}
    return replace(results, recipe=recipe, rows=rows, cells=cells, activations=about)


def other(results):
    training = replace(results.recipe.training, epochs=99)
    return replace(results, recipe=replace(results.recipe, training=training))


def test_parts_of_one_recipe_are_one_bench_again(results):
    joined = join([part(results, "relu"), part(results, "qact")])
    assert joined.recipe == results.recipe
    assert sorted(map(str, joined.rows)) == sorted(map(str, results.rows))
    method = ("qact", "frozen")
    assert Summary(joined).gap(method, "accuracy") == Summary(results).gap(method, "accuracy")


def test_means_are_over_the_corruptions_that_all_have(results):
    shift = replace(results.recipe.shift, corruptions=("fog",))
    fog = replace(results, recipe=replace(results.recipe, shift=shift))
    assert join([results, fog]).recipe.shift.corruptions == ("fog",)


def test_two_recipes_are_refused_in_one_table_and_told_apart(results):
    with pytest.raises(RecipeError, match=r"into one table: training\.epochs 15 / 99"):
        join([results, other(results)])
    groups = side_by_side([results, other(results), part(results, "relu")])
    assert [group.why for group in groups] == ["", "training.epochs 15 / 99"]
    assert len(groups[0].results.rows) == len(results.rows)


def test_a_bench_without_clean_images_is_one_with_itself(results):
    shift = replace(results.recipe.shift, corruptions=("fog",), severities=(5,))
    alone = replace(results.recipe, shift=shift)
    assert differences(alone, alone) == ""
    other = replace(alone, shift=replace(shift, corruptions=("snow",)))
    assert differences(alone, other) == "no corruption and severity in common"
    clean = replace(alone, shift=replace(shift, severities=(0,)))
    assert differences(clean, clean) == ""
    assert differences(clean, alone) == "no corruption and severity in common"


def test_contradictions_are_refused(results):
    rows = [row | {"accuracy": 0.123} for row in results.rows]
    with pytest.raises(RecipeError, match=r"measured .* and disagree \(accuracy .* and 0\.1230\)"):
        join([results, replace(results, rows=rows)])
    about = {"relu": results.activations["relu"] | {"module": "relu: ReLU6()"}}
    with pytest.raises(RecipeError, match=r"relu is relu: ReLU\(\) in one bench and relu: ReLU6"):
        join([results, replace(results, activations=about)])


def test_what_was_measured_apart_does_not_meet(results):
    apart = replace(results.recipe.shift, corruptions=("snow",))
    assert differences(results.recipe, replace(results.recipe, shift=apart)).startswith("no corr")


def test_report_of_several_folders(results, tmp_path):
    for name, bench in (("a", results), ("b", other(results))):
        (tmp_path / name).mkdir()
        bench.save(tmp_path / name)
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    found = invoke(commands, ["report", *folders, "--out", str(tmp_path / "both")])
    assert found.exit_code == 0, found.output
    assert "A table of its own: training.epochs 15 / 99." in found.output
    assert found.output.count("strongest control") == 2
    written = {str(path.relative_to(tmp_path / "both")) for path in tmp_path.rglob("report.html")}
    assert written == {"1/report.html", "2/report.html"}
