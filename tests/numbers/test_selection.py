"""The k-th smallest number: both ways to it agree, on ties too."""

import pytest
import torch

from quantcore.numbers.selection import kth_smallest, nearest_end


def test_by_hand() -> None:
    x = torch.tensor([[3.0, -1, 7, 7], [0, 0, 5, -2]])  # sorted: -1 3 7 7 and -2 0 0 5
    assert kth_smallest(x, 2).tolist() == [[3], [0]]
    assert nearest_end(x, 2).tolist() == [[3], [0]]
    assert nearest_end(x, 3).tolist() == [[7], [0]]


@pytest.mark.parametrize("k", [1, 2, 50, 51, 90, 100, 101])
def test_from_either_end(k: int) -> None:
    x = torch.randn(7, 101, generator=torch.Generator().manual_seed(0)).mul(8).round()
    assert torch.equal(nearest_end(x, k), x.sort().values[:, k - 1 : k])
    assert torch.equal(nearest_end(x, k), kth_smallest(x, k))
