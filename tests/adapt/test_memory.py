"""Banks of test samples: who is taken in, and who leaves for it."""

from __future__ import annotations

import math

import pytest
import torch

from qact.adapt.memory import ReservoirBank, TimelyBank


def sample(value: float) -> torch.Tensor:
    return torch.tensor([value])


def kept(bank: ReservoirBank | TimelyBank) -> list[list[float]]:
    return [[item.x.item() for item in mine] for mine in bank.items]


def test_a_rare_class_takes_the_place_of_a_frequent_one():
    bank = ReservoirBank(4, 3)
    for value in range(4):
        bank.add(sample(value), 0)
    bank.add(sample(9), 2)
    assert len(bank) == 4
    assert [len(mine) for mine in bank.items] == [3, 0, 1]
    assert kept(bank)[2] == [9]
    bank.add(sample(8), 1)
    assert [len(mine) for mine in bank.items] == [2, 1, 1]


def test_within_a_full_class_every_sample_is_as_likely_as_every_other():
    counts = torch.zeros(8)
    for seed in range(400):
        bank = ReservoirBank(2, 1, seed)
        for value in range(8):
            bank.add(sample(value), 0)
        counts[[int(value) for value in kept(bank)[0]]] += 1
    assert counts.sum() == 800
    assert (counts / 400 - 0.25).abs().max() < 4 * math.sqrt(0.25 * 0.75 / 400)


def test_the_score_is_age_and_doubt():
    bank = TimelyBank(4, 3, time=2.0, doubt=0.5)
    bank.add(sample(0), 0, entropy=0.3)
    (item,) = bank.items[0]
    assert item.age == 1
    assert bank.score(item) == pytest.approx(
        2 / (1 + math.exp(-1 / 4)) + 0.5 * 0.3 / math.log(3), rel=1e-6
    )
    torch.testing.assert_close(bank.ages, torch.tensor([0.25]))


def test_a_class_that_has_its_share_gives_up_its_worst():
    bank = TimelyBank(4, 2)
    bank.add(sample(0), 0, entropy=0.6)
    bank.add(sample(1), 0, entropy=0.0)
    bank.add(sample(2), 0, entropy=0.1)  # surer than the first, which is the older, too
    assert kept(bank) == [[1, 2], []]
    bank.add(sample(3), 0, entropy=0.69)  # less sure than all that there is
    assert kept(bank) == [[1, 2], []]
    assert [item.age for item in bank.items[0]] == [3, 2]


def test_a_class_below_its_share_takes_from_the_fullest():
    bank = TimelyBank(3, 2)  # a share of 1.5
    for value, label in ((0, 0), (1, 0), (2, 1)):
        bank.add(sample(value), label, entropy=0.1)
    assert kept(bank) == [[0, 1], [2]]
    bank.add(sample(3), 1, entropy=0.1)
    assert kept(bank) == [[1], [2, 3]]


def test_a_class_without_a_place_gets_one_of_its_share():
    bank = TimelyBank(2, 3)
    for value, label in ((0, 0), (1, 1), (2, 2)):
        bank.add(sample(value), label, entropy=0.1)
    assert len(bank) == 2
    assert kept(bank) == [[], [1], [2]]
