"""Words of 4 bits to codes of 8, as Hopper's kernels do it: their assembler, instruction by instruction."""

import re
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from quantcore.matmul.kernels import hopper_unpack as unpack  # noqa: E402
from quantcore.matmul.kernels.low_bit_weight import pack_weight  # noqa: E402
from quantcore.numbers.qtensor import quantize  # noqa: E402
from quantcore.scheme.scheme import Scheme  # noqa: E402

ALL = (1 << 32) - 1
CODES = [("int8", torch.int8, unpack.INT8_POWER), ("fp8", torch.float8_e4m3fn, unpack.FP8_POWER)]


def _prmt(a: int, b: int, selector: int) -> int:
    eight = (b << 32 | a).to_bytes(8, "little")
    return int.from_bytes(bytes(eight[selector >> 4 * i & 7] for i in range(4)), "little")


def _lop3(a: int, b: int, c: int, table: int) -> int:
    """A bit of the table for each a, b, c: that of 4 a + 2 b + c."""
    return sum((table >> (4 * (a >> i & 1) + 2 * (b >> i & 1) + (c >> i & 1)) & 1) << i for i in range(32))


DOES = {
    "prmt.b32": _prmt,
    "lop3.b32": _lop3,
    "shr.u32": lambda a, by: a >> by,
    "shl.b32": lambda a, by: a << by & ALL,
    "add.u32": lambda a, b: a + b & ALL,
    "mul.lo.u32": lambda a, b: a * b & ALL,
}


def run(text: str, **held: int) -> int:
    """What `text` leaves in $0; a register that nobody wrote has no value."""
    for step in text.split(";")[1:-1]:
        name, to, *operands = re.split(r",? ", step.strip())
        values = [int(one, 0) if one[0].isdigit() else held[one] for one in operands]
        held[to] = DOES[name](*values)
    return held["$0"]


@pytest.mark.parametrize("plane", range(4))
@pytest.mark.parametrize(("kind", "storage", "power"), CODES)
def test_four_codes_in_a_register(kind: str, storage: torch.dtype, power: int, plane: int) -> None:
    """All sixteen codes in each place, beside other ones."""
    codes = ((torch.arange(16)[:, None] + 5 * torch.arange(128)) % 16 - 8).to(torch.int8)
    qweight = quantize(torch.randn(16, 128), Scheme.parse("w:int4/channel").weights)
    words = unpack.words_of(pack_weight(replace(qweight, q=codes)))
    text = getattr(unpack, f"_to_{kind}")(plane)
    found = [[run(text, **{"$1": a & ALL, "$3": b & ALL}) for a, b in row.view(8, 2).tolist()] for row in words]
    unpacked = torch.tensor(found).to(torch.uint32).view(storage).float() * 2.0**power
    assert torch.equal(unpacked, codes[:, 32 * plane : 32 * plane + 32].float())


@pytest.mark.parametrize(("kind", "storage", "power"), CODES)
def test_a_block_of_codes(kind: str, storage: torch.dtype, power: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planes come to where their columns are; one row of 64 stands for all."""
    codes = torch.randint(-8, 8, (64, 128), dtype=torch.int8)[:1].expand(64, 128)
    qweight = quantize(torch.randn(64, 128), Scheme.parse("w:int4/channel").weights)
    gl = SimpleNamespace(join=lambda a, b: torch.stack([a, b], -1), convert_layout=lambda x, _, **__: x)

    @cache
    def register(text: str, a: int, b: int) -> int:
        return run(text, **{"$1": a & ALL, "$3": b & ALL})

    def four_at_once(words: torch.Tensor, int8: object, fp8: object, is_int: bool) -> torch.Tensor:
        text = (int8 if is_int else fp8).value
        pairs = words.view(64, 8, 4)[:, :, ::2].tolist()
        return torch.tensor([[register(text, a, b) for a, b in row] for row in pairs]).to(torch.uint32).view(storage)

    monkeypatch.setattr(unpack, "gl", gl)
    monkeypatch.setattr(unpack, "_codes", four_at_once)
    words = unpack.words_of(pack_weight(replace(qweight, q=codes.contiguous())))
    unpacked = unpack.unpacked_codes.fn(words, None, kind == "int8").float() * 2.0**power
    assert torch.equal(unpacked, codes.float())
