"""Words of 4 bits, as `low_bit_weight` lays them out, to operands of Hopper's tensor cores, each thread its own: what a
lane unpacks is what it multiplies.

To bf16: c = (u - 8 - zero) STEP, u the stored code + 8; bare, or times a scale of two bf16. To int8: four neighbouring
columns in a register, 16 (u - 8) in a byte. To e4m3: likewise, 2^-9 (u - 8); its bytes 0 to 15 are so many 2^-9, with
128 added where they are negative. This goes in two steps: what planes share is done for two at once, and before.
"""

from __future__ import annotations

from torch import Tensor, int32
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from quantcore.matmul.kernels.low_bit_weight import LowBitWeight

WORDS = 16  # of 32 bits, 128 codes of a row

STEP = gl.constexpr(1 / 64)
LESS, LESS_TWICE = gl.constexpr(-8 / 64), gl.constexpr(0xBE00BE00)  # what zeros are taken off from


def _to_bf16(plane: int, scaled: bool) -> str:
    """Plane `plane` of word $2 as two bf16 in $0 and $1; $3, twice, is added; scaled by s_hi in $4 and s_lo in $5, each
    twice. Four bits at a bf16's low end are u 2^-133, four bits higher u 2^-129: the exponent's last bit counts as
    those below it do."""
    shift, mask, power = 8 * (plane // 2), (0x000F000F, 0x00F000F0)[plane % 2], (0x7F007F00, 0x7D007D00)[plane % 2]
    unpack = f"shr.u32 t, $2, {shift}; and.b32 t, t, {mask};"
    code = f"mov.b32 power, {power}; fma.rn.bf16x2 t, t, power, $3;"
    scale = "mov.b32 c, 0x80008000; fma.rn.bf16x2 c, t, $5, c; fma.rn.bf16x2 t, t, $4, c;" if scaled else ""
    return f"{{ .reg .b32 t, power, c; {unpack} {code} {scale} mov.b32 {{$0, $1}}, t; }}"


PLANE_0, PLANE_1, PLANE_2, PLANE_3 = (gl.constexpr(_to_bf16(plane, True)) for plane in range(4))
BARE_0, BARE_1, BARE_2, BARE_3 = (gl.constexpr(_to_bf16(plane, False)) for plane in range(4))


def _halves(high: bool) -> str:
    """Planes 0 and 1, or 2 and 3, of four neighbouring columns, their words in $4 and $5, in halves of t's bytes."""
    return f"prmt.b32 t, $4, $5, {'0x7531' if high else '0x6420'};"


def _fp8_parts(high: bool) -> str:
    """Of planes as `_halves` has them, |u - 8| in $0, or $1 of the high ones, and 8 where it is negative in $2, or $3.
    Where it is, e is 1, and |u - 8| is u ^ 7 plus 1; else u ^ 8."""
    sizes, signs = ("$1", "$3") if high else ("$0", "$2")
    sign = f"lop3.b32 {signs}, t, 0x88888888, 0, 0x0C; shr.u32 e, {signs}, 3; mul.lo.u32 f, e, 15;"
    return f"{_halves(high)} {sign} lop3.b32 t, t, 0x88888888, f, 0x96; add.u32 {sizes}, t, e;"


INT8_PARTS = gl.constexpr(
    f"{{ .reg .b32 t; {_halves(False)} mov.b32 $0, t; mov.b32 $2, t; {_halves(True)} mov.b32 $1, t; mov.b32 $3, t; }}"
)
FP8_PARTS = gl.constexpr(f"{{ .reg .b32 t, e, f; {_fp8_parts(False)} {_fp8_parts(True)} }}")


def _to_int8(plane: int) -> str:
    """Plane `plane`, of $1 or $3, as four codes in $0."""
    halves = "$1" if plane < 2 else "$3"
    up = f"shl.b32 t, {halves}, 4;" if plane % 2 == 0 else f"mov.b32 t, {halves};"
    return f"{{ .reg .b32 t; {up} lop3.b32 $0, t, 0xF0F0F0F0, 0x80808080, 0x6A; }}"


def _to_fp8(plane: int) -> str:
    """The same: sizes in $1 or $3, signs in $5 or $7."""
    sizes, signs = ("$1", "$5") if plane < 2 else ("$3", "$7")
    if plane % 2:
        return f"{{ .reg .b32 t; shr.u32 t, {sizes}, 4; lop3.b32 $0, 0x0F0F0F0F, t, {signs}, 0xCA; }}"
    return f"{{ .reg .b32 s; shl.b32 s, {signs}, 4; lop3.b32 $0, 0x0F0F0F0F, {sizes}, s, 0xCA; }}"


CODES_0, CODES_1, CODES_2, CODES_3 = (gl.constexpr(_to_int8(plane)) for plane in range(4))
FP8_0, FP8_1, FP8_2, FP8_3 = (gl.constexpr(_to_fp8(plane)) for plane in range(4))
INT8_POWER, FP8_POWER = -4, 9  # of two: what one of an unpacked code is worth
HELD = gl.constexpr(
    gl.DistributedLinearLayout(
        reg_bases=[[0, 1], [8, 0], [0, 8]],
        lane_bases=[[0, 2], [0, 4], [1, 0], [2, 0], [4, 0]],
        warp_bases=[[16, 0], [32, 0]],
        block_bases=[],
        shape=[64, WORDS],
    )
)  # of the words of 64 rows that are unpacked to codes


def words_of(weight: LowBitWeight) -> Tensor:
    """(K / 128 * O, WORDS), as the copy engine takes tiles of them."""
    return weight.words.view(int32).view(-1, WORDS)


@gluon.jit
def _pairs(words, less, hi, lo, CODE: gl.constexpr, BARE: gl.constexpr):
    if BARE:
        low, high = gl.inline_asm_elementwise(
            CODE, "=h,=h,r,r", [words, less], dtype=(gl.bfloat16, gl.bfloat16), is_pure=True, pack=1
        )
    else:
        low, high = gl.inline_asm_elementwise(
            CODE, "=h,=h,r,r,r,r", [words, less, hi, lo], dtype=(gl.bfloat16, gl.bfloat16), is_pure=True, pack=1
        )
    return gl.join(low, high).reshape([words.shape[0], 32])


@gluon.jit
def _half(words, less, hi, lo, H: gl.constexpr, BARE: gl.constexpr):
    """64 columns of a block, of its planes 2 H and 2 H + 1."""
    if BARE:
        first = _pairs(words, less, hi, lo, BARE_0 if H == 0 else BARE_2, BARE)
        second = _pairs(words, less, hi, lo, BARE_1 if H == 0 else BARE_3, BARE)
    else:
        first = _pairs(words, less, hi, lo, PLANE_0 if H == 0 else PLANE_2, BARE)
        second = _pairs(words, less, hi, lo, PLANE_1 if H == 0 else PLANE_3, BARE)
    return gl.join(first, second).permute([0, 2, 1]).reshape([words.shape[0], 64])


@gluon.jit
def unpacked(words, less, hi, lo, H: gl.constexpr, HALVES: gl.constexpr, BARE: gl.constexpr):
    """Half H of a block, or, where it comes as one, all 128 columns."""
    if HALVES == 2:
        return _half(words, less, hi, lo, H, BARE)
    else:
        halves = gl.join(_half(words, less, hi, lo, 0, BARE), _half(words, less, hi, lo, 1, BARE))
        return halves.permute([0, 2, 1]).reshape([words.shape[0], 128])


@gluon.jit
def twice(value):
    """float32 as bf16, in both halves of an int32."""
    return gl.inline_asm_elementwise(
        "cvt.rn.bf16x2.f32 $0, $1, $1;", "=r,f", [value], dtype=gl.int32, is_pure=True, pack=1
    )


@gluon.jit
def planes_of(words, IS_INT: gl.constexpr):
    """Of words (64, 16), laid out as HELD: sizes and signs as `operand_of` takes them, two planes in a register."""
    return gl.inline_asm_elementwise(
        INT8_PARTS if IS_INT else FP8_PARTS, "=&r,=&r,=&r,=&r,r,r", [words], dtype=(gl.int32, gl.int32), is_pure=True,
        pack=2,
    )  # fmt: skip


@gluon.jit
def codes_of_plane(sizes, signs, INT8: gl.constexpr, FP8: gl.constexpr, IS_INT: gl.constexpr):
    if IS_INT:
        return gl.inline_asm_elementwise(INT8, "=r,r,r,r,r", [sizes], dtype=gl.int8, is_pure=True, pack=4)
    else:
        return gl.inline_asm_elementwise(
            FP8, "=r,r,r,r,r,r,r,r,r", [sizes, signs], dtype=gl.float8e4nv, is_pure=True, pack=4
        )


@gluon.jit
def operand_of(sizes, signs, operand: gl.constexpr, IS_INT: gl.constexpr):
    """Codes (64, 128) of int8 or e4m3, laid out as an `operand`: 2^-INT8_POWER or 2^-FP8_POWER times those of 4
    bits."""
    sizes, signs = gl.join(sizes, sizes).reshape([64, 32]), gl.join(signs, signs).reshape([64, 32])
    one = codes_of_plane(sizes, signs, CODES_0, FP8_0, IS_INT)
    two = codes_of_plane(sizes, signs, CODES_1, FP8_1, IS_INT)
    three = codes_of_plane(sizes, signs, CODES_2, FP8_2, IS_INT)
    four = codes_of_plane(sizes, signs, CODES_3, FP8_3, IS_INT)
    codes = gl.join(gl.join(one, two), gl.join(three, four)).permute([0, 3, 2, 1]).reshape([64, 128])
    return gl.convert_layout(codes, operand, assert_trivial=True)


@gluon.jit
def unpacked_codes(words, operand: gl.constexpr, IS_INT: gl.constexpr):
    """The same of words, at once."""
    sizes, signs = planes_of(words, IS_INT)
    return operand_of(sizes, signs, operand, IS_INT)
