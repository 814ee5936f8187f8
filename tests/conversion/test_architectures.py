"""Models of timm and torchvision: converted, trained a step, evaluated, exported, compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import architectures
import qact
from torchvision_schemas import import_torchvision

import_torchvision()
import timm  # noqa: E402
import torchvision  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs" / "convert.md"
FAST = {
    # One ReLU object per block, used twice.
    "resnet": lambda: torchvision.models.ResNet(
        torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10
    ),
    # F.relu in every convolution.
    "shufflenet": lambda: torchvision.models.ShuffleNetV2([1, 1, 1], [8, 16, 32, 64, 32], 10),
    "densenet": lambda: torchvision.models.DenseNet(8, (1, 2), 8, num_classes=10),
    # Norm and activation in one module, and gates.
    "mobilenetv3": lambda: timm.create_model("mobilenetv3_small_050", num_classes=10),
    # Tokens.
    "vit": lambda: timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=48, num_heads=3, num_classes=10
    ),
    # Channels last in four dimensions.
    "convnext": lambda: timm.models.ConvNeXt(
        depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), num_classes=10
    ),
}


@pytest.mark.parametrize("name", FAST)
def test_a_small_one_converts_trains_and_evaluates(name):
    model, images = FAST[name](), torch.randn(4, 3, 32, 32)
    found = {}
    for _, check in architectures._steps(model, images)[:3]:
        found |= check()
    assert found["converted"] >= 2
    assert found["trained"]
    assert found["evaluated"]


def test_convnext_and_mobilenet_have_their_channels_where_they_belong():
    images = torch.randn(2, 3, 32, 32)
    convnext = qact.convert(FAST["convnext"](), example_inputs=images)
    assert {row.note for row in qact.summary(convnext).converted} == {
        "32 channels at dim -1",
        "64 channels at dim -1",
    }
    mobile = qact.convert(FAST["mobilenetv3"](), example_inputs=images)
    assert isinstance(mobile.bn1.act, qact.QAct)
    assert type(mobile.bn1) is type(FAST["mobilenetv3"]().bn1)
    assert {row.was for row in qact.summary(mobile).left} == {"Hardsigmoid"}


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto"])
def test_timm_builds_with_the_layer(name):
    sized = {"img_size": 32, "depth": 1} if "vit" in name else {}
    model = timm.create_model(name, act_layer=qact.layer("qact"), num_classes=3, **sized)
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    acts = [m for m in model.modules() if isinstance(m, qact.QAct)]
    other = [m for m in model.modules() if isinstance(m, nn.ReLU | nn.GELU)]
    assert acts
    assert not other
    dims = {act.dim for act in acts}
    assert dims == ({-1} if "vit" in name else {1})


def test_the_page_has_the_table_of_the_file():
    rows = json.loads(architectures.DATA.read_text())["rows"]
    assert architectures.table(rows) in PAGE.read_text(encoding="utf-8")
    assert sum("why" not in row for row in rows) >= 25


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_an_architecture_reaches_what_the_file_says(name):
    row, known = architectures.examine(name), architectures.known()[name]
    for step in architectures.STEPS:
        assert bool(row.get(step)) >= bool(known.get(step)), row
