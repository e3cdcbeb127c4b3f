"""Pooling for the screen keeps every outlier, with its sign and its place."""

import torch

from quantcore.numbers.pooling import extreme_places, pool_extreme


def test_small_matrices_come_through_unchanged() -> None:
    matrix = torch.tensor([[1.0, -2], [3, 0]])
    pooled = pool_extreme(matrix, 4, 4)
    assert torch.equal(pooled.values, matrix)
    assert (pooled.row_step, pooled.col_step) == (1, 1)


def test_each_cell_is_its_blocks_furthest_value_by_hand() -> None:
    matrix = torch.tensor([[1.0, -5, 0, 2], [3, 4, -1, 0.5], [7, 0, 0, 0]])
    pooled = pool_extreme(matrix, 2, 2)  # blocks of 2 x 2; the last row's blocks are filled up with zeros
    assert pooled.values.tolist() == [[-5, 2], [7, 0]]
    assert (pooled.row_step, pooled.col_step) == (2, 2)


def test_an_outlier_survives_any_size() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(301, 517)
    matrix[207, 333] = -99.0
    for size in (1, 7, 64, 300):
        pooled = pool_extreme(matrix, size, size)
        assert max(pooled.values.shape) <= size
        assert pooled.values[207 // pooled.row_step, 333 // pooled.col_step] == -99.0


def test_places_point_at_the_numbers_shown() -> None:
    matrix = torch.tensor([[1.0, -5, 0, 2], [3, 4, -1, 0.5], [7, 0, 0, 0]])
    rows, cols = extreme_places(matrix, pool_extreme(matrix, 2, 2))
    assert rows.tolist() == [[0, 0], [2, 2]]  # -5, 2; 7, and a block of zeros, which shows its first
    assert cols.tolist() == [[1, 3], [0, 2]]
    matrix = torch.randn(301, 517)
    pooled = pool_extreme(matrix, 40, 104)
    assert torch.equal(matrix[extreme_places(matrix, pooled)], pooled.values)
