"""Which of Hopper's kernels multiply what, asked of a machine that has no GPU and says that it is an H200."""

from itertools import product
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from quantcore.matmul import w4a8  # noqa: E402
from quantcore.matmul.codes import CodedWeight, TokenCodes, a_token, has_room  # noqa: E402
from quantcore.matmul.kernels import hopper_codes, hopper_low_bit, hopper_results  # noqa: E402
from quantcore.matmul.kernels.low_bit_weight import LowBitWeight  # noqa: E402
from quantcore.scheme.scheme import Scheme  # noqa: E402

BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn


@pytest.fixture(autouse=True)
def h200(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (hopper_codes, hopper_low_bit):
        monkeypatch.setattr(module, "is_hopper", lambda _device: True)
        monkeypatch.setattr(module, "multiprocessors", lambda _device: 132)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)


def like(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Of such a shape, in next to no memory."""
    return torch.empty(8, dtype=dtype)[:1].expand(*shape)


def packed(out: int, width: int, group: int, zero: bool = False) -> LowBitWeight:
    groups = (width // group, out)
    zeros = like(*groups, dtype=torch.int8) if zero else None
    return LowBitWeight(like(8, dtype=torch.int16), like(*groups), zeros, group, None, (out, width), like(8))


@pytest.mark.parametrize("tokens", [40, 64, 300])
@pytest.mark.parametrize(("rows", "grouped", "taken"), [(1, False, True), (1, True, False), (128, True, True)])
def test_groups_of_tokens_go_with_blocks_of_rows_alone(tokens: int, rows: int, grouped: bool, taken: bool) -> None:
    """Where rows of the weight have scales of their own, those of tokens have no place."""
    weight = CodedWeight(like(1024, 4096, dtype=FP8), like(1024 // rows, 32), None, None, 1024, like(8), rows)
    x = TokenCodes(like(tokens, 4096, dtype=FP8), like(tokens, 32) if grouped else like(tokens), None, None)
    assert hopper_codes.takes(x, weight, BF16) == taken
    assert hopper_codes.takes_narrow(x, weight, BF16) == taken


@pytest.mark.parametrize("codes", ["int8", "fp8_e4m3"])
@pytest.mark.parametrize("dtype", [BF16, torch.float16])
def test_tokens_are_coded_as_their_product_takes_them(codes: str, dtype: torch.dtype) -> None:
    """Few tokens have codes of 8 bits only where a kernel unpacks the weight to such: product and `encode` agree."""
    spec = Scheme.parse(f"w:int4/channel,a:{codes}/token/dynamic").activations
    assert spec is not None
    seen = set()
    for out, width, group, zero in product((8, 1000, 2048, 4096, 14336), (192, 512, 4096, 14336), (64, 128, 0), (0, 1)):
        if width % (group or width):
            continue
        weight = packed(out, width, group or width, bool(zero))
        for tokens in (1, 8, 9, 16, 17, 32, 33, 64, 65, 127, 129, 255, 256, 512, 513, 1024, 1025, 4096):
            kept = w4a8.codes_type(like(tokens, width, dtype=dtype), weight, spec)
            coded = like(tokens, -(-width // 128) * 128, dtype=spec.fmt.storage)
            taken = hopper_codes.takes_packed(coded, spec.fmt.storage, weight, dtype)
            assert not (taken and kept == dtype)
            assert taken or tokens > w4a8.FEW_TOKENS or kept == dtype
            seen.add((taken, kept == dtype))
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("rows", "out", "codes", "tokens", "taken"),
    [
        (0, 14336, torch.int8, 8, False),  # without tiles it is as quick
        (0, 14336, torch.int8, 9, True),
        (0, 2048, torch.int8, 32, False),  # few rows, too
        (0, 2048, torch.int8, 33, True),
        (0, 14336, FP8, 9, True),
        (0, 14336, FP8, 64, True),
        (0, 14336, FP8, 65, False),  # torch is as quick
        (0, 4096, torch.int8, 768, True),  # 96 wide tiles for 132 multiprocessors
        (0, 3072, torch.int8, 896, False),  # 84
        (0, 1024, FP8, 1792, True),  # 56 in halves: blocks take longer than those of whole numbers
        (0, 14336, FP8, 255, False),
        (0, 14336, FP8, 256, True),
        (1, 14336, FP8, 255, False),
        (1, 14336, FP8, 256, True),
        (64, 14336, FP8, 300, False),
        (128, 14336, FP8, 16, False),
        (128, 14336, FP8, 17, True),
        (128, 28672, FP8, 64, False),  # wide tiles are for more
        (128, 28672, FP8, 65, True),
    ],
)
def test_codes_that_hopper_multiplies(rows: int, out: int, codes: torch.dtype, tokens: int, taken: bool) -> None:
    weight = CodedWeight(like(out, 4096, dtype=codes), like(out), None, None, out, like(8), rows)
    x = TokenCodes(like(tokens, 4096, dtype=codes), like(tokens), None, None)
    assert hopper_codes.takes(x, weight, BF16) == taken
    assert not hopper_codes.takes(x, weight, torch.float32)
    assert not hopper_codes.takes(x, weight._replace(out=out - 4), BF16)  # the copy engine writes 16 bytes


@pytest.mark.parametrize(
    ("codes", "tokens", "width", "group", "taken"),
    [
        (torch.int8, 8, 4096, 128, False),
        (torch.int8, 9, 4096, 128, True),
        (torch.int8, 4096, 4096, 4096, True),
        (torch.int8, 100, 4096, 64, False),
        (torch.int8, 100, 4096, 256, True),
        (torch.int8, 100, 65536, 65536, True),
        (torch.int8, 100, 65664, 65664, False),  # sums of 16 times the codes would not fit 32 bits
        (FP8, 1024, 4096, 4096, True),
        (FP8, 8192, 4096, 128, True),
    ],
)
def test_packed_codes_that_hopper_multiplies(
    codes: torch.dtype, tokens: int, width: int, group: int, taken: bool
) -> None:
    x = like(tokens, width, dtype=codes)
    assert hopper_codes.takes_packed(x, codes, packed(14336, width, group), BF16) == taken
    assert not hopper_codes.takes_packed(x, codes, packed(14336, width, group, zero=True), BF16)


@pytest.mark.parametrize(
    ("tokens", "out", "group", "zero", "taken"),
    [
        (8, 14336, 128, False, False),
        (9, 14336, 128, False, True),
        (9, 14344, 128, False, True),
        (9, 14344, 128, True, False),
        (9, 14340, 128, False, False),
        (9, 14336, 64, False, False),
        (9, 14336, 4096, True, True),
        (32, 2048, 128, False, False),
        (33, 2048, 128, False, True),
    ],
)
def test_products_of_four_bits_that_hopper_does(tokens: int, out: int, group: int, zero: bool, taken: bool) -> None:
    x = like(tokens, 4096, dtype=BF16)
    assert hopper_low_bit.takes(x, packed(out, 4096, group, zero)) == taken
    assert not hopper_low_bit.takes(x.half(), packed(out, 4096, group, zero))
    assert not hopper_low_bit.takes(
        torch.empty(9, dtype=BF16)[1:2].expand(tokens, 4096), packed(out, 4096, group, zero)
    )


def test_whole_tiles_are_read_where_memory_goes_on() -> None:
    numbers = torch.ones(40)
    assert has_room(numbers[10:20], 30)
    assert not has_room(numbers[10:20], 31)
    assert has_room(a_token(257, torch.float32, numbers.device), 512)
    of_tokens = hopper_codes.Side(like(40, 128), 40, a_token(40, torch.float32, numbers.device), 1)
    assert of_tokens.is_even(64, None)
    assert not of_tokens.is_even(64, numbers)
    assert not of_tokens._replace(sums=numbers).is_even(64, None)
    assert not of_tokens._replace(scale=numbers).is_even(64, None)
    assert of_tokens._replace(scale=numbers, kind=-1).is_even(64, None)


def test_a_block_s_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 5 rows: times theirs, times that of 128 rows of R; of packed codes times 2^9."""
    numbers = torch.arange(1.0, 31)
    rows, sums = torch.arange(5), torch.randint(-99, 99, (5, 7))
    load = SimpleNamespace(load=lambda at: numbers[at], float32=torch.float32)
    monkeypatch.setattr(hopper_results, "gl", load)
    monkeypatch.setattr(torch.Tensor, "expand_dims", torch.Tensor.unsqueeze, raising=False)
    left, right = hopper_results.left_block_scale.fn, hopper_results.right_block_scale.fn
    bl, br = left(0, rows, 3, 6, 1), right(0, 300, 3, 6, 1)
    assert torch.equal(bl, numbers.view(5, 6)[:, 3])
    assert br == numbers[2 * 6 + 3]
    assert (left(0, rows, 3, 6, 0), right(0, 300, 3, 6, 0)) == (1.0, 1.0)
    scaled = hopper_results.scaled.fn
    assert torch.equal(scaled(sums, bl, 1.0, 1, 0, 0), sums * bl[:, None])
    assert torch.equal(scaled(sums, bl, br, 1, 1, 0), sums * (bl * br)[:, None])
    assert torch.equal(scaled(sums, 1.0, br, 0, 1, 0), sums * br)
    assert torch.equal(scaled(sums, bl, 1.0, 2, 0, 9), sums * (512 * bl)[:, None])
    assert torch.equal(scaled(sums, 1.0, 1.0, 0, 0, 9), sums)
