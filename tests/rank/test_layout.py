"""Folding to (N, C, L) and back: values, views, memory formats, errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qact.rank.layout import channel_dim, fold, unfold


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.data())
def test_fold_gathers_channels_and_unfold_undoes_it(shape, data):
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    order = data.draw(st.permutations(range(len(shape))))
    x = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
    # Any strides: permute the memory, keep the shape.
    inverse = [order.index(i) for i in range(len(shape))]
    x = x.permute(order).contiguous().permute(inverse)
    folded = fold(x, dim)
    assert folded.shape[1] == shape[dim]
    for c in range(shape[dim]):
        assert sorted(folded[:, c].flatten().tolist()) == sorted(
            x.select(dim, c).flatten().tolist()
        )
    back = unfold(folded, x, dim)
    assert torch.equal(back, x)
    assert torch.equal(unfold(folded * 2, x, dim), x * 2)


@pytest.mark.parametrize("dim", [0, 1, 2, 3, -1, -4])
def test_contiguous_memory_is_viewed_not_copied(dim):
    x = torch.randn(2, 3, 4, 5)
    assert fold(x, dim).data_ptr() == x.data_ptr()


@pytest.mark.parametrize(("rank", "form"), [(4, torch.channels_last), (5, torch.channels_last_3d)])
def test_channels_last_is_viewed_and_kept(rank, form):
    x = torch.randn(2, 3, *[4] * (rank - 2)).to(memory_format=form)
    folded = fold(x, 1)
    assert folded.data_ptr() == x.data_ptr()
    assert folded.shape[1:] == (3, 1)
    assert unfold(folded + 1, x, 1).is_contiguous(memory_format=form)


@pytest.mark.parametrize(("shape", "dim"), [((2, 3), 2), ((2, 3), -3), ((4,), 1), ((), 0)])
def test_a_missing_dim_is_named(shape, dim):
    with pytest.raises(ValueError, match=f"dim={dim} "):
        channel_dim(torch.zeros(shape), dim)
