"""Which layer shows an idea: by hand, with layers whose figures can be read off."""

import torch

from quantcore.pipeline.calibration import LayerStats
from quantcore.studies.specimens import Found, giant, lopsided, one_sided, token_ratio, uneven, wall


def stats(rows: list[list[float]]) -> LayerStats:
    """What a window of tokens x channels leaves."""
    found = LayerStats()
    found.update(torch.tensor([rows]), hessian=False)
    return found


WALL = stats([[1.0, -8.0, 2.0], [2.0, 8.0, 1.0], [-2.0, 8.0, 2.0]])  # channel maxima 2, 8, 2; tokens 8, 8, 8
GIANT = stats([[90.0, 1.0, 2.0], [2.0, 3.0, 1.0], [2.0, 2.0, 1.0]])  # channel maxima 90, 3, 2; tokens 90, 3, 2
PLAIN = stats([[1.0, -1.0, 1.0], [2.0, 2.0, -2.0], [1.5, 1.0, -2.0]])
TO_ONE_SIDE = stats([[6.0, -1.0, 6.0], [5.0, 6.0, 6.0]])


def test_a_wall_is_a_loud_channel_on_tokens_that_are_alike() -> None:
    """The giant's channel stands out more, 90 over 3, but on one token: it is no wall."""
    assert wall({"a": PLAIN, "b": WALL, "c": GIANT}) == Found("b", 4.0, 3)
    assert wall({"a": PLAIN, "c": GIANT}) is None


def test_a_giant_is_a_token() -> None:
    assert token_ratio(GIANT) == 30.0
    assert giant({"b": WALL, "c": GIANT}) == Found("c", 30.0, 2)
    assert giant({"b": WALL}) is None
    assert giant({}) is None


def test_one_sided_values_reach_further_to_one_side() -> None:
    assert one_sided({"a": PLAIN, "d": TO_ONE_SIDE, "c": GIANT}) == Found("d", 6.0, 3)
    assert one_sided({"a": PLAIN}) is None
    assert lopsided(-2.0, 8.0) == 4.0
    assert lopsided(-8.0, 2.0) == 4.0
    assert lopsided(0.0, 0.0) == 1.0


def test_uneven_rows() -> None:
    even, uneven_rows = torch.tensor([[1.0, 2.0], [2.0, 1.0], [2.0, 0.0]]), torch.tensor([[1.0], [10.0], [1.0]])
    assert uneven([("a", even), ("b", uneven_rows)]) == Found("b", 10.0, 2)
    assert uneven([]) is None


def test_of_equal_layers_the_first_is_taken() -> None:
    assert wall({"q": WALL, "k": WALL}) == Found("q", 4.0, 2)
