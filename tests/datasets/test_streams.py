"""Streams: every image where it belongs, the same bits twice, and what each kind promises."""

from __future__ import annotations

import pytest
import torch

from qact.shift import corrupt, streams

X = torch.rand(60, 1, 16, 16, generator=torch.Generator().manual_seed(0))
Y = torch.arange(60) % 4
KINDS = ("contrast", "brightness")


def make(name: str, **options: object) -> streams.Stream:
    return streams.stream(name, X, Y, **({"batch": 16, "corruptions": KINDS, "seed": 1} | options))


def indices(stream: streams.Stream) -> list[int]:
    return torch.cat([s.index for s in stream.steps if s.garbage is None]).tolist()


@pytest.mark.parametrize("name", streams.names())
def test_the_same_seed_gives_the_same_bits_and_another_does_not(name):
    first, again, other = list(make(name)), list(make(name)), make(name, seed=2)
    stream = make(name)
    assert len(stream) == len(first)
    for batches in (again, list(stream), list(stream)):
        for a, b in zip(first, batches, strict=True):
            assert torch.equal(a.x.nan_to_num(-1), b.x.nan_to_num(-1))
            assert torch.equal(a.y, b.y)
            assert a.condition == b.condition
    assert indices(other) != indices(stream)


@pytest.mark.parametrize("name", sorted(set(streams.names()) - {"imbalanced", "garbage"}))
@pytest.mark.parametrize("batch", [1, 2, 16, 512])
def test_every_image_comes_as_often_as_every_other(name, batch):
    stream = make(name, batch=batch)
    counts = torch.tensor(indices(stream)).bincount(minlength=60)
    want = {"recurring": 6, "gradual": 2}.get(name, 2)
    assert counts.tolist() == [want] * 60
    assert max(len(step.index) for step in stream.steps) <= batch


@pytest.mark.parametrize("name", sorted(set(streams.names()) - {"garbage"}))
def test_images_are_corrupted_as_the_condition_says(name):
    stream = make(name)
    for step, (x, y, condition) in zip(stream.steps, stream, strict=True):
        assert torch.equal(y, Y[step.index])
        assert condition == step.name
        kinds = step.conditions * (1 if len(step.conditions) > 1 else len(y))
        for image, index, (kind, severity) in zip(x, step.index, kinds, strict=True):
            want = corrupt(X[index][None], kind, severity, seed=1, index=index[None])
            assert torch.equal(image, want[0])


def test_sorted_and_iid():
    ordered = make("sorted", corruptions=["contrast"])
    labels = torch.cat([b.y for b in ordered])
    assert torch.equal(labels, labels.sort().values)
    assert not torch.equal(torch.cat([b.y for b in make("iid")])[:60], labels)


def test_dirichlet_correlates_labels():
    def runs(name):
        labels = torch.cat([b.y for b in make(name, corruptions=["contrast"])])
        return int((labels[1:] == labels[:-1]).sum())

    assert runs("dirichlet") > 1.5 * runs("iid")


def test_mixed_mixes_within_a_batch():
    stream = make("mixed")
    assert all(len(set(step.conditions)) == 2 for step in stream.steps if len(step.index) > 8)
    assert len(indices(stream)) == 120


def test_severity_rises():
    found = [step.name for step in make("gradual", batch=512).steps]
    assert found == [f"{kind}-{severity}" for kind in KINDS for severity in range(1, 6)]


def test_recurring_comes_round():
    found = [step.name for step in make("recurring", batch=60).steps]
    assert found == ["contrast-5", "brightness-5"] * 3


def test_a_long_tail():
    labels = torch.cat([b.y for b in make("imbalanced", corruptions=["contrast"])])
    counts = labels.bincount(minlength=4).sort(descending=True).values
    assert counts.tolist() == [15, 7, 3, 2]


def test_garbage():
    batches = list(make("garbage", corruptions=["contrast"]))
    junk = [b for b in batches if (b.y < 0).all()]
    assert len(junk) == 3
    assert len(batches) == 4 + 3
    black, nan, repeated = (b.x for b in junk)
    assert (black == 0).all()
    assert nan.isnan().all()
    assert (repeated == repeated[:1]).all()
    assert torch.equal(
        torch.cat([b.y for b in batches if (b.y >= 0).all()]).bincount(), Y.bincount()
    )


@pytest.mark.parametrize("batch", [512, 30, 20, 16, 4])
def test_every_kind_of_garbage_comes_whatever_the_batch(batch):
    steps = make("garbage", batch=batch, corruptions=["contrast"]).steps
    assert [s.garbage for s in steps if s.garbage] == ["black", "nan", "repeated"]


def test_which_streams_start_anew():
    fresh = {name for name in streams.names() if make(name).fresh}
    assert fresh == {"iid", "sorted", "dirichlet", "imbalanced", "garbage"}


def test_a_transform_comes_last():
    plain, moved = make("iid"), make("iid", transform=lambda x: x - 0.5)
    assert all(torch.equal(a.x - 0.5, b.x) for a, b in zip(plain, moved, strict=True))


@pytest.mark.parametrize("name", streams.names())
@pytest.mark.parametrize(("count", "classes"), [(1, 1), (6, 1), (6, 6)])
def test_one_image_one_class_and_batches_larger_than_the_data(name, count, classes):
    labels = torch.arange(count) % classes + 3
    stream = streams.stream(name, X[:count], labels, batch=64, corruptions=["contrast"])
    for first, again in zip(stream, stream, strict=True):
        assert len(first.x) == len(first.y) >= 1
        assert torch.equal(first.x.nan_to_num(-1), again.x.nan_to_num(-1))


@pytest.mark.parametrize(
    ("name", "images", "labels", "options", "error", "text"),
    [
        ("random", X, Y, {}, ValueError, "unknown stream 'random'; known: iid"),
        ("iid", X * 2, Y, {}, ValueError, r"in \[0, 1\]"),
        ("iid", X[0], Y, {}, ValueError, "shape"),
        ("iid", X, Y[:5], {}, ValueError, r"expected \(60,\)"),
        ("iid", X, Y.float(), {}, TypeError, "integer"),
        ("iid", X[:0], Y[:0], {}, ValueError, "N >= 1"),
        ("iid", X, Y, {"batch": 0}, ValueError, "batch=0"),
        ("iid", X, Y, {"corruptions": []}, ValueError, "at least one"),
        ("iid", X, Y, {"corruptions": "fog"}, ValueError, "at least one"),
        ("iid", X, Y, {"corruptions": ["smog"]}, ValueError, "unknown corruption 'smog'"),
        ("iid", X, Y, {"severity": 6}, ValueError, "severity"),
        ("iid", X, Y, {"seed": 0.5}, TypeError, "seed=0.5"),
        ("iid", X, Y, {"transform": 3}, TypeError, "transform=3 must be a function"),
    ],
)
def test_bad_input_is_refused(name, images, labels, options, error, text):
    with pytest.raises(error, match=text):
        streams.stream(name, images, labels, **options)
    with pytest.raises(ValueError, match="'noise'"):
        streams.spoilt(X, "noise")
