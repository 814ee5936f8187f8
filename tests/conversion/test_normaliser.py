"""`convert(model, normaliser=...)`: softmax in its new place is what it was, others are theirs."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qact
from qact import attention, weights
from qact.conversion.attention import attend
from qact.conversion.multihead import MultiheadAttention
from torchvision_schemas import import_torchvision

import_torchvision()  # timm and transformers look for it
timm = pytest.importorskip("timm")
from transformers import (  # noqa: E402
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaModel,
)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


SHAPES = list(itertools.product((False, True), (False, True), (None, "extra", "other sizes")))


@pytest.mark.parametrize(("first", "batched", "kind"), SHAPES)
@pytest.mark.parametrize("masks", ["none", "boolean", "float", "per head"])
def test_multihead_attention_with_softmax_is_torchs(first, batched, kind, masks):
    E, H, N, L, S = 12, 3, 2, 4, 5
    more = {"add_bias_kv": True, "add_zero_attn": True} if kind == "extra" else {}
    sizes = {"kdim": 7, "vdim": 6} if kind == "other sizes" else {}
    old = nn.MultiheadAttention(E, H, batch_first=first, **more, **sizes).eval()
    new = qact.convert(old, normaliser="softmax")
    assert set(new.state_dict()) == set(old.state_dict())
    q, k, v = (
        torch.randn(N, t, size)
        for t, size in ((L, E), (S, sizes.get("kdim", E)), (S, sizes.get("vdim", E)))
    )
    mask, padding = None, None
    if masks != "none":
        padding = torch.zeros(N, S, dtype=torch.bool)
        padding[1, 3:] = True
        mask = torch.rand(L, S) > 0.7
        mask[:, 0] = False
    if masks == "per head":
        mask = mask.expand(N * H, L, S)
    if masks == "float":
        mask, padding = (
            torch.zeros(m.shape).masked_fill(m, -torch.inf) + 0.3 for m in (mask, padding)
        )
    if not batched:
        q, k, v = q[1], k[1], v[1]
        padding = None if padding is None else padding[1]
        mask = mask[:H] if masks == "per head" else mask
    elif not first:
        q, k, v = (t.transpose(0, 1) for t in (q, k, v))
    for average in (True, False):
        options = {"key_padding_mask": padding, "attn_mask": mask, "average_attn_weights": average}
        for got, wanted in zip(new(q, k, v, **options), old(q, k, v, **options), strict=True):
            torch.testing.assert_close(got, wanted)
    output, none = new(q, k, v, need_weights=False, attn_mask=mask, key_padding_mask=padding)
    torch.testing.assert_close(output, old(q, k, v, attn_mask=mask, key_padding_mask=padding)[0])
    assert none is None


def test_weights_of_multihead_attention_are_the_maps():
    layer = nn.MultiheadAttention(8, 2, batch_first=True, bias=False).eval()
    new = qact.convert(layer, normaliser="entmax15")
    x = torch.randn(2, 5, 8)
    q, k, v = (x @ layer.in_proj_weight[i : i + 8].T for i in (0, 8, 16))
    q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in (q, k, v))
    want = weights.entmax15(q @ k.transpose(-1, -2) / 2)
    output, got = new(x, x, x, average_attn_weights=False)
    torch.testing.assert_close(got, want)
    mixed = (want @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(output, mixed @ layer.out_proj.weight.T)


def test_dropout_falls_on_weights_in_training_alone():
    layer = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
    new, x = qact.convert(layer, normaliser="softmax"), torch.randn(2, 64, 8)
    share = (new(x, x, x, average_attn_weights=False)[1] == 0).float().mean()
    assert 0.4 < share < 0.6
    torch.testing.assert_close(new.eval()(x, x, x)[0], layer.eval()(x, x, x)[0])


@pytest.mark.parametrize("norm_first", [False, True])
def test_an_encoder_leaves_its_fused_way(norm_first):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first).eval()
    x, padding = torch.randn(2, 5, 8), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    same = qact.convert(model, normaliser="softmax", example_inputs=x)
    with torch.no_grad():
        got, wanted = (m(x, src_key_padding_mask=padding) for m in (same, model))
        torch.testing.assert_close(got[~padding], wanted[~padding])
        new = qact.convert(model, normaliser="sparsemax")
        assert not torch.allclose(new(x), model(x), atol=1e-3)
    heard: list[Tensor] = []
    handle = new.layers[1].self_attn.normaliser.map.register_forward_hook(
        lambda m, args, output: heard.append(output)
    )
    with torch.no_grad():
        new(x, src_key_padding_mask=padding)
    handle.remove()
    assert (heard[0][1, :, :, 3:] == 0).all()  # padded keys have no weight
    torch.testing.assert_close(heard[0].sum(-1), torch.ones(2, 2, 5))
    for twin in (copy.deepcopy(new), pickle.loads(pickle.dumps(new))):
        torch.testing.assert_close(twin(x), new(x))


def test_in_place_and_back_after_an_error():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    before, state = type(model.self_attn), set(model.state_dict())
    with pytest.raises(ValueError, match=r"has none; those of .*ssmax"):
        qact.convert_(model, normaliser="entmax15", warm_start=torch.randn(4, 5, 8))
    assert type(model.self_attn) is before
    assert set(model.state_dict()) == state
    assert "normaliser" not in model.self_attn._modules
    assert not qact.summary(model).converted
    assert qact.convert_(model, normaliser="ssmax") is model
    assert set(model.state_dict()) - state == {"self_attn.normaliser.map.s"}
    qact.convert_(model, normaliser="entmax15")  # once more, without a trace of the first
    assert set(model.state_dict()) == state


def vit(**options: object) -> nn.Module:
    sizes = {"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3, "num_classes": 4}
    return timm.models.VisionTransformer(img_size=8, **sizes, **options).eval()


@pytest.mark.parametrize("fused", [True, False])
def test_timm(fused):
    model, x = vit(), torch.randn(2, 3, 8, 8)
    for block in model.blocks:
        block.attn.fused_attn = fused
    same = qact.convert(model, normaliser="softmax", example_inputs=x)
    torch.testing.assert_close(same(x), model(x))
    new = qact.convert(model, normaliser="rank", where="blocks.1")
    assert set(new.state_dict()) == set(model.state_dict())
    assert not torch.allclose(new(x), model(x), atol=1e-4)
    converted = qact.summary(new).converted
    assert [(row.name, row.was, row.now) for row in converted] == [
        ("blocks.1.attn.normaliser", "softmax", "rank")
    ]
    left = {row.name: row.note for row in qact.summary(new).left}
    assert left["blocks.0.attn"] == "not asked for"
    twin = pickle.loads(pickle.dumps(new))
    torch.testing.assert_close(twin(x), new(x))
    # Activations can follow: one conversion does not undo the other.
    both = qact.convert(new, example_inputs=x)
    assert {row.now for row in qact.summary(both).converted} == {"rank", "QAct"}


def test_timms_masks():
    block = timm.layers.Attention(12, 3).eval()
    new, x = qact.convert(block, normaliser="softmax"), torch.randn(2, 5, 12)
    keep = (torch.rand(2, 1, 5, 5) > 0.5) | torch.eye(5, dtype=torch.bool)
    torch.testing.assert_close(new(x, attn_mask=keep), block(x, attn_mask=keep))
    torch.testing.assert_close(new(x, is_causal=True), block(x, is_causal=True))


def test_windows_with_finite_masks_are_left_with_the_reason():
    sizes = {"patch_size": 2, "window_size": 2, "embed_dim": 8, "depths": (1,), "num_heads": (2,)}
    model = timm.models.SwinTransformer(img_size=8, num_classes=2, **sizes)
    with pytest.raises(ValueError, match=r"WindowAttention masks by -100 in the scores"):
        qact.convert(model, normaliser="relu")


SMALL = {"hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 20}
SMALL |= {"initializer_range": 0.5}  # scores of the size that they have in trained networks


def language_models() -> list[nn.Module]:
    return [
        BertModel(BertConfig(**SMALL, intermediate_size=24, max_position_embeddings=16)),
        LlamaModel(LlamaConfig(**SMALL, intermediate_size=24, num_key_value_heads=2)),
        GPT2LMHeadModel(
            GPT2Config(
                n_embd=16, n_head=4, n_layer=2, vocab_size=20, n_positions=16, initializer_range=0.5
            )
        ),
    ]


@pytest.mark.parametrize("which", range(3), ids=["bert", "llama", "gpt2"])
def test_transformers(which):
    model = language_models()[which].eval()
    tokens = torch.randint(0, 20, (2, 6))
    seen = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    inputs = {"input_ids": tokens, "attention_mask": seen}
    same = qact.convert(model, normaliser="softmax", example_inputs=inputs)
    with torch.no_grad():
        got, wanted = (m(**inputs)[0][seen.bool()] for m in (same, model))
        torch.testing.assert_close(got, wanted)
        new = qact.convert(model, normaliser="entmax_learnt")
        other = new(**inputs)[0]
        assert not torch.allclose(other[seen.bool()], wanted, atol=1e-4)
        # What is masked is not read.
        moved = tokens.masked_fill(seen == 0, 3)
        again = new(**inputs | {"input_ids": moved})[0]
        torch.testing.assert_close(again[seen.bool()], other[seen.bool()])
        torch.testing.assert_close(model(**inputs)[0][seen.bool()], wanted)  # the model stayed
    rows = qact.summary(new).converted
    assert [row.now for row in rows] == ["entmax_learnt"] * 2
    assert sum("normaliser" in name for name in new.state_dict()) == 2


def test_transformers_in_part_and_generating():
    model = language_models()[2].eval()
    new = qact.convert(model, normaliser="softmax", where="transformer.h.0.*")
    tokens = torch.randint(0, 20, (1, 4))
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(new.generate(tokens, **options), model.generate(tokens, **options))


def test_warm_start_finds_the_temperature():
    """`ssmax` is softmax where `s = 1/log n`: all rows have the same number of keys here."""
    model, x = vit(), torch.randn(16, 3, 8, 8)
    cold = qact.convert(model, normaliser="ssmax")
    new = qact.convert(model, normaliser="ssmax", warm_start=x)
    for block in new.blocks:
        want = torch.full((3,), 1 / torch.tensor(5.0).log())
        torch.testing.assert_close(block.attn.normaliser.map.s, want, rtol=0.02, atol=0)
    off, far = ((m(x) - model(x)).square().mean() for m in (new, cold))
    assert off < 0.01 * far
    assert all(row.note.startswith("fits ") for row in qact.summary(new).converted)


def test_warm_start_sharpens_ranks():
    layer = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    with torch.no_grad():
        layer.in_proj_weight *= 4
    x = torch.randn(8, 12, 8)
    want = layer(x, x, x, average_attn_weights=False)[1]
    cold = qact.convert(layer, normaliser="rank")
    new = qact.convert(
        layer, normaliser="rank", warm_start=[dict.fromkeys(("query", "key", "value"), x)]
    )
    off, far = (
        (m(x, x, x, average_attn_weights=False)[1] - want).square().mean() for m in (new, cold)
    )
    assert off <= far


class Own(nn.Module):
    """A user's attention, in two spellings."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.heads, self.spelling, self.qkv = 2, spelling, nn.Linear(8, 24)


class Method(Own):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1)) / 2
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -1e9)
        return scores.softmax(dim=-1) @ v


class Function(Own):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def test_a_users_attention_in_either_spelling():
    one, two = Method("method"), Function("function")
    two.load_state_dict(one.state_dict())
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(one(x), two(x))
    for name in ("softmax", "sigmoid", "rank"):
        a, b = (qact.convert(m, normaliser=name) for m in (one, two))
        torch.testing.assert_close(a(x), b(x))
        torch.testing.assert_close(a(x)[:, :, :1], b(x[:, :1].expand(-1, 5, -1))[:, :, :1])
    torch.testing.assert_close(qact.convert(one, normaliser="softmax")(x), one(x))


class Branches(Own):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        if self.training:
            w = F.softmax(q @ k.transpose(-2, -1), dim=-1, dtype=torch.float32)
        elif self.spelling:
            w = torch.softmax(q @ k.transpose(-2, -1), -1)
        else:
            w = (q @ k.transpose(-2, -1)).softmax(3)
        return w @ v


def test_one_softmax_in_each_branch():
    model, x = Branches("x"), torch.randn(3, 5, 8)
    new = qact.convert(model, normaliser="entmax15")
    wanted = new.train()(x)
    torch.testing.assert_close(new.eval()(x), wanted)
    assert not torch.allclose(model(x), wanted, atol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", [None, "boolean", "additive"])
def test_attend_is_torchs_fused_attention(causal, mask):
    q, k, v = torch.randn(2, 4, 5, 6), torch.randn(2, 2, 7, 6), torch.randn(2, 2, 7, 3)
    given = None
    if mask is not None and not causal:  # torch takes one of the two
        given = torch.rand(2, 1, 5, 7) > 0.4
        given[..., 0] = True
        given = given if mask == "boolean" else torch.randn(5, 7)
    options = {"attn_mask": given, "is_causal": causal, "scale": 0.7, "enable_gqa": True}
    got = attention.Normaliser(4).attend(q, k, v, **options)
    torch.testing.assert_close(got, F.scaled_dot_product_attention(q, k, v, **options))


def test_soft_caps_and_sinks_of_transformers():
    layer = nn.Module()
    q = torch.randn(2, 4, 5, 6)
    out, w = attend(layer, q, q, q, None, scaling=1.0, softcap=2.0)
    want = torch.softmax(2 * torch.tanh(q @ q.mT / 2), -1)
    torch.testing.assert_close(w, want)
    torch.testing.assert_close(out, (want @ q).transpose(1, 2))
    with pytest.raises(ValueError, match="a learnt sink"):
        attend(layer, q, q, q, None, s_aux=torch.zeros(4))


class Twice(Own):
    def forward(self, x: Tensor) -> Tensor:
        return self.qkv(x).softmax(-1).softmax(-1)


class Sideways(Own):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.qkv(x), 1)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: qact.convert(nn.Linear(2, 2), normaliser="relu"), ValueError, "has no attention"),
        (lambda: qact.convert(vit(), normaliser="entmx15"), ValueError, "did you mean 'entmax15'"),
        (lambda: qact.convert(vit(), normaliser=3), TypeError, "a name or a module"),
        (lambda: qact.convert(vit(), "golu", normaliser="relu"), ValueError, "two conversions"),
        (lambda: qact.convert(vit(), normaliser="relu", where="head"), ValueError, "chooses no"),
        (lambda: qact.convert(vit(), normaliser="entmax", alpha=0.5), ValueError, "at least 1"),
        (lambda: qact.convert(vit(), normaliser="context_rank"), ValueError, "needs num_classes"),
        (lambda: qact.convert(Twice("x"), normaliser="relu"), ValueError, "softmax 2 times"),
        (lambda: qact.convert(Sideways("x"), normaliser="relu"), ValueError, "another dimension"),
    ],
)
def test_errors(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_our_own_attention_takes_maps_and_forms():
    layer, x = attention.Attention(8, 2, causal=True), torch.randn(2, 5, 8)
    for name in ("entmax15", "elu"):
        new = qact.convert(layer, normaliser=name)
        other = attention.Attention(8, 2, name, causal=True)
        other.load_state_dict(new.state_dict())
        torch.testing.assert_close(new(x), other(x))
    assert qact.summary(new).converted[0].now == "Elu"


def test_contexts_and_diagnosis_of_a_converted_network():
    model, x = vit(), torch.randn(8, 3, 8, 8)
    new = qact.convert(model, normaliser="softmax")
    report = attention.diagnose(new, [x])
    assert [layer.name for layer in report.layers] == ["blocks.0.attn", "blocks.1.attn"]
    qact.record(new, [x], where=attention.Scores)
    assert "blocks.1.attn.normaliser.scores" in str(qact.drift(new, [3 * x]))


def test_a_class_of_its_own_is_left():
    class Mine(nn.MultiheadAttention):
        pass

    model = nn.ModuleDict({"a": Mine(8, 2), "b": nn.MultiheadAttention(8, 2)})
    new = qact.convert(model, normaliser="relu")
    assert type(new["b"]) is MultiheadAttention
    assert [(r.name, r.note) for r in qact.summary(new).left] == [
        ("a", "a MultiheadAttention of a class of its own")
    ]


def test_converted_networks_compile_whole_and_are_exported(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    for model, x, name in (
        (layer, torch.randn(2, 5, 8), "entmax15"),
        (vit(), torch.randn(2, 3, 8, 8), "rank"),
    ):
        torch._dynamo.reset()
        new = qact.convert(model, normaliser=name)
        wanted = new(x).detach()
        torch.testing.assert_close(
            torch.compile(new, fullgraph=True, backend="aot_eager")(x), wanted
        )
    path = str(tmp_path / "vit.onnx")
    torch.onnx.export(new, (x,), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path)
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(got), wanted, rtol=0, atol=1e-5)
