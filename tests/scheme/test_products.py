"""One line that stands for many schemes."""

import pytest

from quantcore.scheme.products import expanded
from quantcore.scheme.scheme import Scheme


def test_every_choice_with_every_other() -> None:
    found = expanded("w:int{3|4}/group{32|64}{|,gptq}")
    assert found == [
        "w:int3/group32", "w:int3/group32,gptq", "w:int3/group64", "w:int3/group64,gptq",
        "w:int4/group32", "w:int4/group32,gptq", "w:int4/group64", "w:int4/group64,gptq",
    ]  # fmt: skip
    assert [str(Scheme.parse(one)) for one in found] == found


def test_a_line_without_choices_is_itself() -> None:
    assert expanded("W4A16") == ["W4A16"]
    assert expanded("W8A8,skip=re:.*layers.[0-9]{1}.*") == ["W8A8,skip=re:.*layers.[0-9]{1}.*"]


def test_the_same_scheme_is_measured_once() -> None:
    assert expanded("{W4A16|W4A16}") == ["W4A16"]


def test_too_many_are_refused_before_they_are_made() -> None:
    with pytest.raises(ValueError, match="100,000,000 schemes and 64"):
        expanded("{0|1|2|3|4|5|6|7|8|9}" * 8)
