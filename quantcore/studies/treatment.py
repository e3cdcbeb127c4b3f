"""One layer before and after a transform of its model: who is loud, who pays, and what the weights take over.

    study = treatment_study(before, after, "int8")          before, after: (x (N, K), weight (O, K)) of the real layer

Nothing is drawn from a formula: both sides are the layer's own weight and inputs, run in the model as it was and as the
transform leaves it, where the layer's outputs are the same, or the same in turned coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quantcore.methods.transforms.smooth import smoothing_scales
from quantcore.pipeline.calibration import over_median
from quantcore.scheme.scheme import Scheme
from quantcore.studies.layer import LayerStudy, layer_study
from quantcore.studies.outliers import GROUP_SIZE, ChannelStudy, Payer, channel_study, who_pays


@dataclass(frozen=True, eq=False)
class Side:
    """channels, payers  as the page Outliers has them, of the inputs
    weight_reach        (K,) the largest |w| that meets each input channel
    layer               both quantized: weights a scale a row, inputs one scale for all"""

    channels: ChannelStudy
    payers: tuple[Payer, ...]
    weight_reach: Tensor
    layer: LayerStudy

    @property
    def weight_ratio(self) -> float:
        """Largest over median of `weight_reach`."""
        return over_median(self.weight_reach)


@dataclass(frozen=True, eq=False)
class TreatmentStudy:
    before: Side
    after: Side


def treatment_study(
    before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], fmt: str, most: int = GROUP_SIZE
) -> TreatmentStudy:
    """Both sides in `fmt`, groups of at most `most`. Raises: ValueError for an unknown format, NaN or Inf."""
    return TreatmentStudy(_side(*before, fmt, most), _side(*after, fmt, most))


def _side(x: Tensor, weight: Tensor, fmt: str, most: int) -> Side:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    scheme = Scheme.parse(f"w:{fmt}/channel,a:{fmt}/tensor/dynamic")
    with torch.inference_mode():
        reach = weight.abs().amax(0).float().cpu()
    return Side(channel_study(x), who_pays(x, fmt, most), reach, layer_study(linear, x, scheme))


@dataclass(frozen=True, eq=False)
class Smoothing:
    """What smoothing divides a layer's input channels by, at every alpha: reach and weight_reach (K,) are the largest
    |x| and |w| of each channel as the transform takes them, over the calibration text and all layers that read it."""

    reach: Tensor
    weight_reach: Tensor

    @staticmethod
    def of(x: Tensor, half: Tensor, whole: Tensor) -> Smoothing:
        """From the layer's inputs (N, K) in the model as it was, and smoothed for real with alpha 0.5 and 1:
        s(1) = reach, s(1/2)^2 = reach / weight_reach. A channel that is silent there keeps 1."""
        reach, root = (_divided(x, one) for one in (whole, half))
        silent = (reach == 1) & (root == 1)
        return Smoothing(reach, torch.where(silent, torch.ones_like(reach), reach / root.square()))

    def scales(self, alpha: float) -> Tensor:
        """s (K,)."""
        return smoothing_scales(self.reach, self.weight_reach, alpha)


def _divided(before: Tensor, after: Tensor) -> Tensor:
    """By what each channel was divided, from its loudest token."""
    loudest = before.abs().argmax(0, keepdim=True)
    x, y = (one.gather(0, loudest)[0].abs() for one in (before, after))
    return torch.where((x > 0) & (y > 0), x / y.clamp(min=1e-30), torch.ones_like(x))
