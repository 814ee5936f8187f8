"""Two processes and one with the joined batch agree: outputs, gradients, running contexts."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import qact
from qact import LazyQAct, NormedQAct, QAct, SyncQAct, convert_sync_
from qact.nn.distributed import SyncChannelNorm

HERE = Path(__file__).parent


def sibling(name: str):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


cases = sibling("cases")
pytestmark = pytest.mark.own_seed  # that of other processes


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What both processes wrote."""
    directory = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, str(HERE / "worker.py")]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    running = [subprocess.Popen([*command, str(r), str(directory)], **pipe) for r in (0, 1)]
    try:
        said = [process.communicate(timeout=900)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], "\n".join(said)
    return [torch.load(directory / f"rank{r}.pt", weights_only=True) for r in (0, 1)]


@pytest.mark.parametrize("name", cases.CASES)
def test_two_processes_are_one_with_the_joined_batch(name, ranks):
    case = cases.CASES[name]
    got = [rank["synchronised"][name] for rank in ranks]
    want = cases.results(cases.layer(case, "eager"), cases.data(case))
    double = case.dtype == torch.float64
    close = {"rtol": 1e-8, "atol": 1e-8} if double else {"rtol": 1e-4, "atol": 2e-5}
    for key in ("outputs", "grads"):
        for step, expected in enumerate(want[key]):
            joint = torch.cat([part[key][step] for part in got])
            torch.testing.assert_close(joint, expected, **close, msg=lambda m, k=key: f"{k}: {m}")
    for parameter, expected in want["parameters"].items():
        total = sum(part["parameters"][parameter] for part in got)
        # Large terms cancel in the gradients of the norm before.
        tolerance = 1e-8 if double else 1e-3
        torch.testing.assert_close(total, expected, rtol=1e-4, atol=tolerance)
    for key, expected in want["state"].items():
        assert torch.equal(got[0]["state"][key], got[1]["state"][key]), key
        # Places of values are counted in 256ths of a bin.
        torch.testing.assert_close(got[0]["state"][key], expected, rtol=1e-4, atol=1 / 128)


@pytest.mark.parametrize("name", ["relu", "normed", "paper"])
def test_and_so_does_the_fused_block(name, ranks):
    case = cases.CASES[name]
    want = cases.results(cases.layer(case, None), cases.data(case))
    joint = torch.cat([rank["synchronised"][name]["outputs"][0] for rank in ranks])
    torch.testing.assert_close(joint, want["outputs"][0], rtol=0, atol=5e-3)


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp"])
def test_wrapped_networks_train_as_one_process_does(wrapper, ranks):
    """Both average gradients over the processes: half of the joined batch's."""
    worker = sibling("worker")
    model = worker.network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(1)
    for step in range(2):
        x, w = torch.randn(32, 4, generator=generator), torch.randn(32, 6, generator=generator)
        loss = (model(x) * w).sum()
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            for name, parameter in model.named_parameters():
                key = f"module.{name}" if wrapper == "ddp" else name
                got = ranks[0][wrapper]["grads"][key]
                torch.testing.assert_close(2 * got, parameter.grad, rtol=1e-3, atol=1e-3)
        optimizer.step()
        torch.testing.assert_close(
            sum(rank[wrapper]["losses"][step] for rank in ranks), loss.detach(), rtol=1e-2, atol=0.2
        )


def test_no_samples_anywhere_is_an_error_everywhere(ranks):
    assert all("no process has a sample" in rank["all empty"] for rank in ranks)


# Without torch.distributed


def test_alone_it_is_a_qact():
    x = torch.randn(16, 3)
    alone, plain = SyncQAct(3), QAct(3)
    assert torch.equal(alone(x), plain(x))
    with pytest.raises(ValueError, match="this layer has 3"):
        alone(torch.randn(4, 5))


def test_convert_keeps_the_layers_and_what_they_hold():
    model = nn.Sequential(nn.Linear(3, 4), QAct(4), NormedQAct(4, after=True), QAct.paper(4))
    for _ in range(2):
        model(torch.randn(32, 3))
    twins = list(model.modules())
    state = {k: v.clone() for k, v in model.state_dict().items()}
    seen = []
    model[1].register_forward_hook(lambda *_: seen.append(1))
    assert convert_sync_(model) is model
    assert all(a is b for a, b in zip(model.modules(), twins, strict=True))
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert type(model[1]) is SyncQAct
    norms = [model[2].norm_in, model[2].norm_out, model[3].norm_in, model[3].norm_out]
    assert {type(norm) for norm in norms} == {SyncChannelNorm}
    model(torch.randn(8, 3))
    assert seen
    assert type(convert_sync_(QAct(4))) is SyncQAct
    convert_sync_(model)  # again


def test_a_converted_layer_still_folds_its_norms_in_eval():
    layer = NormedQAct(4, after=True)
    for _ in range(3):
        layer(torch.randn(64, 4) * 2)
    layer.eval()
    x = torch.randn(9, 4)
    with torch.no_grad():
        want = layer(x)
        assert torch.equal(convert_sync_(layer)(x), want)


def test_what_cannot_be_converted():
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        convert_sync_("model")
    with pytest.raises(ValueError, match="nothing to convert"):
        convert_sync_(nn.Linear(2, 2))
    lazy = nn.Sequential(QAct(3), LazyQAct())
    with pytest.raises(ValueError, match=r"\['1'\] are LazyQAct"):
        convert_sync_(lazy)
    assert type(lazy[0]) is QAct
    assert qact.SyncQAct is SyncQAct
