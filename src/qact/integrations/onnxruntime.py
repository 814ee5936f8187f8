"""onnxruntime's static quantisation with contexts as its calibration data: no pass of its own.

onnxruntime runs a model over calibration data to see the range of each tensor. Contexts know the
ranges already, from any pass that PyTorch makes: :func:`observe` counts at the places of the model
that the tensors of its exported file are, and :func:`quantise_static` hands the ranges over as
onnxruntime's own calibration cache.

Needs the extra ``onnx``, with onnxruntime 1.32 or later.
"""

from __future__ import annotations

import ast
import inspect
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from qact import checks, extras
from qact.context import Context
from qact.surgery import batches as batches_of
from qact.surgery import call, evaluating, inner
from qact.taps import clip_range, tap
from qact.taps.observe import BINS
from qact.taps.quantise import CLIPS

with extras.needed("qact.integrations.onnxruntime", "onnx"):
    import onnx
    import onnxruntime
    from onnxruntime import quantization
    from onnxruntime.quantization import calibrate

SCOPES, RULE = "pkg.torch.onnx.name_scopes", "pkg.onnxscript.rewriter.rule_name"
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
Where = tuple[str, str]  # the name of a module, and "output" or "input"


def tensors(source: str | Path) -> dict[str, Where]:
    """Say of the tensors of an exported model which place of the model they are.

    A tensor that leaves a module is its output; one that only enters modules, such as a sum, is an
    input. What never crosses a module's border has no place. Read from the module names that
    ``torch.onnx.export(..., dynamo=True)`` leaves at each node.

    Args:
        source: the exported file.

    Returns:
        Names of modules, and ``"output"`` or ``"input"``, by the names of tensors.

    Raises:
        ValueError: the file has no names of modules.
    """
    graph = onnx.load(str(source), load_external_data=False).graph
    paths = [_path(node) for node in graph.node]
    if not any(paths):
        raise ValueError(f"{source} has no names of modules: torch.onnx.export(..., dynamo=True)")
    weights = {tensor.name for tensor in graph.initializer}
    makers = {name: path for node, path in zip(graph.node, paths, strict=True)
              for name in node.output}  # fmt: skip
    readers: dict[str, list[list[str]]] = defaultdict(list)
    for tensor in graph.output:
        readers[tensor.name].append([])
    for node, path in zip(graph.node, paths, strict=True):
        for name in node.input:
            if name not in weights:
                readers[name].append(_entered(node, path))
    leaving, entering = _borders(makers, readers)
    found: dict[str, Where] = {}
    for name in [tensor.name for tensor in graph.input] + list(makers):
        out = [m for m in reversed(makers.get(name, ())) if leaving[m] == {name}]
        into = [m for path in readers[name] for m in reversed(path) if entering[m] == {name}]
        if out or into:
            found[name] = (out[0], "output") if out else (into[0], "input")
    return found


Readers = Mapping[str, list[list[str]]]


def _borders(makers: Mapping[str, list[str]], readers: Readers) -> tuple[Any, Any]:
    """By module, the tensors that leave it and those that enter it."""
    leaving: dict[str, set[str]] = defaultdict(set)
    entering: dict[str, set[str]] = defaultdict(set)
    for name, paths in readers.items():
        made = makers.get(name, [])
        for path in paths:
            for module in set(made) - set(path):
                leaving[module].add(name)
            for module in set(path) - set(made):
                entering[module].add(name)
    return leaving, entering


def _path(node: Any) -> list[str]:
    """The modules around a node, from the outside; of a fused one those of its last part."""
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            return [name for name in ast.literal_eval(entry.value)[:-1] if name]
    return []


def _entered(node: Any, path: list[str]) -> list[str]:
    """The modules that a node's inputs enter: a fused node begins where its weights are at home."""
    if not any(entry.key == RULE and "Fuse" in entry.value for entry in node.metadata_props):
        return path
    home = node.input[1].rpartition(".")[0] if len(node.input) > 1 else ""
    return [*path[:-1], home] if home else path[:-1]


class Observed(Mapping[str, Context]):
    """Contexts by the names of an exported model's tensors, counted within blocks; see observe."""

    def __init__(self, model: nn.Module, found: Mapping[str, Where], **options: Any) -> None:
        self._model, self._found = model, dict(found)
        self._blocks = {}
        for side in ("output", "input"):
            names = list(dict.fromkeys(n for n, given in found.values() if given == side))
            if names:
                self._blocks[side] = tap(model, names, side=side).observe(**options)
        self._open = ExitStack()

    def __enter__(self) -> Observed:
        with ExitStack() as stack:
            for block in self._blocks.values():
                stack.enter_context(block)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def run(self, batches: Any) -> Observed:
        """Count a pass over batches, in ``eval()``; return self."""
        with self, evaluating(self._model), torch.no_grad():
            for batch in batches_of(batches):
                call(self._model, batch)
        return self

    def __getitem__(self, tensor: str) -> Context:
        name, side = self._found[tensor]
        return self._blocks[side][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def observe(
    model: nn.Module, source: str | Path, *, bins: int = BINS, sample: int | None = None
) -> Observed:
    """Count, within a block, what passes the places that the tensors of an exported model are.

    Any pass will do: an evaluation, the last epoch of a training in ``eval()``, or
    :meth:`Observed.run`.

    Args:
        model: that was exported, or one with the same names.
        source: the exported file.
        bins: resolution of the contexts, of each channel.
        sample: at most so many positions of each image; None counts all.

    Raises:
        ValueError: the file has no names of modules, or ``model`` lacks one of them.
    """
    known = dict(inner(model).named_modules())
    found = {tensor: at for tensor, at in tensors(source).items() if at[0] in known}
    if not found:
        raise ValueError(f"no tensor of {source} is a place of {type(model).__name__}")
    return Observed(model, found, bins=bins, sample=sample)


def quantise_static(
    source: str | Path,
    goal: str | Path,
    contexts: Mapping[str, Context],
    *,
    clip: str = "mse",
    bits: int = 8,
    share: float = 0.9999,
    op_types: Iterable[str] | None = None,
    **options: Any,
) -> tuple[str, ...]:
    """Write an exported model in integers, its ranges read off contexts: ``quantize_static``.

    No data is needed, and no pass over the model. A node one of whose tensors has no context stays
    in float.

    Args:
        source: the exported file.
        goal: the file to write.
        contexts: by the names of tensors, as :func:`observe` counts them.
        clip: how a range is chosen, see :func:`qact.taps.clip_range`: onnxruntime's entropy is
            ``"kl"``, its percentile ``"quantile"``, its min-max ``"minmax"``.
        bits: for which a range is chosen.
        share: of the values, by ``"quantile"``.
        op_types: kinds of nodes to quantise; None is all that onnxruntime can.
        **options: of ``onnxruntime.quantization.quantize_static``.

    Returns:
        The names of the nodes that stay in float for want of a context.

    Raises:
        ValueError: ``clip`` is unknown, or no node can be quantised. RuntimeError: onnxruntime is
            too old to read ranges, or a context has seen no data.
    """
    checks.choice("clip", clip, CLIPS)
    if "calibration_cache_path" not in inspect.signature(quantization.quantize_static).parameters:
        raise RuntimeError(
            f"onnxruntime {onnxruntime.__version__} reads no calibration cache; install 1.32"
        )
    kinds = set(op_types or (*quantization.registry.QLinearOpsRegistry,
                             *quantization.registry.QDQRegistry))  # fmt: skip
    ready, left, needed = _split(source, kinds, set(contexts))
    if not ready:
        raise ValueError(f"no node of {source} has contexts for all of its tensors")
    ranges = {}
    for name in needed:
        low, high = clip_range(contexts[name], bits, clip, share)
        ranges[name] = calibrate.TensorData(lowest=np.float32(low), highest=np.float32(high))
    method = quantization.CalibrationMethod.MinMax
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "ranges.json"
        calibrate.save_tensors_data(calibrate.TensorsData(method, ranges), cache)
        quantization.quantize_static(
            str(source), str(goal), op_types_to_quantize=sorted(kinds), nodes_to_exclude=left,
            calibration_cache_path=cache, calibrate_method=method, **options,
        )  # fmt: skip
    return tuple(left)


def _split(
    source: str | Path, kinds: set[str], known: set[str]
) -> tuple[list[str], list[str], list[str]]:
    """The nodes of these kinds that have all contexts and those that have not; their tensors."""
    model = onnx.shape_inference.infer_shapes(onnx.load(str(source), load_external_data=False))
    graph = model.graph
    values = [*graph.value_info, *graph.input, *graph.output]
    floats = {v.name for v in values if v.type.tensor_type.elem_type in FLOATS}
    floats -= {tensor.name for tensor in graph.initializer}
    ready, left, needed = [], [], {}
    for node in graph.node:
        if node.op_type in kinds:
            own = [name for name in (*node.input, *node.output) if name in floats]
            if known.issuperset(own):
                ready.append(node.name)
                needed.update(dict.fromkeys(own))
            else:
                left.append(node.name)
    return ready, left, list(needed)
