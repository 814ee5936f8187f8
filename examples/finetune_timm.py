"""Convert a trained timm network to QAct and fine-tune it: cold, and with two warm starts.

    python examples/finetune_timm.py            # digits, about a minute
    QACT_DATA=... python examples/finetune_timm.py --data cifar10

A small ResNet of timm is trained with ReLU first (nothing is downloaded; with weights from timm's
hub the steps are the same: `pretrained=True`). Then its ReLUs become QActs,

    cold        weight 1 and bias 0; contexts from one pass over the training images
    warm        contexts from the same pass, weight and bias fitted to ReLU per channel
    warm table  the same with a table of 33 levels per channel

and each is fine-tuned in the same way as the ReLU network. Printed: how far the logits are from the
original's (mean square over variance) before fine-tuning, and accuracy in `eval()`, that is, image
by image, before and after. Choices were made on the validation part, and so is the accuracy.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass

import timm
import torch
from torch import Tensor, nn

import qact
from qact.shift import load

BATCH = 50
STARTS = {"cold": {}, "warm": {}, "warm table": {"levels": "table"}}


@dataclass(frozen=True)
class Row:
    name: str
    gap: float
    before: float
    after: float


def data(name: str, limit: int | None) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], int]:
    """Training and validation images as floats, and the number of classes."""
    splits = load(name, limit=limit) if name != "digits" else load(name, size=16)
    train, val = ((x.float() / 127.5 - 1, y) for x, y in (splits.train, splits.val))
    if limit is not None:
        train, val = (train[0][:limit], train[1][:limit]), (val[0][:limit], val[1][:limit])
    return train, val, splits.num_classes


def network(images: Tensor, classes: int) -> nn.Module:
    return timm.create_model(
        "resnet10t",
        pretrained=False,
        in_chans=images.shape[1],
        num_classes=classes,
        channels=(16, 32, 64, 128),
    )


def fit(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, lr: float) -> nn.Module:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-2)
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=max(steps, 1))
    model.train()
    for _ in range(epochs):
        for index in torch.randperm(len(images)).split(BATCH):
            if len(index) < BATCH:
                continue
            loss = nn.functional.cross_entropy(model(images[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model.eval()(batch) for batch in images.split(250)])


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return float((logits(model, images).argmax(1) == labels).double().mean())


def converted(model: nn.Module, start: str, images: Tensor) -> nn.Module:
    """The network with QAct in the place of ReLU."""
    batches = images.split(100)
    if start != "cold":
        return qact.convert(model, where=nn.ReLU, warm_start=batches, **STARTS[start])
    new = qact.convert(model, where=nn.ReLU, example_inputs=images[:2])
    norms = [m.eval() for m in new.train().modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    with torch.no_grad():
        for batch in batches:
            new(batch)
    return new.eval()


def compare(name: str, epochs: int, finetune: int, limit: int | None = None) -> list[Row]:
    torch.manual_seed(0)
    train, val, classes = data(name, limit)
    original = fit(network(train[0], classes), *train, epochs, 5e-3)
    want, score = logits(original, val[0]), accuracy(original, *val)
    rows = []
    for start in ("ReLU", *STARTS):
        torch.manual_seed(1)
        new = copy.deepcopy(original) if start == "ReLU" else converted(original, start, train[0])
        gap = float((logits(new, val[0]) - want).square().mean() / want.var())
        before = score if start == "ReLU" else accuracy(new, *val)
        fit(new, *train, finetune, 1e-3)
        rows.append(Row(start, gap, before, accuracy(new, *val)))
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="digits", help="digits, or cifar10 below QACT_DATA")
    parser.add_argument("--epochs", type=int, default=10, help="of training with ReLU")
    parser.add_argument("--finetune", type=int, default=3, help="epochs after the conversion")
    parser.add_argument("--limit", type=int, help="use so many images only")
    options = parser.parse_args(arguments)
    rows = compare(options.data, options.epochs, options.finetune, options.limit)
    print(f"{'start':12}{'logits off by':>15}{'accuracy':>10}{'fine-tuned':>12}")
    for row in rows:
        print(f"{row.name:12}{row.gap:15.3f}{row.before:10.1%}{row.after:12.1%}")


if __name__ == "__main__":
    main()
