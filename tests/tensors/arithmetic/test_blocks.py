"""Products by slices of the rank: nothing is left out, whatever the rank is, and padding adds nothing."""

from __future__ import annotations

import pytest
import torch

from registry.tensors.arithmetic.kernel import RANK_GROUP, RANK_SLICE, add_product, pad_rows


@pytest.mark.parametrize(
    "rank", [0, 1, RANK_SLICE - 1, RANK_SLICE, RANK_SLICE + 1, RANK_GROUP, RANK_GROUP + 1, 2 * RANK_GROUP + 33]
)
def test_every_column_of_the_rank_counts(rank: int) -> None:
    numbers = torch.Generator().manual_seed(rank)
    left, right = (torch.randint(-4, 5, shape, generator=numbers).float() for shape in ((6, rank), (rank, 5)))
    start = torch.randint(-4, 5, (6, 5), generator=numbers).float()
    sums = start.clone()
    add_product(sums, left, right)
    assert torch.equal(sums, start + left @ right)  # small integers: exact in any order


def test_padding_is_rows_of_zeros() -> None:
    matrix = torch.ones(5, 2)
    assert torch.equal(pad_rows(matrix, 4), torch.cat([matrix, torch.zeros(3, 2)]))
    assert pad_rows(matrix, 5) is matrix
