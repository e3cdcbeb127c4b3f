"""Work that is shared out by rank: who gets what, and what is put together again."""

import pytest
import torch

from quantcore.numbers.observers import RangeRecorder
from quantcore.pipeline.ranks import ALONE, Ranks, owners, ranks, sharing


def test_the_dearest_piece_goes_first_and_to_the_idlest() -> None:
    """5 to rank 0, 3 to rank 1, 3 to rank 1 (3 < 5), 1 to rank 0 (5 < 6)."""
    assert owners([3, 5, 1, 3], 2) == [1, 0, 0, 1]
    assert owners([1, 1, 1], 1) == [0, 0, 0]
    assert owners([], 4) == []


@pytest.mark.parametrize(("windows", "size"), [(5, 2), (8, 3), (2, 4)])
def test_windows_are_shared_out_in_order(windows: int, size: int) -> None:
    tokens = torch.arange(windows * 3).view(windows, 3)
    shares = [Ranks(rank, size).share(tokens) for rank in range(size)]
    assert torch.equal(torch.cat(shares), tokens)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_rank_owns_everything_and_asks_nobody() -> None:
    assert ranks() is ALONE
    assert ALONE.first
    tensor = torch.ones(2)
    ALONE.sum_to(0, tensor)
    ALONE.spread(0, tensor)
    assert torch.equal(tensor, torch.ones(2))
    assert ALONE.all_said("mine") == ["mine"]
    assert ALONE.named("a GPU") == "a GPU"
    with pytest.raises(ValueError, match="mine"):
        ALONE.together(ValueError("mine"))
    with sharing(Ranks(1, 2)) as those:
        assert ranks() is those
        assert not those.first
        assert those.named("a GPU") == "2 x a GPU"
    assert ranks() is ALONE


def test_ranges_of_several_streams_are_those_of_one() -> None:
    momenta = (0.1, 1.0)
    batches = [torch.randn(50) * size for size in (1.0, 30.0, 0.001, 4.0, 500.0, 2.0)]
    whole = RangeRecorder(momenta)
    pieces = [RangeRecorder(momenta) for _ in range(4)]
    for place, batch in enumerate(batches):
        whole.update(batch)
        pieces[(0, 0, 1, 3, 3, 3)[place]].update(batch)  # the third sees nothing
    found = RangeRecorder.joined(pieces)
    assert (found.lo, found.hi, found.count, found.reach) == (whole.lo, whole.hi, whole.count, whole.reach)
    assert torch.equal(found.bins, whole.bins)
    for momentum in momenta:
        assert found.averages[momentum] == pytest.approx(whole.averages[momentum], rel=1e-12)
    assert pieces[0].count == 100  # nothing of what was put together has changed
