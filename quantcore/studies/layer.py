"""What a scheme does to one layer: its weight, its input and its output before and after, and where the error falls.

    study = layer_study(layer, x, Scheme.parse("w:int4/group128,a:int8/token/dynamic"))
    study.output.sqnr_db

The output is compared on the float layer's own input: y = x W^T + b against y_hat = x_hat W_hat^T + b. Quantizing only
one of the two factors tells which of them the error comes from; in decibels the shares do not add up, as noise powers
they nearly do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantcore.matmul.size import checkpoint_bytes
from quantcore.numbers.affine import QParams, from_grid
from quantcore.numbers.bits import FLOAT_BITS
from quantcore.numbers.distance import Giant, TensorError, tensor_error
from quantcore.numbers.histogram import Histogram, histogram
from quantcore.numbers.qtensor import fake_quantize
from quantcore.numbers.spec import QuantSpec
from quantcore.pipeline.layers import quantize_linear
from quantcore.scheme.scheme import Scheme


@dataclass(frozen=True, eq=False)
class LayerStudy:
    """One layer under one scheme. Where the scheme leaves a part float, its error is 0 and its SQNR is inf.

    shape, tokens         (O, K) of the weight; how many rows x has
    bits_per_weight       scales and zero points counted; 16 where the weight stays float
    checkpoint_bytes      of weight, scales, zero points and bias in a 16-bit checkpoint
    held_bytes            of the weight in memory here: packed codes with float32 scales, or the float weight as loaded
    weight, input, output distances of W_hat from W, x_hat from x, y_hat from y
    weights_alone, activations_alone   the output's distance with x, or W, left float
    weight_before, weight_after, weight_error    histograms of W, W_hat and W_hat - W, in units of the weight
    channel_error, channel_size    (O,) root mean square over tokens of y_hat - y, and of y, in units of the output
    token_error           (N,) |y_hat - y| / |y| of each token, Euclidean norms over output channels; 1 is 100%
    weights_token_error, activations_token_error    the median of that with x, or W, left float
    token_power           (N,) each token's share of sum y^2: one loud token can own the output's SQNR
    token_cosine          mean over tokens of the cosine between y_hat and y; the whole matrix's is the loudest token's
    static_range          (lo, hi) that the frozen codes of the input reach; None unless static per tensor
    outside               share of the input's values that are clipped: beyond static_range by more than half a scale,
                          so more than rounding would take; None likewise
    """

    scheme: str
    shape: tuple[int, int]
    tokens: int
    bits_per_weight: float
    checkpoint_bytes: int
    held_bytes: int
    weight: TensorError
    input: TensorError
    output: TensorError
    weights_alone: TensorError
    activations_alone: TensorError
    weight_before: Histogram
    weight_after: Histogram
    weight_error: Histogram
    channel_error: Tensor
    channel_size: Tensor
    token_error: Tensor
    weights_token_error: float
    activations_token_error: float
    token_power: Tensor
    token_cosine: float
    static_range: tuple[float, float] | None
    outside: float | None

    @property
    def token_sqnr_db(self) -> float:
        """SQNR of the output of the median token, of its error's norm; inf where most tokens have no error."""
        return decibels_of(float(self.token_error.median()))

    @property
    def giant(self) -> Giant:
        """The token that holds most of the output's power."""
        token = int(self.token_power.argmax())
        return Giant(token, float(self.token_power[token]) if self.tokens > 1 else 0.0)


def layer_study(
    layer: nn.Linear, x: Tensor, scheme: Scheme, static: QParams | None = None, hessian: Tensor | None = None
) -> LayerStudy:
    """Quantize one Linear under `scheme` (its skip= is about whole models and not asked) and measure on x (N, K).

    static   frozen qparams of the input, shape (1, 1): needed exactly when the scheme's activations are static
    hessian  X^T X of the layer's calibration inputs, (K, K): needed by GPTQ
    All in float32 on the layer's device; the report is on the CPU.
    Raises: ValueError for NaN or Inf in the weight or the input, a tile that does not divide, a missing static range.
    """
    quantized = quantize_linear(layer, scheme, static, hessian)
    static = quantized.static_qparams
    weight = layer.weight.detach().float()
    x = x.to(weight.device).float()
    for name, tensor in (("weight", weight), ("input", x)):
        if not all(math.isfinite(float(end)) for end in torch.aminmax(tensor)):  # one pass, where isfinite takes three
            raise ValueError(f"the layer's {name} holds NaN or Inf, so no error can be measured; repair the model")
    bias = None if layer.bias is None else layer.bias.detach().float()
    weight_hat = quantized.weight_hat().float()
    with torch.inference_mode():
        x_hat = x if scheme.activations is None else fake_quantize(x, scheme.activations, static)
        y, y_hat = F.linear(x, weight, bias), F.linear(x_hat, weight_hat, bias)
        output = tensor_error(y, y_hat)
        of_weights = y_hat if scheme.activations is None else F.linear(x, weight_hat, bias)
        of_activations = y_hat if scheme.weights is None else F.linear(x_hat, weight, bias)
        error = y_hat - y
        qweight = quantized.qweight
        static_range = _static_range(scheme.activations, static)
        return LayerStudy(
            scheme=str(scheme),
            shape=(layer.out_features, layer.in_features),
            tokens=len(x),
            bits_per_weight=qweight.bits_per_weight if qweight else float(FLOAT_BITS),
            checkpoint_bytes=checkpoint_bytes(quantized),
            held_bytes=qweight.held_bytes if qweight else layer.weight.nbytes,
            weight=tensor_error(weight, weight_hat),
            input=tensor_error(x, x_hat),
            output=output,
            weights_alone=tensor_error(y, of_weights),
            activations_alone=tensor_error(y, of_activations),
            weight_before=histogram(weight),
            weight_after=histogram(weight_hat),
            weight_error=histogram(weight_hat - weight),
            channel_error=error.square().mean(0).sqrt().cpu(),
            channel_size=y.square().mean(0).sqrt().cpu(),
            token_error=_token_error(y, y_hat).cpu(),
            weights_token_error=float(_token_error(y, of_weights).median()),
            activations_token_error=float(_token_error(y, of_activations).median()),
            token_power=_share(y.square().sum(-1), y.square().sum()).cpu(),
            token_cosine=float(F.cosine_similarity(y_hat, y, dim=-1).mean()),
            static_range=static_range,
            outside=None if static is None or static_range is None else _outside(x, static_range, float(static.scale)),
        )


def decibels_of(error: float) -> float:
    """SQNR of an error's norm relative to the signal's; inf without error."""
    return -20 * math.log10(error) if error else math.inf


def _token_error(y: Tensor, y_hat: Tensor) -> Tensor:
    """(N,) |y_hat - y| / |y| of each token."""
    return _share((y_hat - y).norm(dim=-1), y.norm(dim=-1))


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, where 0 / 0 is 0, as for a token without output and without error."""
    return torch.where(part == 0, torch.zeros_like(part), part / whole)


def _static_range(spec: QuantSpec | None, static: QParams | None) -> tuple[float, float] | None:
    """The least and the greatest real value that the frozen codes can stand for."""
    if spec is None or static is None:
        return None
    ends = torch.tensor([spec.fmt.qmin, spec.fmt.qmax], device=static.scale.device)
    lo, hi = from_grid(ends, static).flatten().tolist()
    return lo, hi


def _outside(x: Tensor, bounds: tuple[float, float], scale: float) -> float:
    margin = 0.5001 * scale  # a symmetric int8 range ends half a step before absmax; the rest is float32's rounding
    return float(((x < bounds[0] - margin) | (x > bounds[1] + margin)).float().mean())
