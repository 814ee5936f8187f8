"""torch's fused transformer layers in eval(): conversion, recording and hooks go past them."""

from __future__ import annotations

import copy
import itertools
import warnings

import pytest
import torch
from torch import nn

import qact
from qact.surgery import hooking

WIDTH = 8
X = torch.randn(4, 6, WIDTH, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([6, 4, 2, 1])
PADDED = torch.arange(6)[None] >= LENGTHS[:, None]


def encoder(activation="relu", norm_first=False, nested=True, heads=2) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    options = {"batch_first": True, "norm_first": norm_first, "dropout": 0.0}
    layer = nn.TransformerEncoderLayer(WIDTH, heads, 16, activation=activation, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says why it will not pack
        return nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested).eval()


def answer(model: nn.Module, grad: str, *inputs, **named) -> torch.Tensor:
    mode = {"grad": torch.enable_grad, "none": torch.no_grad, "inference": torch.inference_mode}
    with mode[grad]():
        return model(*(inputs or (X,)), **named).clone()


MODES = ["grad", "none", "inference"]


@pytest.mark.parametrize("grad", MODES)
@pytest.mark.parametrize(
    ("norm_first", "nested", "heads"), list(itertools.product([False, True], [False, True], [1, 2]))
)
def test_a_padded_encoder_is_the_one_built_with_that_activation(grad, norm_first, nested, heads):
    # Built with a module of ours, torch itself keeps to the plain way.
    built = encoder(qact.activation("golu"), norm_first, False, heads)
    for example in ({"src": X}, {"src": X, "src_key_padding_mask": PADDED}, None):
        made = qact.convert(
            encoder("gelu", norm_first, nested, heads), "golu", example_inputs=example
        )
        for model in (made, copy.deepcopy(made)):
            found = answer(model, grad, src_key_padding_mask=PADDED)
            wanted = answer(built, grad, src_key_padding_mask=PADDED)
            torch.testing.assert_close(found[~PADDED], wanted[~PADDED])
            torch.testing.assert_close(answer(model, grad), answer(built, grad))


@pytest.mark.parametrize("grad", MODES)
@pytest.mark.parametrize("activation", ["relu", "gelu", nn.ReLU(), torch.nn.functional.gelu])
def test_a_padded_encoder_with_qact_adapts_and_saves(grad, activation):
    inputs = {"src": X, "src_key_padding_mask": PADDED}
    model = qact.convert(encoder(activation), warm_start=[inputs])
    plain = answer(model, grad, src_key_padding_mask=PADDED)
    assert plain.isfinite().all()
    assert not torch.equal(plain, answer(encoder(activation), grad, src_key_padding_mask=PADDED))
    with qact.adapting(model, "batch"):
        assert answer(model, grad, src_key_padding_mask=PADDED).isfinite().all()
    twin = qact.convert(encoder(activation), example_inputs=X)
    twin.load_state_dict(model.state_dict())
    torch.testing.assert_close(answer(twin, grad, src_key_padding_mask=PADDED), plain)


def test_the_model_that_was_copied_packs_as_before():
    model = encoder()
    qact.convert(model, example_inputs=X)
    assert model.use_nested_tensor
    assert model.layers[0].activation_relu_or_gelu == 1
    with pytest.raises(ValueError, match="does not run"):
        qact.convert_(model, example_inputs=torch.randn(2, 3))
    assert model.use_nested_tensor
    assert model.layers[0].activation_relu_or_gelu == 1


def test_a_part_that_is_converted_alone_says_what_to_do():
    model = encoder()
    qact.convert_(model.layers[1], warm_start=X)
    with torch.no_grad(), pytest.raises(TypeError, match="use_nested_tensor = False"):
        model(X, src_key_padding_mask=PADDED)
    model.use_nested_tensor = False
    with torch.no_grad():
        assert model(X, src_key_padding_mask=PADDED).isfinite().all()


@pytest.mark.parametrize("grad", MODES)
def test_recording_and_recalibrating_go_past_the_fused_layers(grad):
    loader = [{"src": X, "src_key_padding_mask": PADDED}, ((X, None, PADDED), 0)]
    model, plain = encoder(), encoder(nested=False)
    qact.record(model, loader)
    qact.record(plain, loader)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)
    shifted = 2 * X + 1
    with qact.recalibrated(model, "mixed"), qact.recalibrated(plain, "mixed"):
        found = answer(model, grad, shifted, src_key_padding_mask=PADDED)
        wanted = answer(plain, grad, shifted, src_key_padding_mask=PADDED)
    torch.testing.assert_close(found[~PADDED], wanted[~PADDED])
    assert model.use_nested_tensor
    packed = answer(model, "none", src_key_padding_mask=PADDED)
    assert not packed[PADDED].any()  # torch packs again


def test_hooks_are_called_inside_a_padded_encoder():
    model, shapes = encoder(), []
    with torch.no_grad(), hooking(model) as hooks:
        for layer in model.layers:
            note = lambda m, args, output: shapes.append(tuple(output.shape))  # noqa: E731
            hooks.enter_context(layer.linear1.register_forward_hook(note))
        model(X, src_key_padding_mask=PADDED)
    assert shapes == [(4, 6, 16)] * 2


def with_golu(model: nn.Module) -> nn.Module:
    """``model`` with its activations set by hand, layer by layer, and nothing fused."""
    for module in model.modules():
        if hasattr(module, "activation"):
            module.activation = qact.activation("golu")
            module.activation_relu_or_gelu = 0
        if hasattr(module, "use_nested_tensor"):
            module.use_nested_tensor = False
    return model


def built(kind: type[nn.Module], act, batch_first: bool) -> nn.Module:
    torch.manual_seed(0)
    options = {"batch_first": batch_first, "dropout": 0.0, "dim_feedforward": 16, "activation": act}
    if kind is nn.Transformer:
        return kind(WIDTH, 2, 2, 2, **options).eval()
    layer = kind(WIDTH, 2, **options).eval()
    return layer if kind is nn.TransformerEncoderLayer else nn.TransformerDecoder(layer, 2).eval()


CASES = {
    nn.TransformerEncoderLayer: ((X,), ("src_key_padding_mask",)),
    nn.TransformerDecoderLayer: ((X, X), ("memory_key_padding_mask",)),
    nn.Transformer: ((X, X), ("src_key_padding_mask", "memory_key_padding_mask")),
}


@pytest.mark.parametrize("grad", MODES)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("act", ["gelu", "relu"])
def test_a_layer_alone_a_decoder_and_a_transformer(kind, act, grad, batch_first, tmp_path):
    inputs, masks = CASES[kind]
    mask = PADDED if batch_first else torch.zeros(6, 4, dtype=torch.bool)
    old = built(kind, act, batch_first)
    wanted = with_golu(copy.deepcopy(old))
    made = qact.convert(old, "golu", example_inputs=inputs)
    torch.save(made, tmp_path / "model.pt")
    again = qact.convert(qact.convert(old, "mish", example_inputs=inputs), "golu", where="*")
    read = torch.load(tmp_path / "model.pt", weights_only=False)
    for model in (made, copy.deepcopy(made), copy.deepcopy(copy.deepcopy(made)), read, again):
        for named in ({}, dict.fromkeys(masks, mask)):
            found, right = (
                answer(model, grad, *inputs, **named),
                answer(wanted, grad, *inputs, **named),
            )
            keep = ~PADDED if named and batch_first and len(inputs) == 1 else ...
            torch.testing.assert_close(found[keep], right[keep])


def test_a_decoder_with_a_module_of_torch_is_converted_as_it_computes():
    # torch's copies of a decoder layer compute F.relu, whatever module it was built with.
    layer = nn.TransformerDecoderLayer(WIDTH, 2, 16, dropout=0.0, activation=nn.GELU()).eval()
    made = qact.convert(layer, "golu", example_inputs=(X, X))
    torch.testing.assert_close(made(X, X), with_golu(layer)(X, X))


@pytest.mark.parametrize("grad", MODES)
def test_attention_beside_an_activation_keeps_its_fused_way(grad):
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
            self.act = nn.GELU()

        def forward(self, x, mask=None):
            return self.act(x + self.attention(x, x, x, key_padding_mask=mask)[0])

    model = Block().eval()
    made = qact.convert(model, "golu", example_inputs=(X, PADDED))
    found = answer(made, grad, X, PADDED)
    attended = X + model.attention(X, X, X, key_padding_mask=PADDED)[0]
    torch.testing.assert_close(found, qact.activation("golu")(attended))
