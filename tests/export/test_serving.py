"""Where vLLM has a kernel for a scheme, by compute capability."""

import pytest

from quantcore.export.serving import AMD, CPU, KERNELS, Place, kernel_for, stays_16_bit, why_not_on
from quantcore.scheme.scheme import Scheme

TURING, AMPERE, ADA, HOPPER, BLACKWELL, GEFORCE_50 = (7, 5), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)
EVERY: tuple[Place, ...] = (TURING, AMPERE, ADA, HOPPER, BLACKWELL, GEFORCE_50, AMD, CPU)


@pytest.mark.parametrize(
    ("scheme", "places"),
    [
        ("float", EVERY),
        ("W4A16", EVERY[:6]),
        ("W4A16_ASYM", EVERY[:6]),
        ("w:int4/group32,gptq/actorder=weight", EVERY[:6]),
        ("W8A8", (TURING, AMPERE, ADA, HOPPER, CPU)),
        ("FP8_DYNAMIC", (*EVERY[:6], AMD)),
        ("FP8_BLOCK", (*EVERY[:6], AMD)),
        ("W4AFP8", (HOPPER,)),
        ("W4A8", EVERY[:6]),
        ("W3A16", EVERY[:6]),
        ("w:fp4_e2m1/group32", ()),
        ("w:int4/group96", ()),
    ],
)
def test_where_vllm_has_a_kernel(scheme: str, places: tuple[Place, ...]) -> None:
    assert tuple(place for place in EVERY if why_not_on(Scheme.parse(scheme), place) is None) == places


def test_why_not() -> None:
    assert why_not_on(Scheme.parse("w:fp4_e2m1/group32"), HOPPER) == "vLLM lists no kernel for w:fp4_e2m1/group32"
    assert "takes groups of 32, 64, 128" in (why_not_on(Scheme.parse("w:int4/group96"), HOPPER) or "")
    assert "not Blackwell" in (why_not_on(Scheme.parse("W8A8"), BLACKWELL) or "")


def test_fp8_is_only_stored_before_ada() -> None:
    fp8 = Scheme.parse("FP8_DYNAMIC")
    assert [stays_16_bit(fp8, place) for place in (TURING, AMPERE, ADA, HOPPER, AMD)] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert not stays_16_bit(Scheme.parse("W4A16"), AMPERE)


def test_words_and_numbers_say_the_same() -> None:
    """The sentence of a kernel names the capability that it begins with."""
    for kernel in KERNELS:
        if "NVIDIA" in kernel.gpus:
            first = kernel.codes_from if kernel.codes_from > (0, 0) else kernel.least
            assert f"NVIDIA {first[0]}.{first[1]}" in kernel.gpus
        else:
            assert not any(kernel.runs_on(place) for place in EVERY)
    assert kernel_for(Scheme.parse("W8A8")) is not None
