"""From the sums of codes to results, on Hopper: what the epilogue of `hopper_product` does, and how that and
`hopper_low_bit` write results; and the scales of blocks of 128 columns, which sums are multiplied by before. What is
written in Triton's words here runs in Gluon's kernels, too."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, tma


@triton.jit
def left_scales(sl_ptr, at_l, L, SL: tl.constexpr):
    """Those of rows of L, as `results` takes them. SL: 1 per row, 0 for one scale, -1 for none."""
    if SL >= 0:
        return tl.load(sl_ptr + at_l * SL, mask=at_l < L, other=0.0)
    else:
        return 1.0


@triton.jit
def results(
    sums, at_r, at_l, R, L, sl, sr_ptr, zl_ptr, zr_ptr, l_sum_ptr, r_sum_ptr, bias_ptr,
    SL: tl.constexpr, SR: tl.constexpr, L_ZERO: tl.constexpr, R_ZERO: tl.constexpr, BIAS: tl.constexpr,
    PACKED: tl.constexpr, EVEN: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Zero points, scales and bias of sums, in y's type. SL, SR: 1 per row, 0 for one scale, -1 for none. PACKED:
    the power of two that one of an unpacked code is worth; 0 where none was packed."""
    in_l = at_l < L
    if R_ZERO:
        zr = _of_right(zr_ptr + at_r * SR, at_r, R, EVEN)
        sums -= tl.load(l_sum_ptr + at_l, mask=in_l, other=0).expand_dims(1) * zr.expand_dims(0)
    if L_ZERO:
        zl = tl.load(zl_ptr + at_l * SL, mask=in_l, other=0)
        sums -= zl.expand_dims(1) * _of_right(r_sum_ptr + at_r, at_r, R, EVEN).expand_dims(0)
    y = sums.to(tl.float32)
    if SL >= 0:
        y = y * (sl * 2.0**PACKED if PACKED else sl).expand_dims(1)
    if SR >= 0:
        y = y * _of_right(sr_ptr + at_r * SR, at_r, R, EVEN).expand_dims(0)
    if BIAS == "r":
        y += _of_right(bias_ptr + at_r, at_r, R, EVEN).to(tl.float32).expand_dims(0)
    if BIAS == "l":
        y += tl.load(bias_ptr + at_l, mask=in_l, other=0.0).to(tl.float32).expand_dims(1)
    return y.to(DTYPE)


@triton.jit
def _of_right(place, at_r, R, EVEN: tl.constexpr):
    """Unmasked where all tiles are full: two neighbours are then one load."""
    if EVEN:
        return tl.load(place)
    else:
        return tl.load(place, mask=at_r < R, other=0)


@gluon.jit
def left_block_scale(bl_ptr, at_l, block, blocks, BL: gl.constexpr):
    """Of a block of 128 columns, for each at_l."""
    return gl.load(bl_ptr + at_l * blocks + block) if BL else 1.0


@gluon.jit
def right_block_scale(br_ptr, at_r, block, blocks, BR: gl.constexpr):
    """Of a block, for the 128 rows that at_r is of."""
    return gl.load(br_ptr + (at_r // 128) * blocks + block) if BR else 1.0


@gluon.jit
def asked_for(scale):
    """Scales whose loads have been issued: ptxas moves none over a barrier of a warp, and would issue them where the
    next block waits for them."""
    return gl.inline_asm_elementwise(
        "bar.warp.sync 0xffffffff; mov.b32 $0, $2; mov.b32 $1, $3;", "=&r,=&r,r,r", [scale], dtype=gl.float32,
        is_pure=False, pack=2,
    )  # fmt: skip


@gluon.jit
def scaled(part, bl, br, BL: gl.constexpr, BR: gl.constexpr, PACKED: gl.constexpr):
    """A block's sums times its scales, in float32; those of packed codes count what one of an unpacked code is worth.
    Nothing is done with scales before: a thread would wait for them there."""
    if PACKED and BL:
        bl = bl * 2.0**PACKED
    if BL:
        return part.to(gl.float32) * (bl * br if BR else bl).expand_dims(1)
    elif BR:
        return part.to(gl.float32) * br
    else:
        return part


@gluon.jit
def write(y, y_buf, y_desc, at_l, at_r, TURNED: gl.constexpr):
    """Give a tile (L, R) of results to the copy engine, once it has taken the last one from y_buf; y is (R, L) where it
    is TURNED."""
    tma.store_wait(0)
    if TURNED:
        y_buf.permute([1, 0]).store(y)
    else:
        y_buf.store(y)
    fence_async_shared()
    tma.async_copy_shared_to_global(y_desc, [at_r, at_l] if TURNED else [at_l, at_r], y_buf)
