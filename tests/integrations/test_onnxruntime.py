"""Ranges for onnxruntime from contexts: its own calibrator and its own values are the oracle."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
from onnxruntime.quantization import CalibrationDataReader, calibrate  # noqa: E402

from qact.integrations import onnxruntime as ours  # noqa: E402
from qact.taps import clip_range, tap  # noqa: E402

if not hasattr(calibrate, "save_tensors_data"):
    pytest.skip("this onnxruntime reads no calibration cache", allow_module_level=True)


class Residual(nn.Module):
    """Convolution, norm, a sum that is no module, pooling, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(2, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU()
        )
        self.conv, self.norm, self.act = nn.Conv2d(6, 6, 3, 1, 1), nn.BatchNorm2d(6), nn.ReLU()
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.pool(self.act(self.norm(self.conv(x)) + x)).flatten(1))


class Reader(CalibrationDataReader):
    def __init__(self, batches):
        self.batches = iter([{"x": batch.numpy()} for batch in batches])

    def get_next(self):
        return next(self.batches, None)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    model, x = Residual(), 2 * torch.randn(64, 2, 8, 8) + 1
    model(x)
    model.eval()
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (x[:2],), str(path), dynamo=True, verbose=False, external_data=False,
            dynamic_shapes=shapes,
        )  # fmt: skip
    return model, x, path


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def outputs_of(path, x, names):
    """What onnxruntime computes for tensors inside a model."""
    model = onnx.load(str(path))
    known = {value.name for value in model.graph.output}
    for name in names - known:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    found = session(model.SerializeToString())
    return dict(
        zip((o.name for o in found.get_outputs()), found.run(None, {"x": x.numpy()}), strict=True)
    )


def test_each_tensor_is_what_passes_its_place(exported):
    model, x, path = exported
    found = ours.tensors(path)
    assert found["x"] == ("stem.0", "input")  # its convolution is fused with the norm behind it
    assert {("act", "input"), ("norm", "output"), ("head", "input"), ("head", "output")} <= set(
        found.values()
    )
    inside = outputs_of(path, x, set(found) - {"x"})
    for tensor, (name, side) in found.items():
        with torch.no_grad(), tap(model, name, side=side) as seen:
            model(x)
        right = x.numpy() if tensor == "x" else inside[tensor]
        assert np.allclose(seen[name].numpy(), right, atol=1e-5), tensor


def test_min_max_is_onnxruntimes_own(exported, tmp_path):
    model, x, path = exported
    contexts = ours.observe(model, path).run(x.split(16))
    theirs = calibrate.create_calibrator(path, augmented_model_path=str(tmp_path / "a.onnx"))
    theirs.collect_data(Reader(x.split(16)))
    ranges = theirs.compute_data()
    assert set(ranges.keys()) == set(contexts)
    for tensor, data in ranges.items():
        low, high = (float(end.item()) for end in data.range_value)
        found = clip_range(contexts[tensor], 8, "minmax")
        assert found == pytest.approx((low, high), abs=0.01 * (high - low)), tensor


@pytest.mark.parametrize("clip", ["minmax", "quantile", "mse"])
def test_eight_bits_cost_little_and_no_session_is_opened(exported, tmp_path, monkeypatch, clip):
    model, x, path = exported
    contexts = ours.observe(model, path).run(x)
    with monkeypatch.context() as patched:
        patched.setattr(onnxruntime, "InferenceSession", None)  # a pass over data would need one
        left = ours.quantise_static(
            path, tmp_path / "q.onnx", contexts, clip=clip, per_channel=True
        )
    assert left == ()
    kinds = {node.op_type for node in onnx.load(str(tmp_path / "q.onnx")).graph.node}
    assert "QuantizeLinear" in kinds
    with torch.no_grad():
        right = model(x).numpy()
    got = session(str(tmp_path / "q.onnx")).run(None, {"x": x.numpy()})[0]
    assert 0 < np.abs(got - right).max() < 0.05 * (right.max() - right.min())


def test_scales_are_those_of_the_ranges(exported, tmp_path):
    model, x, path = exported
    contexts = ours.observe(model, path).run(x)
    ours.quantise_static(path, tmp_path / "q.onnx", contexts, clip="mse")
    made = onnx.load(str(tmp_path / "q.onnx")).graph.initializer
    scales = {
        t.name: float(onnx.numpy_helper.to_array(t).max()) for t in made if t.name == "x_scale"
    }
    low, high = clip_range(contexts["x"], 8, "mse")
    assert scales["x_scale"] == pytest.approx((high - low) / 255, rel=1e-5)


def test_what_has_no_context_stays_in_float(exported, tmp_path):
    model, x, path = exported
    contexts = dict(ours.observe(model, path).run(x))
    tensor = next(t for t, at in ours.tensors(path).items() if at == ("head", "output"))
    del contexts[tensor]
    left = ours.quantise_static(path, tmp_path / "q.onnx", contexts, op_types=["Conv", "Gemm"])
    kinds = {node.name: node.op_type for node in onnx.load(str(path)).graph.node}
    assert [kinds[name] for name in left] == ["Gemm"]
    with pytest.raises(ValueError, match="no node of"):
        ours.quantise_static(path, tmp_path / "r.onnx", {})
    assert not (tmp_path / "r.onnx").exists()


def test_blocks_leave_nothing_behind_and_count_any_pass(exported):
    model, x, path = exported
    observed = ours.observe(model, path)
    with pytest.raises(RuntimeError, match="stem"):
        observed["x"]
    with observed, torch.no_grad():
        model(x[:8])
        model(x[8:])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert float(observed["x"].histogram.mass.sum()) == x.numel()
    assert len(observed) == len(list(observed))


def test_refusals(exported, tmp_path, monkeypatch):
    model, _, path = exported
    contexts = ours.observe(model, path)
    with pytest.raises(ValueError, match="clip='best'"):
        ours.quantise_static(path, tmp_path / "q.onnx", contexts, clip="best")
    with pytest.raises(RuntimeError, match="not run"):
        ours.quantise_static(path, tmp_path / "q.onnx", contexts)
    with pytest.raises(ValueError, match="is a place of Linear"):
        ours.observe(nn.Linear(2, 2), path)
    bare = onnx.load(str(path))
    for node in bare.graph.node:
        del node.metadata_props[:]
    onnx.save(bare, str(tmp_path / "bare.onnx"))
    with pytest.raises(ValueError, match="no names of modules"):
        ours.tensors(Path(tmp_path / "bare.onnx"))
    monkeypatch.setattr(ours.quantization, "quantize_static", lambda a, b: None)
    with pytest.raises(RuntimeError, match="reads no calibration cache"):
        ours.quantise_static(path, tmp_path / "q.onnx", contexts)
