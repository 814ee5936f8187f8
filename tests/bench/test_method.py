"""Methods of qact.adapt on streams, against the bench's own adaptations and against each other."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from qact import adapt
from qact.adapt import registry
from qact.bench import Recipe, Shift
from qact.bench.data import Inputs
from qact.bench.errors import RecipeError
from qact.bench.measure.adapt import create, predict, walk
from qact.bench.measure.cost import Clock
from qact.bench.measure.evaluate import evaluate
from qact.bench.measure.streams import Passage, arrival, batches, plan
from qact.bench.recipe.adaptations import parse_adaptation
from qact.bench.recipe.rows import wanted
from qact.datasets.streams import names
from qact.models import resnet_small

KINDS = ("gaussian_noise", "contrast")


@pytest.fixture(scope="module")
def inputs():
    draw = torch.Generator().manual_seed(0)
    images, labels = torch.rand(80, 1, 8, 8, generator=draw), torch.arange(80) % 4
    half = torch.full((1, 1, 1, 1), 0.5)
    normal = (images - half) / half
    return Inputs(
        train=(normal[:32], labels[:32]),
        val=(normal[:16], labels[:16]),
        test_images=images[:40],
        test_labels=labels[:40],
        mean=half,
        std=half,
        num_classes=4,
        stored=(255 * images).byte(),
    )


@pytest.fixture(scope="module", params=["relu", "qact"])
def model(request, inputs):
    torch.manual_seed(0)
    network = resnet_small(width_multiplier=0.5, num_classes=4, act=request.param)
    for _ in range(3):
        network(inputs.train[0])  # statistics to be stored
    return network.eval()


def rows(model, inputs, adaptations, streams=("iid",), **options):
    shift = Shift(
        options.pop("kinds", KINDS),
        options.pop("severities", (5,)),
        adaptations,
        streams,
        **options,
    )
    recipe = Recipe(shift=shift)
    keys = wanted(recipe, "relu", "cross_entropy", 0)
    found = evaluate(model, inputs, keys, recipe, lambda images: None)
    return {(r["adaptation"], r["stream"], r["corruption"], r["severity"]): r for r in found}


def numbers(row):
    return torch.tensor([row[name] for name in ("n", "accuracy", "nll", "brier")])


def test_source_is_frozen(model, inputs):
    streams = ("iid", "sorted", "dirichlet")
    found = rows(model, inputs, ("frozen", "source-16"), streams, severities=(0, 5))
    assert len(found) == 2 * 3 * 3
    for (adaptation, *rest), row in found.items():
        if adaptation == "frozen":
            assert_close(numbers(row), numbers(found[("source-16", *rest)]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stream", ["iid", "sorted", "dirichlet"])
def test_the_method_of_batch_statistics_is_the_own_one_on_whole_batches(model, inputs, stream):
    passage, clock = Passage(stream, ("contrast",), 5, 3, 7), Clock(torch.device("cpu"))
    logits, labels = walk(adapt.create("batch", model), inputs, passage, 20, clock)
    order = arrival(stream, inputs.test_labels, 3)
    own = predict(model, inputs.shifted("contrast", 5, 7), "batch-20", order)
    assert_close(logits, own[order], rtol=1e-4, atol=1e-5)
    assert torch.equal(labels, inputs.test_labels[order])
    assert len(clock.seconds) == 2


def test_own_adaptations_go_on_where_a_stream_mixes_conditions(model, inputs):
    found = rows(model, inputs, ("batch-8", "prior:N=0-8", "recalibrated-8"), ("mixed",))
    own, same = (numbers(found[name, "mixed", "all", 5]) for name in ("batch-8", "prior:N=0-8"))
    assert_close(own, same, rtol=1e-4, atol=1e-5)


def test_rows_say_what_they_cost_and_what_they_ran_through(model, inputs):
    found = rows(model, inputs, ("batch-8", "tent-8"), ("iid", "mixed"))
    assert set(found) == {
        (name, *rest)
        for name in ("batch-8", "tent-8")
        for rest in (("iid", "gaussian_noise", 5), ("iid", "contrast", 5), ("mixed", "all", 5))
    }
    for (_, stream, *_), row in found.items():
        assert row["ms_per_batch"] > 0
        assert row["held_kib"] > 1
        assert row["n"] == (80 if stream == "mixed" else 40)
        assert row.get("over") == (list(KINDS) if stream == "mixed" else None)


def test_every_stream_has_its_rows(model, inputs):
    found = rows(model, inputs, ("frozen", "t3a-8"), tuple(names()), severities=(0, 3, 5))
    per_stream = dict.fromkeys(names(), 0)
    for adaptation, stream, corruption, severity in found:
        per_stream[stream] += adaptation == "t3a-8"
        assert (corruption == "none") == (severity == 0)
    fresh, through = 1 + 2 * 2, 2
    assert per_stream == dict.fromkeys(names()[:5], fresh) | {
        "mixed": through,
        "continual": through,
        "recurring": through,
        "gradual": 1,
    }
    assert found["t3a-8", "recurring", "all", 5]["n"] == 3 * 80
    assert found["t3a-8", "garbage", "contrast", 5]["n"] == 40  # garbage does not count
    assert found["t3a-8", "imbalanced", "contrast", 5]["n"] < 40


def test_a_stream_that_begins_anew_resets_the_method(model, inputs):
    """A row is the same whichever were measured before it."""
    after = rows(model, inputs, ("tent:lr=0.1-8",))["tent:lr=0.1-8", "iid", "contrast", 5]
    alone = rows(model, inputs, ("tent:lr=0.1-8",), kinds=("contrast",))
    assert torch.equal(numbers(after), numbers(*alone.values()))


def test_a_prediction_that_is_not_finite_counts_as_uniform(inputs):
    class Lost(adapt.Method):
        name, needs_norms = "lost", False

        def forward_and_adapt(self, x):
            logits = self.model(x)
            logits[0] = torch.tensor([torch.nan, 5.0, 0.0, 0.0])
            return logits

    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4)).eval()
    passage = Passage("iid", ("contrast",), 5, 0, 0)
    logits, labels = walk(Lost(network), inputs, passage, 20, Clock(torch.device("cpu")))
    assert torch.isfinite(logits).all()
    assert torch.equal(logits[[0, 20]], torch.zeros(2, 4))
    assert len(labels) == 40


@pytest.mark.parametrize("name", names())
def test_batches_are_those_of_the_stream_whether_they_are_kept_or_not(inputs, name, monkeypatch):
    passage = Passage(name, KINDS, 4, 1, 2)
    steps = plan(inputs, passage, 16)
    kept = list(batches(inputs, steps, passage.noise))
    monkeypatch.setattr("qact.bench.data._CACHE_BYTES", 0)
    fresh = replace(inputs, _corrupted={}, _parts={})
    for (x, y), (u, v) in zip(kept, batches(fresh, steps, passage.noise), strict=True):
        assert_close(x, u, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(y, v)


def test_sources_are_training_images_and_are_not_held(model, inputs):
    method = create(parse_adaptation("eata-8"), model, inputs)
    assert method.fisher is not None
    assert "source" not in method.options


def test_mistakes_are_told_with_the_adaptation(model, inputs):
    for name, message in (
        ("tents-8", "adaptation 'tents-8': unknown method 'tents'; did you mean 'tent'"),
        ("tent:rate=1-8", "'tent' has no option 'rate'; it has"),
        ("tent:lr=-1-8", "tent:lr=-1-8: lr=-1"),
    ):
        with pytest.raises(RecipeError, match=message):
            create(parse_adaptation(name), model, inputs)
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    with pytest.raises(RecipeError, match="tent-8: 'tent' adapts normalisation layers"):
        create(parse_adaptation("tent-8"), plain, inputs)


def test_a_method_of_ones_own(model, inputs, monkeypatch):
    monkeypatch.setattr(registry.METHODS, "_entries", dict(registry.METHODS._entries))

    @adapt.register("my-own", paper="here", learns="nothing")
    class Mine(adapt.Method):
        """Predicts as trained."""

    found = rows(model, inputs, ("frozen", "my-own-8"))
    row = numbers(found["my-own-8", "iid", "contrast", 5])
    assert_close(row, numbers(found["frozen", "iid", "contrast", 5]), rtol=1e-4, atol=1e-5)
