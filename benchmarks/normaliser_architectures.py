"""Convert the attention of architectures of timm, torchvision and transformers; compare outputs.

    python benchmarks/normaliser_architectures.py     # writes the table of docs/attention.md

Each network has random weights and a small input, in float64. With softmax in its new place it must
give what it gave; with ReLU in the place of softmax it must give something else. What cannot be
converted is listed with the reason.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import qact
from qact.conversion.attention import survey
from torchvision_schemas import import_torchvision

PAGE = Path(__file__).parents[1] / "docs" / "attention.md"
MARKS = "<!-- architectures -->\n\n", "\n\n<!-- /architectures -->"
SIDED = (
    *("vit_tiny_patch16_224", "deit3_small_patch16_224", "beit_base_patch16_224"),
    *("vit_small_patch16_dinov3", "cait_xxs24_224", "xcit_nano_12_p16_224", "maxvit_tiny_tf_224"),
    *("mvitv2_tiny", "twins_pcpvt_small", "coat_tiny", "swin_tiny_patch4_window7_224"),
    "swinv2_cr_tiny_224",
)
TIMM: dict[str, dict[str, int]] = {name: {"img_size": 64} for name in SIDED}
TIMM |= {"eva02_tiny_patch14_224": {"img_size": 56}}
TIMM |= {name: {} for name in ("pvt_v2_b0", "davit_tiny", "levit_128s")}
USUAL = {"hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2}
USUAL |= {"vocab_size": 20, "intermediate_size": 24}
GROUPED = {"num_key_value_heads": 2}
T5 = {"vocab_size": 20, "d_model": 16, "d_kv": 4, "num_heads": 4, "num_layers": 2, "d_ff": 24}
BART = {"vocab_size": 20, "d_model": 16, "max_position_embeddings": 16} | {
    f"{part}_{what}": value
    for part in ("encoder", "decoder")
    for what, value in (("layers", 1), ("attention_heads", 4), ("ffn_dim", 24))
}
CONV = {"conv_dim": (8,), "conv_stride": (4,), "conv_kernel": (4,)}
CONV |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
TRANSFORMERS = {
    "Bert": USUAL,
    "Roberta": USUAL,
    "Electra": USUAL | {"embedding_size": 16},
    "DistilBert": {"vocab_size": 20, "dim": 16, "n_heads": 4, "n_layers": 2, "hidden_dim": 24},
    "DebertaV2": USUAL,
    "T5": T5,
    "Bart": BART,
    "GPT2": {"n_embd": 16, "n_head": 4, "n_layer": 2, "vocab_size": 20},
    "GPTNeoX": USUAL,
    "Llama": USUAL | GROUPED,
    "Mistral": USUAL | GROUPED | {"sliding_window": 3},
    "Qwen3": USUAL | GROUPED | {"head_dim": 4},
    "Gemma2": USUAL | GROUPED | {"head_dim": 4, "sliding_window": 3},
    "ViT": USUAL | {"image_size": 64},
    "Wav2Vec2": USUAL | CONV,
}


def networks() -> Iterator[tuple[str, Callable[[], nn.Module], dict[str, Tensor]]]:
    """Name, maker and arguments of every network."""
    import_torchvision()
    import timm
    import torchvision
    import transformers

    for name, options in TIMM.items():
        side = options.get("img_size", 224 if name == "levit_128s" else 64)
        images = {"x": torch.randn(1, 3, side, side)}
        yield f"timm/{name}", lambda n=name, o=options: timm.create_model(n, **o), images
    images = {"x": torch.randn(1, 3, 64, 64)}
    vision = torchvision.models
    yield "torchvision/vit", lambda: vision.VisionTransformer(64, 16, 2, 4, 32, 64), images
    window = ([4, 4], 16, [1, 1], [2, 2], [4, 4])
    yield "torchvision/swin", lambda: vision.swin_transformer.SwinTransformer(*window), images
    tokens = {"input_ids": torch.randint(0, 20, (2, 6)), "attention_mask": torch.ones(2, 6).long()}
    tokens["attention_mask"][1, 4:] = 0
    others = {
        "T5": tokens | {"decoder_input_ids": tokens["input_ids"]},
        "ViT": {"pixel_values": images["x"]},
        "Wav2Vec2": {"input_values": torch.randn(1, 64)},
    }
    for name, options in TRANSFORMERS.items():
        kind = getattr(transformers, f"{name}Model")
        config = getattr(transformers, f"{name}Config")
        make = lambda kind=kind, config=config, options=options: kind(config(**options))  # noqa: E731
        yield f"transformers/{name}", make, others.get(name, tokens)


def output(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """What it gives for all that is not masked."""
    given = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    with torch.no_grad():
        found = model(given["x"]) if "x" in given else model(**given)
    found = found if isinstance(found, Tensor) else found[0]
    return found[given["attention_mask"].bool()] if "attention_mask" in given else found


def row(name: str, make: Callable[[], nn.Module], inputs: dict[str, Tensor]) -> str:
    torch.manual_seed(0)
    model: Any = make().double().eval()
    for parameter in model.parameters():  # some heads start at 0 and would hide everything
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    places, left = survey(model)
    whys = "; ".join(sorted({f"`{kind}` {why}" for _, kind, why in left}))
    if not places:
        return f"| `{name}` | 0 | – | – | {whys} |"
    was = output(model, inputs)
    same, other = (
        (output(qact.convert(model, normaliser=n), inputs) - was).abs().max() / was.abs().max()
        for n in ("softmax", "relu")
    )
    return f"| `{name}` | {len(places)} | {same:.0e} | {other:.0e} | {whys} |"


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    heads = ("network", "converted", "softmax differs by", "ReLU by", "left")
    lines = ["| " + " | ".join(heads) + " |", "|---|---:|---:|---:|---|"]
    for network in networks():
        lines.append(row(*network))
        print(lines[-1], flush=True)
    head, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
    tail = rest.split(MARKS[1])[1]
    PAGE.write_text(head + MARKS[0] + "\n".join(lines) + MARKS[1] + tail, encoding="utf-8")


if __name__ == "__main__":
    main()
