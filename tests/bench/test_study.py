from dataclasses import replace

from typer.testing import CliRunner

from qact import adapt
from qact.bench import Data, Recipe, Shift, load_results
from qact.bench.recipe.presets import every_method, full, study
from qact.bench.recipe.rows import wanted
from qact.cli.commands import commands
from qact.datasets.streams import names

invoke = CliRunner().invoke


def test_the_study_is_every_method_on_every_stream():
    recipe = full(Recipe())
    assert recipe.shift == Shift()
    streams, sizes, small = recipe.further
    assert streams.streams == tuple(names())
    assert streams.severities == (5,)
    assert streams.corruptions == ("gaussian_noise", "defocus_blur", "snow", "contrast")
    assert len(streams.adaptations) == len(adapt.methods())
    assert (streams.images, sizes.images, small.images) == (256, 256, 64)
    assert {a.rpartition("-")[2] for a in (*sizes.adaptations, *small.adaptations)} == {
        *("1", "4", "16", "256")
    }
    assert "cotta:views=4-64" in every_method(64)
    keys = wanted(recipe, "relu", "cross_entropy", 0)
    assert len(keys) == 3 * 41 + len(adapt.methods()) * (5 * 4 + 4 + 4 * 4)


def test_few_images_make_small_studies():
    parts = full(Recipe(data=Data(test_limit=10))).further
    assert {shift.images for shift in parts} == {10}
    assert all(int(a.rpartition("-")[2]) <= 10 for shift in parts for a in shift.adaptations)
    assert [shift.images for shift in study(Shift(), 2)] == [2, 2]


def test_the_full_bench_is_one_folder_and_one_report(tiny, tmp_path, monkeypatch):
    """Few methods and images; the whole study takes minutes."""
    small = replace(tiny, training=replace(tiny.training, epochs=1))
    monkeypatch.setattr("qact.bench.recipe.recipe.Recipe", lambda: small)
    monkeypatch.setattr("qact.bench.recipe.presets.full", lambda recipe, images: full(recipe, 16))
    monkeypatch.setattr("qact.bench.recipe.presets.adapt.methods", lambda: ["source", "tent"])
    found = invoke(commands, ["bench", "--full", "--out", str(tmp_path), "--jobs", "1"])
    assert found.exit_code == 0, found.output
    assert "Accuracy, %, by severity" in found.output
    assert "Accuracy, %, by stream: relu" in found.output
    page = (tmp_path / "report.html").read_text()
    assert "Numbers by severity" in page
    assert "Methods by streams" in page
    results = load_results(tmp_path)
    assert {row["images"] for row in results.rows} == {None, 16}
    assert {row["stream"] for row in results.rows} == set(names())
    assert list(results.cells) == ["relu/0"]
