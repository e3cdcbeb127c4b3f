"""A QuantLinear is a Linear that holds codes instead of weights.

    y = x_hat @ W_hat^T + bias        W_hat = dequantize(codes)        x_hat = fake_quantize(x) where activations are

The codes are kept packed (`packing`), the scales in float32; W_hat is rebuilt at each call and multiplied in the dtype
of x, so the result is what a kernel working on the codes must reproduce.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantcore.affine import QParams
from quantcore.packing import codes_per_byte, pack, unpack
from quantcore.qtensor import QTensor, dequantize, fake_quantize
from quantcore.scheme import QuantSpec


class QuantLinear(nn.Module):
    """`weight` (None: stays float, then `float_weight` is shared, not copied), `activations` and its frozen qparams.

    Shapes: codes (O, K), bias (O,) or None, x (..., K), y (..., O). `static` is needed exactly when activations are
    static: scale and zero point of shape (1, 1)."""

    def __init__(
        self,
        weight: QTensor | None,
        bias: Tensor | None,
        activations: QuantSpec | None = None,
        static: QParams | None = None,
        float_weight: Tensor | None = None,
    ) -> None:
        super().__init__()
        if (weight is None) == (float_weight is None):
            raise ValueError("a QuantLinear holds either codes or a float weight; give exactly one of them")
        if (static is None) == (activations is not None and not activations.dynamic):
            raise ValueError("static activations need the range recorded in calibration, others must have none")
        self.weight_spec = None if weight is None else weight.spec
        self.activation_spec = activations
        shape = cast(Tensor, float_weight if weight is None else weight.q).shape
        self.out_features, self.in_features = int(shape[0]), int(shape[1])
        self.register_buffer("float_weight", float_weight)
        self.register_buffer("codes", None if weight is None else _to_bytes(weight))
        self.register_buffer("scale", None if weight is None else weight.scale)
        self.register_buffer("zero_point", _as_int8(None if weight is None else weight.zero_point))
        self.register_buffer("g_idx", None if weight is None else weight.g_idx)
        self.register_buffer("input_scale", None if static is None else static.scale)
        self.register_buffer("input_zero_point", _as_int8(None if static is None else static.zero_point))
        self.register_buffer("bias", bias)

    @property
    def qweight(self) -> QTensor | None:
        """The weight's codes, unpacked, with their scales; None where the weight stays float."""
        if self.weight_spec is None:
            return None
        fmt, codes = self.weight_spec.fmt, cast(Tensor, self.codes)
        if codes.dtype == torch.uint8:
            codes = unpack(codes, fmt.bits, self.in_features)
        g_idx = cast("Tensor | None", self.g_idx)
        return QTensor(codes, cast(Tensor, self.scale), _as_float(self.zero_point), self.weight_spec, g_idx)

    @property
    def static_qparams(self) -> QParams | None:
        if self.input_scale is None:
            return None
        return QParams(cast(Tensor, self.input_scale), _as_float(self.input_zero_point))

    def weight_hat(self) -> Tensor:
        """The weight that the layer computes with, (O, K): dequantized codes, or the float weight."""
        qweight = self.qweight
        return cast(Tensor, self.float_weight) if qweight is None else dequantize(qweight)

    def forward(self, x: Tensor) -> Tensor:
        if self.activation_spec is not None:
            x = fake_quantize(x, self.activation_spec, self.static_qparams)
        return F.linear(x, self.weight_hat().to(x.dtype), cast("Tensor | None", self.bias))

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, w={self.weight_spec}, a={self.activation_spec}"


def _to_bytes(weight: QTensor) -> Tensor:
    fmt = weight.spec.fmt
    if fmt.storage.is_floating_point or codes_per_byte(fmt.bits) == 1:
        return weight.q
    return pack(weight.q, fmt.bits)


def _as_int8(zero_point: Tensor | None) -> Tensor | None:
    return None if zero_point is None else zero_point.to(torch.int8)


def _as_float(zero_point: Tensor | nn.Module | None) -> Tensor | None:
    return None if zero_point is None else cast(Tensor, zero_point).float()
