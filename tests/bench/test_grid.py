import json
from dataclasses import replace

import pytest

from qact.bench import Shift, Summary, load_results, run
from qact.bench.errors import RecipeError
from qact.bench.recipe.presets import full
from qact.bench.recipe.rows import key_of
from qact.bench.runner.grid import opened, place_of


@pytest.fixture
def quickest(tiny):
    """Half a second per network."""
    shift = Shift(("contrast",), (5,), ("frozen",))
    return replace(tiny, training=replace(tiny.training, epochs=1), shift=shift)


def keys(results):
    return [key_of(row) for row in results.rows]


def test_losses_are_an_axis_and_the_usual_one_keeps_its_place(quickest, tmp_path):
    run(quickest, tmp_path)
    before = (tmp_path / "cells" / "relu-0" / "weights.safetensors").read_bytes()
    results = run(replace(quickest, losses=("cross_entropy", "watershed")), tmp_path)
    assert [row["loss"] for row in results.rows] == ["cross_entropy", "watershed"]
    assert list(results.cells) == ["relu/0", "relu/watershed/0"]
    assert sorted(p.name for p in (tmp_path / "cells").iterdir()) == ["relu+watershed-0", "relu-0"]
    assert (tmp_path / "cells" / "relu-0" / "weights.safetensors").read_bytes() == before
    summary = Summary(load_results(tmp_path))
    assert summary.activations == ["relu", "relu/watershed"]
    assert summary.is_control("relu/watershed")
    assert summary.costs("relu/watershed")["step_ms"] > 0
    assert run(quickest, tmp_path).recipe.every_loss() == ("cross_entropy", "watershed")


def as_before(folder):
    """Rewrite results.json as it was before losses, streams and numbers of images were axes."""
    path = folder / "results.json"
    whole = json.loads(path.read_text())
    recipe = whole["recipe"]
    for name in ("losses", "further"):
        del recipe[name]
    del recipe["shift"]["images"]
    recipe["shift"]["stream"] = recipe["shift"].pop("streams")[0]
    for row in whole["rows"]:
        for name in ("images", "ms_per_batch", "held_kib"):
            del row[name]
    cells = {name.split("/") and name: notes for name, notes in whole["cells"].items()}
    whole["cells"] = {f"{k.split('/')[0]}/{k.split('/')[-1]}": v for k, v in cells.items()}
    path.write_text(json.dumps(whole))


def test_old_folders_are_read_and_only_what_is_new_runs(quickest, tmp_path, monkeypatch):
    first = run(quickest, tmp_path)
    as_before(tmp_path)
    assert keys(load_results(tmp_path)) == keys(first)
    with monkeypatch.context() as patch:
        patch.setattr("qact.bench.runner.bench.run_cells", None)  # would raise if it were called
        run(quickest, tmp_path)
    shift = replace(quickest.shift, adaptations=("frozen", "tent-50"))
    results = run(replace(quickest, shift=shift), tmp_path)
    assert [row["adaptation"] for row in results.rows] == ["frozen", "tent-50"]
    assert "ms_per_batch" not in results.rows[0]
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert lines[0].endswith("ms_per_batch,held_kib")
    assert lines[1].endswith(",,")


def test_networks_of_another_loss_are_found_where_they_were(quickest, tmp_path):
    other = replace(quickest, training=replace(quickest.training, loss="watershed"))
    run(other, tmp_path)
    (tmp_path / "cells" / "relu+watershed-0").rename(tmp_path / "cells" / "relu-0")
    as_before(tmp_path)
    assert list(load_results(tmp_path).cells) == ["relu/watershed/0"]
    assert place_of(tmp_path, "relu", "watershed", 0).name == "relu-0"
    assert place_of(tmp_path, "relu", "cross_entropy", 0).name == "relu+cross_entropy-0"
    both = run(replace(quickest, losses=("watershed", "cross_entropy")), tmp_path)
    assert len(both.rows) == 2
    assert len(list((tmp_path / "cells").iterdir())) == 2


def test_a_stopped_cell_keeps_its_rows_and_goes_on(quickest, tmp_path, monkeypatch):
    shift = replace(quickest.shift, streams=("iid", "sorted", "mixed"), adaptations=("tent-50",))
    recipe = replace(quickest, shift=shift)
    whole = run(recipe, tmp_path / "whole")
    seen = []

    def stop(stream, *args):
        seen.append(stream)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return 1

    monkeypatch.setattr("qact.bench.store.results._EVERY", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr("qact.bench.measure.evaluate.passed", stop)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, tmp_path / "cut")
    half = load_results(tmp_path / "cut")
    assert keys(half) == keys(whole)[: len(half.rows)]
    assert 0 < len(half.rows) <= 3
    assert not half.cells
    again = run(recipe, tmp_path / "cut")
    assert keys(again) == keys(whole)
    assert [row["accuracy"] for row in again.rows] == [row["accuracy"] for row in whole.rows]
    assert list(again.cells) == ["relu/0"]


def test_a_stream_through_other_corruptions_is_refused(quickest, tmp_path):
    mixed = replace(quickest, shift=replace(quickest.shift, streams=("mixed",)))
    run(mixed, tmp_path)
    other = replace(mixed, shift=replace(mixed.shift, corruptions=("contrast", "fog")))
    with pytest.raises(RecipeError, match=r"shift\.corruptions: \['contrast'\] there"):
        run(other, tmp_path)


def test_the_study_stays_when_the_bench_is_run_again_without_it(quickest, tmp_path):
    with_study = full(quickest, 16)
    run(quickest, tmp_path)
    joined = opened(with_study, tmp_path)
    joined.save(tmp_path)
    assert opened(quickest, tmp_path).recipe.further == with_study.further


def test_methods_are_tried_before_training(quickest, tmp_path):
    for name, message in (
        ("tents-50", "unknown method 'tents'; did you mean 'tent'"),
        ("tent:lr=-1-50", "tent:lr=-1-50: lr=-1"),
        ("tent-501", "tent-501 needs 501 test images, there are 500"),
    ):
        shift = replace(quickest.shift, adaptations=(name,))
        with pytest.raises(RecipeError, match=message):
            run(replace(quickest, shift=shift), tmp_path)
    assert not (tmp_path / "cells").exists()
