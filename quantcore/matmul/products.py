"""What the paths do: a weight made ready once, x to codes, codes to y.

How near a result is, u being half a unit in the last place of x's dtype, and everything against the product of the same
codes in float64: int8 sums are exact, the epilogue adds at most 4 * 2^-24 + u of |y| (bias: of its |bias| too); the
float paths add the rounding of float32 sums, 2^-9 of sum |x_hat| s (|q| + |z|) in fp8, whose tensor cores cut 32
products at 2^-13 of the largest (2^-8 at the very worst), and 2^-19 of it in low_bit (2^-19 + u where the weight is
unpacked to x's dtype first, and of one in groups beyond 128 tokens on Hopper, + 2^-16 there). Codes of 4 bits are
denormal in fp8 where they are unpacked to it: products are then cut at 2^-13 of 8 s |x|, the largest x of 32 whose code
is not zero, which is more than the largest product where that code is small. By a model of the tensor cores that is
within 2^-10.5 of sum |x_hat| s |q| for x with outliers, and up to twice what normal codes lose in the mean square. With
many tokens fp8's sums stay in the tensor cores, as in vLLM: they are cut once more each 32 columns, 2^-14 of the sum at
the worst. Seen on an H200, 4096 and 14336 columns with outliers: .0014 and .0029 of y in the mean square, where bf16
rounds by .0017.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from quantcore.matmul import why_not
from quantcore.matmul.codes import MULTIPLE, CodedWeight, TokenCodes, no_turns
from quantcore.numbers.affine import QParams
from quantcore.numbers.granularity import PerGroup
from quantcore.numbers.qtensor import QTensor, dequantize, fake_quantize, quantize
from quantcore.numbers.spec import MinMax, QuantSpec

if TYPE_CHECKING:
    from quantcore.matmul.kernels.low_bit_weight import LowBitWeight

ROW_MULTIPLE = 16  # and O: what torch's products want
FEW_TOKENS = 64  # up to here our fp8 kernels, beyond torch._scaled_mm, but for what Hopper's narrow tiles take
FUSED_TOKENS = 256  # up to here low_bit unpacks as it multiplies, beyond it first, where no kernel of Hopper's does
FUSED_FLOATS = 128  # the same where codes or scales take longer to unpack
FUSED_NARROW = {2048: 32, 4096: 64}  # and where a weight has so few rows: too few tiles for all multiprocessors


def coded_weight(qweight: QTensor, activations: QuantSpec | None) -> CodedWeight:
    """Codes padded along both sides (shared where nothing is to be padded), and what zero points on either side
    need. Returns when all is written, as `pack_weight` does."""
    out, width = qweight.q.shape
    rows = -out % ROW_MULTIPLE
    codes = _padded(qweight.q, rows, -width % MULTIPLE)
    scale, zero = qweight.scale.flatten(), qweight.zero_point
    if scale.numel() > 1 and rows:
        scale = F.pad(scale, (0, rows), value=1.0)
    if zero is not None:
        zero = zero.flatten().to(torch.int32)
        zero = F.pad(zero, (0, rows)) if zero.numel() > 1 and rows else zero
    asymmetric = activations is not None and not activations.symmetric
    sums = codes.sum(1, dtype=torch.int32) if asymmetric else None
    return _written(CodedWeight(codes, scale, zero, sums, out, no_turns(out, codes.device), kept=True))


def coded_blocks(qweight: QTensor, activations: QuantSpec | None) -> CodedWeight:
    """The same of codes with a scale a block."""
    out = qweight.q.shape[0]
    rows = out // qweight.scale.shape[0]
    turns = no_turns(out, qweight.q.device)
    return _written(CodedWeight(qweight.q, qweight.scale.contiguous(), None, None, out, turns, rows, kept=True))


def _written(weight: CodedWeight) -> CodedWeight:
    """`weight` when all before it is done: kernels begin to read its codes before the one before them has ended
    (`numbers.kernels.overlap`)."""
    if weight.codes.is_cuda:
        torch.cuda.current_stream(weight.codes.device).synchronize()
    return weight


def _padded(codes: Tensor, rows: int, columns: int) -> Tensor:
    if not rows and not columns:
        return codes.contiguous()
    padded = codes.new_zeros(codes.shape[0] + rows, codes.shape[1] + columns, dtype=torch.uint8)
    padded[: codes.shape[0], : codes.shape[1]] = codes.view(torch.uint8)
    return padded.view(codes.dtype)


def token_codes(
    x: Tensor,
    spec: QuantSpec,
    static: QParams | None = None,
    multiple: int = MULTIPLE,
    sums: bool = False,
    dtype: torch.dtype | None = None,
) -> TokenCodes:
    """The codes of x under `spec`, or under the frozen `static`: by one fused kernel where it runs, else by `quantize`.

    Shapes: x (N, K), codes (N, K padded to a multiple of `multiple`). `sums` asks for each token's sum of q - z,
    `dtype` for codes in another type than their format's."""
    simple = spec.observer == MinMax() and not spec.scales.is_coded and (spec.symmetric or not _grouped(spec))
    if simple and why_not.why_no_kernels(x) is None:
        from quantcore.matmul.kernels.quantize_rows import quantize_tokens

        at_once = dtype if not spec.fmt.is_float or spec.fmt.name == "fp8_e4m3" else None
        found = quantize_tokens(x, spec, static, multiple, sums, at_once)
        return found._replace(codes=found.codes.to(dtype or spec.fmt.storage))
    q = quantize(x, spec, static)
    zero = None if q.zero_point is None else q.zero_point.to(torch.int32)
    total = None
    if sums:
        total = q.q.sum(1, dtype=torch.int32) - (0 if zero is None else zero.view(-1) * x.shape[1])
    scale = q.scale if _grouped(spec) else q.scale.flatten()
    codes = _padded(q.q, 0, -x.shape[1] % multiple)
    return TokenCodes(
        codes if dtype is None else codes.to(dtype), scale, None if zero is None else zero.flatten(), total
    )


def _grouped(spec: QuantSpec) -> bool:
    return isinstance(spec.granularity, PerGroup)


def codes_for(x: Tensor, weight: CodedWeight, spec: QuantSpec | None, static: QParams | None) -> TokenCodes:
    assert spec is not None
    return token_codes(x, spec, static, sums=weight.zero_point is not None)


def multiply_codes(x: TokenCodes, weight: CodedWeight, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    from quantcore.matmul.kernels import hopper_codes
    from quantcore.matmul.kernels.codes_matmul import multiply

    if hopper_codes.takes(x, weight, dtype):
        return hopper_codes.multiply_many(x, weight, bias, dtype)
    return multiply(x, weight, bias, dtype)


def int_mm(x: TokenCodes, weight: CodedWeight, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """`kernels.codes_matmul.multiply` by torch._int_mm: the same sums, then the same epilogue, pass by pass."""
    tokens = x.codes.shape[0]
    codes = _padded(x.codes, max(0, 32 - tokens), 0) if x.codes.is_cuda else x.codes  # cuBLAS wants more than 16 rows
    sums = torch._int_mm(codes, weight.codes.t())[:tokens]
    if weight.zero_point is not None:
        assert x.sums is not None
        sums = sums - x.sums[:, None] * weight.zero_point
    if x.zero_point is not None:
        assert weight.sums is not None
        sums = sums - x.zero_point[:, None] * weight.sums
    sums = sums[:, : weight.out]
    if dtype == torch.int32:
        return sums
    y = sums.float().mul_(x.scale[:, None]).mul_(weight.scale[: weight.out])
    return (y if bias is None else y.add_(bias)).to(dtype)


def multiply_fp8(x: TokenCodes, weight: CodedWeight, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    few = len(x.codes) <= FEW_TOKENS or not x.codes.is_cuda or _in_narrow_tiles(x, weight, dtype)
    return multiply_codes(x, weight, bias, dtype) if few else scaled_mm(x, weight, bias, dtype)


def _in_narrow_tiles(x: TokenCodes, weight: CodedWeight, dtype: torch.dtype) -> bool:
    from quantcore.matmul.kernels.hopper_codes import takes_narrow

    return takes_narrow(x, weight, dtype)


def scaled_mm(x: TokenCodes, weight: CodedWeight, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """`kernels.codes_matmul.multiply` by torch._scaled_mm, per tensor or per row.

    Per row its GPU form writes bf16 only; for other types the sums come back bare, in float32, and are scaled after. On
    the CPU only the form per row is fast, and it writes what x needs."""
    on_gpu = x.codes.is_cuda
    tokens, out = len(x.codes), len(weight.codes)
    to = dtype
    fits = bias is not None and bias.dtype == dtype == torch.bfloat16 and weight.out == out
    inside = bias if on_gpu and fits else None
    if on_gpu and x.scale.numel() == weight.scale.numel() == 1:
        scales = x.scale.view(()), weight.scale.view(())
    elif not on_gpu or dtype == torch.bfloat16:
        scales = x.scale.expand(tokens).contiguous()[:, None], weight.scale.expand(out).contiguous()[None, :]
        to = dtype if on_gpu or bias is None else torch.float32
    else:
        one = torch.ones((), device=x.codes.device)
        sums = torch._scaled_mm(
            x.codes, weight.codes.t(), scale_a=one, scale_b=one, out_dtype=torch.float32, use_fast_accum=on_gpu
        )
        y = sums[:, : weight.out].mul_(x.scale[:, None]).mul_(weight.scale[: weight.out])
        return (y if bias is None else y.add_(bias)).to(dtype)
    y = torch._scaled_mm(
        x.codes,
        weight.codes.t(),
        scale_a=scales[0],
        scale_b=scales[1],
        bias=inside,
        out_dtype=to,
        use_fast_accum=on_gpu,
    )[:, : weight.out]
    return (y if bias is None or inside is not None else y + bias).to(dtype)


def pack(qweight: QTensor, activations: QuantSpec | None) -> LowBitWeight:
    from quantcore.matmul.kernels.low_bit_weight import pack_weight

    return pack_weight(qweight)


def in_order(x: Tensor, weight: LowBitWeight, spec: QuantSpec | None, static: QParams | None) -> Tensor:
    return x.contiguous() if weight.order is None else x.index_select(1, weight.order)


def fused_tokens(rows: int, is_plain: bool) -> int:
    """Up to how many tokens a weight of so many rows is unpacked as it is multiplied."""
    narrow = [tokens for most, tokens in FUSED_NARROW.items() if rows <= most]
    return min([FUSED_TOKENS if is_plain else FUSED_FLOATS, *narrow])


def multiply_in_registers(
    x: Tensor, weight: LowBitWeight, bias: Tensor | None, scale: Tensor | None = None
) -> Tensor | None:
    """By a kernel whose threads unpack what they multiply; None where none takes such x and weight. `scale`: of x,
    which then holds codes."""
    from quantcore.matmul.kernels import few_tokens_matmul as few
    from quantcore.matmul.kernels import hopper_low_bit

    if hopper_low_bit.takes(x, weight):
        return hopper_low_bit.multiply_low_bit(x, weight, bias, scale=scale)
    if few.takes(x, weight):
        return few.multiply_few(x, weight, bias, scale=scale)
    return None


def multiply_low_bit(x: Tensor, weight: LowBitWeight, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    from quantcore.matmul.kernels.expand import expand
    from quantcore.matmul.kernels.low_bit_matmul import multiply_packed

    if (y := multiply_in_registers(x, weight, bias)) is not None:
        return y
    if len(x) <= fused_tokens(weight.shape[0], weight.is_plain):
        return multiply_packed(x, weight, bias)
    return F.linear(x, expand(weight, dtype), None if bias is None else bias.to(dtype))


def itself(qweight: QTensor, activations: QuantSpec | None) -> QTensor:
    return qweight


def rounded(x: Tensor, weight: object, spec: QuantSpec | None, static: QParams | None) -> Tensor:
    """x_hat: x as its codes would give it back, x itself where activations stay float."""
    if spec is None:
        return x
    if spec.scales.is_coded and x.numel() and why_not.why_no_kernels(x) is None:
        from quantcore.matmul.kernels.round_groups import round_groups, takes

        if takes(spec, static):
            return round_groups(x, spec, static)
    return fake_quantize(x, spec, static)


def multiply_dequantized(x_hat: Tensor, weight: QTensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    return F.linear(x_hat, dequantize(weight).to(dtype), bias)
