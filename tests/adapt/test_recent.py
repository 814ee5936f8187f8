"""What a memory keeps, and when it is dropped."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qact.adapt import recent


def test_which_samples_are_worth_learning():
    x = torch.tensor([[1.0, 2], [1, 2], [0, 0], [3, 4]])
    assert recent.worth(x, None).tolist() == [True, False, False, True]
    assert recent.worth(x, x[:1]).tolist() == [False, False, False, True]


def test_the_latest_of_each_class_and_no_more_than_there_is_room_for():
    labels = torch.tensor([2, 0, 1, 0, 0, 3])
    assert recent.latest(labels, 4, 8).tolist() == [True, False, True, True, True, True]
    assert recent.latest(labels, 4, 2).tolist() == [False, False, False, False, True, True]


@pytest.mark.parametrize("shape", [(64, 3, 8, 8), (64, 16), (64,)])
def test_samples_of_one_distribution_are_of_one_domain(shape):
    torch.manual_seed(0)
    pairs = [(torch.randn(shape), torch.randn(shape)) for _ in range(50)]
    assert sum(recent.another_domain(old, new, 32.0, 3.0) for old, new in pairs) <= 1
    for change in (lambda x: x + 3, lambda x: 10 * x):
        assert all(recent.another_domain(old, change(new), 32.0, 3.0) for old, new in pairs)


def test_one_class_after_another_is_no_other_domain():
    torch.manual_seed(0)
    means = 2 * torch.randn(5, 16)
    for old in range(5):
        for new in range(5):
            samples = (means[c] + torch.randn(32, 16) for c in (old, new))
            assert not recent.another_domain(*samples, 0.5, 3.0)


@given(st.integers(1, 4), st.integers(1, 3))
def test_token_ids_are_compared_as_numbers(count, length):
    ids = torch.arange(count * length).reshape(count, length)
    assert not recent.another_domain(ids, ids, float(count), 3.0)
