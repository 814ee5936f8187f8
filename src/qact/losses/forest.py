"""Seeded watershed: labels propagated from seeds over the minimum spanning forest of a graph.

Of all forests that join every point to exactly one seed, take the one of least total weight; a
point gets the label of its seed (Cousty et al. 2009, "Watershed cuts: minimum spanning forests and
the drop of water principle"). It is what Prim's algorithm gives when it is started in all seeds at
once: the unlabelled point nearest to the labelled ones takes the label of its neighbour, again and
again.

Here it is found by Boruvka's algorithm, whose at most log2(N) rounds are a few dense operations
each, so that a GPU is not kept waiting by N steps. Equal weights are put in order by their end
points: edges compare as ``(d_ij, min(i, j), max(i, j))``, so the forest is unique and the same on
every device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qact.losses.rows import first_place


@torch.no_grad()
def propagate(distances: Tensor, seeds: Tensor) -> Tensor:
    """Return for each point the index of the seed whose tree it belongs to, (N,) int64.

    Args:
        distances: weights of the complete graph, (N, N), symmetric; the diagonal is not read.
            ``inf`` where there is no edge.
        seeds: (N,) bool.

    Returns:
        Seed indices; a point that no path joins to a seed (or all, if there is none) gets -1.

    Raises:
        ValueError: shapes do not fit, or a weight is NaN.

    Example:
        >>> x = torch.tensor([0.0, 1.0, 2.2, 3.6, 9.0])
        >>> seeds = torch.tensor([True, False, False, False, True])
        >>> propagate((x[:, None] - x).abs(), seeds)
        tensor([0, 0, 0, 0, 4])
    """
    n = len(distances)
    if distances.shape != (n, n) or seeds.shape != (n,) or seeds.dtype != torch.bool:
        raise ValueError(
            "distances must be (N, N) and seeds (N,) bool, got "
            f"{tuple(distances.shape)} and {tuple(seeds.shape)} {seeds.dtype}"
        )
    if n and torch.isnan(distances.amin()):
        raise ValueError("distances hold NaN, which cannot be put in order")
    nodes = torch.arange(n, device=distances.device)
    root = nodes.clone()  # the component of each point, named by one of its points
    while True:
        closed = seeds[root]  # a component with a seed looks for no further edge
        target, found = _lightest_edges(distances, root, closed)
        if not found.any():
            return torch.where(closed, root, -1)
        root = _merged(root, torch.where(found, root[target], nodes), nodes)


def _lightest_edges(distances: Tensor, root: Tensor, closed: Tensor) -> tuple[Tensor, Tensor]:
    """Per component (at the index of its root): the far end of its first edge, and if it has one.

    First in the order ``(d, min(i, j), max(i, j))`` among the edges that leave the component.
    """
    n, nodes = len(root), torch.arange(len(root), device=root.device)
    rows = (~closed).nonzero()[:, 0]
    if not len(rows):
        return root, torch.zeros_like(closed)
    leaving, own = distances.index_select(0, rows), root[rows]
    # Inside a component an edge is as long as can be: by arithmetic, which a processor does several
    # times faster than a comparison and a mask.
    name_of = root.to(leaving.dtype)
    inside = (name_of[rows, None] - name_of).abs_().neg_().add_(1).clamp_min_(0)
    longest = torch.finfo(leaving.dtype).max
    low = torch.maximum(leaving, inside.mul_(longest), out=leaving).amin(1)
    least = low.new_full((n,), torch.inf).scatter_reduce_(0, own, low, "amin")
    # Only the rows that hold the least of their component are searched for where it stands; of
    # equal ones in a row the leftmost has the first name.
    best = ((low == least[own]) & (low < longest)).nonzero()[:, 0]
    near, far = rows[best], first_place(leaving[best], low[best, None])[:, 0]
    name = torch.minimum(near, far) * n + torch.maximum(near, far)
    first = torch.full_like(root, n * n).scatter_reduce_(0, root[near], name, "amin")
    found = first < n * n
    low_end, high_end = first.clamp_max(n * n - 1) // n, first.clamp_max(n * n - 1) % n
    return torch.where(root[low_end] == nodes, high_end, low_end), found


def _merged(root: Tensor, parent: Tensor, nodes: Tensor) -> Tensor:
    """Join each component to the one that its edge leads to; pointers are doubled to their ends.

    Two components that chose the same edge point at each other: the smaller index is their root. A
    component with a seed points nowhere, so no more than one ends in a tree.
    """
    parent = torch.where((parent[parent] == nodes) & (nodes < parent), nodes, parent)
    while True:
        further = parent[parent]
        if torch.equal(further, parent):
            return parent[root]
        parent = further
