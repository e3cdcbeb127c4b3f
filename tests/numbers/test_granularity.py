"""Granularities: tiles by hand, texts that come back, refusals with a way out."""

import pytest

from quantcore.numbers.granularity import (
    PerBlock,
    PerChannel,
    PerGroup,
    PerTensor,
    PerToken,
    largest_divisor,
    parse_granularity,
)


def test_tiles_by_hand() -> None:
    assert PerTensor().tile((4, 6)) == (4, 6)
    assert PerChannel().tile((4, 6)) == (1, 6)
    assert PerToken().tile((2, 3, 6)) == (1, 1, 6)
    assert PerGroup(3).tile((4, 6)) == (1, 3)
    assert PerGroup(2).tile((2, 3, 6)) == (1, 1, 2)
    assert PerBlock(2, 3).tile((4, 6)) == (2, 3)


@pytest.mark.parametrize("text", ["tensor", "channel", "token", "group128", "block128x64"])
def test_text_comes_back(text: str) -> None:
    assert str(parse_granularity(text)) == text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: PerGroup(100).tile((8, 384)),
            r"group100 does not divide in_features=384; try group96, or channel",
        ),
        (lambda: PerBlock(3, 2).tile((8, 4)), r"block3x2 does not divide 8 x 4 weights; try block2x2, or channel"),
        (lambda: PerBlock(2, 3).tile((8, 4)), r"block2x3 does not divide 8 x 4 weights; try block2x2, or channel"),
        (lambda: PerBlock(2, 2).tile((2, 2, 2)), r"a block needs a matrix, got shape \(2, 2, 2\)"),
        (lambda: PerGroup(0), r"group0 is no group of weights; try group32, group64 or group128"),
        (lambda: PerBlock(0, 2), r"a block of 0 x 2 holds no weight"),
        (lambda: parse_granularity("row"), r"no granularity is called 'row'; try tensor, channel"),
    ],
)
def test_refusals_say_what_and_the_way_out(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_largest_divisor() -> None:
    assert largest_divisor(384, 100) == 96
    assert largest_divisor(7, 6) == 1
