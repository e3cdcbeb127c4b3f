"""What stands between a decoder block's products, for a few tokens: each a single pass over a token's row.

    norm_rows    h += what the last product gave;  y = w h / sqrt(mean(h^2) + eps)   (RMSNorm, arXiv 1910.07467, eq. 4)
    gate_rows    y = silu(gate) up                                                  (SwiGLU, arXiv 2002.05202, eq. 6)

and where the next product multiplies codes, y leaves as codes and scales of one symmetric range a token. Values are
rounded to the model's type where `transformers` rounds them; codes are those of `quantize_rows`, from the rounded y.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantcore.matmul.codes import MULTIPLE, Coding, TokenCodes, a_token
from quantcore.matmul.kernels.quantize_rows import absolute_bits, as_code, on_grid, qparams_of
from quantcore.numbers.granularity import PerToken
from quantcore.numbers.kernels.launch import launch
from quantcore.numbers.kernels.overlap import after_last, let_next_early, overlapping
from quantcore.numbers.spec import MinMax, QuantSpec

FEW_ROWS = 16


def codes_leave(spec: QuantSpec | None) -> bool:
    """Whether a row can leave as codes under `spec`: 8 bits, one symmetric range a token, found on the fly."""
    return (
        spec is not None
        and not spec.static
        and spec.symmetric
        and spec.granularity == PerToken()
        and spec.observer == MinMax()
        and not spec.scales.is_coded
        and spec.fmt.name in ("int8", "fp8_e4m3")
    )


class _Grid(NamedTuple):
    """Where codes go and what they look like."""

    codes: Tensor | None
    scale: Tensor | None
    padded: int
    numbers: tuple[float, float, float]
    is_float: bool

    @staticmethod
    def of(rows: int, width: int, coding: Coding | None, device: torch.device) -> _Grid:
        if coding is None:
            return _Grid(None, None, width, (1.0, 0.0, 0.0), False)
        spec, dtype = coding
        padded = -(-width // MULTIPLE) * MULTIPLE if dtype.itemsize == 1 else width
        return _Grid(
            torch.empty(rows, padded, dtype=dtype, device=device),
            a_token(rows, torch.float32, device),
            padded,
            (spec.fmt.half_range, spec.fmt.qmin, spec.fmt.qmax),
            spec.fmt.is_float,
        )

    def filled(self, y: Tensor | None) -> Tensor | TokenCodes:
        if self.codes is None:
            assert y is not None
            return y
        assert self.scale is not None
        return TokenCodes(self.codes, self.scale, None, None)


@triton.jit
def _leave(
    y, row, columns, width, padded, y_ptr, codes_ptr, scale_ptr, half_range, qmin, qmax,
    CODES: tl.constexpr, FLOAT: tl.constexpr, SOFT: tl.constexpr,
):  # fmt: skip
    """A row, rounded to the model's type, as it is or as codes."""
    if CODES:
        y = tl.where(columns < width, y.to(tl.float32), 0.0)
        hi = tl.max(absolute_bits(y), 0).to(tl.float32, bitcast=True)
        scale, zero = qparams_of(hi, hi, half_range, qmin, qmax, True)
        tl.store(scale_ptr + row, scale)
        codes = on_grid(y, scale, zero, qmin, qmax, FLOAT, SOFT)
        codes = as_code(codes, codes_ptr.dtype.element_ty, FLOAT, SOFT)
        tl.store(codes_ptr + row * padded + columns, codes, mask=columns < padded)
    else:
        tl.store(y_ptr + row * width + columns, y, mask=columns < width)


@triton.jit
def _norm_rows(
    h_ptr, more_ptr, weight_ptr, y_ptr, codes_ptr, scale_ptr, width, padded, eps, half_range, qmin, qmax,
    MORE: tl.constexpr, CODES: tl.constexpr, FLOAT: tl.constexpr, SOFT: tl.constexpr, BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    dtype: tl.constexpr = h_ptr.dtype.element_ty
    let_next_early(OVERLAP)
    after_last(OVERLAP)
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    h = tl.load(h_ptr + row * width + columns, mask=inside, other=0.0)
    if MORE:
        h = (h.to(tl.float32) + tl.load(more_ptr + row * width + columns, mask=inside, other=0.0).to(tl.float32)).to(
            dtype
        )
        tl.store(h_ptr + row * width + columns, h, mask=inside)
    wide = h.to(tl.float32)
    root = tl.sqrt_rn(tl.sum(wide * wide, 0) / width + eps)
    normed = (wide / root).to(dtype).to(tl.float32)
    _leave(
        (weight * normed).to(dtype), row, columns, width, padded, y_ptr, codes_ptr, scale_ptr, half_range, qmin, qmax,
        CODES, FLOAT, SOFT,
    )  # fmt: skip


@triton.jit
def _gate_rows(
    both_ptr, y_ptr, codes_ptr, scale_ptr, width, padded, half_range, qmin, qmax,
    CODES: tl.constexpr, FLOAT: tl.constexpr, SOFT: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    let_next_early(OVERLAP)
    after_last(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    dtype: tl.constexpr = both_ptr.dtype.element_ty
    gate = tl.load(both_ptr + row * 2 * width + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both_ptr + row * 2 * width + width + columns, mask=inside, other=0.0).to(tl.float32)
    y = ((gate / (1.0 + tl.exp(-gate))).to(dtype).to(tl.float32) * up).to(dtype)
    _leave(
        y, row, columns, width, padded, y_ptr, codes_ptr, scale_ptr, half_range, qmin, qmax, CODES, FLOAT, SOFT,
    )  # fmt: skip


def _warps(block: int, rows: int) -> int:
    """So few rows are there that one is shared by as many threads as work on it at once. A multiprocessor has room for
    two programs of 32 warps: more rows than a few do not crowd onto those that the kernel before leaves free."""
    return max(1, min(32 if rows > FEW_ROWS else 16, block // 128))


def norm_rows(
    h: Tensor, more: Tensor | None, weight: Tensor, eps: float, coding: Coding | None = None
) -> Tensor | TokenCodes:
    """RMSNorm of h + more; the sum is left in h. Shapes: h, more (N, K), weight (K,); the result (N, K), or codes."""
    rows, width = h.shape
    grid = _Grid.of(rows, width, coding, h.device)
    y = torch.empty_like(h) if coding is None else None
    block = triton.next_power_of_2(grid.padded)
    launch(
        _norm_rows, (rows,), h, more, weight, y, grid.codes, grid.scale, width, grid.padded, eps, *grid.numbers,
        MORE=more is not None, CODES=coding is not None, FLOAT=grid.is_float, SOFT=not h.is_cuda, BLOCK=block,
        num_warps=_warps(block, rows), **overlapping(h.device),
    )  # fmt: skip
    return grid.filled(y)


def gate_rows(both: Tensor, coding: Coding | None = None) -> Tensor | TokenCodes:
    """silu(gate) * up of rows that hold gate, then up. Shapes: both (N, 2 K); the result (N, K), or codes."""
    rows, width = both.shape[0], both.shape[1] // 2
    grid = _Grid.of(rows, width, coding, both.device)
    y = both.new_empty(rows, width) if coding is None else None
    block = triton.next_power_of_2(grid.padded) if coding is not None else min(1024, triton.next_power_of_2(width))
    sizes: dict[str, Any] = {"BLOCK": block, "num_warps": _warps(block, rows) if coding is not None else 4}
    launch(
        _gate_rows, (rows, triton.cdiv(grid.padded, block)), both, y, grid.codes, grid.scale, width, grid.padded,
        *grid.numbers, CODES=coding is not None, FLOAT=grid.is_float, SOFT=not both.is_cuda, **sizes,
        **overlapping(both.device),
    )  # fmt: skip
    return grid.filled(y)
