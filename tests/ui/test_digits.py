"""Numbers in sentences: significant digits, no powers of ten where a person would write none."""

import pytest

from quantcore.numbers.digits import digits
from ui.words.digits import shown_kl, shown_tail


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


def test_a_kl_has_two_digits_where_inputs_are_rounded_or_little_is_lost() -> None:
    assert shown_kl("W8A8", 0.009149) == "0.0091"
    assert shown_kl("W4A8", 0.12871) == "0.13"
    assert shown_kl("W4A16", 0.12871) == "0.1287"
    assert shown_kl("W8A16", 0.000667) == "0.00067"


def test_the_tail_of_a_kl_has_the_digits_of_its_mean() -> None:
    assert shown_tail("W8A8", 0.005693) == "0.0057"
    assert shown_tail("W4A16", 0.083716) == "0.0837"
