"""Paths: the ways in which a quantized layer can multiply, and why a way is closed.

    name         x, weight                          arithmetic                               where
    int8         integer codes on both sides        int32 sums, scales in the epilogue       GPU: Triton
    int8_torch   the same                           torch._int_mm, scales after it           GPU, CPU
    fp8          e4m3 codes on both sides           float32 sums, scales in the epilogue     GPU: Triton, _scaled_mm
    fp8_torch    the same                           torch._scaled_mm                         GPU, CPU
    fp8_block    e4m3, 128-column groups and blocks float32 sums a group, scaled, then added GPU: Triton
    low_bit      16-bit x, integer codes            unpacked in registers, scaled a group    GPU: Triton
    dequantize   anything                           fake_quantize(x) @ W_hat^T in x's dtype  everywhere

`dequantize` is the reference. A path says `why_not` in a sentence, keeps the weight in the form it wants (`prepare`,
once) and multiplies. K, O and the number of tokens may be anything: padding happens inside.

How near a result is, u being half a unit in the last place of x's dtype, and everything against the product of the same
codes in float64: int8 sums are exact, the epilogue adds at most 4 * 2^-24 + u of |y| (bias: of its |bias| too); the
float paths add the rounding of float32 sums, 2^-9 of sum |x_hat| s (|q| + |z|) in fp8, whose tensor cores cut 32
products at 2^-13 of the largest (2^-8 at the very worst), and 2^-19 of it in low_bit (2^-19 + u beyond FUSED_TOKENS,
where the weight is unpacked to x's dtype first).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from quantcore.matmul.codes import CodedWeight, TokenCodes
from quantcore.numbers.affine import QParams
from quantcore.numbers.granularity import PerGroup, PerTensor, PerToken
from quantcore.numbers.kernels.triton_here import has_triton
from quantcore.numbers.qtensor import QTensor, dequantize, fake_quantize, quantize
from quantcore.numbers.spec import MinMax, QuantSpec

if TYPE_CHECKING:
    from quantcore.matmul.kernels.low_bit_matmul import LowBitWeight

MULTIPLE = 128  # K is padded to a multiple of it
ROW_MULTIPLE = 16  # and O: what torch's products want
LARGEST_SUM = 2**31 - 1
FEW_TOKENS = 64  # up to here the Triton fp8 kernel, beyond torch._scaled_mm
FUSED_TOKENS = 256  # up to here low_bit unpacks as it multiplies, beyond it unpacks first
REAL_TYPES = (torch.float32, torch.float16, torch.bfloat16)

Refuse = Callable[[Tensor, QTensor, "QuantSpec | None"], "str | None"]
Prepare = Callable[[QTensor, "QuantSpec | None"], Any]
Encode = Callable[[Tensor, Any, "QuantSpec | None", "QParams | None"], Any]
Product = Callable[[Any, Any, "Tensor | None", torch.dtype], Tensor]


@dataclass(frozen=True)
class Path:
    """One way to multiply.

    why_not    (x, qweight, activations) -> a sentence, or None where the path is open; of x it reads device and dtype
    prepare    (qweight, activations) -> the weight as the path keeps it; made once a layer
    encode     (x of shape (N, K), prepared weight, activations, static qparams) -> x as the product takes it: codes and
               scales, columns in the weight's order, or x itself
    product    (encoded x, prepared weight, bias, dtype of y) -> y (N, O)
    """

    name: str
    computes: str
    why_not: Refuse
    prepare: Prepare
    encode: Encode
    product: Product

    def multiply(
        self, x: Tensor, weight: Any, activations: QuantSpec | None, static: QParams | None, bias: Tensor | None
    ) -> Tensor:
        """y (N, O) in the dtype of x, from x (N, K) and a prepared weight."""
        return self.product(self.encode(x, weight, activations, static), weight, bias, x.dtype)

    def run(
        self,
        x: Tensor,
        qweight: QTensor,
        activations: QuantSpec | None = None,
        static: QParams | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """y = x_hat @ W_hat^T + bias along this path. Shapes: x (..., K), y (..., O). Raises: ValueError if it is
        closed."""
        if (reason := self.why_not(x, qweight, activations)) is not None:
            raise ValueError(f"the path {self.name!r} is closed here: {reason}")
        weight = self.prepare(qweight, activations)
        rows = x.reshape(-1, x.shape[-1])
        return self.multiply(rows, weight, activations, static, bias).view(*x.shape[:-1], qweight.q.shape[0])


def open_paths(x: Tensor, qweight: QTensor, activations: QuantSpec | None) -> list[Path]:
    """The paths that can be taken, the preferred one first; `dequantize` always is among them."""
    return [path for path in PATHS.values() if path.why_not(x, qweight, activations) is None]


def path_named(name: str) -> Path:
    """The path of that name. Raises: ValueError that lists the names."""
    if name not in PATHS:
        raise ValueError(f"no path is called {name!r}; try one of {', '.join(PATHS)}")
    return PATHS[name]


def why_no_kernels(x: Tensor) -> str | None:
    """Why Triton's kernels cannot run on x; None where they can."""
    if not has_triton():
        return "its kernels need Triton, which is not installed; pip install triton"
    if x.device.type != "cuda":
        return (
            None
            if _interpreted()
            else f"its kernels need a GPU and x is on the {x.device.type}; move the model to cuda"
        )
    capability = torch.cuda.get_device_capability(x.device)
    return (
        None if capability >= (8, 0) else f"its kernels need compute capability 8.0, this GPU has {_dotted(capability)}"
    )


@cache
def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def _why_not_codes(x: Tensor, qweight: QTensor, activations: QuantSpec | None, floats: bool) -> str | None:
    """Whether both sides are codes of one kind whose scales leave the sum over K."""
    kind = "fp8_e4m3" if floats else "integers"
    if activations is None:
        return f"activations stay float, and it multiplies codes ({kind}) on both sides; add a: to the scheme"
    for side, fmt in (("weights", qweight.spec.fmt), ("activations", activations.fmt)):
        if (fmt.name != "fp8_e4m3") if floats else fmt.is_float:
            return f"it multiplies {kind} and the {side} are {fmt.name}"
    if qweight.scale.shape[-1] > 1 or qweight.scale.shape[0] not in (1, qweight.q.shape[0]):
        return (
            f"weight scales per {qweight.spec.granularity} cannot leave the sum over in_features; use channel or tensor"
        )
    if not isinstance(activations.granularity, PerTensor | PerToken):
        grain = activations.granularity
        return f"activation scales per {grain} cannot leave the sum over in_features; use token or tensor"
    if not floats:
        levels = [
            spec.fmt.qmax - spec.fmt.qmin if not spec.symmetric else -spec.fmt.qmin
            for spec in (qweight.spec, activations)
        ]
        most = int(LARGEST_SUM // (levels[0] * levels[1]))
        if qweight.q.shape[1] > most:
            return f"a sum of {qweight.q.shape[1]} products may not fit 32 bits, {most} do"
    return _why_not_dtype(x, REAL_TYPES)


def _why_not_dtype(x: Tensor, types: tuple[torch.dtype, ...]) -> str | None:
    names = ", ".join(str(dtype).removeprefix("torch.") for dtype in types)
    return None if x.dtype in types else f"it takes x in {names}, got {str(x.dtype).removeprefix('torch.')}"


def _why_not_int8(x: Tensor, qweight: QTensor, activations: QuantSpec | None) -> str | None:
    return _why_not_codes(x, qweight, activations, floats=False) or why_no_kernels(x)


def _why_not_int8_torch(x: Tensor, qweight: QTensor, activations: QuantSpec | None) -> str | None:
    if x.device.type not in ("cpu", "cuda"):
        return f"torch._int_mm runs on cpu and cuda, x is on {x.device.type}"
    return _why_not_codes(x, qweight, activations, floats=False)


def _why_not_fp8(x: Tensor, qweight: QTensor, activations: QuantSpec | None) -> str | None:
    return _why_not_fp8_torch(x, qweight, activations) or why_no_kernels(x)


def _why_not_fp8_torch(x: Tensor, qweight: QTensor, activations: QuantSpec | None) -> str | None:
    return _why_not_codes(x, qweight, activations, floats=True) or _why_no_fp8_here(x)


def _why_no_fp8_here(x: Tensor) -> str | None:
    if x.device.type not in ("cpu", "cuda"):
        return f"fp8 products run on cpu and cuda, x is on {x.device.type}"
    if x.device.type == "cuda" and (capability := torch.cuda.get_device_capability(x.device)) < (8, 9):
        return f"fp8 tensor cores need compute capability 8.9 (Ada, Hopper), this GPU has {_dotted(capability)}"
    return None


def _why_not_fp8_block(x: Tensor, qweight: QTensor, activations: QuantSpec | None) -> str | None:
    if activations is None or {qweight.spec.fmt.name, activations.fmt.name} != {"fp8_e4m3"}:
        return "it multiplies fp8_e4m3 on both sides; use FP8_BLOCK"
    width = qweight.q.shape[1] // qweight.scale.shape[1]
    if activations.granularity != PerGroup(MULTIPLE) or width != MULTIPLE or qweight.q.shape[1] % MULTIPLE:
        return (
            f"it scales {MULTIPLE} columns at a time and got weights per {qweight.spec.granularity}, activations per "
            f"{activations.granularity}; use block128x128 and group128"
        )
    return _why_not_dtype(x, REAL_TYPES) or _why_no_fp8_here(x) or why_no_kernels(x)


def _why_not_low_bit(x: Tensor, qweight: QTensor, activations: QuantSpec | None) -> str | None:
    if activations is not None:
        return "it takes 16-bit activations and the scheme quantizes them"
    if qweight.spec.fmt.is_float:
        return f"it unpacks integers and the weights are {qweight.spec.fmt.name}"
    group = qweight.q.shape[1] // qweight.scale.shape[1]
    if qweight.scale.shape[1] > 1 and group % 32:
        return f"it scales 32 columns at a time, and group_size={group} is no multiple of 32; try group32"
    return _why_not_dtype(x, (torch.bfloat16, torch.float16)) or why_no_kernels(x)


def _why_not_dequantize(x: Tensor, qweight: QTensor, activations: QuantSpec | None) -> str | None:
    return None


def _coded_weight(qweight: QTensor, activations: QuantSpec | None) -> CodedWeight:
    """Codes padded along both sides (shared where nothing is to be padded), and what zero points on either side
    need."""
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
    return CodedWeight(codes, scale, zero, codes.sum(1, dtype=torch.int32) if asymmetric else None, out)


def _coded_blocks(qweight: QTensor, activations: QuantSpec | None) -> CodedWeight:
    out = qweight.q.shape[0]
    return CodedWeight(qweight.q, qweight.scale.contiguous(), None, None, out, out // qweight.scale.shape[0])


def _padded(codes: Tensor, rows: int, columns: int) -> Tensor:
    if not rows and not columns:
        return codes.contiguous()
    padded = codes.new_zeros(codes.shape[0] + rows, codes.shape[1] + columns, dtype=torch.uint8)
    padded[: codes.shape[0], : codes.shape[1]] = codes.view(torch.uint8)
    return padded.view(codes.dtype)


def token_codes(
    x: Tensor, spec: QuantSpec, static: QParams | None = None, multiple: int = MULTIPLE, sums: bool = False
) -> TokenCodes:
    """The codes of x under `spec`, or under the frozen `static`: by one fused kernel where it runs, else by `quantize`.

    Shapes: x (N, K), codes (N, K padded to a multiple of `multiple`). `sums` asks for each token's sum of q - z."""
    if why_no_kernels(x) is None and spec.observer == MinMax() and (spec.symmetric or not _grouped(spec)):
        from quantcore.matmul.kernels.quantize_rows import quantize_tokens

        return quantize_tokens(x, spec, static, multiple, sums)
    q = quantize(x, spec, static)
    zero = None if q.zero_point is None else q.zero_point.to(torch.int32)
    total = None
    if sums:
        total = q.q.sum(1, dtype=torch.int32) - (0 if zero is None else zero.view(-1) * x.shape[1])
    scale = q.scale if _grouped(spec) else q.scale.flatten()
    return TokenCodes(_padded(q.q, 0, -x.shape[1] % multiple), scale, None if zero is None else zero.flatten(), total)


def _grouped(spec: QuantSpec) -> bool:
    return isinstance(spec.granularity, PerGroup)


def _codes_for(x: Tensor, weight: CodedWeight, spec: QuantSpec | None, static: QParams | None) -> TokenCodes:
    assert spec is not None
    return token_codes(x, spec, static, sums=weight.zero_point is not None)


def _multiply_codes(x: TokenCodes, weight: CodedWeight, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    from quantcore.matmul.kernels.codes_matmul import multiply

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


def _multiply_fp8(x: TokenCodes, weight: CodedWeight, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    few = len(x.codes) <= FEW_TOKENS or not x.codes.is_cuda
    return _multiply_codes(x, weight, bias, dtype) if few else scaled_mm(x, weight, bias, dtype)


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
        sums = torch._scaled_mm(x.codes, weight.codes.t(), scale_a=one, scale_b=one, out_dtype=torch.float32)
        y = sums[:, : weight.out].mul_(x.scale[:, None]).mul_(weight.scale[: weight.out])
        return (y if bias is None else y.add_(bias)).to(dtype)
    y = torch._scaled_mm(x.codes, weight.codes.t(), scale_a=scales[0], scale_b=scales[1], bias=inside, out_dtype=to)[
        :, : weight.out
    ]
    return (y if bias is None or inside is not None else y + bias).to(dtype)


def _pack(qweight: QTensor, activations: QuantSpec | None) -> LowBitWeight:
    from quantcore.matmul.kernels.low_bit_matmul import pack_weight

    return pack_weight(qweight)


def _in_order(x: Tensor, weight: LowBitWeight, spec: QuantSpec | None, static: QParams | None) -> Tensor:
    return x.contiguous() if weight.order is None else x.index_select(1, weight.order)


def _multiply_low_bit(x: Tensor, weight: LowBitWeight, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    from quantcore.matmul.kernels import few_tokens_matmul as few
    from quantcore.matmul.kernels.low_bit_matmul import expand, multiply_packed

    if few.takes(x, weight):
        return few.multiply_few(x, weight, bias)
    if len(x) <= FUSED_TOKENS:
        return multiply_packed(x, weight, bias)
    return F.linear(x, expand(weight, dtype), None if bias is None else bias.to(dtype))


def _itself(qweight: QTensor, activations: QuantSpec | None) -> QTensor:
    return qweight


def rounded(x: Tensor, weight: object, spec: QuantSpec | None, static: QParams | None) -> Tensor:
    """x_hat: x as its codes would give it back, x itself where activations stay float."""
    return x if spec is None else fake_quantize(x, spec, static)


def _multiply_dequantized(x_hat: Tensor, weight: QTensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    return F.linear(x_hat, dequantize(weight).to(dtype), bias)


PATHS: dict[str, Path] = {
    path.name: path
    for path in [
        Path(
            "int8",
            "integer codes x integer codes, int32 sums, scales fused",
            _why_not_int8,
            _coded_weight,
            _codes_for,
            _multiply_codes,
        ),
        Path(
            "int8_torch",
            "integer codes x integer codes by torch._int_mm",
            _why_not_int8_torch,
            _coded_weight,
            _codes_for,
            int_mm,
        ),
        Path(
            "fp8",
            "fp8 codes x fp8 codes, scales fused",
            _why_not_fp8,
            _coded_weight,
            _codes_for,
            _multiply_fp8,
        ),
        Path(
            "fp8_torch",
            "fp8 codes x fp8 codes by torch._scaled_mm",
            _why_not_fp8_torch,
            _coded_weight,
            _codes_for,
            scaled_mm,
        ),
        Path(
            "fp8_block",
            "fp8 codes x fp8 codes, scaled 128 columns at a time",
            _why_not_fp8_block,
            _coded_blocks,
            _codes_for,
            _multiply_codes,
        ),
        Path(
            "low_bit",
            "16-bit activations x codes unpacked in registers",
            _why_not_low_bit,
            _pack,
            _in_order,
            _multiply_low_bit,
        ),
        Path(
            "dequantize",
            "16- or 32-bit product with the dequantized weight",
            _why_not_dequantize,
            _itself,
            rounded,
            _multiply_dequantized,
        ),
    ]
}
DEQUANTIZE = PATHS["dequantize"]
