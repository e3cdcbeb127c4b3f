"""Which of Hopper's kernels multiply what, asked of a machine that has no GPU and says that it is an H200."""

from itertools import product

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from quantcore.matmul import w4a8  # noqa: E402
from quantcore.matmul.codes import CodedWeight, TokenCodes  # noqa: E402
from quantcore.matmul.kernels import hopper_codes, hopper_low_bit  # noqa: E402
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
    weight = CodedWeight(like(1024, 4096, dtype=FP8), like(1024 // rows, 32), None, None, 1024, rows)
    x = TokenCodes(like(tokens, 4096, dtype=FP8), like(tokens, 32) if grouped else like(tokens), None, None)
    assert hopper_codes.takes(x, weight, BF16) == taken
    assert hopper_codes.takes_narrow(x, weight, BF16) == taken


@pytest.mark.parametrize("codes", ["int8", "fp8_e4m3"])
@pytest.mark.parametrize("dtype", [BF16, torch.float16])
def test_tokens_are_coded_as_their_product_takes_them(codes: str, dtype: torch.dtype) -> None:
    """Codes of 8 bits of few tokens only where a kernel unpacks the weight to such; as `encode` asks, so the product."""
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
