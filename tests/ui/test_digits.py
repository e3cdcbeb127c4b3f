"""Numbers in sentences: significant digits, no powers of ten where a person would write none."""

import pytest

from ui.words.digits import digits


@pytest.mark.parametrize(
    ("value", "count", "sign", "words"),
    [
        (3584.2, 3, "", "3,580"),
        (-3584.2, 3, "", "-3,580"),
        (999.6, 3, "", "1,000"),
        (308.4, 3, "", "308"),
        (0.0001495, 3, "", "0.00015"),
        (-5.431e-05, 3, "+", "-0.0000543"),
        (9.996e-05, 3, "+", "+0.0001"),
        (0.0, 3, "", "0"),
        (1.5e12, 3, "", "1.5e+12"),
        (2e-9, 3, "", "2e-09"),
        (float("inf"), 3, "", "inf"),
        (None, 3, "", "none"),
    ],
)
def test_as_a_sentence_says_it(value: float | None, count: int, sign: str, words: str) -> None:
    assert digits(value, count, sign) == words
