"""Small banks of test samples, kept balanced over the classes that were predicted for them."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Item:
    """One sample, how long it has been kept, and the entropy of its prediction."""

    x: Tensor
    age: int = 0
    entropy: float = 0.0

    def __deepcopy__(self, memo: dict[int, Any]) -> Item:
        """Grows older by itself; the sample never changes, and is shared."""
        return Item(self.x, self.age, self.entropy)


class Bank:
    """Base: one list of items per predicted class, ``capacity`` in all."""

    def __init__(self, capacity: int, classes: int) -> None:
        self.capacity = capacity
        self.items: list[list[Item]] = [[] for _ in range(classes)]

    def __len__(self) -> int:
        return sum(map(len, self.items))

    @property
    def samples(self) -> Tensor:
        """All samples (n, ...), class by class."""
        return torch.stack([item.x for mine in self.items for item in mine])

    @property
    def ages(self) -> Tensor:
        """Ages (n,) in units of the capacity."""
        ages = [item.age for mine in self.items for item in mine]
        return torch.tensor(ages, dtype=torch.float32, device="cpu") / self.capacity

    def fullest(self) -> list[int]:
        """The classes with most items."""
        most = max(map(len, self.items))
        return [label for label, mine in enumerate(self.items) if len(mine) == most]


class ReservoirBank(Bank):
    """Prediction-balanced reservoir sampling (NOTE, arXiv 2208.05117, algorithm 1).

    A full bank takes a sample of a class that is not the fullest in place of a random one of a
    fullest class; of a fullest class, with the probability (kept / seen) of that class.

    Args:
        capacity: samples in all.
        classes: how many classes there are.
        seed: of the choices.
    """

    def __init__(self, capacity: int, classes: int, seed: int = 0) -> None:
        super().__init__(capacity, classes)
        self.seen = [0] * classes
        self.draw = random.Random(seed)

    def add(self, x: Tensor, label: int) -> None:
        """Offer a sample of a predicted class."""
        self.seen[label] += 1
        if len(self) < self.capacity or self._make_room(label):
            self.items[label].append(Item(x.clone()))

    def _make_room(self, label: int) -> bool:
        fullest = self.fullest()
        source = label if label in fullest else self.draw.choice(fullest)
        mine = self.items[source]
        if source == label and self.draw.random() > len(mine) / self.seen[label]:
            return False
        mine.pop(self.draw.randrange(len(mine)))
        return True


class TimelyBank(Bank):
    """Category-balanced sampling with timeliness and uncertainty (RoTTA, arXiv 2303.13899).

    A sample scores ``time / (1 + exp(-age / capacity)) + doubt * entropy / ln C`` (equation 6); the
    highest score leaves, within the class if that has its share, else within the fullest classes.

    Args:
        capacity: samples in all.
        classes: how many classes there are.
        time: weight of the age.
        doubt: weight of the entropy.
    """

    def __init__(self, capacity: int, classes: int, time: float = 1.0, doubt: float = 1.0) -> None:
        super().__init__(capacity, classes)
        self.time, self.doubt = time, doubt

    def score(self, item: Item) -> float:
        """How much an item is due to leave."""
        aged = self.time / (1 + math.exp(-item.age / self.capacity))
        return aged + self.doubt * item.entropy / math.log(max(2, len(self.items)))

    def add(self, x: Tensor, label: int, entropy: float) -> None:
        """Offer a sample of a predicted class; everything kept grows older by one."""
        new = Item(x.clone(), 0, entropy)
        if self._make_room(label, self.score(new)):
            self.items[label].append(new)
        for mine in self.items:
            for item in mine:
                item.age += 1

    def _make_room(self, label: int, score: float) -> bool:
        if len(self.items[label]) < self.capacity / len(self.items):
            if len(self) < self.capacity:
                return True
            classes = self.fullest()
        else:
            classes = [label]
        kept = [(self.score(item), c, i) for c in classes for i, item in enumerate(self.items[c])]
        if not kept:
            return True
        worst, c, i = max(kept)
        if worst <= score:
            return False
        self.items[c].pop(i)
        return True
