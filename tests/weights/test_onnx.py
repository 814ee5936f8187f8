"""Every map whose operators a runtime has, exported and run: the weights are torch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qact import weights

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
runtime = pytest.importorskip("onnxruntime")

NAMES = weights.names(onnx=True)
Results = dict[str, tuple[Tensor, Tensor]]


class Every(nn.Module):
    """All maps on one input: one export instead of twenty."""

    def __init__(self) -> None:
        super().__init__()
        options = {"era": {"entropy": 1.0}, "context_rank": {"num_classes": 7}}
        self.maps = nn.ModuleList(weights.create(n, **options.get(n, {})) for n in NAMES)

    def forward(self, z: Tensor, mask: Tensor) -> list[Tensor]:
        return [module(z, mask) for module in self.maps]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    torch.manual_seed(0)
    z, mask = 2 * torch.randn(3, 4, 7), torch.rand(3, 4, 7) > 0.3
    mask[..., 0], mask[0], mask[2, 3] = True, True, False  # some rows whole, one without a score
    z[1, 1, :3] = 1.5
    every = Every()
    every(5 * torch.randn(50, 4, 7), torch.ones(7, dtype=torch.bool))  # contexts are counted
    module, path = every.eval(), str(tmp_path_factory.mktemp("onnx") / "maps.onnx")
    torch.onnx.export(module, (z, mask), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path)
    given = {i.name: t.numpy() for i, t in zip(session.get_inputs(), (z, mask), strict=True)}
    got = map(torch.from_numpy, session.run(None, given))
    wanted = (output.detach() for output in module(z, mask))
    return dict(zip(NAMES, zip(got, wanted, strict=True), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_runtime_gives_the_same_weights(name: str, results: Results):
    got, wanted = results[name]
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


def test_what_is_not_exported():
    assert weights.names(onnx=False) == ["gumbel"]
