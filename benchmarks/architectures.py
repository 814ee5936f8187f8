"""Convert architectures of timm and torchvision to QAct; train a step, evaluate, export, compare.

    python benchmarks/architectures.py                # those that the file does not have yet
    python benchmarks/architectures.py --names timm/resnet18 --again
    python benchmarks/architectures.py --table        # write the table of docs/convert.md alone

Each architecture has random weights, ten classes, the smallest input that it takes, and a process
of its own. A row says how far it came: converted (every hidden activation, none left), trained
(one step of SGD on a random batch: the loss and every gradient are finite), evaluated (a batch of
two gives what its two images give alone, in float64), exported (torch.onnx.export with dynamo,
dynamic batch), agreed (onnxruntime on another batch size; the largest difference over the largest
output is below 1e-4, or below three times that of PyTorch's own float32 from its float64).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import qact
from torchvision_schemas import import_torchvision

DATA = Path(__file__).parent / "data" / "architectures.json"
PAGE = Path(__file__).parents[1] / "docs" / "convert.md"
MARKS = "<!-- architectures -->\n", "<!-- end of architectures -->\n"
STEPS = ("converted", "trained", "evaluated", "exported", "agreed")
TOLERANCE = 1e-4
# A last map of 1x1 makes contexts of as many values; of four, they are steps that amplify rounding.
IMAGES = 16
# library/name: side of the image, and what keeps the model small.
ARCHITECTURES: dict[str, tuple[int, dict[str, Any]]] = {
    "torchvision/alexnet": (64, {}),
    "torchvision/vgg11_bn": (32, {}),
    "torchvision/resnet18": (32, {}),
    "torchvision/resnext50_32x4d": (32, {}),
    "torchvision/densenet121": (32, {}),
    "torchvision/googlenet": (64, {"init_weights": False, "aux_logits": False}),
    "torchvision/inception_v3": (96, {"init_weights": False, "aux_logits": False}),
    "torchvision/squeezenet1_1": (32, {}),
    "torchvision/shufflenet_v2_x0_5": (32, {}),
    "torchvision/mobilenet_v2": (32, {}),
    "torchvision/mobilenet_v3_small": (32, {}),
    "torchvision/mnasnet0_5": (32, {}),
    "torchvision/efficientnet_b0": (32, {}),
    "torchvision/regnet_y_400mf": (32, {}),
    "torchvision/convnext_tiny": (32, {}),
    "torchvision/swin_t": (32, {}),
    "torchvision/vit_b_32": (32, {"image_size": 32}),
    "timm/resnet18": (32, {}),
    "timm/seresnet18": (32, {}),
    "timm/resnetv2_18d": (32, {}),
    "timm/regnetx_002": (32, {}),
    "timm/densenet121": (32, {}),
    "timm/vgg11": (32, {}),
    "timm/dla46x_c": (32, {}),
    "timm/ghostnet_050": (32, {}),
    "timm/mobilenetv3_small_050": (32, {}),
    "timm/efficientnet_lite0": (32, {}),
    "timm/tf_efficientnetv2_b0": (32, {}),
    "timm/mixnet_s": (32, {}),
    "timm/hardcorenas_a": (32, {}),
    "timm/convnext_atto": (32, {}),
    "timm/convnextv2_atto": (32, {}),
    "timm/vit_tiny_patch16_224": (32, {"img_size": 32}),
    "timm/deit_tiny_patch16_224": (32, {"img_size": 32}),
    "timm/swin_tiny_patch4_window7_224": (56, {"img_size": 56}),
    "timm/mixer_s32_224": (64, {"img_size": 64}),
    "timm/gmixer_12_224": (32, {"img_size": 32}),
    "timm/resmlp_12_224": (32, {"img_size": 32}),
    "timm/poolformer_s12": (64, {}),
    "timm/edgenext_xx_small": (64, {}),
    "timm/inception_v3": (96, {}),
    "timm/xception41": (64, {}),
    "timm/repvgg_a0": (32, {}),
}


def build(name: str) -> tuple[nn.Module, int]:
    """A model with random weights, and the side of its images."""
    import_torchvision()
    import timm
    import torchvision

    size, options = ARCHITECTURES[name]
    library, _, model = name.partition("/")
    if library == "timm":
        return timm.create_model(model, pretrained=False, num_classes=10, **options), size
    return torchvision.models.get_model(model, weights=None, num_classes=10, **options), size


def examine(name: str) -> dict[str, Any]:
    """One row: each step with True, False or a number, and why the first failing one failed."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, size = build(name)
    row: dict[str, Any] = {"name": name, "size": size}
    row["parameters"] = sum(p.numel() for p in model.parameters())
    for step, check in _steps(model, torch.randn(IMAGES, 3, size, size)):
        try:
            row |= check()
        except Exception as error:
            why = f"{type(error).__name__}: {_first_line(error)}"
            return row | {step: False, "why": why}
    return row


def _steps(
    model: nn.Module, images: torch.Tensor
) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    held: dict[str, Any] = {}

    def convert() -> dict[str, Any]:
        held["model"] = qact.convert(model, "qact", example_inputs=images)
        seen = qact.summary(held["model"])
        hidden = [row for row in seen.left if "gate" not in row.note]
        assert not hidden, f"left: {hidden}"
        return {"converted": len(seen.converted), "gates": len(seen.left)}

    def train() -> dict[str, Any]:
        new = held["model"].train()
        optimizer = torch.optim.SGD(new.parameters(), lr=1e-3)
        for _ in range(2):  # the second step reads what the first has written
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(_logits(new(images)), torch.arange(len(images)) % 10)
            loss.backward()
            optimizer.step()
        assert loss.isfinite(), f"the loss is {loss}"
        bad = [
            n for n, p in new.named_parameters() if p.grad is None or not p.grad.isfinite().all()
        ]
        assert not bad, f"no finite gradient for {bad[:3]}"
        return {"trained": True}

    def evaluate() -> dict[str, Any]:
        # In float64: random deep networks amplify the rounding of convolutions, which do depend on
        # the size of the batch.
        new, two = copy.deepcopy(held["model"].eval()).double(), images[:2].double()
        with torch.no_grad():
            both, alone = new(two), torch.cat([new(image[None]) for image in two])
        gap = _gap(alone, both)
        assert gap < TOLERANCE, f"two images together differ from each alone by {gap:.1e}"
        return {"evaluated": True}

    def export() -> dict[str, Any]:
        held["path"] = Path(tempfile.mkdtemp()) / "model.onnx"
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.onnx.export(
            held["model"],
            (images[:2],),
            dynamo=True,
            dynamic_shapes=({0: batch},),
            verbose=False,
            optimize=True,
        )
        program.save(str(held["path"]), external_data=False)
        return {"exported": True}

    def agree() -> dict[str, Any]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(held["path"]), options)
        held["path"].unlink()
        held["path"].parent.rmdir()
        given = session.get_inputs()[0].name
        theirs = torch.from_numpy(session.run(None, {given: images[1:4].numpy()})[0])
        with torch.no_grad():
            ours = held["model"](images[1:4])
            exact = copy.deepcopy(held["model"]).double()(images[1:4].double())
        gap, own = _gap(theirs, ours), _gap(ours.double(), exact)
        assert gap < max(TOLERANCE, 3 * own), (
            f"onnxruntime differs by {gap:.1e}, and float32 from float64 by {own:.1e}"
        )
        return {"agreed": gap, "rounding": own}

    return list(zip(STEPS, (convert, train, evaluate, export, agree), strict=True))


def _gap(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference over the largest value."""
    return float((found - wanted).abs().max() / wanted.abs().max())


def _logits(output: Any) -> torch.Tensor:
    """The main output of a model that has auxiliary ones in training."""
    return output if isinstance(output, torch.Tensor) else output[0]


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    failed = [line for line in lines if "No ONNX function" in line or "Error" in line]
    return (failed or lines or [""])[-1 if failed else 0].strip()[:200]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| architecture | image | QAct | gates left | trains | alone = in a batch | ONNX | "
        "onnxruntime differs by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        marks = ["yes" if row.get(step) else "no" for step in STEPS[1:4]]
        gap = f"{row['agreed']:.0e}" if row.get("agreed") not in (None, False) else "no"
        cells = [f"`{row['name']}`", str(row["size"]), str(row.get("converted") or "no")]
        cells += [str(row.get("gates", "")), *marks, gap]
        lines.append(f"| {' | '.join(cells)} |")
    failed = [f"- `{row['name']}`: {row['why']}" for row in rows if "why" in row]
    return "\n".join([*lines, *(["", "What failed:", "", *failed] if failed else [])])


def alone(name: str, limit: int) -> dict[str, Any]:
    """The row of an architecture, from a process of its own."""
    begin = time.monotonic()
    command = [sys.executable, __file__, "--row", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        row = json.loads(lines[-1]) if lines else None
        why = f"the process ended with code {done.returncode}: {done.stderr[-200:]!r}"
    except subprocess.TimeoutExpired:
        row, why = None, f"more than {limit} s"
    size = ARCHITECTURES[name][0]
    row = row or {"name": name, "size": size, "converted": False, "why": why}
    return row | {"seconds": round(time.monotonic() - begin, 1)}


def save(rows: dict[str, dict[str, Any]]) -> None:
    import_torchvision()
    import onnxruntime
    import timm
    import torchvision

    versions = {m.__name__: m.__version__ for m in (torch, torchvision, timm, onnxruntime)}
    kept = [rows[name] for name in ARCHITECTURES if name in rows]
    whole = {"command": "python benchmarks/architectures.py", "versions": versions, "rows": kept}
    part = DATA.with_suffix(".part")
    part.write_text(json.dumps(whole, indent=1) + "\n")
    os.replace(part, DATA)


def write_table() -> None:
    """Put the table of the file into the page, between its marks."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    behind = rest.split(MARKS[1])[1]
    rows = known()
    shown = table(list(rows.values()))
    waiting = [f"`{name}`" for name in ARCHITECTURES if name not in rows]
    if waiting:
        shown += f"\n\nNot run yet: {', '.join(waiting)}."
    PAGE.write_text(f"{before}{MARKS[0]}{shown}\n{MARKS[1]}{behind}", encoding="utf-8")


def known() -> dict[str, dict[str, Any]]:
    if not DATA.exists():
        return {}
    return {row["name"]: row for row in json.loads(DATA.read_text())["rows"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--names", nargs="*", default=list(ARCHITECTURES), help="which of them")
    parser.add_argument("--again", action="store_true", help="measure what the file has too")
    parser.add_argument("--table", action="store_true", help="write the table and stop")
    parser.add_argument("--limit", type=int, default=900, help="seconds per architecture")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(examine(options.row)))
        return
    for name in [] if options.table else options.names:
        if options.again or name not in known():
            row = alone(name, options.limit)
            save(known() | {name: row})  # read again: another run may have added to it
            print(json.dumps(row), flush=True)
    write_table()


if __name__ == "__main__":
    main()
