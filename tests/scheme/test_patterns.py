"""Patterns: which names they mean, and that none takes long, whoever wrote it."""

import time

import pytest

from quantcore.scheme.patterns import expression, fits, require_quick, written
from quantcore.scheme.plan import Plan

NAME = "model.layers.0.mlp.gate_proj"


@pytest.mark.parametrize(
    ("pattern", "fit"),
    [
        ("gate_proj", True),
        ("0.mlp", True),
        ("gate", False),  # whole parts only
        ("re:.*mlp.gate", True),
        ("re:.*mlp.gate$", False),
        ("re:model", True),
        ("re:mlp", False),  # from the name's first sign on
        ("re:.*[.](up|gate)_proj$", True),
        ("re:(?!.*mlp).*proj", False),
        ("re:.{1%2C5}[.]layers", True),
    ],
)
def test_what_fits(pattern: str, fit: bool) -> None:
    require_quick(pattern)
    assert fits(pattern, NAME) is fit


def test_signs_of_the_language_are_written_as_in_a_url() -> None:
    pattern = written("a{1,2}=@% b")
    assert pattern == "re:a{1%2C2}%3D%40%25%20b"
    assert expression(pattern) == "a{1,2}=@% b"
    plan = Plan.parse(f"W4A16,skip={pattern}@{pattern}=W8A16")
    assert plan.default.skip == (pattern,)
    assert Plan.parse(str(plan)) == plan


@pytest.mark.parametrize("pattern", ["re:.*.*.*.*x", "re:(?!.*.*.*.*x)(?!.*.*.*.*y).*z", "re:" + "a?" * 12 + "a" * 12])
def test_what_is_taken_is_quick(pattern: str) -> None:
    require_quick(pattern)
    started = time.process_time()  # not that of others on a busy machine
    fits(pattern, "model.layers.0.mlp.experts.127." + "a" * 40)
    assert time.process_time() - started < 1  # 1 ms


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("re:", "has 0 signs"),
        ("re:(", "is no regular expression"),
        ("re:(a+)+$", "repeats groups"),
        ("re:(a|a)*$", "repeats groups"),
        ("re:(?!(a+)+$)x", "repeats groups"),
        ("re:.*.*.*.*.*x", "more than 4 repeats"),
        ("re:" + "(a|a)" * 13, "or 12 choices"),
        (r"re:(a)\1", "refers to a group"),
        ("re:" + "(" * 900, "is no regular expression"),
        ("re:" + "a" * 1001, "has 1001 signs"),
    ],
)
def test_what_is_refused(pattern: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        require_quick(pattern)
    with pytest.raises(ValueError, match="cannot take the expression"):
        Plan.parse(f"W4A16@{pattern}=float")
