"""Models of transformers: GELU as a class of its own, tokens with channels last."""

from __future__ import annotations

import pytest
import torch

import qact
from torchvision_schemas import import_torchvision

import_torchvision()  # transformers looks for it
from transformers import (  # noqa: E402
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    ViTConfig,
    ViTForImageClassification,
)


def bert() -> BertModel:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    return BertModel(
        BertConfig(vocab_size=20, num_hidden_layers=2, max_position_embeddings=16, **sizes)
    )


def test_gelu_becomes_qact_at_the_last_dimension():
    tokens = {"input_ids": torch.randint(0, 20, (3, 6))}
    for inputs in (tokens, None):
        new = qact.convert(bert(), example_inputs=inputs)
        output = new(**tokens).last_hidden_state
        output.sum().backward()
        act = new.encoder.layer[1].intermediate.intermediate_act_fn
        assert (act.dim, act.num_features, act.levels) == (-1, 24, "gelu")
        assert [row.name for row in qact.summary(new).left] == ["pooler.activation"]
    assert max(map(len, str(qact.summary(new)).splitlines())) <= 80


@pytest.mark.parametrize("where", [None, "encoder.layer.1", "*"])
def test_the_way_through_save_pretrained(where, tmp_path):
    """As docs/convert.md has it: transformers builds the plain network, `convert` the rest."""
    safetensors = pytest.importorskip("safetensors.torch")
    tokens = {"input_ids": torch.randint(0, 20, (3, 6))}
    asked = {"where": where, "example_inputs": tokens}
    torch.manual_seed(1)
    model = qact.convert(bert(), **asked)
    for _ in range(3):
        model(**{"input_ids": torch.randint(0, 20, (8, 6))})  # contexts follow
    wanted = model.eval()(**tokens).last_hidden_state
    model.save_pretrained(tmp_path)

    plain = BertModel.from_pretrained(tmp_path)
    assert not qact.summary(plain).converted
    again = qact.convert(plain, **asked)
    again.load_state_dict(safetensors.load_file(tmp_path / "model.safetensors"))
    assert qact.summary(again).converted == qact.summary(model).converted
    torch.testing.assert_close(again.eval()(**tokens).last_hidden_state, wanted, rtol=0, atol=0)


def vit() -> ViTForImageClassification:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    images = {"image_size": 8, "patch_size": 4, "num_labels": 3}
    return ViTForImageClassification(ViTConfig(num_hidden_layers=1, **sizes, **images))


def gpt2() -> GPT2LMHeadModel:
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
    return GPT2LMHeadModel(GPT2Config(vocab_size=20, **sizes))


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (vit, {"pixel_values": torch.randn(3, 3, 8, 8)}),
        (gpt2, {"input_ids": torch.arange(18).view(3, 6)}),
    ],
)
def test_names_of_the_hub_and_tied_weights(make, inputs, tmp_path):
    """What `save_pretrained` writes has other names than the modules, or one name for two."""
    safetensors = pytest.importorskip("safetensors.torch")
    model = qact.convert(make(), example_inputs=inputs)
    model(**inputs)
    wanted = model.eval()(**inputs).logits
    model.save_pretrained(tmp_path)
    safetensors.save_model(model, tmp_path / "converted.safetensors")

    again = qact.convert(type(model).from_pretrained(tmp_path), example_inputs=inputs)
    assert safetensors.load_model(again, tmp_path / "converted.safetensors") == (set(), [])
    torch.testing.assert_close(again.eval()(**inputs).logits, wanted, rtol=0, atol=0)
