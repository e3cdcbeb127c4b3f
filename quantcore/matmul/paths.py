"""Paths: the ways in which a quantized layer can multiply, and why a way is closed.

    name         x, weight                          arithmetic                               where
    w4a8         codes, codes of at most 4 bits     unpacked in registers, or to 8 bits      GPU: Triton
    int8         integer codes on both sides        int32 sums, scales in the epilogue       GPU: Triton
    int8_torch   the same                           torch._int_mm, scales after it           GPU, CPU
    fp8          e4m3 codes on both sides           float32 sums, scales in the epilogue     GPU: Triton, _scaled_mm
    fp8_torch    the same                           torch._scaled_mm                         GPU, CPU
    fp8_block    e4m3, 128-column groups and blocks float32 sums a group, scaled, then added GPU: Triton
    low_bit      16-bit x, codes of 2 to 8 bits     unpacked in registers, scaled a group    GPU: Triton
    dequantize   anything                           fake_quantize(x) @ W_hat^T in x's dtype  everywhere
    humming      16-bit x, or codes of it           vLLM's kernels                           GPU: humming-kernels

`dequantize` is the reference; `humming` stands behind it and is taken where it is asked for. A path says `why_not` in a
sentence, keeps the weight in the form it wants (`prepare`, once) and multiplies. K, O and the number of tokens may be
anything: padding happens inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quantcore.matmul import humming, products, w4a8, why_not
from quantcore.numbers.affine import QParams
from quantcore.numbers.qtensor import QTensor
from quantcore.numbers.spec import QuantSpec

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


PATHS: dict[str, Path] = {
    path.name: path
    for path in [
        Path(
            "w4a8",
            "codes x codes of at most 4 bits, unpacked in registers or to 8 bits",
            w4a8.why_not,
            products.pack,
            w4a8.encode,
            w4a8.multiply,
        ),
        Path(
            "int8",
            "integer codes x integer codes, int32 sums, scales fused",
            why_not.int8,
            products.coded_weight,
            products.codes_for,
            products.multiply_codes,
        ),
        Path(
            "int8_torch",
            "integer codes x integer codes by torch._int_mm",
            why_not.int8_torch,
            products.coded_weight,
            products.codes_for,
            products.int_mm,
        ),
        Path(
            "fp8",
            "fp8 codes x fp8 codes, scales fused",
            why_not.fp8,
            products.coded_weight,
            products.codes_for,
            products.multiply_fp8,
        ),
        Path(
            "fp8_torch",
            "fp8 codes x fp8 codes by torch._scaled_mm",
            why_not.fp8_torch,
            products.coded_weight,
            products.codes_for,
            products.scaled_mm,
        ),
        Path(
            "fp8_block",
            "fp8 codes x fp8 codes, scaled 128 columns at a time",
            why_not.fp8_block,
            products.coded_blocks,
            products.codes_for,
            products.multiply_codes,
        ),
        Path(
            "low_bit",
            "16-bit activations x codes unpacked in registers",
            why_not.low_bit,
            products.pack,
            products.in_order,
            products.multiply_low_bit,
        ),
        Path(
            "dequantize",
            "16- or 32-bit product with the dequantized weight",
            why_not.dequantize,
            products.itself,
            products.rounded,
            products.multiply_dequantized,
        ),
        Path(
            "humming",
            "vLLM's kernels: codes unpacked in registers, products of x's type or of its codes",
            humming.why_not,
            humming.prepare,
            humming.encode,
            humming.multiply,
        ),
    ]
}
DEQUANTIZE = PATHS["dequantize"]
