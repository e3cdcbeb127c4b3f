"""Codes to 16- or 32-bit floats, in registers.

whole numbers of 4 bits   code + 8 in a nibble: the exponent of 128 (of 1024 in fp16) beside it, one subtraction
e2m1                      its three low bits go where bf16 and fp16 have the end of the exponent and the mantissa's
                          first bit: one product with a power of two makes up for the bias
e4m3                      likewise, in float32; e2m3 and e3m2 are kept as the e4m3 codes of their values, exactly
e8m0                      the exponent of a float32
"""

from __future__ import annotations

import triton
import triton.language as tl


def _asm(shift: int, exponent: int, restore: str) -> str:
    """Two words in $1: their bits [shift, shift + 4) as two 16-bit floats in $0."""
    both = exponent << 16 | exponent
    bits = f"shr.u32 t, $1, {shift}; lop3.b32 t, t, 0x000F000F, {both:#x}, 0xEA;"
    return f"{{ .reg .b32 t, one, less; {bits} {restore} }}"


_BF16 = "mov.b32 one, 0x3F803F80; mov.b32 less, 0xC308C308; fma.rn.bf16x2 $0, t, one, less;"  # 1 * (128 + u) - 136
_FP16 = "mov.b32 less, 0x64086408; sub.f16x2 $0, t, less;"  # (1024 + u) - 1032
BF16_0, BF16_4, BF16_8, BF16_12 = (tl.constexpr(_asm(shift, 0x4300, _BF16)) for shift in (0, 4, 8, 12))
FP16_0, FP16_4, FP16_8, FP16_12 = (tl.constexpr(_asm(shift, 0x6400, _FP16)) for shift in (0, 4, 8, 12))


def _e2m1_asm(shift: int, place: int, mask: int, restore: str) -> str:
    """Two words in $1: their e2m1 codes at bits [shift, shift + 4) as two 16-bit floats in $0. `place` and `mask`:
    where such a float has the three low bits."""
    move = f"shl.b32 t, $1, {place - shift};" if place >= shift else f"shr.u32 t, $1, {shift - place};"
    sign = f"shl.b32 s, $1, {12 - shift}; and.b32 s, s, 0x80008000; lop3.b32 t, t, {mask | mask << 16:#x}, s, 0xEA;"
    return f"{{ .reg .b32 t, s, one, less; {move} {sign} {restore} }}"


_BF16_UP = "mov.b32 one, 0x7E807E80; mov.b32 less, 0x80008000; fma.rn.bf16x2 $0, t, one, less;"  # 2^126 t - 0
_FP16_UP = "mov.b32 one, 0x74007400; mul.f16x2 $0, t, one;"  # 2^14 t
BF16_F0, BF16_F4, BF16_F8, BF16_F12 = (tl.constexpr(_e2m1_asm(at, 6, 0x01C0, _BF16_UP)) for at in (0, 4, 8, 12))
FP16_F0, FP16_F4, FP16_F8, FP16_F12 = (tl.constexpr(_e2m1_asm(at, 9, 0x0E00, _FP16_UP)) for at in (0, 4, 8, 12))


def _scaled_asm(place: int, mask: int, times: str) -> str:
    """`_e2m1_asm` of the lowest bits, then times two scales in $2."""
    return _e2m1_asm(0, place, mask, times)


_BF16_BY = "mov.b32 less, 0x80008000; fma.rn.bf16x2 $0, t, $2, less;"
BF16_PAIRS = tl.constexpr(_scaled_asm(6, 0x01C0, _BF16_BY))
BF16_POWERS = tl.constexpr(_scaled_asm(6, 0x01C0, _BF16_UP.replace("$0", "t") + _BF16_BY))
FP16_PAIRS = tl.constexpr(_scaled_asm(9, 0x0E00, "mul.f16x2 $0, t, $2;"))
FP16_POWERS = tl.constexpr(_scaled_asm(9, 0x0E00, _FP16_UP.replace("$0", "t") + " mul.f16x2 $0, t, $2;"))


@triton.jit
def _assemble(words, BF16_ASM: tl.constexpr, FP16_ASM: tl.constexpr, BF16: tl.constexpr):
    code: tl.constexpr = BF16_ASM if BF16 else FP16_ASM
    if words.dtype == tl.int32:
        return tl.inline_asm_elementwise(code, "=r,r", [words], dtype=tl.int32, is_pure=True, pack=1)
    elif BF16:
        return tl.inline_asm_elementwise(code, "=r,r", [words], dtype=tl.bfloat16, is_pure=True, pack=2)
    else:
        return tl.inline_asm_elementwise(code, "=r,r", [words], dtype=tl.float16, is_pure=True, pack=2)


@triton.jit
def unpack(words, PLANE: tl.constexpr, BF16: tl.constexpr):
    """Bits [4 PLANE, 4 PLANE + 4) of every word, less 8, as bf16 or fp16. Words are int16; or two lie in an int32 each,
    and so do the two numbers that come out."""
    if PLANE == 0:
        return _assemble(words, BF16_0, FP16_0, BF16)
    elif PLANE == 1:
        return _assemble(words, BF16_4, FP16_4, BF16)
    elif PLANE == 2:
        return _assemble(words, BF16_8, FP16_8, BF16)
    else:
        return _assemble(words, BF16_12, FP16_12, BF16)


@triton.jit
def unpack_e2m1(words, PLANE: tl.constexpr, BF16: tl.constexpr):
    """`unpack` of e2m1's codes."""
    if PLANE == 0:
        return _assemble(words, BF16_F0, FP16_F0, BF16)
    elif PLANE == 1:
        return _assemble(words, BF16_F4, FP16_F4, BF16)
    elif PLANE == 2:
        return _assemble(words, BF16_F8, FP16_F8, BF16)
    else:
        return _assemble(words, BF16_F12, FP16_F12, BF16)


@triton.jit
def unpack_scaled(words, scales, PLANE: tl.constexpr, PAIRS: tl.constexpr, BF16: tl.constexpr):
    """Two of e2m1's codes in an int32 each, times two 16-bit scales in an int32, which `scale_pair` made."""
    pairs: tl.constexpr = BF16_PAIRS if BF16 else FP16_PAIRS
    powers: tl.constexpr = BF16_POWERS if BF16 else FP16_POWERS
    code: tl.constexpr = pairs if PAIRS else powers
    low = words >> (4 * PLANE)
    return tl.inline_asm_elementwise(code, "=r,r,r", [low, scales], dtype=tl.int32, is_pure=True, pack=1)


@triton.jit
def scale_pair(codes, PAIRS: tl.constexpr, BF16: tl.constexpr):
    """A scale's code, twice as a 16-bit float in an int32. PAIRS: e4m3's, 2^116 times what it is in bf16 and 2^7 times
    in fp16, so that one product also makes up for e2m1's exponent but for `rest_of`. Else e8m0's."""
    code = codes.to(tl.int32) & 255
    if PAIRS:
        size = byte_values(code, True) * (8.307674973655724e34 if BF16 else 128.0)
    else:
        size = scale_values(code, True)
    if BF16:
        bits = (size.to(tl.int32, bitcast=True) >> 16) & 0xFFFF
    else:
        bits = size.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
    return bits | (bits << 16)


@triton.jit
def rest_of(PAIRS: tl.constexpr, BF16: tl.constexpr):
    """What a product of `unpack_scaled` is still to be multiplied by."""
    if PAIRS:
        return 1024.0 if BF16 else 128.0
    else:
        return 1.0


@triton.jit
def plane(words, PLANE: tl.constexpr, FLOATS: tl.constexpr, dtype: tl.constexpr, PLAIN: tl.constexpr):
    """Codes of a plane of int16 words as 16-bit floats. PLAIN says the same without assembler."""
    if PLAIN:
        return plane_values(words, PLANE, FLOATS).to(dtype)
    elif FLOATS:
        return unpack_e2m1(words, PLANE, dtype == tl.bfloat16)
    else:
        return unpack(words, PLANE, dtype == tl.bfloat16)


@triton.jit
def plane_values(words, PLANE: tl.constexpr, FLOATS: tl.constexpr):
    """The same in float32."""
    code = ((words >> (4 * PLANE)) & 15).to(tl.int32)
    if FLOATS:
        power, half = (code >> 1) & 3, code & 1
        twice = tl.where(power == 0, half, (2 + half) << tl.maximum(power - 1, 0)).to(tl.float32)
        return tl.where(code >= 8, -0.5, 0.5) * twice
    else:
        return (code - 8).to(tl.float32)


@triton.jit
def byte_values(codes, FLOATS: tl.constexpr):
    """Whole numbers, or e4m3's codes, a byte each, in float32."""
    code = codes.to(tl.int32)
    if FLOATS:
        normal = (((code & 127) << 20) + (120 << 23)).to(tl.float32, bitcast=True)
        size = tl.where((code & 120) == 0, (code & 7).to(tl.float32) * 0.001953125, normal)  # 2^-9 below 2^-6
        return tl.where((code & 128) != 0, -size, size)
    else:
        return code.to(tl.float32)


@triton.jit
def scale_values(codes, POWERS: tl.constexpr):
    """Scales as they are stored, in float32; POWERS: as exponents."""
    if POWERS:
        return (codes.to(tl.int32) << 23).to(tl.float32, bitcast=True)
    else:
        return codes


@triton.jit
def scales_of_pairs(scale_ptr, k, N, row_n, j):
    """e4m3 scales of columns k + j, two groups of 16, (BLOCK_N, 32) in float32."""
    at = scale_ptr + ((k // 128) * N + row_n) * 8 + (k % 128) // 32
    first = byte_values(tl.load(at), True)
    second = byte_values(tl.load(at + 4), True)
    return tl.where((j < 16)[None, :], first[:, None], second[:, None])


@triton.jit
def scale_of(scale_ptr, k, at, N, row_n, POWERS: tl.constexpr):
    """The scale of the columns that end at a plane's, which begins at k; `at`: its place where it is a float."""
    if POWERS:
        return scale_values(tl.load(scale_ptr + ((k // 128) * N + row_n) * 4 + (k % 128) // 32), True)
    else:
        return tl.load(scale_ptr + at)
