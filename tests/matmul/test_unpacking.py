"""Words of 4 bits to codes of 8, as Hopper's kernels do it: their assembler, instruction by instruction."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

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


DOES: dict[str, Callable[..., int]] = {
    "mov.b32": lambda a: a,
    "prmt.b32": _prmt,
    "lop3.b32": _lop3,
    "shr.u32": lambda a, by: a >> by,
    "shl.b32": lambda a, by: a << by & ALL,
    "add.u32": lambda a, b: a + b & ALL,
    "mul.lo.u32": lambda a, b: a * b & ALL,
}


def run(text: str, held: dict[str, int]) -> dict[str, int]:
    """What `text` leaves in registers of those that are `held`; one that nobody wrote has no value."""
    held = dict(held)
    for step in text.split(";")[1:-1]:  # behind the declaration
        name, to, *operands = re.split(r",? ", step.strip())
        values = [int(one, 0) if one[0].isdigit() else held[one] for one in operands]
        held[to] = DOES[name](*values)
    return held


def parts(kind: str, first: int, second: int) -> list[int]:
    """Sizes of two words' planes, two registers, and signs, two more."""
    held = run(getattr(unpack, f"{kind.upper()}_PARTS").value, {"$4": first & ALL, "$5": second & ALL})
    return [held[f"${place}"] for place in range(4)]


def codes_in(kind: str, plane: int, sizes: list[int], signs: list[int]) -> int:
    """A plane's four codes of parts as `codes_of_plane` gives them: each register twice, as its threads hold them."""
    twice = [one for pair in (sizes, signs) for one in pair for _ in range(2)]
    return run(getattr(unpack, f"_to_{kind}")(plane), {f"${1 + i}": one for i, one in enumerate(twice)})["$0"]


@pytest.mark.parametrize("plane", range(4))
@pytest.mark.parametrize(("kind", "storage", "power"), CODES)
def test_four_codes_in_a_register(kind: str, storage: torch.dtype, power: int, plane: int) -> None:
    """All sixteen codes in each place, beside other ones."""
    codes = ((torch.arange(16)[:, None] + 5 * torch.arange(128)) % 16 - 8).to(torch.int8)
    qweight = quantize(torch.randn(16, 128), Scheme.parse("w:int4/channel").weights)
    words = unpack.words_of(pack_weight(replace(qweight, q=codes)))
    found = []
    for row in words:
        of_pairs = [parts(kind, a, b) for a, b in row.view(8, 2).tolist()]
        found.append([codes_in(kind, plane, one[:2], one[2:]) for one in of_pairs])
    unpacked = torch.tensor(found).to(torch.uint32).view(storage).float() * 2.0**power
    assert torch.equal(unpacked, codes[:, 32 * plane : 32 * plane + 32].float())


@pytest.mark.parametrize(("kind", "storage", "power"), CODES)
def test_a_block_of_codes(kind: str, storage: torch.dtype, power: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planes come to where their columns are; one row of 64 stands for all."""
    codes = torch.randint(-8, 8, (64, 128), dtype=torch.int8)[:1].expand(64, 128)
    qweight = quantize(torch.randn(64, 128), Scheme.parse("w:int4/channel").weights)
    planes = {getattr(unpack, f"{'CODES' if kind == 'int8' else 'FP8'}_{plane}").value: plane for plane in range(4)}
    found = cache(lambda plane, *held: codes_in(kind, plane, list(held[:2]), list(held[2:])))

    def elementwise(text: Any, _registers: str, given: list[torch.Tensor], **_: Any) -> Any:
        if len(given[0].shape) == 2 and given[0].shape[1] == 16:
            pairs = [parts(kind, a, b) for a, b in given[0].view(-1, 2).tolist()]
            of_words = torch.tensor(pairs).view(64, 8, 4)
            return of_words[..., :2].reshape(64, 16), of_words[..., 2:].reshape(64, 16)
        registers = torch.stack([one.view(64, 8, 4)[:, :, ::2] for one in given], 2).flatten(2)
        held = [
            [found(planes[text.value], *four, *four[: 4 - len(four)]) for four in row] for row in registers.tolist()
        ]
        return torch.tensor(held).to(torch.uint32).view(storage)

    language = {
        "join": lambda a, b: torch.stack([a, b], -1), "convert_layout": lambda x, _, **__: x,
        "inline_asm_elementwise": elementwise, "int32": None, "int8": None, "float8e4nv": None,
    }  # fmt: skip
    monkeypatch.setattr(unpack, "gl", SimpleNamespace(**language))
    monkeypatch.setattr(unpack, "codes_of_plane", unpack.codes_of_plane.fn)
    words = unpack.words_of(pack_weight(replace(qweight, q=codes.contiguous())))
    sizes, signs = unpack.planes_of.fn(words, kind == "int8")
    unpacked = unpack.operand_of.fn(sizes, signs, None, kind == "int8").float() * 2.0**power
    assert torch.equal(unpacked, codes.float())
