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


LABELS = torch.arange(64) % 10


@pytest.mark.parametrize("shape", [(64, 3, 8, 8), (64, 16), (64,)])
def test_samples_of_one_distribution_are_of_one_domain(shape):
    torch.manual_seed(0)
    pairs = [(torch.randn(shape), torch.randn(shape)) for _ in range(50)]
    same = [recent.another_domain((old, LABELS), (new, LABELS), 10, 3.0) for old, new in pairs]
    assert sum(same) <= 1
    for change in (lambda x: x + 4, lambda x: 20 * x):
        for old, new in pairs:
            assert recent.another_domain((old, LABELS), (change(new), LABELS), 10, 3.0)


def test_a_new_domain_is_seen_where_one_class_is_predicted_for_all_of_it():
    torch.manual_seed(0)
    old, new = torch.randn(2, 64, 1, 8, 8) + 0.5 * torch.randn(2, 64, 1, 1, 1)
    assert recent.another_domain((old, LABELS), (new + 1, 0 * LABELS), 10, 3.0)
    assert not recent.another_domain((old, LABELS), (new, 0 * LABELS), 10, 3.0)


def test_one_class_after_another_is_no_other_domain():
    torch.manual_seed(0)
    means = 2 * torch.randn(6, 16)
    x, y = (
        means.repeat_interleave(32, 0) + torch.randn(192, 16),
        torch.arange(6).repeat_interleave(32),
    )
    for seen in range(32, 192, 32):
        old, new = (x[:seen], y[:seen]), (x[seen : seen + 32], y[seen : seen + 32])
        assert not recent.another_domain(old, new, 6, 3.0)


def test_the_share_between_classes():
    torch.manual_seed(0)
    y = torch.arange(2000) % 4
    centres, noise = torch.tensor([-1.5, -0.5, 0.5, 1.5]), torch.randn(2000)
    found = recent.class_share((centres[y] + noise)[:, None], y)
    assert found == pytest.approx(1.25 / 2.25, abs=0.05)
    assert recent.class_share(noise[:, None], y) == pytest.approx(0, abs=0.01)
    assert recent.class_share(noise[:, None], 0 * y) == 1.0


@given(st.integers(1, 4), st.integers(1, 3))
def test_token_ids_are_compared_as_numbers(count, length):
    ids = torch.arange(count * length).reshape(count, length), torch.zeros(count).long()
    assert not recent.another_domain(ids, ids, 2, 3.0)
