"""Ranks within rows: the compiled comparison of pairs, the sort, and scipy's ranks."""

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from qact import weights
from qact.kernels import row_rank as kernels


def rows(*shape, dtype=torch.float32):
    """Scores with many ties."""
    z = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return z.mul(4).round().div(4).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "shape", [(1,), (5,), (3, 1), (4, 2), (2, 3, 17), (7, 65), (2, 1024), (2, 1025), (0, 3)]
)
def test_it_is_the_average_rank(shape, dtype):
    z = rows(*shape, dtype=dtype)
    want = rankdata(z.numpy(), axis=-1) - 0.5 if z.numel() else z.numpy()
    for found in (torch.ops.qact.row_rank(z), kernels.by_sorting(z), kernels.by_pairs(z)):
        assert found.dtype == dtype
        np.testing.assert_array_equal(found.numpy(), want)


def test_zeros_are_one_and_infinities_are_ranked():
    z = torch.tensor([[0.0, -0.0, torch.inf, -1e-42, 3e38, torch.inf]])
    want = torch.tensor([[2.0, 2.0, 5.0, 0.5, 3.5, 5.0]])
    assert torch.equal(torch.ops.qact.row_rank(z), want)
    assert torch.equal(kernels.by_sorting(z), want)


def test_columns_are_rows_that_lie_apart():
    z, keep = rows(6, 9, 5), torch.rand(6, 9, 5) < 0.7
    across = weights.row_rank(z.transpose(1, 2), keep.transpose(1, 2), dim=-1)
    assert torch.equal(weights.row_rank(z, keep, dim=1), across.transpose(1, 2))


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_share_rows(threads):
    z, before = rows(300, 65), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(torch.ops.qact.row_rank(z), kernels.by_sorting(z))
    finally:
        torch.set_num_threads(before)


def test_the_operator_is_registered_as_it_should_be():
    torch.library.opcheck(torch.ops.qact.row_rank.default, (rows(3, 7),))


def test_rank_weights_compile_and_differentiate_in_every_way():
    z = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    want = weights.rank(z)
    compiled = torch.compile(weights.rank, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z), want)
    torch.testing.assert_close(torch.func.vmap(weights.rank)(z), want)
    tangent = z.flip(0)
    value, slope = torch.func.jvp(weights.rank, (z,), (tangent,))
    torch.testing.assert_close(value, want)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(z, tangent)
        _, other = torch.autograd.forward_ad.unpack_dual(weights.rank(dual))
    torch.testing.assert_close(other, slope)
    torch.testing.assert_close(
        torch.einsum("ijkl,kl->ij", torch.func.jacrev(weights.rank)(z), tangent), slope
    )
