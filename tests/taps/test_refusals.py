"""What a tap cannot read or count is one error that repeats it; a batch of nothing is nothing."""

import pytest
import torch
from torch import nn

import qact

NET = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)).eval()
X = torch.randn(4, 1, 6, 6)


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (5, "pool=5 must be 'mean', 'max', a function or None"),
        (lambda z: z[:2], r"the pool at '0' made shape \(2, 4, 4, 3\) of \(4, 4, 4, 3\)"),
        (lambda z: z.sum(), r"the pool at '0' made shape \(\) of"),
        (lambda z: 5, "the pool at '0' made <class 'int'> of"),
    ],
)
def test_a_pool_keeps_the_samples(pool, message):
    with pytest.raises((TypeError, ValueError), match=message), qact.tap(NET, "0").read(pool):
        NET(X)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 9}, r"dim=9 is none of '0', whose values have the shape \(4, 3, 4, 4\)"),
        ({"dim": "a"}, "dim='a' must be an integer"),
        ({"positions": "a"}, r"positions='a' do not fit '0'.* \(4, 4\)"),
    ],
)
def test_a_place_that_is_none(options, message):
    def read():
        with qact.tap(NET, "0", **options).read("mean"):
            NET(X)

    with pytest.raises((TypeError, ValueError), match=message):
        read()


def test_a_seed_is_an_integer():
    with pytest.raises(TypeError, match="seed='x' must be an integer"):
        qact.tap(NET, "0").read(sample=2, seed="x")


def test_a_batch_of_nothing_counts_nothing():
    with qact.tap(NET, "0").observe() as seen, qact.tap(NET, "0").observe() as expected:
        NET(X)
    with seen:
        NET(X[:0])
    assert torch.equal(seen["0"].mass, expected["0"].mass)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.kurtosis(X.numpy()), "x must be a tensor, got ndarray; torch.as_tensor"),
        (lambda t: t.kurtosis(X.long()), "x has dtype torch.int64; a floating dtype is needed"),
        (lambda t: t.codes([1.0]), "values must be a tensor, got list"),
        (lambda t: t.redundancy([1.0]), "patterns must be a tensor, got list"),
        (lambda t: t.redundancy(torch.zeros(0, 3)), r"patterns of shape \(0, 3\) hold no sample"),
        (lambda t: t.intrinsic_dimension(None), "values must be a tensor, got NoneType"),
        (lambda t: t.procrustes(torch.ones(3, 2), [1]), "b must be a tensor, got list"),
        (lambda t: t.procrustes(torch.ones(3, 2), torch.ones(3, 2) / 0), "b holds values that are"),
    ],
)
def test_what_cannot_be_measured(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call(qact.taps)
