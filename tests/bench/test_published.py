import csv
import io
from dataclasses import replace
from importlib.resources import files
from statistics import fmean

import pytest
from rich.console import Console

from qact.bench import Data, Shift, Summary
from qact.bench.report.html import render
from qact.bench.report.published import misfit, ours, published
from qact.bench.report.terminal import print_published
from qact.shift import corruptions


def on_cifar(results, images=10_000, **shift):
    """The known results, as if of CIFAR-10."""
    recipe = replace(results.recipe, data=Data("cifar10"))
    recipe = replace(recipe, shift=replace(recipe.shift, **shift))
    return replace(results, recipe=recipe, environment={"images": {"test": images}})


def printed(results):
    text = io.StringIO()
    print_published(Summary(results), Console(file=text, width=200))
    return text.getvalue()


def test_every_number_has_a_regime_and_a_source():
    with (files("qact.bench.report") / "published.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert all(row["regime"] and row["source"] for row in rows)
    assert {row["corruption"] for row in rows} == {"mean", *corruptions()}
    assert all(0 < float(row["value"]) < 100 for row in rows)


def test_means_over_the_corruptions_agree_with_the_published_means():
    def who(p):
        return p.method, p.model, p.source

    whole = {who(p): p.worst for p in published("cifar10") if p.worst is not None}
    each = [{who(p): p.worst for p in published("cifar10", (name,))} for name in corruptions()]
    assert len(each[0]) == 10
    for known in each[0]:
        assert fmean(part[known] for part in each) == pytest.approx(whole[known], abs=0.06)


def test_ours_stand_under_the_published_over_the_same_corruptions(results):
    text = printed(on_cifar(results))
    assert "Over 2 corruptions: published, then ours" in text
    standard = next(p for p in published("cifar10", ("fog", "contrast")) if p.method == "Standard")
    assert standard.worst == pytest.approx((74.0 + 53.3) / 2)
    assert text.index("AugMix + TENT") < text.index("qact, batch-200")
    page = render(Summary(on_cifar(results))).partition("Published accuracy")[2]
    page = page.partition("</table>")[0]
    assert page.index("TENT README") < page.index("qact, batch-200")
    assert page.count('<td class="words">') == 2 * (page.count("<tr") - 1)  # they wrap
    assert "Published accuracy" not in render(Summary(results))
    stat = Summary(results).at(("qact", "frozen"), 5, "accuracy")
    assert f"{100 * stat.mean:.1f}±" in next(r[3] for r in ours(Summary(on_cifar(results)))[1:])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"images": 500}, "measured on 500 of the 10000 test images"),
        ({"severities": (0, 1)}, "severity 5 was not measured"),
        ({"corruptions": ("fog", "spatter")}, "beside the 15 standard ones"),
        ({"streams": ("sorted",)}, "the stream is sorted"),
    ],
)
def test_another_protocol_has_no_published_numbers_beside_it(results, change, reason):
    found = on_cifar(results, **change)
    assert reason in misfit(Summary(found))
    assert reason in printed(found)
    assert "PRIME" not in printed(found)


def test_other_data_are_left_in_peace(results):
    assert printed(results) == ""
    assert Shift().streams == ("iid",)
