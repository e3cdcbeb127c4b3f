"""Number formats: their grids by hand, their rounding against torch's own casts."""

import pytest
import torch

from quantcore.numbers.formats import FORMATS, FP4_E2M1, FP8_E4M3, FP8_E5M2, format_named, int_format


def test_int_ranges_are_twos_complement() -> None:
    assert (int_format(4).qmin, int_format(4).qmax) == (-8, 7)
    assert (int_format(8).qmin, int_format(8).qmax) == (-128, 127)
    assert (int_format(2, narrow_range=True).qmin, int_format(2, narrow_range=True).qmax) == (-1, 1)


def test_half_range_is_the_convention_of_each_library() -> None:
    halves = {name: format_named(name).half_range for name in ("int8", "int8_narrow", "int4", "fp8_e4m3")}
    assert halves == {"int8": 127.5, "int8_narrow": 127, "int4": 7.5, "fp8_e4m3": 448}


def test_fp4_grid_by_hand() -> None:
    # e2m1, bias 1: subnormal 0, 0.5; exponent 1: 1, 1.5; exponent 2: 2, 3; exponent 3: 4, 6
    assert FP4_E2M1.grid().tolist() == [-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6]


def test_fp8_grids_have_the_standards_extremes() -> None:
    # e4m3: 2^8 - 2 NaN codes - 1 for the second zero; largest 1.75 * 2^8, smallest subnormal 2^-9
    assert len(FP8_E4M3.grid()) == 253
    assert FP8_E4M3.grid().max() == 448
    assert FP8_E4M3.grid()[127] == 2.0**-9
    # e5m2: exponent 31 (8 codes with sign) is infinity and NaN; largest 1.75 * 2^15, smallest 2^-16
    assert len(FP8_E5M2.grid()) == 256 - 8 - 1
    assert FP8_E5M2.grid().max() == 57344
    assert FP8_E5M2.grid()[124] == 2.0**-16


@pytest.mark.parametrize("fmt", [FP8_E4M3, FP8_E5M2], ids=str)
def test_every_fp8_code_of_torch_is_on_the_grid(fmt) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(fmt.storage).float()
    finite = codes[torch.isfinite(codes)].unique()
    assert torch.equal(finite, fmt.grid())


def test_fp4_rounds_ties_to_the_even_code() -> None:
    # between 2 (mantissa 0) and 3 (mantissa 1) the tie 2.5 goes to 2; between 3 and 4 (mantissa 0) 3.5 goes to 4
    x = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -2.5, -5.0, 0.3])
    assert FP4_E2M1.round_to_grid(x).tolist() == [0, 1, 1, 2, 2, 4, 4, -2, -4, 0.5]


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda f: f.name)
def test_rounding_is_nearest_on_the_grid(fmt) -> None:
    grid = fmt.grid().double()
    torch.manual_seed(0)
    x = (torch.rand(4000) * 2 - 1) * torch.exp(torch.randn(4000) * 2)
    x = x.clamp(fmt.qmin, fmt.qmax)
    got = fmt.round_to_grid(x)
    distance = (x.double()[:, None] - grid).abs().min(1).values
    assert torch.equal((got.double() - x.double()).abs(), distance)


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda f: f.name)
def test_encode_and_decode_are_inverse_on_the_grid(fmt) -> None:
    codes = fmt.encode(fmt.grid())
    assert codes.dtype == fmt.storage
    assert torch.equal(fmt.decode(codes), fmt.grid())
    assert len(codes.view(torch.uint8).unique()) == len(fmt.grid())


def test_fp4_codes_are_the_standards_bit_patterns() -> None:
    # sign, two exponent bits, one mantissa bit: 6 is 0b0111, -0.5 is 0b1001, sign-extended to int8
    assert FP4_E2M1.encode(torch.tensor([6.0, -0.5, -6.0])).view(torch.uint8).tolist() == [0b0111, 0b11111001, 0xFF]


def test_unknown_format_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no number format is called 'int9'; try one of int2, .*fp4_e2m1"):
        format_named("int9")
