"""What SparseVLM 1.5 does with visual tokens that leave: the best of them are merged into a few."""

import torch
from torch import Tensor

from dyrate.reduction import Kept, PrefillView


def recycled_share(gone: float) -> float:
    """Return the share of an image's tokens that are made of so large a share of them, about."""
    return 0.3 * gone / 10


def recycled(view: PrefillView, scores: Tensor, keep: Tensor, order: Tensor, noise: Tensor | None) -> Kept:
    """Keep `keep` (BoolTensor [B, V]), and clusters of the others.

    Of n that leave, the int(0.3 n) + 1 = m with the best `scores` (FloatTensor [B, V]) are merged into int(m
    / 10) + 1 clusters. Each cluster's mean stands at the index of its centre, in `order` (LongTensor [B, V])
    behind all others, the best centre first. `noise` (FloatTensor [B, V]) is added to densities.
    """
    gone = view.present & ~keep
    lost = gone.sum(dim=1)
    points = torch.where(lost > 0, (lost.double() * 0.3).long() + 1, 0)
    clusters = torch.where(lost > 0, points // 10 + 1, 0)
    ranked = scores.masked_fill(~gone, -torch.inf).argsort(dim=1, descending=True, stable=True)
    ranked = ranked[:, : int(points.max())]
    if not ranked.shape[1]:
        return Kept(keep)
    states = view.states
    view.count_macs(int((points * clusters).sum()) * states.shape[-1])  # of the means
    there = torch.arange(ranked.shape[1], device=keep.device) < points[:, None]
    members = states.gather(1, ranked[:, :, None].expand(-1, -1, states.shape[-1])).float()
    noise = None if noise is None else noise.gather(1, ranked)
    centres, cluster = density_peaks(members, there, clusters, noise)

    index = torch.arange(centres.shape[1], device=keep.device)
    weights = (there[:, None] & (cluster[:, None] == index[:, None])).float()
    means = weights @ members / weights.sum(dim=2, keepdim=True).clamp_min(1)
    places = ranked.gather(1, centres)
    row, which = (index < clusters[:, None]).nonzero(as_tuple=True)
    at = row, places[row, which]
    keep, states, order = keep.clone(), states.clone(), order.clone()
    keep[at], states[at], order[at] = True, means[row, which].to(states.dtype), order.max() + 1 + which
    into = torch.where(keep, torch.arange(keep.shape[1], device=keep.device), -1)
    row, which = there.nonzero(as_tuple=True)
    into[row, ranked[row, which]] = places[row, cluster[row, which]]
    return Kept(keep, states, into, order)


def density_peaks(
    points: Tensor, there: Tensor, counts: Tensor, noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return each cluster's centre, best first (LongTensor [B, C], C the most of `counts`), and the cluster
    of each point (LongTensor [B, P]).

    `points` [B, P, width] are those of `there` (BoolTensor [B, P]), and `counts` (LongTensor [B]) says how
    many clusters a row has, at most as many as points. With d the Euclidean distance over sqrt(width), a
    point's density is exp(-mean d^2) over its nearest `counts` points, itself among them, plus its `noise`
    (FloatTensor [B, P]). Centres are the points with the largest product of density and distance to the
    nearest denser point, for which the densest one has the largest distance of the row. A point belongs to
    the nearest centre. Of equal points the first wins.

    With `counts` 2, two points that are nearest to each other are equally dense, and the densest such pair
    are the two centres; noise that float32 can tell from nothing makes one of them the denser.
    """
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    both = there[:, :, None] & there[:, None]
    distances = (distances / points.shape[-1] ** 0.5).masked_fill(~both, torch.inf)

    index = torch.arange(points.shape[1], device=points.device)
    near = (index < counts[:, None])[:, None]
    squares = distances.sort(dim=2).values.square().masked_fill(~near, 0)
    density = (-squares.sum(dim=2) / counts[:, None].clamp_min(1)).exp()
    if noise is not None:
        density = density + noise

    farthest = distances.masked_fill(~both, 0).amax(dim=(1, 2))[:, None, None]
    denser = both & (density[:, None] > density[:, :, None])
    score = torch.where(denser, distances, farthest).amin(dim=2) * density
    order = score.masked_fill(~there, -torch.inf).argsort(dim=1, descending=True, stable=True)
    centres = order[:, : int(counts.max())]

    known = (index[: centres.shape[1]] < counts[:, None])[:, :, None]
    apart = distances.gather(1, centres[:, :, None].expand(-1, -1, points.shape[1]))
    itself = known & (centres[:, :, None] == index)  # its own centre, also where another lies at its place
    return centres, apart.masked_fill(~known, torch.inf).masked_fill(itself, -1).argmin(dim=1)
