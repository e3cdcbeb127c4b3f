"""A layer behind quantized layers: its inputs are moved, and Qronos makes up for that before it rounds.

    study = drift_study(weight, learned, read, spec, 0.01)        learned, read: (X, X~), (N, K) each

X is what enters the layer in the float model, X~ behind layers whose weights are rounded. All losses are |X w - X~ q|^2
over |X w|^2: of the float weight w itself, of the corrected w' = w + (H + damp)^-1 X~^T (X - X~) w, and of codes by
rounding to nearest, by GPTQ, which knows X~ alone, by GPTAQ, which hands on what each column's input has lost, and by
Qronos, which is GPTQ on w'. See `methods.qronos` and `methods.gptaq`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from quantcore.methods.gptaq import gptaq_quantize_many
from quantcore.methods.gptq import GptqProblem, gptq_quantize_many
from quantcore.methods.options import Gptaq, Gptq
from quantcore.methods.qronos import corrected
from quantcore.numbers.products import product
from quantcore.numbers.qtensor import dequantize, fake_quantize
from quantcore.numbers.spec import QuantSpec
from quantcore.pipeline.gram import drift_of, gram_of

Inputs = tuple[Tensor, Tensor]
AS_IT_IS, CORRECTED, ROUNDED, BY_GPTQ, BY_GPTAQ, BY_QRONOS = (
    "float weight", "corrected, in float", "RTN", "GPTQ", "GPTAQ", "Qronos",
)  # fmt: skip


@dataclass(frozen=True)
class DriftStudy:
    """learned, read     by AS_IT_IS ... BY_QRONOS: the losses on the text that the codes learned from, and on another
    moved                |X - X~|^2 over |X|^2, of the text that is learned from
    corrected            |w' - w|^2 over |w|^2"""

    learned: dict[str, float]
    read: dict[str, float]
    moved: float
    corrected: float


def drift_study(
    weight: Tensor, learned: Inputs, read: Inputs, spec: QuantSpec, damp: float, share: float = 1.0
) -> DriftStudy:
    """share: of the correction, see `options.Qronos`. Raises: ValueError as `gptq_quantize`."""
    with torch.inference_mode():
        weight = weight.float()
        x, moved = (one.float() for one in learned)
        hessian, drift = gram_of(moved), drift_of(moved, x)
        (mended,) = corrected([weight], hessian, drift, damp, "this layer", share)
        problems = [GptqProblem(one, spec, Gptq(damp=damp)) for one in (weight, mended)]
        by_gptq, by_qronos = map(dequantize, gptq_quantize_many(problems, hessian))
        (by_gptaq,) = map(dequantize, gptaq_quantize_many(problems[:1], hessian, drift, [Gptaq.alpha]))
        found = {
            AS_IT_IS: weight,
            CORRECTED: mended,
            ROUNDED: fake_quantize(weight, spec),
            BY_GPTQ: by_gptq,
            BY_GPTAQ: by_gptaq,
            BY_QRONOS: by_qronos,
        }
        return DriftStudy(
            learned=_lost(weight, found, learned),
            read=_lost(weight, found, read),
            moved=float((moved - x).square().sum() / x.square().sum()),
            corrected=float((mended - weight).square().sum() / weight.square().sum()),
        )


def _lost(weight: Tensor, others: Mapping[str, Tensor], inputs: Inputs) -> dict[str, float]:
    x, moved = (one.float() for one in inputs)
    wanted = product(x, weight.T)
    power = wanted.square().sum()
    return {name: float((product(moved, one.T) - wanted).square().sum() / power) for name, one in others.items()}
