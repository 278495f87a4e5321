"""Clustering by density peaks, against one point at a time and by hand."""

import pytest
import torch
from torch import Tensor

from dyrate.methods.recycling import density_peaks
from tests.runtime.prefill_rules import clusters_of


def found(
    points: Tensor, there: Tensor, counts: list[int], noise: Tensor | None = None
) -> list[list[list[int]]]:
    """Clusters of each row, their centre in front."""
    centres, cluster = density_peaks(points, there, torch.tensor(counts), noise)
    rows = []
    for row, count in enumerate(counts):
        members = [
            [point for point in there[row].nonzero().flatten().tolist() if cluster[row, point] == which]
            for which in range(count)
        ]
        front = centres[row, :count].tolist()
        rows.append([[centre, *(set(own) - {centre})] for centre, own in zip(front, members, strict=True)])
    return rows


@pytest.mark.parametrize("noisy", [False, True])
def test_rows_of_different_sizes_are_those_of_the_looped_rule(noisy: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    sizes, counts = [83, 29, 1, 47, 0], [9, 3, 1, 5, 0]
    points = torch.randn(5, 83, 24, generator=generator)
    noise = 1e-6 * torch.rand(5, 83, generator=generator) * noisy
    there = torch.arange(83) < torch.tensor(sizes)[:, None]
    rows = found(points, there, counts, noise if noisy else None)
    for row, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        if size:
            own = clusters_of(points[row], list(range(size)), count, noise[row].tolist())
            assert [[cluster[0], *sorted(cluster[1:])] for cluster in own] == [
                [cluster[0], *sorted(cluster[1:])] for cluster in rows[row]
            ]
    assert rows[4] == []


def test_noise_tells_nearest_neighbours_apart() -> None:
    """On a line: with two clusters, 0 and 0.1 are equally dense."""
    points = torch.tensor([[0.0, 0.1, 0.3, 5.0, 5.2, 9.0]])[:, :, None]
    there = torch.ones(1, 6, dtype=torch.bool)
    assert found(points, there, [2]) == [[[0], [1, 2, 3, 4, 5]]]
    noise = torch.tensor([[1e-6, 0, 0, 0, 0, 0]])
    assert found(points, there, [2], noise) == [[[0, 1, 2], [4, 3, 5]]]


def test_points_at_one_place_are_clusters_of_their_own() -> None:
    assert found(torch.zeros(1, 3, 4), torch.ones(1, 3, dtype=torch.bool), [2]) == [[[0, 2], [1]]]
